"""Peer exchange (BEP 11) of one torrent: who is told of whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from btor.wire import extension
from btor.wire.address import dialable

if TYPE_CHECKING:
    from btor.engine.peer import Peer
    from btor.engine.transfer import Transfer
    from btor.wire.address import Address


LOOK_PERIOD: Final = 10.0  # s


class PeerExchange:
    """``enabled``: peers are exchanged; never so in a private torrent (BEP 27)."""

    def __init__(self, transfer: Transfer) -> None:
        self.enabled = transfer.session.settings.pex and not transfer.metainfo.private
        self._transfer = transfer
        self._connected: dict[Address, int] = {}  # at the last look
        self._looked: set[int] = set()  # for whom nothing was new in it
        self._look_again = 0.0  # at what peers say of themselves, where nobody has come

    def on_tick(self, now: float) -> None:
        """Once a second: tell those who are due what changed."""
        if not self.enabled:
            return
        due = [peer for peer in self._transfer.peers.values() if _is_due(peer, now)]
        if not due or (now < self._look_again and all(peer.key in self._looked for peer in due)):
            return
        self._look_again = now + LOOK_PERIOD
        connected = self._look()
        if connected != self._connected:
            self._connected = connected
            self._looked.clear()
        for peer in due:
            if peer.key not in self._looked:
                self._tell(peer, now)

    def _look(self) -> dict[Address, int]:
        """Where the peers listen, as far as that is known, with their flags."""
        connected = {}
        for peer in self._transfer.peers.values():
            address = peer.address if peer.extended is None else peer.extended.listen_address
            if address is not None and (peer.extended is not None or not peer.incoming):
                flags = extension.PEX_SEED if peer.upload_only else 0
                connected[address] = flags | (0 if peer.incoming else extension.PEX_REACHABLE)
        return connected

    def _tell(self, peer: Peer, now: float) -> None:
        assert peer.extended is not None
        own = peer.extended.listen_address
        told = {
            address: flags
            for address, flags in self._connected.items()
            if address != own and dialable(address, source_ip=peer.address[0], user=False)
        }
        message = peer.extended.pex.take(told, now)
        if message is None:
            self._looked.add(peer.key)
        else:
            peer.say(peer.extended.settled.message(extension.UT_PEX, extension.encode_pex(message)))


def _is_due(peer: Peer, now: float) -> bool:
    return peer.extended is not None and peer.extended.settled.takes(extension.UT_PEX) and peer.extended.pex.is_due(now)
