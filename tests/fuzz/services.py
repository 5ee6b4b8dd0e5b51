"""Targets: trackers and the DHT node, in both directions, and HTTP."""

from __future__ import annotations

import errno
import random
import struct
from collections.abc import Sequence

import trio

from btor.dht import answers
from btor.dht.contact import contact_at
from btor.dht.node import Node
from btor.engine import http, http_backend
from btor.engine.http import HttpClient, Inflater
from btor.engine.transport import Listener, Transport
from btor.engine.udp import UdpSocket
from btor.errors import TrackerError
from btor.tracker import http as tracker_server
from btor.tracker import query
from btor.tracker.registry import Bounds
from btor.tracker.tracker import HttpAnswer, Tracker
from btor.wire import krpc, tracker_http, tracker_udp
from btor.wire.address import Address
from btor.wire.krpc import decode_message
from btor.wire.url import Url
from tests.fuzz.harness import target

URL = "http://tracker.example/announce"
BODY = 4 * 1024  # bytes of an answer, at most
HASHES = [bytes([number]) * 20 for number in range(3)]


@target("tracker_reply", tracker_http.decode_announce)
def fuzz_tracker_reply(data: bytes) -> None:
    reply = tracker_http.decode_announce(data, URL)
    assert len(reply.peers) + len(reply.peer_names) <= 1_000
    assert all(0 < port <= 65_535 for _, port in [*reply.peers, *reply.peer_names])
    made = tracker_http.encode_announce(reply, compact=not reply.peer_names)
    again = tracker_http.decode_announce(made, URL)
    assert sorted(again.peers) == sorted(reply.peers) and again.peer_names == reply.peer_names
    assert (again.interval, again.tracker_id, again.external_ip) == (
        reply.interval,
        reply.tracker_id,
        reply.external_ip,
    )


@target("scrape_reply", tracker_http.decode_scrape)
def fuzz_scrape_reply(data: bytes) -> None:
    reply = tracker_http.decode_scrape(data, URL)
    made = tracker_http.encode_scrape(reply.files, min_interval=reply.min_interval)
    assert tracker_http.decode_scrape(made, URL) == reply


@target(
    "udp_tracker_reply",
    tracker_udp.decode_connect,
    tracker_udp.decode_announce,
    tracker_udp.decode_scrape,
    tracker_udp.transaction_of_reply,
)
def fuzz_udp_tracker_reply(data: bytes) -> None:
    transaction = tracker_udp.transaction_of_reply(data)
    if transaction is None:
        transaction = 0
    for ipv6 in (False, True):
        try:
            reply = tracker_udp.decode_announce(data, transaction, URL, ipv6=ipv6)
        except TrackerError:
            continue
        if reply.interval >= 0 and None not in (reply.leechers, reply.seeders):
            sent = tracker_udp.encode_announce_reply(transaction, reply, ipv6=ipv6)
            assert tracker_udp.decode_announce(sent, transaction, URL, ipv6=ipv6) == reply
    try:
        assert len(tracker_udp.decode_scrape(data, transaction, URL, HASHES)) <= len(HASHES)
    except TrackerError:
        pass
    connection_id = tracker_udp.decode_connect(data, transaction, URL)
    assert tracker_udp.encode_connect_reply(transaction, connection_id) == data[:16]


@target(
    "udp_tracker_request",
    tracker_udp.decode_head,
    tracker_udp.decode_announce_request,
    tracker_udp.decode_scrape_request,
)
def fuzz_udp_tracker_request(data: bytes) -> None:
    head = tracker_udp.decode_head(data)
    if head is None:
        return
    if head.action == tracker_udp.SCRAPE:
        hashes = tracker_udp.decode_scrape_request(data)
        assert data.startswith(tracker_udp.encode_scrape(head.connection_id, head.transaction, hashes))
    elif head.action == tracker_udp.ANNOUNCE:
        request, path = tracker_udp.decode_announce_request(data)
        sent = tracker_udp.encode_announce(head.connection_id, head.transaction, request)
        assert tracker_udp.decode_announce_request(sent) == (request, b"")
        left = iter(data[len(sent) :])
        assert all(byte in left for byte in path)  # it stands there in order, in several parts perhaps


def _tracker() -> Tracker:
    return Tracker(random.Random(0), bytes(32), 0.0, interval=300.0, bounds=Bounds(torrents=2, peers=3))


@target("tracker_query", query.split_target, query.read_announce, query.read_scrape, Tracker.answer_http)
def fuzz_tracker_query(data: bytes) -> None:
    tracker = _tracker()
    for now, line in enumerate(data.split(b"\n")[:8]):
        answer = tracker.answer_http(line, "10.0.0.9" if now % 2 else "fd00::9", float(now))
        assert answer.status in (200, 404) and answer.body
        if answer.status == 200 and line.startswith(b"/announce"):
            try:
                tracker_http.decode_announce(answer.body, URL)
            except TrackerError as error:
                assert error.refused


@target(
    "tracker_udp", Tracker.answer_udp, without=("_http_announce", "_http_scrape", "_stats", "answer_http", "statistics")
)
def fuzz_tracker_udp(data: bytes) -> None:
    """Packets with their length before them; the first byte: IPv6 or not. The id that was given is filled in."""
    tracker = _tracker()
    sender: Address = ("fd00::9", 5_000) if data[:1] == b"6" else ("10.0.0.9", 5_000)
    connect = tracker.answer_udp(tracker_udp.encode_connect(1), sender, 0.0)
    given = tracker_udp.decode_connect(connect or b"", 1, URL).to_bytes(8)
    at, now = 1, 0.0
    while at < len(data) and now < 16:
        length = data[at] * 2
        packet = data[at + 1 : at + 1 + length]
        if packet[:8] == b"the id  ":
            packet = given + packet[8:]
        answer = tracker.answer_udp(packet, sender, now)
        if answer is not None and packet[:8] != given:
            assert len(answer) <= len(packet)  # no more than came, until the address is proven
        at, now = at + 1 + length, now + 1.0


