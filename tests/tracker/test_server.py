"""The tracker on real loopback sockets."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from btor import limits
from btor.engine.contain import Container
from btor.engine.udp import SystemUdpSocket
from btor.errors import NetworkError
from btor.tracker.server import Bound, TrackerSettings, _serve_udp, serve_tracker
from btor.tracker.tracker import Tracker
from btor.wire import tracker_udp as udp
from btor.wire.address import Address
from btor.wire.tracker_http import AnnounceReply, AnnounceRequest, announce_url, decode_announce

ANY = ("127.0.0.1", 0)
HASH = b"h" * 20
DEADLINE = 10.0


def settings(**fields: Any) -> TrackerSettings:
    return replace(TrackerSettings(http=(ANY,), udp=(ANY,), interval=60, strict=True), **fields)


@asynccontextmanager
async def running(given: TrackerSettings | None = None) -> AsyncIterator[Bound]:
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(serve_tracker, given or settings())
            nursery.cancel_scope.cancel()


def request(port: int, **fields: Any) -> AnnounceRequest:
    values: dict[str, Any] = {"info_hash": HASH, "peer_id": b"%020d" % port, "left": 1} | fields
    return AnnounceRequest(port=port, uploaded=0, downloaded=0, **values)


def get(target: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: t", *headers, "", ""]).encode()


async def read_answer(stream: trio.SocketStream) -> tuple[int, bytes]:
    """Status and body of one answer."""
    head = b""
    while b"\r\n\r\n" not in head:
        got = await stream.receive_some(1)
        assert got, f"closed after {head!r}"
        head += got
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    body = b""
    while len(body) < length:
        body += await stream.receive_some(length - len(body))
    return int(head.split()[1]), body


async def exchange(address: Address, data: bytes) -> bytes:
    """Everything that comes back until the tracker closes."""
    async with await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(data)
        received = [data async for data in stream]
    return b"".join(received)


async def http_announce(address: Address, asked: AnnounceRequest) -> AnnounceReply:
    answer = await exchange(address, get(announce_url("/announce", asked), "Connection: close"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    return decode_announce(body, "")


async def udp_ask(address: Address, packet: bytes) -> bytes:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        await sock.connect(address)
        await sock.send(packet)
        return await sock.recv(65_536)


async def udp_announce(address: Address, asked: AnnounceRequest) -> AnnounceReply:
    connection_id = udp.decode_connect(await udp_ask(address, udp.encode_connect(1)), 1, "")
    reply = await udp_ask(address, udp.encode_announce(connection_id, 2, asked))
    return udp.decode_announce(reply, 2, "", ipv6=":" in address[0])


# --- what it serves ------------------------------------------------------------------------------------------


async def test_http_and_udp_on_one_port_and_one_registry() -> None:
    async with running() as bound:
        assert bound.http == bound.udp
        assert bound.http_url == f"http://127.0.0.1:{bound.http[0][1]}/announce"
        assert bound.udp_url == f"udp://127.0.0.1:{bound.udp[0][1]}/announce"
        assert (await http_announce(bound.http[0], request(1))).peers == []
        assert (await udp_announce(bound.udp[0], request(2))).peers == [("127.0.0.1", 1)]
        reply = await http_announce(bound.http[0], request(1, left=0))
        assert (reply.peers, reply.interval, reply.seeders, reply.leechers) == ([("127.0.0.1", 2)], 60, 1, 1)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
async def test_both_families() -> None:
    both = (ANY, ("::1", 0))
    async with running(settings(http=both, udp=both)) as bound:
        assert len({port for _, port in bound.http + bound.udp}) == 1
        await http_announce(bound.http[0], request(1))
        assert (await http_announce(bound.http[1], request(2))).peers == [("127.0.0.1", 1)]
        assert (await udp_announce(bound.udp[1], request(3))).peers == [("::1", 2)]
        assert (await udp_announce(bound.udp[0], request(4))).peers == [("127.0.0.1", 1)]


async def test_many_peers_of_one_machine() -> None:
    async with running() as bound, trio.open_nursery() as nursery:
        for port in range(1, 41):
            nursery.start_soon(http_announce if port % 2 else udp_announce, bound.http[0], request(port))
        await trio.testing.wait_all_tasks_blocked()
    async with running() as bound:
        for port in range(1, 41):
            reply = await (http_announce if port % 2 else udp_announce)(bound.http[0], request(port))
            assert len(reply.peers) == port - 1


async def test_one_connection_serves_many_requests() -> None:
    async with running() as bound, await trio.open_tcp_stream(*bound.http[0]) as stream:
        for _ in range(3):
            await stream.send_all(get("/stats"))
            assert (await read_answer(stream))[0] == 200
        await stream.send_all(get("/stats") + get("/nothing"))  # one behind the other
        assert (await read_answer(stream))[0] == 200
        assert (await read_answer(stream))[0] == 404


async def test_a_request_byte_by_byte() -> None:
    async with running() as bound, await trio.open_tcp_stream(*bound.http[0]) as stream:
        for byte in get(announce_url("/announce", request(1))):
            await stream.send_all(bytes((byte,)))
        status, body = await read_answer(stream)
        assert (status, decode_announce(body, "").leechers) == (200, 1)


async def test_http_1_0_closes() -> None:
    async with running() as bound:
        answer = await exchange(bound.http[0], b"GET /stats HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x13BitTorrent protocol" + bytes(48) + b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /announce\r\n\r\n", 400),
        (b"GET /stats HTTP/1.1\r\n\r\n", 400),  # no Host
        (get("/nothing", "Connection: close"), 404),
        (get("/stats", "Content-Length: 5") + b"hello", 400),
        (get("/stats", "Content-Length: 5"), 400),
        (get("/stats", "Content-Length: 500000000") + b"x" * 100_000, 400),
        (get("/stats", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n", 400),
        (b"POST /announce HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"HEAD /stats HTTP/1.1\r\nHost: t\r\n\r\n", 405),
        (b"CONNECT t:80 HTTP/1.1\r\nHost: t\r\n\r\n", 405),
    ],
)
async def test_what_is_no_request(data: bytes, status: int) -> None:
    async with running() as bound:
        answer = await exchange(bound.http[0], data)
        assert answer.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(("excess", "status"), [(0, 200), (1, 431)])
async def test_bound_of_the_request_head(excess: int, status: int) -> None:
    async with running() as bound, await trio.open_tcp_stream(*bound.http[0]) as stream:
        plain = get("/stats", "X: ")
        # h11 gives up on a head that is over the bound and still has no end
        padding = limits.TRACKER_REQUEST_HEAD - (len(plain) - 4) + excess
        head, tail = plain[:-4] + b"x" * padding, plain[-4:]
        await stream.send_all(head)
        if status == 200:
            await trio.testing.wait_all_tasks_blocked(0.05)
            await stream.send_all(tail)
        assert (await read_answer(stream))[0] == status


async def test_goes_on_after_connections_that_break() -> None:
    async with running() as bound:
        for data in (b"", b"GET /sta", get("/stats")):
            stream = await trio.open_tcp_stream(*bound.http[0])
            await stream.send_all(data)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close by reset
            await stream.aclose()
        assert (await http_announce(bound.http[0], request(1))).leechers == 1


# --- bounds --------------------------------------------------------------------------------------------------


async def test_silent_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TRACKER_REQUEST_TIMEOUT", 0.05)
    async with running() as bound:
        assert await exchange(bound.http[0], b"") == b""
        assert await exchange(bound.http[0], b"GET /st") == b""
        async with await trio.open_tcp_stream(*bound.http[0]) as stream:
            await stream.send_all(get("/stats"))
            assert (await read_answer(stream))[0] == 200
            assert await stream.receive_some() == b""


async def test_over_the_bound_the_longest_waiting_connection_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TRACKER_CONNECTIONS", 2)
    async with running() as bound:
        first = await trio.open_tcp_stream(*bound.http[0])
        await trio.testing.wait_all_tasks_blocked(0.05)
        second = await trio.open_tcp_stream(*bound.http[0])
        await trio.testing.wait_all_tasks_blocked(0.05)
        await first.send_all(get("/stats"))  # two fit; now the second has waited longest
        assert (await read_answer(first))[0] == 200
        third = await trio.open_tcp_stream(*bound.http[0])
        assert await second.receive_some() == b""
        for stream in (third, first):
            await stream.send_all(get("/stats"))
            assert (await read_answer(stream))[0] == 200
        for stream in (first, second, third):
            await stream.aclose()


async def test_an_honest_peer_among_silent_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TRACKER_CONNECTIONS", 8)
    async with running() as bound:
        silent = [await trio.open_tcp_stream(*bound.http[0]) for _ in range(40)]
        with trio.fail_after(1):
            assert (await http_announce(bound.http[0], request(1))).leechers == 1
        for stream in silent:
            await stream.aclose()


async def test_peers_expire(monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock) -> None:
    swept: list[float] = []
    monkeypatch.setattr("btor.tracker.registry.Registry.expire", lambda self, now: swept.append(now))
    async with trio.open_nursery() as nursery:
        begun = trio.current_time()
        await nursery.start(serve_tracker, settings(interval=10.0))
        await trio.sleep(16)
        nursery.cancel_scope.cancel()
    assert [round(time - begun) for time in swept] == [5, 10, 15]


# --- bugs, and addresses that cannot be had ------------------------------------------------------------------


def failing_once(method: Callable[..., Any]) -> Callable[..., Any]:
    failed: list[bool] = []

    def wrapper(*args: Any) -> Any:
        if not failed:
            failed.append(True)
            raise RuntimeError("a bug")
        return method(*args)

    return wrapper


async def test_F12_a_bug_ends_one_connection(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(Tracker, "answer_http", failing_once(Tracker.answer_http))
    monkeypatch.setattr(Tracker, "answer_udp", failing_once(Tracker.answer_udp))
    async with running(settings(strict=False)) as bound:
        assert await exchange(bound.http[0], get("/stats")) == b""
        assert (await http_announce(bound.http[0], request(1))).leechers == 1
        with trio.move_on_after(0.05):
            await udp_ask(bound.udp[0], udp.encode_connect(1))
        assert (await udp_announce(bound.udp[0], request(2))).leechers == 2
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 2


async def test_a_connection_that_is_gone_before_it_is_served() -> None:
    async with running() as bound:
        with socket.create_connection(bound.http[0]) as gone:  # blocking, so that the tracker has no turn in between
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert (await http_announce(bound.http[0], request(1))).leechers == 1


async def test_what_deserves_no_answer_over_udp() -> None:
    async with running() as bound:
        with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
            await sock.connect(bound.udp[0])
            for packet in (b"", b"d1:ad2:id20:", bytes(16), udp.encode_connect(7)):
                await sock.send(packet)
            assert udp.decode_connect(await sock.recv(100), 7, "") >= 0


async def test_the_udp_side_ends_with_its_socket() -> None:
    tracker = Tracker(random.Random(1), bytes(32), 0.0, interval=60)
    sock = SystemUdpSocket(*ANY)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve_udp, tracker, sock, Container(strict=True))
            await trio.testing.wait_all_tasks_blocked()
            sock.close()


async def test_an_answer_that_cannot_be_sent_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any) -> None:
        raise OSError("unreachable")

    async with running() as bound:
        with monkeypatch.context() as patched:
            patched.setattr("btor.engine.udp.SystemUdpSocket.sendto", unreachable)
            with trio.move_on_after(0.05):
                await udp_ask(bound.udp[0], udp.encode_connect(1))
        assert (await udp_announce(bound.udp[0], request(2))).leechers == 1


async def test_the_port_is_free_again() -> None:
    async with running() as bound:
        pass
    async with running(settings(http=bound.http, udp=bound.udp)) as again:
        assert again == bound


@pytest.mark.parametrize("what", ["HTTP", "UDP"])
async def test_address_in_use(what: str) -> None:
    async with running() as bound:
        given = settings(http=bound.http) if what == "HTTP" else settings(udp=bound.udp)
        with pytest.raises(NetworkError) as caught:
            await serve_tracker(given)
        host, port = bound.http[0]
        assert str(caught.value) == f"cannot listen on {host}:{port} ({what}): Address already in use"
        assert caught.value.exit_status == 5


async def test_a_chosen_port_is_free_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number that the system chooses for TCP may be taken for UDP: then another is tried."""
    tried: list[int] = []
    create_server = socket.create_server
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(ANY)

        def choose(address: Address, **options: Any) -> socket.socket:
            port = 0 if tried else taken.getsockname()[1]
            tried.append(port)
            return create_server((address[0], port), **options)

        monkeypatch.setattr(socket, "create_server", choose)
        async with running() as bound:
            assert bound.http == bound.udp
            assert len(tried) == 2


async def test_hosts_are_looked_up() -> None:
    async with running(settings(http=(("localhost", 0),), udp=(("localhost", 0),))) as bound:
        assert {ip for ip, _ in bound.http} <= {"127.0.0.1", "::1"}
        assert bound.http == bound.udp
    with trio.fail_after(DEADLINE), pytest.raises(NetworkError, match=r"^tracker\.invalid: "):
        await serve_tracker(settings(udp=(("tracker.invalid", 0),)))


async def test_an_address_of_another_machine() -> None:
    with trio.fail_after(DEADLINE), pytest.raises(NetworkError, match="Cannot assign"):
        await serve_tracker(settings(http=(("192.0.2.1", 0),)))
