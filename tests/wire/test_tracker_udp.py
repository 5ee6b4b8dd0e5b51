"""UDP tracker packets, both directions, against the tables of BEP 15 and 41."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import limits
from btor.errors import PeerError, TrackerError
from btor.wire import tracker_udp as udp
from btor.wire.address import Address
from btor.wire.tracker_http import AnnounceReply, AnnounceRequest, ScrapeEntry

VECTORS = {
    vector["what"]: (bytes.fromhex(vector["bytes_hex"]), vector["fields"])
    for vector in json.loads((Path(__file__).parents[1] / "data" / "bep15_udp_tracker.json").read_text())
}
URL = "udp://tracker.example:6969/announce"
ID = 0x1122334455667788
TXID = 0xDEADBEEF
HASHES = [bytes(range(20)), bytes(reversed(range(20)))]
REQUEST = AnnounceRequest(
    info_hash=bytes(range(20)), peer_id=b"-BO0100-abcdefghijkl", port=6881, uploaded=3, downloaded=1, left=2, key=5
)
u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)
i31 = st.integers(0, 2**31 - 1)
requests = st.builds(
    AnnounceRequest,
    info_hash=st.binary(min_size=20, max_size=20),
    peer_id=st.binary(min_size=20, max_size=20),
    port=st.integers(1, 65_535),
    uploaded=u64,
    downloaded=u64,
    left=u64,
    event=st.sampled_from(["", "started", "completed", "stopped"]),
    key=u32,
    numwant=st.integers(-(2**31), 2**31 - 1),
)
ports = st.integers(1, 65_535)


peers4 = st.lists(st.tuples(st.ip_addresses(v=4).map(str), ports), max_size=60)
peers6 = st.lists(st.tuples(st.ip_addresses(v=6, network="2001:db8::/32").map(str), ports), max_size=60)


def vector(what: str) -> tuple[bytes, dict[str, Any]]:
    return VECTORS[what]


# --- the vectors ---------------------------------------------------------------------------------------------


def test_vector_connect() -> None:
    packet, fields = vector("connect request")
    assert udp.encode_connect(fields["transaction_id"]) == packet
    assert udp.decode_head(packet) == (udp.PROTOCOL_ID, udp.CONNECT, TXID)
    packet, fields = vector("connect response")
    assert udp.encode_connect_reply(TXID, int(fields["connection_id"], 16)) == packet
    assert udp.decode_connect(packet, TXID, URL) == ID


def test_a_partial_seed_has_no_event_here() -> None:
    """BEP 21 is of HTTP: over UDP it is an announce like others."""
    paused = udp.encode_announce(ID, TXID, replace(REQUEST, event="paused"))
    assert paused == udp.encode_announce(ID, TXID, replace(REQUEST, event=""))


def test_vector_announce_request() -> None:
    packet, fields = vector("announce request (IPv4 or IPv6)")
    request = AnnounceRequest(
        info_hash=bytes.fromhex(fields["info_hash"]),
        peer_id=fields["peer_id"].encode(),
        port=fields["port"],
        uploaded=fields["uploaded"],
        downloaded=fields["downloaded"],
        left=fields["left"],
        event="started",
        key=fields["key"],
        numwant=fields["num_want"],
    )
    assert udp.encode_announce(ID, TXID, request) == packet
    assert udp.decode_head(packet) == (ID, udp.ANNOUNCE, TXID)
    assert udp.decode_announce_request(packet) == (request, b"")


@pytest.mark.parametrize(
    ("what", "ipv6"), [("announce response, IPv4", False), ("announce response, IPv6 (stride 18)", True)]
)
def test_vector_announce_reply(what: str, ipv6: bool) -> None:
    packet, fields = vector(what)
    peers = [(ip, port) for ip, port in fields["peers"]]
    reply = AnnounceReply(
        interval=fields["interval"], leechers=fields["leechers"], seeders=fields["seeders"], peers=peers
    )
    assert udp.decode_announce(packet, TXID, URL, ipv6=ipv6) == reply
    foreign = ("127.0.0.1", 1) if ipv6 else ("::1", 1)
    assert udp.encode_announce_reply(TXID, replace(reply, peers=[*peers, foreign]), ipv6=ipv6) == packet


def test_vector_scrape() -> None:
    packet, fields = vector("scrape request, 2 hashes")
    hashes = [bytes.fromhex(info_hash) for info_hash in fields["info_hashes"]]
    assert udp.encode_scrape(ID, TXID, hashes) == packet
    assert udp.decode_scrape_request(packet) == hashes
    packet, fields = vector("scrape response, 2 entries")
    entries = [ScrapeEntry(entry["seeders"], entry["leechers"], entry["completed"]) for entry in fields["entries"]]
    assert udp.encode_scrape_reply(TXID, entries) == packet
    assert udp.decode_scrape(packet, TXID, URL, hashes) == dict(zip(hashes, entries, strict=True))


def test_vector_error() -> None:
    packet, fields = vector("error response")
    assert udp.encode_error(TXID, fields["message"]) == packet
    with pytest.raises(TrackerError, match=fields["message"]) as caught:
        udp.decode_connect(packet, TXID, URL)
    assert caught.value.refused
    assert caught.value.url == URL


# --- as client -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("", b""),
        ("/dir?a=b&c=d", b"\x02\x0c/dir?a=b&c=d"),
        ("/announce", b"\x02\x09/announce"),
        ("?x", b"\x02\x02?x"),
        ("/" + "a" * 254, b"\x02\xff/" + b"a" * 254),
        ("/" + "a" * 255, b"\x02\xff/" + b"a" * 254 + b"\x02\x01a"),
    ],
)
def test_url_data(target: str, options: bytes) -> None:
    packet = udp.encode_announce(ID, TXID, REQUEST, f"udp://t:1{target}")
    assert packet[98:] == options
    assert udp.decode_announce_request(packet) == (REQUEST, target.encode())


@given(requests, st.text(alphabet="/&=abc", max_size=600))
def test_announce_round_trip(request: AnnounceRequest, path: str) -> None:
    packet = udp.encode_announce(ID, TXID, request, f"udp://t:1/{path}")
    assert udp.decode_announce_request(packet) == (request, f"/{path}".encode())


def test_paused_is_an_event_of_http_alone() -> None:
    request = AnnounceRequest(info_hash=bytes(20), peer_id=bytes(20), port=1, uploaded=1, downloaded=2, left=3)
    assert udp.encode_announce(ID, TXID, replace(request, event="paused")) == udp.encode_announce(ID, TXID, request)


def test_counters_beyond_64_bits_are_cut() -> None:
    huge = AnnounceRequest(info_hash=bytes(20), peer_id=bytes(20), port=1, uploaded=2**64, downloaded=2**64, left=2**64)
    request, _ = udp.decode_announce_request(udp.encode_announce(ID, TXID, huge))
    assert (request.uploaded, request.downloaded, request.left) == (2**64 - 1,) * 3


@given(i31, i31, i31, peers4, peers6, st.booleans(), st.binary(max_size=5))
def test_announce_reply_round_trip(
    interval: int, leechers: int, seeders: int, four: list[Address], six: list[Address], ipv6: bool, tail: bytes
) -> None:
    reply = AnnounceReply(interval=interval, leechers=leechers, seeders=seeders, peers=four + six)
    packet = udp.encode_announce_reply(TXID, reply, ipv6=ipv6)
    decoded = udp.decode_announce(packet + tail, TXID, URL, ipv6=ipv6)
    assert decoded == replace(reply, peers=six if ipv6 else four)


def test_counts_below_zero_are_unknown() -> None:
    packet = struct.pack(">IIiii", udp.ANNOUNCE, TXID, -1, -1, -(2**31))
    reply = udp.decode_announce(packet, TXID, URL, ipv6=False)
    assert (reply.interval, reply.leechers, reply.seeders) == (-1, None, None)
    packet = struct.pack(">IIiii", udp.SCRAPE, TXID, -1, -1, -1)
    assert udp.decode_scrape(packet, TXID, URL, HASHES) == {HASHES[0]: ScrapeEntry(None, None, None)}


@pytest.mark.parametrize("extra", [0, 1])
def test_peers_parsed_are_bounded(extra: int) -> None:
    peers = [("10.0.0.1", 1 + index) for index in range(limits.TRACKER_PEERS_PARSED + extra)]
    packet = udp.encode_announce_reply(TXID, AnnounceReply(peers=peers), ipv6=False)
    assert udp.decode_announce(packet, TXID, URL, ipv6=False).peers == peers[: limits.TRACKER_PEERS_PARSED]


@pytest.mark.parametrize("what", ["connect response", "announce response, IPv4", "scrape response, 2 entries"])
def test_replies_cut_short(what: str) -> None:
    packet, _ = vector(what)
    least = {"connect response": 16, "announce response, IPv4": 20, "scrape response, 2 entries": 8}[what]
    for length in range(len(packet)):
        try:
            _decode(packet[:length])
        except TrackerError:
            assert length < least
        else:
            assert length >= least


def _decode(packet: bytes) -> object:
    action = packet[3] if len(packet) > 3 else udp.CONNECT
    if action == udp.ANNOUNCE:
        return udp.decode_announce(packet, TXID, URL, ipv6=False)
    if action == udp.SCRAPE:
        return udp.decode_scrape(packet, TXID, URL, HASHES)
    return udp.decode_connect(packet, TXID, URL)


def test_scrape_reply_shorter_and_longer_than_the_question() -> None:
    entries = [ScrapeEntry(1, 2, 3), ScrapeEntry(4, 5, 6)]
    packet = udp.encode_scrape_reply(TXID, entries)
    assert udp.decode_scrape(packet, TXID, URL, HASHES[:1]) == {HASHES[0]: entries[0]}
    assert udp.decode_scrape(packet[:-1], TXID, URL, HASHES) == {HASHES[0]: entries[0]}
    assert udp.decode_scrape(packet + b"x" * 12, TXID, URL, HASHES) == dict(zip(HASHES, entries, strict=True))


@pytest.mark.parametrize("count", [74, 75])
def test_scrape_hashes_are_bounded(count: int) -> None:
    hashes = [index.to_bytes(20) for index in range(count)]
    packet = udp.encode_scrape(ID, TXID, hashes)
    assert len(packet) == 16 + 74 * 20
    long_packet = packet[:16] + b"".join(hashes)
    assert udp.decode_scrape_request(long_packet) == hashes[:74]


@pytest.mark.parametrize(
    ("packet", "complaint"),
    [
        (b"", "0 bytes"),
        (b"\0" * 7, "7 bytes"),
        (struct.pack(">II", udp.CONNECT, 1) + bytes(8), "another request"),
        (struct.pack(">II", udp.ANNOUNCE, TXID) + bytes(12), "kind 1"),
        (struct.pack(">II", 4, TXID) + bytes(12), "kind 4"),
        (struct.pack(">II", udp.ERROR, TXID), "without a reason"),
        (struct.pack(">II", udp.ERROR, TXID) + b"\0\0", "without a reason"),
        (struct.pack(">II", udp.ERROR, TXID) + b"go away\0", "go away$"),
    ],
)
def test_replies_that_are_none(packet: bytes, complaint: str) -> None:
    with pytest.raises(TrackerError, match=complaint):
        udp.decode_connect(packet, TXID, URL)


def test_error_text_is_fit_for_display() -> None:
    packet = struct.pack(">II", udp.ERROR, TXID) + "\x1b[31mbad\u202e\n".encode() + b"\xff" * 20_000
    with pytest.raises(TrackerError) as caught:
        udp.decode_connect(packet, TXID, URL)
    assert caught.value.reason.isprintable()
    assert len(caught.value.reason) <= limits.DISPLAY_CHARACTERS


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (b"", None),
        (struct.pack(">II", 0, 7)[:7], None),
        (struct.pack(">II", 0, 7), 7),
        (struct.pack(">II", 3, 7) + b"text", 7),
        (struct.pack(">II", 4, 7), None),
        (b"d1:ad2:id20:", None),
        (struct.pack(">II", 1, 7).ljust(limits.UDP_TRACKER_PACKET), 7),
        (struct.pack(">II", 1, 7).ljust(limits.UDP_TRACKER_PACKET + 1), None),
    ],
)
def test_N6_transaction_of_reply(packet: bytes, expected: int | None) -> None:
    assert udp.transaction_of_reply(packet) == expected


@given(st.binary(max_size=120), st.booleans())
def test_client_raises_tracker_errors_only(tail: bytes, ipv6: bool) -> None:
    for action in range(5):
        packet = struct.pack(">II", action, TXID) + tail
        for decode in (
            lambda packet: udp.decode_connect(packet, TXID, URL),
            lambda packet: udp.decode_announce(packet, TXID, URL, ipv6=ipv6),
            lambda packet: udp.decode_scrape(packet, TXID, URL, HASHES),
        ):
            try:
                decode(packet)
            except TrackerError:
                pass


# --- as tracker ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (b"", None),
        (udp.encode_connect(7)[:15], None),
        (udp.encode_connect(7), (udp.PROTOCOL_ID, udp.CONNECT, 7)),
        (udp.encode_connect(7) + b"more", (udp.PROTOCOL_ID, udp.CONNECT, 7)),
        (struct.pack(">QII", udp.PROTOCOL_ID + 1, udp.CONNECT, 7), None),
        (struct.pack(">QII", 9, udp.ANNOUNCE, 7), (9, udp.ANNOUNCE, 7)),
        (struct.pack(">QII", 9, udp.SCRAPE, 7), (9, udp.SCRAPE, 7)),
        (struct.pack(">QII", 9, udp.ERROR, 7), None),
        (struct.pack(">QII", 9, 2**32 - 1, 7), None),
    ],
)
def test_decode_head(packet: bytes, expected: tuple[int, int, int] | None) -> None:
    assert udp.decode_head(packet) == expected


def announce_with(**fields: int) -> bytes:
    packet = bytearray(udp.encode_announce(ID, TXID, REQUEST))
    for name, value in fields.items():
        at, size = {"event": (80, 4), "port": (96, 2), "ip": (84, 4)}[name]
        packet[at : at + size] = value.to_bytes(size)
    return bytes(packet)


@pytest.mark.parametrize(
    ("packet", "complaint"),
    [
        (announce_with()[:97], "cut short"),
        (announce_with(event=4), "event"),
        (announce_with(event=2**32 - 1), "event"),
        (announce_with(port=0), "port"),
        (announce_with() + b"\x02", "option"),
        (announce_with() + b"\x02\x01", "option"),
        (announce_with() + b"\x07\x05abcd", "option"),
    ],
)
def test_announces_that_are_refused(packet: bytes, complaint: str) -> None:
    with pytest.raises(PeerError, match=complaint):
        udp.decode_announce_request(packet)


@pytest.mark.parametrize(
    ("options", "data"),
    [
        (b"\x00", b""),
        (b"\x00\x02", b""),
        (b"\x01\x01\x01", b""),
        (b"\x02\x00", b""),
        (b"\x02\x03/a?\x01\x02\x02bc", b"/a?bc"),
        (b"\x07\x03xyz\x02\x01/\x00\xff\xff", b"/"),
    ],
)
def test_options(options: bytes, data: bytes) -> None:
    assert udp.decode_announce_request(announce_with() + options) == (REQUEST, data)


def test_a_claimed_address_is_ignored() -> None:
    assert udp.decode_announce_request(announce_with(ip=0x08080808)) == (REQUEST, b"")


@pytest.mark.parametrize("tail", [0, 1, 19])
def test_scrape_without_a_hash(tail: int) -> None:
    packet = struct.pack(">QII", ID, udp.SCRAPE, TXID) + bytes(tail)
    with pytest.raises(PeerError, match="info-hash"):
        udp.decode_scrape_request(packet)
    assert udp.decode_scrape_request(packet[:16] + bytes(20 + tail)) == [bytes(20)]


def test_unknown_figures_are_sent_as_zero() -> None:
    packet = udp.encode_announce_reply(TXID, AnnounceReply(interval=9), ipv6=False)
    assert packet == struct.pack(">IIIII", udp.ANNOUNCE, TXID, 9, 0, 0)
    packet = udp.encode_scrape_reply(TXID, [ScrapeEntry(None, None, None)])
    assert packet == struct.pack(">IIIII", udp.SCRAPE, TXID, 0, 0, 0)


def test_error_message_is_bounded() -> None:
    assert len(udp.encode_error(TXID, "x" * limits.TRACKER_MESSAGE)) == 8 + limits.TRACKER_MESSAGE
    assert len(udp.encode_error(TXID, "é" * limits.TRACKER_MESSAGE)) == 8 + limits.TRACKER_MESSAGE


@given(st.binary(max_size=40), st.integers(0, 4))
def test_tracker_raises_peer_errors_only(tail: bytes, action: int) -> None:
    for packet in (struct.pack(">QII", ID, action, TXID) + tail, announce_with() + tail):
        udp.decode_head(packet)
        for decode in (udp.decode_announce_request, udp.decode_scrape_request):
            try:
                decode(packet)
            except PeerError:
                pass
