"""The one policy of the disk: where writes, reads and hashes happen.

Writes go straight from the receive buffer to the kernel on the loop thread, in long runs: that costs least. Where a
device is slow they move to a worker thread, with a bound on what waits; over it peers stop being read. Blocks are
hashed inline as they arrive where that is cheap: small pieces, slow torrents, and all of them on a processor that is
quick at SHA-1. Elsewhere a child process reads the pieces of a fast torrent back through the page cache, so that no
hash holds the loop up. Where no child can be had, a thread does it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from operator import itemgetter
from typing import TYPE_CHECKING, Final

import trio

from btor import limits
from btor.engine.counters import Counters
from btor.engine.hashers import Hashers
from btor.errors import StorageError
from btor.limits import BLOCK, MIB
from btor.storage import system
from btor.storage.hashing import SHORTER
from btor.storage.pieces import EarlyBytes, OpenPieces
from btor.storage.pool import FilePool

if TYPE_CHECKING:
    from btor.engine.upload import Request
    from btor.metainfo.torrent_file import Metainfo
    from btor.storage.files import Content
    from btor.storage.hashing import HashResult

INLINE_PIECE: Final = 64 * 1024  # up to this piece length a child costs more than it saves
INLINE_TORRENT: Final = 16 * MIB  # a small torrent is there before a child has started
INLINE_RATE: Final = 24 * MIB  # bytes/s below which hashing inline takes less than 4 % of a core
INLINE_SPEED: Final = 1_200_000_000  # bytes/s of SHA-1 from which a child's read back costs more than the hash
TIMED_HASH: Final = 64 * 1024  # bytes hashed to learn that speed, the best of
TIMED_HASHES: Final = 5  # times, 0.5 ms in all: others may hold the processor
SLOW_WRITES: Final = 3  # of the last
WRITES_WATCHED: Final = 8
DISK_THREADS: Final = 4
FAST_WRITE_PER_MIB: Final = 0.002
FAST_FOR: Final = 10.0
NO_SPACE: Final = frozenset((errno.ENOSPC, errno.EDQUOT))

_Run = tuple[int, int, int, int, list[memoryview]]  # content offset, length, piece, begin in it, the bytes


class Device:
    """What is known of one file system's speed."""

    def __init__(self) -> None:
        self.threaded = False
        self._slow: deque[bool] = deque(maxlen=WRITES_WATCHED)
        self._fast_since: float | None = None

    def on_write(self, length: int, took: float, now: float, *, slept: bool = True) -> None:
        """A write of ``length`` bytes took that many seconds. ``slept``: the kernel waited for something.

        A busy machine makes writes slow too, but not by sleep; then a thread would only be one more in the queue.
        """
        size = max(length / MIB, 1.0)
        if self.threaded:
            if took > FAST_WRITE_PER_MIB * size:
                self._fast_since = None
            elif self._fast_since is None:
                self._fast_since = now
            elif now - self._fast_since >= FAST_FOR:
                self.threaded = False
                self._slow.clear()
            return
        self._slow.append(slept and took > limits.SLOW_WRITE_PER_MIB * size)
        if (slept and took > limits.STALLED_WRITE * size) or sum(self._slow) >= SLOW_WRITES:
            self.threaded = True
            self._fast_since = None


class Disk:
    """What the torrents of a session share: descriptors, threads, hashers, and the bounds on what waits."""

    def __init__(self, hashers: Hashers, counters: Counters | None = None) -> None:
        self.counters = counters or Counters()
        self.pool = FilePool()
        self.early = EarlyBytes()
        self.hashers = hashers
        self.threads = trio.CapacityLimiter(DISK_THREADS)
        self.queued = 0  # bytes that wait for a writing thread
        self._devices: dict[int, Device] = {}
        self._drained = trio.Event()

    def device(self, number: int) -> Device:
        """The file system ``number`` (st_dev)."""
        return self._devices.setdefault(number, Device())

    @cached_property
    def hash_speed(self) -> float:
        """Bytes/s of SHA-1 on this processor."""
        data = bytes(TIMED_HASH)
        times = []
        for _ in range(TIMED_HASHES):
            started = time.perf_counter()
            hashlib.sha1(data, usedforsecurity=False)
            times.append(time.perf_counter() - started)
        return TIMED_HASH / max(min(times), sys.float_info.epsilon)

    def on_queued(self, size: int) -> None:
        """``size`` bytes more (or less) wait."""
        self.queued += size
        if self.queued <= limits.DISK_QUEUE_LOW:
            self._drained.set()

    async def room(self) -> None:
        """Return once there is room to queue; peers are not read meanwhile."""
        while self.queued > limits.DISK_QUEUE_HIGH:
            if self._drained.is_set():
                self._drained = trio.Event()
            await self._drained.wait()


