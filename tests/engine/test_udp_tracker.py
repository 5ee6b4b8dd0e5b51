"""UDP trackers (BEP 15, 41) in virtual time: repetition, connection ids, and what an answer must be (N6)."""

from __future__ import annotations

import random
import struct
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from btor import limits
from btor.engine import udp_tracker
from btor.engine.udp import UdpHub, serve
from btor.engine.udp_tracker import UdpTrackers
from btor.errors import TrackerError
from btor.wire import tracker_udp
from btor.wire.address import Address
from btor.wire.tracker_http import AnnounceReply, AnnounceRequest, ScrapeEntry
from btor.wire.url import Url
from tests.engine.web import simulated
from tests.simulated.datagrams import SimulatedUdpSocket
from tests.simulated.network import World

US, THEM = "1.1.1.1", "8.8.8.8"
THERE = (THEM, 6969)
URL = Url.parse("udp://tracker.example:6969/announce?x=1")
REQUEST = AnnounceRequest(
    info_hash=bytes(range(20)), peer_id=b"p" * 20, port=6881, uploaded=1, downloaded=2, left=3, event="started", key=4
)
PEERS: list[Address] = [("5.6.7.8", 9), ("5.6.7.9", 10)]


class Tracker:
    """Answers as ``answer`` says, which gets the packet and gives what to send back; keeps what came and when."""

    def __init__(self, sock: SimulatedUdpSocket) -> None:
        self.sock = sock
        self.packets: list[tuple[float, bytes]] = []
        self.ids = iter(range(100, 10_000))
        self.valid: set[int] = set()
        self.mute = 0  # so many packets are not answered
        self.delay = 0.0

    def actions(self) -> list[int]:
        return [struct.unpack_from(">I", packet, 8)[0] for _, packet in self.packets]

    def times(self) -> list[float]:
        return [round(when, 1) for when, _ in self.packets]

    def on_packet(self, packet: bytes, sender: Address) -> None:
        self.packets.append((trio.current_time(), packet))
        if self.mute:
            self.mute -= 1
        else:
            self.reply(packet, sender)

    def reply(self, packet: bytes, sender: Address) -> None:
        head = tracker_udp.decode_head(packet)
        assert head is not None
        if head.action == tracker_udp.CONNECT:
            connection_id = next(self.ids)
            self.valid.add(connection_id)
            self.sock.sendto(tracker_udp.encode_connect_reply(head.transaction, connection_id), sender)
        elif head.connection_id not in self.valid:
            self.sock.sendto(tracker_udp.encode_error(head.transaction, "unknown connection id"), sender)
        elif head.action == tracker_udp.SCRAPE:
            self.sock.sendto(tracker_udp.encode_scrape_reply(head.transaction, [ScrapeEntry(5, 6, 7)]), sender)
        else:
            reply = AnnounceReply(interval=1_800, leechers=2, seeders=3, peers=PEERS)
            packet = tracker_udp.encode_announce_reply(head.transaction, reply, ipv6=":" in sender[0])
            self.sock.sendto(packet, sender)


Test = Callable[[UdpTrackers, Tracker, World], Awaitable[None]]


async def run(test: Test, **settings: float) -> None:
    async with simulated(**settings) as (world, nursery):
        tracker = Tracker(world.host(THEM).open_udp(*THERE))
        nursery.start_soon(serve, tracker.sock, tracker.on_packet)
        hub = UdpHub([world.host(US).open_udp(US, 6881)])
        await nursery.start(hub.run)
        with trio.fail_after(10_000):
            await test(UdpTrackers(hub, random.Random(1)), tracker, world)


async def test_announce_and_scrape(autojump_clock: MockClock) -> None:
    async def test(trackers: UdpTrackers, tracker: Tracker, world: World) -> None:
        reply = await trackers.announce(THERE, REQUEST, URL)
        assert reply == AnnounceReply(interval=1_800, leechers=2, seeders=3, peers=PEERS)
        assert await trackers.scrape(THERE, REQUEST.info_hash, URL) == ScrapeEntry(5, 6, 7)
        assert tracker.actions() == [tracker_udp.CONNECT, tracker_udp.ANNOUNCE, tracker_udp.SCRAPE]
        request, url_data = tracker_udp.decode_announce_request(tracker.packets[1][1])
        assert request == REQUEST
        assert url_data == b"/announce?x=1"

    await run(test)


async def test_a_url_without_a_path_sends_no_options(autojump_clock: MockClock) -> None:
    async def test(trackers: UdpTrackers, tracker: Tracker, world: World) -> None:
        await trackers.announce(THERE, REQUEST, Url.parse("udp://tracker.example:6969"))
        assert len(tracker.packets[1][1]) == 98

    await run(test)


