"""What a tracker answers: bytes of a request in, bytes of the answer out. Pure; ``server`` owns the sockets."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from btor import limits
from btor.errors import PeerError
from btor.settings import CLIENT_NAME
from btor.tracker.connection_ids import ConnectionIds
from btor.tracker.query import read_announce, read_scrape, split_target
from btor.tracker.registry import NO_FIGURES, Bounds, RefusedError, Registry
from btor.wire import tracker_http, tracker_udp
from btor.wire.address import COMPACT4, COMPACT6, Address

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

MINUTE: Final = 60
TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"
UDP_REPLY_HEAD: Final = 20  # of an announce reply, before its peers


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An HTTP status, the media type of the body, and the body."""

    status: int
    body: bytes
    content_type: str = TEXT


class Tracker:
    """One tracker: its registry, its UDP connection ids, its counters. ``now`` is monotonic seconds.

    ``rng`` only chooses which peers are named; ``secret`` (32 bytes) must be unpredictable.
    """

    def __init__(
        self, rng: random.Random, secret: bytes, now: float, *, interval: float, bounds: Bounds | None = None
    ) -> None:
        self.registry = Registry(rng, interval=interval, bounds=bounds)
        self.counts: Counter[str] = Counter()
        self._ids = ConnectionIds(secret)
        self._since = now
        self._pages: dict[bytes, Callable[[bytes, str, float], HttpAnswer]] = {
            b"/announce": self._http_announce,
            b"/scrape": self._http_scrape,
            b"/stats": self._stats,
        }

    # --- HTTP ------------------------------------------------------------------------------------------------

    def answer_http(self, target: bytes, ip: str, now: float) -> HttpAnswer:
        """Answer a GET of ``target`` by somebody at ``ip``. A refusal has status 200 and a failure reason."""
        path, query = split_target(target)
        page = self._pages.get(path)
        if page is None:
            self.counts["not_found"] += 1
            return HttpAnswer(404, b"There is /announce, /scrape and /stats.\n")
        try:
            return page(query, ip, now)
        except PeerError as error:
            self.counts["refused"] += 1
            return HttpAnswer(200, tracker_http.encode_failure(error.reason))
        except RefusedError as error:
            self.counts["refused"] += 1
            retry_in = math.ceil(error.retry_after / MINUTE)
            return HttpAnswer(200, tracker_http.encode_failure(error.reason, retry_in=retry_in))

    def _http_announce(self, query: bytes, ip: str, now: float) -> HttpAnswer:
        asked = read_announce(query)
        answer = self.registry.announce(asked.request, ip, now)
        self.counts["http_announces"] += 1
        ids = answer.peer_ids if asked.peer_ids else None
        return HttpAnswer(200, tracker_http.encode_announce(answer.reply, compact=asked.compact, peer_ids=ids))

    def _http_scrape(self, query: bytes, ip: str, now: float) -> HttpAnswer:
        found = {info_hash: self.registry.scrape(info_hash, now) for info_hash in read_scrape(query)}
        self.counts["http_scrapes"] += 1
        known = {info_hash: figures for info_hash, figures in found.items() if figures is not None}
        return HttpAnswer(200, tracker_http.encode_scrape(known))

    def _stats(self, query: bytes, ip: str, now: float) -> HttpAnswer:
        figures = self.statistics(now)
        if b"format=json" in query.split(b"&"):
            return HttpAnswer(200, json.dumps(figures).encode() + b"\n", JSON)
        lines = [f"{CLIENT_NAME} tracker", "", *(f"{name:<15} {value}" for name, value in figures.items())]
        return HttpAnswer(200, "\n".join(lines).encode() + b"\n")

    def statistics(self, now: float) -> dict[str, int]:
        """Uptime in s, what the registry holds, and how often what was asked since the start."""
        self.registry.expire(now)
        asked = ("http_announces", "http_scrapes", "not_found", "udp_connects", "udp_announces", "udp_scrapes")
        return {
            "uptime": int(now - self._since),
            **self.registry.totals(),
            **{name: self.counts[name] for name in (*asked, "udp_dropped", "refused")},
        }

    # --- UDP -------------------------------------------------------------------------------------------------

    def answer_udp(self, packet: bytes, sender: Address, now: float) -> bytes | None:
        """Answer a datagram. None for what deserves none; never more than came until the sender proved its address."""
        head = tracker_udp.decode_head(packet)
        if head is None:
            self.counts["udp_dropped"] += 1
            return None
        ip = sender[0]
        if head.action == tracker_udp.CONNECT:
            self.counts["udp_connects"] += 1
            return tracker_udp.encode_connect_reply(head.transaction, self._ids.issue(ip, now))
        if not self._ids.is_valid(head.connection_id, ip, now):
            self.counts["refused"] += 1
            return tracker_udp.encode_error(head.transaction, "connection id expired")[: len(packet)]
        try:
            if head.action == tracker_udp.ANNOUNCE:
                return self._udp_announce(packet, head.transaction, ip, now)
            return self._udp_scrape(packet, head.transaction, now)
        except (PeerError, RefusedError) as error:
            self.counts["refused"] += 1
            return tracker_udp.encode_error(head.transaction, error.reason)

    def _udp_announce(self, packet: bytes, transaction: int, ip: str, now: float) -> bytes:
        request, _ = tracker_udp.decode_announce_request(packet)
        ipv6 = ":" in ip
        room = (limits.UDP_TRACKER_ANSWER - UDP_REPLY_HEAD) // (COMPACT6 if ipv6 else COMPACT4)
        most = min(room, limits.TRACKER_ANSWER)
        answer = self.registry.announce(request, ip, now, most=most, family=6 if ipv6 else 4)
        self.counts["udp_announces"] += 1
        return tracker_udp.encode_announce_reply(transaction, answer.reply, ipv6=ipv6)

    def _udp_scrape(self, packet: bytes, transaction: int, now: float) -> bytes:
        hashes = tracker_udp.decode_scrape_request(packet)
        self.counts["udp_scrapes"] += 1
        entries = [self.registry.scrape(info_hash, now) or NO_FIGURES for info_hash in hashes]
        return tracker_udp.encode_scrape_reply(transaction, entries)
