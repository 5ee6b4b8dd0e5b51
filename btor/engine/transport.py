"""The seam to the network: what a peer and a session need of it, and TCP as the real one.

Tests put a simulated network behind the same names. Nothing here waits but the methods that say ``async``.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

import trio

from btor.engine.udp import UdpSocket, open_udp_sockets
from btor.wire.address import Address as Address
from btor.wire.address import canonical

LISTEN_BACKLOG = 512
NOT_SENT_LOW_WATER = 128 * 1024  # trio's own choice of 16 KiB is about one block


class Transport(Protocol):
    """A connected byte stream."""

    remote: Address
    local: Address

    async def wait_readable(self) -> None:
        """Return when ``recv_into`` would not raise BlockingIOError. trio.ClosedResourceError once closed."""

    def recv_into(self, views: Sequence[memoryview]) -> int:
        """Fill the views in order with what is there. 0 at the end. BlockingIOError when nothing is; OSError."""

    async def wait_writable(self) -> None:
        """Return when ``send`` would take something. trio.ClosedResourceError once closed."""

    def send(self, views: Sequence[memoryview | bytes | bytearray]) -> int:
        """Hand over bytes, in order; how many were taken. BlockingIOError when none are; OSError."""

    def close(self) -> None:
        """Close at once, waking whoever waits. Again does nothing."""


class Listener(Protocol):
    """An open port."""

    port: int

    async def accept(self) -> Transport:
        """The next connection. OSError (EMFILE …); trio.ClosedResourceError once closed."""

    def close(self) -> None:
        """Stop listening."""


class Network(Protocol):
    """The whole network as a session sees it."""

    async def connect(self, address: Address, *, local: str | None = None) -> Transport:
        """Open a stream to an IP address and port. OSError."""

    async def listen(self, host: str, port: int) -> Listener:
        """Listen on ``host`` (an IP address; "" for all) and ``port`` (0: any). OSError."""

    async def resolve(self, host: str, port: int) -> list[Address]:
        """The IP addresses of a name, in the order to try. OSError."""

    def open_udp_sockets(self, bind: Sequence[str], port: int) -> list[UdpSocket]:
        """As `btor.engine.udp.open_udp_sockets`. OSError."""


def _address(name: tuple[str, int]) -> Address:
    """The address in a socket name: a dual-stack socket calls an IPv4 peer by its mapped IPv6 address."""
    return canonical(name[0]), name[1]


class TcpTransport:
    """A connected non-blocking TCP socket."""

    __slots__ = ("_closed", "_socket", "local", "remote")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_LOW_WATER)
        self._socket = sock
        self._closed = False
        self.remote: Address = _address(sock.getpeername())
        self.local: Address = _address(sock.getsockname())

    async def wait_readable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_readable(self._socket)

    def recv_into(self, views: Sequence[memoryview]) -> int:
        if self._closed:
            raise trio.ClosedResourceError
        if len(views) == 1:
            return self._socket.recv_into(views[0])
        return self._socket.recvmsg_into(views)[0]

    async def wait_writable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        await trio.lowlevel.wait_writable(self._socket)

    def send(self, views: Sequence[memoryview | bytes | bytearray]) -> int:
        if self._closed:
            raise trio.ClosedResourceError
        if len(views) == 1:
            return self._socket.send(views[0])
        return self._socket.sendmsg(views)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


def _detached(connection: trio.socket.SocketType) -> TcpTransport:
    """The transport of a connection: it speaks to the plain socket, trio's wrapper would checkpoint on each call.

    OSError: the connection is gone already.
    """
    sock = socket.socket(fileno=connection.detach())
    try:
        return TcpTransport(sock)
    except OSError:
        sock.close()
        raise


class TcpListener:
    """A listening TCP socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = trio.socket.from_stdlib_socket(sock)
        self.port: int = sock.getsockname()[1]

    async def accept(self) -> Transport:
        connection, _ = await self._socket.accept()
        return _detached(connection)

    def close(self) -> None:
        self._socket.close()


class TcpNetwork:
    """The real network."""

    async def connect(self, address: Address, *, local: str | None = None) -> Transport:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            if local is not None:
                await sock.bind((local, 0))
            await sock.connect(address)
            return _detached(sock)
        finally:
            sock.close()

    async def listen(self, host: str, port: int) -> Listener:
        sock = open_listening_socket(host, port)
        return TcpListener(sock)

    async def resolve(self, host: str, port: int) -> list[Address]:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(entry[4][:2] for entry in found))  # type: ignore[misc]  # sockaddr is (host, port, …) here

    def open_udp_sockets(self, bind: Sequence[str], port: int) -> list[UdpSocket]:
        return open_udp_sockets(bind, port)


def open_listening_socket(host: str, port: int) -> socket.socket:
    """A listening stream socket; "" is all addresses of both families where the system has IPv6. OSError."""
    if host == "" and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, backlog=LISTEN_BACKLOG, dualstack_ipv6=True)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=LISTEN_BACKLOG)
