"""Incoming connections: accepted, bounded while they have not said who they are, handed to their torrent."""

from __future__ import annotations

import errno
import logging
from collections import Counter, OrderedDict
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import trio

from btor import limits
from btor.engine.connection import Connection
from btor.engine.dial import OUT_OF_DESCRIPTORS, accept
from btor.errors import PeerError
from btor.wire.address import network_of, reach
from btor.wire.handshake import Features

if TYPE_CHECKING:
    from btor.engine.session import Session
    from btor.engine.transport import Listener, Transport

_log = logging.getLogger(__name__)

ACCEPT_PAUSE = 0.1  # s, when the system has no descriptor left
COMPLAINT_PERIOD = 5.0  # s between two lines about that in the log


class Porter:
    """Accepts for all torrents of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pending: OrderedDict[int, trio.CancelScope] = OrderedDict()  # the oldest first
        self._networks: Counter[str] = Counter()
        self._count = 0
        self._next_complaint = -inf

    async def run(self, listener: Listener, nursery: trio.Nursery) -> None:
        """Accept for ever."""
        while True:
            try:
                transport = await listener.accept()
            except OSError as error:
                if error.errno in OUT_OF_DESCRIPTORS:
                    self._make_room(error)
                    await trio.sleep(ACCEPT_PAUSE)
                continue
            network = network_of(transport.remote[0])
            if self._networks[network] >= limits.PENDING_PER_NETWORK and self._limited(transport.remote[0]):
                transport.close()
                continue
            if len(self._pending) >= self._session.shares.pending:
                self._evict_pending()
            self._networks[network] += 1
            self._count += 1
            # noted here, not when its task runs: others can be accepted before that
            scope = trio.CancelScope(deadline=trio.current_time() + limits.HANDSHAKE_TIMEOUT)
            self._pending[self._count] = scope
            greet = partial(self._greet, transport, network, self._count, scope)
            nursery.start_soon(self._session.container.run, "a handshake", greet)

    def _make_room(self, error: OSError) -> None:
        """There is no descriptor left. Where that is our own doing, the connection that is worth least goes."""
        now = trio.current_time()
        if now >= self._next_complaint:
            self._next_complaint = now + COMPLAINT_PERIOD
            _log.warning("no descriptor left for an incoming connection: %s", error.strerror)
        if error.errno != errno.EMFILE:
            return
        if self._pending:
            self._evict_pending()
        elif (peer := self._session.worst_peer(now)) is not None:
            peer.close("made room for others")

    def _evict_pending(self) -> None:
        """The oldest of those that have not said who they are goes."""
        self._pending.popitem(last=False)[1].cancel()

    def _limited(self, ip: str) -> bool:
        return self._session.settings.loopback_is_public or reach(ip) != "loopback"

    async def _greet(self, transport: Transport, network: str, number: int, scope: trio.CancelScope) -> None:
        session = self._session
        adopted = False
        try:
            with scope:
                transfer, said = await accept(transport, session.find_listening, session.peer_id)
                adopted = True
            session.outage.on_contact(trio.current_time())
        except (OSError, PeerError, trio.ClosedResourceError) as error:
            _log.debug("handshake from %s failed: %s", transport.remote, error)
        finally:
            self._pending.pop(number, None)
            self._networks[network] -= 1
            if not self._networks[network]:
                del self._networks[network]
            if not adopted:
                transport.close()
        if adopted and session.room <= 0:
            transport.close()
        elif adopted:
            transfer.adopt(
                Connection(
                    transport=transport,
                    peer_id=said.peer_id,
                    address=transport.remote,
                    incoming=True,
                    features=transfer.features & Features.decode(said.reserved),
                )
            )
