"""Checkpoints: what is named is synced, whatever happens between the two steps."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from btor.errors import StorageError
from btor.metainfo.bitfield import Bitfield
from btor.storage.checkpoint import Checkpoint, Snapshot
from btor.storage.files import Content
from btor.storage.resume import ResumeRecord, load
from btor.storage.survey import survey
from tests.storage.torrents import File, open_content, put, stream, torrent

BLOCK = 16_384
FILES: list[File] = [("a", 2 * BLOCK), ("b", 2 * BLOCK), ("d/c", 3 * BLOCK)]
DATA = stream(FILES)
METAINFO = torrent(FILES, content=DATA)
COUNT = METAINFO.geometry.piece_count
A, B, C = range(3)


class Run:
    """One run of a torrent, with its state beside it."""

    def __init__(self, tmp_path: Path) -> None:
        self.state = tmp_path / "state"
        self.content = open_content(METAINFO, tmp_path / "content")
        found = survey(self.content, self.record())
        self.have = found.trusted.copy()
        self.checkpoint = Checkpoint(self.state, self.content, have=self.have, trusted=found.trusted, files=found.files)

    def record(self) -> ResumeRecord | None:
        return load(self.state, METAINFO.info_hash, self.content.top)

    def named(self) -> set[int]:
        record = self.record()
        assert record is not None
        return set(record.have)

    def fetch(self, *pieces: int) -> None:
        """Write pieces and take them as verified."""
        for piece in pieces:
            put(self.content, DATA, piece * BLOCK, (piece + 1) * BLOCK)
            self.have.add(piece)

    def snapshot(self, *, finished: bool = False) -> Snapshot:
        return self.checkpoint.snapshot(self.have, finished=finished, uploaded=1, downloaded=2)

    def save(self) -> None:
        self.checkpoint.save(self.snapshot())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The content files synced, in order."""
    names: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        path = os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path)
        if path.startswith("content/") and not os.path.isdir(tmp_path / path):
            names.append(path)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


def break_sync(monkeypatch: pytest.MonkeyPatch, content: Content, index: int, code: int = errno.EIO) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == content.path(index):
            raise OSError(code, os.strerror(code))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_checkpoint_syncs_what_was_written_and_names_it(run: Run, synced: list[str]) -> None:
    run.fetch(0, 5)
    run.save()
    assert synced == ["content/a", "content/d/c"]
    assert run.named() == {0, 5}
    record = run.record()
    assert record is not None
    assert (record.finished, record.uploaded, record.downloaded) == (False, 1, 2)
    assert [record.files[index] for index in (A, B, C)] == run.content.stats()
    synced.clear()
    run.save()
    assert synced == []
    run.fetch(1)
    run.save()
    assert synced == ["content/a"]
    run.content.close()


def test_what_comes_after_the_snapshot_is_in_the_next(run: Run, synced: list[str]) -> None:
    run.fetch(0)
    snapshot = run.snapshot()
    run.fetch(1, 2)
    run.checkpoint.save(snapshot)
    assert run.named() == {0}
    synced.clear()
    run.save()
    assert run.named() == {0, 1, 2}
    assert synced == ["content/a", "content/b"]
    run.content.close()


def test_a_file_written_before_the_snapshot_and_again_during_the_save(run: Run, synced: list[str]) -> None:
    run.fetch(0)
    snapshot = run.snapshot()
    run.checkpoint.save(snapshot)
    run.fetch(1)
    synced.clear()
    run.save()
    assert synced == ["content/a"]
    run.content.close()


