"""UDP in the simulated network, behind the seam of ``btor/engine/udp.py``: lossy, jittery, unordered if asked for."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from btor.engine.transport import Address
from btor.limits import UDP_TRACKER_PACKET
from tests.simulated.stream import Waiter

if TYPE_CHECKING:
    from tests.simulated.network import Host

INBOX = 256 * 1024  # bytes that wait unread; more is lost


class SimulatedUdpSocket:
    """A bound datagram socket of a host. Made by ``Host.open_udp``."""

    def __init__(self, host: Host, local: Address) -> None:
        self.host = host
        self.local = local
        self._inbox: deque[tuple[bytes, Address]] = deque()
        self._waiting = 0
        self._closed = False
        self._reader = Waiter()
        host.udp[local] = self

    async def wait_readable(self) -> None:
        self._check()
        if self._inbox:
            await trio.lowlevel.checkpoint()
        else:
            await self._reader.wait()
        self._check()

    def recvfrom(self) -> tuple[bytes, Address]:
        self._check()
        if not self._inbox:
            raise BlockingIOError
        data, sender = self._inbox.popleft()
        self._waiting -= len(data)
        return data[: UDP_TRACKER_PACKET + 1], sender

    def sendto(self, data: bytes, address: Address) -> None:
        self._check()
        world = self.host.world
        target = world.hosts.get(address[0])
        for _ in range(world.copies_of_datagram()):
            if target is not None and target.group == self.host.group:
                when = trio.current_time() + self.host.latency + target.latency
                when += world.rng.uniform(0, world.datagram_jitter)
                world.overtaken += when < target.latest
                target.latest = max(when, target.latest)
                world.schedule.at(when, target.deliver_datagram, bytes(data), self.local, address)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            del self.host.udp[self.local]
            self._reader.wake()

    def deliver(self, data: bytes, sender: Address) -> None:
        """A datagram arrives (called by the host)."""
        if self._waiting + len(data) <= INBOX:
            self._inbox.append((data, sender))
            self._waiting += len(data)
            self._reader.wake()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
