"""The policy of the disk: inline and threaded writes, what waits and its bound, pieces that cannot be believed."""

from __future__ import annotations

import errno
import hashlib
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from btor.engine.contain import Container
from btor.engine.disk import FAST_FOR, FAST_WRITE_PER_MIB, INLINE_RATE, INLINE_SPEED, Device, Disk, TorrentDisk
from btor.engine.hashers import Hashers
from btor.errors import StorageError
from btor.limits import BLOCK, DISK_QUEUE_HIGH, DISK_QUEUE_LOW, MIB, SLOW_WRITE_PER_MIB, STALLED_WRITE
from btor.storage.files import Content
from tests.engine.support import Sample, sample, until

FULL = StorageError("write", "/x", "No space left on device", errno.ENOSPC)


# --- what is known of a device ---------------------------------------------------------------------------------------


def writes(device: Device, *times: float, length: int = MIB, slept: bool = True, now: float = 0.0) -> bool:
    for took in times:
        device.on_write(length, took, now, slept=slept)
    return device.threaded


SLOW = SLOW_WRITE_PER_MIB * 1.01
NOT_SLOW = SLOW_WRITE_PER_MIB


@pytest.mark.parametrize(
    ("times", "threaded"),
    [
        ([0.001] * 100, False),
        ([NOT_SLOW] * 8, False),
        ([SLOW] * 2, False),
        ([SLOW] * 3, True),
        ([SLOW, 0.001, 0.001, SLOW, 0.001, 0.001, 0.001, SLOW], True),
        ([SLOW, 0.001, 0.001, SLOW, 0.001, 0.001, 0.001, 0.001, SLOW], False),
        ([STALLED_WRITE], False),
        ([STALLED_WRITE * 1.01], True),
    ],
)
def test_to_threads(times: list[float], threaded: bool) -> None:
    assert writes(Device(), *times) == threaded


def test_long_writes_may_take_longer() -> None:
    assert not writes(Device(), *[4 * NOT_SLOW] * 8, length=4 * MIB)
    assert writes(Device(), *[4 * SLOW] * 3, length=4 * MIB)


def test_short_writes_may_not_take_less() -> None:
    assert not writes(Device(), *[NOT_SLOW] * 8, length=1)
    assert writes(Device(), *[SLOW] * 3, length=1)


def test_a_busy_machine_is_no_slow_disk() -> None:
    assert not writes(Device(), *[1.0] * 20, slept=False)


def test_back_to_the_loop() -> None:
    device = Device()
    fast = FAST_WRITE_PER_MIB
    assert writes(device, 1.0)
    assert writes(device, fast, now=100.0)
    assert writes(device, fast, now=100.0 + FAST_FOR - 1)
    assert writes(device, fast * 1.01, now=100.0 + FAST_FOR - 0.5)  # not fast: the time begins anew
    assert writes(device, fast, now=200.0)
    assert not writes(device, fast, now=200.0 + FAST_FOR)
    assert not writes(device, SLOW, SLOW)  # what was known before is forgotten
    assert writes(device, SLOW)


def test_one_for_each_file_system() -> None:
    disk = Disk(None)  # type: ignore[arg-type]  # no hashers are needed
    assert disk.device(1) is disk.device(1)
    assert disk.device(1) is not disk.device(2)


# --- one torrent -----------------------------------------------------------------------------------------------------


