"""Announces of a session against trackers in a simulated network, in virtual time."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
from trio.testing import MockClock

from btor import limits
from btor.engine.announce import Announcer
from btor.engine.contain import Container
from btor.engine.transport import TcpNetwork
from btor.engine.udp import SystemUdpSocket, UdpHub, serve
from btor.swarm.tiers import Tiers
from btor.wire import tracker_udp
from btor.wire.address import Address
from btor.wire.tracker_http import (
    AnnounceReply,
    AnnounceRequest,
    ScrapeEntry,
    encode_announce,
    encode_failure,
    encode_scrape,
)
from tests.engine.web import WebServer, ok, simulated
from tests.simulated.network import Host, World

US, US6 = "1.1.1.1", "2600::1"
ONE, TWO, THREE, ONE6 = "8.8.8.1", "8.8.8.2", "8.8.8.3", "2600::8"
PEERS: list[Address] = [("5.6.7.8", 9), ("5.6.7.9", 10)]
PEERS6: list[Address] = [("2600::5:6", 7)]
HASH = bytes(range(20))
HOUR = 3_600.0
URL1, URL2, URL3 = (f"http://{ip}/announce" for ip in (ONE, TWO, THREE))
UDP1, UDP2 = (f"udp://{ip}:6969/announce" for ip in (ONE, TWO))


@dataclass(eq=False)
class Torrent:
    """A torrent as the announcer sees it; notes what it hears."""

    tiers: Tiers
    info_hash: bytes = HASH
    peer_id: bytes = b"-BO0100-abcdefghijkl"
    key: int = 0xC0FFEE
    port: int = 6881
    left: int = 1_000
    is_partial_seed: bool = False
    peers: list[tuple[float, str, list[Address], str | None]] = field(default_factory=list)
    answers: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    fault: Exception | None = None

    def announce_counters(self) -> tuple[int, int, int]:
        return 11, 22, self.left

    def on_tracker_peers(self, url: str, peers: list[Address], tracker_ip: str | None) -> None:
        self.heard.append("peers")
        self.peers.append((round(trio.current_time(), 1), url, peers, tracker_ip))

    def on_tracker_answer(self, **fields: Any) -> None:
        if self.fault is not None:
            raise self.fault
        self.heard.append("answer")
        self.answers.append((round(trio.current_time(), 1), fields))

    def on_tracker_switch(self, url: str) -> None:
        self.heard.append(f"switch to {url}")

    def messages(self) -> list[str]:
        return [fields["message"] for _, fields in self.answers]


class Unshuffled(random.Random):
    """Leaves tiers in their order and jitters nothing."""

    def shuffle(self, x: object) -> None:
        """Not at all."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def torrent(*tiers: list[str], private: bool = False, left: int = 1_000) -> Torrent:
    return Torrent(Tiers(tiers, Unshuffled(1), private=private), left=left)


Reply = AnnounceReply | bytes | None
GOOD = AnnounceReply(interval=1_800, seeders=3, leechers=4, peers=PEERS)


class Trackers:
    """Trackers of a test, over HTTP and UDP. ``said``: (time, host, event) of every announce that came."""

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self.world = world
        self.nursery = nursery
        self.said: list[tuple[float, str, str]] = []
        self.scrapes: list[float] = []
        self.queries: list[dict[str, str]] = []
        self.packets: list[AnnounceRequest] = []
        self.open = self.most_open = 0

    def host(self, ip: str) -> Host:
        return self.world.hosts.get(ip) or self.world.host(ip)

    def note(self, ip: str, event: str) -> None:
        self.said.append((round(trio.current_time(), 1), ip, event))

    def events(self) -> list[str]:
        return [event for _, _, event in self.said]

    async def http(
        self, ip: str, reply: Reply = GOOD, *, port: int = 80, delay: float = 0.0, scrape: ScrapeEntry | None = None
    ) -> TrackerServer:
        """A tracker over HTTP. A reply of None is never given, bytes are the body as it is."""

        async def respond(request: str, stream: trio.abc.Stream) -> None:
            parts = urlsplit(request.split()[1])
            query = {name: values[0] for name, values in parse_qs(parts.query, encoding="latin-1").items()}
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            try:
                if parts.path == "/scrape":
                    self.scrapes.append(round(trio.current_time(), 1))
                    files = {} if scrape is None else {HASH: scrape}
                    await stream.send_all(ok(encode_scrape(files)))
                    return
                self.queries.append(query)
                self.note(ip, query.get("event", ""))
                await trio.sleep(delay)
                if server.reply is None:
                    await trio.sleep_forever()
                body = server.reply if isinstance(server.reply, bytes) else encode_announce(server.reply)
                await stream.send_all(ok(body))
            finally:
                self.open -= 1

        server = TrackerServer(respond, reply=reply)
        await self.nursery.start(server.serve, self.host(ip), ip, port)
        return server

    def udp(self, ip: str, reply: Reply = GOOD, *, port: int = 6969) -> None:
        """A tracker over UDP; bytes are the text of a refusal."""
        sock = self.host(ip).open_udp(ip, port)

        def on_packet(packet: bytes, sender: Address) -> None:
            head = tracker_udp.decode_head(packet)
            assert head is not None
            if head.action == tracker_udp.CONNECT:
                if reply is not None:
                    sock.sendto(tracker_udp.encode_connect_reply(head.transaction, 7), sender)
            elif head.action == tracker_udp.SCRAPE:
                self.scrapes.append(round(trio.current_time(), 1))
                sock.sendto(tracker_udp.encode_scrape_reply(head.transaction, [ScrapeEntry(8, 9, 10)]), sender)
            else:
                request, _ = tracker_udp.decode_announce_request(packet)
                self.packets.append(request)
                self.note(ip, request.event)
                if isinstance(reply, bytes):
                    sock.sendto(tracker_udp.encode_error(head.transaction, reply.decode()), sender)
                elif reply is not None:
                    answer = tracker_udp.encode_announce_reply(head.transaction, reply, ipv6=":" in ip)
                    sock.sendto(answer, sender)

        self.nursery.start_soon(serve, sock, on_packet)


