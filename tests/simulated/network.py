"""A simulated network behind the seam of ``btor/engine/transport.py``, for a virtual clock.

A ``World`` holds hosts; each has IP addresses of its own, an uplink and a downlink, and its part of the latency. A
``Host`` is the ``Network`` that a session gets. An uplink serves its connections in turn, chunk by chunk; a downlink
serves what arrives in the order of arrival.

Simplified: acknowledgements take no time; there are no segments to lose and no slow start; a sender knows how many
share the downlink at the other end, which stands for congestion control; datagrams take no bandwidth.
"""

from __future__ import annotations

import errno
import math
import random
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import trio

from btor.engine.transport import LISTEN_BACKLOG, Address
from btor.engine.udp import UdpSocket
from btor.wire.address import is_ip
from tests.simulated.datagrams import SimulatedUdpSocket
from tests.simulated.schedule import Schedule
from tests.simulated.stream import Flow, SimulatedTransport, Waiter

CHUNK = 64 * 1024  # the most that one planned action moves over a link of limited rate
CHUNK_MIN = 2 * 1024
CHUNK_SECONDS = 0.02  # a chunk holds a link no longer, so that its flows share it evenly
SEND_BUFFER = 128 * 1024
RECEIVE_WINDOW = 4 * 1024 * 1024
QUEUE_SECONDS = 0.1  # that what is under way to a downlink waits there, as good congestion control keeps it
SHARE_MIN = 16 * 1024
FIRST_EPHEMERAL_PORT = 49_152
LAST_PORT = 65_535


class World:
    """All hosts, names and faults. ``run`` must be running before anything else.

    ``seed`` decides what is left to chance. ``connection_life``: mean seconds until a connection breaks, None: never.
    ``look_up``: seconds that a name takes. Of the datagrams a share is lost and a share comes twice; each is late by
    up to ``datagram_jitter`` seconds.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        connection_life: float | None = None,
        look_up: float = 0.02,
        datagram_loss: float = 0.0,
        datagram_repeats: float = 0.0,
        datagram_jitter: float = 0.0,
        send_buffer: int = SEND_BUFFER,
        receive_window: int = RECEIVE_WINDOW,
    ) -> None:
        self.rng = random.Random(seed)
        self.schedule = Schedule()
        self.connection_life = connection_life
        self.look_up = look_up
        self.datagram_loss = datagram_loss
        self.datagram_repeats = datagram_repeats
        self.datagram_jitter = datagram_jitter
        self.send_buffer = send_buffer
        self.receive_window = receive_window
        self.surely: int | None = (
            None  # a datagram that is lost, if any are, whatever the dice say; the next comes twice
        )
        self.datagrams = 0  # sent
        self.lost = self.repeated = self.overtaken = 0  # of them; the last: that came after one sent later
        self.broken = 0  # connections that the network broke
        self.names: dict[str, list[str]] = {}  # host name → IP addresses; an empty list: no name server answers
        self.hosts: dict[str, Host] = {}  # by IP
        self._held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []  # what partitions keep from arriving

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Let things happen, for ever."""
        task_status.started()
        await self.schedule.run()

    @property
    def held(self) -> int:
        """What partitions keep from arriving now."""
        return len(self._held)

    def host(
        self,
        *ips: str,
        up: float | None = None,
        down: float | None = None,
        latency: float = 0.01,
        udp: bool = False,
    ) -> Host:
        """A new host at ``ips``. ``up``, ``down``: bytes/s, None for no limit; ``latency``: its part, one way, in s.

        ``udp``: whether sessions on it speak UDP too.
        """
        made = Host(self, ips, up, down, latency)
        made.gives_udp = udp
        for ip in ips:
            if ip in self.hosts:
                raise ValueError(f"there is a host at {ip}")
            self.hosts[ip] = made
        return made

    def partition(self, hosts: Iterable[Host], group: int = 1) -> None:
        """Cut these hosts off from other groups (all begin in 0). Streams wait for ``heal``, datagrams are lost."""
        for host in hosts:
            host.group = group

    def heal(self) -> None:
        """End all partitions; what was held back arrives."""
        for host in self.hosts.values():
            host.group = 0
        held, self._held = self._held, []
        now = trio.current_time()
        for action, args in held:
            self.schedule.at(now, action, *args)

    def hold(self, one: Host, other: Host, action: Callable[..., None], *args: Any) -> bool:
        """Whether a partition lies between the two, in which case ``action`` is done when it ends."""
        if one.group == other.group:
            return False
        self._held.append((action, args))
        return True

    def copies_of_datagram(self) -> int:
        """How often a datagram arrives: 0, 1 or 2 times."""
        after = None if self.surely is None else self.datagrams - self.surely
        self.datagrams += 1
        if self.rng.random() < self.datagram_loss or (self.datagram_loss and after == 0):
            self.lost += 1
            return 0
        if self.rng.random() < self.datagram_repeats or (self.datagram_repeats and after == 1):
            self.repeated += 1
            return 2
        return 1


