"""How torrents and sessions end while the disk hangs or answers late, and what is told after the end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from btor import bencode, limits
from btor.engine import identify, keeper
from btor.engine.background import see_through
from btor.engine.events import Event, PieceFailed, Stopped
from btor.engine.session import Session
from btor.engine.torrent import Torrent
from btor.errors import StorageError
from btor.limits import BLOCK
from btor.storage import resume
from btor.storage.checkpoint import Checkpoint
from btor.storage.claims import FilesClaimed, user_folder
from btor.storage.files import Content
from btor.storage.load import load_metainfo
from btor.storage.pool import FilePool
from btor.wire.tracker_http import AnnounceReply
from tests.engine.support import Lab, hear_interest, hear_requests, next_event, sample, scenario, until
from tests.engine.test_announce import Trackers
from tests.simulated.scripted_peer import UNCHOKE, ScriptedPeer

CONTENT = sample(40 * 2 * BLOCK)
SOON = 1.5  # s; far more than SHUTDOWN here, far less than the hanging disk


def is_free(top: Path) -> bool:
    """Whether nobody is said to write to the content at ``top``."""
    content = Content(CONTENT.metainfo, top, FilePool(), writable=True)
    folder = user_folder()
    assert folder is not None
    try:
        FilesClaimed(content, [folder]).release()
    except StorageError:
        return False
    return True


class Hanging:
    """A disk that hangs in worker threads while ``stuck``; ``entered`` counts the calls that are in it or were."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.entered = 0
        self.inside = 0
        self.most = 0
        self._lock = threading.Lock()

    def around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                with self._lock:
                    self.entered += 1
                    self.inside += 1
                    self.most = max(self.most, self.inside)
                try:
                    assert self.free.wait(15)
                    return real(*args, **options)
                finally:
                    with self._lock:
                        self.inside -= 1
            return real(*args, **options)

        return call


@pytest.fixture
def hanging() -> Any:
    found = Hanging()
    yield found
    found.free.set()


def on_loopback(folder: Path, test: Callable[[Lab], Any]) -> None:
    async def bounded() -> None:
        with trio.fail_after(20):
            await Lab(folder, real=True).run(test)

    trio.run(bounded)


