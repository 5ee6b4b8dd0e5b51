"""Announces to the DHT: every torrent that is not private looks for peers there, and says that it is one itself."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Protocol

import trio

from btor import limits
from btor.engine.contain import Container
from btor.engine.dht import Answer, Dht
from btor.wire.address import Address


class Sought(Protocol):
    """What a torrent offers here, and hears. All methods return at once and raise nothing."""

    @property
    def info_hash(self) -> bytes:
        """20 bytes."""

    @property
    def port(self) -> int:
        """Where peers can connect to us; 0: nowhere."""

    @property
    def is_seed(self) -> bool:
        """Whether it has everything."""

    @property
    def is_alone(self) -> bool:
        """Whether it has no peer."""

    def on_dht_peers(self, peers: list[Address], node_ip: str) -> None:
        """Peers that the node at ``node_ip`` named."""


@dataclass(slots=True, eq=False)
class _Entry:
    """One torrent: when it is looked at next, when it last announced, and its search while there is one."""

    torrent: Sought
    due: float
    announced: float = -inf
    retry: float = limits.DHT_ANNOUNCE_RETRY
    search: trio.CancelScope | None = None
    stopped: bool = field(default=False)


class DhtAnnouncer:
    """The torrents of a session at the DHT. Never give it a private one."""

    def __init__(self, dht: Dht, *, loopback_is_public: bool = False, container: Container | None = None) -> None:
        self._dht = dht
        self._loopback_is_public = loopback_is_public
        self._container = container or Container()
        self._entries: dict[Sought, _Entry] = {}
        self._heap: list[tuple[float, int, _Entry]] = []
        self._order = itertools.count()
        self._wake = trio.Event()

    def add(self, torrent: Sought) -> None:
        """Look for peers of ``torrent`` from now on."""
        if self._dht.nodes:
            self._dht.start()
            entry = self._entries[torrent] = _Entry(torrent, trio.current_time())
            self._schedule(entry, entry.due)

    def remove(self, torrent: Sought) -> None:
        """Leave it: the others forget us by themselves."""
        entry = self._entries.pop(torrent, None)
        if entry is not None:
            entry.stopped = True
            if entry.search is not None:
                entry.search.cancel()

    async def run(self) -> None:
        """Announce until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                now = trio.current_time()
                while self._heap and self._heap[0][0] <= now:
                    due, _, entry = heapq.heappop(self._heap)
                    if entry.stopped or due != entry.due:
                        continue
                    if entry.torrent.is_alone or now >= entry.announced + limits.DHT_ANNOUNCE:
                        entry.due = inf
                        nursery.start_soon(self._container.run, "a DHT announce", partial(self._announce, entry))
                    else:
                        self._schedule(entry, now + limits.DHT_ANNOUNCE_ALONE)
                with trio.move_on_at(self._heap[0][0] if self._heap else inf):
                    await self._wake.wait()

    def _schedule(self, entry: _Entry, due: float) -> None:
        entry.due = due
        heapq.heappush(self._heap, (due, next(self._order), entry))
        self._wake.set()

    async def _announce(self, entry: _Entry) -> None:
        torrent = entry.torrent
        wait = limits.DHT_ANNOUNCE_ALONE
        try:
            with trio.CancelScope() as entry.search:
                answers = await self._dht.search(torrent.info_hash, torrent.on_dht_peers)
                entry.announced = trio.current_time()
                if torrent.port:
                    self._dht.announce(answers, torrent.port, seed=torrent.is_seed)
                wait = self._patience(entry, answers)
        finally:
            entry.search = None
            if not entry.stopped:
                self._schedule(entry, trio.current_time() + wait)

    def _patience(self, entry: _Entry, answers: list[Answer]) -> float:
        """When to look at it again: soon where nobody answered, or where all who did are on this machine."""
        found = [candidate.contact for _, lookup in answers for candidate in lookup.closest()]
        if found and not all(contact.is_loopback for contact in found):
            entry.retry = limits.DHT_ANNOUNCE_RETRY
            return limits.DHT_ANNOUNCE_ALONE
        if found and not self._loopback_is_public:
            return limits.DHT_ANNOUNCE_RETRY
        wait, entry.retry = entry.retry, min(2 * entry.retry, limits.DHT_ANNOUNCE)
        return wait
