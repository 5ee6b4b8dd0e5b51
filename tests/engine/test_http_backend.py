"""The network below the HTTP client: what goes wrong on a connection, and while one is made."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_one_way_pair

from btor import limits
from btor.engine.http_backend import Allowance, GuardedBackend, GuardedStream, HttpError, TransportStream
from btor.engine.transport import Listener, Network, Transport
from btor.engine.udp import UdpSocket
from btor.wire.address import Address
from tests.engine.web import simulated
from tests.simulated.network import Host, World

THEM, THEM_TOO = "8.8.8.8", "8.8.4.4"


def anywhere(ip: str) -> None:
    """Every address will do."""


async def connected(world: World) -> tuple[TransportStream, Transport]:
    us, them = world.host("1.1.1.1"), world.host(THEM)
    listener = await them.listen("", 80)
    ours = await us.connect((THEM, 80))
    return TransportStream(ours), await listener.accept()


async def test_a_stream_of_bytes(autojump_clock: MockClock) -> None:
    async with simulated(send_buffer=100, receive_window=10_000) as (world, nursery):
        stream, theirs = await connected(world)
        their_stream = TransportStream(theirs)
        nursery.start_soon(stream.send_all, bytes(50_000))
        with trio.fail_after(60):
            received = 0
            while received < 50_000:
                received += len(await their_stream.receive_some())
            await stream.wait_send_all_might_not_block()
            await stream.aclose()
            assert await their_stream.receive_some(1) == b""
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()


async def test_a_reset_is_told(autojump_clock: MockClock) -> None:
    async with simulated() as (world, _):
        stream, _theirs = await connected(world)
        world.hosts[THEM].crash()
        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError, match="reset"):
            await stream.receive_some()
        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(bytes(100_000))


async def test_reading_after_a_reset_is_an_http_error(autojump_clock: MockClock) -> None:
    async with simulated() as (world, _):
        stream, _theirs = await connected(world)
        guarded = GuardedStream(stream, Allowance(), 30)
        world.hosts[THEM].crash()
        await trio.sleep(1)
        await guarded.write(b"GET / HTTP/1.1\r\n\r\n")  # an answer may have come before the reset
        with pytest.raises(HttpError, match=r"the connection broke: .*reset"):
            await guarded.read(100)


async def test_a_peer_that_takes_nothing(autojump_clock: MockClock) -> None:
    send, _ = lockstep_stream_one_way_pair()
    _, receive = lockstep_stream_one_way_pair()
    stream = GuardedStream(trio.StapledStream(send, receive), Allowance(), 30)
    with pytest.raises(HttpError, match="nothing taken for 30 s"):
        await stream.write(b"GET")
    assert trio.current_time() == 30
    with pytest.raises(HttpError, match="no answer for 30 s"):
        await stream.read(1)
    assert trio.current_time() == 60


def test_the_allowance_of_a_body() -> None:
    allowance = Allowance()
    assert allowance.left == limits.TRACKER_HEADERS
    allowance.body_begins(1_000)
    assert allowance.left == 2_000 + limits.TRACKER_HEADERS


async def test_two_connections_at_the_same_moment(autojump_clock: MockClock) -> None:
    async with simulated() as (world, _):
        us = world.host("1.1.1.1", latency=0.01)
        for ip, latency in ((THEM, 0.145), (THEM_TOO, 0.02)):  # 0.31 s, and 0.06 s begun 0.25 s later
            await world.host(ip, latency=latency).listen("", 80)
        backend = GuardedBackend(us, anywhere, addresses=[(THEM, 80), (THEM_TOO, 80)])
        stream = await backend.connect_tcp("x.example", 80)
        assert trio.current_time() == pytest.approx(0.31, abs=0.002)
        assert len(us.dialled) == 2
        await trio.sleep(1)
        assert len(us.ends) == 1
        await stream.aclose()
        assert not us.ends


async def test_cancelled_at_the_moment_of_success(autojump_clock: MockClock) -> None:
    async with simulated() as (world, _):
        us = world.host("1.1.1.1")
        await world.host(THEM).listen("", 80)
        backend = GuardedBackend(Impatient(us), anywhere, addresses=[(THEM, 80)])
        with trio.CancelScope() as Impatient.scope:
            await backend.connect_tcp("x.example", 80)
        assert Impatient.scope.cancelled_caught
        assert not us.ends


class Impatient:
    """A network whose user gives up in the very moment in which a connection is made."""

    scope: trio.CancelScope

    def __init__(self, host: Host) -> None:
        self._host: Network = host

    async def connect(self, address: Address, *, local: str | None = None) -> Transport:
        try:
            return await self._host.connect(address, local=local)
        finally:
            self.scope.cancel()

    async def listen(self, host: str, port: int) -> Listener:
        return await self._host.listen(host, port)

    async def resolve(self, host: str, port: int) -> list[Address]:
        return await self._host.resolve(host, port)

    def open_udp_sockets(self, bind: Sequence[str], port: int) -> list[UdpSocket]:
        return self._host.open_udp_sockets(bind, port)


@pytest.mark.parametrize(("bind", "local"), [((), "1.1.1.1"), (("1.1.1.2",), "1.1.1.2")])
async def test_the_local_address(bind: Sequence[str], local: str, autojump_clock: MockClock) -> None:
    async with simulated() as (world, _):
        us = world.host("1.1.1.1", "1.1.1.2")
        listener = await world.host(THEM).listen("", 80)
        backend = GuardedBackend(us, anywhere, bind=bind)
        await backend.connect_tcp(THEM, 80)
        assert (await listener.accept()).remote[0] == local
        assert backend.ip == THEM