async def writing(
    seeder: Torrent, session: Session, hanging: Hanging, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Torrent:
    """A torrent that is being downloaded to a slow disk, whose writes begin to hang when some pieces are there."""
    found = await session.add(CONTENT.metainfo, directory=folder, peers=[("127.0.0.1", seeder.session.port)])
    await until(lambda: found.status().have_pieces >= 3)
    assert found.transfer is not None
    monkeypatch.setattr(Content, "write", hanging.around(Content.write))
    found.transfer.disk._device.threaded = True
    await until(lambda: hanging.entered > 0)
    await until(lambda: session.disk.queued > 3 * BLOCK)
    return found


@pytest.mark.parametrize("how", ["leave", "pause and leave"])
def test_leaving_does_not_wait_for_writes_that_hang(
    tmp_path: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The record names nothing that was not written, and the place is not given to others before the write ends."""
    monkeypatch.setattr(limits, "SHUTDOWN", 0.3)
    folder, state = tmp_path / "content", tmp_path / "state"

    async def test(lab: Lab) -> None:
        seeder = await lab.seed(CONTENT, max_upload=400_000)
        async with lab.open(state_dir=state) as session:
            found = await writing(seeder, session, hanging, monkeypatch, folder)
            if how != "leave":
                with trio.move_on_after(0.1) as waiting:
                    await found.pause()
                assert waiting.cancelled_caught
            began = time.monotonic()
        assert time.monotonic() - began < SOON
        assert hanging.inside == 1
        record = resume.load(state, CONTENT.metainfo.info_hash, folder / "content")
        assert record is not None
        data = (folder / "content").read_bytes()
        assert all(data[piece * 2 * BLOCK :][: 2 * BLOCK] == CONTENT.piece(piece) for piece in record.have)
        async with lab.open(state_dir=state) as session:
            second = await session.add(CONTENT.metainfo, directory=folder)
            with pytest.raises(StorageError, match="is writing to it"):
                await second.wait_complete()
        hanging.free.set()
        await until(lambda: is_free(folder / "content"))
        assert hanging.entered == 1  # what waited behind it was dropped
        seeder = await lab.seed(CONTENT)
        async with lab.open(state_dir=state) as session:
            third = await session.add(CONTENT.metainfo, directory=folder, peers=[lab.address(seeder.session)])
            await third.wait_complete()
        assert CONTENT.is_at(folder / "content")

    on_loopback(tmp_path, test)


def test_writes_that_end_in_time_are_recorded(
    tmp_path: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, state = tmp_path / "content", tmp_path / "state"
    had = math.inf

    async def test(lab: Lab) -> None:
        nonlocal had
        seeder = await lab.seed(CONTENT, max_upload=400_000)
        async with lab.open(state_dir=state) as session:
            found = await writing(seeder, session, hanging, monkeypatch, folder)
            had = found.status().have_pieces
            lab.nursery.start_soon(let_go)
        record = resume.load(state, CONTENT.metainfo.info_hash, folder / "content")
        assert record is not None
        assert record.finished
        assert record.have.count > had

    async def let_go() -> None:
        await trio.sleep(0.2)
        hanging.free.set()

    on_loopback(tmp_path, test)


def test_a_large_torrent_file_that_cannot_be_read_is_given_up(
    tmp_path: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identify, "LARGE_TORRENT", 0)
    monkeypatch.setattr(identify, "load_metainfo", hanging.around(load_metainfo))
    path = tmp_path / "x.torrent"
    path.write_bytes(bencode.encode({b"info": bencode.decode(CONTENT.metainfo.info, depth=9, tokens=99)}))

    async def test(lab: Lab) -> None:
        async with lab.open() as session:
            began = time.monotonic()
            with trio.move_on_after(0.1):
                await session.add(path, directory=tmp_path)
            assert time.monotonic() - began < SOON
            assert hanging.entered == 1
            hanging.free.set()
            found = await session.add(path, directory=tmp_path)
            assert found.info_hash == CONTENT.metainfo.info_hash

    on_loopback(tmp_path, test)


@pytest.mark.parametrize("call", ["survey", "load"])
def test_leaving_does_not_wait_for_a_check_that_hangs(
    tmp_path: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(limits, "SHUTDOWN", 0.3)
    monkeypatch.setattr(keeper, call, hanging.around(getattr(keeper, call)))

    async def test(lab: Lab) -> None:
        async with lab.open(state_dir=tmp_path / "state") as session:
            await session.add(CONTENT.metainfo, directory=tmp_path)
            await until(lambda: hanging.entered > 0)
            began = time.monotonic()
        assert time.monotonic() - began < SOON
        hanging.free.set()
        await until(lambda: is_free(tmp_path / "content"))

    on_loopback(tmp_path, test)


def test_leaving_does_not_wait_for_reads_that_hang(
    tmp_path: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SHUTDOWN", 0.3)
    monkeypatch.setattr(Content, "read_into", hanging.around(Content.read_into))

    async def test(lab: Lab) -> None:
        top = CONTENT.write(tmp_path / "content")
        async with lab.open() as session:
            found = await session.add(CONTENT.metainfo, output=top, seed_only=True)
            await found.wait_complete()
            transfer = found.transfer
            assert transfer is not None
            session.in_background(transfer.disk.warm, [(0, 0, BLOCK)])
            session.in_background(transfer._settle_blame, 1)
            await until(lambda: hanging.entered == 2)
            began = time.monotonic()
        assert time.monotonic() - began < SOON

    on_loopback(tmp_path, test)


# --- saves -----------------------------------------------------------------------------------------------------------


def test_one_save_at_a_time_whoever_gives_up(tmp_path: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    """They write the same file."""
    monkeypatch.setattr(Checkpoint, "save", hanging.around(Checkpoint.save))

    async def test(lab: Lab) -> None:
        found = await lab.leech(CONTENT, state_dir=tmp_path / "state")
        await until(lambda: found.transfer is not None)
        for _ in range(3):
            with trio.move_on_after(0.1) as waiting:
                await found.save()
            assert waiting.cancelled_caught
        assert hanging.entered == 1
        hanging.free.set()
        await found.save()
        assert hanging.entered >= 2
        assert hanging.most == 1

    on_loopback(tmp_path, test)


async def test_work_is_seen_through(nursery: trio.Nursery) -> None:
    go_on, ended = trio.Event(), trio.Event()

    async def work(number: int) -> None:
        assert number == 1
        await go_on.wait()
        ended.set()

    with trio.fail_after(5):
        with trio.move_on_after(0.01) as waiting:
            await see_through(nursery.start_soon, work, 1)
        assert waiting.cancelled_caught
        assert not ended.is_set()
        go_on.set()
        await see_through(nursery.start_soon, work, 1)
        await ended.wait()


# --- after the end ---------------------------------------------------------------------------------------------------


async def half(lab: Lab, session: Session) -> tuple[Torrent, ScriptedPeer]:
    """A torrent whose peer has sent the second block of its first pieces: bytes that wait out of order."""
    found = await session.add(CONTENT.metainfo, directory=lab.place())
    peer = await lab.join(found, has=range(CONTENT.pieces))
    await hear_interest(peer)
    await peer.send(UNCHOKE)
    for piece, begin, _ in list(await hear_requests(peer, 4)):
        if begin:
            await peer.block(piece, begin, CONTENT.block(piece, 1))
    await until(lambda: session.disk.early.used >= BLOCK)
    return found, peer


@scenario()
@pytest.mark.parametrize("end", ["removed", "failed"])
async def test_what_waits_out_of_order_is_given_back(lab: Lab, end: str) -> None:
    session = await lab.session()
    found, _ = await half(lab, session)
    if end == "removed":
        await found.remove()
    else:
        found.on_storage_error(StorageError("write", "/x", "broken"))
        with pytest.raises(StorageError):
            await found.wait_complete()
    await until(lambda: session.disk.early.used == 0)


async def heard_of(found: Torrent, into: list[Event]) -> None:
    async for event in found.session.events():
        into.append(event)


@scenario()
@pytest.mark.parametrize("end", ["removed", "failed"])
async def test_hashes_that_come_after_the_end_change_nothing_that_is_told(lab: Lab, end: str) -> None:
    session = await lab.session()
    found, _ = await half(lab, session)
    heard: list[Event] = []
    lab.nursery.start_soon(heard_of, found, heard)
    transfer = found.transfer
    assert transfer is not None
    if end == "removed":
        await found.remove()
    else:
        found.on_storage_error(StorageError("write", "/x", "broken"))
        with pytest.raises(StorageError):
            await found.wait_complete()
    await until(lambda: any(isinstance(event, Stopped) for event in heard))
    transfer.on_hashed(0, False)
    for piece in range(CONTENT.pieces):
        transfer.on_hashed(piece, True)
    found.on_storage_error(StorageError("write", "/y", "broken too"))
    await trio.sleep(5)
    assert isinstance(heard[-1], Stopped)
    assert not any(isinstance(event, PieceFailed) for event in heard)
    assert not found.complete
    assert found.status().state == ("stopped" if end == "removed" else "error")
    assert transfer.complete  # the record may say so
    assert transfer.done_bytes == len(CONTENT.content)


@scenario()
async def test_a_download_that_is_left_in_its_last_moment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete is told before the end or not at all, also when it takes a sync."""
    session = await lab.session()
    seeder = await lab.seed(CONTENT)
    heard: list[Event] = []
    found = await session.add(CONTENT.metainfo, directory=lab.place(), peers=[lab.address(seeder.session)], sync=True)
    lab.nursery.start_soon(heard_of, found, heard)
    release = trio.Event()

    async def save(*_: Any, **__: Any) -> None:
        await release.wait()

    monkeypatch.setattr(found.keeper, "save", save)
    await next_event(found, type(found.status()), lambda event: event.have_pieces == CONTENT.pieces)
    monkeypatch.undo()
    await found.remove()
    release.set()
    await trio.sleep(5)
    assert isinstance(heard[-1], Stopped)
    assert not found.complete


@scenario()
async def test_a_dial_that_succeeds_while_the_peers_go_comes_too_late(lab: Lab) -> None:
    """The nursery of the peers ends a moment before who runs it goes on: nothing may be started in it by then."""
    session = await lab.session()
    found, _ = await half(lab, session)
    transfer = found.transfer
    assert transfer is not None
    nursery = transfer._nursery
    assert nursery is not None
    open_at_the_end: list[bool] = []

    async def last_one() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            open_at_the_end.append(transfer._nursery is not None)

    nursery.start_soon(last_one)
    await trio.sleep(1)
    await found.remove()
    assert open_at_the_end == [False]


# --- an end from outside -----------------------------------------------------------------------------------------


@scenario()
@pytest.mark.parametrize("how", ["leave", "cancel", "raise"])
async def test_every_way_to_end_a_session_is_in_good_order(lab: Lab, how: str) -> None:
    """The tracker hears that we stop, and the record names all that is verified and all that was uploaded."""
    trackers = Trackers(lab.world, lab.nursery)
    await trackers.http("8.8.8.1", AnnounceReply(interval=1_800))
    metainfo = replace(CONTENT.metainfo, trackers=(("http://8.8.8.1/announce",),))
    folder, state = lab.place(), lab.place()
    seeder = await lab.serving(CONTENT, up=2 * BLOCK)
    leeching = await lab.session()
    seen: dict[str, Any] = {}

    async def run(scope: trio.CancelScope) -> None:
        async with lab.open(state_dir=state) as session:
            found = await session.add(metainfo, directory=folder, peers=[seeder])
            await until(lambda: found.status().have_pieces == 2, step=0.1)
            leecher = await leeching.add(CONTENT.metainfo, directory=lab.place(), peers=[lab.address(session)])
            await until(lambda: leecher.status().have_pieces == 2, step=0.1)
            seen.update(torrent=found)
            if how == "cancel":
                scope.cancel()
                await trio.sleep_forever()
            if how == "raise":
                raise KeyError("of the caller")

    with trio.CancelScope() as scope, pytest.raises(KeyError) if how == "raise" else nullcontext():
        await run(scope)
    transfer = seen["torrent"].transfer
    record = resume.load(state, metainfo.info_hash, folder / "content")
    assert record is not None
    assert record.finished
    assert transfer.have.count >= 2
    assert (record.have, record.uploaded) == (transfer.have, transfer.uploaded)
    assert record.uploaded >= 4 * BLOCK
    assert trackers.events() == ["started", "stopped"]
