"""The disk fails under a running session: which torrent ends, with what, and that nothing else is harmed."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Sequence

import pytest
import trio

from btor.engine import keeper
from btor.engine.events import Complete, DiskFull, Failed, Progress, Stopped
from btor.engine.session import Session
from btor.errors import StorageError
from btor.limits import BLOCK, CHECKPOINT_PERIOD, DISK_QUEUE_HIGH, FREE_SPACE_PROBE, MIB
from btor.storage import system
from btor.storage.checkpoint import Checkpoint
from btor.storage.files import Content
from tests.engine.support import (
    Lab,
    closes_at_once,
    hear_interest,
    hear_requests,
    next_event,
    said,
    sample,
    scenario,
    until,
)
from tests.simulated.scripted_peer import CANCEL, PIECE, UNCHOKE

CONTENT = sample(40 * 2 * BLOCK)
OTHER = sample(30 * 2 * BLOCK, name="other", seed=2)

Fault = Callable[[str, int], int]  # (path, offset) → errno, 0: no fault


class Faults:
    """What the system says to writes, reads and syncs of files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write: Fault = lambda _path, _offset: 0
        self.read: Fault = lambda _path, _offset: 0
        self.failed = 0
        real_write, real_read, real_cached = system.write_all, system.read_all, system.readv_cached

        def check(fault: Fault, fd: int, position: int) -> None:
            code = fault(os.readlink(f"/proc/self/fd/{fd}"), position)
            if code:
                self.failed += 1
                raise OSError(code, os.strerror(code))

        def write_all(fd: int, views: Sequence[memoryview], position: int, length: int) -> None:
            check(self.write, fd, position)
            real_write(fd, views, position, length)

        def read_all(fd: int, views: Sequence[memoryview], position: int, length: int) -> int:
            check(self.read, fd, position)
            return real_read(fd, views, position, length)

        def readv_cached(fd: int, views: Sequence[memoryview], position: int) -> int:
            check(self.read, fd, position)
            return real_cached(fd, views, position)

        monkeypatch.setattr(system, "write_all", write_all)
        monkeypatch.setattr(system, "read_all", read_all)
        monkeypatch.setattr(system, "readv_cached", readv_cached)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


def always(code: int, name: str = "/content") -> Fault:
    return lambda path, _offset: code if path.endswith(name) else 0


@scenario(both=True)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS])
async def test_a_write_fails(lab: Lab, faults: Faults, code: int) -> None:
    seeder = await lab.seed(CONTENT)
    faults.write = lambda path, offset: code if path.endswith("/content") and offset >= 5 * BLOCK else 0
    leecher = await lab.leech(CONTENT, seeder)
    events = leecher.events()
    with pytest.raises(StorageError) as caught:
        await leecher.wait_complete()
    error = caught.value
    assert (error.exit_status, error.operation, error.errno) == (4, "write", code)
    assert error.path == str(leecher.keeper.content.top)
    assert error.reason == os.strerror(code)
    assert leecher.error is error
    assert leecher.status().state == "error"
    heard = [event async for event in events]
    (failed,) = [event for event in heard if isinstance(event, Failed)]
    assert (failed.code, failed.kind, failed.message) == (4, "storage", str(error))
    assert isinstance(heard[-1], Stopped)
    full = [event for event in heard if isinstance(event, DiskFull)]
    assert len(full) == (code in (errno.ENOSPC, errno.EDQUOT))
    assert faults.failed <= 4  # those of one gulp
    await until(lambda: not seeder.status().peers)


@scenario()
async def test_a_folder_that_cannot_be_made(lab: Lab) -> None:
    blocked = lab.place()
    blocked.write_bytes(b"a file where the folder should be")
    session = await lab.session()
    seeder = await lab.seed(CONTENT)
    leecher = await session.add(CONTENT.metainfo, directory=blocked / "in", peers=[lab.address(seeder.session)])
    with pytest.raises(StorageError) as caught:
        await leecher.wait_complete()
    assert caught.value.errno == errno.ENOTDIR
    assert blocked.read_bytes() == b"a file where the folder should be"


