"""The parent's side of the hasher processes: their command, their frames, and a pool of them for blocking callers.

``hasher.py`` is the child's whole program and says what the frames look like. The engine drives children through
their pipes by itself, with ``command``, ``encode_job`` and ``ResultDecoder``; verify and create use ``run_jobs``.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from btor import limits
from btor.errors import StorageError
from btor.limits import KIB, MIB
from btor.metainfo.geometry import Geometry
from btor.storage import hasher

Segment = tuple[str | None, int, int]
"""(path, offset in the file, length): a stretch of content on disk. Path None: that many zeros."""

SHORTER = "shorter than the torrent says"
SMALL = 16 * MIB
JOB_BYTES = 4 * MIB  # of small pieces put into one job, so that pipes and wake-ups cost little
JOB_PIECES = 512
JOBS_IN_FLIGHT = 3  # a child: one being done, the next ones waiting in its pipe
IN_A_PIPE = 16 * KIB  # a job and its answer up to this size can wait in a pipe with others; a larger job goes alone
SPAWNS = 3  # a place in the pool: children that died are replaced that often, then the parent hashes by itself


class Job(NamedTuple):
    """Hash ``segments`` laid end to end, one digest per ``stride`` bytes (0: one of all). ``job`` is any uint64."""

    job: int
    segments: Sequence[Segment]
    stride: int = 0


class HashResult(NamedTuple):
    """The answer to a job. ``digests``: as the job's stride asked, None where bytes could not be read.

    ``errno`` (0: none) and ``failed``, an index into the job's segments, tell of the first failure; ENODATA: the file
    is shorter than the segment.
    """

    job: int
    digests: tuple[bytes | None, ...]
    errno: int
    failed: int

    @property
    def digest(self) -> bytes | None:
        """The one digest of a job without stride; None: it could not be read."""
        return self.digests[0] if self.digests else None


def command() -> list[str]:
    """The argument list that starts a hasher. Its standard input takes jobs, its standard output gives results."""
    return [sys.executable, "-S", "-E", "-P", hasher.__file__]


def encode_job(job: int, segments: Sequence[Segment], *, stride: int = 0) -> bytes:
    """The frame of a job for a hasher's standard input. ``stride`` limits.BLOCK asks for the digest of each block."""
    parts = []
    for path, offset, length in segments:
        name = os.fsencode(path) if path is not None else b""
        parts.append(hasher.SEGMENT.pack(offset, length, len(name)) + name)
    body = b"".join(parts)
    return hasher.JOB.pack(hasher.JOB.size - 4 + len(body), job, stride, len(parts)) + body


