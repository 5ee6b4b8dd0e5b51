"""UDP for the whole session: one socket for each address family, and who gets which datagram.

``UdpSocket`` is the seam: tests put a simulated socket behind it. The embedded tracker uses the sockets and ``serve``.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import trio

from btor import limits
from btor.wire.address import Address, canonical
from btor.wire.tracker_udp import transaction_of_reply

if TYPE_CHECKING:
    from collections.abc import Iterator

RECEIVE_BUFFER: Final = 256 * 1024  # what a burst of replies needs while the loop is busy with a gulp
UNREAD_REPLIES: Final = 8  # of one exchange; more can only be repetitions
NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


class UdpSocket(Protocol):
    """A bound datagram socket of one address family."""

    local: Address

    async def wait_readable(self) -> None:
        """Return when a datagram may be there. trio.ClosedResourceError once closed."""

    def recvfrom(self) -> tuple[bytes, Address]:
        """The next datagram, cut after UDP_TRACKER_PACKET + 1 bytes, and its sender. BlockingIOError; OSError."""

    def sendto(self, data: bytes, address: Address) -> None:
        """Send one datagram to an IP address of the family. BlockingIOError (it is lost); OSError."""

    def close(self) -> None:
        """Close at once, waking whoever waits. Again does nothing."""


class SystemUdpSocket:
    """A UDP socket of the system. OSError when ``host`` (an IP address) and ``port`` (0: any) cannot be had."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            sock.bind((host, port))
        except OSError:
            sock.close()
            raise
        self._socket = sock
        self._closed = False
        self._ipv6 = family == socket.AF_INET6
        self.local: Address = sock.getsockname()[:2]

    async def wait_readable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(self._socket)

    def recvfrom(self) -> tuple[bytes, Address]:
        data, sender = self._socket.recvfrom(limits.UDP_TRACKER_PACKET + 1)
        if self._ipv6:  # may hold a zone; what the system says of IPv4 is canonical
            return data, (canonical(sender[0]), sender[1])
        return data, sender

    def sendto(self, data: bytes, address: Address) -> None:
        self._socket.sendto(data, address)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


def open_udp_sockets(bind: Sequence[str], port: int) -> list[UdpSocket]:
    """The UDP sockets of a session: on each address of ``bind``, else on all of both families. OSError.

    Port 0 lets the system choose, the same number for all where it can. A system without IPv6 gets one socket.
    """
    sockets: list[UdpSocket] = []
    try:
        for host in bind or ("0.0.0.0", "::"):
            try:
                sockets.append(SystemUdpSocket(host, port or (sockets[0].local[1] if sockets else 0)))
            except OSError as error:
                if not bind and sockets and error.errno in NO_IPV6:
                    continue
                if port == 0 and error.errno == errno.EADDRINUSE:
                    sockets.append(SystemUdpSocket(host, 0))
                    continue
                raise
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


async def serve(sock: UdpSocket, handle: Callable[[bytes, Address], None]) -> None:
    """Hand every datagram to ``handle``, at most UDP_DRAIN before others get their turn; until the socket is closed."""
    while True:
        try:
            await sock.wait_readable()
        except trio.ClosedResourceError:
            return
        for _ in range(limits.UDP_DRAIN):
            try:
                data, sender = sock.recvfrom()
            except BlockingIOError:
                break
            except OSError:
                continue  # the network's complaint about a datagram that we sent earlier
            handle(data, sender)


class Exchange:
    """Questions to one address, and the answers that carry one of their transaction ids."""

    def __init__(self, sock: UdpSocket, address: Address, waiting: dict[tuple[Address, int], Exchange]) -> None:
        self._socket = sock
        self._address = address
        self._waiting = waiting
        self._transactions: list[int] = []
        self._send, self._receive = trio.open_memory_channel[tuple[int, bytes]](UNREAD_REPLIES)

    def ask(self, transaction: int, packet: bytes) -> None:
        """Send ``packet``; an answer to ``transaction`` is ours from now on. OSError."""
        self._transactions.append(transaction)
        self._waiting[self._address, transaction] = self
        try:
            self._socket.sendto(packet, self._address)
        except BlockingIOError:
            pass  # as good as lost on the way; it is sent again

    async def answer(self) -> tuple[int, bytes]:
        """The next answer: (transaction, packet)."""
        return await self._receive.receive()

    def put(self, transaction: int, packet: bytes) -> None:
        """An answer came in (called by the hub)."""
        try:
            self._send.send_nowait((transaction, packet))
        except trio.WouldBlock:
            pass

    def close(self) -> None:
        """Expect no more answers."""
        for transaction in self._transactions:
            self._waiting.pop((self._address, transaction), None)
        self._send.close()
        self._receive.close()


class UdpHub:
    """The session's UDP sockets. A datagram that nobody waits for is dropped.

    ``on_dht`` gets what begins like a dictionary: no tracker's answer does.
    """

    def __init__(self, sockets: Sequence[UdpSocket]) -> None:
        self.sockets = list(sockets)
        self.on_dht: Callable[[UdpSocket, bytes, Address], None] | None = None
        self._waiting: dict[tuple[Address, int], Exchange] = {}

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Receive until cancelled or closed; the sockets are closed at the end."""
        try:
            async with trio.open_nursery() as nursery:
                for sock in self.sockets:
                    nursery.start_soon(serve, sock, partial(self._on_datagram, sock))
                task_status.started()
        finally:
            self.close()

    def close(self) -> None:
        """Close the sockets."""
        for sock in self.sockets:
            sock.close()

    @contextmanager
    def exchange(self, address: Address) -> Iterator[Exchange]:
        """Ask ``address`` something. OSError when no socket is of its family."""
        for sock in self.sockets:
            if (":" in sock.local[0]) == (":" in address[0]):
                break
        else:
            raise OSError(errno.EAFNOSUPPORT, "no local address of that family")
        exchange = Exchange(sock, address, self._waiting)
        try:
            yield exchange
        finally:
            exchange.close()

    def _on_datagram(self, sock: UdpSocket, data: bytes, sender: Address) -> None:
        if data.startswith(b"d"):
            if self.on_dht is not None:
                self.on_dht(sock, data, sender)
            return
        transaction = transaction_of_reply(data)
        if transaction is None:
            return
        exchange = self._waiting.get((sender, transaction))
        if exchange is not None:
            exchange.put(transaction, data)
