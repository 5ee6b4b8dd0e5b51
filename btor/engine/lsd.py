"""Local discovery (BEP 14): peers on the same network find each other by multicast, IPv4 and IPv6."""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from btor import limits
from btor.engine.udp import UdpSocket, serve
from btor.swarm.lsd import LocalCadence
from btor.wire.address import Address, canonical, reach
from btor.wire.lsd import GROUP4, GROUP6, LSD_PORT, LocalAnnounce, decode_local, encode_local

if TYPE_CHECKING:
    from btor.engine.session import Session

_log = logging.getLogger(__name__)

LOOK_PERIOD: Final = 1.0  # s between looks at which torrents are due


class MulticastSocket:
    """A UDP socket in one multicast group on one interface (``UdpSocket``). OSError."""

    def __init__(self, group: str, interface: Address) -> None:
        """``interface``: an address of ours (IPv4), or the name and index of the interface (IPv6)."""
        v6 = ":" in group
        sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if v6:
                index = interface[1]
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
                sock.bind((group, LSD_PORT))
                member = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
            else:
                own = socket.inet_aton(interface[0])
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
                sock.bind((group, LSD_PORT))
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + own)
        except OSError:
            sock.close()
            raise
        self._socket = sock
        self._closed = False
        self.local: Address = (group, LSD_PORT)

    async def wait_readable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(self._socket)

    def recvfrom(self) -> tuple[bytes, Address]:
        data, sender = self._socket.recvfrom(limits.LSD_DATAGRAM + 1)
        return data, (canonical(sender[0]), sender[1])

    def sendto(self, data: bytes, address: Address) -> None:
        self._socket.sendto(data, address)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


def open_multicast_sockets(bind: Sequence[str]) -> list[UdpSocket]:
    """A socket for each family: on the addresses of ``bind``, or where the system sends multicasts.

    None at all for a session bound to loopback alone; a family that the system refuses is left out.
    """
    if bind and all(reach(ip) == "loopback" for ip in bind):
        return []
    places = [(GROUP4, (ip, 0)) for ip in bind if ":" not in ip and reach(ip) != "loopback"]
    if not bind:
        places = [(GROUP4, ("0.0.0.0", 0))]
    if not bind or any(":" in ip for ip in bind):
        places += [(GROUP6, (name, index)) for index, name in socket.if_nameindex() if name != "lo"]
    sockets: list[UdpSocket] = []
    for group, interface in places:
        try:
            sockets.append(MulticastSocket(group, interface))
        except OSError as error:
            _log.debug("no local discovery in %s at %s: %s", group, interface, error)
    return sockets


class LocalDiscovery:
    """One for a session. ``sockets``: in a multicast group each; without any it does nothing."""

    def __init__(self, session: Session, sockets: Sequence[UdpSocket]) -> None:
        self._session = session
        self._sockets = sockets
        self._cadence = LocalCadence()
        self._cookie = f"{session.rng.randrange(1 << 32):08x}" if sockets else ""

    async def run(self) -> None:
        """Tell and listen until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                for sock in self._sockets:
                    nursery.start_soon(serve, sock, partial(self._on_datagram))
                while self._sockets:
                    self._tell(trio.current_time())
                    await trio.sleep(LOOK_PERIOD)
        finally:
            for sock in self._sockets:
                sock.close()

    def _tell(self, now: float) -> None:
        session = self._session
        torrents = [torrent for torrent in session.torrents.values() if torrent.may_be_told_of]
        due = self._cadence.take((torrent.info_hash for torrent in torrents), now) if session.port else []
        if not due:
            return
        said = LocalAnnounce(session.port, tuple(due), self._cookie)
        for sock in self._sockets:
            group = sock.local[0]
            try:
                sock.sendto(encode_local(said, group), (group, LSD_PORT))
            except OSError as error:
                if error.errno not in (errno.ENETUNREACH, errno.EAGAIN):
                    _log.debug("no local announce to %s: %s", group, error)

    def _on_datagram(self, data: bytes, sender: Address) -> None:
        said = decode_local(data)
        if said is None or said.cookie == self._cookie:
            return
        if not self._cadence.listens_to(sender[0], trio.current_time()):
            return
        for info_hash in said.info_hashes:
            torrent = self._session.torrents.get(info_hash)
            if torrent is not None and torrent.may_be_told_of and torrent.exchange is not None:
                torrent.exchange.add_peers([(sender[0], said.port)], "lsd", sender[0])
