"""How many sources have each piece, for all pieces at once.

The counts are bit-sliced: plane k is one big integer that holds bit k of the count of every piece, in wire order
(piece 0 is the highest bit). Adding a bitfield is then a ripple-carry add of a few big-integer operations, and the
rarest of any set of pieces are found by narrowing it plane by plane. Only ``&``, ``|`` and ``^`` of non-negative
numbers are used: CPython vectorises them, and does not do so for ``~``.

Single pieces (HAVE) are gathered and merged when an answer is needed. Whoever has everything is counted once for all
pieces, in ``seeds``.
"""

from __future__ import annotations

from typing import Final

Window = tuple[int, int]  # first byte and length of a part of a bitfield

MERGE_AT: Final = 4_096  # single pieces gathered before they are merged: bounds the memory, spreads the cost


class Availability:
    """Counts for ``size`` pieces. Sets of pieces are numbers of ``8 * ceil(size / 8)`` bits in wire order."""

    __slots__ = ("_pending", "_planes", "length", "seeds", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.length = (size + 7) // 8  # bytes of a bitfield
        self.seeds = 0
        self._planes: list[int] = []
        self._pending: dict[int, int] = {}

    def everything(self) -> int:
        """The set of all pieces."""
        return ((1 << self.size) - 1) << (8 * self.length - self.size)

    def add(self, pieces: int) -> None:
        """One more source has ``pieces``."""
        self._add(pieces, 0)

    def _add(self, carry: int, level: int) -> None:
        planes = self._planes
        while len(planes) < level:
            planes.append(0)
        for k in range(level, len(planes)):
            if not carry:
                return
            plane = planes[k]
            planes[k] = plane ^ carry
            carry &= plane
        if carry:
            planes.append(carry)

    def remove(self, pieces: int) -> None:
        """One source less has ``pieces``, each of which it was counted for."""
        self._merge()
        planes = self._planes
        borrow = pieces
        for k, plane in enumerate(planes):
            if not borrow:
                break
            planes[k] = plane ^ borrow
            borrow &= planes[k]
        while planes and not planes[-1]:
            planes.pop()

    def add_one(self, piece: int) -> None:
        """One more source has ``piece``."""
        pending = self._pending
        pending[piece] = pending.get(piece, 0) + 1
        if len(pending) >= MERGE_AT:
            self._merge()

    def _merge(self) -> None:
        pending = self._pending
        if not pending:
            return
        for level in range(max(pending.values()).bit_length()):
            bits = bytearray(self.length)
            for piece, count in pending.items():
                if count >> level & 1:
                    bits[piece >> 3] |= 0x80 >> (piece & 7)
            self._add(int.from_bytes(bits, "big"), level)
        pending.clear()

    def count(self, piece: int) -> int:
        """How many sources have ``piece``."""
        shift = 8 * self.length - 1 - piece
        counted = sum((plane >> shift & 1) << k for k, plane in enumerate(self._planes))
        return self.seeds + counted + self._pending.get(piece, 0)

    def anywhere(self) -> int:
        """The set of pieces that a source has that does not have everything."""
        self._merge()
        pieces = 0
        for plane in self._planes:
            pieces |= plane
        return pieces

    def ranked(
        self, pieces: int, enough: int, window: Window | None = None, *, common_first: bool = False
    ) -> list[tuple[int, int]]:
        """``pieces`` (not empty) as classes of equal count, rarest first (or most common first), with their sizes.

        The list ends with the class that brings the sum of sizes to ``enough``, or with the last one. ``window``:
        ``pieces``, and so the classes, are sets of the pieces in these bytes of a bitfield only; single pieces that
        are not merged yet do not count then.
        """
        if window is None:
            self._merge()
            planes = self._planes
        else:
            first, length = window
            shift, mask = 8 * (self.length - first - length), (1 << 8 * length) - 1
            planes = [plane >> shift & mask for plane in self._planes]
        found: list[tuple[int, int]] = []
        later = [(pieces, len(planes))]  # sets still to be told apart by the planes below their level
        while later and enough > 0:
            chosen, level = later.pop()
            while level:
                level -= 1
                ones = chosen & planes[level]
                zeros = chosen ^ ones
                if zeros and ones:
                    chosen, rest = (ones, zeros) if common_first else (zeros, ones)
                    later.append((rest, level))
            size = chosen.bit_count()
            found.append((chosen, size))
            enough -= size
        return found
