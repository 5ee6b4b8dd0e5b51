"""The guarded HTTP client against hostile servers, in a simulated network with virtual time and on real loopback."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from base64 import b64encode
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from btor import limits
from btor.engine.http import HttpClient, HttpReply, Inflater
from btor.engine.http_backend import STAGGER, HttpError
from btor.engine.transport import TcpNetwork
from btor.errors import NetworkError, UsageError
from btor.wire.url import Url
from tests.engine.web import TLS_FILES, Respond, WebServer, moved, ok, simulated
from tests.simulated.network import Host, World

US, THEM, THEM_TOO, THEM6 = "203.0.114.1", "8.8.8.8", "8.8.4.4", "2600::8"
TRACKER = "http://tracker.example/announce"
MIB = limits.TRACKER_REPLY


class Web:
    """A client at US and whatever servers a test starts."""

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self.world = world
        self.nursery = nursery
        self.us = world.host(US, "2600::1", "127.0.0.1", "192.168.1.2")
        self.client = HttpClient(self.us, environ={})
        self.hosts: dict[str, Host] = {}
        world.names["tracker.example"] = [THEM]

    async def serve(self, answer: bytes | Respond, ip: str = THEM, port: int = 80, *, tls: bool = False) -> WebServer:
        server = WebServer(answer, tls)
        if ip not in self.world.hosts:
            self.world.host(ip)
        await self.nursery.start(server.serve, self.world.hosts[ip], ip, port)
        return server

    async def get(self, url: str = TRACKER, *, tracker: bool = True, limit: int = MIB) -> HttpReply:
        with trio.fail_after(1_000):
            return await self.client.get(Url.parse(url), tracker=tracker, limit=limit)

    async def refused(self, url: str = TRACKER, *, match: str, tracker: bool = True, limit: int = MIB) -> HttpError:
        with pytest.raises(HttpError, match=match) as caught:
            await self.get(url, tracker=tracker, limit=limit)
        return caught.value


Test = Callable[[Web], Awaitable[None]]


async def run(test: Test, **settings: float) -> None:
    async with simulated(**settings) as (world, nursery):
        web = Web(world, nursery)
        await test(web)
        await trio.sleep(1)
        assert not web.us.ends, "a connection was left open"


# --- what is said and heard ----------------------------------------------------------------------------------------


async def test_a_request_says_no_more_than_it_must(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        server = await web.serve(ok(b"hello", "Set-Cookie: id=1"))
        assert await web.get(TRACKER + "?a=%20b") == HttpReply(b"hello", THEM)
        await web.get()
        assert server.requests[0].split("\r\n") == [
            "GET /announce?a=%20b HTTP/1.1",
            "Host: tracker.example",
            "User-Agent: btor/0.1.0",
            "Accept: */*",
            "Accept-Encoding: gzip",
            "Connection: close",
            "",
            "",
        ]
        assert "cookie" not in server.requests[1].lower()

    await run(test)


async def test_credentials_of_the_url_are_sent(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        server = await web.serve(ok(b""), port=81)
        await web.get("http://me:p%C3%A4ss@tracker.example:81/announce")
        assert f"Authorization: Basic {b64encode('me:päss'.encode()).decode()}\r\n" in server.requests[0]
        assert "Host: tracker.example:81\r\n" in server.requests[0]

    await run(test)


def chunked(*chunks: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (ok(b"abc"), b"abc"),
        (ok(b"abc", length=-1), b"abc"),
        (ok(b"abcdef", length=3), b"abc"),
        (ok(b""), b""),
        (chunked(b"ab", b"c"), b"abc"),
        (ok(gzip.compress(b"abc", mtime=0), "Content-Encoding: gzip"), b"abc"),
        (ok(gzip.compress(b"abc", mtime=0), "Content-Encoding: X-GZIP"), b"abc"),
        (ok(gzip.compress(b"abc", mtime=0) + b"rubbish", "Content-Encoding: gzip"), b"abc"),
        (ok(b"abc", "Content-Encoding: identity"), b"abc"),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + ok(b"abc"), b"abc"),
    ],
)
async def test_bodies(answer: bytes, body: bytes, autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        await web.serve(answer)
        assert (await web.get()).body == body

    await run(test)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "disconnected"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "."),
        (b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", "."),
        (ok(b"abc", length=4), "."),
        (ok(b"abc", "Content-Length: 2"), "."),
        (ok(b"abc", "Content-Length: x", length=-1), "."),
        (chunked(b"abc")[:-3], "."),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFFFFF\r\nabc", "."),
        (ok(zlib.compress(b"abc"), "Content-Encoding: deflate"), "encoding that was not asked for"),
        (ok(b"abc", "Content-Encoding: gzip"), "not gzip"),
        (ok(gzip.compress(b"abc", mtime=0)[:-1], "Content-Encoding: gzip"), "cut short"),
        (ok(b"", "Content-Encoding: gzip"), "cut short"),
        (ok(b"", status="404 Not Found"), "HTTP status 404 Not Found"),
        (ok(b"", status="500 \x1b[31m"), "."),
        (ok(b"", status="204 Nothing", length=-1), "HTTP status 204"),
        (ok(b"abc", status="206 Partial Content"), "HTTP status 206"),
    ],
)
async def test_bad_answers(answer: bytes, reason: str, autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        await web.serve(answer)
        await web.refused(match=reason)

    await run(test)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120.0), ("0", 0.0), ("Wed, 21 Oct 2015 07:28:00 GMT", None), ("-5", None), ("9" * 10, None), ("", None)],
)
async def test_retry_after(header: str, seconds: float | None, autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        await web.serve(ok(b"", f"Retry-After: {header}", status="503 Busy"))
        assert (await web.refused(match="503 Busy")).retry_after == seconds

    await run(test)


# --- N1: sizes -----------------------------------------------------------------------------------------------------


def packed(size: int) -> bytes:
    return gzip.compress(bytes(size), 1)


@pytest.mark.parametrize(
    "answer",
    [
        lambda size: ok(bytes(size)),
        lambda size: ok(bytes(size), length=-1),
        lambda size: chunked(*[bytes(4_096)] * (size // 4_096), *([bytes(size % 4_096)] if size % 4_096 else [])),
        lambda size: ok(packed(size), "Content-Encoding: gzip"),
    ],
    ids=["length", "until closed", "chunks", "gzip"],
)
async def test_N1_the_longest_body(answer: Callable[[int], bytes], autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        await web.serve(answer(MIB), THEM)
        assert len((await web.get()).body) == MIB
        await web.serve(answer(MIB + 1), THEM_TOO)
        await web.refused(f"http://{THEM_TOO}/announce", match="than 1048576 bytes")

    await run(test)


async def test_the_longest_gzip(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        stuffed = packed(9) + b"rubbish"
        await web.serve(ok(stuffed, "Content-Encoding: gzip", length=-1))
        assert len((await web.get(limit=len(stuffed))).body) == 9
        await web.refused(match="longer than", limit=len(stuffed) - 1)

    await run(test)


async def test_a_gibibyte_that_is_only_claimed_is_refused_at_once(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        await web.serve(ok(b"x", length=2**30))
        before = trio.current_time()
        await web.refused(match="longer than 1048576")
        assert trio.current_time() - before < 1

    await run(test)


async def test_a_body_without_end(autojump_clock: MockClock) -> None:
    async def forever(request: str, stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(bytes(65_536))

    async def test(web: Web) -> None:
        await web.serve(forever)
        await web.refused(match="longer than 1048576")
        assert web.us.received < 3 * MIB

    await run(test, send_buffer=65_536, receive_window=65_536)


async def test_chunk_headers_without_end(autojump_clock: MockClock) -> None:
    async def forever(request: str, stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await stream.send_all((b"1;" + b"x" * 60 + b"\r\na\r\n") * 1_000)

    async def test(web: Web) -> None:
        await web.serve(forever)
        await web.refused(match="does not end")
        assert web.us.received < 3 * MIB

    await run(test, send_buffer=65_536, receive_window=65_536)


@pytest.mark.parametrize(("more", "passes"), [(0, True), (1, False)])
async def test_the_longest_headers(more: int, passes: bool, autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        rest = limits.TRACKER_HEADERS - len(ok(b"", "X: "))
        await web.serve(ok(b"", "X: " + "x" * (rest + more)))
        if passes:
            assert (await web.get()).body == b""
        else:
            await web.refused(match="headers of the answer are longer than 32768")

    await run(test)


@pytest.mark.parametrize("line", [b"X: y\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"x" * 100])
async def test_N1_headers_without_end(line: bytes, autojump_clock: MockClock) -> None:
    async def forever(request: str, stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n" if line.startswith(b"X") else b"")
        while True:
            await stream.send_all(line * 1_000)

    async def test(web: Web) -> None:
        await web.serve(forever)
        await web.refused(match=r".")
        assert web.us.received < 3 * MIB

    await run(test, send_buffer=65_536, receive_window=65_536)


def bomb(size: int) -> bytes:
    """gzip of ``size`` (a multiple of 1 MiB) zeros, made without having them: one deflated MiB, again and again."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflate.compress(bytes(MIB))
    deflate.flush(zlib.Z_FULL_FLUSH)
    step = deflate.compress(bytes(MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
    head = bytes.fromhex("1f8b0800000000000003")
    return head + step * (size // MIB) + deflate.flush() + bytes(8)


def test_N1_a_bomb_of_a_gibibyte_costs_two_mebibytes() -> None:
    data = bomb(2**30)
    assert len(data) < 1.2 * MIB
    assert zlib.decompressobj(31).decompress(data[:4_000], 2 * MIB) == bytes(2 * MIB)  # it would go off
    tracemalloc.start()
    try:
        inflater = Inflater(MIB)
        with pytest.raises(HttpError, match="inflates to more than 1048576"):
            for start in range(0, len(data), 65_536):
                inflater.feed(data[start : start + 65_536])
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()


async def test_a_small_bomb_over_the_network(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        data = bomb(64 * MIB)
        await web.serve(ok(data, "Content-Encoding: gzip"))
        await web.refused(match="inflates to more than")

    await run(test)


# --- N1: times -----------------------------------------------------------------------------------------------------


async def test_nobody_there(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        web.world.host(THEM).silent = True
        before = trio.current_time()
        await web.refused(match="no connection within 10 s")
        assert trio.current_time() - before == pytest.approx(limits.TRACKER_CONNECT, abs=0.1)

    await run(test)


async def test_a_name_server_that_does_not_answer(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        web.world.names["tracker.example"] = []
        await web.refused(match="no connection within 10 s")

    await run(test)


async def test_a_server_that_says_nothing(autojump_clock: MockClock) -> None:
    async def silence(request: str, stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    async def test(web: Web) -> None:
        await web.serve(silence)
        before = trio.current_time()
        await web.refused(match="30 s")
        assert trio.current_time() - before == pytest.approx(limits.TRACKER_TOTAL, abs=0.1)

    await run(test)


@pytest.mark.parametrize(("pause", "arrives"), [(0.9, True), (1.1, False)])
async def test_N1_a_slow_drip(pause: float, arrives: bool, autojump_clock: MockClock) -> None:
    async def drip(request: str, stream: trio.abc.Stream) -> None:
        answer = ok(b"x" * 26)
        await stream.send_all(answer[:-26])
        for byte in answer[-26:]:
            await trio.sleep(pause)
            await stream.send_all(bytes([byte]))

    async def test(web: Web) -> None:
        await web.serve(drip)
        if arrives:
            assert len((await web.get()).body) == 26
        else:
            server = await web.serve(drip, THEM_TOO)
            with pytest.raises(HttpError, match="not done within 20 s"):
                await web.client.get(Url.parse(f"http://{THEM_TOO}/announce"), total=20)
            assert len(server.requests) == 1

    await run(test)


async def test_cancelling_closes_the_connection(autojump_clock: MockClock) -> None:
    async def silence(request: str, stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    async def test(web: Web) -> None:
        await web.serve(silence)
        for patience in (0.01, 0.03, 0.05, 0.07, 1.0):
            with trio.move_on_after(patience) as scope:
                await web.get()
            assert scope.cancelled_caught
        await trio.sleep(0.1)
        assert not web.us.ends

    await run(test)


# --- connecting ----------------------------------------------------------------------------------------------------


async def test_a_silent_address_does_not_delay_one_that_answers(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        web.world.host(THEM).silent = True
        await web.serve(ok(b"hello"), THEM_TOO)
        web.world.names["tracker.example"] = [THEM, THEM_TOO]
        before = trio.current_time()
        assert await web.get() == HttpReply(b"hello", THEM_TOO)
        assert trio.current_time() - before < STAGGER + 0.2

    await run(test)


async def test_a_refusing_address_is_passed_over_at_once(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        web.world.host(THEM)
        await web.serve(ok(b"hello"), THEM_TOO)
        web.world.names["tracker.example"] = [THEM, THEM_TOO]
        before = trio.current_time()
        assert (await web.get()).ip == THEM_TOO
        assert trio.current_time() - before < STAGGER

    await run(test)


async def test_no_address_answers(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        web.world.host(THEM, THEM_TOO)
        web.world.names["tracker.example"] = [THEM, THEM_TOO]
        await web.refused(match="no connection: Connection refused")
        await web.refused("http://unknown.example/announce", match=r"unknown\.example cannot be looked up")

    await run(test)


async def test_only_the_bound_addresses_are_used(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        server = await web.serve(ok(b"six"), THEM6)
        web.world.names["tracker.example"] = [THEM6]
        bound = HttpClient(web.us, bind=[US], environ={})
        with pytest.raises(HttpError, match="no local address of that family"):
            await bound.get(Url.parse(TRACKER))
        assert not server.requests
        bound = HttpClient(web.us, bind=[US, "2600::1"], environ={})
        assert (await bound.get(Url.parse(TRACKER))).ip == THEM6
        assert [address for _, address in web.us.dialled] == [(THEM6, 80)]

    await run(test)


# --- redirects and N3 ----------------------------------------------------------------------------------------------


def countdown(request: str) -> int:
    return int(request.split()[1].rpartition("/")[2])


@pytest.mark.parametrize("count", [0, 1, 5, 6, 11])
async def test_N1_at_most_five_redirects(count: int, autojump_clock: MockClock) -> None:
    async def respond(request: str, stream: trio.abc.Stream) -> None:
        left = countdown(request)
        await stream.send_all(moved(f"/announce/{left - 1}") if left else ok(b"there"))

    async def test(web: Web) -> None:
        server = await web.serve(respond)
        if count <= limits.TRACKER_REDIRECTS:
            assert (await web.get(f"{TRACKER}/{count}")).body == b"there"
        else:
            await web.refused(f"{TRACKER}/{count}", match="more than 5 redirects")
        assert len(server.requests) == min(count, limits.TRACKER_REDIRECTS) + 1

    await run(test)


@pytest.mark.parametrize("status", ["301 M", "302 M", "303 M", "307 M", "308 M"])
async def test_every_kind_of_redirect(status: str, autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        web.world.names["other.example"] = [THEM_TOO]
        await web.serve(moved("http://other.example/announce?x", status))
        server = await web.serve(ok(b"there"), THEM_TOO)
        assert await web.get() == HttpReply(b"there", THEM_TOO)
        assert "GET /announce?x HTTP/1.1\r\nHost: other.example\r\n" in server.requests[0]

    await run(test)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://127.0.0.1/announce", "redirect from the internet into a loopback network"),
        ("http://192.168.1.2/announce", "redirect from the internet into a private network"),
        ("http://localhost/announce", "redirect from the internet into a loopback network"),
        ("http://169.254.169.254/announce", "no address for a request"),
        ("http://100.100.100.200/announce", "no address for a request"),
        ("http://[::ffff:127.0.0.1]/announce", "redirect from the internet into a loopback network"),
        ("file:///etc/passwd", "redirected to nowhere"),
        ("udp://8.8.4.4:80", "redirected to another protocol"),
        ("http://127.1/announce", "redirected to nowhere"),
    ],
)
@pytest.mark.parametrize("tracker", [True, False])
async def test_N3_where_a_redirect_may_not_lead(
    location: str, reason: str, tracker: bool, autojump_clock: MockClock
) -> None:
    async def test(web: Web) -> None:
        web.world.names["localhost"] = ["127.0.0.1"]
        inside = await web.serve(ok(b"secret"), "127.0.0.1")
        await web.nursery.start(inside.serve, web.us, "192.168.1.2", 80)
        await web.serve(moved(location))
        await web.refused(match=reason, tracker=tracker)
        assert not inside.requests
        assert [address for _, address in web.us.dialled] == [(THEM, 80)]

    await run(test)


async def test_a_redirect_without_a_location_leads_back(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        server = await web.serve(ok(b"", status="302 Found"))
        await web.refused(match="more than 5 redirects")
        assert len(server.requests) == 6

    await run(test)


async def test_a_local_tracker_may_redirect_locally(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        await web.serve(moved("http://127.0.0.1:81/announce/new"), "127.0.0.1")
        await web.serve(ok(b"there"), "127.0.0.1", 81)
        assert await web.get("http://127.0.0.1/announce") == HttpReply(b"there", "127.0.0.1")

    await run(test)


async def test_a_redirect_may_not_leave_the_path_of_a_local_tracker(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        await web.serve(moved("/admin"), "127.0.0.1")
        await web.refused("http://127.0.0.1/announce", match="only asked for /announce")

    await run(test)


@pytest.mark.parametrize("name", ["127.0.0.1", "inside.example"])
async def test_N3_a_torrent_cannot_ask_local_services(name: str, autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        web.world.names["inside.example"] = ["127.0.0.1"]
        inside = await web.serve(ok(b"secret"), "127.0.0.1")
        await web.refused(f"http://{name}/shutdown?now", match="only asked for /announce")
        assert not inside.requests
        assert not web.us.dialled
        assert (await web.get(f"http://{name}/shutdown?now", tracker=False)).body == b"secret"

    await run(test)


async def test_of_several_addresses_only_those_that_may_be_asked_are(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        inside = await web.serve(ok(b"secret"), "127.0.0.1")
        await web.serve(ok(b"fine"))
        web.world.names["tracker.example"] = ["127.0.0.1", "169.254.169.254", THEM]
        assert (await web.get("http://tracker.example/other")).ip == THEM
        assert not inside.requests

    await run(test)


async def test_N3_credentials_stay_with_their_origin(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        web.world.names["other.example"] = [THEM_TOO]
        first = await web.serve(moved("http://tracker.example:81/announce"))
        second = await web.serve(moved("http://other.example/announce"), port=81)
        third = await web.serve(ok(b""), THEM_TOO)
        await web.get("http://me:secret@tracker.example/announce")
        assert "Authorization" in first.requests[0]
        assert "Authorization" not in second.requests[0] + third.requests[0]

    await run(test)


async def test_a_redirect_keeps_to_the_address_family(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        await web.serve(moved("http://other.example/announce"), THEM6)
        four, six = await web.serve(ok(b"4"), THEM_TOO), await web.serve(ok(b"6"), "2600::9")
        web.world.names["other.example"] = [THEM_TOO, "2600::9"]
        reply = await web.client.get(Url.parse(TRACKER), addresses=[(THEM6, 80)])
        assert (reply, len(four.requests), len(six.requests)) == (HttpReply(b"6", "2600::9"), 0, 1)
        web.world.names["other.example"] = [THEM_TOO]
        assert (await web.client.get(Url.parse(TRACKER), addresses=[(THEM6, 80)])).ip == THEM_TOO

    await run(test)


# --- TLS, N5 -------------------------------------------------------------------------------------------------------

SECURE = "https://tracker.example/announce"


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS_FILES / "authority.pem"))


@pytest.mark.usefixtures("trusted")
async def test_https(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        await web.serve(ok(b"hello"), port=443, tls=True)
        assert await web.get(SECURE) == HttpReply(b"hello", THEM)
        assert (await web.get(SECURE)).body == b"hello"

    await run(test)


async def test_N5_an_unknown_authority_is_refused(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        server = await web.serve(ok(b"hello"), port=443, tls=True)
        await web.refused(SECURE, match="certificate is not accepted")
        assert not server.requests

    await run(test)


@pytest.mark.usefixtures("trusted")
async def test_N5_a_certificate_for_another_host_is_refused(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        web.world.names["other.example"] = [THEM]
        server = await web.serve(ok(b"hello"), port=443, tls=True)
        await web.refused("https://other.example/announce", match="certificate is not accepted: Hostname mismatch")
        assert not server.requests

    await run(test)


@pytest.mark.parametrize(("answer", "reason"), [(b"HTTP/1.1 200 OK\r\n\r\n", "no TLS"), (b"", "no TLS within 10 s")])
async def test_a_server_that_does_not_speak_tls(answer: bytes, reason: str, autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        listener = await web.world.host(THEM).listen(THEM, 443)

        async def talk() -> None:
            transport = await listener.accept()
            if answer:
                transport.send([answer])
            await trio.sleep_forever()

        web.nursery.start_soon(talk)
        await web.refused(SECURE, match=reason)

    await run(test)


@pytest.mark.usefixtures("trusted")
async def test_N5_a_tracker_may_not_redirect_from_https_to_http(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        await web.serve(moved(TRACKER), port=443, tls=True)
        plain = await web.serve(ok(b"plain"))
        await web.refused(SECURE, match="from https to http")
        assert not plain.requests
        assert (await web.get(SECURE, tracker=False)).body == b"plain"

    await run(test)


# --- proxies -------------------------------------------------------------------------------------------------------

PROXY = "192.168.1.9"


def through(web: Web, **environ: str) -> HttpClient:
    return HttpClient(web.us, environ=environ)


async def test_http_through_a_proxy(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        proxy = await web.serve(ok(b"hello"), PROXY, 3128)
        client = through(web, http_proxy=f"http://user:word@{PROXY}:3128")
        assert await client.get(Url.parse(TRACKER)) == HttpReply(b"hello", None)
        assert proxy.requests[0].startswith("GET http://tracker.example/announce HTTP/1.1\r\n")
        assert f"Proxy-Authorization: Basic {b64encode(b'user:word').decode()}\r\n" in proxy.requests[0]
        assert [address for _, address in web.us.dialled] == [(PROXY, 3128)]

    await run(test)


async def test_https_through_a_proxy(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        proxy = await web.serve(ok(b"", status="403 Forbidden"), PROXY, 3128)
        client = through(web, HTTPS_PROXY=f"{PROXY}:3128")
        with pytest.raises(HttpError, match="403 Forbidden"):
            await client.get(Url.parse(SECURE))
        assert proxy.requests[0].startswith("CONNECT tracker.example:443 HTTP/1.1\r\n")

    await run(test)


@pytest.mark.parametrize("url", ["http://127.0.0.1/announce", "http://localhost/announce", "http://[::1]/announce"])
async def test_loopback_is_never_asked_through_a_proxy(url: str, autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        web.world.names["localhost"] = ["127.0.0.1"]
        proxy = await web.serve(ok(b"proxied"), PROXY, 3128)
        await web.serve(ok(b"direct"), "127.0.0.1")
        client = through(web, http_proxy=f"{PROXY}:3128")
        if "::1" in url:
            with pytest.raises(HttpError):
                await client.get(Url.parse(url))
        else:
            assert (await client.get(Url.parse(url))).body == b"direct"
        assert not proxy.requests

    await run(test)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://169.254.169.254/announce", "no address for a request"),
        ("http://10.0.0.1/admin", "only asked for /announce"),
    ],
)
async def test_addresses_are_checked_before_a_proxy_gets_them(url: str, reason: str, autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        proxy = await web.serve(ok(b"secret"), PROXY, 3128)
        with pytest.raises(HttpError, match=reason):
            await through(web, http_proxy=f"{PROXY}:3128").get(Url.parse(url))
        assert not proxy.requests

    await run(test)


async def test_what_a_proxy_reaches_may_not_redirect_inside(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        await web.serve(moved("http://127.0.0.1/announce"), PROXY, 3128)
        inside = await web.serve(ok(b"secret"), "127.0.0.1")
        with pytest.raises(HttpError, match="redirect from the internet"):
            await through(web, http_proxy=f"{PROXY}:3128").get(Url.parse(TRACKER))
        assert not inside.requests

    await run(test)


async def test_a_proxy_that_cannot_be_used_is_not_gone_round(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        server = await web.serve(ok(b"direct"))
        with pytest.raises(HttpError, match="the proxy of the environment"):
            await through(web, http_proxy=f"socks5://{PROXY}:1080").get(Url.parse(TRACKER))
        assert not server.requests

    await run(test)


# --- torrent files -------------------------------------------------------------------------------------------------


async def test_fetch(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        await web.serve(ok(b"d4:infodee"))
        assert await web.client.fetch("http://tracker.example/x.torrent") == b"d4:infodee"
        with pytest.raises(
            NetworkError, match=r"http://tracker\.example/x\.torrent: the answer is longer than 9 bytes"
        ):
            await web.client.fetch("http://tracker.example/x.torrent", limit=9)
        with pytest.raises(NetworkError, match="no connection"):
            await web.client.fetch("http://me:secret@tracker.example:81/x.torrent")
        for url in ("udp://tracker.example:80/x.torrent", "x.torrent", "ftp://x/y"):
            with pytest.raises(UsageError):
                await web.client.fetch(url)

    await run(test)


async def test_a_slow_torrent_file_is_waited_for_longer(autojump_clock: MockClock) -> None:
    async def drip(request: str, stream: trio.abc.Stream) -> None:
        await stream.send_all(ok(b"", length=10))
        for _ in range(10):
            await trio.sleep(20)
            await stream.send_all(b"x")

    async def test(web: Web) -> None:
        await web.serve(drip)
        assert await web.client.fetch("http://tracker.example/x.torrent") == b"x" * 10

    await run(test)


async def test_no_control_character_of_a_server_is_shown(autojump_clock: MockClock) -> None:
    async def test(web: Web) -> None:
        await web.serve(ok(b"", status="500 \x9b31m"))
        with pytest.raises(NetworkError) as caught:
            await web.client.fetch("http://tracker.example/x.torrent")
        assert str(caught.value).isprintable()

    await run(test)


# --- on the real network -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("tls", [False, True])
async def test_on_real_sockets(tls: bool) -> None:
    network = TcpNetwork()
    server = WebServer(ok(packed(500_000), "Content-Encoding: gzip"), tls)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(server.serve, network, "127.0.0.1", 0)
            url = Url.parse(f"http{'s' if tls else ''}://localhost:{port}/announce")
            reply = await HttpClient(network, environ={}).get(url)
            assert reply == HttpReply(bytes(500_000), "127.0.0.1")
            nursery.cancel_scope.cancel()


async def test_a_reset_on_real_sockets() -> None:
    network = TcpNetwork()

    async def reset(request: str, stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(WebServer(reset).serve, network, "127.0.0.1", 0)
            with pytest.raises(HttpError):
                await HttpClient(network, environ={}).get(Url.parse(f"http://127.0.0.1:{port}/announce"))
            nursery.cancel_scope.cancel()