class Bench:
    """The disk of one torrent, and what it told. ``hold``: a lock that every write waits for."""

    def __init__(
        self,
        content: Sample,
        top: Path,
        nursery: trio.Nursery,
        *,
        rate: float = 0.0,
        hash_speed: float = INLINE_SPEED - 1,
        disk: Disk | None = None,
    ) -> None:
        self.sample = content
        self.disk = disk or Disk(Hashers(1, nursery, Container(strict=True)))
        self.disk.hash_speed = hash_speed
        self.content = Content(content.metainfo, top, self.disk.pool, writable=True)
        self.hashed: list[tuple[int, bool]] = []
        self.void: list[int] = []
        self.errors: list[StorageError] = []
        self.writes: list[tuple[int, int, bool]] = []  # offset, length, on the loop
        self.fail: Callable[[int], StorageError | None] = lambda _offset: None
        self.gate = threading.Event()
        self.gate.set()
        self._write = self.content.write
        self.content.write = self._watched  # type: ignore[method-assign]  # it looks on, and fails where told
        self.torrent = TorrentDisk(
            self.disk,
            content.metainfo,
            self.content,
            1,
            rate=lambda _now: rate,
            on_hashed=lambda piece, good: self.hashed.append((piece, good)),
            on_void=self.void.append,
            on_error=self.errors.append,
            in_background=nursery.start_soon,
        )
        nursery.start_soon(self.torrent.run)

    @property
    def device(self) -> Device:
        return self.disk.device(1)

    def _watched(self, offset: int, views: Sequence[memoryview], length: int) -> None:
        on_loop = threading.current_thread() is threading.main_thread()
        assert on_loop or self.gate.wait(10)
        self.writes.append((offset, length, on_loop))
        error = self.fail(offset)
        if error is not None:
            raise error
        self._write(offset, views, length)

    def receive(self, piece: int, block: int, count: int = 1, data: bytes | None = None) -> None:
        """Blocks came, each in the middle of a buffer that is used again."""
        data = data or self.sample.piece(piece)[block * BLOCK : (block + count) * BLOCK]
        views = [memoryview(bytearray(data[at : at + BLOCK])) for at in range(0, len(data), BLOCK)]
        self.torrent.receive(piece, block * BLOCK, views, len(data))
        self._views = views

    def flush(self) -> None:
        """The gulp ends: its buffer is overwritten."""
        self.torrent.flush()
        for view in self._views:
            view[:] = bytes(len(view))

    def whole(self, piece: int, data: bytes | None = None) -> None:
        self.receive(piece, 0, self.sample.metainfo.geometry.block_count(piece), data)
        self.torrent.finish(piece)
        self.flush()


@pytest.fixture
async def bench(tmp_path: Path, nursery: trio.Nursery) -> Bench:
    return Bench(sample(10 * 2 * BLOCK - 100), tmp_path / "content", nursery)


async def test_inline(bench: Bench) -> None:
    for piece in range(10):
        bench.whole(piece)
    assert bench.hashed == [(piece, True) for piece in range(10)]
    assert all(on_loop for *_, on_loop in bench.writes)
    assert bench.sample.is_at(bench.content.top)


async def test_long_runs_are_one_write(bench: Bench) -> None:
    bench.receive(3, 0)
    bench.receive(3, 1)
    bench.receive(4, 0, 2)
    bench.receive(6, 1)
    bench.flush()
    assert [(offset, length) for offset, length, _ in bench.writes] == [
        (6 * BLOCK, 4 * BLOCK),
        (13 * BLOCK, BLOCK),
    ]
    assert bench.hashed == []


async def test_the_order_within_a_gulp_does_not_matter(bench: Bench) -> None:
    bench.receive(4, 1)
    bench.receive(3, 1)
    bench.receive(3, 0)
    bench.receive(4, 0)
    bench.torrent.finish(4)
    bench.torrent.finish(3)
    bench.torrent.flush()
    assert [(offset, length) for offset, length, _ in bench.writes] == [(6 * BLOCK, 4 * BLOCK)]
    assert bench.hashed == [(4, True), (3, True)]
    assert bench.disk.early.used == 0  # nothing was copied: all were hashed where they lay
    assert bench.content.top.read_bytes()[6 * BLOCK : 10 * BLOCK] == bench.sample.piece(3) + bench.sample.piece(4)


async def test_a_piece_that_begins_anew_within_a_gulp(bench: Bench) -> None:
    bench.receive(1, 0, data=bytes(BLOCK))
    bench.torrent.drop(1)
    bench.receive(2, 0)
    bench.flush()
    bench.whole(1)
    assert bench.hashed == [(1, True)]
    assert bench.content.top.read_bytes()[2 * BLOCK : 5 * BLOCK] == bench.sample.piece(1) + bench.sample.block(2, 0)


async def test_out_of_order(bench: Bench) -> None:
    bench.receive(2, 1)
    bench.flush()
    bench.receive(2, 0)
    bench.torrent.finish(2)
    bench.flush()
    assert bench.hashed == [(2, True)]


async def test_a_wrong_piece(bench: Bench) -> None:
    bench.whole(1, bytes(2 * BLOCK))
    bench.torrent.drop(1)
    bench.whole(1)
    assert bench.hashed == [(1, False), (1, True)]


async def test_a_piece_that_begins_anew(bench: Bench) -> None:
    bench.receive(1, 0, data=bytes(BLOCK))
    bench.flush()
    bench.torrent.drop(1)
    bench.whole(1)
    assert bench.hashed == [(1, True)]


async def test_block_digests(bench: Bench) -> None:
    bench.whole(9)
    with trio.fail_after(5):
        digests = await bench.torrent.block_digests(9)
    assert digests == [hashlib.sha1(bench.sample.block(9, block)).digest() for block in range(2)]
    with pytest.raises(StorageError), trio.fail_after(5):
        bench.content.top.unlink()
        bench.content.close()
        await bench.torrent.block_digests(0)


