"""Incoming connections: accepted, bounded while they have not said who they are, handed to their torrent."""

from __future__ import annotations

import errno
import logging
from collections import Counter, OrderedDict
from functools import partial
from typing import TYPE_CHECKING

import trio

from btor import limits
from btor.engine.dial import accept
from btor.errors import PeerError
from btor.wire.address import network_of, reach

if TYPE_CHECKING:
    from btor.engine.session import Session
    from btor.engine.transport import Listener, Transport

_log = logging.getLogger(__name__)

OUT_OF_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
ACCEPT_PAUSE = 0.1  # s, when the system has no descriptor left


class Porter:
    """Accepts for all torrents of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pending: OrderedDict[int, trio.CancelScope] = OrderedDict()  # the oldest first
        self._networks: Counter[str] = Counter()
        self._count = 0

    async def run(self, listener: Listener, nursery: trio.Nursery) -> None:
        """Accept for ever."""
        while True:
            try:
                transport = await listener.accept()
            except OSError as error:
                if error.errno in OUT_OF_DESCRIPTORS:
                    _log.warning("no descriptor left for an incoming connection")
                    await trio.sleep(ACCEPT_PAUSE)
                continue
            network = network_of(transport.remote[0])
            if self._networks[network] >= limits.PENDING_PER_NETWORK and self._limited(transport.remote[0]):
                transport.close()
                continue
            if len(self._pending) >= limits.PENDING_HANDSHAKES:
                self._pending.popitem(last=False)[1].cancel()
            self._networks[network] += 1
            self._count += 1
            # noted here, not when its task runs: others can be accepted before that
            scope = trio.CancelScope(deadline=trio.current_time() + limits.HANDSHAKE_TIMEOUT)
            self._pending[self._count] = scope
            greet = partial(self._greet, transport, network, self._count, scope)
            nursery.start_soon(self._session.container.run, "a handshake", greet)

    def _limited(self, ip: str) -> bool:
        return self._session.settings.loopback_is_public or reach(ip) != "loopback"

    async def _greet(self, transport: Transport, network: str, number: int, scope: trio.CancelScope) -> None:
        session = self._session
        adopted = False
        try:
            with scope:
                transfer, said = await accept(transport, session.find_listening, session.peer_id)
                adopted = True
        except (OSError, PeerError, trio.ClosedResourceError) as error:
            _log.debug("handshake from %s failed: %s", transport.remote, error)
        finally:
            self._pending.pop(number, None)
            self._networks[network] -= 1
            if not self._networks[network]:
                del self._networks[network]
            if not adopted:
                transport.close()
        if adopted:
            transfer.adopt(transport, said.peer_id, transport.remote, incoming=True)
