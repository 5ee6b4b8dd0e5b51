"""What is said before the metadata: whole, byte by byte, on every bound, and kept as it was meant."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.errors import PeerError
from btor.limits import (
    ALLOWED_FAST_HEARD,
    CLAIMED_BITFIELD,
    CLAIMED_HAVES,
    EXTENDED_MESSAGE,
    UNKNOWN_MESSAGE,
)
from btor.swarm.early import EarlyMessages
from btor.wire import messages as wire


def said(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IB", 1 + len(payload), kind) + payload


def number(kind: int, value: int) -> bytes:
    return said(kind, struct.pack(">I", value))


STATEMENTS = [
    (b"\0\0\0\0", []),
    (said(wire.UNCHOKE), [(wire.UNCHOKE,)]),
    (said(wire.UNCHOKE) + said(wire.CHOKE), []),
    (said(wire.INTERESTED), [(wire.INTERESTED,)]),
    (said(wire.INTERESTED) + said(wire.NOT_INTERESTED), []),
    (said(wire.BITFIELD, b"\xf0"), [(wire.BITFIELD, b"\xf0")]),
    (said(wire.HAVE_ALL), [(wire.HAVE_ALL,)]),
    (said(wire.HAVE_NONE), [(wire.HAVE_NONE,)]),
    (number(wire.HAVE, 3) * 2 + number(wire.HAVE, 1), [(wire.HAVE, 3), (wire.HAVE, 1)]),
    (
        number(wire.HAVE, 3) + said(wire.BITFIELD, b"\0") + number(wire.HAVE, 1),
        [(wire.BITFIELD, b"\0"), (wire.HAVE, 1)],
    ),
    (number(wire.ALLOWED_FAST, 2), [(wire.ALLOWED_FAST, 2)]),
    (number(wire.SUGGEST, 2) + said(wire.CANCEL, bytes(12)) + said(wire.REJECT, bytes(12)), []),
    (said(200, bytes(300)), []),
]


@pytest.mark.parametrize(("data", "kept"), STATEMENTS)
def test_what_is_kept(data: bytes, kept: list[wire.Message]) -> None:
    whole, single = EarlyMessages(fast=True), EarlyMessages(fast=True)
    assert whole.feed(data) == []
    for at in range(len(data)):
        assert single.feed(data[at : at + 1]) == []
    assert whole.replay(4) == single.replay(4) == kept
    assert whole.tail == b""
    cut = EarlyMessages(fast=True)
    cut.feed(data + said(wire.INTERESTED)[:3])
    assert cut.tail == said(wire.INTERESTED)[:3]


def test_what_is_acted_on() -> None:
    early = EarlyMessages(fast=False)
    data = (
        said(wire.EXTENDED, b"\0de") + said(wire.REQUEST, struct.pack(">III", 1, 2, 3)) + said(wire.PORT, b"\x1a\xe1")
    )
    assert early.feed(data) == [(wire.EXTENDED, b"\0de"), (wire.REQUEST, 1, 2, 3), (wire.PORT, 6881)]
    assert early.replay(1) == []


@pytest.mark.parametrize(
    "data",
    [
        said(wire.PIECE, bytes(8)),
        said(wire.HAVE, b"\0\0\1"),
        said(wire.CHOKE, b"\0"),
        said(wire.BITFIELD),
        struct.pack(">IB", 1, wire.EXTENDED),
        struct.pack(">IB", EXTENDED_MESSAGE + 1, wire.EXTENDED),
        struct.pack(">IB", 2 + CLAIMED_BITFIELD, wire.BITFIELD),
        struct.pack(">IB", UNKNOWN_MESSAGE + 1, 200),
        b"\xff\xff\xff\xff",
        struct.pack(">I", max(EXTENDED_MESSAGE, CLAIMED_BITFIELD) + 2),
    ],
)
def test_what_ends_the_connection(data: bytes) -> None:
    with pytest.raises(PeerError):
        EarlyMessages(fast=True).feed(data)
    single = EarlyMessages(fast=True)
    with pytest.raises(PeerError):
        for at in range(len(data)):
            single.feed(data[at : at + 1])


@pytest.mark.parametrize("kind", sorted(wire.FAST_IDS))
def test_the_fast_extension_must_have_been_agreed_on(kind: int) -> None:
    with pytest.raises(PeerError):
        EarlyMessages(fast=False).feed(
            said(kind, bytes({wire.HAVE_ALL: 0, wire.HAVE_NONE: 0, wire.REJECT: 12}.get(kind, 4)))
        )


def test_T12_the_bounds_are_inside() -> None:
    early = EarlyMessages(fast=True)
    early.feed(said(wire.BITFIELD, bytes(CLAIMED_BITFIELD)))
    early.feed(said(200, bytes(UNKNOWN_MESSAGE - 1)))
    assert len(early.feed(said(wire.EXTENDED, bytes(EXTENDED_MESSAGE - 1)))) == 1
    for piece in range(CLAIMED_HAVES + 1):
        early.feed(number(wire.HAVE, piece))
    for piece in range(ALLOWED_FAST_HEARD + 1):
        early.feed(number(wire.ALLOWED_FAST, piece))
    kept = early.replay(2**21)
    assert sum(message[0] == wire.HAVE for message in kept) == CLAIMED_HAVES
    assert sum(message[0] == wire.ALLOWED_FAST for message in kept) == ALLOWED_FAST_HEARD


@pytest.mark.parametrize("kind", [wire.HAVE, wire.ALLOWED_FAST])
def test_T12_a_piece_that_turns_out_not_to_exist(kind: int) -> None:
    early = EarlyMessages(fast=True)
    early.feed(number(kind, 4))
    assert early.replay(5) == [(kind, 4)]
    with pytest.raises(PeerError):
        early.replay(4)


@given(st.binary(max_size=60), st.integers(1, 60))
def test_P7_noise_before_the_metadata(data: bytes, cut: int) -> None:
    early = EarlyMessages(fast=True)
    try:
        early.feed(data[:cut])
        early.feed(data[cut:])
        early.replay(3)
    except PeerError:
        pass