class ResultDecoder:
    """Cuts what comes out of a hasher into results."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[HashResult]:
        """``data`` came; the results that are whole now."""
        self._pending += data
        results: list[HashResult] = []
        position = 0
        while len(self._pending) - position >= hasher.RESULT.size:
            job, code, failed, count = hasher.RESULT.unpack_from(self._pending, position)
            start = position + hasher.RESULT.size
            end = start + count * hasher.DIGEST
            if len(self._pending) < end:
                break
            digests = bytes(self._pending[start:end])
            results.append(HashResult(job, _split(digests), code, failed))
            position = end
        del self._pending[:position]
        return results


def _split(digests: bytes) -> tuple[bytes | None, ...]:
    cut = (digests[at : at + hasher.DIGEST] for at in range(0, len(digests), hasher.DIGEST))
    return tuple(None if digest == hasher.UNREADABLE else digest for digest in cut)


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Child:
    """One hasher of a blocking pool, and the jobs it has not answered, oldest first."""

    def __init__(self) -> None:
        # in a process group of its own: the terminal's Ctrl-C is for the parent
        process = subprocess.Popen(
            command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            process_group=0 if os.name == "posix" else None,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.results = process.stdout
        self.jobs: deque[Job] = deque()
        self._requests = process.stdin
        self._decoder = ResultDecoder()
        self._alone = False  # it has a job too large to send another behind it

    def send(self, job: Job) -> bool:
        """Hand over a job; False, and nothing is done, when it must wait. OSError: the child has died.

        What lies in the pipes never fills them, so parent and child never wait for each other to read.
        """
        data = encode_job(job.job, job.segments, stride=job.stride)
        large = len(data) > IN_A_PIPE or _answer_size(job) > IN_A_PIPE
        if self.jobs and (large or self._alone or len(self.jobs) >= JOBS_IN_FLIGHT):
            return False
        self._alone = large
        self.jobs.append(job)
        frame = memoryview(data)
        while frame:
            frame = frame[self._requests.write(frame) or 0 :]
        return True

    def receive(self) -> list[HashResult] | None:
        """Results that came; None when the child has ended."""
        data = os.read(self.results.fileno(), hasher.PIPE_READ)
        if not data:
            return None
        results = self._decoder.feed(data)
        for _ in results:
            self.jobs.popleft()
        return results

    def close(self, patience: float = limits.HASHER_END) -> None:
        """End the child, whatever it does. One that the kernel holds longer than ``patience`` s is left to it."""
        self.process.kill()
        self._requests.close()
        self.results.close()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            import logging  # here, for `verify` starts without it

            logging.getLogger(__name__).warning(
                "the hasher process %d was killed and does not end: it is left to the system", self.process.pid
            )


def _answer_size(job: Job) -> int:
    length = sum(length for _, _, length in job.segments)
    return hasher.RESULT.size + hasher.DIGEST * (-(-length // job.stride) if job.stride else 1)


def hash_inline(job: Job, worker: hasher.Worker) -> HashResult:
    """Do ``job`` here, as a child would."""
    segments = [(os.fsencode(path) if path is not None else b"", at, length) for path, at, length in job.segments]
    code, failed, digests = worker.run(job.stride, segments)
    return HashResult(job.job, _split(b"".join(digests)), code, failed)


def run_jobs(jobs: Iterable[Job], processes: int | None = None) -> Iterator[HashResult]:
    """Do ``jobs`` in hasher processes (None: one per processor), yielding the results in the order of the jobs.

    Jobs are taken only as they can be handed out. A child that dies is replaced and its jobs done again; where none
    can be started, and for 0 processes, the work is done here. Close the iterator to end the children early.
    """
    pool = _Pool(jobs, processors() if processes is None else processes)
    try:
        yield from pool.results()
    finally:
        pool.close()


class _Pool:
    def __init__(self, jobs: Iterable[Job], processes: int) -> None:
        self._jobs = iter(jobs)
        self._drained = False
        self._again: deque[Job] = deque()  # handed out before, to one that died or was busy
        self._order: deque[int] = deque()  # the numbers of the jobs taken and not yielded
        self._done: dict[int, HashResult] = {}
        self._selector = selectors.DefaultSelector()
        self._children: list[_Child] = []
        self._most = processes
        self._spawns = processes * SPAWNS
        self._worker: hasher.Worker | None = None

    def results(self) -> Iterator[HashResult]:
        while True:
            self._hand_out()
            while self._order and self._order[0] in self._done:
                yield self._done.pop(self._order.popleft())
            if any(child.jobs for child in self._children):
                for key, _ in self._selector.select():
                    self._receive(key.data)
            elif self._drained and not self._order:
                return

    def close(self) -> None:
        for child in self._children:  # all at once: so they are waited for together
            child.process.kill()
        deadline = time.monotonic() + limits.HASHER_END
        for child in self._children:
            child.close(max(0.0, deadline - time.monotonic()))
        self._children.clear()
        self._selector.close()

    def _hand_out(self) -> None:
        while (job := self._next_job()) is not None:
            child = self._least_busy()
            if child is None:
                self._worker = self._worker or hasher.Worker()
                self._done[job.job] = hash_inline(job, self._worker)
                return
            try:
                sent = child.send(job)
            except OSError:
                self._bury(child)
                continue
            if not sent:
                self._again.appendleft(job)
                return

    def _next_job(self) -> Job | None:
        if self._again:
            return self._again.popleft()
        # results that come before their turn wait, so only so many jobs are begun
        if len(self._order) >= max(1, self._most) * JOBS_IN_FLIGHT * 2:
            return None
        job = next(self._jobs, None)
        if job is None:
            self._drained = True
        else:
            self._order.append(job.job)
        return job

    def _least_busy(self) -> _Child | None:
        """An idle child, else a new one while there may be more, else the least busy one. None: there is none."""
        best = min(self._children, key=lambda child: len(child.jobs), default=None)
        if (best is None or best.jobs) and len(self._children) < self._most and self._spawns:
            self._spawns -= 1
            try:
                best = _Child()
            except OSError:  # no more processes to be had
                self._spawns = 0
            else:
                self._children.append(best)
                self._selector.register(best.results, selectors.EVENT_READ, best)
        return best

    def _receive(self, child: _Child) -> None:
        results = child.receive()
        if results is None:
            self._bury(child)
            return
        for result in results:
            self._done[result.job] = result

    def _bury(self, child: _Child) -> None:
        self._selector.unregister(child.results)
        self._children.remove(child)
        self._again.extend(child.jobs)
        child.close()


def piece_jobs(
    geometry: Geometry, pieces: Iterable[int], segments: Callable[[int, int], Sequence[Segment]]
) -> Iterator[Job]:
    """Jobs for ``pieces`` (ascending): runs of neighbours of up to JOB_BYTES with the piece length as stride.

    A job's number is the run's first piece. ``segments``: as Content.segments.
    """
    most = min(JOB_PIECES, max(1, JOB_BYTES // geometry.piece_length))
    first, count = -1, 0
    for piece in pieces:
        if piece == first + count and count < most:
            count += 1
            continue
        if count:
            yield _run_job(geometry, first, count, segments)
        first, count = piece, 1
    if count:
        yield _run_job(geometry, first, count, segments)


def _run_job(geometry: Geometry, first: int, count: int, segments: Callable[[int, int], Sequence[Segment]]) -> Job:
    start = geometry.piece_offset(first)
    length = min(start + count * geometry.piece_length, geometry.total_length) - start
    return Job(first, segments(start, length), geometry.piece_length)


class PieceHash(NamedTuple):
    """``digest``: the SHA-1 of ``piece`` as it is on disk; None where it cannot be read, for what ``failure`` says."""

    piece: int
    digest: bytes | None
    failure: StorageError | None


def hash_pieces(
    geometry: Geometry,
    pieces: Iterable[int],
    segments: Callable[[int, int], Sequence[Segment]],
    processes: int | None = None,
) -> Iterator[PieceHash]:
    """Hash ``pieces`` (ascending, unique), in order. ``segments``: as Content.segments.

    ``processes``: as run_jobs, but None does little content here, before children would have started.
    """
    if processes is None and geometry.total_length <= SMALL:
        processes = 0
    for result in run_jobs(piece_jobs(geometry, pieces, segments), processes):
        failure = None
        if result.errno:
            start = geometry.piece_offset(result.job)
            length = min(len(result.digests) * geometry.piece_length, geometry.total_length - start)
            failure = _failure(segments(start, length)[result.failed], result.errno)
        for piece, digest in enumerate(result.digests, result.job):
            yield PieceHash(piece, digest, failure if digest is None else None)


def _failure(segment: Segment, code: int) -> StorageError:
    reason = SHORTER if code == hasher.SHORT else os.strerror(code)
    return StorageError("read", str(segment[0]), reason, code)
