"""Announce and scrape over HTTP, both directions: BEP 3, 7, 23, 24, 31, 48."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import bencode, limits
from btor.errors import BtorError, TrackerError
from btor.wire.address import Address
from btor.wire.tracker_http import (
    AnnounceEvent,
    AnnounceReply,
    AnnounceRequest,
    ScrapeEntry,
    ScrapeReply,
    announce_url,
    decode_announce,
    decode_scrape,
    encode_announce,
    encode_failure,
    encode_scrape,
    scrape_url,
)

URL = "http://tracker.example/announce"
HASH = bytes(range(20))
PEER_ID = b"-BO0100-\x00\xff abcdefghi"
VECTORS = json.loads((Path(__file__).parents[1] / "data" / "bep7_bep23_compact.json").read_text(encoding="utf-8"))


def request(
    *, event: AnnounceEvent = "", key: int = 0xBEEF, numwant: int = 200, tracker_id: bytes | None = None
) -> AnnounceRequest:
    return AnnounceRequest(
        info_hash=HASH,
        peer_id=PEER_ID,
        port=6881,
        uploaded=1,
        downloaded=2,
        left=3,
        event=event,
        key=key,
        numwant=numwant,
        tracker_id=tracker_id,
    )


def query(url: str) -> dict[str, str]:
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True, strict_parsing=True, encoding="latin-1")
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def reply(**keys: bencode.Value) -> bytes:
    return bencode.encode({key.replace("_", " ").encode(): value for key, value in keys.items()})


# --- requests ------------------------------------------------------------------------------------------------------


def test_announce_says_everything() -> None:
    url = announce_url(URL, request(event="started", tracker_id=b"\x01&="))
    assert url.startswith(URL + "?info_hash=%00%01%02")
    assert query(url) == {
        "info_hash": HASH.decode("latin-1"),
        "peer_id": PEER_ID.decode("latin-1"),
        "port": "6881",
        "uploaded": "1",
        "downloaded": "2",
        "left": "3",
        "compact": "1",
        "no_peer_id": "1",
        "key": "0000beef",
        "numwant": "200",
        "event": "started",
        "trackerid": "\x01&=",
    }


def test_announce_leaves_out_what_is_not_said() -> None:
    assert query(announce_url(URL, request(numwant=-1))).keys().isdisjoint({"event", "trackerid", "numwant"})
    assert query(announce_url(URL, request(event="stopped", numwant=0)))["numwant"] == "0"


@pytest.mark.parametrize(
    ("url", "begins"),
    [
        ("http://t/announce", "http://t/announce?info_hash="),
        ("http://t/announce?passkey=x", "http://t/announce?passkey=x&info_hash="),
        ("http://t/announce?passkey=x&", "http://t/announce?passkey=x&info_hash="),
        ("http://t/announce?", "http://t/announce?info_hash="),
        ("http://t/announce#part", "http://t/announce?info_hash="),
        ("/announce", "/announce?info_hash="),
    ],
)
def test_announce_extends_the_query(url: str, begins: str) -> None:
    assert announce_url(url, request()).startswith(begins)


@given(st.binary(min_size=20, max_size=20), st.binary(max_size=30))
def test_binary_values_survive_the_query(info_hash: bytes, tracker_id: bytes) -> None:
    asked = AnnounceRequest(
        info_hash=info_hash, peer_id=PEER_ID, port=1, uploaded=0, downloaded=0, left=0, tracker_id=tracker_id
    )
    said = query(announce_url(URL, asked))
    assert said["info_hash"].encode("latin-1") == info_hash
    assert said["trackerid"].encode("latin-1") == tracker_id


@pytest.mark.parametrize(  # the table of BEP 48
    ("announce", "scrape"),
    [
        ("http://example.com/announce", "http://example.com/scrape"),
        ("http://example.com/x/announce", "http://example.com/x/scrape"),
        ("http://example.com/announce.php", "http://example.com/scrape.php"),
        ("http://example.com/a", None),
        ("http://example.com/announce?x2%0644", "http://example.com/scrape?x2%0644"),
        ("http://example.com/announce?x=2/4", "http://example.com/scrape?x=2/4"),
        ("http://example.com/x%064announce", None),
        ("/announce", "/scrape"),
        ("announce", None),
    ],
)
def test_scrape_url(announce: str, scrape: str | None) -> None:
    url = scrape_url(announce, [HASH, HASH])
    if scrape is None:
        assert url is None
    else:
        assert url is not None
        encoded = "info_hash=%00%01%02%03%04%05%06%07%08%09%0A%0B%0C%0D%0E%0F%10%11%12%13"
        assert url == f"{scrape}{'&' if '?' in scrape else '?'}{encoded}&{encoded}"


# --- replies -------------------------------------------------------------------------------------------------------


def test_a_full_reply() -> None:
    body = reply(
        interval=1800,
        min_interval=900,
        complete=5,
        incomplete=7,
        downloaded=100,
        tracker_id=b"id",
        peers=b"\x7f\0\0\1\x1a\xe1",
        peers6=bytes.fromhex("20010db8000000000000000000000005c8d5"),
        external_ip=b"\x08\x08\x08\x08",
        warning_message=b"slow \x1b[31mdown",
        downloaders=3,
    )
    assert decode_announce(body, URL) == AnnounceReply(
        interval=1800,
        min_interval=900,
        seeders=5,
        leechers=7,
        downloaded=100,
        tracker_id=b"id",
        peers=[("127.0.0.1", 6881), ("2001:db8::5", 51413)],
        external_ip="8.8.8.8",
        warning="slow \ufffd[31mdown",
    )


def test_an_empty_reply_is_one() -> None:
    assert decode_announce(b"de", URL) == AnnounceReply(interval=int(limits.TRACKER_INTERVAL_DEFAULT))


@pytest.mark.parametrize("vector", [v for v in VECTORS if "text" in v and v["text"].startswith("d")])
def test_vectors(vector: dict[str, object]) -> None:
    body = str(vector["text"]).encode()
    if "failure" in vector:
        with pytest.raises(TrackerError, match=str(vector["failure"])):
            decode_announce(body, URL)
        return
    expected = [tuple(peer) for key in ("peers", "peers6") for peer in vector.get(key, [])]  # type: ignore[attr-defined]  # lists of JSON
    found = decode_announce(body, URL)
    assert found.peers == expected
    assert found.interval == vector.get("interval", found.interval)


@pytest.mark.parametrize("vector", [v for v in VECTORS if "peers_hex" in v or "peers6_hex" in v])
def test_compact_vectors(vector: dict[str, object]) -> None:
    key = "peers6" if "peers6_hex" in vector else "peers"
    body = reply(**{key: bytes.fromhex(str(vector[f"{key}_hex"]))})
    if "outcome" in vector:
        with pytest.raises(TrackerError, match="not a multiple of 6"):
            decode_announce(body, URL)
    else:
        assert decode_announce(body, URL).peers == [tuple(peer) for peer in vector["peers"]]  # type: ignore[attr-defined]  # lists of JSON


@pytest.mark.parametrize("length", [1, 5, 7, 6 * 1_001 + 1])
def test_peers_of_odd_length_are_refused(length: int) -> None:
    with pytest.raises(TrackerError, match="multiple of 6"):
        decode_announce(reply(peers=bytes(length)), URL)
    with pytest.raises(TrackerError, match="multiple of 18"):
        decode_announce(reply(peers6=bytes(length)), URL)


def test_N1_at_most_a_thousand_compact_peers_are_read() -> None:
    def compact(count: int) -> bytes:
        return b"".join(bytes((1, 1, n >> 8, n & 255, 0, 80)) for n in range(count))

    assert len(decode_announce(reply(peers=compact(1_000)), URL).peers) == 1_000
    peers = decode_announce(reply(peers=compact(1_001), peers6=bytes(15) + b"\1\0\x50"), URL).peers
    assert len(peers) == 1_000
    assert peers[-1] == ("1.1.3.231", 80)


def test_at_most_a_thousand_listed_peers_are_read() -> None:
    named: list[bencode.Value] = [{b"ip": b"peer.example", b"port": 80} for _ in range(600)]
    addressed: list[bencode.Value] = [{b"ip": b"1.2.3.4", b"port": 80} for _ in range(600)]
    found = decode_announce(reply(peers=named + addressed), URL)
    assert (len(found.peer_names), len(found.peers)) == (600, 400)


def test_the_list_form() -> None:
    entries: list[bencode.Value] = [
        {b"ip": b"127.0.0.1", b"port": 1, b"peer id": b"a" * 20},
        {b"ip": b"2001:DB8:0::1", b"port": 65_535},
        {b"ip": b"::ffff:1.2.3.4", b"port": 2},
        {b"ip": b"peer.example", b"port": 3},
        {b"ip": b"1.2.3.4", b"port": 0},
        {b"ip": b"1.2.3.4", b"port": 65_536},
        {b"ip": b"1.2.3.4", b"port": b"80"},
        {b"ip": b"1.2.3.4"},
        {b"ip": 16909060, b"port": 80},
        {b"ip": "bücher.example".encode(), b"port": 80},
        {b"ip": b"no name", b"port": 80},
        {b"ip": b"0x7f000001", b"port": 80},
        {b"port": 80},
        b"1.2.3.4:80",
    ]
    found = decode_announce(reply(peers=entries), URL)
    assert found.peers == [("127.0.0.1", 1), ("2001:db8::1", 65_535), ("1.2.3.4", 2)]
    assert found.peer_names == [("peer.example", 3)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>not found</html>",
        b"le",
        b"i1e",
        b"d14:failure reason99:xe",
        b"d8:interval",
        b"d8:intervali18446744073709551616ee",
        b"d8:intervali1e8:intervali2ee",
        reply(peers=6),
        reply(peers={}),
        reply(peers6=[]),
        b"d1:a" + b"l" * 11 + b"e" * 11 + b"e",
        b"d1:al" + b"0:" * limits.MESSAGE_TOKENS + b"ee",
    ],
)
def test_malformed_replies_are_refused(body: bytes) -> None:
    with pytest.raises(TrackerError) as caught:
        decode_announce(body, URL)
    assert caught.value.url == URL
    assert not caught.value.refused


def test_N1_a_reply_as_long_as_may_be() -> None:
    filler = limits.TRACKER_REPLY - len(reply(interval=60, x=b"")) - len(str(limits.TRACKER_REPLY)) + 1
    body = reply(interval=60, x=bytes(filler))
    assert len(body) == limits.TRACKER_REPLY
    assert decode_announce(body, URL).interval == 60
    with pytest.raises(TrackerError, match="too long"):
        decode_announce(body + b"\n", URL)


def test_what_follows_the_reply_is_ignored() -> None:
    assert decode_announce(reply(interval=60) + b"\n<!-- served by x -->", URL).interval == 60


@pytest.mark.parametrize("interval", [0, -1, -(2**63), 2**63 - 1])
def test_intervals_are_passed_on_as_said(interval: int) -> None:
    assert decode_announce(reply(interval=interval, min_interval=interval), URL) == AnnounceReply(
        interval=interval, min_interval=interval
    )


def test_values_of_a_wrong_type_count_as_missing() -> None:
    body = reply(
        interval=b"60", min_interval=b"60", complete=-1, incomplete=b"", downloaded=[], tracker_id=7, warning_message=7
    )
    assert decode_announce(body, URL) == AnnounceReply()


def test_a_tracker_id_that_is_too_long_is_not_kept() -> None:
    assert decode_announce(reply(tracker_id=bytes(limits.TRACKER_ID)), URL).tracker_id == bytes(limits.TRACKER_ID)
    assert decode_announce(reply(tracker_id=bytes(limits.TRACKER_ID + 1)), URL).tracker_id is None


@pytest.mark.parametrize(
    ("packed", "ip"),
    [
        (b"\1\2\3\4", "1.2.3.4"),
        (bytes(15) + b"\1", "::1"),
        (bytes(10) + b"\xff\xff\1\2\3\4", "1.2.3.4"),
        (b"1.2.3.4", None),
        (b"", None),
        (4, None),
    ],
)
def test_external_ip(packed: bencode.Value, ip: str | None) -> None:
    assert decode_announce(reply(external_ip=packed), URL).external_ip == ip


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry", "after", "never"),
    [
        (5, 300.0, False),
        (b"5", 300.0, False),
        (b"never", None, True),
        (b"soon", None, False),
        (b"9" * 20, None, False),
        (-5, None, False),
        (0, 0.0, False),
        ([], None, False),
    ],
)
def test_retry_in(retry: bencode.Value, after: float | None, never: bool) -> None:
    with pytest.raises(TrackerError, match="unregistered torrent") as caught:
        decode_announce(reply(failure_reason=b"unregistered torrent", retry_in=retry, interval=1), URL)
    assert (caught.value.retry_after, caught.value.never, caught.value.refused) == (after, never, True)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (b"no\x00\x1b\xe2\x80\xaesuch", "no\ufffd\ufffdsuch"),
        (b"", "refused without a reason"),
        (7, "refused without a reason"),
        (b"x" * limits.DISPLAY_CHARACTERS, "x" * limits.DISPLAY_CHARACTERS),
        (b"x" * (limits.TRACKER_MESSAGE + 1), "x" * (limits.DISPLAY_CHARACTERS - 1) + "…"),
    ],
)
def test_the_reason_can_be_shown(reason: bencode.Value, shown: str) -> None:
    with pytest.raises(TrackerError) as caught:
        decode_announce(reply(failure_reason=reason), URL)
    assert caught.value.reason == shown


# --- scrape --------------------------------------------------------------------------------------------------------


def test_scrape_entries() -> None:
    body = reply(
        files={
            HASH: {b"complete": 1, b"incomplete": 2, b"downloaded": 3, b"name": b"x"},
            b"\1" * 20: {b"complete": -1, b"incomplete": b"2"},
            b"short": {b"complete": 1},
            b"\2" * 20: 5,
        },
        flags={b"min_request_interval": 600},
    )
    entries = {HASH: ScrapeEntry(1, 2, 3), b"\1" * 20: ScrapeEntry(None, None, None)}
    assert decode_scrape(body, URL) == ScrapeReply(entries, 600)
    assert decode_scrape(reply(files={}, flags=5), URL) == ScrapeReply({}, None)


@pytest.mark.parametrize("body", [b"de", reply(files=[]), b"", reply(failure_reason=b"no scrape here")])
def test_malformed_scrapes_are_refused(body: bytes) -> None:
    with pytest.raises(TrackerError):
        decode_scrape(body, URL)


# --- both directions -----------------------------------------------------------------------------------------------

ports = st.integers(1, 65_535)
addresses: st.SearchStrategy[Address] = st.one_of(
    st.tuples(st.ip_addresses(v=4).map(str), ports),
    st.tuples(st.ip_addresses(v=6, network="2001:db8::/32").map(str), ports),
)
counts = st.none() | st.integers(0, 2**63 - 1)
replies = st.builds(
    AnnounceReply,
    interval=st.integers(0, 2**31),
    min_interval=counts,
    seeders=counts,
    leechers=counts,
    downloaded=counts,
    tracker_id=st.none() | st.binary(max_size=20),
    peers=st.lists(addresses, max_size=20),
    external_ip=st.none() | st.ip_addresses(v=4).map(str),
    warning=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=50),
)


@given(replies)
def test_a_compact_reply_is_read_as_it_was_meant(said: AnnounceReply) -> None:
    found = decode_announce(encode_announce(said), URL)
    assert sorted(found.peers, key=lambda peer: ":" in peer[0]) == found.peers
    assert sorted(found.peers) == sorted(said.peers)
    assert (found.interval, found.min_interval, found.warning) == (said.interval, said.min_interval, said.warning)
    assert (found.seeders, found.leechers, found.downloaded) == (said.seeders, said.leechers, said.downloaded)
    assert (found.tracker_id, found.external_ip) == (said.tracker_id, said.external_ip)


@given(replies)
def test_a_listed_reply_is_read_as_it_was_meant(said: AnnounceReply) -> None:
    assert decode_announce(encode_announce(said, compact=False), URL) == said


def test_the_list_form_has_peer_ids_where_they_are_known() -> None:
    said = AnnounceReply(peers=[("1.2.3.4", 5), ("1.2.3.4", 6)], peer_names=[("peer.example", 7)])
    body = bencode.decode(
        encode_announce(said, compact=False, peer_ids={("1.2.3.4", 5): b"a" * 20}), depth=9, tokens=99
    )
    assert isinstance(body, dict)
    assert body[b"peers"] == [
        {b"ip": b"1.2.3.4", b"port": 5, b"peer id": b"a" * 20},
        {b"ip": b"1.2.3.4", b"port": 6},
        {b"ip": b"peer.example", b"port": 7},
    ]


def test_a_compact_reply_without_ipv6_peers_has_no_key_for_them() -> None:
    assert encode_announce(AnnounceReply(interval=60)) == b"d8:intervali60e5:peers0:e"


@pytest.mark.parametrize("retry_in", [None, 10])
def test_failures_are_read_as_they_were_meant(retry_in: int | None) -> None:
    with pytest.raises(TrackerError, match="not allowed") as caught:
        decode_announce(encode_failure("not allowed", retry_in=retry_in), URL)
    assert caught.value.retry_after == (None if retry_in is None else 600.0)


@given(
    st.dictionaries(st.binary(min_size=20, max_size=20), st.builds(ScrapeEntry, counts, counts, counts), max_size=9),
    counts,
)
def test_scrapes_are_read_as_they_were_meant(files: dict[bytes, ScrapeEntry], min_interval: int | None) -> None:
    assert decode_scrape(encode_scrape(files, min_interval=min_interval), URL) == ScrapeReply(files, min_interval)


# --- hostile -------------------------------------------------------------------------------------------------------


@given(
    st.binary(max_size=200)
    | st.recursive(st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=9), st.lists).map(
        lambda value: reply(peers=value, interval=value, external_ip=value, files=value, retry_in=value)
    )
)
def test_only_tracker_errors_come_of_it(body: bytes) -> None:
    for decoder in (decode_announce, decode_scrape):
        try:
            decoder(body, URL)
        except BtorError as error:
            assert type(error) is TrackerError


@given(replies, st.data())
def test_a_reply_cut_short_is_refused(said: AnnounceReply, data: st.DataObject) -> None:
    body = encode_announce(said)
    with pytest.raises(TrackerError):
        decode_announce(body[: data.draw(st.integers(0, len(body) - 1))], URL)
