"""What the tracker answers, without a network."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import bencode, limits
from btor.errors import TrackerError
from btor.tracker.registry import Bounds
from btor.tracker.tracker import Tracker
from btor.wire import tracker_udp as udp
from btor.wire.address import Address
from btor.wire.tracker_http import (
    AnnounceReply,
    AnnounceRequest,
    ScrapeEntry,
    announce_url,
    decode_announce,
    decode_scrape,
    scrape_url,
)

HASH = b"\x00h" * 10
TXID = 0xDEADBEEF
URL = "udp://t:1"


def made(**bounds: int) -> Tracker:
    return Tracker(random.Random(7), b"s" * 32, 0.0, interval=100, bounds=Bounds(**bounds) if bounds else None)


def request(port: int = 6881, **fields: Any) -> AnnounceRequest:
    values: dict[str, Any] = {"info_hash": HASH, "peer_id": b"%020d" % port, "left": 1} | fields
    return AnnounceRequest(port=port, uploaded=0, downloaded=0, **values)


def http_announce(tracker: Tracker, asked: AnnounceRequest, ip: str = "8.8.8.8", more: str = "") -> AnnounceReply:
    answer = tracker.answer_http((announce_url("/announce", asked) + more).encode(), ip, 0.0)
    assert answer.status == 200
    return decode_announce(answer.body, "http://t")


def connect(tracker: Tracker, sender: Address = ("8.8.8.8", 9), now: float = 0.0) -> int:
    packet = udp.encode_connect(TXID)
    reply = tracker.answer_udp(packet, sender, now)
    assert reply is not None
    assert len(reply) <= len(packet)
    return udp.decode_connect(reply, TXID, URL)


def udp_announce(tracker: Tracker, asked: AnnounceRequest, ip: str = "8.8.8.8") -> AnnounceReply:
    sender = (ip, 9)
    reply = tracker.answer_udp(udp.encode_announce(connect(tracker, sender), TXID, asked), sender, 0.0)
    assert reply is not None
    return udp.decode_announce(reply, TXID, URL, ipv6=":" in ip)


# --- HTTP ----------------------------------------------------------------------------------------------------


def test_compact_reply_of_both_families() -> None:
    tracker = made()
    http_announce(tracker, request(1), "8.8.8.8")
    http_announce(tracker, request(2, left=0), "2001:db8::1")
    answer = tracker.answer_http(announce_url("/announce", request(3)).encode(), "9.9.9.9", 0.0)
    assert bencode.decode(answer.body, depth=10, tokens=100, strict_order=True) == {
        b"interval": 100,
        b"complete": 1,
        b"incomplete": 2,
        b"downloaded": 0,
        b"external ip": b"\x09\x09\x09\x09",
        b"peers": b"\x08\x08\x08\x08\x00\x01",
        b"peers6": bytes.fromhex("20010db8000000000000000000000001") + b"\x00\x02",
    }


@pytest.mark.parametrize(("more", "named"), [("", True), ("&no_peer_id=0", True), ("&no_peer_id=1", False)])
def test_list_reply(more: str, named: bool) -> None:
    tracker = made()
    http_announce(tracker, request(1), "8.8.8.8")
    query = b"/announce?info_hash=%s&peer_id=%020d&port=3" % (HASH.replace(b"\0", b"%00"), 3)
    body = tracker.answer_http(query + more.encode(), "9.9.9.9", 0.0).body
    reply = bencode.decode(body, depth=10, tokens=100, strict_order=True)
    assert isinstance(reply, dict)
    expected: dict[bytes, Any] = {b"ip": b"8.8.8.8", b"port": 1}
    if named:
        expected[b"peer id"] = b"%020d" % 1
    assert reply[b"peers"] == [expected]
    assert b"peers6" not in reply


def test_list_reply_of_ipv6() -> None:
    tracker = made()
    http_announce(tracker, request(1), "2001:db8::1")
    query = b"/announce?info_hash=%s&peer_id=%020d&port=3" % (HASH, 3)
    assert decode_announce(tracker.answer_http(query, "9.9.9.9", 0.0).body, "").peers == [("2001:db8::1", 1)]


def test_http_scrape() -> None:
    tracker = made()
    http_announce(tracker, request(1, left=0, event="completed"))
    http_announce(tracker, request(2))
    url = scrape_url("/announce", [HASH, b"unknown".ljust(20)])
    assert url is not None
    answer = tracker.answer_http(url.encode(), "8.8.8.8", 0.0)
    assert decode_scrape(answer.body, "").files == {HASH: ScrapeEntry(1, 1, 1)}


@pytest.mark.parametrize(
    "target",
    [b"/announce", b"/announce?", b"/announce?info_hash=x", b"/scrape", b"/scrape?info_hash=x", b"/announce?%ff=%zz"],
)
def test_http_refusals_are_bencoded(target: bytes) -> None:
    tracker = made()
    answer = tracker.answer_http(target, "8.8.8.8", 0.0)
    assert answer.status == 200
    with pytest.raises(TrackerError) as caught:
        decode_announce(answer.body, "")
    assert caught.value.refused
    assert tracker.counts["refused"] == 1


def test_http_refusal_of_a_full_tracker_says_when_to_come_back() -> None:
    tracker = made(peers=1)
    http_announce(tracker, request(1))
    with pytest.raises(TrackerError, match="as many peers") as caught:
        http_announce(tracker, request(2))
    assert caught.value.retry_after == 120.0  # whole minutes


@pytest.mark.parametrize("target", [b"/", b"/announce/", b"/Announce", b"/stats/x", b"*", b"", b"/../announce"])
def test_other_paths(target: bytes) -> None:
    tracker = made()
    assert tracker.answer_http(target, "8.8.8.8", 0.0).status == 404
    assert tracker.counts["not_found"] == 1


def test_statistics() -> None:
    tracker = made()
    http_announce(tracker, request(1, left=0))
    udp_announce(tracker, request(2))
    tracker.answer_udp(b"?", ("8.8.8.8", 1), 0.0)
    tracker.answer_http(b"/announce", "8.8.8.8", 0.0)
    answer = tracker.answer_http(b"/stats?format=json", "8.8.8.8", 61.9)
    assert answer.content_type == "application/json"
    assert json.loads(answer.body) == {
        "uptime": 61,
        "torrents": 1,
        "peers": 2,
        "seeders": 1,
        "leechers": 1,
        "http_announces": 1,
        "http_scrapes": 0,
        "not_found": 0,
        "udp_connects": 1,
        "udp_announces": 1,
        "udp_scrapes": 0,
        "udp_dropped": 1,
        "refused": 1,
    }
    text = tracker.answer_http(b"/stats", "8.8.8.8", 61.9)
    assert text.content_type.startswith("text/plain")
    assert b"\npeers           2\n" in text.body
    assert tracker.statistics(1_000.0)["peers"] == 0


# --- UDP -----------------------------------------------------------------------------------------------------


def test_udp_announce_tells_of_its_own_family() -> None:
    tracker = made()
    udp_announce(tracker, request(1), "8.8.8.8")
    udp_announce(tracker, request(2, left=0), "2001:db8::1")
    assert udp_announce(tracker, request(3), "9.9.9.9") == AnnounceReply(
        interval=100, seeders=1, leechers=2, peers=[("8.8.8.8", 1)]
    )
    assert udp_announce(tracker, request(4), "2001:db8::2").peers == [("2001:db8::1", 2)]


def test_one_registry_for_both() -> None:
    tracker = made()
    http_announce(tracker, request(1))
    assert udp_announce(tracker, request(2)).peers == [("8.8.8.8", 1)]
    assert http_announce(tracker, request(1)).peers == [("8.8.8.8", 2)]
    udp_announce(tracker, request(2, event="stopped"))
    assert http_announce(tracker, request(1)).peers == []


@pytest.mark.parametrize(("ip", "expected"), [("9.9.9.9", 200), ("2001:db8::ffff", 67)])
def test_udp_answer_fits_one_packet(ip: str, expected: int) -> None:
    tracker = made()
    for port in range(1, 250):
        http_announce(tracker, request(port), "2001:db8::1" if ":" in ip else "8.8.8.8")
    packet = udp.encode_announce(connect(tracker, (ip, 1)), TXID, request(500, numwant=1_000))
    reply = tracker.answer_udp(packet, (ip, 1), 0.0)
    assert reply is not None
    assert len(reply) <= limits.UDP_TRACKER_ANSWER
    assert len(udp.decode_announce(reply, TXID, URL, ipv6=":" in ip).peers) == expected


def test_udp_scrape() -> None:
    tracker = made()
    udp_announce(tracker, request(1, left=0, event="completed"))
    hashes = [b"unknown".ljust(20), HASH]
    packet = udp.encode_scrape(connect(tracker), TXID, hashes)
    reply = tracker.answer_udp(packet, ("8.8.8.8", 77), 0.0)
    assert reply is not None
    assert udp.decode_scrape(reply, TXID, URL, hashes) == {
        hashes[0]: ScrapeEntry(0, 0, 0),
        HASH: ScrapeEntry(1, 0, 1),
    }


@pytest.mark.parametrize("age", [120.0, 121.0])
def test_udp_connection_id_lives_two_minutes(age: float) -> None:
    tracker = made()
    connection_id = connect(tracker, now=50.0)
    packet = udp.encode_announce(connection_id, TXID, request())
    reply = tracker.answer_udp(packet, ("8.8.8.8", 1), 50.0 + age)
    assert reply is not None
    assert reply[3] == (udp.ANNOUNCE if age <= 120 else udp.ERROR)


def test_udp_refusals_of_the_proven() -> None:
    tracker = made(peers=1)
    udp_announce(tracker, request(1))
    with pytest.raises(TrackerError, match="as many peers"):
        udp_announce(tracker, request(2))
    malformed = udp.encode_announce(connect(tracker), TXID, request())[:97]
    reply = tracker.answer_udp(malformed, ("8.8.8.8", 1), 0.0)
    assert reply == udp.encode_error(TXID, "announce cut short")
    assert tracker.counts["refused"] == 2


@given(st.binary(max_size=150) | st.builds(lambda *a: struct.pack(">QII", *a), *[st.integers(0, 2**32 - 1)] * 3))
def test_P12_no_reflection(packet: bytes) -> None:
    """Whoever did not prove its address never gets more bytes than it sent."""
    tracker = made()
    for action in (udp.CONNECT, udp.ANNOUNCE, udp.SCRAPE):
        for data in (packet, packet[:8].ljust(8) + struct.pack(">II", action, TXID) + packet[16:]):
            reply = tracker.answer_udp(data, ("8.8.8.8", 1), 0.0)
            assert reply is None or len(reply) <= len(data)
    assert tracker.registry.totals()["peers"] == 0


@given(st.binary(max_size=60))
def test_nothing_that_is_sent_raises(tail: bytes) -> None:
    tracker = made()
    connection_id = connect(tracker)
    for action in (udp.ANNOUNCE, udp.SCRAPE, udp.ERROR, 77):
        for body in (b"", bytes(82)):
            packet = struct.pack(">QII", connection_id, action, TXID) + body + tail
            tracker.answer_udp(packet, ("8.8.8.8", 1), 0.0)
    for path in (b"", b"/announce?", b"/scrape?info_hash=", b"/stats?"):
        assert tracker.answer_http(path + tail, "8.8.8.8", 0.0).status in (200, 404)
