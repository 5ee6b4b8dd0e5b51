"""Kill -9, power loss and failing calls at every moment of a transfer: the record never names what the disk denies.

One fixed transfer is run with its operations logged. Power loss is then played offline: for every prefix of the log,
what was synced is there, and of the rest any part may be; renames and their kind happen in order, up to any point.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from btor.errors import StorageError
from btor.metainfo.bitfield import Bitfield
from btor.storage.checkpoint import Checkpoint
from btor.storage.files import Content
from btor.storage.resume import decode, load
from btor.storage.survey import survey
from tests.storage.torrents import File, good_pieces, open_content, stream, torrent

PIECE = 1_000
FILES: list[File] = [("a", 2_300), ("b/c", 150), ("b/d", 4_000), ("empty", 0), ("e", 2_550)]
DATA = stream(FILES)
METAINFO = torrent(FILES, content=DATA, piece_length=PIECE)
COUNT = METAINFO.geometry.piece_count


@pytest.fixture(autouse=True)
def no_real_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its place in the order counts here, and it is slow."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def transfer(top: Path, state: Path, seed: int) -> Iterator[None]:
    """A whole run: pieces in halves and any order, checkpoints whose two steps have writes between them.

    Yields after each step. StorageErrors of a checkpoint are passed over, as the engine does when a disk is full.
    """
    content = open_content(METAINFO, top)
    try:
        yield from steps_of_transfer(content, state, random.Random(seed))
    finally:
        content.close()


def steps_of_transfer(content: Content, state: Path, rng: random.Random) -> Iterator[None]:
    top = content.top
    found = survey(content, load(state, METAINFO.info_hash, top))
    have = found.trusted.copy()
    for piece in found.to_hash:
        if read(content, piece) == piece_of(piece):
            have.add(piece)
    checkpoint = Checkpoint(state, content, have=have, trusted=found.trusted, files=found.files)
    checkpoint.begin()
    yield
    content.prepare()
    halves = [(piece, half) for piece in have.missing() for half in (0, 1)]
    rng.shuffle(halves)
    written: set[tuple[int, int]] = set()
    pending: list[Any] = []
    for piece, half in halves:
        write_half(content, piece, half)
        written.add((piece, half))
        if (piece, 1 - half) in written and read(content, piece) == piece_of(piece):
            have.add(piece)
        yield
        if not pending and rng.random() < 0.4:
            pending.append(checkpoint.snapshot(have, finished=False, uploaded=0, downloaded=0))
        elif pending and rng.random() < 0.5:
            passing(checkpoint, pending.pop())
        yield
    passing(checkpoint, checkpoint.snapshot(have, finished=True, uploaded=0, downloaded=0))


def passing(checkpoint: Checkpoint, snapshot: Any) -> None:
    try:
        checkpoint.save(snapshot)
    except StorageError:
        pass


def piece_of(piece: int) -> bytes:
    return DATA[piece * PIECE : (piece + 1) * PIECE]


def read(content: Content, piece: int) -> bytes:
    into = bytearray(len(piece_of(piece)))
    content.read_into(piece * PIECE, [memoryview(into)])
    return bytes(into)


def write_half(content: Content, piece: int, half: int) -> None:
    start = piece * PIECE + half * 400
    end = min(len(DATA), piece * PIECE + (1_000 if half else 400))
    if start < end:
        content.write(start, [memoryview(DATA)[start:end]], end - start)


# --- power loss --------------------------------------------------------------------------------------------------


@dataclass
class Log:
    """Operations in order: (name, path, ...). Paths are absolute."""

    operations: list[tuple[Any, ...]] = field(default_factory=list)
    fail_syncs: Callable[[], bool] = lambda: False

    def install(self, patch: pytest.MonkeyPatch) -> None:
        pwritev, fsync, replace, link, unlink = os.pwritev, os.fsync, os.replace, os.link, os.unlink

        def logged_pwritev(fd: int, views: list[memoryview], position: int) -> int:
            self.operations.append(("write", path_of(fd), position, b"".join(views)))
            return pwritev(fd, views, position)

        def logged_fsync(fd: int) -> None:
            path = path_of(fd)
            if os.path.isdir(path):
                self.operations.append(("sync folder", path))
                return fsync(fd)
            if ".resume" in path:
                self.operations.append(("sync record", path, Path(path).read_bytes()))
                return fsync(fd)
            if self.fail_syncs():
                self.operations.append(("failed sync", path))
                raise OSError(errno.EIO, "no")
            self.operations.append(("sync", path))
            return fsync(fd)

        def logged_replace(source: str, target: str) -> None:
            replace(source, target)
            self.operations.append(("rename", source, target))

        def logged_link(source: str, target: str, **options: Any) -> None:
            link(source, target, **options)
            self.operations.append(("link", source, target))

        def logged_unlink(path: str) -> None:
            unlink(path)
            self.operations.append(("unlink", path))

        for name, call in {
            "pwritev": logged_pwritev,
            "fsync": logged_fsync,
            "replace": logged_replace,
            "link": logged_link,
            "unlink": logged_unlink,
        }.items():
            patch.setattr(os, name, call)


def path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


class Disk:
    """What survives a power cut after some of the operations."""

    def __init__(self) -> None:
        self.durable: dict[str, bytearray] = {}
        self.volatile: dict[str, list[tuple[int, bytes]]] = {}
        self.doomed: dict[str, list[tuple[int, bytes]]] = {}  # written before a failed sync: may never arrive
        self.named: set[str] = set()  # files whose folder entries are durable
        self.records: dict[str, bytes] = {}  # durable names of the state folder
        self.pending: list[tuple[Any, ...]] = []
        self.synced_data: dict[str, bytes] = {}

    def do(self, operation: tuple[Any, ...]) -> None:
        name, path, *rest = operation
        if name == "write":
            self.volatile.setdefault(path, []).append((rest[0], rest[1]))
        elif name == "sync":
            apply(self.durable.setdefault(path, bytearray()), self.volatile.pop(path, []))
        elif name == "failed sync":
            self.doomed.setdefault(path, []).extend(self.volatile.pop(path, []))
        elif name == "sync record":
            self.synced_data[path] = rest[0]
        elif name == "sync folder":
            self.named |= {
                file for file in (*self.durable, *self.volatile, *self.doomed) if os.path.dirname(file) == path
            }
            if any(path == os.path.dirname(done[1]) for done in self.pending):
                self.settle(self.records, len(self.pending))
                self.pending.clear()
        else:
            self.pending.append(operation)

    def settle(self, records: dict[str, bytes], count: int) -> None:
        for name, path, *rest in self.pending[:count]:
            if name == "unlink":
                records.pop(path, None)
            elif name == "link":
                records[rest[0]] = records[path]
            else:
                records[rest[0]] = self.synced_data[path]

    def outcomes(self, rng: random.Random) -> Iterator[tuple[dict[str, bytearray], dict[str, bytes]]]:
        """States to wake up in: (content by path, record files by path)."""
        for choose in (lambda _: False, lambda _: True, lambda left: left > 1, lambda _: rng.random() < 0.5):
            for torn in (False, True):
                content = {path: bytearray(data) for path, data in self.durable.items()}
                for waiting in (self.doomed, self.volatile):
                    for path, writes in waiting.items():
                        kept = [write for left, write in enumerate(reversed(writes)) if choose(left)][::-1]
                        if torn and kept:
                            kept[-1] = (kept[-1][0], kept[-1][1][: len(kept[-1][1]) // 2])
                        apply(content.setdefault(path, bytearray()), kept)
                for path in list(content):
                    if path not in self.named and choose(0):
                        del content[path]  # its entry in the folder was not durable
                for count in {0, len(self.pending), rng.randint(0, len(self.pending))}:
                    records = dict(self.records)
                    self.settle(records, count)
                    yield content, records


def apply(data: bytearray, writes: list[tuple[int, bytes]]) -> None:
    for position, piece in writes:
        if len(data) < position + len(piece):
            data.extend(bytes(position + len(piece) - len(data)))
        data[position : position + len(piece)] = piece


def denied(content: dict[str, bytearray], record: bytes, top: Path) -> set[int]:
    """The pieces that the record names and an independent hash denies."""
    found = decode(record)
    assert found is not None, "a record was half written"
    whole = bytearray()
    for entry in METAINFO.files:
        data = content.get(os.path.join(top, *entry.path[1:]), bytearray())[: entry.length]
        whole += data + bytes(entry.length - len(data))
    return {
        piece
        for piece in found.have
        if hashlib.sha1(whole[piece * PIECE : (piece + 1) * PIECE]).digest() != METAINFO.piece_hash(piece)
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("syncs_fail", [False, True])
def test_F5_no_power_cut_makes_a_false_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, syncs_fail: bool
) -> None:
    rng = random.Random(seed)
    log = Log(fail_syncs=lambda: syncs_fail and rng.random() < 0.2)
    top = tmp_path / "content"
    with monkeypatch.context() as patch:
        log.install(patch)
        for _ in transfer(top, tmp_path / "state", seed):
            pass
    assert good_pieces(METAINFO, top) == set(range(COUNT))
    disk = Disk()
    most = 0
    for operation in log.operations:
        disk.do(operation)
        for content, records in disk.outcomes(rng):
            for path, record in records.items():
                if path.endswith((".resume", ".old")):
                    assert not denied(content, record, top), (operation, path)
                    made = decode(record)
                    assert made is not None
                    most = max(most, made.have.count)
    assert syncs_fail or most == COUNT


def test_the_simulation_notices_a_record_that_is_written_too_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail: with syncs that do nothing it does."""
    log = Log()
    top = tmp_path / "content"
    with monkeypatch.context() as patch:
        log.install(patch)
        for _ in transfer(top, tmp_path / "state", 1):
            pass
    rng = random.Random(1)
    disk = Disk()
    lies = 0
    for operation in log.operations:
        if operation[0] != "sync":
            disk.do(operation)
        for content, records in disk.outcomes(rng):
            lies += sum(bool(denied(content, record, top)) for record in records.values())
    assert lies


