"""The choker at work: slots given at once, handed on, and decided anew every ten seconds."""

from __future__ import annotations

import trio

from btor.engine.torrent import Torrent
from btor.limits import BLOCK, CHOKE_ROUND, OPTIMISTIC_PERIOD
from tests.engine.support import Lab, sample, scenario
from tests.simulated.scripted_peer import (
    CHOKE,
    INTERESTED,
    NOT_INTERESTED,
    PIECE,
    UNCHOKE,
    DisconnectedError,
    ScriptedPeer,
)

CONTENT = sample(200 * 2 * BLOCK)


class Guest:
    """A peer that wants blocks, and asks for some whenever it may. ``unchoked``: whether it may now."""

    def __init__(self, peer: ScriptedPeer, *, ask: bool = True) -> None:
        self.peer = peer
        self.unchoked = False
        self.turns = 0
        self.blocks = 0
        self._ask = ask

    async def run(self) -> None:
        try:
            while True:
                said = await self.peer.receive()
                if said.id == UNCHOKE:
                    self.unchoked = True
                    self.turns += 1
                elif said.id == CHOKE:
                    self.unchoked = False
                self.blocks += said.id == PIECE
                if self.unchoked and self._ask and said.id in (UNCHOKE, PIECE):
                    await self.peer.request(self.blocks % CONTENT.pieces, 0)
        except DisconnectedError:
            return


async def guest(lab: Lab, found: Torrent, *, interested: bool = True, ask: bool = True) -> Guest:
    """One more, which says at once that it is interested."""
    made = Guest(await lab.join(found, lab.host(down=10_000)), ask=ask)
    lab.nursery.start_soon(made.run)
    if interested:
        await made.peer.send(INTERESTED)
    await trio.sleep(0.1)
    return made


def unchoked(guests: list[Guest]) -> list[bool]:
    return [one.unchoked for one in guests]


@scenario()
async def test_a_free_slot_is_given_at_once(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT, upload_slots=4)
    guests = [await guest(lab, seeder) for _ in range(7)]
    assert unchoked(guests) == [True] * 5 + [False] * 2  # four and the optimistic one


@scenario()
async def test_nobody_is_unchoked_who_wants_nothing(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    indifferent = await guest(lab, seeder, interested=False)
    await trio.sleep(3 * CHOKE_ROUND)
    assert not indifferent.unchoked


@scenario()
async def test_no_slots_are_slots_for_all(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT, upload_slots=0)
    guests = [await guest(lab, seeder, ask=False) for _ in range(30)]
    assert all(unchoked(guests))
    await trio.sleep(3 * CHOKE_ROUND)
    assert all(unchoked(guests))
    assert all(one.turns == 1 for one in guests)


@scenario()
async def test_a_slot_that_becomes_free_is_handed_on(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT, upload_slots=1)
    guests = [await guest(lab, seeder, ask=False) for _ in range(4)]
    assert unchoked(guests) == [True, True, False, False]
    guests[0].peer.transport.close()
    await trio.sleep(0.1)
    assert unchoked(guests)[1:] == [True, True, False]
    await guests[1].peer.send(NOT_INTERESTED)
    await trio.sleep(0.1)
    assert unchoked(guests)[1:] == [False, True, True]


@scenario()
async def test_who_wants_nothing_more_keeps_a_slot_that_nobody_else_wants(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT, upload_slots=1)
    first, second = [await guest(lab, seeder, ask=False) for _ in range(2)]
    await first.peer.send(NOT_INTERESTED)
    await trio.sleep(0.1)
    assert first.unchoked
    third = await guest(lab, seeder, ask=False)
    assert unchoked([first, second, third]) == [False, True, True]


@scenario()
async def test_one_choker_for_all_torrents(lab: Lab) -> None:
    other = sample(10 * 2 * BLOCK, name="other", seed=2)
    session = await lab.session(upload_slots=2)
    found = []
    for content in (CONTENT, other):
        top = content.write(lab.place() / content.metainfo.name)
        found.append(await session.add(content.metainfo, output=top, seed_only=True))
        await found[-1].wait_complete()
    guests = [await guest(lab, torrent, ask=False) for torrent in found for _ in range(3)]
    assert sum(unchoked(guests)) == 3


@scenario()
async def test_everybody_has_a_turn(lab: Lab) -> None:
    """The optimistic slot goes round among those that are left out, and a seed's slots too."""
    seeder = await lab.seed(CONTENT, upload_slots=2)
    guests = [await guest(lab, seeder) for _ in range(8)]
    for _ in range(40):
        await trio.sleep(OPTIMISTIC_PERIOD / 2)
        assert sum(unchoked(guests)) == 3
    assert all(one.turns for one in guests)


@scenario()
async def test_who_gives_gets(lab: Lab) -> None:
    """While we lack pieces the slots go to those that send us most."""
    leecher = await lab.leech(CONTENT, upload_slots=2)
    givers = []
    for rate in (40_000, 20_000, 3_000, 2_000):
        peer = await lab.join(leecher, lab.host(up=rate), has=range(100))
        made = Guest(peer, ask=False)
        givers.append(made)
        lab.nursery.start_soon(serve, made)
    for made in reversed(givers):
        await made.peer.send(INTERESTED)
        await made.peer.send(UNCHOKE)
    await trio.sleep(4 * CHOKE_ROUND)
    assert leecher.status().have_pieces < 100
    assert unchoked(givers)[:2] == [True, True]
    assert sum(unchoked(givers)) == 3


async def serve(made: Guest) -> None:
    """A peer that gives, and notes whether it may take."""
    peer = made.peer
    receive = peer.receive

    async def listen() -> object:
        said = await receive()
        if said.id in (CHOKE, UNCHOKE):
            made.unchoked = said.id == UNCHOKE
        return said

    peer.receive = listen  # type: ignore[method-assign, assignment]  # it looks on
    await peer.serve(CONTENT.content, CONTENT.metainfo.geometry.piece_length)
