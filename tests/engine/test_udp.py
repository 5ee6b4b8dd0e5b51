"""The UDP sockets of a session and who gets which datagram."""

from __future__ import annotations

import errno
import socket

import pytest
import trio
from trio.testing import MockClock

from btor import limits
from btor.engine.udp import SystemUdpSocket, UdpHub, UdpSocket, open_udp_sockets, serve
from btor.wire.address import Address
from btor.wire.tracker_udp import encode_connect_reply, encode_error
from tests.engine.web import simulated

US, THEM, OTHER = "1.1.1.1", "8.8.8.8", "9.9.9.9"
THERE = (THEM, 6969)


# --- the hub -------------------------------------------------------------------------------------------------------


async def test_an_answer_reaches_who_asked(autojump_clock: MockClock) -> None:
    async with simulated() as (world, nursery):
        them = world.host(THEM).open_udp(THEM, 6969)
        hub = UdpHub([world.host(US).open_udp(US, 6881)])
        await nursery.start(hub.run)
        with trio.fail_after(60), hub.exchange(THERE) as exchange, hub.exchange(THERE) as other:
            exchange.ask(1, b"question one")
            exchange.ask(2, b"question two")
            other.ask(3, b"question three")
            questions = {}
            for _ in range(3):
                await them.wait_readable()
                data, sender = them.recvfrom()
                questions[data] = sender
            assert questions == dict.fromkeys([b"question one", b"question two", b"question three"], (US, 6881))
            for transaction in (2, 3):
                them.sendto(encode_connect_reply(transaction, 7), (US, 6881))
            assert await exchange.answer() == (2, encode_connect_reply(2, 7))
            assert await other.answer() == (3, encode_connect_reply(3, 7))


@pytest.mark.parametrize(
    ("packet", "ip", "port"),
    [
        (encode_connect_reply(1, 7), OTHER, 6969),  # N6: another address
        (encode_connect_reply(1, 7), THEM, 6970),  # another port
        (encode_connect_reply(2, 7), THEM, 6969),  # another transaction
        (b"", THEM, 6969),
        (bytes(7), THEM, 6969),
        (b"d1:rd2:id20:aaaaaaaaaaaaaaaaaaaae1:t1:x1:y1:re", THEM, 6969),
        (encode_error(1, "x") + bytes(limits.UDP_TRACKER_PACKET), THEM, 6969),
    ],
)
async def test_anything_else_is_dropped(packet: bytes, ip: str, port: int, autojump_clock: MockClock) -> None:
    async with simulated() as (world, nursery):
        sender = world.host(ip).open_udp(ip, port)
        hub = UdpHub([world.host(US).open_udp(US, 6881)])
        await nursery.start(hub.run)
        with hub.exchange(THERE) as exchange:
            exchange.ask(1, b"?")
            sender.sendto(packet, (US, 6881))
            with trio.move_on_after(10) as scope:
                await exchange.answer()
            assert scope.cancelled_caught


@pytest.mark.parametrize(("more", "taken"), [(0, True), (1, False)])
async def test_the_longest_answer(more: int, taken: bool, autojump_clock: MockClock) -> None:
    packet = encode_connect_reply(1, 7)
    packet += bytes(limits.UDP_TRACKER_PACKET - len(packet) + more)
    async with simulated() as (world, nursery):
        them = world.host(THEM).open_udp(THEM, 6969)
        hub = UdpHub([world.host(US).open_udp(US, 6881)])
        await nursery.start(hub.run)
        with hub.exchange(THERE) as exchange:
            exchange.ask(1, b"?")
            them.sendto(packet, (US, 6881))
            with trio.move_on_after(10) as scope:
                assert await exchange.answer() == (1, packet)
            assert scope.cancelled_caught is not taken


async def test_a_flood_of_repeated_answers_is_not_kept(autojump_clock: MockClock) -> None:
    async with simulated() as (world, nursery):
        them = world.host(THEM).open_udp(THEM, 6969)
        hub = UdpHub([world.host(US).open_udp(US, 6881)])
        await nursery.start(hub.run)
        with hub.exchange(THERE) as exchange:
            exchange.ask(1, b"?")
            for _ in range(100):
                them.sendto(encode_connect_reply(1, 7), (US, 6881))
            await trio.sleep(1)
            answers = 0
            with trio.move_on_after(1):
                while True:
                    await exchange.answer()
                    answers += 1
            assert answers == 8
        them.sendto(encode_connect_reply(1, 7), (US, 6881))  # nobody waits any more
        await trio.sleep(1)


async def test_each_family_has_its_socket(autojump_clock: MockClock) -> None:
    async with simulated() as (world, _):
        us = world.host(US, "2600::1")
        four, six = us.open_udp(US, 1), us.open_udp("2600::1", 1)
        both = UdpHub([four, six])
        for address, local in ((THERE, four), (("2600::8", 1), six)):
            listening = world.host(address[0]).open_udp(*address)
            with both.exchange(address) as exchange:
                exchange.ask(1, b"?")
            await trio.sleep(1)
            assert listening.recvfrom() == (b"?", local.local)
        with pytest.raises(OSError, match="family"), UdpHub([four]).exchange(("2600::8", 1)):
            pass


