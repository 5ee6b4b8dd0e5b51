"""The hasher process, driven through its pipes, and what it does with each job."""

from __future__ import annotations

import errno
import hashlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.limits import BLOCK, MIB
from btor.storage import hasher
from btor.storage.hashing import HashResult, Job, ResultDecoder, Segment, command, encode_job, hash_inline
from tests.storage.torrents import random_bytes

DEADLINE = 20


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    yield process
    process.kill()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()
    process.wait()


def ask(process: subprocess.Popen[bytes], *jobs: bytes) -> list[HashResult]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"".join(jobs))
    decoder = ResultDecoder()
    results: list[HashResult] = []
    while len(results) < len(jobs):
        data = process.stdout.read(4096)
        assert data, "the hasher ended"
        results += decoder.feed(data)
    return results


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


def test_jobs_are_answered_in_order(child: subprocess.Popen[bytes], tmp_path: Path) -> None:
    data = random_bytes(3 * MIB)
    path = tmp_path / "ünïcode \n name"
    path.write_bytes(data)
    name = str(path)
    results = ask(
        child,
        encode_job(7, [(name, 0, 3 * MIB)]),
        encode_job(2**64 - 1, [(name, 5, 10), (None, 0, MIB + 1), (name, 0, 0), (name, 100, 1)]),
        encode_job(0, [(name, 0, 40_000)], stride=BLOCK),
        encode_job(1, []),
    )
    assert results[0] == HashResult(7, (sha1(data),), 0, 0)
    assert results[0].digest == sha1(data)
    assert results[1].digest == sha1(data[5:15] + bytes(MIB + 1) + data[100:101])
    assert results[2].digests == (sha1(data[:BLOCK]), sha1(data[BLOCK : 2 * BLOCK]), sha1(data[2 * BLOCK : 40_000]))
    assert results[3] == HashResult(1, (), 0, 0)
    assert results[3].digest is None


