"""How late a loop is: a task that wants to wake every few milliseconds, and by how much it wakes too late."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import trio

PERIOD = 0.005  # s


@dataclass(frozen=True)
class Lateness:
    """Seconds by which the probe woke too late: so long had another task the loop, or other processes the processor.

    ``own``: likewise the 99th percentile, counting no more of each pause than the loop's thread was on a processor for.
    """

    probes: int
    median: float
    p99: float
    most: float
    own: float

    def __str__(self) -> str:
        return (
            f"p50 {self.median * 1e3:.1f}, p99 {self.p99 * 1e3:.1f} (on a processor {self.own * 1e3:.1f}),"
            f" max {self.most * 1e3:.1f} ms"
        )


class LatencyProbe:
    """``run`` in the loop that is to be watched; ``take`` sums up what was seen since the last time.

    A pause of a second is not one late probe but those of a whole second: else a loop that stands still looks good.
    """

    def __init__(self) -> None:
        self._pauses: list[tuple[float, float]] = []  # how late, and how long of that the thread was on a processor

    async def run(self) -> None:
        """For ever."""
        while True:
            slept, used = time.perf_counter(), time.thread_time()
            await trio.sleep(PERIOD)
            late = max(time.perf_counter() - slept - PERIOD, 0.0)
            self._pauses.append((late, min(late, time.thread_time() - used)))

    def take(self, leave_out: int = 0) -> Lateness:
        """Without the ``leave_out`` longest pauses."""
        pauses, self._pauses = sorted(self._pauses), []
        pauses = pauses[: len(pauses) - leave_out] or [(0.0, 0.0)]
        seen = _each_probe(late for late, _ in pauses)
        own = _each_probe(late for _, late in pauses)
        return Lateness(len(seen), _share(seen, 0.5), _share(seen, 0.99), seen[-1], _share(own, 0.99))


def _each_probe(pauses: Iterable[float]) -> list[float]:
    """Sorted; the probes that did not come to run in a pause would have waited for the rest of it."""
    return sorted(late - PERIOD * number for late in pauses for number in range(max(1, int(late / PERIOD))))


def _share(values: list[float], share: float) -> float:
    return values[int(share * (len(values) - 1))]