@scenario()
async def test_no_permission(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    seeder = await lab.seed(CONTENT)
    monkeypatch.setattr(Content, "_open_or_make", refuse)
    leecher = await lab.leech(CONTENT, seeder)
    with pytest.raises(StorageError) as caught:
        await leecher.wait_complete()
    assert (caught.value.operation, caught.value.errno) == ("open", errno.EACCES)


@scenario()
async def test_a_place_that_cannot_be_looked_at(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the disk's fault, and no bug."""
    stat: Callable[..., os.stat_result] = os.stat

    def deny(path: object, **options: object) -> os.stat_result:
        if str(path).endswith("/denied"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return stat(path, **options)

    session = await lab.session()
    monkeypatch.setattr(os, "stat", deny)
    found = await session.add(CONTENT.metainfo, directory=lab.place() / "denied")
    with pytest.raises(StorageError) as caught:
        await found.wait_complete()
    assert caught.value.errno == errno.EIO
    assert session.container.failures == 0


async def both(lab: Lab, session: Session, faults: Faults, fault: Fault) -> None:
    """Of two torrents in one session CONTENT fails, and OTHER completes."""
    seeders = [await lab.seed(content, lab.host(up=500_000)) for content in (CONTENT, OTHER)]
    faults.write = fault
    one = await session.add(CONTENT.metainfo, directory=lab.place(), peers=[lab.address(seeders[0].session)])
    other = await session.add(OTHER.metainfo, directory=lab.place(), peers=[lab.address(seeders[1].session)])
    with pytest.raises(StorageError):
        await one.wait_complete()
    await other.wait_complete()
    assert OTHER.is_at(other.keeper.content.top)
    assert other.error is None


@scenario(both=True)
async def test_F2_one_that_fails_does_not_stop_the_other(lab: Lab, faults: Faults) -> None:
    await both(lab, await lab.session(), faults, always(errno.EIO))


@scenario()
async def test_what_one_leaves_in_the_queue_does_not_stop_the_other(lab: Lab, faults: Faults) -> None:
    """The bound on what waits for the disk is the session's: who fails must give its share back."""
    session = await lab.session()

    def fault(path: str, _offset: int) -> int:
        if not path.endswith("/content"):
            return 0
        one = session.torrents[CONTENT.metainfo.info_hash]
        assert one.transfer is not None
        for _ in range(DISK_QUEUE_HIGH // BLOCK + 1):  # a slow disk: much has come meanwhile
            one.transfer.disk._device.threaded = True
            one.transfer.disk.receive(0, 0, [memoryview(bytes(BLOCK))], BLOCK)
            one.transfer.disk.flush()
        return errno.EIO

    await both(lab, session, faults, fault)
    assert session.disk.queued == 0


@scenario()
async def test_no_record_is_written_for_one_that_has_failed(lab: Lab, faults: Faults) -> None:
    """Its place is free for others: what is known of it here is not to be believed any more."""
    state = lab.place()
    session = await lab.session(state_dir=state)
    written: list[int] = []

    def after_some(path: str, offset: int) -> int:
        if path.endswith("/content"):
            written.append(offset)
        return errno.EIO if path.endswith("/content") and len(written) > 20 else 0

    await both(lab, session, faults, after_some)
    assert session.torrents[CONTENT.metainfo.info_hash].status().have_pieces > 0
    one = CONTENT.metainfo.info_hash.hex()
    records = {path: path.stat().st_mtime_ns for path in (state / "resume").glob(f"{one}*")}
    session.save_soon()
    await trio.sleep(2 * CHECKPOINT_PERIOD)
    assert {path: path.stat().st_mtime_ns for path in (state / "resume").glob(f"{one}*")} == records


# --- waiting for space -----------------------------------------------------------------------------------------------


@scenario()
async def test_F1_wait_for_space(lab: Lab, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 0
    monkeypatch.setattr(keeper, "free_space", lambda _content: free)
    faults.write = lambda path, offset: errno.ENOSPC if path.endswith("/content") and offset >= 20 * BLOCK else 0
    seeder = await lab.seed(CONTENT, lab.host(up=400_000))
    leecher = await lab.leech(CONTENT, seeder, add={"wait_for_space": True})
    full = await next_event(leecher, DiskFull)
    assert full.path == str(leecher.keeper.content.top)
    assert full.needed_bytes == len(CONTENT.content) - leecher.status().done_bytes
    await trio.sleep(5)
    status = leecher.status()
    assert (status.state, status.reason) == ("disk_full", "no space left on the disk")
    assert leecher.error is None
    failed = faults.failed
    await trio.sleep(10 * FREE_SPACE_PROBE)
    assert leecher.status().state == "disk_full"
    assert leecher.status().downloaded == status.downloaded
    assert faults.failed == failed  # it looks at the free space, and does not try
    faults.write = lambda _path, _offset: 0
    free = len(CONTENT.content)
    began = trio.current_time()
    await leecher.wait_complete()
    assert trio.current_time() - began <= FREE_SPACE_PROBE + 5
    assert CONTENT.is_at(leecher.keeper.content.top)
    assert leecher.status().state == "seeding"


@scenario()
async def test_a_full_disk_is_said_once(lab: Lab, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "free_space", lambda _content: 0)
    faults.write = always(errno.ENOSPC)
    seeder = await lab.seed(CONTENT)
    leecher = await lab.leech(CONTENT, seeder, add={"wait_for_space": True})
    events = leecher.events()
    await trio.sleep(200)
    await leecher.remove()
    assert len([event async for event in events if isinstance(event, DiskFull)]) == 1
    assert leecher.status().downloaded <= 2 * MIB  # no more than was asked for


@scenario()
async def test_F1_a_full_disk_takes_its_requests_back(
    lab: Lab, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 0
    monkeypatch.setattr(keeper, "free_space", lambda _content: free)
    faults.write = always(errno.ENOSPC)
    leecher = await lab.leech(CONTENT, add={"wait_for_space": True})
    peer = await lab.join(leecher, has=range(CONTENT.pieces))
    await hear_interest(peer)
    await peer.send(UNCHOKE)
    asked = await hear_requests(peer, 4)
    piece, begin, _ = asked[0]
    await peer.block(piece, begin, CONTENT.block(piece, begin // BLOCK))
    with trio.move_on_after(5):
        await peer.wait_closed()
    asked = [struct.unpack(">III", payload) for payload in said(peer, 6)]
    assert {struct.unpack(">III", payload) for payload in said(peer, CANCEL)} == set(asked[1:])
    # and when there is room, all of it is asked again
    faults.write = lambda _path, _offset: 0
    free = len(CONTENT.content)
    lab.nursery.start_soon(peer.serve, CONTENT.content, CONTENT.metainfo.geometry.piece_length)
    await leecher.wait_complete()
    assert CONTENT.is_at(leecher.keeper.content.top)


@scenario()
async def test_F1_seeding_goes_on_while_the_disk_is_full(
    lab: Lab, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "free_space", lambda _content: 0)
    written: list[int] = []

    def after_some(path: str, offset: int) -> int:
        if "place2" in path:
            written.append(offset)
        return errno.ENOSPC if "place2" in path and len(written) > 20 else 0

    faults.write = after_some
    seeder = await lab.seed(CONTENT, lab.host(up=300_000))
    full = await lab.leech(CONTENT, seeder, add={"wait_for_space": True})
    await next_event(full, DiskFull)
    other = await lab.leech(CONTENT, full)
    have = full.status().have_pieces
    assert have > 0
    await next_event(other, Progress, lambda event: event.have_pieces == have)


@scenario()
async def test_pause_and_resume_with_a_full_disk(lab: Lab, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 0
    monkeypatch.setattr(keeper, "free_space", lambda _content: free)
    seeder = await lab.seed(CONTENT, lab.host(up=200_000))
    leecher = await lab.leech(CONTENT, seeder, add={"wait_for_space": True})
    await next_event(leecher, Progress, lambda event: event.have_pieces > 3)
    assert leecher.transfer is not None
    # the disk is slow, and it is while the last of it is written that it turns out to be full
    leecher.transfer.disk._device.threaded = True
    await trio.sleep(0.5)
    faults.write = always(errno.ENOSPC)
    await leecher.pause()
    assert leecher.status().state == "paused"
    await trio.sleep(100)
    await leecher.resume()
    await trio.sleep(100)
    faults.write = lambda _path, _offset: 0
    free = len(CONTENT.content)
    await leecher.wait_complete()
    assert CONTENT.is_at(leecher.keeper.content.top)


@scenario()
async def test_no_room_for_the_record_of_what_is_complete(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for as well, and then it is a seed again."""

    def full(_checkpoint: Checkpoint, _snapshot: object) -> None:
        raise StorageError("write", "/state/x", "No space left on device", errno.ENOSPC)

    free = 0
    monkeypatch.setattr(keeper, "free_space", lambda _content: free)
    seeder = await lab.seed(CONTENT)
    leecher = await lab.leech(CONTENT, seeder, add={"wait_for_space": True}, state_dir=lab.place())
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", full)
        await leecher.wait_complete()
        await next_event(leecher, DiskFull)
        assert leecher.status().state == "disk_full"
    free = MIB
    await trio.sleep(FREE_SPACE_PROBE + 2)
    assert leecher.status().state == "seeding"


# --- reading ---------------------------------------------------------------------------------------------------------


@scenario(both=True)
async def test_the_content_of_a_seed_vanishes(lab: Lab) -> None:
    """That is nothing to end with: what is still there is given on (tests/engine/test_watch.py)."""
    seeder = await lab.seed(CONTENT)
    peer = await lab.join(seeder)
    seeder.keeper.content.top.unlink()
    seeder.keeper.content.close()
    await peer.send(2)
    await peer.wait_for(UNCHOKE)
    await peer.request(0, 0)
    await closes_at_once(peer)
    await until(lambda: seeder.status().have_pieces == 0)
    assert seeder.error is None


@scenario(both=True)
async def test_the_content_of_a_seed_shrinks(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await lab.join(seeder)
    os.truncate(seeder.keeper.content.top, 5 * BLOCK)
    await peer.send(2)
    await peer.wait_for(UNCHOKE)
    await peer.request(0, 0)
    await closes_at_once(peer)
    assert not said(peer, PIECE)
    await until(lambda: seeder.status().have_pieces == 0)
    assert seeder.error is None


@scenario()
async def test_reading_fails(lab: Lab, faults: Faults) -> None:
    seeder = await lab.seed(CONTENT)
    faults.read = always(errno.EIO)
    leecher = await lab.leech(CONTENT, seeder)
    await until(lambda: seeder.error is not None, step=1)
    assert isinstance(seeder.error, StorageError)
    assert (seeder.error.operation, seeder.error.errno) == ("read", errno.EIO)
    assert leecher.error is None


@scenario(both=True)
async def test_what_the_page_cache_lacks_is_read_all_the_same(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_cached(*_: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "")

    monkeypatch.setattr(system, "readv_cached", nothing_cached)
    seeder = await lab.seed(CONTENT)
    leecher = await lab.leech(CONTENT, seeder)
    await leecher.wait_complete()
    assert CONTENT.is_at(leecher.keeper.content.top)


# --- slow disks ------------------------------------------------------------------------------------------------------


@scenario(both=True)
async def test_a_slow_disk(lab: Lab) -> None:
    """Everything goes through the queue and a thread, with several peers that wait for it."""
    seeders = [await lab.seed(CONTENT) for _ in range(3)]
    session = await lab.session()
    leecher = await session.add(
        CONTENT.metainfo, directory=lab.place(), peers=[lab.address(s.session) for s in seeders]
    )
    await until(lambda: leecher.transfer is not None)
    assert leecher.transfer is not None
    leecher.transfer.disk._device.threaded = True
    done = await next_event(leecher, Complete)
    assert done.downloaded - done.wasted == len(CONTENT.content)
    assert CONTENT.is_at(leecher.keeper.content.top)
    assert session.disk.queued == 0