class Host:
    """One machine, and the ``Network`` for whoever runs on it. Made by ``World.host``."""

    def __init__(
        self, world: World, ips: tuple[str, ...], up: float | None, down: float | None, latency: float
    ) -> None:
        self.world = world
        self.ips = ips
        self.up = up
        self.down = down
        self.latency = latency
        self.group = 0
        self.gives_udp = False
        self.latest = 0.0  # when the last datagram for us arrives, of those sent so far
        self.silent = False  # connections to it hang, as behind a firewall that drops
        self.sent = 0  # bytes of streams that left
        self.received = 0  # and that came
        self.inbound = 0  # flows with something under way to us
        self.dialled: list[tuple[float, Address]] = []  # every attempt to connect, and when
        self.listeners: dict[Address, SimulatedListener] = {}
        self.ends: dict[SimulatedTransport, None] = {}  # open connections, the oldest first
        self.udp: dict[Address, SimulatedUdpSocket] = {}
        self._next_port = FIRST_EPHEMERAL_PORT
        self._lined_up: deque[Flow] = deque()  # who may use the uplink, in turn
        self._sending = False
        self._up_free = 0.0  # when the uplink is through with what it has taken up
        self._down_free = 0.0

    # -- the seam -------------------------------------------------------------------------------------------------

    async def connect(self, address: Address, *, local: str | None = None) -> SimulatedTransport:
        """Open a stream; takes a round trip. OSError; hangs where nobody answers."""
        self.dialled.append((trio.current_time(), address))
        end = SimulatedTransport(self, (self._local_ip(address[0], local), self.free_port()), address)
        target = self.world.hosts.get(address[0])
        if target is not None and not target.silent:
            self._after(self.latency + target.latency, target, self._arrive_syn, end, target)
        try:
            await end.wait_connected()
        except BaseException:
            end.close()
            raise
        return end

    async def listen(self, host: str, port: int) -> SimulatedListener:
        """Listen on ``host`` ("" for all addresses) and ``port`` (0: any). OSError."""
        await trio.lowlevel.checkpoint()
        if host not in ("", *self.ips):
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        port = port or self.free_port()
        if any(taken == port and (not host or not ip or ip == host) for ip, taken in self.listeners):
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return SimulatedListener(self, host, port)

    async def resolve(self, host: str, port: int) -> list[Address]:
        """The addresses of a name in ``World.names``. socket.gaierror."""
        if is_ip(host):
            await trio.lowlevel.checkpoint()
            return [(host, port)]
        await trio.sleep(self.world.look_up)
        if host not in self.world.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if not self.world.names[host]:
            await trio.sleep_forever()
        return [(ip, port) for ip in self.world.names[host]]

    def open_udp(self, ip: str, port: int) -> SimulatedUdpSocket:
        """A datagram socket (``btor.engine.udp.UdpSocket``). OSError."""
        if ip not in self.ips:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        local = (ip, port or self.free_port())
        if local in self.udp:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return SimulatedUdpSocket(self, local)

    def open_udp_sockets(self, bind: Sequence[str], port: int) -> list[UdpSocket]:
        """The sockets of a session (`btor.engine.transport.Network`). OSError."""
        return [self.open_udp(ip, port) for ip in bind or self.ips] if self.gives_udp else []

    # -- faults ---------------------------------------------------------------------------------------------------

    def unplug(self) -> None:
        """Pull the cable: nothing leaves or arrives until ``World.heal``, and nobody is told."""
        self.world.partition([self], group=id(self))

    def crash(self) -> None:
        """The process dies: every connection is reset, every port closed."""
        for end in list(self.ends):
            end.abort()
        for listener in list(self.listeners.values()):
            listener.close()
        for sock in list(self.udp.values()):
            sock.close()

    def move(self, ip: str) -> None:
        """Another address instead of the first: what was connected stays so at both ends, and nothing arrives there.

        Open ports are open at the new one.
        """
        old = self.ips[0]
        if ip in self.world.hosts:
            raise ValueError(f"there is a host at {ip}")
        self.world.hosts[ip] = self.world.hosts.pop(old)
        self.ips = (ip, *self.ips[1:])
        for end in self.ends:
            end.lose()
        for address in [address for address in self.udp if address[0] == old]:
            sock = self.udp.pop(address)
            sock.local = (ip, address[1])
            self.udp[sock.local] = sock

    def vanish(self) -> None:
        """All connections are gone here, and nobody is told: half open, until the other end sends and is refused."""
        for end in list(self.ends):
            end.vanish()

    # -- making connections ---------------------------------------------------------------------------------------

    def free_port(self) -> int:
        """The next ephemeral port."""
        port = self._next_port
        self._next_port = FIRST_EPHEMERAL_PORT if port == LAST_PORT else port + 1
        return port

    def _local_ip(self, remote: str, wanted: str | None) -> str:
        if wanted is not None and wanted not in self.ips:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        for ip in self.ips if wanted is None else (wanted,):
            if (":" in ip) == (":" in remote):
                return ip
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    def _after(self, delay: float, other: Host, action: Callable[..., None], *args: Any) -> None:
        """Do ``action`` after ``delay``, or when a partition from ``other`` ends."""
        self.world.schedule.at(trio.current_time() + delay, self._unless_held, other, action, *args)

    def _unless_held(self, other: Host, action: Callable[..., None], *args: Any) -> None:
        if not self.world.hold(self, other, action, *args):
            action(*args)

    def _arrive_syn(self, caller: SimulatedTransport, target: Host) -> None:
        ip, port = caller.remote
        listener = target.listeners.get((ip, port)) or target.listeners.get(("", port))
        back = self.latency + target.latency
        if listener is None:
            refusal = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            self._after(back, target, caller.fail, refusal)
        elif len(listener.backlog) < LISTEN_BACKLOG and not caller.closed:
            end = SimulatedTransport(target, caller.remote, caller.local)
            caller.join(end)
            if self.world.connection_life is not None:
                self._after(self.world.rng.expovariate(1 / self.world.connection_life), self, end.break_connection)
            listener.put(end)
            self._after(back, target, caller.establish)

    # -- the links ------------------------------------------------------------------------------------------------

    def line_up(self, flow: Flow) -> None:
        """Let a flow have its turns at the uplink while it has something to send and room at the other end."""
        self._append(flow)
        self._send_next()

    def _append(self, flow: Flow) -> None:
        if not flow.lined_up and flow.sendable():
            flow.lined_up = True
            self._lined_up.append(flow)

    def _send_next(self) -> None:
        now = trio.current_time()
        while self._lined_up and not self._sending:
            flow = self._lined_up.popleft()
            flow.lined_up = False
            count = flow.sendable()
            if not count:
                continue
            count = min(count, _chunk(self.up, flow.target.host.down))
            flow.start(count)
            if self.up is None:
                flow.leave(count, now)
                self._append(flow)
                continue
            # actions are up to a step late: a link that stayed busy goes on from where it really ended
            self._up_free = max(self._up_free, now - self.world.schedule.step) + count / self.up
            self._sending = True
            self.world.schedule.at(self._up_free, self._sent, flow, count, self._up_free)

    def _sent(self, flow: Flow, count: int, when: float) -> None:
        self._sending = False
        flow.leave(count, when)
        self.line_up(flow)
        self._send_next()

    def share_of_downlink(self, latency: float) -> float:
        """How many bytes one flow may have under way to us: what fills the link and a short queue, shared evenly."""
        if self.down is None:
            return math.inf
        return max(SHARE_MIN, self.down * (latency + QUEUE_SECONDS) / max(1, self.inbound))

    def take_in(self, flow: Flow, count: int) -> None:
        """A chunk has come to our downlink."""
        if self.down is None:
            flow.deliver(count)
            return
        now = trio.current_time()
        self._down_free = max(self._down_free, now - self.world.schedule.step) + count / self.down
        self.world.schedule.at(self._down_free, flow.deliver, count)

    def deliver_datagram(self, data: bytes, sender: Address, address: Address) -> None:
        """A datagram has come."""
        sock = self.udp.get(address)
        if sock is not None:
            sock.deliver(data, sender)


class SimulatedListener:
    """An open port (``btor.engine.transport.Listener``)."""

    def __init__(self, host: Host, ip: str, port: int) -> None:
        self.port = port
        self.backlog: deque[SimulatedTransport] = deque()
        self._host = host
        self._key = (ip, port)
        self._closed = False
        self._waiter = Waiter()
        host.listeners[self._key] = self

    async def accept(self) -> SimulatedTransport:
        self._check()
        await trio.lowlevel.checkpoint()
        while not self.backlog:
            self._check()
            await self._waiter.wait()
        return self.backlog.popleft()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            del self._host.listeners[self._key]
            for end in self.backlog:
                end.abort()
            self.backlog.clear()
            self._waiter.wake()

    def put(self, end: SimulatedTransport) -> None:
        """A connection has come."""
        self.backlog.append(end)
        self._waiter.wake()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError


def _chunk(*rates: float | None) -> int:
    """How many bytes one planned action moves over links of these rates, None being no limit."""
    slowest = min((rate for rate in rates if rate is not None), default=math.inf)
    return int(min(max(slowest * CHUNK_SECONDS, CHUNK_MIN), CHUNK))