async def test_warm(bench: Bench) -> None:
    bench.whole(0)
    with trio.fail_after(5):
        await bench.torrent.warm([(0, 0, BLOCK), (0, 5, 1)])


async def test_large_fast_pieces_go_to_a_hasher(tmp_path: Path, nursery: trio.Nursery) -> None:
    content = sample(20 * MIB, piece_length=MIB)
    bench = Bench(content, tmp_path / "content", nursery, rate=INLINE_RATE)
    with trio.fail_after(10):
        for piece in range(3):
            bench.whole(piece, bytes(MIB) if piece == 1 else None)
        assert bench.hashed == []
        await until(lambda: len(bench.hashed) == 3)
    assert bench.hashed == [(0, True), (1, False), (2, True)]


async def test_a_quick_processor_needs_no_hasher(tmp_path: Path, nursery: trio.Nursery) -> None:
    bench = Bench(
        sample(20 * MIB, piece_length=MIB), tmp_path / "content", nursery, rate=INLINE_RATE, hash_speed=INLINE_SPEED
    )
    bench.whole(0)
    bench.whole(1, bytes(MIB))
    assert bench.hashed == [(0, True), (1, False)]


def test_the_speed_of_hashing() -> None:
    disk = Disk(None)  # type: ignore[arg-type]  # no hashers are needed
    assert 1e6 < disk.hash_speed < 1e11
    assert disk.hash_speed == disk.hash_speed  # measured once


@pytest.mark.parametrize(("total", "piece_length", "rate"), [(17, 1, INLINE_RATE - 1), (16, 1, 1e9), (17, 1 / 16, 1e9)])
async def test_slow_or_small_ones_do_not(
    total: float, piece_length: float, rate: float, tmp_path: Path, nursery: trio.Nursery
) -> None:
    content = sample(int(total * MIB), piece_length=int(piece_length * MIB))
    bench = Bench(content, tmp_path / "content", nursery, rate=rate)
    bench.whole(0)
    assert bench.hashed == [(0, True)]


async def test_a_hasher_that_finds_the_file_gone(tmp_path: Path, nursery: trio.Nursery) -> None:
    content = sample(20 * MIB, piece_length=MIB)
    bench = Bench(content, tmp_path / "content", nursery, rate=INLINE_RATE)
    bench.receive(0, 0, 64)
    bench.torrent.flush()
    bench.content.top.unlink()
    bench.torrent.finish(0)
    with trio.fail_after(10):
        bench.torrent.flush()
        await until(lambda: bool(bench.errors))
    (error,) = bench.errors
    assert (error.operation, error.path, error.errno) == ("read", str(bench.content.top), errno.ENOENT)
    assert error.reason == "No such file or directory"
    assert bench.hashed == []


# --- writing in threads ----------------------------------------------------------------------------------------------


async def drained(bench: Bench) -> None:
    with trio.fail_after(10):
        await bench.torrent.drain()


async def test_threaded(bench: Bench) -> None:
    writes(bench.device, 1.0)
    bench.gate.clear()
    for piece in range(10):
        bench.whole(piece)
    assert bench.hashed == []
    assert bench.disk.queued == len(bench.sample.content)
    bench.gate.set()
    await drained(bench)
    assert bench.disk.queued == 0
    assert bench.hashed == [(piece, True) for piece in range(10)]
    assert not any(on_loop for *_, on_loop in bench.writes)
    assert bench.sample.is_at(bench.content.top)


async def test_a_piece_is_believed_only_when_it_is_written(bench: Bench) -> None:
    writes(bench.device, 1.0)
    bench.gate.clear()
    bench.whole(0)
    await trio.testing.wait_all_tasks_blocked()
    assert bench.hashed == []
    bench.gate.set()
    await drained(bench)
    assert bench.hashed == [(0, True)]


async def test_order_is_kept_when_the_disk_is_fast_again(bench: Bench) -> None:
    writes(bench.device, 1.0)
    bench.gate.clear()
    bench.whole(0, bytes(2 * BLOCK))
    bench.device.threaded = False
    bench.torrent.drop(0)
    bench.whole(0)
    assert bench.writes == []
    bench.gate.set()
    await drained(bench)
    assert bench.content.top.read_bytes()[: 2 * BLOCK] == bench.sample.piece(0)
    bench.whole(1)
    assert bench.writes[-1][2]  # on the loop again