async def test_the_hub_closes_its_sockets(autojump_clock: MockClock) -> None:
    async with simulated() as (world, _):
        sock = world.host(US).open_udp(US, 1)
        hub = UdpHub([sock])
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            nursery.cancel_scope.cancel()
        with pytest.raises(trio.ClosedResourceError):
            await sock.wait_readable()
        hub.close()


class Busy:
    """A socket in which a datagram is always waiting; each third is an error of the network."""

    local: Address = (US, 1)

    def __init__(self) -> None:
        self.wake_ups = 0
        self.reads = 0
        self.closed = False

    async def wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.wake_ups == 3:
            raise trio.ClosedResourceError
        self.wake_ups += 1

    def recvfrom(self) -> tuple[bytes, Address]:
        self.reads += 1
        if self.reads % 3 == 0:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return b"x", THERE

    def sendto(self, data: bytes, address: Address) -> None:
        raise BlockingIOError

    def close(self) -> None:
        self.closed = True


async def test_a_busy_socket_leaves_others_their_turn() -> None:
    sock = Busy()
    got = []
    await serve(sock, lambda data, sender: got.append((data, sender)))
    assert sock.reads == 3 * limits.UDP_DRAIN
    assert set(got) == {(b"x", THERE)}
    assert len(got) == 2 * limits.UDP_DRAIN


def test_a_packet_that_the_system_does_not_take_counts_as_lost() -> None:
    with UdpHub([Busy()]).exchange(THERE) as exchange:
        exchange.ask(1, b"?")


# --- sockets of the system -----------------------------------------------------------------------------------------


async def receive(sock: UdpSocket) -> tuple[bytes, Address]:
    with trio.fail_after(10):
        while True:
            await sock.wait_readable()
            try:
                return sock.recvfrom()
            except BlockingIOError:
                continue


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_real_datagrams(host: str) -> None:
    try:
        one, other = SystemUdpSocket(host, 0), SystemUdpSocket(host, 0)
    except OSError:
        pytest.skip(f"{host} is not to be had here")
    assert one.local[0] == host
    one.sendto(b"hello", other.local)
    assert await receive(other) == (b"hello", one.local)
    other.sendto(bytes(limits.UDP_TRACKER_PACKET + 5), one.local)
    assert len((await receive(one))[0]) == limits.UDP_TRACKER_PACKET + 1
    with pytest.raises(BlockingIOError):
        one.recvfrom()
    one.close()
    one.close()
    with pytest.raises(trio.ClosedResourceError):
        await one.wait_readable()
    other.close()


async def test_closing_wakes_who_waits() -> None:
    sock = SystemUdpSocket("127.0.0.1", 0)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, sock, print)
            await trio.testing.wait_all_tasks_blocked()
            sock.close()


async def test_all_addresses_of_both_families_on_one_port() -> None:
    sockets = open_udp_sockets((), 0)
    try:
        assert sockets[0].local[0] == "0.0.0.0"
        assert len({sock.local[1] for sock in sockets}) == 1
        with pytest.raises(OSError, match="in use"):
            open_udp_sockets((), sockets[0].local[1])
    finally:
        for sock in sockets:
            sock.close()


async def test_only_the_bound_addresses() -> None:
    (sock,) = open_udp_sockets(["127.0.0.1"], 0)
    assert sock.local[0] == "127.0.0.1"
    sock.close()
    with pytest.raises(OSError, match="assign"):
        open_udp_sockets(["127.0.0.1", "203.0.113.1"], 0)


class Scripted(SystemUdpSocket):
    """A system of which a test says what it refuses."""

    refused: dict[tuple[str, bool], int] = {}  # noqa: RUF012  # set by each test  # (host, whether a port is named)

    def __init__(self, host: str, port: int) -> None:
        code = self.refused.get((host, port != 0))
        if code is not None:
            raise OSError(code, "refused")
        super().__init__("127.0.0.1", 0)


async def test_a_system_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("btor.engine.udp.SystemUdpSocket", Scripted)
    monkeypatch.setattr(Scripted, "refused", {("::", True): errno.EAFNOSUPPORT})
    (sock,) = open_udp_sockets((), 0)
    sock.close()


async def test_the_same_number_is_taken_in_the_other_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("btor.engine.udp.SystemUdpSocket", Scripted)
    monkeypatch.setattr(Scripted, "refused", {("::", True): errno.EADDRINUSE})
    four, other = open_udp_sockets((), 0)
    assert four.local[1] != other.local[1]
    four.close()
    other.close()
    with pytest.raises(OSError, match="refused"):
        open_udp_sockets((), 6881)


async def test_nothing_stays_open_when_a_port_cannot_be_had() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="in use"):
            open_udp_sockets(["127.0.0.1"], taken.getsockname()[1])


async def test_a_hub_on_real_sockets() -> None:
    them = SystemUdpSocket("127.0.0.1", 0)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            hub = UdpHub(open_udp_sockets(["127.0.0.1"], 0))
            await nursery.start(hub.run)
            with hub.exchange(them.local) as exchange:
                exchange.ask(5, b"?")
                _, sender = await receive(them)
                them.sendto(encode_connect_reply(5, 9), sender)
                assert await exchange.answer() == (5, encode_connect_reply(5, 9))
            nursery.cancel_scope.cancel()
    them.close()
