"""How many requests to keep open at one peer, and when they have taken too long.

Depth follows the rate, so that REQUEST_QUEUE_SECONDS of blocks are asked ahead, or two latencies of the peer if that
is more: with less than one it would slow down, be asked less for that, and so on. While the rate is still growing,
depth also follows the blocks, one more for each that comes, which doubles it each round trip (slow start).

Peers answer in order. So only the head of what was sent is timed: from the last block of any kind, or from when a
later one overtook it. A peer that goes on sending in order never times out, however long its queue.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from btor import limits
from btor.swarm.source import Source

Run = tuple[int, int, int]  # (piece, first block, count)

LATENCY_UNKNOWN: Final = 1.0  # s
LATENCIES: Final = 2  # that many times the latency is asked ahead, and waited, at least
RATE_WINDOW: Final = 0.25  # s that are measured at a time
RATE_HALF_LIFE: Final = 1.0  # s after which half of the rate is what was measured since
SLOW_START_PERIOD: Final = 1.0  # s between looks at whether the rate still grows
SLOW_START_GROWTH: Final = 5_000  # bytes/s by which it must, else slow start is over
MEAN_GAIN: Final = 1 / 8
DEVIATION_GAIN: Final = 1 / 4
DEVIATIONS: Final = 4
MEANS: Final = 4
BATCHES: Final = 4  # requests go out when one part in so many of the depth is free


class RequestQueue:
    """The requests sent to one peer. ``reqq``: how many it says it will hold (BEP 10), or None.

    Times are seconds of a monotonic clock; ``now`` must not be before the latest one told. To be read: ``rate``
    (bytes/s, smoothed), ``snubbed`` (asked, and nothing came for SNUB_AFTER seconds), ``latency`` (s, the shortest from
    asking while nothing was outstanding to the first block), ``outstanding`` (blocks sent for that have neither come
    nor been dropped).
    """

    __slots__ = (
        "_deviation",
        "_extra",
        "_from_idle",
        "_head_since",
        "_mean",
        "_measured_at",
        "_overtaken_at",
        "_period_at",
        "_period_bytes",
        "_period_rate",
        "_quiet_since",
        "_samples",
        "_sent",
        "_slow_start",
        "_stalled",
        "_window_bytes",
        "latency",
        "outstanding",
        "rate",
        "reqq",
        "snubbed",
    )

    def __init__(self, reqq: int | None = None) -> None:
        self.reqq = reqq
        self.rate = 0.0
        self.snubbed = False
        self.latency = LATENCY_UNKNOWN
        self.outstanding = 0
        self._from_idle = False
        self._sent: dict[int, int] = {}  # piece → mask of blocks, in the order of asking
        self._stalled = False  # the head timed out and nothing came since
        self._quiet_since = 0.0  # the last block, or the first request after there were none
        self._head_since = 0.0  # the same, or when the head before this one timed out
        self._overtaken_at: float | None = None  # when the first block sent for later than the head came
        self._samples = 0
        self._mean = 0.0  # s between blocks while some are outstanding
        self._deviation = 0.0
        self._window_bytes = 0
        self._measured_at: float | None = None
        self._slow_start = True
        self._extra = 0  # depth that slow start has earned
        self._period_at = 0.0
        self._period_bytes = 0
        self._period_rate = 0.0

    def on_sent(self, now: float, runs: Iterable[Run]) -> None:
        """These blocks were asked for (``Picker.take``)."""
        sent = self._sent
        if not sent:
            self._quiet_since = self._head_since = now
            self._overtaken_at = None
            self._from_idle = True
            self._measure(now)
            self._measured_at = now  # so that idleness is not taken for slowness of what follows
            if self._period_rate == 0.0 and not self._period_bytes:
                self._period_at = now
        for piece, first, count in runs:
            sent[piece] = sent.get(piece, 0) | ((1 << count) - 1) << first
            self.outstanding += count

    def on_received(self, now: float, size: int, piece: int, first: int, count: int) -> None:
        """``count`` requested or forgiven blocks have come, ``size`` bytes of payload."""
        sent = self._sent
        owed = sent.get(piece, 0)
        if owed:
            mask = ((1 << count) - 1) << first
            got = owed & mask
            self.outstanding -= count if got == mask else got.bit_count()
            if piece == next(iter(sent)):
                self._overtaken_at = None
            elif self._overtaken_at is None:
                self._overtaken_at = now
            if got == owed:
                del sent[piece]
            else:
                sent[piece] = owed ^ got
            elapsed = now - self._quiet_since
            if self._from_idle:
                self._from_idle = False
                self.latency = min(self.latency, elapsed) if self._samples else elapsed
            if elapsed > 0:
                self._sample(elapsed)
        self._quiet_since = self._head_since = now
        self._stalled = self.snubbed = False
        if self._slow_start:
            self._extra += count
            self._period_bytes += size
            if now - self._period_at >= SLOW_START_PERIOD:
                self._look_at_growth(now)
        self._window_bytes += size
        if self._measured_at is None or now - self._measured_at >= RATE_WINDOW:
            self._measure(now)

    def _sample(self, elapsed: float) -> None:
        if self._samples:
            error = elapsed - self._mean
            self._mean += error * MEAN_GAIN
            self._deviation += (abs(error) - self._deviation) * DEVIATION_GAIN
        else:
            self._mean = elapsed
        self._samples += 1

    def _measure(self, now: float) -> None:
        """Fold what came since the last time into the rate."""
        if self._measured_at is None:
            self._measured_at = now
        elif now > self._measured_at and not self._window_bytes:
            # silence is no measurement: what comes next took all that time
            self.rate = min(self.rate, limits.BLOCK / (now - self._measured_at))
        elif now > self._measured_at:
            elapsed = now - self._measured_at
            kept = 0.5 ** (elapsed / RATE_HALF_LIFE) if self.rate else 0.0
            self.rate = self.rate * kept + self._window_bytes / elapsed * (1 - kept)
            self._window_bytes = 0
            self._measured_at = now

    def _look_at_growth(self, now: float) -> None:
        rate = self._period_bytes / (now - self._period_at)
        if rate <= self._period_rate + SLOW_START_GROWTH:
            self._slow_start = False
        self._period_rate = rate
        self._period_bytes = 0
        self._period_at = now

    def on_dropped(self, runs: Iterable[Run] | None = None) -> None:
        """These requests were cancelled or rejected, or all of them were choked away (None): no answer is due."""
        if runs is None:
            self._sent.clear()
            self.outstanding = 0
            return
        for piece, first, count in runs:
            self._drop(piece, ((1 << count) - 1) << first)

    def _drop(self, piece: int, mask: int) -> None:
        owed = self._sent.get(piece, 0)
        gone = owed & mask
        self.outstanding -= gone.bit_count()
        if gone == owed:
            self._sent.pop(piece, None)
        else:
            self._sent[piece] = owed ^ gone

    def on_tick(self, now: float) -> list[Run]:
        """Call about every second. The requests that have timed out: they are dropped here, ``Picker.release`` them."""
        if now - (self._measured_at if self._measured_at is not None else now) >= RATE_WINDOW:
            self._measure(now)
        if not self._sent:
            return []
        patience = self.timeout
        if now - self._quiet_since >= (max(patience, limits.SNUB_AFTER) if self.snubbed else limits.SNUB_AFTER):
            self.snubbed = True
            late = list(self._sent)
        elif now - self._head_since >= patience:
            self._stalled = True
            late = [next(iter(self._sent))]
        elif self._overtaken_at is not None and now - self._overtaken_at >= patience:
            late = [next(iter(self._sent))]
        else:
            return []
        self._head_since = now
        self._overtaken_at = None
        runs: list[Run] = []
        for piece in late:
            mask = self._sent.pop(piece)
            self.outstanding -= mask.bit_count()
            runs.extend(runs_of(piece, mask))
        return runs

    @property
    def timeout(self) -> float:
        """How long the head may take, in seconds: the mean time between blocks and four deviations, within bounds.

        In slow start blocks come in bursts a round trip apart, so it is two latencies at least. And it is four times
        the mean: an even flow has small deviations, yet its blocks are that far apart as soon as the sender has others
        to serve as well.
        """
        if not self._samples:
            return limits.REQUEST_TIMEOUT_MAX
        patience = max(self._mean + DEVIATIONS * self._deviation, MEANS * self._mean, LATENCIES * self.latency)
        return min(max(patience, limits.REQUEST_TIMEOUT_MIN), limits.REQUEST_TIMEOUT_MAX)

    def tell(self, source: Source) -> None:
        """Let the picker know: set ``rate``, ``snubbed`` and ``latency`` of the peer's ``source``. Once a tick."""
        source.rate = self.rate
        source.snubbed = self.snubbed
        source.latency = self.latency

    def depth(self, now: float) -> int:
        """How many blocks should be outstanding."""
        if self.snubbed or self._stalled:
            return 1
        if self._measured_at is not None and now - self._measured_at >= RATE_WINDOW:
            self._measure(now)
        ahead = max(limits.REQUEST_QUEUE_SECONDS, LATENCIES * self.latency)
        depth = int(ahead * self.rate / limits.BLOCK)
        if self._slow_start:
            depth = max(depth, limits.REQUEST_QUEUE_MIN + self._extra)
        most = limits.REQUEST_QUEUE_MAX if self.reqq is None else max(1, min(self.reqq, limits.REQUEST_QUEUE_MAX))
        return min(max(depth, limits.REQUEST_QUEUE_MIN), most)

    def room(self, now: float, outstanding_count: int) -> int:
        """How many blocks to ask now, given how many are outstanding (``Source.outstanding_count``).

        0 until a quarter of the depth is free, so that requests go out in batches, unless few are outstanding.
        """
        depth = self.depth(now)
        free = depth - outstanding_count
        if free <= 0 or (free * BATCHES < depth and outstanding_count >= limits.REQUEST_QUEUE_MIN):
            return 0
        return free


def runs_of(piece: int, mask: int) -> list[Run]:
    """The set of blocks ``mask`` of ``piece`` as runs, ascending."""
    runs: list[Run] = []
    while mask:
        first = (mask & -mask).bit_length() - 1
        rest = mask >> first
        count = (~rest & (rest + 1)).bit_length() - 1
        runs.append((piece, first, count))
        mask ^= ((1 << count) - 1) << first
    return runs