async def test_F14_everybody_waits_for_a_disk_that_is_behind_and_goes_on(tmp_path: Path, nursery: trio.Nursery) -> None:
    content = sample(32 * MIB, piece_length=MIB)
    bench = Bench(content, tmp_path / "content", nursery)
    writes(bench.device, 1.0)
    bench.gate.clear()
    through: list[int] = []

    async def reader(number: int) -> None:
        await bench.torrent.room_to_write()
        through.append(number)

    piece = 0
    while bench.disk.queued < DISK_QUEUE_HIGH:
        bench.whole(piece)
        piece += 1
    with trio.fail_after(10):
        await reader(0)  # on the bound there is room
        assert bench.disk.queued == DISK_QUEUE_HIGH
        bench.whole(piece)
        for number in range(1, 4):
            nursery.start_soon(reader, number)
        await trio.testing.wait_all_tasks_blocked()
        assert through == [0]
        bench.gate.set()
        await until(lambda: len(through) == 4)
        await drained(bench)


async def test_there_is_room_again_only_below_the_low_mark(nursery: trio.Nursery) -> None:
    disk = Disk(Hashers(0, nursery, Container()))
    through: list[int] = []

    async def reader() -> None:
        await disk.room()
        through.append(disk.queued)

    with trio.fail_after(5):
        disk.on_queued(DISK_QUEUE_HIGH + 1)
        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        disk.on_queued(DISK_QUEUE_LOW - DISK_QUEUE_HIGH)
        await trio.testing.wait_all_tasks_blocked()
        assert through == []
        disk.on_queued(-1)
        await trio.testing.wait_all_tasks_blocked()
        assert through == [DISK_QUEUE_LOW]


# --- what cannot be written ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threaded", [False, True])
async def test_a_piece_that_was_not_written_is_never_believed(bench: Bench, threaded: bool) -> None:
    if threaded:
        writes(bench.device, 1.0)
    bench.fail = lambda offset: FULL if offset == 2 * 2 * BLOCK else None
    bench.receive(2, 0)
    bench.flush()
    bench.receive(2, 1)
    bench.torrent.finish(2)
    bench.flush()
    await drained(bench)
    assert bench.errors == [FULL]
    assert bench.void == [2]
    assert bench.hashed == []
    bench.fail = lambda _: None
    bench.whole(2)
    await drained(bench)
    assert bench.hashed == [(2, True)]


@pytest.mark.parametrize("threaded", [False, True])
async def test_all_pieces_of_a_run_that_was_not_written(bench: Bench, threaded: bool) -> None:
    if threaded:
        writes(bench.device, 1.0)
    bench.fail = lambda _: FULL
    bench.receive(2, 1)
    bench.receive(3, 0, 2)
    bench.receive(4, 0)
    bench.torrent.finish(3)
    bench.flush()
    await drained(bench)
    bench.fail = lambda _: None
    bench.receive(2, 0)
    bench.flush()
    bench.receive(4, 1)
    for piece in (2, 4, 5):
        bench.torrent.finish(piece)
    bench.receive(5, 0, 2)
    bench.flush()
    await drained(bench)
    assert sorted(bench.void) == [2, 3, 4]
    assert bench.hashed == [(5, True)]


async def test_a_failed_write_frees_its_place_in_the_queue(bench: Bench) -> None:
    writes(bench.device, 1.0)
    bench.fail = lambda _: FULL
    for piece in range(10):
        bench.whole(piece)
    await drained(bench)
    assert bench.disk.queued == 0
    assert sorted(bench.void) == list(range(10))
    assert len(bench.errors) == 10


async def test_random_arrivals(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Blocks in any order, some gulps threaded, some writes failing: what is believed is on disk."""
    for seed in range(20):
        rng = random.Random(seed)
        print(f"seed {seed}")  # noqa: T201  # shown when the test fails
        content = sample(12 * 3 * BLOCK - 77, piece_length=3 * BLOCK)
        bench = Bench(content, tmp_path / f"content{seed}", nursery)
        bench.fail = lambda _offset, rng=rng: FULL if rng.random() < 0.05 else None  # type: ignore[misc]
        pending: list[int] = list(range(12))
        with trio.fail_after(20):
            while pending:
                blocks = [
                    (piece, block) for piece in pending for block in range(content.metainfo.geometry.block_count(piece))
                ]
                rng.shuffle(blocks)
                left = {piece: content.metainfo.geometry.block_count(piece) for piece in pending}
                for piece, block in blocks:
                    bench.device.threaded = rng.random() < 0.5
                    bench.receive(piece, block)
                    left[piece] -= 1
                    if not left[piece]:
                        bench.torrent.finish(piece)
                    bench.flush()
                await bench.torrent.drain()
                pending, bench.void[:] = list(bench.void), []
        assert sorted(bench.hashed) == [(piece, True) for piece in range(12)]
        assert content.is_at(bench.content.top)
        assert bench.disk.queued == 0
        assert bench.disk.early.used == 0