async def test_N6_a_silent_tracker_is_asked_four_times(autojump_clock: MockClock) -> None:
    async def test(trackers: UdpTrackers, tracker: Tracker, world: World) -> None:
        tracker.mute = 99
        with pytest.raises(TrackerError, match="no answer") as caught:
            await trackers.announce(THERE, REQUEST, URL)
        assert not caught.value.refused
        rests = [limits.UDP_TRACKER_RESEND * 2**sent for sent in range(limits.UDP_TRACKER_SENDS)]
        assert tracker.times() == [sum(rests[:sent]) for sent in range(4)] == [0, 15, 45, 105]
        assert trio.current_time() == pytest.approx(sum(rests), abs=0.1)
        transactions = {packet[12:16] for _, packet in tracker.packets}
        assert len(transactions) == 4

    await run(test)


async def test_one_try_for_stopped(autojump_clock: MockClock) -> None:
    async def test(trackers: UdpTrackers, tracker: Tracker, world: World) -> None:
        tracker.mute = 99
        with pytest.raises(TrackerError, match="no answer"):
            await trackers.announce(THERE, REQUEST, URL, sends=1)
        assert tracker.times() == [0]

    await run(test)


async def test_the_announce_is_repeated_too(autojump_clock: MockClock) -> None:
    async def test(trackers: UdpTrackers, tracker: Tracker, world: World) -> None:
        await trackers.scrape(THERE, REQUEST.info_hash, URL)
        tracker.packets.clear()
        tracker.mute = 2
        await trackers.announce(THERE, REQUEST, URL)
        assert tracker.times() == [0.1, 15.1, 45.1]
        assert tracker.actions() == [tracker_udp.ANNOUNCE] * 3

    await run(test)


async def test_an_answer_to_any_transmission_counts(autojump_clock: MockClock) -> None:
    async def test(trackers: UdpTrackers, tracker: Tracker, world: World) -> None:
        tracker.mute = 3
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trackers.announce, THERE, REQUEST, URL)
            await trio.sleep(20)
            tracker.reply(tracker.packets[0][1], (US, 6881))  # the first connect request, 20 s late
            await trio.sleep(1)
            assert tracker.actions() == [tracker_udp.CONNECT, tracker_udp.CONNECT, tracker_udp.ANNOUNCE]
            tracker.reply(tracker.packets[1][1], (US, 6881))  # and the second: too late for anything
            await trio.sleep(1)
            tracker.reply(tracker.packets[2][1], (US, 6881))
        assert len(tracker.packets) == 3
        assert trio.current_time() < 30

    await run(test)


@pytest.mark.parametrize(("after", "connects"), [(59.9, 1), (60.1, 2)])
async def test_N6_a_connection_id_lives_for_a_minute(after: float, connects: int, autojump_clock: MockClock) -> None:
    async def test(trackers: UdpTrackers, tracker: Tracker, world: World) -> None:
        await trackers.announce(THERE, REQUEST, URL)
        await trio.sleep(after - trio.current_time() + 0.04)
        await trackers.announce(THERE, REQUEST, URL)
        assert tracker.actions().count(tracker_udp.CONNECT) == connects

    await run(test)


async def test_an_id_that_runs_out_while_we_repeat_is_renewed(autojump_clock: MockClock) -> None:
    async def test(trackers: UdpTrackers, tracker: Tracker, world: World) -> None:
        await trackers.scrape(THERE, REQUEST.info_hash, URL)
        tracker.packets.clear()
        tracker.mute = 3
        await trackers.announce(THERE, REQUEST, URL)
        announce, connect = tracker_udp.ANNOUNCE, tracker_udp.CONNECT
        assert tracker.actions() == [announce, announce, announce, connect, announce]

    await run(test)


async def test_an_id_that_the_tracker_forgot_is_renewed_once(autojump_clock: MockClock) -> None:
    async def test(trackers: UdpTrackers, tracker: Tracker, world: World) -> None:
        await trackers.announce(THERE, REQUEST, URL)
        tracker.valid.clear()
        before = trio.current_time()
        assert (await trackers.announce(THERE, REQUEST, URL)).peers == PEERS
        assert trio.current_time() - before < 1
        announce, connect = tracker_udp.ANNOUNCE, tracker_udp.CONNECT
        assert tracker.actions() == [connect, announce, announce, connect, announce]

    await run(test)


