"""Who is barred from a session, for proven misdeeds."""

from __future__ import annotations

from btor.limits import BANS
from btor.wire.address import Address, reach


class Bans:
    """Who is barred, for all torrents of a session: IPs, and on loopback (address, port) and (address, peer id)."""

    def __init__(self, *, loopback_is_public: bool = False) -> None:
        self.loopback_is_public = loopback_is_public
        self._barred: dict[str | Address | tuple[str, bytes], None] = {}  # in order of age

    def add(self, address: Address, peer_id: bytes | None = None) -> None:
        """Bar a peer. ``address`` holds its listen port; the oldest ban is forgotten above ``BANS``."""
        ip = address[0]
        barred: list[str | Address | tuple[str, bytes]] = [ip]
        if not self.loopback_is_public and reach(ip) == "loopback":
            barred = [address] if peer_id is None else [address, (ip, peer_id)]
        for one in barred:
            self._barred.pop(one, None)
            self._barred[one] = None
        while len(self._barred) > BANS:
            del self._barred[next(iter(self._barred))]

    def bars(self, address: Address, peer_id: bytes | None = None) -> bool:
        """Whether this address, or at this address this peer id, is barred."""
        ip = address[0]
        return ip in self._barred or address in self._barred or (peer_id is not None and (ip, peer_id) in self._barred)
