"""The picker in a large swarm, and what whole-torrent messages cost when there are two million pieces."""

from __future__ import annotations

import random
from collections import deque

from pytest_benchmark.fixture import BenchmarkFixture

from btor.limits import BLOCK
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.geometry import Geometry
from btor.swarm.picker import Picker
from btor.swarm.source import Source

ROOM = 16  # blocks asked of a peer at a time
MANY = 2_000_000


def bitfield(pieces: int, rng: random.Random) -> Bitfield:
    """Half of the pieces, by chance."""
    length = (pieces + 7) // 8
    bits = bytearray(rng.randbytes(length))
    if pieces % 8:
        bits[-1] &= 0xFF << 8 - pieces % 8 & 0xFF
    return Bitfield.from_wire(bytes(bits), pieces)


def swarm(pieces: int, piece_length: int, peers: int) -> tuple[Picker, list[Source]]:
    """A picker that has nothing, and unchoked peers that have half of the pieces each, every tenth all."""
    rng = random.Random(1)
    picker = Picker(Geometry(pieces * piece_length, piece_length), Bitfield(pieces), rng)
    sources = []
    for key in range(peers):
        source = picker.add_source(key)
        source.choked = False
        source.rate = 1e6
        if key % 10:
            picker.on_bitfield(source, bitfield(pieces, rng))
        else:
            picker.on_have_all(source)
        sources.append(source)
    return picker, sources


def test_100_000_pieces_200_peers(benchmark: BenchmarkFixture) -> None:
    """One round: each of the 200 peers answers what it was asked for and is asked again, pieces are verified."""
    picker, sources = swarm(100_000, 16 * BLOCK, 200)
    asked: list[deque[tuple[int, int, int]]] = [deque(picker.take(source, ROOM, 0.0)) for source in sources]
    now = 0.0
    blocks = 0

    def turn() -> None:
        nonlocal now, blocks
        now += 0.05
        for source, waiting in zip(sources, asked, strict=True):
            while waiting:
                piece, first, count = waiting.popleft()
                blocks += count
                if picker.on_blocks(source, piece, first, count)[2]:
                    picker.on_verified(piece)
            waiting.extend(picker.take(source, ROOM, now))

    benchmark.pedantic(turn, rounds=100, warmup_rounds=5)  # type: ignore[no-untyped-call]  # it has no types
    assert blocks > 100 * 200  # they were all kept busy


def test_have_among_2_000_000_pieces(benchmark: BenchmarkFixture) -> None:
    """A thousand HAVE messages of one peer."""
    picker, sources = swarm(MANY, BLOCK, 50)
    source = sources[1]
    missing = iter(piece for piece in range(MANY) if not source.has(piece))
    pieces: list[int] = []

    def thousand() -> None:
        for piece in pieces:
            picker.on_have(source, piece)

    def fresh() -> None:
        pieces[:] = [next(missing) for _ in range(1000)]

    benchmark.pedantic(thousand, setup=fresh, rounds=100)  # type: ignore[no-untyped-call]  # as above


def test_bitfield_of_2_000_000_pieces(benchmark: BenchmarkFixture) -> None:
    """A peer comes with half of the pieces, and goes."""
    picker, _ = swarm(MANY, BLOCK, 50)
    wire = bitfield(MANY, random.Random(2)).to_wire()

    def come_and_go() -> None:
        source = picker.add_source(1_000)
        picker.on_bitfield(source, Bitfield.from_wire(wire, MANY))
        picker.remove_source(source)

    benchmark(come_and_go)


def test_first_take_among_2_000_000_pieces(benchmark: BenchmarkFixture) -> None:
    """The first requests to a peer that has half of the pieces, 50 others being there."""
    picker, _ = swarm(MANY, BLOCK, 50)
    bits = bitfield(MANY, random.Random(3))

    def take() -> int:
        source = picker.add_source(1_000)
        source.choked = False
        picker.on_bitfield(source, bits)
        count = sum(run[2] for run in picker.take(source, ROOM, 0.0))
        picker.remove_source(source)
        return count

    assert benchmark(take) == ROOM
