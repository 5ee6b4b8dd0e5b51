"""Work that goes on, or is left alone, when who waits for it has been cancelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, TypeVarTuple

import trio

Args = TypeVarTuple("Args")
T = TypeVar("T")


async def see_through(in_background: Callable[..., None], child: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Start ``child(*args)`` with ``in_background`` and wait for its end. Cancelled, it only waits no longer."""
    ended = trio.Event()

    async def run() -> None:
        try:
            await child(*args)
        finally:
            ended.set()

    run.__name__ = child.__name__  # what a log calls it
    in_background(run)
    await ended.wait()


async def in_thread(work: Callable[[*Args], T], *args: *Args) -> T:
    """``work(*args)`` in a thread. A disk can take as long as it likes: the end of a session does not wait for it."""
    return await trio.to_thread.run_sync(work, *args, abandon_on_cancel=True)
