"""The index arithmetic of a torrent, owned once: pieces, blocks, sizes, offsets.

Units: a *piece* is an index 0 … piece_count-1; a *block* is an index inside its piece; lengths and offsets are bytes.
A block is 16 KiB (BEP 3) except the last of each piece, which is what is left: piece lengths need not be multiples
of 16 KiB, and the last piece may be shorter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from btor.limits import BLOCK


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a v1 torrent. ``total_length`` and ``piece_length`` are at least 1 (the parser has checked)."""

    total_length: int
    piece_length: int
    piece_count: int = field(init=False)
    blocks_per_piece: int = field(init=False)
    last_piece_length: int = field(init=False)

    def __post_init__(self) -> None:
        count = -(-self.total_length // self.piece_length)
        object.__setattr__(self, "piece_count", count)
        object.__setattr__(self, "blocks_per_piece", -(-self.piece_length // BLOCK))
        object.__setattr__(self, "last_piece_length", self.total_length - (count - 1) * self.piece_length)

    def piece_size(self, piece: int) -> int:
        """Bytes of ``piece``."""
        return self.last_piece_length if piece == self.piece_count - 1 else self.piece_length

    def piece_offset(self, piece: int) -> int:
        """Where ``piece`` begins in the content, in bytes."""
        return piece * self.piece_length

    def block_count(self, piece: int) -> int:
        """Blocks of ``piece``."""
        return -(-self.last_piece_length // BLOCK) if piece == self.piece_count - 1 else self.blocks_per_piece

    def block_size(self, piece: int, block: int) -> int:
        """Bytes of ``block`` of ``piece``."""
        return min(BLOCK, self.piece_size(piece) - block * BLOCK)

    def run_size(self, piece: int, first: int, count: int) -> int:
        """Bytes of ``count`` blocks of ``piece`` from block ``first`` on."""
        return min((first + count) * BLOCK, self.piece_size(piece)) - first * BLOCK

    def all_blocks(self, piece: int) -> int:
        """A mask with one bit per block of ``piece``: bit i is block i."""
        return (1 << self.block_count(piece)) - 1

    def holds(self, piece: int, begin: int, length: int) -> bool:
        """Whether ``length`` > 0 bytes at ``begin`` lie inside ``piece``. All three are unsigned, from the wire."""
        return piece < self.piece_count and length > 0 and begin + length <= self.piece_size(piece)
