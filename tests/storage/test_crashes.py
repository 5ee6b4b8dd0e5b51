"""Kill -9 and failing calls at every moment of a transfer: the record never names what the disk denies.

Power loss is played in `tests/crash`.
"""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from btor.errors import StorageError
from btor.metainfo.bitfield import Bitfield
from btor.storage.checkpoint import Checkpoint
from btor.storage.files import Content
from btor.storage.resume import load
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
