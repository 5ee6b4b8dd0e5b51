"""The one clockwork of a simulated world: what happens when, in one task however much happens.

Time is trio's, so under ``MockClock`` it is virtual. It is cut into steps (1 ms): what falls into the same step happens
at the same wake-up, in the order in which it was planned, so a busy world costs at most a thousand jumps of the clock
per virtual second.
"""

from __future__ import annotations

import contextlib
import heapq
import math
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar
from unittest import mock

import trio
import trio.testing

T = TypeVar("T")

EARLY = 1e-6  # of a step: jumps of the clock end within a rounding error of the time that was asked for


class Schedule:
    """Actions and their times. ``run`` must be running."""

    def __init__(self, step: float = 0.001) -> None:
        self.step = step
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._sleep: trio.CancelScope | None = None

    def tick(self, time: float) -> int:
        """The number of the step in which ``time`` is over."""
        return math.ceil(time / self.step - EARLY)

    def at(self, time: float, action: Callable[..., None], *args: Any) -> None:
        """Do ``action(*args)`` at ``time``, in seconds."""
        tick = self.tick(time)
        self._count += 1
        heapq.heappush(self._heap, (tick, self._count, action, args))
        if self._sleep is not None and tick * self.step < self._sleep.deadline:
            self._sleep.deadline = tick * self.step

    async def run(self) -> None:
        """Do what is due, for ever."""
        heap = self._heap
        while True:
            due = trio.current_time() / self.step + EARLY
            while heap and heap[0][0] <= due:
                _, _, action, args = heapq.heappop(heap)
                action(*args)
            with trio.CancelScope(deadline=heap[0][0] * self.step if heap else math.inf) as self._sleep:
                await trio.sleep_forever()
            self._sleep = None


@contextlib.contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Make trio run its tasks in an order that depends on ``seed`` alone.

    It shuffles them on purpose, so that nobody relies on their order; a simulation that failed must fail again. These
    are the switches that trio itself turns for Hypothesis; they are not public, hence in this one place.
    """
    core: Any = trio._core._run
    before, state = core._ALLOW_DETERMINISTIC_SCHEDULING, core._r.getstate()
    core._ALLOW_DETERMINISTIC_SCHEDULING = True
    core._r.seed(seed)
    try:
        yield
    finally:
        core._ALLOW_DETERMINISTIC_SCHEDULING = before
        core._r.setstate(state)


@contextlib.contextmanager
def inline_threads() -> Iterator[None]:
    """Do at once, on the loop, what is meant for a worker thread.

    The virtual clock jumps when all tasks wait, also while a thread is at work; the work would take virtual minutes.
    """

    async def run_inline(function: Callable[..., T], *args: Any, **_options: Any) -> T:
        await trio.lowlevel.checkpoint()
        return function(*args)

    with mock.patch.object(trio.to_thread, "run_sync", run_inline):
        yield


def simulate(main: Callable[[], Awaitable[T]], *, seed: int = 0, limit: float = 3600.0) -> T:
    """What ``main()`` returns, run on a virtual clock without threads; trio.TooSlowError after ``limit`` s of it."""

    async def bounded() -> T:
        with trio.fail_after(limit):
            return await main()

    with repeatable(seed), inline_threads():
        return trio.run(bounded, clock=trio.testing.MockClock(autojump_threshold=0))
