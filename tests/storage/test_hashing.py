"""The pool of hasher processes for blocking callers."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from btor import limits
from btor.limits import BLOCK
from btor.metainfo.geometry import Geometry
from btor.storage import hashing
from btor.storage.hashing import Job, Segment, hash_pieces, piece_jobs, run_jobs
from tests.storage.torrents import random_bytes


def jobs_over(path: Path, count: int, size: int) -> Iterator[Job]:
    for job in range(count):
        yield Job(job, [(str(path), job * size, size)])


@pytest.fixture
def data_file(tmp_path: Path) -> tuple[Path, bytes]:
    data = random_bytes(60 * 10_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    return path, data


def expected(data: bytes, size: int) -> list[bytes]:
    return [hashlib.sha1(data[at : at + size]).digest() for at in range(0, len(data), size)]


class Spawned:
    """Watches the children of the pool."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.children: list[subprocess.Popen[bytes]] = []
        real = subprocess.Popen

        def popen(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
            child = real(*args, **options)
            self.children.append(child)
            return child

        monkeypatch.setattr(subprocess, "Popen", popen)


@pytest.mark.parametrize("processes", [0, 1, 3])
def test_results_come_in_order(data_file: tuple[Path, bytes], processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spawned = Spawned(monkeypatch)
    results = list(run_jobs(jobs_over(data_file[0], 60, 10_000), processes))
    assert [result.job for result in results] == list(range(60))
    assert [result.digest for result in results] == expected(data_file[1], 10_000)
    assert len(spawned.children) == processes
    assert all(child.returncode is not None for child in spawned.children)


def test_no_jobs_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    spawned = Spawned(monkeypatch)
    assert list(run_jobs(iter(()), 2)) == []
    assert not spawned.children


def test_jobs_are_taken_only_as_they_can_be_handed_out(data_file: tuple[Path, bytes]) -> None:
    taken = []

    def jobs() -> Iterator[Job]:
        for job in jobs_over(data_file[0], 60, 10_000):
            taken.append(job.job)
            yield job

    results = run_jobs(jobs(), 2)
    next(results)
    assert len(taken) <= 2 * 2 * hashing.JOBS_IN_FLIGHT + 1
    results.close()  # type: ignore[attr-defined]  # it is a generator: its callers may just drop it


def test_a_killed_child_is_replaced_and_its_jobs_done_again(
    data_file: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    spawned = Spawned(monkeypatch)
    digests = []
    for result in run_jobs(jobs_over(data_file[0], 60, 10_000), 2):
        digests.append(result.digest)
        if result.job in (5, 20):
            spawned.children[-1].kill()
            spawned.children[-1].wait()
    assert digests == expected(data_file[1], 10_000)
    assert len(spawned.children) == 4


def test_children_that_keep_dying_are_not_started_for_ever(
    data_file: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    spawned = Spawned(monkeypatch)
    monkeypatch.setattr(hashing, "command", lambda: ["false"])
    results = list(run_jobs(jobs_over(data_file[0], 60, 10_000), 2))
    assert [result.digest for result in results] == expected(data_file[1], 10_000)
    assert len(spawned.children) == 2 * hashing.SPAWNS


def test_where_no_process_can_be_started_it_is_done_here(
    data_file: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def popen(*_: Any, **__: Any) -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(subprocess, "Popen", popen)
    results = list(run_jobs(jobs_over(data_file[0], 60, 10_000), 2))
    assert [result.digest for result in results] == expected(data_file[1], 10_000)


def test_closing_early_ends_the_children(data_file: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    spawned = Spawned(monkeypatch)
    before = len(os.listdir("/proc/self/fd"))
    results = run_jobs(jobs_over(data_file[0], 60, 10_000), 2)
    next(results)
    results.close()  # type: ignore[attr-defined]  # it is a generator: its callers may just drop it
    assert all(child.returncode is not None for child in spawned.children)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_killed_child_that_the_kernel_holds_is_not_waited_for(
    data_file: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that reads from a disk that hangs: two of them take no longer than one."""
    monkeypatch.setattr(limits, "HASHER_END", 0.2)
    waited: list[float] = []
    real = subprocess.Popen.wait

    def wait(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        assert real(process) == -signal.SIGKILL
        assert timeout is not None
        waited.append(timeout)
        time.sleep(timeout)
        raise subprocess.TimeoutExpired("hasher", timeout)

    path, _ = data_file
    results = run_jobs((Job(number, [(str(path), 0, 1000)]) for number in range(100)), 2)
    next(iter(results))
    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    results.close()  # type: ignore[attr-defined]  # it is a generator: its callers may just drop it
    assert len(waited) == 2
    assert sum(waited) <= 0.2
    assert caplog.text.count("does not end") == 2


def test_a_job_of_very_many_files_and_one_of_very_many_pieces(tmp_path: Path) -> None:
    """Frames far larger than a pipe go through, both ways."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    segments: list[Segment] = []
    for index in range(2_000):
        path = folder / str(index)
        path.write_bytes(b"%d" % index)
        segments.append((str(path), 0, len(str(index))))
    whole = b"".join(b"%d" % index for index in range(2_000))
    results = list(run_jobs([Job(1, segments), Job(2, segments, 1), Job(3, segments)], 1))
    assert results[0].digest == results[2].digest == hashlib.sha1(whole).digest()
    assert results[1].digests == tuple(hashlib.sha1(bytes([byte])).digest() for byte in whole)


def test_pieces_are_put_together_into_jobs() -> None:
    def segments(offset: int, length: int) -> list[Segment]:
        return [("f", offset, length)]

    geometry = Geometry(100 * BLOCK + 5, BLOCK)
    pieces = [0, 1, 2, 50, 99, 100]
    assert list(piece_jobs(geometry, pieces, segments)) == [
        Job(0, [("f", 0, 3 * BLOCK)], BLOCK),
        Job(50, [("f", 50 * BLOCK, BLOCK)], BLOCK),
        Job(99, [("f", 99 * BLOCK, BLOCK + 5)], BLOCK),
    ]
    assert list(piece_jobs(geometry, [], segments)) == []
    big = Geometry(10 * hashing.JOB_BYTES, hashing.JOB_BYTES // 2)
    assert [job.job for job in piece_jobs(big, range(20), segments)] == list(range(0, 20, 2))
    tiny = Geometry(3_000, 1)
    assert [job.job for job in piece_jobs(tiny, range(3_000), segments)] == [0, 512, 1_024, 1_536, 2_048, 2_560]
    huge = Geometry(10 * hashing.JOB_BYTES, 2 * hashing.JOB_BYTES)
    assert [job.job for job in piece_jobs(huge, range(5), segments)] == list(range(5))


@pytest.mark.parametrize("processes", [None, 0, 2])
def test_hashing_pieces_over_a_hole_in_the_files(tmp_path: Path, processes: int | None) -> None:
    data = random_bytes(10_000)
    (tmp_path / "a").write_bytes(data[:5_000])
    (tmp_path / "c").write_bytes(data[6_000:])

    def segments(offset: int, length: int) -> list[Segment]:
        found: list[Segment] = []
        for name, start, end in (("a", 0, 5_000), ("b", 5_000, 6_000), ("c", 6_000, 10_000)):
            first, last = max(start, offset), min(end, offset + length)
            if first < last:
                found.append((str(tmp_path / name), first - start, last - first))
        return found

    found = list(hash_pieces(Geometry(10_000, 900), range(12), segments, processes))
    assert [hashed.piece for hashed in found] == list(range(12))
    for piece, digest, failure in found:
        if piece in (5, 6):
            assert digest is None
            assert failure is not None
            assert (failure.path, failure.errno) == (str(tmp_path / "b"), errno.ENOENT)
        else:
            assert digest == hashlib.sha1(data[piece * 900 : (piece + 1) * 900]).digest()
            assert failure is None


def test_the_processors_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hashing.processors() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert hashing.processors() == os.cpu_count()
