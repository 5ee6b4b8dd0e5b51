"""The embedded tracker on its sockets: HTTP and UDP, every connection bounded in time and in number."""

from __future__ import annotations

import errno
import logging
import os
import random
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import trio

from btor import limits
from btor.engine.contain import Container
from btor.engine.udp import SystemUdpSocket, UdpSocket, serve
from btor.errors import NetworkError
from btor.tracker.connection_ids import SECRET
from btor.tracker.http import serve_connection
from btor.tracker.registry import Bounds
from btor.tracker.tracker import HttpAnswer, Tracker
from btor.wire.address import Address, canonical, format_address

DEFAULT_ADDRESS: Final[Address] = ("127.0.0.1", 6969)
SAME_PORT_TRIES: Final = 16  # to find a number that is free for TCP and for UDP
SWEEPS: Final = 4  # in the life of a peer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerSettings:
    """Where to listen, and what to ask of the peers: an announce every ``interval`` seconds.

    Hosts are addresses or names; port 0 lets the system choose, the same number for HTTP and UDP where both say 0.
    ``strict`` re-raises what ``contain`` would swallow (tests).
    """

    http: tuple[Address, ...] = (DEFAULT_ADDRESS,)
    udp: tuple[Address, ...] = (DEFAULT_ADDRESS,)
    interval: float = limits.TRACKED_INTERVAL
    bounds: Bounds | None = None
    strict: bool = False


class Bound(NamedTuple):
    """Where a tracker listens."""

    http: tuple[Address, ...]
    udp: tuple[Address, ...]

    @property
    def http_url(self) -> str:
        """The announce URL over HTTP."""
        return f"http://{format_address(self.http[0])}/announce"

    @property
    def udp_url(self) -> str:
        """The announce URL over UDP."""
        return f"udp://{format_address(self.udp[0])}/announce"


async def serve_tracker(
    settings: TrackerSettings, *, task_status: trio.TaskStatus[Bound] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a tracker until cancelled; ``await nursery.start(serve_tracker, settings)`` returns where it listens.

    NetworkError names an address that cannot be had, or a host that does not exist.
    """
    tracker = Tracker(
        random.Random(secrets.randbits(128)),
        secrets.token_bytes(SECRET),
        trio.current_time(),
        interval=settings.interval,
        bounds=settings.bounds,
    )
    http, udp = _listen(await _resolve(settings.http), await _resolve(settings.udp))
    try:
        async with trio.open_nursery() as nursery:
            for sock in udp:
                nursery.start_soon(_serve_udp, tracker, sock, Container(strict=settings.strict))
            connections = Connections(tracker, Container(strict=settings.strict))
            nursery.start_soon(trio.serve_listeners, connections.serve, http)
            nursery.start_soon(_sweep, tracker)
            task_status.started(
                Bound(tuple(one.socket.getsockname()[:2] for one in http), tuple(one.local for one in udp))
            )
    finally:
        _close(http, udp)


class Connections:
    """The HTTP connections of a tracker: bounded in number, the one that has waited longest makes room."""

    def __init__(self, tracker: Tracker, container: Container) -> None:
        self._tracker = tracker
        self._container = container
        self._scopes: dict[trio.CancelScope, None] = {}

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end."""
        if len(self._scopes) >= limits.TRACKER_CONNECTIONS:
            oldest = next(iter(self._scopes))
            del self._scopes[oldest]
            oldest.cancel()
        with trio.CancelScope() as scope:
            self._scopes[scope] = None
            try:
                await self._container.run("a connection to the tracker", self._serve, stream, scope)
            finally:
                self._scopes.pop(scope, None)

    async def _serve(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            ip = canonical(stream.socket.getpeername()[0])
        except OSError:
            return  # gone before it was served

        def answer(target: bytes) -> HttpAnswer:
            self._scopes.pop(scope, None)  # it has just done something: last to make room
            self._scopes[scope] = None
            answered = self._tracker.answer_http(target, ip, trio.current_time())
            _log.debug("%s: HTTP %d, %d bytes", ip, answered.status, len(answered.body))
            return answered

        await serve_connection(stream, answer)


async def _serve_udp(tracker: Tracker, sock: UdpSocket, container: Container) -> None:
    """Answer datagrams until the socket is closed; one that brings out a bug is not the last."""
    failures = -1
    while container.failures != failures:
        failures = container.failures
        await container.run("the UDP side of the tracker", serve, sock, partial(_on_datagram, tracker, sock))


def _on_datagram(tracker: Tracker, sock: UdpSocket, packet: bytes, sender: Address) -> None:
    reply = tracker.answer_udp(packet, sender, trio.current_time())
    if reply is None:
        return
    try:
        sock.sendto(reply, sender)
    except OSError as error:  # a full buffer, too: a lost answer is asked for again
        _log.debug("%s: UDP answer lost: %s", sender[0], error)


async def _sweep(tracker: Tracker) -> None:
    life = limits.TRACKED_SILENCE * tracker.registry.interval
    while True:
        await trio.sleep(min(life / SWEEPS, limits.TRACKED_SWEEP_MAX))
        tracker.registry.expire(trio.current_time())


# --- sockets -------------------------------------------------------------------------------------------------


class ListenError(NetworkError):
    """An address that cannot be had. ``errno`` as in OSError."""

    def __init__(self, what: str, address: Address, error: OSError) -> None:
        # the text of create_server names the address again
        reason = os.strerror(error.errno) if error.errno else str(error)
        super().__init__(f"cannot listen on {format_address(address)} ({what}): {reason}")
        self.errno = error.errno


async def _resolve(hosts: Sequence[Address]) -> list[Address]:
    """Every address that the hosts have, each once."""
    found: list[Address] = []
    for host, port in hosts:
        try:
            entries = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise NetworkError(f"{host}: {error.strerror or error}") from error
        found.extend((str(entry[4][0]), port) for entry in entries)
    return list(dict.fromkeys(found))


def _listen(http: list[Address], udp: list[Address]) -> tuple[list[trio.SocketListener], list[UdpSocket]]:
    """The sockets. A port that the system chooses is one number for all of them."""
    tries = SAME_PORT_TRIES if any(port == 0 for _, port in http + udp) else 1
    while True:
        tries -= 1
        try:
            return _open_all(http, udp)
        except ListenError as error:
            if error.errno != errno.EADDRINUSE or tries == 0:
                raise


def _open_all(http: list[Address], udp: list[Address]) -> tuple[list[trio.SocketListener], list[UdpSocket]]:
    listeners: list[trio.SocketListener] = []
    sockets: list[UdpSocket] = []
    chosen = 0
    try:
        for host, port in http:
            listeners.append(_open_tcp((host, port or chosen)))
            chosen = chosen if port else listeners[-1].socket.getsockname()[1]
        for host, port in udp:
            sockets.append(_open_udp((host, port or chosen)))
            chosen = chosen if port else sockets[-1].local[1]
    except ListenError:
        _close(listeners, sockets)
        raise
    return listeners, sockets


def _open_tcp(address: Address) -> trio.SocketListener:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        sock = socket.create_server(address, family=family, backlog=limits.TRACKER_CONNECTIONS)
    except OSError as error:
        raise ListenError("HTTP", address, error) from error
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _open_udp(address: Address) -> UdpSocket:
    try:
        return SystemUdpSocket(*address)
    except OSError as error:
        raise ListenError("UDP", address, error) from error


def _close(listeners: Sequence[trio.SocketListener], sockets: Sequence[UdpSocket]) -> None:
    for listener in listeners:
        listener.socket.close()
    for sock in sockets:
        sock.close()
