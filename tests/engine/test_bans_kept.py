"""A peer that was proven to send bad data is barred in the next run of the torrent, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from btor.engine.events import PeerChange
from btor.engine.session import Session
from btor.engine.torrent import Torrent
from btor.engine.transport import Address
from btor.limits import BLOCK, CHECKPOINT_PERIOD
from btor.storage import resume
from tests.engine.support import Lab, next_event, sample, scenario, until

CONTENT = sample(10 * 2 * BLOCK)
OTHER = sample(10 * 2 * BLOCK, name="other", seed=2)
LIAR, HONEST = "40.0.0.1", "40.0.1.1"


def spoiled(piece: int, begin: int) -> bool:
    return piece == begin == 0


async def begin(session: Session, place: Path, liar: Address, recheck: bool = False) -> Torrent:
    found = await session.add(CONTENT.metainfo, directory=place, recheck=recheck)
    await until(lambda: found.transfer is not None and found.transfer.active)
    assert found.transfer is not None
    found.transfer.add_peers([liar], "tracker")
    return found


@scenario()
@pytest.mark.parametrize("loopback_is_public", [False, True])
async def test_P6_a_ban_outlives_the_session(lab: Lab, loopback_is_public: bool) -> None:
    """Also a kill: the record names the liar within seconds."""
    place, state = lab.place(), lab.place()
    ip = "127.0.1.1" if loopback_is_public else LIAR
    liar = await lab.serving(CONTENT, ip=ip, spoil=spoiled)
    async with lab.open(state_dir=state, loopback_is_public=loopback_is_public) as session:
        found = await session.add(CONTENT.metainfo, directory=place, peers=[liar])
        await next_event(found, PeerChange, lambda event: event.change == "banned")
        await trio.sleep(CHECKPOINT_PERIOD + 1)
        record = resume.load(state, CONTENT.metainfo.info_hash, place / "content")
        assert record is not None
        assert record.banned == (ip,)
    honest = await lab.serving(CONTENT, ip=HONEST)
    for _ in range(2):  # the second of them has it from the first
        async with lab.open(state_dir=state, loopback_is_public=loopback_is_public) as session:
            found = await begin(session, place, liar)
            await trio.sleep(10)
            assert lab.dialled(session.network) == []
            called = await lab.join(found, lab.world.hosts[ip])
            await called.wait_closed()
    async with lab.open(state_dir=state, loopback_is_public=loopback_is_public) as session:
        found = await begin(session, place, honest)
        await found.wait_complete()
        assert found.status().wasted == 0


@scenario()
async def test_P6_who_distrusts_the_record_bars_nobody(lab: Lab) -> None:
    place, state = lab.place(), lab.place()
    liar = await lab.serving(CONTENT, ip=LIAR, spoil=spoiled)
    async with lab.open(state_dir=state) as session:
        found = await begin(session, place, liar)
        await next_event(found, PeerChange, lambda event: event.change == "banned")
    async with lab.open(state_dir=state) as session:
        found = await begin(session, place, liar, recheck=True)
        await trio.sleep(10)
        assert lab.dialled(session.network) == [liar]


@scenario()
async def test_P6_the_record_of_another_torrent_says_nothing_of_it(lab: Lab) -> None:
    """A ban holds for all torrents of a session; what is kept is what a torrent's own content proved."""
    place, state = lab.place(), lab.place()
    liar = await lab.serving(CONTENT, ip=LIAR, spoil=spoiled)
    async with lab.open(state_dir=state) as session:
        other = await session.add(OTHER.metainfo, directory=place)
        found = await begin(session, place, liar)
        await next_event(found, PeerChange, lambda event: event.change == "banned")
        assert other.transfer is not None
        assert other.transfer.book.is_banned(liar)
    record = resume.load(state, OTHER.metainfo.info_hash, place / "other")
    assert record is not None
    assert record.banned == ()
