"""A set of pieces in the byte order of the wire: piece 0 is the high bit of byte 0 (BEP 3)."""

from __future__ import annotations

from collections.abc import Iterator

_BIT_POSITIONS = tuple(tuple(i for i in range(8) if byte & (0x80 >> i)) for byte in range(256))


class Bitfield:
    """Which of ``size`` pieces are there. ``count`` is kept as bits change."""

    __slots__ = ("_bytes", "count", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0
        self._bytes = bytearray((size + 7) // 8)

    @classmethod
    def full(cls, size: int) -> Bitfield:
        """All ``size`` pieces."""
        made = cls(size)
        made.set_all()
        return made

    @classmethod
    def from_wire(cls, data: bytes | bytearray | memoryview, size: int) -> Bitfield:
        """Read the payload of a ``bitfield`` message for ``size`` pieces.

        ValueError: the length is not ceil(size / 8), or a spare bit at the end is set, or ``size`` is negative.
        """
        if size < 0 or len(data) != (size + 7) // 8:
            raise ValueError(f"bitfield of {len(data)} bytes for {size} pieces")
        if size % 8 and data[-1] & (0xFF >> (size % 8)):
            raise ValueError("spare bit set in bitfield")
        made = cls(size)
        made._bytes[:] = data
        made.count = int.from_bytes(data, "big").bit_count()
        return made

    def to_wire(self) -> bytes:
        """The payload of a ``bitfield`` message."""
        return bytes(self._bytes)

    def to_int(self) -> int:
        """The wire bytes as one big-endian number: piece i is bit ``8 * ceil(size / 8) - 1 - i``."""
        return int.from_bytes(self._bytes, "big")

    def copy(self) -> Bitfield:
        """An independent copy."""
        made = Bitfield(self.size)
        made._bytes[:] = self._bytes
        made.count = self.count
        return made

    def set_all(self) -> None:
        """Set every piece."""
        self._bytes[:] = b"\xff" * len(self._bytes)
        if self.size % 8:
            self._bytes[-1] = 0xFF & ~(0xFF >> (self.size % 8))
        self.count = self.size

    def add(self, piece: int) -> bool:
        """Set ``piece``; whether it was clear. IndexError outside 0 … size-1."""
        if not 0 <= piece < self.size:
            raise IndexError(piece)
        mask = 0x80 >> (piece & 7)
        if self._bytes[piece >> 3] & mask:
            return False
        self._bytes[piece >> 3] |= mask
        self.count += 1
        return True

    def discard(self, piece: int) -> bool:
        """Clear ``piece``; whether it was set. IndexError outside 0 … size-1."""
        if not 0 <= piece < self.size:
            raise IndexError(piece)
        mask = 0x80 >> (piece & 7)
        if not self._bytes[piece >> 3] & mask:
            return False
        self._bytes[piece >> 3] &= ~mask
        self.count -= 1
        return True

    def __contains__(self, piece: int) -> bool:
        return 0 <= piece < self.size and bool(self._bytes[piece >> 3] & (0x80 >> (piece & 7)))

    def __iter__(self) -> Iterator[int]:
        for index, byte in enumerate(self._bytes):
            if byte:
                for position in _BIT_POSITIONS[byte]:
                    yield index * 8 + position

    def missing(self) -> Iterator[int]:
        """The pieces that are not there, ascending."""
        for index, byte in enumerate(self._bytes):
            if byte != 0xFF:
                for position in _BIT_POSITIONS[byte ^ 0xFF]:
                    if index * 8 + position < self.size:
                        yield index * 8 + position

    @property
    def complete(self) -> bool:
        """Whether every piece is there."""
        return self.count == self.size

    def __len__(self) -> int:
        return self.count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bitfield) and self.size == other.size and self._bytes == other._bytes

    def __repr__(self) -> str:
        return f"<Bitfield {self.count}/{self.size}>"

    __hash__ = None  # type: ignore[assignment]  # mutable: the usual way to make a class unhashable


def mark(marks: bytearray, first: int, last: int) -> None:
    """Set the bits of the pieces ``first`` … ``last`` in the byte order of a bitfield."""
    start, end = first >> 3, last >> 3
    head, tail = 0xFF >> (first & 7), 0xFF & ~(0x7F >> (last & 7))
    if start == end:
        marks[start] |= head & tail
        return
    marks[start] |= head
    marks[start + 1 : end] = b"\xff" * (end - start - 1)
    marks[end] |= tail
