"""Running hashes of open pieces."""

from __future__ import annotations

import hashlib
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import limits
from btor.limits import BLOCK, MIB
from btor.metainfo.geometry import Geometry
from btor.storage.pieces import EarlyBytes, OpenPieces
from tests.storage.torrents import random_bytes


def feed(pieces: OpenPieces, geometry: Geometry, data: bytes, piece: int, first: int, count: int = 1) -> None:
    start = geometry.piece_offset(piece) + first * BLOCK
    buffer = bytearray(data[start : start + geometry.run_size(piece, first, count)])
    views = [memoryview(buffer)[at : at + BLOCK] for at in range(0, len(buffer), BLOCK)]
    pieces.feed(piece, first * BLOCK, views)
    buffer[:] = bytes(len(buffer))  # the receive buffer is used again


def expected(geometry: Geometry, data: bytes, piece: int) -> bytes:
    start = geometry.piece_offset(piece)
    return hashlib.sha1(data[start : start + geometry.piece_size(piece)]).digest()


@given(
    length=st.integers(1, 20 * BLOCK),
    piece_length=st.integers(1, 6 * BLOCK),
    room=st.integers(0, 8 * BLOCK),
    seed=st.integers(0, 1000),
)
def test_any_order_gives_the_hash_or_asks_for_a_read_back(length: int, piece_length: int, room: int, seed: int) -> None:
    """However blocks come, a digest is that of the piece, and the early ones never take more than their room."""
    piece_length = max(piece_length, length // 40 + 1)
    geometry = Geometry(length, piece_length)
    data = random_bytes(length)
    early = EarlyBytes(room)
    pieces = OpenPieces(geometry, early)
    rng = random.Random(seed)
    blocks = [(piece, block) for piece in range(geometry.piece_count) for block in range(geometry.block_count(piece))]
    if seed % 4:
        rng.shuffle(blocks)
    left = {piece: geometry.block_count(piece) for piece in range(geometry.piece_count)}
    read_back = 0
    for piece, block in blocks:
        feed(pieces, geometry, data, piece, block)
        assert 0 <= early.used <= room
        left[piece] -= 1
        if not left[piece]:
            digest = pieces.digest(piece)
            read_back += digest is None
            assert digest in (None, expected(geometry, data, piece))
    assert early.used == 0
    assert len(pieces) == 0
    if seed % 4 == 0 or room >= length:
        assert read_back == 0


def test_the_session_shares_one_bound() -> None:
    """T5, OUT_OF_ORDER: what fits to the byte waits; one byte more is read back."""
    geometry = Geometry(2 * limits.OUT_OF_ORDER, limits.OUT_OF_ORDER + BLOCK)
    early = EarlyBytes()
    one, two = OpenPieces(geometry, early), OpenPieces(geometry, early)
    data = random_bytes(2 * limits.OUT_OF_ORDER)
    blocks = limits.OUT_OF_ORDER // BLOCK
    feed(one, geometry, data, 0, 1, blocks)
    assert early.used == limits.OUT_OF_ORDER
    two.feed(1, BLOCK, [memoryview(b"x")])
    feed(two, geometry, data, 1, 0, geometry.block_count(1))
    assert two.digest(1) is None
    feed(one, geometry, data, 0, 0)
    assert one.digest(0) == expected(geometry, data, 0)
    assert early.used == 0


def test_a_piece_that_lost_its_place_gives_its_bytes_back_at_once() -> None:
    geometry = Geometry(MIB, MIB)
    early = EarlyBytes(3 * BLOCK)
    pieces = OpenPieces(geometry, early)
    data = random_bytes(MIB)
    feed(pieces, geometry, data, 0, 1, 3)
    feed(pieces, geometry, data, 0, 5)
    assert early.used == 0
    feed(pieces, geometry, data, 0, 0)
    assert early.used == 0
    assert pieces.digest(0) is None


@pytest.mark.parametrize("again", [0, 1, 2])
def test_bytes_that_come_twice_make_it_read_back(again: int) -> None:
    """What stands on disk is the second copy; the running hash has the first."""
    geometry = Geometry(4 * BLOCK, 4 * BLOCK)
    pieces = OpenPieces(geometry)
    data = random_bytes(4 * BLOCK)
    for block in (0, 2, again, 1, 3):
        feed(pieces, geometry, data, 0, block)
    assert pieces.digest(0) is None


def test_an_incomplete_piece_has_no_digest() -> None:
    geometry = Geometry(4 * BLOCK, 4 * BLOCK)
    pieces = OpenPieces(geometry)
    feed(pieces, geometry, random_bytes(4 * BLOCK), 0, 0, 3)
    assert pieces.digest(0) is None
    assert pieces.digest(0) is None


def test_a_dropped_piece_begins_anew() -> None:
    geometry = Geometry(4 * BLOCK, 4 * BLOCK)
    early = EarlyBytes()
    pieces = OpenPieces(geometry, early)
    data = random_bytes(4 * BLOCK)
    feed(pieces, geometry, bytes(4 * BLOCK), 0, 0)
    feed(pieces, geometry, bytes(4 * BLOCK), 0, 3)
    pieces.drop(0)
    assert early.used == 0
    pieces.drop(0)
    feed(pieces, geometry, data, 0, 0, 4)
    assert pieces.digest(0) == expected(geometry, data, 0)


def test_clear_forgets_all() -> None:
    geometry = Geometry(8 * BLOCK, 4 * BLOCK)
    early = EarlyBytes(BLOCK)
    pieces = OpenPieces(geometry, early)
    data = random_bytes(8 * BLOCK)
    feed(pieces, geometry, data, 0, 2)
    feed(pieces, geometry, data, 1, 2)
    assert len(pieces) == 2
    pieces.clear()
    assert len(pieces) == 0
    assert early.used == 0


def test_T5_memory_does_not_grow_with_the_piece() -> None:
    geometry = Geometry(512 * MIB, 512 * MIB)
    buffer = memoryview(bytearray(MIB))
    early = EarlyBytes()
    pieces = OpenPieces(geometry, early)
    tracemalloc.start()
    try:
        for start in range(0, 32 * MIB, MIB):
            pieces.feed(0, start, [buffer])
        for start in range(256 * MIB, 300 * MIB, MIB):
            pieces.feed(0, start, [buffer])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limits.OUT_OF_ORDER + MIB + MIB // 2
    assert early.used == 0
    assert pieces.digest(0) is None
