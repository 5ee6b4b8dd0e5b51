"""Asking one tracker one thing, HTTP or UDP alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from btor import limits
from btor.engine.lookup import is_ipv6, local_address, look_up
from btor.engine.transport import Network
from btor.engine.udp import UdpHub
from btor.engine.udp_tracker import UdpTrackers
from btor.errors import NetworkError, TrackerError, UsageError
from btor.wire.address import Address, is_ip
from btor.wire.tracker_http import AnnounceReply, AnnounceRequest, ScrapeEntry
from btor.wire.url import Url, carries_announce_keys, refusal

if TYPE_CHECKING:
    from btor.engine.http_tracker import HttpTrackers

UDP_ADDRESSES: Final = 3  # of a name, in one family, that are tried one after the other

Route = Sequence[Address]
"""The addresses of a tracker in one family; none when a proxy looks its name up."""


class Answer(NamedTuple):
    """A tracker's reply, the IP address that gave it (None: behind a proxy), and the way to reach it so again."""

    reply: AnnounceReply
    ip: str | None
    route: Route


class Figures(NamedTuple):
    """What a scrape told; ``min_interval`` (s) between scrapes, or None."""

    entry: ScrapeEntry
    min_interval: float | None


def parse_tracker(text: str) -> Url:
    """The URL of a tracker. TrackerError for one that must never be asked."""
    try:
        url = Url.parse(text)
    except UsageError as error:
        raise TrackerError(text, str(error), never=True) from error
    if carries_announce_keys(url):
        raise TrackerError(str(url), "the tracker's URL holds parameters of an announce", never=True)
    return url


class Trackers:
    """All trackers of a session. Errors are TrackerError, its reason not yet fit for display."""

    def __init__(
        self,
        network: Network,
        hub: UdpHub | None,
        *,
        rng: Random,
        bind: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._network = network
        self._bind = bind
        self._environ = environ
        self._udp = None if hub is None else UdpTrackers(hub, rng)
        self._http: HttpTrackers | None = None
        self._look_ups = trio.CapacityLimiter(limits.TRACKER_LOOK_UPS)
        self._http_slots = trio.CapacityLimiter(limits.TRACKER_PARALLEL)

    async def routes(self, url: Url) -> list[Route]:
        """The ways to the tracker: one for each address family that its host and we have (BEP 7)."""
        if url.scheme == "udp":
            if self._udp is None:
                raise TrackerError(str(url), "UDP is not available", never=True)
        elif self._http_trackers().is_proxied(url):
            return [()]
        addresses = [(url.host, url.port)] if is_ip(url.host) else await self._look_up(url)
        families: list[Route] = [[one for one in addresses if is_ipv6(one) == family] for family in (False, True)]
        routes = [route for route in families if route and (not self._bind or local_address(self._bind, route[0]))]
        if not routes:
            raise TrackerError(str(url), "no address of its is of a family that we use")
        return routes

    async def _look_up(self, url: Url) -> Sequence[Address]:
        try:
            async with self._look_ups:
                with trio.fail_after(limits.TRACKER_CONNECT):
                    return await look_up(self._network, url.host, url.port)
        except trio.TooSlowError as error:
            reason = f"the name {url.host} cannot be looked up in time"
            raise TrackerError(str(url), reason, unsent=True) from error
        except NetworkError as error:
            raise TrackerError(str(url), str(error), unsent=True) from error

    async def announce(
        self, url: Url, route: Route, request: AnnounceRequest, *, sends: int = limits.UDP_TRACKER_SENDS
    ) -> Answer:
        """Announce by one route. ``sends``: how often a UDP packet is sent before the tracker counts as silent."""
        if url.scheme != "udp":
            async with self._http_slots:
                reply, ip = await self._http_trackers().announce(route, request, url)
            return Answer(reply, ip, route)
        assert self._udp is not None  # routes() has seen to it
        *others, last = self._allowed(url, route)
        for address in others:
            try:
                return Answer(await self._udp.announce(address, request, url, sends=1), address[0], [address])
            except TrackerError as error:
                if error.refused:
                    raise
        return Answer(await self._udp.announce(last, request, url, sends=sends), last[0], [last])

    async def scrape(self, url: Url, route: Route, info_hash: bytes) -> Figures | None:
        """The figures of one torrent (BEP 15, 48); None when the tracker gives none."""
        entry: ScrapeEntry | None
        if url.scheme == "udp":
            assert self._udp is not None  # routes() has seen to it
            entry, min_interval = await self._udp.scrape(self._allowed(url, route)[0], info_hash, url), None
        else:
            async with self._http_slots:
                reply = await self._http_trackers().scrape(route, info_hash, url)
            if reply is None:
                return None
            entry, min_interval = reply.files.get(info_hash), reply.min_interval
        return None if entry is None else Figures(entry, min_interval)

    def _allowed(self, url: Url, route: Route) -> Route:
        """The addresses of ``route`` that a packet may go to, not too many. TrackerError when there is none."""
        reasons = [refusal(url, ip, tracker=True, reached_global=False) for ip, _ in route]
        allowed = [address for address, reason in zip(route, reasons, strict=True) if reason is None]
        if not allowed:
            raise TrackerError(str(url), reasons[0] or "")
        return allowed[:UDP_ADDRESSES]

    def _http_trackers(self) -> HttpTrackers:
        if self._http is None:
            # costs about 25 ms, which a session without HTTP trackers saves
            from btor.engine.http import HttpClient
            from btor.engine.http_tracker import HttpTrackers

            self._http = HttpTrackers(HttpClient(self._network, bind=self._bind, environ=self._environ))
        return self._http
