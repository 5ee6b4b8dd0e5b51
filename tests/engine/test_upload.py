"""The frames of blocks: whole and short ones, runs and leaps, what the page cache holds and what it lacks."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import pytest

from btor.engine.upload import BLOCKS_AT_ONCE, Request, SendBuffer
from btor.limits import BLOCK, PIECE_HEADER
from btor.metainfo.geometry import Geometry


class Reader:
    """Content in memory. ``cached``: the content bytes in the page cache; ``calls``: (offset, number of views)."""

    def __init__(self, content: bytes, cached: range | None = None) -> None:
        self.content = content
        self.cached = range(len(content)) if cached is None else cached
        self.calls: list[tuple[int, int]] = []

    def read_into(self, offset: int, views: Sequence[memoryview], *, cached_only: bool = False) -> bool:
        self.calls.append((offset, len(views)))
        length = sum(map(len, views))
        hit = offset in self.cached and offset + length - 1 in self.cached
        at = offset
        for view in views:
            view[:] = self.content[at : at + len(view)] if hit or not cached_only else b"\xee" * len(view)
            at += len(view)
        return hit or not cached_only


def framed(geometry: Geometry, content: bytes, requests: Sequence[Request]) -> bytes:
    out = b""
    for piece, begin, length in requests:
        start = geometry.piece_offset(piece) + begin
        out += struct.pack(">IBII", 9 + length, 7, piece, begin) + content[start : start + length]
    return out


def make(total: int, piece_length: int) -> tuple[Geometry, bytes]:
    return Geometry(total, piece_length), random.Random(total).randbytes(total)


LAYOUTS: dict[str, list[Request]] = {
    "one": [(0, 0, BLOCK)],
    "a run": [(0, 0, BLOCK), (0, BLOCK, BLOCK), (0, 2 * BLOCK, BLOCK)],
    "over the end of a piece": [(0, 3 * BLOCK, BLOCK), (1, 0, BLOCK)],
    "leaps": [(2, 0, BLOCK), (0, 0, BLOCK), (1, BLOCK, BLOCK)],
    "backwards": [(0, BLOCK, BLOCK), (0, 0, BLOCK)],
    "twice the same": [(0, 0, BLOCK), (0, 0, BLOCK)],
    "the short last block": [(4, 0, BLOCK), (4, BLOCK, 100)],
    "short, then whole": [(4, BLOCK, 100), (0, 0, BLOCK), (0, BLOCK, BLOCK)],
    "parts of blocks": [(0, 1, 5), (0, 6, BLOCK), (0, 6 + BLOCK, 1), (1, 77, 2)],
    "one byte": [(3, 12_345, 1)],
    "many": [(piece, block * BLOCK, BLOCK) for piece in range(4) for block in range(4)],
}


@pytest.mark.parametrize("requests", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts(requests: list[Request]) -> None:
    geometry, content = make(4 * 4 * BLOCK + BLOCK + 100, 4 * BLOCK)
    buffer = SendBuffer()
    for _ in range(2):  # the buffer is used again and again
        view, answered = buffer.lay_out(requests, 10**9, geometry, Reader(content), cached_only=True)
        assert answered == len(requests)
        assert bytes(view) == framed(geometry, content, requests)


def test_random_layouts() -> None:
    geometry, content = make(500_000, 30_000)
    rng = random.Random(1)
    buffer = SendBuffer()
    for _ in range(200):
        requests = []
        for _ in range(rng.randrange(1, 20)):
            piece = rng.randrange(geometry.piece_count)
            begin = rng.choice([0, rng.randrange(geometry.piece_size(piece))])
            requests.append((piece, begin, rng.randrange(1, min(BLOCK, geometry.piece_size(piece) - begin) + 1)))
        view, answered = buffer.lay_out(requests, 10**9, geometry, Reader(content), cached_only=False)
        assert answered == len(requests)
        assert bytes(view) == framed(geometry, content, requests)


def test_neighbours_are_read_in_one_call() -> None:
    geometry, content = make(16 * BLOCK, 4 * BLOCK)
    reader = Reader(content)
    SendBuffer().lay_out(LAYOUTS["many"], 10**9, geometry, reader, cached_only=True)
    assert reader.calls == [(0, 16)]


@pytest.mark.parametrize(
    ("budget", "blocks"),
    [
        (0, 1),
        (1, 1),
        (BLOCK + PIECE_HEADER, 1),
        (BLOCK + PIECE_HEADER + 1, 2),
        (3 * (BLOCK + PIECE_HEADER), 3),
        (10**9, 16),
    ],
)
def test_the_budget(budget: int, blocks: int) -> None:
    geometry, content = make(16 * BLOCK, 4 * BLOCK)
    requests = LAYOUTS["many"]
    view, answered = SendBuffer().lay_out(requests, budget, geometry, Reader(content), cached_only=True)
    assert answered == blocks
    assert bytes(view) == framed(geometry, content, requests[:blocks])


def test_no_more_than_the_buffer_holds() -> None:
    geometry, content = make(4 * BLOCK, BLOCK)
    requests = [(number % 4, 0, BLOCK) for number in range(BLOCKS_AT_ONCE + 1)]
    view, answered = SendBuffer().lay_out(requests, 10**9, geometry, Reader(content), cached_only=True)
    assert answered == BLOCKS_AT_ONCE
    assert bytes(view) == framed(geometry, content, requests[:BLOCKS_AT_ONCE])


def test_nothing_cached() -> None:
    geometry, content = make(16 * BLOCK, 4 * BLOCK)
    requests = LAYOUTS["many"]
    reader = Reader(content, range(0))
    view, answered = SendBuffer().lay_out(requests, 10**9, geometry, reader, cached_only=True)
    assert (bytes(view), answered) == (b"", 0)
    view, answered = SendBuffer().lay_out(requests, 10**9, geometry, reader, cached_only=False)
    assert bytes(view) == framed(geometry, content, requests)


@pytest.mark.parametrize("cached", [range(BLOCK), range(5 * BLOCK), range(BLOCK + 5)])
def test_only_the_beginning_cached(cached: range) -> None:
    """As much as is surely there is sent, at least the first block; nothing that was not read."""
    geometry, content = make(16 * BLOCK, 4 * BLOCK)
    requests = LAYOUTS["many"]
    view, answered = SendBuffer().lay_out(requests, 10**9, geometry, Reader(content, cached), cached_only=True)
    assert 1 <= answered <= len(cached) // BLOCK
    assert bytes(view) == framed(geometry, content, requests[:answered])


def test_a_later_run_is_not_cached() -> None:
    geometry, content = make(16 * BLOCK, 4 * BLOCK)
    requests = [(0, 0, BLOCK), (0, BLOCK, 77), (3, 0, BLOCK), (3, BLOCK, BLOCK)]
    reader = Reader(content, range(4 * BLOCK))
    view, answered = SendBuffer().lay_out(requests, 10**9, geometry, reader, cached_only=True)
    assert answered == 2
    assert bytes(view) == framed(geometry, content, requests[:2])
