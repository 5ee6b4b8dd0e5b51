"""Work that goes on, or is left alone, when who waits for it has been cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
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


@asynccontextmanager
async def sheltered_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks go on when who opened it is cancelled from outside, so that the block can end with their
    help. They are cancelled when the block has ended."""
    ready = trio.Event()
    nursery: trio.Nursery

    async def hold() -> None:
        nonlocal nursery
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                ready.set()
                await trio.sleep_forever()

    async with trio.open_nursery() as holder:
        holder.start_soon(hold)
        with trio.CancelScope(shield=True):  # of one step: not so `Nursery.start`, which, cancelled, waits for its end
            await ready.wait()
        try:
            yield nursery
        finally:
            nursery.cancel_scope.cancel()
