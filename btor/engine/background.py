"""Work that goes on when who waits for it has been cancelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio


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
