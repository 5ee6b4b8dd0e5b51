"""Peer ids to names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.settings import CLIENT_NAME, PEER_ID_PREFIX
from btor.wire.client_id import UNKNOWN, client_name


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"-qB4670-", "qBittorrent 4.6.7"),
        (b"-LT2110-", "libtorrent 2.1.1"),
        (b"-lt0D80-", "rTorrent 0.13.8"),
        (b"-TR2940-", "Transmission 2.94"),
        (b"-TR3000-", "Transmission 3.00"),
        (b"-TR4100-", "Transmission 4.1.0"),
        (b"-TR410B-", "Transmission 4.1.0"),
        (b"-DE211s-", "Deluge 2.1.1"),
        (b"-AZ5770-", "Vuze 5.7.7"),
        (b"-BC0196-", "BitComet 0.1.9.6"),
        (b"-UT355W-", "µTorrent 3.5.5"),
        (b"-XY0000-", "XY 0.0.0"),
        (b"-S~1234-", "S~ 1.2.3.4"),
        (b"A2-1-36-0-", "aria2 1.36.0"),
        (b"M4-3-6--", "BitTorrent 4.3.6"),
        (b"M7-10-5-", "BitTorrent 7.10.5"),
        (b"Q1-0-0--", "Queen Bee 1.0.0"),
        (b"S58B-----", "Shadow's client 5.8.11"),
        (b"T03I----", "BitTornado 0.3.18"),
        (b"TIX0193-", "Tixati 1.93"),
    ],
)
def test_names(start: bytes, expected: str) -> None:
    assert client_name(start.ljust(20, b"x")) == expected


def test_our_own() -> None:
    assert client_name(PEER_ID_PREFIX + bytes(12)) == CLIENT_NAME


@pytest.mark.parametrize(
    "peer_id", [bytes(20), b"", b"x" * 20, b"-\x1b[0000-" + bytes(12), b"-qB467", b"-qB46\n0-xxxxxxxxxxxx"]
)
def test_unknown(peer_id: bytes) -> None:
    assert client_name(peer_id) == UNKNOWN


@given(st.binary(max_size=40) | st.from_regex(rb"[-A-Z][A-Z0-9~-]{19}", fullmatch=True))
def test_always_safe_to_show(peer_id: bytes) -> None:
    name = client_name(peer_id)
    assert name
    assert name.isprintable()
    assert len(name) <= 60
