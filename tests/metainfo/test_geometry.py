"""The index arithmetic, against a model that simply cuts a range into pieces and blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.limits import BLOCK, PIECE_LENGTH_V1
from btor.metainfo.geometry import Geometry

PIECE_LENGTHS = st.integers(1, 5 * BLOCK) | st.sampled_from([1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 64 * BLOCK])


@given(PIECE_LENGTHS, st.integers(1, 40), st.integers(0, 5 * BLOCK))
def test_pieces_and_blocks_are_what_cutting_gives(piece_length: int, pieces: int, less: int) -> None:
    total = pieces * piece_length - less % piece_length
    geometry = Geometry(total, piece_length)
    cut = [min(piece_length, total - offset) for offset in range(0, total, piece_length)]
    assert geometry.piece_count == len(cut) == pieces
    assert [geometry.piece_size(piece) for piece in range(pieces)] == cut
    assert [geometry.piece_offset(piece) for piece in range(pieces)] == list(range(0, total, piece_length))
    assert geometry.last_piece_length == cut[-1]
    assert geometry.blocks_per_piece == -(-piece_length // BLOCK)
    for piece in {0, pieces - 1}:
        blocks = [min(BLOCK, cut[piece] - begin) for begin in range(0, cut[piece], BLOCK)]
        assert geometry.block_count(piece) == len(blocks)
        assert [geometry.block_size(piece, block) for block in range(len(blocks))] == blocks
        assert geometry.all_blocks(piece) == sum(1 << block for block in range(len(blocks)))
        for first in range(len(blocks)):
            for count in range(1, len(blocks) - first + 1):
                assert geometry.run_size(piece, first, count) == sum(blocks[first : first + count])


@pytest.mark.parametrize(
    ("piece", "begin", "length", "inside"),
    [
        (0, 0, 1, True),
        (0, 0, 30_000, True),
        (0, 1, 30_000, False),
        (0, 29_999, 1, True),
        (0, 30_000, 1, False),
        (0, 0, 0, False),
        (1, 0, 10_000, True),
        (1, 0, 10_001, False),
        (2, 0, 1, False),
        (2**32 - 1, 0, 1, False),
        (0, 0xFFFFFFF0, 0x20, False),
    ],
)
def test_holds(piece: int, begin: int, length: int, inside: bool) -> None:
    assert Geometry(40_000, 30_000).holds(piece, begin, length) is inside


def test_one_byte_and_the_largest_piece() -> None:
    assert Geometry(1, PIECE_LENGTH_V1).piece_count == 1
    assert Geometry(1, PIECE_LENGTH_V1).block_count(0) == 1
    assert Geometry(PIECE_LENGTH_V1 + 1, PIECE_LENGTH_V1).block_count(0) == 32_767
