"""The hasher process: reads files back through the page cache and answers with SHA-1 digests.

Run as ``python -S -E -P hasher.py``, standard library only: it starts in about 20 ms. Jobs come on standard input and
results go to standard output, in order, framed as below. It ends when its standard input does, so it never outlives
its parent, and ignores the signals that a terminal or a supervisor sends to the whole group.

Frames, all numbers big-endian. A job: ``JOB`` (bytes that follow, job, stride, segments), then for each segment
``SEGMENT`` (offset in the file, length, bytes of the path) and the path. No path: that many zeros (padding files).
A result: ``RESULT`` (job, errno, failed segment, digests), then the 20-byte digests, one per ``stride`` bytes of the
segments laid end to end (stride 0: one of all). A digest over bytes that could not be read is ``UNREADABLE``; errno
and segment (0 without one) are those of the first failure, or of the first that is not just missing bytes, if any.
ENODATA: the file is shorter than the segment.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import struct
from collections.abc import Iterator

JOB = struct.Struct(">IQII")
SEGMENT = struct.Struct(">QQH")
RESULT = struct.Struct(">QiII")
DIGEST = 20
UNREADABLE = bytes(DIGEST)
BUFFER = 512 * 1024
PIPE_READ = 64 * 1024
SHORT = errno.ENODATA
NOT_THERE = (errno.ENOENT, SHORT)

Segment = tuple[bytes, int, int]  # path (empty: zeros), offset, length


class _Strides:
    """Cuts what is fed into strides and keeps a digest of each."""

    def __init__(self, stride: int) -> None:
        self._stride = stride or 1 << 62
        self._left = self._stride
        self._bad = False
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self.digests: list[bytes] = []

    def feed(self, view: memoryview) -> None:
        while len(view) >= self._left:
            self._sha1.update(view[: self._left])
            view = view[self._left :]
            self._end()
        if view:
            self._sha1.update(view)
            self._left -= len(view)

    def skip(self, count: int) -> None:
        """``count`` bytes cannot be had: every stride they touch has no digest."""
        while count >= self._left:
            count -= self._left
            self._bad = True
            self._end()
        if count:
            self._bad = True
            self._left -= count

    def finish(self) -> list[bytes]:
        if self._left != self._stride:
            self._end()
        return self.digests

    def _end(self) -> None:
        self.digests.append(UNREADABLE if self._bad else self._sha1.digest())
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._left = self._stride
        self._bad = False


class Worker:
    """Does jobs, one after the other, with one buffer."""

    def __init__(self) -> None:
        self._view = memoryview(bytearray(BUFFER))
        self._zeros = memoryview(bytes(BUFFER))

    def run(self, stride: int, segments: list[Segment]) -> tuple[int, int, list[bytes]]:
        """(errno, failed segment, digests) of the segments laid end to end; see the top of this file."""
        strides = _Strides(stride)
        first: tuple[int, int] | None = None
        for index, (path, offset, length) in enumerate(segments):
            done = 0
            failure = 0
            try:
                for view in self._read(path, offset, length):
                    strides.feed(view)
                    done += len(view)
            except OSError as error:
                failure = error.errno or errno.EIO
            if done < length:
                strides.skip(length - done)
                if first is None or (first[0] in NOT_THERE and failure and failure not in NOT_THERE):
                    first = failure or SHORT, index
        return (*(first or (0, 0)), strides.finish())

    def _read(self, path: bytes, offset: int, length: int) -> Iterator[memoryview]:
        if not path:
            while length:
                count = min(length, BUFFER)
                yield self._zeros[:count]
                length -= count
            return
        # opened anew for each segment: 2 µs, and never a file that another has replaced meanwhile
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            while length:
                count = self._read_at(fd, self._view[: min(length, BUFFER)], offset)
                if not count:
                    return
                yield self._view[:count]
                offset += count
                length -= count
        finally:
            os.close(fd)

    def _read_at(self, fd: int, view: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(fd, [view], offset)
        os.lseek(fd, offset, os.SEEK_SET)
        data = os.read(fd, len(view))
        view[: len(data)] = data
        return len(data)


def _decode_segments(frame: bytes, count: int) -> list[Segment]:
    segments = []
    position = JOB.size
    for _ in range(count):
        offset, length, path_length = SEGMENT.unpack_from(frame, position)
        position += SEGMENT.size
        segments.append((frame[position : position + path_length], offset, length))
        position += path_length
    return segments


def _jobs(fd: int) -> Iterator[bytes]:
    pending = bytearray()
    while data := os.read(fd, PIPE_READ):
        pending += data
        while len(pending) >= JOB.size:
            size = 4 + int.from_bytes(pending[:4], "big")
            if len(pending) < size:
                break
            frame = bytes(pending[:size])
            del pending[:size]
            yield frame


def main() -> None:
    for name in ("SIGINT", "SIGHUP", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    worker = Worker()
    for frame in _jobs(0):
        _, job, stride, count = JOB.unpack_from(frame)
        code, failed, digests = worker.run(stride, _decode_segments(frame, count))
        answer = memoryview(RESULT.pack(job, code, failed, len(digests)) + b"".join(digests))
        try:
            while answer:
                answer = answer[os.write(1, answer) :]
        except BrokenPipeError:  # the parent is gone
            return


if __name__ == "__main__":
    main()