@dataclass
class TrackerServer(WebServer):
    """One whose reply a test may change."""

    reply: Reply = None


@asynccontextmanager
async def session(
    *, bind: tuple[str, ...] = (), udp: bool = True, strict: bool = True, environ: dict[str, str] | None = None
) -> AsyncIterator[tuple[Announcer, Trackers]]:
    """A running announcer at US, and a world for trackers. Everything ends within virtual days."""
    container = Container(strict=strict)
    with trio.fail_after(90 * 24 * HOUR):
        async with simulated() as (world, nursery):
            us = world.host(US, US6, "127.0.0.1", "::1")
            ips = bind or (US, US6)
            hub = UdpHub([us.open_udp(ip, 6881) for ip in ips]) if udp else None
            if hub is not None:
                await nursery.start(hub.run)
            announcer = Announcer(us, hub, rng=Unshuffled(1), bind=bind, container=container, environ=environ or {})
            await nursery.start(announcer.run)
            yield announcer, Trackers(world, nursery)


# --- what is said, and what comes of it ----------------------------------------------------------------------------


async def test_an_http_announce(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        reply = AnnounceReply(interval=1_800, seeders=3, leechers=4, peers=PEERS, warning="mind\x1bthe gap")
        server = await trackers.http(ONE, reply)
        one = torrent([URL1])
        announcer.add(one)
        announcer.add(one)
        await trio.sleep(10)
        assert trackers.queries == [
            {
                "info_hash": HASH.decode("latin-1"),
                "peer_id": "-BO0100-abcdefghijkl",
                "port": "6881",
                "uploaded": "11",
                "downloaded": "22",
                "left": "1000",
                "compact": "1",
                "no_peer_id": "1",
                "key": "00c0ffee",
                "numwant": str(limits.TRACKER_NUMWANT),
                "event": "started",
            }
        ]
        assert "User-Agent: btor/0.1.0\r\n" in server.requests[0]
        assert one.peers == [(0.1, URL1, PEERS, ONE)]
        assert one.answers == [
            (
                0.1,
                {
                    "url": URL1,
                    "ok": True,
                    "peers": 2,
                    "seeders": 3,
                    "leechers": 4,
                    "interval": 1_800,
                    "message": "mind\ufffdthe gap",
                },
            )
        ]


async def test_a_udp_announce(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.udp(ONE)
        one = torrent([UDP1])
        announcer.add(one)
        await trio.sleep(10)
        assert trackers.packets == [
            AnnounceRequest(
                info_hash=HASH,
                peer_id=one.peer_id,
                port=6881,
                uploaded=11,
                downloaded=22,
                left=1_000,
                event="started",
                key=0xC0FFEE,
                numwant=200,
            )
        ]
        assert one.peers == [(0.1, UDP1, PEERS, ONE)]


async def test_all_tiers_at_once(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE)
        trackers.udp(TWO)
        await trackers.http(THREE, delay=3)
        one = torrent([URL1], [UDP2], [URL3])
        announcer.add(one)
        await trio.sleep(10)
        assert [(when, url) for when, url, _, _ in one.peers] == [(0.1, UDP2), (0.1, URL1), (3.1, URL3)]
        assert one.tiers.working == 3


async def test_a_partial_seed_is_paused(autojump_clock: MockClock) -> None:
    """BEP 21: that stands where no other event does; over UDP there is no such event."""
    async with session() as (announcer, trackers):
        await trackers.http(ONE)
        trackers.udp(TWO)
        one = torrent([URL1], [UDP2])
        one.is_partial_seed = True
        announcer.add(one)
        await trio.sleep(1_800 + 10)
        assert sorted((ip, event) for _, ip, event in trackers.said) == [
            (ONE, "paused"),
            (ONE, "started"),
            (TWO, ""),
            (TWO, "started"),
        ]


async def test_many_torrents(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.udp(ONE)
        torrents = [torrent([UDP1]) for _ in range(200)]
        for one in torrents:
            announcer.add(one)
        await trio.sleep(2 * 1_800 + 10)
        assert {len(one.answers) for one in torrents} == {3}
        await announcer.stop(trio.current_time() + limits.SHUTDOWN)
        assert trackers.events().count("stopped") == 200


async def test_both_address_families(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.world.names["both.example"] = [ONE6, ONE]
        await trackers.http(ONE)
        await trackers.http(ONE6, AnnounceReply(interval=1_800, peers=PEERS6))
        one = torrent(["http://both.example/announce"])
        announcer.add(one)
        await trio.sleep(10)
        assert sorted((peers, ip) for _, _, peers, ip in one.peers) == sorted([(PEERS, ONE), (PEERS6, ONE6)])
        assert {query["key"] for query in trackers.queries} == {"00c0ffee"}
        assert sorted(trackers.said) == [(0.1, ONE6, "started"), (0.1, ONE, "started")]
        announcer.remove(one)
        await trio.sleep(10)
        assert sorted(trackers.said[2:]) == [(10.1, ONE6, "stopped"), (10.1, ONE, "stopped")]


async def test_one_family_that_is_silent_delays_nothing(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.world.names["both.example"] = [ONE6, ONE]
        trackers.host(ONE6).silent = True
        await trackers.http(ONE, AnnounceReply(interval=60, peers=PEERS))
        one = torrent(["http://both.example/announce"])
        announcer.add(one)
        await trio.sleep(200)
        assert [round(when) for when, _, _, _ in one.peers] == [0, 60, 120, 180]
        assert {fields["ok"] for _, fields in one.answers} == {True}
        announcer.remove(one)
        await trio.sleep(10)
        assert trackers.events()[-2:] == ["", "stopped"]


async def test_a_family_still_silent_at_the_next_announce_is_given_up(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.world.names["both.example"] = [ONE6, ONE]
        trackers.udp(ONE, AnnounceReply(interval=60, peers=PEERS))
        trackers.udp(ONE6, None)
        one = torrent(["udp://both.example:6969"])
        announcer.add(one)
        await trio.sleep(400)
        assert len(one.peers) == 7
        assert {fields["ok"] for _, fields in one.answers} == {True}


async def test_when_both_families_fail_one_reason_is_told(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.world.names["both.example"] = [ONE6, ONE]
        trackers.host(ONE6)
        await trackers.http(ONE, encode_failure("unregistered \x1b[31mtorrent"))
        one = torrent(["http://both.example/announce"])
        announcer.add(one)
        await trio.sleep(10)
        assert one.messages() == ["unregistered \ufffd[31mtorrent"]
        assert one.answers[0][1]["ok"] is False


async def test_only_bound_families(autojump_clock: MockClock) -> None:
    async with session(bind=(US,)) as (announcer, trackers):
        trackers.world.names["both.example"] = [ONE6, ONE]
        trackers.world.names["six.example"] = [ONE6]
        await trackers.http(ONE)
        await trackers.http(ONE6)
        one = torrent(["http://both.example/announce"], ["http://six.example/announce"])
        announcer.add(one)
        await trio.sleep(10)
        assert [ip for _, ip, _ in trackers.said] == [ONE]
        assert one.messages() == ["no address of its is of a family that we use", ""]


async def test_our_own_address_is_left_out(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        ours: list[Address] = [("5.5.5.5", 6881), ("5.5.5.5", 6882), ("5.5.5.6", 6881)]
        await trackers.http(ONE, AnnounceReply(interval=1_800, peers=ours, external_ip="5.5.5.5"))
        one = torrent([URL1])
        announcer.add(one)
        await trio.sleep(1)
        assert one.peers[0][2] == ours[1:]
        assert one.answers[0][1]["peers"] == 2


def test_what_is_wished_for_is_what_is_used() -> None:
    assert limits.TRACKER_NUMWANT == limits.TRACKER_PEERS_USED == 200


@pytest.mark.parametrize(("given", "used"), [(200, 200), (201, 200), (1_000, 200)])
async def test_N1_at_most_200_peers_are_used(given: int, used: int, autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        peers: list[Address] = [(f"5.6.{n // 256}.{n % 256}", 80) for n in range(given)]
        await trackers.http(ONE, AnnounceReply(interval=1_800, peers=peers))
        one = torrent([URL1])
        announcer.add(one)
        await trio.sleep(1)
        assert one.peers[0][2] == peers[:used]


async def test_peers_by_name_are_looked_up(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.world.names.update({"p.example": ["5.6.7.8", "2600::5"], "slow.example": []})
        names = [("p.example", 80), ("unknown.example", 80), ("slow.example", 80)]
        body = encode_announce(AnnounceReply(interval=60, peers=PEERS, peer_names=names), compact=False)
        await trackers.http(ONE, body)
        one = torrent([URL1])
        announcer.add(one)
        await trio.sleep(30)
        assert [peers for _, _, peers, _ in one.peers] == [PEERS, [("5.6.7.8", 80), ("2600::5", 80)]]
        assert one.answers[0][1]["peers"] == 5


async def test_only_names_are_answer_enough(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        names = [(f"p{n}.example", 80) for n in range(limits.TRACKER_NAMES + 1)]
        trackers.world.names.update({name: ["5.6.7.8"] for name, _ in names})
        body = encode_announce(AnnounceReply(interval=60, peer_names=names), compact=False)
        await trackers.http(ONE, body)
        one = torrent([URL1])
        announcer.add(one)
        await trio.sleep(30)
        assert len(one.peers) == limits.TRACKER_NAMES
        assert "peers" not in one.heard[:1]


async def test_names_that_are_found_too_late_are_not_told(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.world.look_up = 5
        trackers.world.names["p.example"] = ["5.6.7.8"]
        body = encode_announce(AnnounceReply(interval=60, peer_names=[("p.example", 80)]), compact=False)
        await trackers.http(ONE, body)
        one = torrent([URL1])
        announcer.add(one)
        await trio.sleep(2)
        announcer.remove(one)
        await trio.sleep(30)
        assert one.heard == ["answer"]


# --- tiers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dead", [URL1, UDP1])
async def test_a_dead_tracker_never_delays_one_that_answers(dead: str, autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.host(ONE).silent = True
        await trackers.http(TWO)
        one = torrent([dead, URL2])
        announcer.add(one)
        await trio.sleep(60)
        assert one.answers == [(1.6, one.answers[0][1])]
        assert one.tiers.urls == [[URL2, dead]]
        announcer.remove(one)
        await trio.sleep(1)
        assert trackers.events() == ["started", "stopped"]


async def test_a_tracker_that_refuses_makes_way_at_once(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE, encode_failure("no"))
        await trackers.http(TWO, b"x" * (limits.TRACKER_REPLY + 1))
        trackers.udp(THREE, b"not here")
        await trackers.http(THREE)
        one = torrent([URL1, URL2, f"udp://{THREE}:6969", URL3])
        announcer.add(one)
        await trio.sleep(10)
        assert [fields["ok"] for _, fields in one.answers] == [False, False, False, True]
        assert one.messages() == ["no", "the answer is longer than 1048576 bytes", "not here", ""]
        assert one.answers[-1][0] < 1


async def test_failures_back_off(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE, encode_failure("no"))
        one = torrent([URL1])
        announcer.add(one)
        await trio.sleep(60 + 120 + 240 + 100)
        assert [round(when) for when, _, _ in trackers.said] == [0, 60, 180, 420]
        assert one.answers[0][1] == {
            "url": URL1,
            "ok": False,
            "peers": 0,
            "seeders": None,
            "leechers": None,
            "interval": None,
            "message": "no",
        }


async def test_a_tracker_may_say_when_to_come_back(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE, encode_failure("busy", retry_in=10))
        await trackers.http(TWO, b"d14:failure reason4:gone8:retry in5:nevere")
        server = await trackers.http(THREE)
        server.answer = ok(b"", "Retry-After: 500", status="429 Slow Down")
        one = torrent([URL1], [URL2], [URL3])
        announcer.add(one)
        await trio.sleep(550)
        assert sorted((round(when), ip) for when, ip, _ in trackers.said) == [(0, ONE), (0, TWO)]
        assert len(server.requests) == 2
        await trio.sleep(200)
        assert [(round(when), ip) for when, ip, _ in trackers.said[2:]] == [(600, ONE)]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gopher://x/", "the URL is not http, https or udp"),
        ("http://8.8.8.1/announce?info_hash=x", "the tracker's URL holds parameters of an announce"),
        ("http://8.8.8.1/announce?x=1&event=stopped", "the tracker's URL holds parameters of an announce"),
    ],
)
async def test_trackers_that_are_never_asked(url: str, message: str, autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE)
        one = torrent([url])
        announcer.add(one)
        await trio.sleep(24 * HOUR)
        assert one.messages() == [message]
        assert trackers.said == []


async def test_without_udp(autojump_clock: MockClock) -> None:
    async with session(udp=False) as (announcer, trackers):
        trackers.udp(ONE)
        await trackers.http(TWO)
        one = torrent([UDP1, URL2])
        announcer.add(one)
        await trio.sleep(24 * HOUR)
        assert one.messages()[:2] == ["UDP is not available", ""]
        assert ONE not in {ip for _, ip, _ in trackers.said}


@pytest.mark.parametrize("scheme", ["udp", "http"])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "the name t.example cannot be looked up: Name or service not known"),
        ([], "the name t.example cannot be looked up in time"),
        (["169.254.169.254"], "169.254.169.254 is no address for a request"),
    ],
)
async def test_names_that_lead_nowhere(
    scheme: str, names: list[str] | None, message: str, autojump_clock: MockClock
) -> None:
    async with session() as (announcer, trackers):
        if names is not None:
            trackers.world.names["t.example"] = names
        one = torrent([f"{scheme}://t.example:80/announce"])
        announcer.add(one)
        await trio.sleep(20)
        assert one.messages() == [message]


async def test_a_udp_name_with_several_addresses(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.world.names["t.example"] = [ONE, TWO, THREE, "8.8.8.9"]
        trackers.udp(TWO)
        trackers.udp("8.8.8.9")
        one = torrent(["udp://t.example:6969"])
        announcer.add(one)
        await trio.sleep(100)
        assert [(when, ip) for when, _, _, ip in one.peers] == [(15.1, TWO)]
        announcer.remove(one)
        await trio.sleep(1)
        assert trackers.said[-1] == (100.1, TWO, "stopped")


async def test_the_refusal_of_one_address_is_that_of_all(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.world.names["t.example"] = [ONE, TWO]
        trackers.udp(ONE, b"not here")
        trackers.udp(TWO)
        one = torrent(["udp://t.example:6969"])
        announcer.add(one)
        await trio.sleep(10)
        assert one.messages() == ["not here"]


@pytest.mark.parametrize(("count", "late"), [(50, 0), (51, 1)])
async def test_N2_at_most_50_http_announces_at_once(count: int, late: int, autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE, delay=10)
        torrents = [torrent([URL1]) for _ in range(count)]
        for one in torrents:
            announcer.add(one)
        await trio.sleep(15)
        assert trackers.most_open == min(count, limits.TRACKER_PARALLEL)
        assert sum(not one.answers for one in torrents) == late
        await trio.sleep(10)
        assert all(one.answers for one in torrents)


@pytest.mark.parametrize(
    ("dead", "host", "told"),
    [(29, "t.example", 1), (30, "t.example", 10), (90, "t.example", 30), (90, ONE, 1)],
)
async def test_at_most_30_names_are_looked_up_at_once(
    dead: int, host: str, told: float, autojump_clock: MockClock
) -> None:
    async with session() as (announcer, trackers):
        trackers.world.names.update({f"dead{n}.example": [] for n in range(dead)}, **{"t.example": [ONE]})
        trackers.udp(ONE)
        announcer.add(torrent(*[[f"udp://dead{n}.example:80"] for n in range(dead)]))
        await trio.sleep(1)
        one = torrent([f"udp://{host}:6969"])  # waiting for its turn is not held against it
        announcer.add(one)
        await trio.sleep(45)
        assert [round(when) for when, _, _, _ in one.peers] == [told]


# --- private torrents ----------------------------------------------------------------------------------------------


async def test_a_private_torrent_changes_over(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        first = await trackers.http(ONE, AnnounceReply(interval=60, peers=PEERS))
        await trackers.http(TWO, AnnounceReply(interval=60, peers=PEERS))
        one = torrent([URL1], [URL2], private=True)
        announcer.add(one)
        await trio.sleep(70)
        assert [ip for _, ip, _ in trackers.said] == [ONE, ONE]
        first.reply = encode_failure("closed")
        one.heard.clear()
        await trio.sleep(120)
        assert one.heard[:4] == ["answer", f"switch to {URL2}", "answer", "peers"]
        assert [ip for _, ip, _ in trackers.said][2:] == [ONE, TWO, TWO]


@pytest.mark.parametrize("dead", [URL1, UDP1])
async def test_a_private_torrent_waits_30_seconds_for_a_tracker(dead: str, autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        if dead == URL1:
            await trackers.http(ONE, None)
        await trackers.http(TWO)
        one = torrent([dead, URL2], private=True)
        announcer.add(one)
        await trio.sleep(29)
        assert TWO not in [ip for _, ip, _ in trackers.said]
        await trio.sleep(2)
        assert one.messages() in (["not done within 30 s", ""], ["no answer within 30 s", ""])


# --- events and times ----------------------------------------------------------------------------------------------


async def test_intervals_and_events(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE, AnnounceReply(interval=100, tracker_id=b"\xff&", seeders=0, leechers=0))
        one = torrent([URL1])
        announcer.add(one)
        await trio.sleep(150)
        one.left = 0
        announcer.completed(one)
        announcer.completed(one)
        await trio.sleep(160)
        announcer.remove(one)
        announcer.remove(one)
        await trio.sleep(1_000)
        expected = [(0, "started"), (100, ""), (150, "completed"), (250, ""), (310, "stopped")]
        assert [(round(when), event) for when, _, event in trackers.said] == expected
        assert [query.get("trackerid") for query in trackers.queries] == [None, *["\xff&"] * 4]
        assert [query["left"] for query in trackers.queries] == ["1000", "1000", "0", "0", "0"]
        assert trackers.queries[-1]["numwant"] == "0"
        assert one.heard == ["answer"] * 4


async def test_a_partial_seed_says_so(autojump_clock: MockClock) -> None:
    """BEP 21: `paused` where there is nothing else to say, over HTTP; UDP has no such event."""
    async with session() as (announcer, trackers):
        await trackers.http(ONE, AnnounceReply(interval=100, seeders=0, leechers=0))
        trackers.udp(TWO)
        one = torrent([URL1], [UDP2])
        announcer.add(one)
        await trio.sleep(50)
        one.is_partial_seed = True
        await trio.sleep(100)
        announcer.remove(one)
        await trio.sleep(100)
        over_http = [event for _, url, event in trackers.said if ONE in str(url)]
        over_udp = [event for _, url, event in trackers.said if TWO in str(url)]
        assert over_http == ["started", "paused", "stopped"]
        assert over_udp[0] == "started"
        assert set(over_udp[1:-1]) <= {""}
        assert over_udp[-1] == "stopped"


async def test_complete_at_the_start(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE)
        one = torrent([URL1], left=0)
        announcer.add(one)
        announcer.completed(one)
        await trio.sleep(10)
        announcer.remove(one)
        await trio.sleep(10)
        assert trackers.events() == ["started", "stopped"]


async def test_completed_goes_out_before_stopped(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE, delay=0.5)
        trackers.udp(TWO)
        one = torrent([URL1], [UDP2])
        announcer.add(one)
        await trio.sleep(10)
        one.left = 0
        announcer.completed(one)
        await trio.lowlevel.checkpoint()
        announcer.remove(one)
        await announcer.stop(trio.current_time() + limits.SHUTDOWN)
        for ip in (ONE, TWO):
            events = [event for _, where, event in trackers.said if where == ip]
            assert [event for i, event in enumerate(events) if event not in events[:i]] == [
                "started",
                "completed",
                "stopped",
            ]


async def test_without_peers_the_announce_comes_sooner(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE)
        one = torrent([URL1])
        announcer.hurry(one)
        announcer.add(one)
        for _ in range(200):
            announcer.hurry(one)
            await trio.sleep(1)
        assert [round(when) for when, _, _ in trackers.said] == [0, 60, 180]


async def test_on_loopback_seeds_do_not_hurry_all_at_once(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.udp("127.0.0.1")
        many = []
        for number in range(20):
            one = torrent(["udp://127.0.0.1:6969/announce"], left=0)
            one.info_hash = number.to_bytes(20, "big")
            many.append(one)
            announcer.add(one)
        await trio.sleep(2)
        trackers.said.clear()
        for _ in range(200):
            for one in many:
                announcer.hurry(one)
            await trio.sleep(0.1)
        assert 8 <= len(trackers.said) <= 20 / limits.TRACKER_HURRY_SEEDS + 1


async def test_on_loopback_everything_is_quicker(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        refusing = await trackers.http("127.0.0.1", AnnounceReply(interval=0, peers=PEERS))
        one = torrent(["http://127.0.0.1/announce"])
        announcer.add(one)
        await trio.sleep(9.9)
        times = [when for when, _, _ in trackers.said]
        assert [later - sooner for sooner, later in itertools.pairwise(times)] == pytest.approx([1.05] * 9, abs=0.1)
        assert one.peers[0][3] == "127.0.0.1"
        refusing.reply = encode_failure("no")
        trackers.said.clear()
        await trio.sleep(15)
        assert [round(when - 10) for when, _, _ in trackers.said] == [1, 2, 4, 8]


async def test_loopback_as_if_it_were_public(autojump_clock: MockClock) -> None:
    async with simulated() as (world, nursery):
        announcer = Announcer(world.host("127.0.0.1"), None, rng=Unshuffled(1), loopback_is_public=True, environ={})
        await nursery.start(announcer.run)
        trackers = Trackers(world, nursery)
        await trackers.http("127.0.0.1", AnnounceReply(interval=0, peers=PEERS))
        announcer.add(torrent(["http://127.0.0.1/announce"]))
        await trio.sleep(130)
        assert [round(when) for when, _, _ in trackers.said] == [0, 60, 120]


async def test_figures_are_scraped_when_the_announce_has_none(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE, AnnounceReply(interval=3 * 3_600, peers=PEERS), scrape=ScrapeEntry(5, 6, 7))
        one = torrent([URL1])
        announcer.add(one)
        await trio.sleep(4_000)
        assert trackers.events() == ["started"]
        assert [round(when) for when in trackers.scrapes] == [0, 1_800, 3_600]
        assert one.answers[1][1] == {
            "url": URL1,
            "ok": True,
            "peers": 0,
            "seeders": 5,
            "leechers": 6,
            "interval": None,
            "message": "scrape",
        }


async def test_figures_are_scraped_over_udp_when_they_are_old(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.udp(ONE, AnnounceReply(interval=3_600, seeders=1, leechers=2))
        one = torrent([UDP1])
        announcer.add(one)
        await trio.sleep(2_000)
        assert trackers.events() == ["started"]
        assert [round(when) for when in trackers.scrapes] == [1_800]
        assert (one.answers[1][1]["seeders"], one.answers[1][1]["leechers"]) == (8, 9)


@pytest.mark.parametrize("path", ["/announce", "/a"])
async def test_a_scrape_that_gives_nothing_is_no_failure(path: str, autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        server = await trackers.http(ONE, AnnounceReply(interval=1_000))
        one = torrent([f"http://{ONE}{path}"])
        announcer.add(one)
        await trio.sleep(1_700)
        server.answer = ok(b"rubbish")
        await trio.sleep(200)
        assert [fields["ok"] for _, fields in one.answers] == [True, True]
        assert trackers.scrapes == ([0.1] if path == "/announce" else [])
        assert len(server.requests) == (4 if path == "/announce" else 2)


async def test_a_scrape_of_a_torrent_that_left_is_not_told(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE, AnnounceReply(interval=1_000), scrape=ScrapeEntry(5, 6, 7))
        one = torrent([URL1])
        announcer.add(one)
        await until(lambda: one.answers)
        announcer.remove(one)
        await trio.sleep(10)
        assert one.heard == ["answer"]


# --- beginning and end ---------------------------------------------------------------------------------------------


async def test_stop_tells_the_trackers_and_ends_the_loop(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE)
        trackers.udp(TWO)
        announcer.add(torrent([URL1]))
        other = torrent([UDP2])
        other.info_hash = bytes(20)
        announcer.add(other)
        await trio.sleep(10)
        before = trio.current_time()
        await announcer.stop(before + limits.SHUTDOWN)
        assert trio.current_time() - before < 1
        assert sorted((ip, event) for _, ip, event in trackers.said[2:]) == [(ONE, "stopped"), (TWO, "stopped")]


@pytest.mark.parametrize(("patience", "ends"), [(60.0, limits.TRACKER_STOP), (2.0, 2.0)])
async def test_a_tracker_that_hangs_does_not_hold_up_the_end(
    patience: float, ends: float, autojump_clock: MockClock
) -> None:
    async with session() as (announcer, trackers):
        server = await trackers.http(ONE)
        announcer.add(torrent([URL1]))
        announcer.add(torrent([URL2]))  # which never answered: it is not told either
        trackers.host(TWO).silent = True
        await trio.sleep(10)
        server.reply = None
        before = trio.current_time()
        await announcer.stop(before + patience)
        assert trio.current_time() - before == pytest.approx(ends, abs=0.1)
        assert trackers.events() == ["started", "stopped"]


async def test_a_failing_stopped_is_not_repeated(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        server = await trackers.http(ONE)
        one = torrent([URL1])
        announcer.add(one)
        await trio.sleep(10)
        server.reply = encode_failure("no")
        announcer.remove(one)
        await trio.sleep(1_000)
        assert trackers.events() == ["started", "stopped"]
        assert one.heard == ["answer", "peers"]


async def test_leaving_while_an_announce_is_on_its_way(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE, delay=5)
        one = torrent([URL1])
        announcer.add(one)
        await trio.sleep(1)
        announcer.remove(one)
        await trio.sleep(100)
        assert trackers.events() == ["started"]
        assert one.heard == []
        assert trackers.open == 0


async def test_a_second_family_that_answers_too_late_is_not_told(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.world.names["both.example"] = [ONE6, ONE]
        await trackers.http(ONE)
        await trackers.http(ONE6)
        one = torrent(["http://both.example/announce"])

        def leave(url: str, peers: list[Address], tracker_ip: str | None) -> None:
            announcer.remove(one)

        one.on_tracker_peers = leave  # type: ignore[method-assign]  # it goes as soon as it hears
        announcer.add(one)
        await trio.sleep(10)
        assert one.heard == ["answer"]


async def test_coming_back_overtakes_a_stopped_on_its_way(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE, delay=1)
        one = torrent([URL1])
        announcer.add(one)
        await trio.sleep(10)
        for _ in range(2):
            announcer.remove(one)
            announcer.add(one)
        await trio.sleep(10)
        assert trackers.events() == ["started", "started"]
        announcer.remove(one)
        await trio.sleep(0.5)
        announcer.add(one)
        await trio.sleep(10)
        assert trackers.events() == ["started", "started", "stopped", "started"]
        for _ in range(2):
            announcer.remove(one)
            await trio.sleep(0.2)
            announcer.add(one)
        announcer.remove(one)
        await trio.sleep(10)
        assert trackers.events()[-1] == "stopped"
        announcer.hurry(one)


async def test_a_torrent_that_is_added_anew_overtakes_its_own_stopped(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        await trackers.http(ONE)
        before, after = torrent([URL1]), torrent([URL1])  # trackers know them by the info-hash
        announcer.add(before)
        await trio.sleep(10)
        announcer.remove(before)
        announcer.add(after)
        await trio.sleep(10)
        assert trackers.events() == ["started", "started"]


async def test_stop_before_it_ran() -> None:
    announcer = Announcer(TcpNetwork(), None, rng=Unshuffled(1))
    announcer.add(torrent([URL1]))
    await announcer.stop(0.0)


async def test_cancelling_ends_everything(autojump_clock: MockClock) -> None:
    async with session() as (_, trackers):
        await trackers.http(ONE, None)
        async with trio.open_nursery() as nursery:
            other = Announcer(trackers.host(TWO), None, rng=Unshuffled(1), environ={})
            await nursery.start(other.run)
            other.add(torrent([URL1]))
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        await other.stop(trio.current_time() + 5)
        assert trackers.events() == ["started"]


async def test_a_bug_in_a_torrent_stops_nobody_else(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with session(strict=False) as (announcer, trackers):
        await trackers.http(ONE, encode_failure("no"))
        await trackers.http(TWO, AnnounceReply(interval=60))
        faulty, fine = torrent([URL1]), torrent([URL2])
        faulty.fault = RuntimeError("oops")
        announcer.add(faulty)
        announcer.add(fine)
        await trio.sleep(65)
        assert "oops" in caplog.text
        assert len(fine.answers) == 2
        faulty.fault = None
        await trio.sleep(3 * HOUR)
        assert faulty.answers


async def test_a_bug_before_the_outcome_is_a_failure_of_the_tracker(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with session(strict=False) as (announcer, trackers):
        await trackers.http(ONE)
        one = torrent([URL1])
        counters = one.announce_counters
        asked = 0

        def faulty() -> tuple[int, int, int]:
            nonlocal asked
            asked += 1
            if asked == 2:
                raise RuntimeError("oops")
            return counters()

        monkeypatch.setattr(one, "announce_counters", faulty)
        announcer.add(one)
        await trio.sleep(100)
        assert "oops" in caplog.text
        assert [round(when) for when, _, _ in trackers.said] == [60]


async def test_behind_a_proxy(autojump_clock: MockClock) -> None:
    async with session(environ={"http_proxy": "http://192.168.1.9:3128"}) as (announcer, trackers):
        await trackers.http("192.168.1.9", port=3128)
        one = torrent(["http://t.example/announce"])
        announcer.add(one)
        await trio.sleep(10)
        assert [(url, peers, ip) for _, url, peers, ip in one.peers] == [("http://t.example/announce", PEERS, None)]
        announcer.remove(one)
        await trio.sleep(10)
        assert trackers.events() == ["started", "stopped"]


async def test_behind_a_proxy_that_cannot_be_used(autojump_clock: MockClock) -> None:
    async with session(environ={"http_proxy": "socks5://192.168.1.9"}) as (announcer, trackers):
        await trackers.http(ONE)
        one = torrent([URL1])
        announcer.add(one)
        await trio.sleep(10)
        assert one.messages() == ["the proxy of the environment: the URL is not http, https or udp"]
        assert not trackers.said


# --- on the real network -------------------------------------------------------------------------------------------


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # a test looks on, nobody tells it
        await trio.sleep(0.005)


async def test_on_real_sockets() -> None:
    network = TcpNetwork()
    reply = AnnounceReply(interval=1_800, seeders=1, leechers=1, peers=PEERS)
    sock = SystemUdpSocket("127.0.0.1", 0)
    said = []

    def on_packet(packet: bytes, sender: Address) -> None:
        head = tracker_udp.decode_head(packet)
        assert head is not None
        if head.action == tracker_udp.CONNECT:
            sock.sendto(tracker_udp.encode_connect_reply(head.transaction, 7), sender)
        else:
            said.append(tracker_udp.decode_announce_request(packet)[0].event)
            sock.sendto(tracker_udp.encode_announce_reply(head.transaction, reply, ipv6=False), sender)

    web = WebServer(ok(encode_announce(reply)))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(web.serve, network, "127.0.0.1", 0)
            nursery.start_soon(serve, sock, on_packet)
            hub = UdpHub([SystemUdpSocket("127.0.0.1", 0)])
            await nursery.start(hub.run)
            announcer = Announcer(network, hub, rng=Unshuffled(1), container=Container(strict=True), environ={})
            await nursery.start(announcer.run)
            one = torrent([f"http://127.0.0.1:{port}/announce"], [f"udp://127.0.0.1:{sock.local[1]}"])
            announcer.add(one)
            await until(lambda: len(one.peers) == 2)
            await announcer.stop(trio.current_time() + limits.SHUTDOWN)
            assert said == ["started", "stopped"]
            assert ["event=stopped" in request for request in web.requests] == [False, True]
            nursery.cancel_scope.cancel()
    sock.close()
