"""Announces of all torrents of a session, to HTTP and UDP trackers (BEP 3, 7, 12, 15, 24, 27, 31, 48)."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from random import Random
from typing import Final, Protocol

import trio

from btor import limits
from btor.engine.contain import Container
from btor.engine.lookup import look_up
from btor.engine.trackers import Answer, Route, Trackers, parse_tracker
from btor.engine.transport import Network
from btor.engine.udp import UdpHub
from btor.errors import NetworkError, TrackerError
from btor.metainfo.paths import display
from btor.swarm.tiers import Ask, Farewell, Tiers
from btor.wire.address import Address, reach
from btor.wire.tracker_http import AnnounceEvent, AnnounceRequest
from btor.wire.url import Url

STARTS_PERIOD: Final = 0.1  # s
STARTS_AT_ONCE: Final = int(limits.TRACKER_STARTS * STARTS_PERIOD)  # in that time, so that they do not come in bursts


class Announced(Protocol):
    """What a torrent offers the announcer, and hears from it. All methods return at once and raise nothing."""

    @property
    def info_hash(self) -> bytes:
        """20 bytes."""

    @property
    def peer_id(self) -> bytes:
        """20 bytes."""

    @property
    def key(self) -> int:
        """32 random bits, the same for the whole session of the torrent (BEP 7)."""

    @property
    def port(self) -> int:
        """Where peers can connect to us."""

    @property
    def tiers(self) -> Tiers:
        """The trackers and when each is due. ``Tiers(metainfo.trackers, rng, private=metainfo.private)``."""

    @property
    def is_partial_seed(self) -> bool:
        """Whether it gives what it has, wants nothing more, and has not everything (BEP 21)."""

    def announce_counters(self) -> tuple[int, int, int]:
        """(uploaded, downloaded, left) in bytes; uploaded and downloaded since the torrent was added."""

    def on_tracker_peers(self, url: str, peers: list[Address], tracker_ip: str | None) -> None:
        """Peers from a tracker at ``tracker_ip`` (None: behind a proxy), for the rules on who may be dialled."""

    def on_tracker_answer(
        self,
        *,
        url: str,
        ok: bool,
        peers: int,
        seeders: int | None,
        leechers: int | None,
        interval: float | None,
        message: str,
    ) -> None:
        """An announce or a scrape ended: the fields of events.TrackerAnswer, fit for display."""

    def on_tracker_switch(self, url: str) -> None:
        """A private torrent goes over to the tracker at ``url``: all peers must be closed first (BEP 27).

        Called before the new tracker's peers come.
        """


@dataclass(slots=True, eq=False)
class _Entry:
    """One torrent: when it is due, its announces on the way, and where its trackers answered."""

    torrent: Announced
    due: float = inf
    flights: dict[str, trio.CancelScope] = field(default_factory=dict)
    reached: dict[str, list[Route]] = field(default_factory=dict)  # by URL; one for each family that answered


class Announcer:
    """One for a session: asks every tracker when it is due and hands the peers to the torrents.

    ``hub`` None leaves UDP trackers out. ``bind``: local addresses to use, empty for any. ``environ`` names proxies.
    """

    def __init__(
        self,
        network: Network,
        hub: UdpHub | None,
        *,
        rng: Random,
        bind: Sequence[str] = (),
        loopback_is_public: bool = False,
        container: Container | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._network = network
        self._trackers = Trackers(network, hub, rng=rng, bind=bind, environ=environ)
        self._loopback_is_public = loopback_is_public
        self._container = container or Container()
        self._entries: dict[Announced, _Entry] = {}
        self._heap: list[tuple[float, int, _Entry]] = []
        self._order = itertools.count()
        self._wake = trio.Event()
        self._period_ends = -inf
        self._begun = 0  # announces in this period
        self._next_seed = -inf  # may hurry then
        self._errands: list[Callable[[], Awaitable[None]]] = []  # for the loop to start
        self._leaving: dict[bytes, trio.CancelScope] = {}  # by info-hash: trackers know a torrent by nothing else
        self._stopping = False
        self._ended: trio.Event | None = None  # while the loop runs

    # --- what a session calls ----------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Announce until ``stop`` or cancelled."""
        self._ended = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while not (self._stopping and not self._leaving):
                    self._wake = trio.Event()
                    self._take_due(trio.current_time())
                    errands, self._errands = self._errands, []
                    for errand in errands:
                        nursery.start_soon(self._container.run, "an announce", errand)
                    with trio.move_on_at(self._next_due()):
                        await self._wake.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._ended.set()

    def add(self, torrent: Announced) -> None:
        """Announce ``torrent`` from now on, first ``started``. Again after ``remove`` starts anew."""
        if torrent in self._entries:
            return
        if torrent.info_hash in self._leaving:
            self._leaving[torrent.info_hash].cancel()  # a late `stopped` must not undo what follows
        _, _, left = torrent.announce_counters()
        torrent.tiers.start(trio.current_time(), complete=left == 0)
        entry = self._entries[torrent] = _Entry(torrent)
        self._schedule(entry)

    def remove(self, torrent: Announced) -> None:
        """Announce it no more: a ``stopped``, tried once within 5 s, goes to each tracker that answered."""
        entry = self._entries.pop(torrent, None)
        if entry is None:
            return
        entry.due = inf
        for scope in entry.flights.values():
            scope.cancel()
        entry.flights.clear()
        farewells = torrent.tiers.stop()
        if farewells:
            scope = self._leaving[torrent.info_hash] = trio.CancelScope()
            counters = torrent.announce_counters()
            self._start(partial(self._leave, entry, farewells, counters, scope))

    def completed(self, torrent: Announced) -> None:
        """It became complete while it was announced: tell the trackers. Not for one that was complete at the start."""
        self._nudge(torrent, Tiers.on_complete)

    def hurry(self, torrent: Announced) -> None:
        """It has no peers at all: announce as soon as the trackers allow. May be called as often as one likes.

        Of complete torrents one is hurried every now and then: with many, the tracker of this machine would be asked
        all the time.
        """
        if torrent.is_partial_seed:  # it wants nothing
            return
        _, _, left = torrent.announce_counters()
        now = trio.current_time()
        if left:
            self._nudge(torrent, Tiers.hurry)
        elif now >= self._next_seed:
            due = torrent.tiers.next_due()
            self._nudge(torrent, Tiers.hurry)
            if torrent.tiers.next_due() != due:
                self._next_seed = now + limits.TRACKER_HURRY_SEEDS

    def on_time_missed(self, unseen: float) -> None:
        """The machine has slept: announce soon. ``unseen``: seconds of that which are not on our clock."""
        for torrent in self._entries:
            self._nudge(torrent, lambda tiers, now: tiers.on_time_missed(now, unseen))

    def revive(self) -> None:
        """The network is there again: ask the trackers that failed, if they had answered before."""
        for torrent in self._entries:
            self._nudge(torrent, Tiers.revive)

    async def stop(self, deadline: float) -> None:
        """Remove all torrents; end ``run`` and return when every ``stopped`` is out, at the latest at ``deadline``.

        ``deadline`` is in trio's time.
        """
        for torrent in list(self._entries):
            self.remove(torrent)
        self._stopping = True
        self._wake.set()
        if self._ended is None:
            return
        with trio.move_on_at(deadline):
            await self._ended.wait()
        for scope in self._leaving.values():
            scope.cancel()
        await self._ended.wait()

    # --- the loop ----------------------------------------------------------------------------------------------

    def _nudge(self, torrent: Announced, change: Callable[[Tiers, float], None]) -> None:
        entry = self._entries.get(torrent)
        if entry is not None:
            change(torrent.tiers, trio.current_time())
            self._schedule(entry)

    def _schedule(self, entry: _Entry) -> None:
        """Its time may have changed. A stale place in the heap is passed over when its time comes."""
        due = entry.torrent.tiers.next_due()
        if due != entry.due:
            entry.due = due
            if due < inf:
                heapq.heappush(self._heap, (due, next(self._order), entry))
                self._wake.set()

    def _start(self, errand: Callable[[], Awaitable[None]]) -> None:
        self._errands.append(errand)
        self._wake.set()

    def _next_due(self) -> float:
        """When the loop next has something to do."""
        due = self._heap[0][0] if self._heap else inf
        return max(due, self._period_ends) if self._begun >= STARTS_AT_ONCE else due

    def _take_due(self, now: float) -> None:
        if now >= self._period_ends:
            self._period_ends, self._begun = now + STARTS_PERIOD, 0
        while self._heap and self._heap[0][0] <= now and self._begun < STARTS_AT_ONCE:
            due, _, entry = heapq.heappop(self._heap)
            if due != entry.due:
                continue
            for ask in entry.torrent.tiers.take(now):
                self._begun += 1
                self._fly(entry, ask)
            for url in entry.torrent.tiers.take_scrapes(now):
                self._errands.append(partial(self._scrape, entry, url))
            self._schedule(entry)

    def _fly(self, entry: _Entry, ask: Ask) -> None:
        if ask.url in entry.flights:
            entry.flights[ask.url].cancel()  # one family had answered, the other is silent still
        scope = entry.flights[ask.url] = trio.CancelScope()
        if entry.torrent.tiers.private:
            scope.deadline = trio.current_time() + limits.TRACKER_TOTAL
        self._errands.append(partial(self._announce, _Flight(entry, ask, scope)))

    # --- one announce ------------------------------------------------------------------------------------------

    async def _announce(self, flight: _Flight) -> None:
        entry = flight.entry
        try:
            with flight.scope:
                try:
                    url = parse_tracker(flight.ask.url)
                    flight.routes = await self._trackers.routes(url)
                except TrackerError as error:
                    flight.errors.append(error)
                else:
                    request = self._request(entry.torrent, flight.ask.event, url=flight.ask.url)
                    async with trio.open_nursery() as nursery:
                        for route in flight.routes:
                            nursery.start_soon(self._ask, flight, url, route, request)
            if flight.is_current() and not flight.answered:
                self._on_failure(flight)
        finally:
            if flight.is_current():
                del entry.flights[flight.ask.url]
                if not flight.answered and not flight.failed:  # a bug: the tracker must not seem asked for ever
                    entry.torrent.tiers.on_failure(flight.ask, trio.current_time())
                    self._schedule(entry)

    async def _ask(self, flight: _Flight, url: Url, route: Route, request: AnnounceRequest) -> None:
        try:
            answer = await self._trackers.announce(url, route, request)
        except TrackerError as error:
            flight.errors.append(error)
            return
        if flight.is_current():
            self._on_answer(flight, url, answer)

    def _on_answer(self, flight: _Flight, url: Url, answer: Answer) -> None:
        entry, reply = flight.entry, answer.reply
        torrent = entry.torrent
        if not flight.answered:
            verdict = torrent.tiers.on_answer(
                flight.ask,
                trio.current_time(),
                interval=reply.interval,
                min_interval=reply.min_interval,
                tracker_id=reply.tracker_id,
                figures=reply.seeders is not None and reply.leechers is not None,
                loopback=self._is_near([answer.ip]),
            )
            flight.answered = True
            flight.interval = verdict.interval
            for silent in verdict.silenced:
                entry.flights.pop(silent).cancel()
            if verdict.switched:
                torrent.on_tracker_switch(str(url))
            entry.reached[flight.ask.url] = []
            self._schedule(entry)
        entry.reached[flight.ask.url].append(answer.route)
        ourselves = (reply.external_ip, torrent.port)
        peers = [peer for peer in reply.peers if peer != ourselves][: limits.TRACKER_PEERS_USED]
        torrent.on_tracker_answer(
            url=str(url),
            ok=True,
            peers=len(peers) + len(reply.peer_names),
            seeders=reply.seeders,
            leechers=reply.leechers,
            interval=flight.interval,
            message=reply.warning,
        )
        if peers:
            torrent.on_tracker_peers(str(url), peers, answer.ip)
        names = reply.peer_names[: limits.TRACKER_NAMES]
        if names:
            self._start(partial(self._resolve, entry, str(url), names, answer.ip))

    def _on_failure(self, flight: _Flight) -> None:
        entry = flight.entry
        error = flight.error()
        flight.failed = True
        entry.torrent.tiers.on_failure(
            flight.ask,
            trio.current_time(),
            retry_after=error.retry_after,
            never=error.never,
            unsent=error.unsent,
            loopback=self._is_near([ip for route in flight.routes for ip, _ in route]),
        )
        self._schedule(entry)
        self._tell(entry.torrent, error.url, ok=False, message=display(error.reason))

    def _request(
        self, torrent: Announced, event: AnnounceEvent, *, url: str, counters: tuple[int, int, int] | None = None
    ) -> AnnounceRequest:
        uploaded, downloaded, left = counters or torrent.announce_counters()
        return AnnounceRequest(
            info_hash=torrent.info_hash,
            peer_id=torrent.peer_id,
            port=torrent.port,
            uploaded=uploaded,
            downloaded=downloaded,
            left=left,
            event=event or ("paused" if torrent.is_partial_seed else ""),
            key=torrent.key,
            numwant=0 if event == "stopped" else limits.TRACKER_NUMWANT,
            tracker_id=torrent.tiers.tracker_id(url),
        )

    def _is_near(self, ips: Sequence[str | None]) -> bool:
        """Whether a tracker is on this machine, where shorter intervals hold."""
        return not self._loopback_is_public and bool(ips) and all(ip and reach(ip) == "loopback" for ip in ips)

    # --- the rest ----------------------------------------------------------------------------------------------

    async def _resolve(self, entry: _Entry, url: str, names: Sequence[tuple[str, int]], ip: str | None) -> None:
        """Peers that the tracker named by host name: look them up and hand them over."""

        async def one(host: str, port: int) -> None:
            try:
                found = await look_up(self._network, host, port)
            except NetworkError:
                return  # like a peer that is not there
            if self._entries.get(entry.torrent) is entry:
                entry.torrent.on_tracker_peers(url, found, ip)

        with trio.move_on_after(limits.TRACKER_CONNECT):
            async with trio.open_nursery() as nursery:
                for host, port in names:
                    nursery.start_soon(one, host, port)

    async def _scrape(self, entry: _Entry, text: str) -> None:
        figures = None
        try:
            with trio.move_on_after(limits.TRACKER_TOTAL):
                url = parse_tracker(text)
                routes = await self._trackers.routes(url)
                figures = await self._trackers.scrape(url, routes[0], entry.torrent.info_hash)
        except TrackerError:
            pass  # the figures stay as old as they are
        if self._entries.get(entry.torrent) is not entry:
            return
        entry.torrent.tiers.on_scrape(
            text, ok=figures is not None, min_interval=None if figures is None else figures.min_interval
        )
        self._schedule(entry)
        if figures is not None:
            seeders, leechers, _ = figures.entry
            self._tell(entry.torrent, str(url), ok=True, message="scrape", seeders=seeders, leechers=leechers)

    async def _leave(
        self,
        entry: _Entry,
        farewells: Sequence[Farewell],
        counters: tuple[int, int, int],
        scope: trio.CancelScope,
    ) -> None:
        """Tell the trackers of a torrent that it stopped."""
        scope.deadline = trio.current_time() + limits.TRACKER_STOP
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    for farewell in farewells:
                        for route in entry.reached[farewell.url]:
                            nursery.start_soon(self._say_goodbye, entry.torrent, farewell, route, counters)
        finally:
            if self._leaving.get(entry.torrent.info_hash) is scope:
                del self._leaving[entry.torrent.info_hash]
            self._wake.set()

    async def _say_goodbye(
        self, torrent: Announced, farewell: Farewell, route: Route, counters: tuple[int, int, int]
    ) -> None:
        events: list[AnnounceEvent] = ["completed", "stopped"] if farewell.completed else ["stopped"]
        try:
            for event in events:
                request = self._request(torrent, event, url=farewell.url, counters=counters)
                await self._trackers.announce(Url.parse(farewell.url), route, request, sends=1)
        except TrackerError:
            pass  # one try: nobody is left who could do something about it

    def _tell(
        self,
        torrent: Announced,
        url: str,
        *,
        ok: bool,
        message: str,
        seeders: int | None = None,
        leechers: int | None = None,
    ) -> None:
        torrent.on_tracker_answer(
            url=url, ok=ok, peers=0, seeders=seeders, leechers=leechers, interval=None, message=message
        )


@dataclass(slots=True, eq=False)
class _Flight:
    """One announce on its way, over all address families of the tracker."""

    entry: _Entry
    ask: Ask
    scope: trio.CancelScope
    routes: Sequence[Route] = ()
    errors: list[TrackerError] = field(default_factory=list)
    answered: bool = False
    failed: bool = False
    interval: float = 0.0

    def is_current(self) -> bool:
        """Whether its outcome still matters: not called off, not overtaken."""
        return self.entry.flights.get(self.ask.url) is self.scope

    def error(self) -> TrackerError:
        """Why there was no answer: a refusal says more than a connection that failed."""
        if not self.errors:
            return TrackerError(self.ask.url, f"no answer within {limits.TRACKER_TOTAL:.0f} s")
        return next((error for error in self.errors if error.refused), self.errors[0])
