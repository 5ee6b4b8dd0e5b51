"""A simulated world that stands still between steps, for tests that are not coroutines, such as state machines."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import outcome
import trio
import trio.testing

from tests.simulated.schedule import inline_threads, repeatable


class Stepped:
    """``main`` is run in virtual time as a guest of this thread, and only while a step is being done.

    ``main`` gets this object and calls ``serve`` when all is set up; it ends with ``end``.
    """

    def __init__(self, main: Callable[[Stepped], Awaitable[None]], *, seed: int = 0) -> None:
        self._ready: deque[Callable[[], object]] = deque()
        self._step: Callable[[], Awaitable[Any]] | None = None
        self._idle = False
        self._ended: outcome.Outcome[None] | None = None
        self._result: Any = None
        self._over = False
        self._stack = ExitStack()
        self._stack.enter_context(repeatable(seed))
        self._stack.enter_context(inline_threads())

        async def guest() -> None:
            await main(self)

        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=self._ready.append,
            run_sync_soon_not_threadsafe=self._ready.append,
            done_callback=self._on_done,
            clock=trio.testing.MockClock(autojump_threshold=0),
            host_uses_signal_set_wakeup_fd=True,
        )
        self._pump()

    def _on_done(self, result: outcome.Outcome[None]) -> None:
        self._ended = result

    def _pump(self) -> None:
        self._idle = False
        while not self._idle and self._ended is None:
            self._ready.popleft()()
        if self._ended is not None:
            self._stack.close()
            self._ended.unwrap()

    async def serve(self) -> None:
        """Do the steps that come, until ``end``."""
        while not self._over:
            self._idle = True
            await trio.lowlevel.checkpoint()
            step, self._step = self._step, None
            if step is not None:
                self._result = await step()

    def do(self, step: Callable[[], Awaitable[Any]]) -> Any:
        """Run ``step`` in the world; what it returns. Whatever ends the world is raised here."""
        self._step = step
        self._pump()
        return self._result

    def end(self) -> None:
        """Let ``main`` go on behind ``serve``, to its end."""
        if self._ended is None:
            self._over = True
            self._pump()
