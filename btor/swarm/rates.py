"""How fast bytes move, and how fast they may: a sliding meter and a tree of token buckets.

Rates are bytes a second; ``now`` is a monotonic time in seconds.
"""

from __future__ import annotations

from typing import Final

from btor.limits import RATE_BURST

SLOT: Final = 0.5  # seconds counted together
SLOTS: Final = 8  # of which one is always being filled
YOUNGEST: Final = 1.0  # a meter younger than this would call one block a flood

UNLIMITED: Final = 1 << 62  # what a bucket without a rate has
ROUNDING: Final = 0.5  # bytes: what sums of floats lack by a hair must not be waited for


class RateMeter:
    """Bytes a second over the last 3.5 to 4 s, or since the first byte after a silence if that is shorter."""

    __slots__ = ("_began", "_counts", "_slot", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * SLOTS
        self._sum = 0
        self._slot = 0  # the number of the slot being filled, counted from time 0
        self._began = 0.0  # when what is in the window began to come

    def add(self, now: float, count: int) -> None:
        """``count`` bytes moved."""
        if int(now / SLOT) != self._slot:
            self._advance(now)
        if not self._sum:
            self._began = now
        self._counts[self._slot % SLOTS] += count
        self._sum += count

    def rate(self, now: float) -> float:
        """Bytes a second."""
        self._advance(now)
        if not self._sum:
            return 0.0
        oldest = (self._slot - SLOTS + 1) * SLOT
        return self._sum / max(now - max(oldest, self._began), YOUNGEST)

    def _advance(self, now: float) -> None:
        """Forget the slots that left the window."""
        slot = int(now / SLOT)
        for passed in range(self._slot + 1, min(slot, self._slot + SLOTS) + 1):
            self._sum -= self._counts[passed % SLOTS]
            self._counts[passed % SLOTS] = 0
        self._slot = max(slot, self._slot)


class TokenBucket:
    """A limit on bytes a second, under the limit of its parent (session above torrent).

    The bucket starts empty, fills with time and holds ``RATE_BURST`` seconds of its rate. What is taken may be more
    than what is there: the debt is paid before anything else goes, so the average holds even where one block is more
    than the bucket. ``rate`` None: no limit of its own.
    """

    __slots__ = ("_capacity", "_filled", "_parent", "_tokens", "rate")

    def __init__(self, rate: float | None, parent: TokenBucket | None = None) -> None:
        if rate is not None and rate <= 0:
            raise ValueError("a rate is above zero, or None for no limit")
        self.rate = rate
        self._parent = parent
        self._capacity = 0.0 if rate is None else rate * RATE_BURST
        self._tokens = 0.0
        self._filled: float | None = None  # when; None before the first use

    @property
    def limited(self) -> bool:
        """Whether this bucket or one above it has a rate."""
        return self.rate is not None or (self._parent is not None and self._parent.limited)

    def available(self, now: float) -> int:
        """How many bytes may move now: the least of the chain, 0 while in debt, ``UNLIMITED`` without any rate."""
        most = UNLIMITED if self._parent is None else self._parent.available(now)
        if self.rate is None:
            return most
        self._fill(now, self.rate)
        return max(0, min(most, int(self._tokens + ROUNDING)))

    def take(self, count: int, now: float) -> None:
        """``count`` bytes move; the chain may go into debt by them."""
        if self.rate is not None:
            self._fill(now, self.rate)
            self._tokens -= count
        if self._parent is not None:
            self._parent.take(count, now)

    def give_back(self, count: int) -> None:
        """``count`` of the bytes that were taken did not move after all."""
        if self.rate is not None:
            self._tokens = min(self._capacity, self._tokens + count)
        if self._parent is not None:
            self._parent.give_back(count)

    def _fill(self, now: float, rate: float) -> None:
        if self._filled is None:
            self._filled = now
        elif now > self._filled:
            self._tokens = min(self._capacity, self._tokens + (now - self._filled) * rate)
            self._filled = now