def test_what_cannot_be_read_is_named(child: subprocess.Popen[bytes], tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_bytes(b"x" * 100)
    missing = tmp_path / "missing"
    results = ask(
        child,
        encode_job(1, [(str(good), 0, 50), (str(missing), 0, 10)]),
        encode_job(2, [(str(good), 50, 51)]),
        encode_job(3, [(str(tmp_path), 0, 1)]),
        encode_job(4, [(str(good), 0, 100)]),
    )
    assert [(r.digest, r.errno, r.failed) for r in results] == [
        (None, errno.ENOENT, 1),
        (None, errno.ENODATA, 0),
        (None, errno.EISDIR, 0),
        (sha1(b"x" * 100), 0, 0),
    ]


def test_a_file_that_was_replaced_is_not_read_from_memory(child: subprocess.Popen[bytes], tmp_path: Path) -> None:
    path = tmp_path / "file"
    job = encode_job(1, [(str(path), 0, 4)])
    for data in (b"old.", b"new."):
        (tmp_path / "other").write_bytes(data)
        os.replace(tmp_path / "other", path)
        assert ask(child, job)[0].digest == sha1(data)


def test_it_ends_when_its_input_does(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(DEADLINE) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_it_ignores_the_signals_of_its_group(
    child: subprocess.Popen[bytes], tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    job = encode_job(1, [(str(path), 0, 4)])
    ask(child, job)  # it is up
    child.send_signal(number)
    assert ask(child, job)[0].digest == sha1(b"data")


def test_it_ends_when_nobody_reads_its_answers(tmp_path: Path) -> None:
    process = subprocess.Popen(command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    process.stdin.write(encode_job(1, [(None, 0, 1)]))
    assert process.wait(DEADLINE) == 0
    process.stdin.close()


PARENT = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from btor.storage.hashing import command
child = subprocess.Popen(command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_F4_it_does_not_outlive_a_killed_parent() -> None:
    root = str(Path(hasher.__file__).parents[2])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    pid = int(parent.stdout.readline())
    watched = os.pidfd_open(pid)
    parent.kill()
    parent.wait()
    readable, _, _ = select.select([watched], [], [], DEADLINE)
    assert readable, "the hasher is still there"
    os.close(watched)
    parent.stdout.close()
    parent.stdin.close()


def test_its_memory_does_not_grow_with_the_piece(child: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """T5: 128 MiB hashed as one piece, or as blocks, in one small buffer."""
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(128 * MIB)
    ask(child, encode_job(1, [(None, 0, 1)]))
    before = resident(child.pid)
    ask(child, encode_job(1, [(str(path), 0, 128 * MIB)]))
    ask(child, encode_job(1, [(str(path), 0, 128 * MIB)], stride=BLOCK))
    assert resident(child.pid) - before < 8 * MIB


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- one job, without a process ----------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.tuples(st.sampled_from(["file", "zeros", "missing", "short"]), st.integers(0, 60)), max_size=6),
    stride=st.integers(0, 50),
)
def test_strides_against_a_model(
    lengths: list[tuple[str, int]], stride: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "strides"
    if not path.exists():
        path.write_bytes(random_bytes(100))
    data = path.read_bytes()
    segments: list[Segment] = []
    model: list[int | None] = []
    for kind, length in lengths:
        if kind == "file":
            segments.append((str(path), 7, length))
            model += data[7 : 7 + length]
        elif kind == "zeros":
            segments.append((None, 0, length))
            model += bytes(length)
        elif kind == "missing":
            segments.append((str(path) + "?", 0, length))
            model += [None] * length
        else:
            segments.append((str(path), 80, length))
            model += data[80 : 80 + length]
            model += [None] * max(0, length - 20)
    step = stride or max(1, len(model))
    expected = []
    for start in range(0, len(model), step):
        part = model[start : start + step]
        expected.append(None if None in part else sha1(bytes(byte for byte in part if byte is not None)))
    assert hash_inline(Job(5, segments, stride), hasher.Worker()).digests == tuple(expected)


def test_a_serious_failure_is_told_rather_than_missing_bytes(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    result = hash_inline(Job(1, [(missing, 0, 5), (str(tmp_path), 0, 5), (missing, 0, 5)], 5), hasher.Worker())
    assert (result.errno, result.failed) == (errno.EISDIR, 1)
    assert result.digests == (None, None, None)


def test_an_error_in_the_middle_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * hasher.BUFFER))
    real = os.preadv

    def preadv(fd: int, views: list[memoryview], at: int) -> int:
        if at:
            raise OSError(errno.EIO, "no")
        return real(fd, views, at)

    monkeypatch.setattr(os, "preadv", preadv)
    result = hash_inline(Job(1, [(str(path), 0, 2 * hasher.BUFFER)], hasher.BUFFER), hasher.Worker())
    assert (result.errno, result.digests) == (errno.EIO, (sha1(bytes(hasher.BUFFER)), None))


def test_without_vectored_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    data = random_bytes(hasher.BUFFER + 100)
    path.write_bytes(data)
    monkeypatch.delattr(os, "preadv")
    assert hash_inline(Job(1, [(str(path), 50, hasher.BUFFER)]), hasher.Worker()).digest == sha1(data[50:-50])


def test_results_cut_at_every_byte() -> None:
    whole = b"".join(
        hasher.RESULT.pack(job, code, 3, count) + bytes([job]) * 20 * count
        for job, code, count in [(1, 0, 1), (2, 5, 0), (3, 0, 4)]
    )
    expected = [HashResult(1, (b"\1" * 20,), 0, 3), HashResult(2, (), 5, 3), HashResult(3, (b"\3" * 20,) * 4, 0, 3)]
    for cut in range(len(whole)):
        decoder = ResultDecoder()
        assert decoder.feed(whole[:cut]) + decoder.feed(whole[cut:]) == expected
    decoder = ResultDecoder()
    assert [result for byte in whole for result in decoder.feed(bytes([byte]))] == expected
