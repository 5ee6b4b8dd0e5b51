"""Datagrams of local discovery: written, read, broken and over every bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.limits import LSD_DATAGRAM, LSD_HASHES
from btor.wire.lsd import GROUP4, GROUP6, LocalAnnounce, decode_local, encode_local

ONE = LocalAnnounce(6881, (b"\xab" * 20,), "c0ffee")
TEXT = (
    b"BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\nInfohash: "
    + b"ab" * 20
    + b"\r\ncookie: c0ffee\r\n\r\n\r\n"
)


def test_the_bytes() -> None:
    assert encode_local(ONE, GROUP4) == TEXT
    assert b"Host: [ff15::efc0:988f]:6771\r\n" in encode_local(ONE, GROUP6)
    assert decode_local(TEXT) == ONE


def test_several_torrents_of_which_each_counts_once() -> None:
    many = LocalAnnounce(1, tuple(bytes([number]) * 20 for number in range(LSD_HASHES + 1)))
    datagram = encode_local(many, GROUP6)
    assert len(datagram) <= LSD_DATAGRAM
    assert decode_local(datagram) == many._replace(info_hashes=many.info_hashes[:LSD_HASHES])
    assert decode_local(TEXT.replace(b"cookie", b"INFOHASH: " + b"AB" * 20 + b"\r\nX-other")) == ONE._replace(cookie="")


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        TEXT.replace(b"Port: 6881", b"Port: 0"),
        TEXT.replace(b"Port: 6881", b"Port: 65536"),
        TEXT.replace(b"Port: 6881", b"Port: 123456"),
        TEXT.replace(b"Port: 6881", b"Port: -1"),
        TEXT.replace(b"Port: 6881", b"Sport: 1"),
        TEXT.replace(b"ab" * 20, b"ab" * 19),
        TEXT.replace(b"ab" * 20, b"gg" * 20),
        TEXT.replace(b"c0ffee", b"\xff"),
        TEXT.replace(b"1.1", b"2.0", 1),
        TEXT.replace(b"c0ffee", b"c" * LSD_DATAGRAM),
    ],
)
def test_what_is_no_announce(datagram: bytes) -> None:
    assert decode_local(datagram) is None


def test_the_bound_is_inside() -> None:
    filler = LSD_DATAGRAM - len(TEXT) + len("c0ffee")
    full = TEXT.replace(b"c0ffee", b"c" * filler)
    assert len(full) == LSD_DATAGRAM and decode_local(full) is not None
    assert decode_local(full + b"x") is None


@given(st.integers(0, len(TEXT)), st.binary(max_size=20))
def test_noise_is_none_or_an_announce(cut: int, noise: bytes) -> None:
    found = decode_local(TEXT[:cut] + noise)
    assert found is None or 0 < found.port <= 65_535
