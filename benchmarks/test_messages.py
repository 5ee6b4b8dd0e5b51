"""Decoding what one peer sends: a gulp at a time, and in the segments that a real network delivers."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from btor.limits import BLOCK, GULP_MAX, MIB
from btor.metainfo.geometry import Geometry
from btor.wire.messages import MessageReader, put_block_header

SEGMENT = 1448  # bytes of a TCP segment on Ethernet
PIECE_LENGTH = MIB
GEOMETRY = Geometry(1024 * PIECE_LENGTH, PIECE_LENGTH)
HEADER = 13


def stream(size: int) -> bytes:
    """Whole blocks in order, at least ``size`` bytes of them."""
    data = bytearray()
    block = 0
    per_piece = PIECE_LENGTH // BLOCK
    while len(data) < size:
        header = bytearray(HEADER)
        put_block_header(memoryview(header), 0, block // per_piece, block % per_piece * BLOCK, BLOCK)
        data += header + bytes(BLOCK)
        block += 1
    return bytes(data)


def decode(data: memoryview, shared: memoryview, gulp: int) -> int:
    """Feed ``data`` in arrivals of ``gulp`` bytes, copied as the kernel would; how many blocks came out."""
    reader = MessageReader(GEOMETRY)
    blocks = at = 0
    while at < len(data):
        arrival = data[at : at + gulp]
        got = 0
        for view in reader.targets(shared, len(arrival)):
            view[:] = arrival[got : got + len(view)]
            got += len(view)
        reader.received(shared, len(arrival))
        while (items := reader.take()) is not None:
            for item in items:
                assert isinstance(item, list) and isinstance(item[2], int)  # all are runs of blocks
                blocks += item[2]
        at += gulp
    return blocks


def bench(benchmark: BenchmarkFixture, gulp: int) -> None:
    data = stream(MIB)
    shared = memoryview(bytearray(GULP_MAX + MIB))
    benchmark.extra_info["bytes"] = len(data)
    assert benchmark(decode, memoryview(data), shared, gulp) == len(data) // (BLOCK + HEADER)


def test_decode_1_mib_in_one_gulp(benchmark: BenchmarkFixture) -> None:
    bench(benchmark, 2 * MIB)


def test_decode_1_mib_in_gulps_of_64_kib(benchmark: BenchmarkFixture) -> None:
    bench(benchmark, 64 * 1024)


def test_decode_1_mib_in_segments(benchmark: BenchmarkFixture) -> None:
    bench(benchmark, SEGMENT)


def test_copy_1_mib_in_segments(benchmark: BenchmarkFixture) -> None:
    """What of the one above is the copy that stands for the kernel's."""
    data = memoryview(stream(MIB))
    shared = memoryview(bytearray(2 * MIB))

    def copy() -> None:
        for at in range(0, len(data), SEGMENT):
            arrival = data[at : at + SEGMENT]
            shared[: len(arrival)] = arrival

    benchmark(copy)
