"""What must not grow with the number of torrents and peers: counted, not timed."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import trio

from btor import limits
from btor.engine.peer import Peer
from btor.engine.pex import PeerExchange
from btor.engine.session import Session
from btor.engine.torrent import Torrent
from btor.limits import BLOCK
from tests.engine.support import Lab, hear_interest, message, requests_of, sample, scenario, until
from tests.simulated.scripted_peer import HAVE, INTERESTED, PIECE, REQUEST, UNCHOKE

TINY = [sample(100, name=f"tiny {number}", seed=number) for number in range(3)]
CONTENT = sample(20 * 2 * BLOCK)


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[Any]:
    """Who is called from now on, in order."""
    called: list[Any] = []
    before: Callable[..., Any] = getattr(owner, name)

    def counting(self: Any, *args: Any, **named: Any) -> Any:
        called.append(self)
        return before(self, *args, **named)

    monkeypatch.setattr(owner, name, counting)
    return called


@scenario()
async def test_of_idle_torrents_some_are_looked_at_each_second_and_all_in_turn(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IDLE_TICKS", 2)
    session = await lab.session()
    found = [
        await session.add(content.metainfo, output=content.write(lab.place() / content.metainfo.name), seed_only=True)
        for content in TINY
    ]
    for torrent in found:
        await torrent.wait_complete()
    ticked = count_calls(monkeypatch, Torrent, "on_tick")
    await trio.sleep(0.5)
    ticked.clear()
    await trio.sleep(6)
    assert Counter(ticked) == dict.fromkeys(found, 4)
    await lab.join(found[0])
    await until(lambda: not found[0].is_idle)
    ticked.clear()
    events = found[1].events()
    await trio.sleep(4)
    assert Counter(ticked) == dict.fromkeys(found, 4)  # one with a peer and one with a listener, and what is left
    events.close()


@pytest.mark.parametrize(
    ("idle", "ticked"), [(limits.IDLE_TICKS, limits.IDLE_TICKS), (limits.IDLE_TICKS + 1, limits.IDLE_TICKS)]
)
def test_the_bound_of_idle_ticks(idle: int, ticked: int) -> None:
    class Idle:
        is_idle = True

    session: Any = Session.__new__(Session)
    session.torrents = {number: Idle() for number in range(idle)}
    session._ticked = 0
    seen: Counter[Any] = Counter()
    for _ in range(idle):
        taken = Session._to_tick(session)
        assert len(taken) == len(set(taken)) == ticked
        seen.update(taken)
    assert set(seen.values()) == {ticked}


@scenario()
async def test_a_round_of_dials_counts_the_connections_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await lab.session()
    looks: list[Session] = []
    room: Any = Session.__dict__["room"]

    def counting(self: Session) -> int:
        looks.append(self)
        return int(room.fget(self))

    monkeypatch.setattr(Session, "room", property(counting))
    for content in TINY:
        await session.add(content.metainfo, directory=lab.place(), peers=[("10.9.9.9", 7_000)])
    await until(lambda: all(torrent.transfer is not None for torrent in session.torrents.values()))
    await trio.sleep(1)
    looks.clear()
    await trio.sleep(5)
    assert 4 <= len(looks) <= 6  # once a second, not once for each torrent


@scenario()
async def test_a_block_and_the_next_requests_go_out_together(lab: Lab) -> None:
    """A peer that sends a block and asks for one is answered by one call, not two."""
    top = lab.place()
    had = CONTENT.write(top / CONTENT.metainfo.name)
    with had.open("r+b") as file:
        file.seek(10 * 2 * BLOCK)
        file.write(bytes(10 * 2 * BLOCK))
    session = await lab.session(upload_slots=0)
    found = await session.add(CONTENT.metainfo, directory=top, recheck=True)
    await until(lambda: found.transfer is not None)
    peer = await lab.join(found, has=range(10, 20))
    await hear_interest(peer)
    await peer.send(INTERESTED)
    await peer.wait_for(UNCHOKE)
    await peer.send(UNCHOKE)
    while not requests_of(peer):
        await peer.receive()
    await trio.sleep(1)
    sends = session.counters.sends
    piece, begin, _ = requests_of(peer)[0]
    block = CONTENT.block(piece, begin // BLOCK)
    await peer.raw(
        message(PIECE, struct.pack(">II", piece, begin) + block) + message(REQUEST, struct.pack(">III", 0, 0, BLOCK))
    )
    assert (await peer.wait_for(PIECE))[8:] == CONTENT.block(0, 0)
    assert session.counters.sends == sends + 1


@scenario()
async def test_haves_go_to_those_who_lack_the_piece(lab: Lab) -> None:
    leecher = await lab.leech(CONTENT)
    lacking = await lab.join(leecher, has=[0])
    having = await lab.join(leecher, has=range(1, CONTENT.pieces))
    await hear_interest(having)
    await hear_interest(lacking)
    seeder = await lab.seed(CONTENT)
    assert leecher.transfer is not None
    leecher.transfer.add_peers([lab.address(seeder.session)], "user")
    await leecher.wait_complete()
    await trio.sleep(1)
    for peer, expected in ((lacking, set(range(1, CONTENT.pieces))), (having, {0})):
        with trio.move_on_after(1):
            while True:
                await peer.receive()
        told = {int.from_bytes(heard.payload) for heard in peer.heard if heard.id == HAVE}
        assert told == expected


@scenario()
async def test_who_is_connected_is_looked_up_when_somebody_came_or_now_and_then(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeder = await lab.seed(CONTENT)
    leecher = await lab.leech(CONTENT, seeder, max_download=20_000)
    await until(lambda: leecher.transfer is not None and bool(leecher.transfer.peers))
    await trio.sleep(5)
    looks = count_calls(monkeypatch, PeerExchange, "_look")
    await trio.sleep(30)
    assert 4 <= len(looks) <= 8  # by both sides, each 10 s


def test_a_tick_copies_no_bitfield() -> None:
    assert "to_wire" not in Peer.on_tick.__code__.co_names