def test_a_snapshot_that_is_never_saved_is_owed(run: Run, synced: list[str]) -> None:
    run.fetch(0, 2)
    run.snapshot()
    run.fetch(4)
    run.save()
    assert synced == ["content/a", "content/b", "content/d/c"]
    assert run.named() == {0, 2, 4}
    run.content.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_F5_after_a_failed_sync_the_pieces_of_that_file_are_never_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The second sync succeeds, and yet nobody knows what the disk holds."""
    run.fetch(0, 4)
    run.save()
    run.fetch(1, 2, 5)
    with monkeypatch.context() as patch:
        break_sync(patch, run.content, A, code)
        with pytest.raises(StorageError) as caught:
            run.save()
    assert (caught.value.operation, caught.value.path, caught.value.errno) == ("sync", run.content.path(A), code)
    assert run.named() == {0, 4}
    run.fetch(3)
    run.save()
    assert run.named() == {0, 2, 3, 4, 5}
    run.content.close()


def test_a_folder_that_cannot_be_synced_leaves_the_record(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.fetch(0)
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.path.isdir(os.readlink(f"/proc/self/fd/{fd}")):
            raise OSError(errno.EIO, "no")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StorageError):
            run.save()
    assert run.record() is None
    run.save()
    assert run.named() == {0}
    run.content.close()


def test_F1_a_record_that_cannot_be_written_leaves_the_one_before(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.fetch(0)
    run.save()
    run.fetch(2)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StorageError):
            run.save()
    assert run.named() == {0}
    run.save()
    assert run.named() == {0, 2}
    run.content.close()


def test_a_piece_that_is_lost_is_in_no_generation(run: Run) -> None:
    run.fetch(0, 1)
    run.save()
    run.fetch(2)
    run.save()
    run.have.discard(1)
    run.save()
    assert run.named() == {0, 2}
    next(run.state.rglob("*.resume")).unlink()
    assert run.record() is None
    run.fetch(1)
    run.save()
    run.save()
    next(run.state.rglob("*.resume")).unlink()
    assert run.named() == {0, 1, 2}
    run.content.close()


def test_begin_says_that_btor_is_at_work(run: Run, tmp_path: Path) -> None:
    """Killed at once, the next run takes the files for its own, though not one piece is good."""
    run.checkpoint.begin(uploaded=3, downloaded=4)
    run.content.prepare()
    put(run.content, DATA, 10, 20)
    run.content.close()
    again = Run(tmp_path)
    record = again.record()
    assert record is not None
    assert (record.finished, record.uploaded, record.downloaded) == (False, 3, 4)
    found = survey(again.content, record)
    assert found.strangers == ()
    assert set(found.to_hash) == {0}


def test_begin_forgets_what_was_not_trusted(run: Run, tmp_path: Path) -> None:
    run.fetch(*range(COUNT))
    run.checkpoint.save(run.snapshot(finished=True))
    run.content.close()
    with open(run.content.path(B), "r+b") as file:
        file.write(b"!")
    os.utime(run.content.path(B), ns=(0, 0))
    again = Run(tmp_path)
    again.checkpoint.begin()
    assert again.named() == {0, 1, 4, 5, 6}
    assert not list(again.state.rglob("*.old"))


def test_F4_what_was_only_found_by_hashing_is_synced_before_it_is_named(
    run: Run, tmp_path: Path, synced: list[str]
) -> None:
    run.checkpoint.begin()
    run.fetch(0, 2, 3, 5)
    run.content.close()  # killed: nothing was saved
    again = Run(tmp_path)
    found = survey(again.content, again.record())
    assert set(found.to_hash) == {0, 2, 3, 5}
    have = found.trusted.copy()
    have.add(0)
    have.add(5)  # 2 and 3 prove bad
    checkpoint = Checkpoint(again.state, again.content, have=have, trusted=found.trusted, files=found.files)
    checkpoint.begin()
    assert again.named() == set()
    checkpoint.save(checkpoint.snapshot(have, finished=False, uploaded=0, downloaded=0))
    assert synced == ["content/a", "content/d/c"]
    assert again.named() == {0, 5}


def test_the_record_holds_the_files_as_they_were_before_they_were_hashed(run: Run, tmp_path: Path) -> None:
    """Somebody who writes while a file is hashed is noticed by the next run."""
    run.fetch(*range(COUNT))
    run.content.close()
    run.content.take_dirty()
    found = survey(run.content, None)
    with open(run.content.path(C), "r+b") as file:
        file.write(b"!")
    os.utime(run.content.path(C), ns=(0, 0))
    checkpoint = Checkpoint(run.state, run.content, have=Bitfield.full(COUNT), trusted=found.trusted, files=found.files)
    checkpoint.save(checkpoint.snapshot(Bitfield.full(COUNT), finished=True, uploaded=0, downloaded=0))
    assert survey(run.content, run.record()).changed == (run.content.path(C),)


def test_the_next_run_trusts_a_finished_record(run: Run, tmp_path: Path) -> None:
    run.content.prepare()
    run.fetch(*range(COUNT))
    run.checkpoint.save(run.snapshot(finished=True))
    run.content.close()
    found = survey(run.content, run.record())
    assert found.trusted.complete
    assert not found.to_hash.count


def test_syncing_very_many_files_leaves_the_pool_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    run.fetch(*range(COUNT))
    run.content.close()
    opened: list[Callable[..., object]] = []
    monkeypatch.setattr(run.content._pool, "add", opened.append)
    run.save()
    assert opened == []
    assert run.named() == set(range(COUNT))


def test_an_end_without_a_sync_names_what_was_durable_and_the_files_as_they_are(run: Run, synced: list[str]) -> None:
    run.fetch(0)
    run.save()
    synced.clear()
    run.fetch(1, 5)
    run.checkpoint.end(uploaded=3, downloaded=4)
    assert synced == []
    assert run.named() == {0}
    record = run.record()
    assert record is not None
    assert (record.finished, record.uploaded, record.downloaded) == (True, 3, 4)
    assert survey(run.content, record).changed == ()
    path = run.content.path(A)
    os.utime(path, ns=(0, os.stat(path).st_mtime_ns + 1))
    found = survey(run.content, record)
    assert found.changed == (path,)
    assert 0 not in found.trusted
    run.content.close()
