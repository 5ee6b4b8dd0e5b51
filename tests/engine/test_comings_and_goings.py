"""Torrents that are added twice, paused, resumed, removed and added again, in any order and at once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from btor.engine.peer import Peer
from btor.engine.session import Session
from btor.engine.torrent import Torrent
from btor.engine.transfer import Transfer
from btor.engine.transport import Address
from btor.errors import UsageError
from btor.limits import BLOCK
from tests.engine.support import Lab, sample, scenario, until

CONTENT = sample(40 * 2 * BLOCK)


@scenario()
async def test_the_same_torrent_twice(lab: Lab) -> None:
    """Whichever way it is named, wherever it would go, however far the first one is; and that one is not disturbed."""
    path = lab.place()
    path.write_bytes(b"d4:info" + CONTENT.metainfo.info + b"e")
    seeder = await lab.seed(CONTENT, lab.host(up=500_000))
    session = await lab.session(state_dir=lab.place())
    found = await session.add(CONTENT.metainfo, directory=lab.place(), peers=[lab.address(seeder.session)])
    for moment in (0, 0.2, 2):
        for source in (CONTENT.metainfo, path):
            with pytest.raises(UsageError, match="the torrent content is here already"):
                await session.add(source, directory=lab.place())
        await trio.sleep(moment)
    await found.wait_complete()
    assert list(session.torrents.values()) == [found]


@scenario()
async def test_the_same_torrent_twice_at_the_same_time(lab: Lab) -> None:
    path = lab.place()
    path.write_bytes(b"d4:info" + CONTENT.metainfo.info + b"e")
    session = await lab.session()
    outcomes: list[str] = []

    async def add() -> None:
        try:
            await session.add(path, directory=lab.place())
            outcomes.append("added")
        except UsageError:
            outcomes.append("refused")

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(add)
    assert sorted(outcomes) == ["added"] + ["refused"] * 4


@scenario()
async def test_a_torrent_that_was_removed_has_nothing_to_do_with_its_successor(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    session = await lab.session()
    old = await session.add(CONTENT.metainfo, directory=lab.place())
    await old.remove()
    new = await session.add(CONTENT.metainfo, directory=lab.place(), peers=[lab.address(seeder.session)])
    await old.remove()
    await old.pause()
    await old.resume()
    assert session.torrents == {CONTENT.metainfo.info_hash: new}
    await new.wait_complete()


@scenario()
async def test_a_second_pause_is_over_no_sooner_than_the_first(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seeder = await lab.seed(CONTENT, lab.host(up=100_000))
    found = await lab.leech(CONTENT, seeder)
    serve = Transfer._serve

    async def linger(transfer: Transfer, peer: Peer) -> None:
        try:
            await serve(transfer, peer)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)

    monkeypatch.setattr(Transfer, "_serve", linger)
    await until(lambda: found.status().peers == 1)
    lab.nursery.start_soon(found.pause)
    await trio.sleep(0.1)
    began = trio.current_time()
    await found.pause()
    assert trio.current_time() - began > 0.8


@scenario()
@pytest.mark.parametrize("when", ["checking", "downloading"])
async def test_removed_and_added_again_at_once(lab: Lab, when: str) -> None:
    """What was there is found again, and the place is free for the next one."""
    seeder = await lab.seed(CONTENT, lab.host(up=300_000))
    place, state = lab.place(), lab.place()
    session = await lab.session(state_dir=state)
    for _ in range(10):
        found = await session.add(CONTENT.metainfo, directory=place, peers=[lab.address(seeder.session)])
        if when == "downloading":
            await trio.sleep(0.5)
        await found.remove()
        assert not session.torrents
    found = await session.add(CONTENT.metainfo, directory=place, peers=[lab.address(seeder.session)])
    await found.wait_complete()
    assert CONTENT.is_at(place / "content")
    if when == "downloading":
        assert found.status().downloaded < len(CONTENT.content)


async def quarrel(session: Session, place: Path, peer: Address, rng: random.Random, seen: list[Torrent]) -> None:
    """Somebody who cannot make up their mind."""
    for _ in range(15):
        await trio.sleep(rng.choice([0, 0, 0.01, 0.3]))
        found = session.torrents.get(CONTENT.metainfo.info_hash)
        if found is None or rng.random() < 0.2:
            try:
                seen.append(await session.add(CONTENT.metainfo, directory=place, peers=[peer]))
            except UsageError:
                pass
            continue
        act = rng.choice([found.pause, found.resume, found.resume, found.remove])
        with trio.move_on_after(rng.choice([0, 0.01, 10, 10])):
            await act()


@scenario()
@pytest.mark.parametrize("seed", range(12))
async def test_any_order_of_calls(lab: Lab, seed: int) -> None:
    """Several at once, some cut off: in the end a torrent that is added and resumed completes, and no other lives."""
    rng = random.Random(seed)
    seeder = await lab.seed(CONTENT, lab.host(up=300_000))
    peer = lab.address(seeder.session)
    place = lab.place()
    session = await lab.session(state_dir=lab.place())
    seen: list[Torrent] = []
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(quarrel, session, place, peer, random.Random(rng.random()), seen)
    found = session.torrents.get(CONTENT.metainfo.info_hash)
    if found is None or found.removed:
        found = await session.add(CONTENT.metainfo, directory=place, peers=[peer])
    await found.resume()
    await found.wait_complete()
    assert CONTENT.is_at(place / "content")
    assert all(one.ended for one in seen if one is not found)
    assert list(session.torrents.values()) == [found]
    assert session.container.failures == 0
