"""Telling events to whoever listens, without ever waiting for them.

A listener has a bounded queue. A slow one loses what is out of date first: only the newest `Progress` and `Seeding` of
a torrent wait, and when the queue is full the oldest event goes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from weakref import WeakSet

import trio

from btor.engine.events import Event, Progress, Seeding
from btor.limits import EVENT_QUEUE

RECURRING = (Progress, Seeding)  # each makes the one before it obsolete

_Key = tuple[str, str | None] | int


class Subscription:
    """An asynchronous iterator over events; ends when the torrent or session does."""

    def __init__(self, feed: Feed, first: Iterable[Event]) -> None:
        self._feed = feed
        # what recurs stands under its kind and torrent, everything else under a number
        self._queue: OrderedDict[_Key, Event] = OrderedDict()
        self._count = 0
        self._arrived = trio.Event()
        self._closed = False
        for event in first:  # however many: it is a snapshot of everything
            self._append(event)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        await trio.lowlevel.checkpoint()
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self._queue.popitem(last=False)[1]

    def close(self) -> None:
        """Listen no more."""
        self._feed.drop(self)
        self.end()

    def put(self, event: Event) -> None:
        """Queue an event."""
        queue = self._queue
        if isinstance(event, RECURRING):
            queue.pop((event.event, event.info_hash), None)
        if len(queue) >= EVENT_QUEUE:
            oldest = next(iter(queue))
            del queue[next((key for key, old in queue.items() if isinstance(old, RECURRING)), oldest)]
        self._append(event)
        self._arrived.set()

    def _append(self, event: Event) -> None:
        if isinstance(event, RECURRING):
            self._queue[event.event, event.info_hash] = event
        else:
            self._count += 1
            self._queue[self._count] = event

    def end(self) -> None:
        """Nothing more comes; what is queued is still read."""
        self._closed = True
        self._arrived.set()


class Feed:
    """Where events are published. Events also go to ``parent`` (the session's feed)."""

    def __init__(self, parent: Feed | None = None) -> None:
        self._parent = parent
        self._subscriptions: WeakSet[Subscription] = WeakSet()  # a loop that is left by `break` closes nothing
        self._ended = False

    @property
    def listened(self) -> bool:
        """Whether anybody would hear an event."""
        return bool(self._subscriptions) or (self._parent is not None and self._parent.listened)

    def publish(self, event: Event) -> None:
        """Tell everybody."""
        for subscription in self._subscriptions:
            subscription.put(event)
        if self._parent is not None:
            self._parent.publish(event)

    def subscribe(self, first: Iterable[Event]) -> Subscription:
        """Listen from now on, beginning with ``first``."""
        subscription = Subscription(self, first)
        if self._ended:
            subscription.end()
        else:
            self._subscriptions.add(subscription)
        return subscription

    def drop(self, subscription: Subscription) -> None:
        """Forget a listener."""
        self._subscriptions.discard(subscription)

    def end(self) -> None:
        """Nothing more will be published."""
        self._ended = True
        for subscription in self._subscriptions:
            subscription.end()
        self._subscriptions.clear()