class TorrentDisk:
    """The disk work of one torrent.

    On the loop, ``on_hashed(piece, matches)`` is told of every finished piece, ``on_void(piece)`` of one that cannot be
    believed because a part of it could not be written, and ``on_error`` of each StorageError. ``in_background(child,
    *args)`` runs a write that nobody can stop: who waits for it may go, and the end of the session abandons it.
    """

    def __init__(
        self,
        disk: Disk,
        metainfo: Metainfo,
        content: Content,
        device: int,
        *,
        rate: Callable[[float], float],
        on_hashed: Callable[[int, bool], None],
        on_void: Callable[[int], None],
        on_error: Callable[[StorageError], None],
        in_background: Callable[..., None],
    ) -> None:
        self.content = content
        self._disk = disk
        self._metainfo = metainfo
        self._geometry = metainfo.geometry
        self._device = disk.device(device)
        self._open = OpenPieces(self._geometry, disk.early)
        self._inline: dict[int, bool] = {}  # of each open piece: hashed as it comes
        self._always_inline = (
            self._geometry.piece_length <= INLINE_PIECE or self._geometry.total_length <= INLINE_TORRENT
        )
        self._rate = rate
        self._on_hashed = on_hashed
        self._on_void = on_void
        self._void: set[int] = set()  # open pieces of which something could not be written
        self._on_error = on_error
        self._in_background = in_background
        self._runs: list[_Run] = []  # what came in one gulp
        self._finished: list[int] = []
        # threaded mode
        self._queue: deque[tuple[int, bytes]] = deque()
        self._waiting_finished: deque[tuple[int, int]] = deque()  # (writes before it, piece)
        self._writes_queued = 0
        self._writes_done = 0
        self._work = trio.Event()
        self._writing = trio.Lock()
        self._in_hand: trio.Event | None = None  # the first of the queue is being written: set when it is

    # ------------------------------------------------------------------------------------------ receiving

    def receive(self, piece: int, begin: int, views: list[memoryview], length: int) -> None:
        """New content of ``piece`` from byte ``begin`` on. Kept until `flush`."""
        if piece not in self._inline:
            self._inline[piece] = (
                self._always_inline
                or self._rate(trio.current_time()) < INLINE_RATE
                or self._disk.hash_speed >= INLINE_SPEED
            )
        self._runs.append((self._geometry.piece_offset(piece) + begin, length, piece, begin, views))

    def finish(self, piece: int) -> None:
        """All of ``piece`` was received: after the next `flush`, ``on_hashed`` hears of it."""
        self._finished.append(piece)

    def flush(self) -> None:
        """Hand what was received to the kernel, and see to the pieces that are whole."""
        if self._runs:
            self._hash_and_write()
        if self._finished:
            finished, self._finished = self._finished, []
            for piece in finished:
                if self._writes_queued > self._writes_done:
                    self._waiting_finished.append((self._writes_queued, piece))
                else:
                    self._verify(piece)

    def drop(self, piece: int) -> None:
        """The blocks of an open piece are void: it starts anew."""
        self._open.drop(piece)
        self._inline.pop(piece, None)
        self._void.discard(piece)

    def _hash_and_write(self) -> None:
        """See to what came in this gulp, in the order of the content.

        Senders that read several blocks at once mix up their order: sorted, most hash where they lie, without a copy,
        and go to the kernel in a few long writes.
        """
        runs, self._runs = self._runs, []
        runs.sort(key=itemgetter(0))
        offset, length, views = runs[0][0], 0, list[memoryview]()
        for next_offset, next_length, piece, begin, next_views in runs:
            if self._inline.get(piece):  # unless it was dropped in this gulp
                started = time.perf_counter()
                self._open.feed(piece, begin, next_views)
                self._disk.counters.hashing += time.perf_counter() - started
            if next_offset == offset + length:
                length += next_length
                views = views + next_views
            else:
                self._write(offset, length, views)
                offset, length, views = next_offset, next_length, next_views
        self._write(offset, length, views)

    def _write(self, offset: int, length: int, views: list[memoryview]) -> None:
        if self._device.threaded or self._queue:
            self._queue.append((offset, b"".join(views)))
            self._writes_queued += 1
            self._disk.on_queued(length)
            self._work.set()
        else:
            try:
                self._write_now(offset, views, length)
            except StorageError as error:
                self._on_write_error(error, offset, length)

    def _write_in_thread(self, offset: int, data: bytes) -> None:
        with self.content.users:
            self._write_now(offset, [memoryview(data)], len(data))

    def _write_now(self, offset: int, views: Sequence[memoryview], length: int) -> None:
        sleeps = system.voluntary_switches()
        started = time.perf_counter()
        self.content.write(offset, views, length)
        took = time.perf_counter() - started
        self._disk.counters.writes += 1
        self._disk.counters.writing += took
        self._device.on_write(length, took, started, slept=system.voluntary_switches() != sleeps or sleeps < 0)

    def _on_write_error(self, error: StorageError, offset: int, length: int) -> None:
        self._distrust(offset, length)
        self._on_error(error)

    def _distrust(self, offset: int, length: int) -> None:
        """Whatever the hash of these pieces will say, the disk does not hold them."""
        piece_length = self._geometry.piece_length
        self._void.update(range(offset // piece_length, (offset + length - 1) // piece_length + 1))

    async def room_to_write(self) -> None:
        """Wait while too much waits for the disk."""
        if self._disk.queued > limits.DISK_QUEUE_HIGH:
            await self._disk.room()

    async def run(self) -> None:
        """The writing thread's task, for ever; idle while writes go inline."""
        while True:
            if not self._queue:
                self._work = trio.Event()
                await self._work.wait()
            await self._write_next()

    async def drain(self) -> None:
        """Return when nothing waits to be written."""
        while self._queue:
            await self._write_next()

    def abandon(self) -> None:
        """The torrent has ended: what waits is not written, and what it has of the session's bounds is free."""
        while len(self._queue) > (self._in_hand is not None):  # the first one is being written
            self._disk.on_queued(-len(self._queue.pop()[1]))
        self._open.clear()

    async def _write_next(self) -> None:
        async with self._writing:
            if not self._queue:
                return
            if self._in_hand is None:
                self._in_hand = trio.Event()
                self._in_background(self._write_first, self._in_hand)
            await self._in_hand.wait()

    async def _write_first(self, ended: trio.Event) -> None:
        offset, data = self._queue[0]
        written = False
        try:
            await trio.to_thread.run_sync(
                self._write_in_thread, offset, data, limiter=self._disk.threads, abandon_on_cancel=True
            )
            written = True
        except StorageError as error:
            self._on_error(error)
        finally:
            if not written:
                self._distrust(offset, len(data))
            self._queue.popleft()
            self._writes_done += 1
            self._disk.on_queued(-len(data))
            self._in_hand = None
            ended.set()
        while self._waiting_finished and self._waiting_finished[0][0] <= self._writes_done:
            self._verify(self._waiting_finished.popleft()[1])

    # ------------------------------------------------------------------------------------------ hashing

    def _verify(self, piece: int) -> None:
        if piece in self._void:
            self.drop(piece)
            self._on_void(piece)
            return
        digest = self._open.digest(piece) if self._inline.pop(piece, False) else None
        if digest is not None:
            self._on_hashed(piece, digest == self._metainfo.piece_hash(piece))
            return
        size = self._geometry.piece_size(piece)
        segments = self.content.segments(self._geometry.piece_offset(piece), size)
        self._disk.hashers.submit(segments, partial(self._on_result, piece))

    def _on_result(self, piece: int, result: HashResult) -> None:
        if result.digest is None:
            segment = self.content.segments(self._geometry.piece_offset(piece), self._geometry.piece_size(piece))
            path = segment[result.failed][0] or ""
            self._on_error(StorageError.from_os_error("read", path, OSError(result.errno, _reason(result.errno))))
            return
        self._on_hashed(piece, result.digest == self._metainfo.piece_hash(piece))

    async def block_digests(self, piece: int) -> list[bytes]:
        """SHA-1 of each block of ``piece`` as it is on disk. StorageError."""
        return await trio.to_thread.run_sync(
            self._block_digests, piece, limiter=self._disk.threads, abandon_on_cancel=True
        )

    def _block_digests(self, piece: int) -> list[bytes]:
        digests = []
        block = memoryview(bytearray(BLOCK))
        for number in range(self._geometry.block_count(piece)):
            view = block[: self._geometry.block_size(piece, number)]
            self.content.read_into(self._geometry.piece_offset(piece) + number * BLOCK, [view])
            digests.append(hashlib.sha1(view, usedforsecurity=False).digest())
        return digests

    # ------------------------------------------------------------------------------------------ reading

    async def warm(self, requests: Iterable[Request]) -> None:
        """Read blocks in a thread so that they are in the page cache. StorageError."""
        await trio.to_thread.run_sync(self._warm, list(requests), limiter=self._disk.threads, abandon_on_cancel=True)

    def _warm(self, requests: list[Request]) -> None:
        for piece, begin, length in requests:
            view = memoryview(bytearray(length))
            self.content.read_into(self._geometry.piece_offset(piece) + begin, [view])


def _reason(code: int) -> str:
    return SHORTER if code == errno.ENODATA else os.strerror(code)