async def test_a_refusal_is_told(autojump_clock: MockClock) -> None:
    async def test(trackers: UdpTrackers, tracker: Tracker, world: World) -> None:
        tracker.ids = iter([7])
        tracker.valid = set()

        def refuse(packet: bytes, sender: Address) -> None:
            head = tracker_udp.decode_head(packet)
            assert head is not None
            if head.action == tracker_udp.CONNECT:
                tracker.sock.sendto(tracker_udp.encode_connect_reply(head.transaction, 7), sender)
            else:
                tracker.sock.sendto(tracker_udp.encode_error(head.transaction, "not here"), sender)

        tracker.reply = refuse  # type: ignore[method-assign]  # this tracker takes nobody
        for _ in range(2):  # with a new id and with a kept one
            with pytest.raises(TrackerError, match="not here") as caught:
                await trackers.announce(THERE, REQUEST, URL)
            assert caught.value.refused

    await run(test)


async def test_a_refused_connect_is_told(autojump_clock: MockClock) -> None:
    async def test(trackers: UdpTrackers, tracker: Tracker, world: World) -> None:
        def refuse(packet: bytes, sender: Address) -> None:
            tracker.sock.sendto(tracker_udp.encode_error(int.from_bytes(packet[12:16]), "closed"), sender)

        tracker.reply = refuse  # type: ignore[method-assign]  # this tracker takes nobody
        with pytest.raises(TrackerError, match="closed"):
            await trackers.announce(THERE, REQUEST, URL)

    await run(test)


async def test_two_torrents_at_once_share_nothing_but_the_id(autojump_clock: MockClock) -> None:
    async def test(trackers: UdpTrackers, tracker: Tracker, world: World) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(trackers.announce, THERE, REQUEST, URL)
        assert trio.current_time() < 1
        assert tracker.actions() == [tracker_udp.CONNECT] * 5 + [tracker_udp.ANNOUNCE] * 5

    await run(test)


async def test_no_way_there(autojump_clock: MockClock) -> None:
    async def test(trackers: UdpTrackers, tracker: Tracker, world: World) -> None:
        with pytest.raises(TrackerError, match="cannot be reached"):
            await trackers.announce(("2600::8", 1), REQUEST, URL)

    await run(test)


async def test_ipv6(autojump_clock: MockClock) -> None:
    peers: list[Address] = [("2600::9", 80)]
    async with simulated() as (world, nursery):
        tracker = Tracker(world.host("2600::8").open_udp("2600::8", 1))
        nursery.start_soon(serve, tracker.sock, tracker.on_packet)
        hub = UdpHub([world.host("2600::1").open_udp("2600::1", 6881)])
        await nursery.start(hub.run)
        PEERS.extend(peers)
        try:
            reply = await UdpTrackers(hub, random.Random(1)).announce(("2600::8", 1), REQUEST, URL)
        finally:
            PEERS.remove(*peers)
        assert reply.peers == peers


@pytest.mark.parametrize("seed", range(6))
async def test_loss_repetition_and_disorder(seed: int, autojump_clock: MockClock) -> None:
    async def test(trackers: UdpTrackers, tracker: Tracker, world: World) -> None:
        answered = 0
        for _ in range(20):
            try:
                assert (await trackers.announce(THERE, REQUEST, URL)).peers == PEERS
                answered += 1
            except TrackerError as error:
                assert error.reason == "no answer"
        assert answered >= 15

    await run(test, seed=seed, datagram_loss=0.2, datagram_repeats=0.3, datagram_jitter=2.0)


async def test_connection_ids_are_bounded(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    monkeypatch.setattr(udp_tracker, "CONNECTION_IDS", 3)
    trackers = UdpTrackers(UdpHub([]), random.Random(1))
    for port in (1, 2, 3):
        trackers.remember((THEM, port), port)
    assert [trackers.connection_id((THEM, port)) for port in (1, 2, 3)] == [1, 2, 3]
    trackers.remember((THEM, 4), 4)
    assert [trackers.connection_id((THEM, port)) for port in (1, 4)] == [None, 4]
    await trio.sleep(limits.UDP_CONNECTION_LIFE - 1)
    trackers.remember((THEM, 5), 5)
    trackers.remember((THEM, 6), 6)
    await trio.sleep(2)
    trackers.remember((THEM, 7), 7)
    assert [trackers.connection_id((THEM, port)) for port in (4, 5, 6, 7)] == [None, 5, 6, 7]
    trackers.forget((THEM, 7))
    trackers.forget((THEM, 7))
    assert trackers.connection_id((THEM, 7)) is None
