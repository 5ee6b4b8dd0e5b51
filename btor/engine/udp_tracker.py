"""Asking UDP trackers (BEP 15, 41): connection ids, repetition, and which answer counts."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import trio

from btor import limits
from btor.engine.udp import Exchange, UdpHub
from btor.errors import TrackerError
from btor.wire import tracker_udp
from btor.wire.address import Address
from btor.wire.tracker_http import AnnounceReply, AnnounceRequest, ScrapeEntry
from btor.wire.url import Url

CONNECTION_IDS: Final = 1_024  # kept; an expired one makes room first

_ERROR: Final = tracker_udp.ERROR.to_bytes(4)

Builder = Callable[[int, int], bytes]


class UdpTrackers:
    """All UDP trackers of a session. Errors are TrackerError, its reason not yet fit for display.

    ``sends``: how often a question is sent before the tracker counts as silent, 15 s after the first, then doubled.
    """

    def __init__(self, hub: UdpHub, rng: Random) -> None:
        self._hub = hub
        self._rng = rng
        self._connections: dict[Address, tuple[int, float]] = {}  # id, expiry

    async def announce(
        self, address: Address, request: AnnounceRequest, url: Url, *, sends: int = limits.UDP_TRACKER_SENDS
    ) -> AnnounceReply:
        """Announce to the tracker ``url`` at ``address``."""

        def build(connection_id: int, transaction: int) -> bytes:
            return tracker_udp.encode_announce(connection_id, transaction, request, str(url) if url.target else "")

        transaction, packet = await self._ask(address, url, build, sends)
        return tracker_udp.decode_announce(packet, transaction, str(url), ipv6=":" in address[0])

    async def scrape(self, address: Address, info_hash: bytes, url: Url) -> ScrapeEntry | None:
        """The figures of one torrent; None when the answer holds none."""

        def build(connection_id: int, transaction: int) -> bytes:
            return tracker_udp.encode_scrape(connection_id, transaction, [info_hash])

        transaction, packet = await self._ask(address, url, build, limits.UDP_TRACKER_SENDS)
        return tracker_udp.decode_scrape(packet, transaction, str(url), [info_hash]).get(info_hash)

    async def _ask(self, address: Address, url: Url, build: Builder, sends: int) -> tuple[int, bytes]:
        """Connect if there is no fresh id, then ask; (transaction, packet) of the answer."""
        try:
            with self._hub.exchange(address) as exchange:
                question = _Question(self, exchange, address, url, build)
                for unanswered in range(sends):
                    question.send()
                    with trio.move_on_after(limits.UDP_TRACKER_RESEND * 2**unanswered):
                        return await question.answer()
        except OSError as error:
            raise TrackerError(str(url), f"cannot be reached: {error.strerror or error}") from error
        raise TrackerError(str(url), "no answer")

    def connection_id(self, address: Address) -> int | None:
        """The id that ``address`` gave us, while it is fresh."""
        known = self._connections.get(address)
        return known[0] if known and trio.current_time() < known[1] else None

    def remember(self, address: Address, connection_id: int) -> None:
        """``address`` gave us an id, good for UDP_CONNECTION_LIFE from now."""
        now = trio.current_time()
        if len(self._connections) >= CONNECTION_IDS:
            self._connections = {key: known for key, known in self._connections.items() if known[1] > now}
        if len(self._connections) >= CONNECTION_IDS:
            self._connections.clear()
        self._connections[address] = connection_id, now + limits.UDP_CONNECTION_LIFE

    def forget(self, address: Address) -> None:
        """The id of ``address`` is not taken any more."""
        self._connections.pop(address, None)

    def new_transaction(self) -> int:
        """32 random bits, for one transmission."""
        return self._rng.getrandbits(32)


class _Question:
    """One announce or scrape on its way, over all its transmissions."""

    def __init__(self, trackers: UdpTrackers, exchange: Exchange, address: Address, url: Url, build: Builder) -> None:
        self._trackers = trackers
        self._exchange = exchange
        self._address = address
        self._url = url
        self._build = build
        self._connecting: set[int] = set()  # transactions of connect requests
        self._asked = False  # more than a connect request went out last
        self._old_id = trackers.connection_id(address) is not None

    def send(self) -> None:
        """The next transmission: the question itself with a fresh connection id, else a connect request. OSError."""
        transaction = self._trackers.new_transaction()
        connection_id = self._trackers.connection_id(self._address)
        self._asked = connection_id is not None
        if connection_id is None:
            self._connecting.add(transaction)
            self._exchange.ask(transaction, tracker_udp.encode_connect(transaction))
        else:
            self._exchange.ask(transaction, self._build(connection_id, transaction))

    async def answer(self) -> tuple[int, bytes]:
        """Wait for the answer to the question, to any of its transmissions. OSError; TrackerError."""
        while True:
            transaction, packet = await self._exchange.answer()
            if transaction in self._connecting:
                if not self._asked:
                    connection_id = tracker_udp.decode_connect(packet, transaction, str(self._url))
                    self._trackers.remember(self._address, connection_id)
                    self.send()
            elif self._old_id and packet.startswith(_ERROR):
                # perhaps the tracker restarted and knows the id no more: once, with a new one
                self._old_id = False
                self._trackers.forget(self._address)
                self.send()
            else:
                return transaction, packet
