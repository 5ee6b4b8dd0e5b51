"""Announces and scrapes as they stand in a URL."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.errors import PeerError
from btor.tracker.query import read_announce, read_scrape, split_target
from btor.wire.tracker_http import AnnounceRequest, announce_url, scrape_url
from btor.wire.tracker_udp import SCRAPE_HASHES

HASH = b"a" * 20
GOOD = b"info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=6881&uploaded=1&downloaded=2&left=3"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/announce", (b"/announce", b"")),
        (b"/announce?a=b?c", (b"/announce", b"a=b?c")),
        (b"http://tracker:6969/announce?a=b", (b"/announce", b"a=b")),
        (b"HTTP://tracker", (b"/", b"")),
        (b"*", (b"*", b"")),
    ],
)
def test_split_target(target: bytes, expected: tuple[bytes, bytes]) -> None:
    assert split_target(target) == expected


def test_example_of_bep_23() -> None:
    _, query = split_target(
        b"/announce?peer_id=aaaaaaaaaaaaaaaaaaaa&info_hash=aaaaaaaaaaaaaaaaaaaa&port=6881&left=0&downloaded=100"
        b"&uploaded=0&compact=1"
    )
    asked = read_announce(query)
    assert asked.request == AnnounceRequest(
        info_hash=HASH, peer_id=HASH, port=6881, uploaded=0, downloaded=100, left=0, event="", numwant=-1
    )
    assert asked.compact
    assert asked.peer_ids


@given(
    st.builds(
        AnnounceRequest,
        info_hash=st.binary(min_size=20, max_size=20),
        peer_id=st.binary(min_size=20, max_size=20),
        port=st.integers(1, 65_535),
        uploaded=st.integers(0, 2**64 - 1),
        downloaded=st.integers(0, 2**64 - 1),
        left=st.integers(0, 2**64 - 1),
        event=st.sampled_from(["", "started", "completed", "stopped"]),
        numwant=st.integers(-1, 10_000),
    )
)
def test_what_the_client_asks_is_what_the_tracker_reads(request: AnnounceRequest) -> None:
    path, query = split_target(announce_url("/announce", request).encode("ascii"))
    asked = read_announce(query)
    assert path == b"/announce"
    assert asked.request == request
    assert asked.compact
    assert not asked.peer_ids


@pytest.mark.parametrize(
    ("more", "compact", "peer_ids"),
    [
        (b"", False, True),
        (b"&compact=0", False, True),
        (b"&compact=1", True, True),
        (b"&no_peer_id=1", False, False),
        (b"&no_peer_id=0", False, True),
    ],
)
def test_form_of_the_reply(more: bytes, compact: bool, peer_ids: bool) -> None:
    asked = read_announce(GOOD + more)
    assert (asked.compact, asked.peer_ids) == (compact, peer_ids)


def test_only_ids_and_port_are_needed_and_silence_is_no_seed() -> None:
    request = read_announce(GOOD.partition(b"&uploaded")[0]).request
    assert (request.uploaded, request.downloaded, request.left) == (0, 0, 1)


def test_binary_values() -> None:
    query = GOOD.replace(b"a" * 20, b"%00%ff+%2b%20~" + b"a" * 14).replace(b"info_hash", b"info%5fhash")
    assert read_announce(query).request.info_hash == b"\x00\xff++ ~" + b"a" * 14


@pytest.mark.parametrize(
    ("more", "event", "numwant"),
    [
        (b"&event=", "", -1),
        (b"&event=empty", "", -1),
        (b"&event=paused", "", -1),
        (b"&event=started&numwant=0", "started", 0),
        (b"&numwant=200", "", 200),
        (b"&numwant=-1", "", -1),
        (b"&numwant=-200", "", -1),
        (b"&key=00000001&trackerid=x&ip=8.8.8.8&ipv6=::1&supportcrypto=1&corrupt=0&unknown&&=x", "", -1),
    ],
)
def test_optional_keys(more: bytes, event: str, numwant: int) -> None:
    request = read_announce(GOOD + more).request
    assert (request.event, request.numwant, request.port) == (event, numwant, 6881)


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        (b"", "port is missing"),
        (GOOD.replace(b"info_hash", b"x"), "info_hash is missing"),
        (GOOD.replace(b"peer_id", b"x"), "peer_id is missing"),
        (GOOD.replace(b"port", b"x"), "port is missing"),
        (GOOD.replace(b"a" * 20, b"a" * 19), "info_hash is not 20"),
        (GOOD.replace(b"a" * 20, b"a" * 21), "info_hash is not 20"),
        (GOOD.replace(b"b" * 20, b"b" * 40), "peer_id is not 20"),
        (GOOD.replace(b"6881", b"0"), "port 0"),
        (GOOD.replace(b"6881", b"65536"), "port is not"),
        (GOOD.replace(b"6881", b"-1"), "port is not"),
        (GOOD.replace(b"6881", b""), "port is not"),
        (GOOD.replace(b"6881", b"+1"), "port is not"),
        (GOOD.replace(b"6881", b"1_0"), "port is not"),
        (GOOD.replace(b"6881", b"9" * 5_000), "port is not"),
        (GOOD.replace(b"left=3", b"left=-3"), "left is not"),
        (GOOD.replace(b"left=3", b"left=18446744073709551616"), "left is not"),
        (GOOD.replace(b"uploaded=1", b"uploaded=1.5"), "uploaded is not"),
        (GOOD + b"&numwant=x", "numwant is not"),
        (GOOD + b"&event=exploded", "event"),
        (GOOD + b"&port=1", "port twice"),
        (GOOD + b"&info_hash=" + HASH, "info_hash twice"),
    ],
)
def test_announces_that_are_refused(query: bytes, complaint: str) -> None:
    with pytest.raises(PeerError, match=complaint):
        read_announce(query)


def test_counters_up_to_64_bits() -> None:
    most = read_announce(GOOD.replace(b"left=3", b"left=18446744073709551615")).request.left
    assert most == 2**64 - 1


@given(st.lists(st.binary(min_size=20, max_size=20), min_size=1, max_size=5, unique=True))
def test_scrape_round_trip(hashes: list[bytes]) -> None:
    url = scrape_url("/announce", hashes)
    assert url is not None
    path, query = split_target(url.encode("ascii"))
    assert path == b"/scrape"
    assert read_scrape(query) == hashes
    assert read_scrape(query + b"&" + query + b"&x=y") == hashes


@pytest.mark.parametrize("count", [SCRAPE_HASHES, SCRAPE_HASHES + 1])
def test_scrape_is_bounded(count: int) -> None:
    query = b"&".join(b"info_hash=%020d" % index for index in range(count))
    assert len(read_scrape(query)) == SCRAPE_HASHES


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        (b"", "names"),
        (b"x=y", "names"),
        (b"info_hash=", "20"),
        (b"info_hash=a", "20"),
        (b"info_hash=" + b"a" * 21, "20"),
    ],
)
def test_scrapes_that_are_refused(query: bytes, complaint: str) -> None:
    with pytest.raises(PeerError, match=complaint):
        read_scrape(query)


@given(st.binary(max_size=200))
def test_only_peer_errors(data: bytes) -> None:
    for target in (data, b"/announce?" + GOOD + b"&" + data, b"/scrape?info_hash=" + data):
        _, query = split_target(target)
        for read in (read_announce, read_scrape):
            try:
                read(query)
            except PeerError as error:
                assert error.reason.isprintable()