# --- killed, and failing -----------------------------------------------------------------------------------------

CALLS = ("open", "pwritev", "preadv", "fsync", "replace", "link", "unlink", "ftruncate", "mkdir", "fstat", "stat")


def at_the_nth_call(patch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> list[int]:
    """``act`` in place of the ``number``-th system call of any kind; the count of calls goes on in the list."""
    calls = [0]

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == number:
                act()
            return real(*args, **options)

        return call

    for name in CALLS:
        patch.setattr(os, name, wrapped(getattr(os, name)))
    return calls


def count_calls(tmp_path: Path, seed: int) -> int:
    with pytest.MonkeyPatch.context() as patch:
        calls = at_the_nth_call(patch, -1, lambda: None)
        for _ in transfer(tmp_path / "counted", tmp_path / "counted state", seed):
            pass
    return calls[0]


def check(state: Path, top: Path) -> None:
    record = load(state, METAINFO.info_hash, top)
    if record is not None:
        assert set(record.have) <= good_pieces(METAINFO, top)
        content = open_content(METAINFO, top)
        found = survey(content, record)
        assert set(found.trusted) <= good_pieces(METAINFO, top)
        assert good_pieces(METAINFO, top) <= set(found.trusted) | set(found.to_hash)
        assert found.strangers == ()


def test_F4_killed_at_every_step(tmp_path: Path) -> None:
    """kill -9 at some system call, go on in the next run, again and again until it is complete."""
    steps = count_calls(tmp_path, 3)
    kills = 0
    for first in range(1, steps, 17):
        top, state = tmp_path / str(first), tmp_path / f"state {first}"
        at = first
        for attempt in range(100):
            if run_and_kill(top, state, attempt, at):
                break
            kills += 1
            check(state, top)
            at = first % 23 + 12 * attempt
        assert good_pieces(METAINFO, top) == set(range(COUNT))
        record = load(state, METAINFO.info_hash, top)
        assert record is not None
        assert record.have.complete
        assert record.finished
    assert kills >= 20


def run_and_kill(top: Path, state: Path, seed: int, at: int) -> bool:
    """Run a transfer in a process that kills itself at its ``at``-th system call; whether it ended before."""
    pid = os.fork()
    if pid == 0:
        with pytest.MonkeyPatch.context() as patch:
            at_the_nth_call(patch, at, lambda: os.kill(os.getpid(), signal.SIGKILL))
            for _ in transfer(top, state, seed):
                pass
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL)
    return status == 0


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EMFILE])
def test_F13_the_nth_call_fails(tmp_path: Path, code: int) -> None:
    """For every N: one of our errors or none, no descriptor lost, no false have, and the next run completes."""

    def fail() -> None:
        raise OSError(code, os.strerror(code))

    steps = count_calls(tmp_path, 5)
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(1, steps + 1, 1 if code == errno.EIO else 5):
        top, state = tmp_path / str(number), tmp_path / f"state {number}"
        with pytest.MonkeyPatch.context() as patch:
            at_the_nth_call(patch, number, fail)
            run = transfer(top, state, 5)
            try:
                for _ in run:
                    pass
            except StorageError as error:
                assert error.errno in (code, errno.EEXIST)  # a look whether something is there may be what fails
        run.close()  # type: ignore[attr-defined]  # a generator
        check(state, top)
        for _ in transfer(top, state, 6):
            pass
        assert good_pieces(METAINFO, top) == set(range(COUNT))
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_the_transfer_alone_completes(tmp_path: Path) -> None:
    for _ in transfer(tmp_path / "content", tmp_path / "state", 0):
        pass
    record = load(tmp_path / "state", METAINFO.info_hash, tmp_path / "content")
    assert record is not None
    assert record.have == Bitfield.full(COUNT)