@target("dht_node", Node.on_packet, answers.Answers)
def fuzz_dht_node(data: bytes) -> None:
    """Packets, the number of their sender and their length (two bytes) before them; the node asks meanwhile itself.

    Where a packet has ``$$`` as transaction, the id of the oldest open question to that address is put in; ``TOKENTOK``
    becomes the token that was given out.
    """
    node, sibling = Node(random.Random(1), 0.0), Node(random.Random(2), 0.0, ipv6=True)
    node.sibling = sibling
    sibling.table.on_reply(contact_at(bytes(20), ("2001:db8::1", 6_881)), 0.0)
    senders: list[Address] = [("127.0.0.1", 7_000), *((f"5.{number}.7.8", 6_881) for number in range(7))]
    for sender in senders[:-1]:
        node.add_node(sender, 0.0)
    node.ping(senders[1], 0.0)
    node.lookup(bytes(20), 0.0)
    asked: dict[Address, list[bytes]] = {sender: [] for sender in senders}
    token = b"8:TOKENTOK"
    at, now = 0, 0.0
    while now < 10:
        for sent, to in node.take_packets(now):
            assert len(sent) <= 1_400
            said = decode_message(sent)
            if isinstance(said, krpc.Query):
                asked.setdefault(to, []).append(b"1:t%d:%b" % (len(said.transaction), said.transaction))
            elif isinstance(said, krpc.Reply) and said.token:
                token = b"%d:%b" % (len(said.token), said.token)
        node.take_ended()
        if at + 3 > len(data):
            break
        number, length = struct.unpack_from(">BH", data, at)
        at += 3
        sender = senders[number % len(senders)]
        packet = data[at : at + length].replace(b"8:TOKENTOK", token)
        at += length
        if asked[sender] and b"1:t2:$$" in packet:
            packet = packet.replace(b"1:t2:$$", asked[sender].pop(0))
        node.on_packet(packet, sender, now)
        node.on_time(now)
        now += 0.1
    node.on_time(now + 20.0)
    assert node.next_due() > now


# --- HTTP ----------------------------------------------------------------------------------------------------------


@target("gzip", Inflater)
def fuzz_gzip(data: bytes) -> None:
    made = []
    for step in (len(data) or 1, 7):
        one = Inflater(BODY)
        for start in range(0, len(data), step):
            one.feed(data[start : start + step])
        made.append(one.finish())
    assert made[0] == made[1] and len(made[0]) <= BODY


class _Replay:
    """A connection on which ``data`` comes, which RESET ends otherwise, and a network that has nothing else."""

    local: Address = ("10.0.0.1", 1)
    remote: Address = ("93.184.216.34", 80)

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()

    def recv_into(self, views: Sequence[memoryview]) -> int:
        if self.data == b"RESET":
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        part = self.data[: len(views[0])].removesuffix(b"RESET")
        views[0][: len(part)] = part
        self.data = self.data[len(part) :]
        return len(part)

    def send(self, views: Sequence[memoryview | bytes | bytearray]) -> int:
        return sum(map(len, views))

    def close(self) -> None:
        self.closed = True

    def open_udp_sockets(self, bind: Sequence[str], port: int) -> list[UdpSocket]:
        return []

    async def connect(self, address: Address, *, local: str | None = None) -> Transport:
        await trio.lowlevel.checkpoint()
        return self

    async def listen(self, host: str, port: int) -> Listener:
        raise NotImplementedError

    async def resolve(self, host: str, port: int) -> list[Address]:
        await trio.lowlevel.checkpoint()
        return [("93.184.216.34", port)]


@target(
    "http_reply",
    http.HttpClient.get,
    http._Hop.run,
    http_backend.GuardedStream.read,
    without=("fetch", "_headers", "tls", "start_tls", "connect_tcp", "receive_some", "proxy_for"),
)
def fuzz_http_reply(data: bytes) -> None:
    """All that comes from a web server, which answers every redirect with the rest, and from a proxy likewise."""

    async def main(environ: dict[str, str], ip: str | None) -> None:
        client = HttpClient(_Replay(data), environ=environ)
        try:
            reply = await client.get(Url.parse("http://tracker.example/announce?x=1"), limit=BODY)
        except http_backend.HttpError:
            return
        assert len(reply.body) <= BODY and reply.ip == ip

    trio.run(main, {}, "93.184.216.34")
    trio.run(main, {"http_proxy": "http://10.0.0.2:8080"}, None)


@target("http_request", tracker_server._read_request, tracker_server._serve_request)
def fuzz_http_request(data: bytes) -> None:
    """All that comes to the embedded tracker over one connection."""

    class Stream(trio.abc.HalfCloseableStream):
        def __init__(self) -> None:
            self.data = data
            self.sent = b""

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.lowlevel.checkpoint()
            part, self.data = self.data[:max_bytes], self.data[max_bytes or 0 :]
            return part

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.lowlevel.checkpoint()
            self.sent += data

        async def wait_send_all_might_not_block(self) -> None:
            await trio.lowlevel.checkpoint()

        async def send_eof(self) -> None:
            await trio.lowlevel.checkpoint()

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        tracker = _tracker()

        def answer(wanted: bytes) -> HttpAnswer:
            return tracker.answer_http(wanted, "10.0.0.9", 0.0)

        stream = Stream()
        await tracker_server.serve_connection(stream, answer)  # type: ignore[arg-type]  # stands for a socket
        assert stream.sent[:5] in (b"", b"HTTP/")

    trio.run(main)
