"""Which untouched piece a source begins next: the rarest of those it has, in runs.

A piece is *untouched* while it is neither had nor open. Finding the rarest ones takes operations on whole bitfields,
so it is done for a batch at a time, kept on the source for a short while. Inside a class of equal rarity the batch is
a run that ascends from a random piece: neighbours are written and read together, yet every client, and every source
of one client, begins somewhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from btor import limits
from btor.metainfo.geometry import Geometry
from btor.swarm.availability import Availability, Window
from btor.swarm.source import Source

if TYPE_CHECKING:
    import random

CHOICES_LIFE: Final = 0.1  # s that a batch is believed: in a young swarm counts change that fast …
CHOICES_PIECES: Final = 10_000  # … but longer in proportion above this many pieces, where a batch costs more …
CHOICES_LIFE_MAX: Final = 10.0  # … up to this
CHOICES_AT_LEAST: Final = 1 / CHOICES_PIECES  # of a torrent's pieces in a batch: what costs more brings more
WINDOW: Final = 65_536  # pieces that are compared at once: the rarest of so many, for of all it takes 10 ms
CHOICES_MAX: Final = limits.AFFINITY_BYTES // limits.BLOCK  # pieces gathered from one source's haves
FEW: Final = 16  # up to so many pieces of a set are found faster one by one than by going through its bytes

_BIT_POSITIONS = tuple(tuple(i for i in range(8) if byte & (0x80 >> i)) for byte in range(256))
_NOT_ZERO = re.compile(rb"[^\0]")


def few_members(pieces: int, length: int, start: int) -> list[int]:
    """As ``members``, of a set of few pieces of ``length`` bytes: costs as much for each piece as for many bytes."""
    ahead: list[int] = []
    behind: list[int] = []
    while pieces:
        piece = 8 * length - pieces.bit_length()
        (ahead if piece >= start else behind).append(piece)
        pieces ^= 1 << (pieces.bit_length() - 1)
    return ahead + behind


def members(data: bytes, start: int) -> Iterator[int]:
    """The pieces in ``data`` (wire order), ascending from piece ``start`` on and once around."""
    first = start >> 3
    for match in _NOT_ZERO.finditer(data, first):
        byte = match.start()
        for position in _BIT_POSITIONS[data[byte]]:
            if byte > first or position >= start & 7:
                yield byte * 8 + position
    for match in _NOT_ZERO.finditer(data, 0, first + 1):
        byte = match.start()
        for position in _BIT_POSITIONS[data[byte]]:
            if byte < first or position < start & 7:
                yield byte * 8 + position


class Choices:
    """The untouched pieces of a torrent, and the order in which sources begin them."""

    __slots__ = ("_availability", "_geometry", "_life", "_returns", "_rng", "_untouched", "_witness", "count")

    def __init__(self, geometry: Geometry, missing: int, availability: Availability, rng: random.Random) -> None:
        """``missing``: the set of the pieces that are untouched, as `Availability` has sets."""
        self._geometry = geometry
        self._availability = availability
        self._rng = rng
        self._untouched = bytearray(missing.to_bytes(availability.length, "big"))
        self.count = missing.bit_count()
        self._returns = 0  # times that a piece became untouched again: a source marked dry before must look again
        self._witness = 0  # a piece that was untouched and had by a source when one was looked for
        self._life = min(CHOICES_LIFE * max(1.0, geometry.piece_count / CHOICES_PIECES), CHOICES_LIFE_MAX)

    def __contains__(self, piece: int) -> bool:
        return bool(self._untouched[piece >> 3] & (0x80 >> (piece & 7)))

    def obtainable(self) -> bool:
        """Whether some source has an untouched piece."""
        availability = self._availability
        if not self.count or availability.seeds:
            return bool(self.count)
        if self._witness in self and availability.count(self._witness):
            return True
        pieces = int.from_bytes(self._untouched, "big") & availability.anywhere()
        self._witness = 8 * availability.length - pieces.bit_length() if pieces else 0
        return bool(pieces)

    def put_back(self, piece: int) -> None:
        """``piece`` is untouched again."""
        self._untouched[piece >> 3] |= 0x80 >> (piece & 7)
        self.count += 1
        self._returns += 1

    def take_out(self, piece: int) -> None:
        """The untouched ``piece`` no longer is."""
        self._untouched[piece >> 3] ^= 0x80 >> (piece & 7)
        self.count -= 1

    def on_have(self, source: Source, piece: int) -> None:
        """``source`` now has ``piece``: one that had nothing more to offer is spared a look at everything it has."""
        if source.dry == self._returns and piece in self:
            if len(source.choices) < CHOICES_MAX:
                source.choices.append(piece)
            else:
                source.dry = -1

    def put_first(self, source: Source, piece: int, now: float) -> None:
        """Begin ``piece``, which ``source`` has, next if it is untouched."""
        if piece in self and len(source.choices) < CHOICES_MAX:
            source.choices.append(piece)
            source.choices_until = max(source.choices_until, now + self._life)

    def forget(self, source: Source) -> None:
        """What ``source`` has changed as a whole: the next pick looks at it anew."""
        source.choices.clear()
        source.dry = -1

    def trust_again(self, source: Source) -> None:
        """``source`` may be asked for what it failed to send before."""
        source.avoid.clear()
        source.dry = -1

    def pick(self, source: Source, count: int, now: float, random_first: int) -> list[int]:
        """Take out up to ``count`` untouched pieces that ``source`` has, the best first.

        ``random_first``: that many at the head are picked regardless of rarity, so that a new leecher soon has
        something that is not the rarest and thus slowest to get.
        """
        if now >= source.choices_until and source.dry != self._returns:
            source.choices.clear()
        picked: list[int] = []
        untouched = self._untouched
        choices = source.choices
        avoid = source.avoid
        while True:
            while choices and len(picked) < count:
                piece = choices.pop()
                mask = 0x80 >> (piece & 7)
                if untouched[piece >> 3] & mask and piece not in avoid:
                    untouched[piece >> 3] ^= mask
                    self.count -= 1
                    picked.append(piece)
            wanted = count - len(picked)
            if not wanted or not self._refill(source, wanted, now, random_first - len(picked)):
                return picked

    def _refill(self, source: Source, wanted: int, now: float, random_first: int) -> bool:
        """Fill the empty ``source.choices``; False if there is nothing left to choose."""
        if not self.count or source.dry == self._returns:
            return False
        wanted = max(wanted, int(self._geometry.piece_count * CHOICES_AT_LEAST))
        length = self._availability.length
        window: Window | None = None
        pieces = 0
        if length > WINDOW // 8:
            middle = self._rng.randrange(length)  # of the whole: else both ends would hardly ever be looked at
            window = min(max(middle - WINDOW // 16, 0), length - WINDOW // 8), WINDOW // 8
            pieces = self._candidates(source, window)
        if window is None or pieces.bit_count() < wanted:
            window = None
            pieces = self._candidates(source, (0, length))
        if not pieces:
            source.dry = self._returns
            return False
        source.choices_until = now + self._life
        if random_first > 0:
            source.choices.extend(self._random_members(pieces, min(wanted, random_first), window))
        else:
            self._choose(source, pieces, wanted, window)
        return True

    def _candidates(self, source: Source, window: Window) -> int:
        """The set of the untouched pieces in ``window`` that ``source`` has and need not be spared."""
        first, length = window
        untouched = self._untouched[first : first + length]
        for piece in source.avoid:
            if first <= piece >> 3 < first + length:
                untouched[(piece >> 3) - first] &= ~(0x80 >> (piece & 7))
        pieces = int.from_bytes(untouched, "big")
        if not source.complete:
            pieces &= int.from_bytes(source.bits[first : first + length], "big")
        return pieces

    def _choose(self, source: Source, pieces: int, wanted: int, window: Window | None) -> None:
        """The best of ``pieces``, the set of those in ``window``, or of all."""
        ahead = min(source.rate * self._life, limits.AFFINITY_BYTES)
        wanted = max(wanted, int(ahead / self._geometry.piece_length))
        chosen: list[int] = []
        first, length = window or (0, self._availability.length)
        for rank, size in self._availability.ranked(pieces, wanted, window, common_first=source.snubbed):
            start = self._rng.randrange(min(8 * length, self._geometry.piece_count))
            few = size <= FEW
            for piece in few_members(rank, length, start) if few else members(rank.to_bytes(length, "big"), start):
                chosen.append(8 * first + piece)
                if len(chosen) == wanted:
                    break
            else:
                continue
            break
        else:
            if window is None:
                source.dry = self._returns  # all it has is chosen
        chosen.reverse()
        source.choices.extend(chosen)

    def _random_members(self, pieces: int, count: int, window: Window | None = None) -> list[int]:
        first, length = window or (0, self._availability.length)
        data = pieces.to_bytes(length, "big")
        starts = (self._rng.randrange(min(8 * length, self._geometry.piece_count)) for _ in range(count))
        return list(dict.fromkeys(8 * first + next(members(data, start)) for start in starts))

    def any_of(self, pieces: int) -> int:
        """One of ``pieces``, a set that is not empty, at random."""
        return self._random_members(pieces, 1)[0]
