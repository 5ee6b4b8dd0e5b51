"""The extension protocol: tables of (bytes, meaning), truncated, with tails, and over every bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import bencode, limits
from btor.errors import PeerError
from btor.wire import extension as ext
from btor.wire.extension import ExtensionHandshake, MetadataMessage, PexMessage

EVERYTHING = ExtensionHandshake(
    ids={"ut_metadata": 3, "ut_pex": 1, "lt_donthave": 7, "upload_only": 0},
    port=6881,
    client="µTorrent 1.2",
    your_ip="192.0.2.7",
    ipv4="198.51.100.1",
    ipv6="2001:db8::1",
    reqq=500,
    metadata_size=31_235,
    upload_only=True,
    complete_ago=-1,
)

# the bytes of the examples of BEP 9 and BEP 10
HANDSHAKES = [
    (b"de", ExtensionHandshake()),
    (
        b"d1:md11:ut_metadatai3ee13:metadata_sizei31235ee",
        ExtensionHandshake(ids={"ut_metadata": 3}, metadata_size=31_235),
    ),
    (
        "d1:md11:LT_metadatai1e7:µT_PEXi2ee1:pi6881e1:v13:µTorrent 1.2e".encode(),
        ExtensionHandshake(port=6881, client="µTorrent 1.2"),
    ),
    (b"d6:yourip16:" + bytes(10) + b"\xff\xff\xc0\0\2\7e", ExtensionHandshake(your_ip="192.0.2.7")),
    (b"d11:upload_onlyi0ee", ExtensionHandshake(upload_only=False)),
    (b"d1:md6:ut_pexi0eee", ExtensionHandshake(ids={"ut_pex": 0})),
]


@pytest.mark.parametrize(("payload", "said"), HANDSHAKES)
def test_handshakes(payload: bytes, said: ExtensionHandshake) -> None:
    assert ext.decode_handshake(payload) == said
    for length in range(len(payload)):
        with pytest.raises(PeerError):
            ext.decode_handshake(payload[:length])
    with pytest.raises(PeerError):
        ext.decode_handshake(payload + b"x")


def test_every_key_comes_back_as_it_was_said() -> None:
    assert ext.decode_handshake(ext.encode_handshake(EVERYTHING)) == EVERYTHING
    assert ext.encode_handshake(ExtensionHandshake()) == b"d1:mdee"


@pytest.mark.parametrize(
    "payload",
    [
        b"d1:mle1:pi-1e4:reqq1:x1:vi1e11:upload_onlyi2222222222222222222ee",
        b"d1:md6:ut_pexi256e11:ut_metadatai-1e11:lt_donthave1:1e1:pi65536e6:yourip5:12345e",
        b"d12:complete_agoi-2e4:ipv416:123456789012345613:metadata_sizei-1ee",
        b"d1:pi0e13:metadata_sizei0ee",
        b"d13:metadata_sizei%dee" % (limits.METADATA_SIZE + 1),
        b"d13:metadata_sizei2147483647e6:youripi4e4:ipv63:abce",
    ],
)
def test_a_value_of_the_wrong_kind_is_as_absent(payload: bytes) -> None:
    said = ext.decode_handshake(payload)
    assert said in (ExtensionHandshake(), ExtensionHandshake(upload_only=True))


def test_P1_the_bounds_of_a_handshake() -> None:
    assert ext.decode_handshake(b"d13:metadata_sizei%dee" % limits.METADATA_SIZE).metadata_size == limits.METADATA_SIZE
    filler = limits.EXTENSION_HANDSHAKE - len(b"d1:v16000:e")
    fits = b"d1:v%d:%be" % (filler, bytes(filler))
    assert len(fits) == limits.EXTENSION_HANDSHAKE
    ext.decode_handshake(fits)
    with pytest.raises(PeerError):
        ext.decode_handshake(b"d1:v%d:%be" % (filler + 1, bytes(filler + 1)))
    deep = limits.MESSAGE_DEPTH - 1
    ext.decode_handshake(b"d1:x" + b"l" * deep + b"e" * deep + b"e")
    with pytest.raises(PeerError):
        ext.decode_handshake(b"d1:x" + b"l" * (deep + 1) + b"e" * (deep + 1) + b"e")
    with pytest.raises(PeerError):
        ext.decode_handshake(b"li1ee")


METADATA = [  # the examples of BEP 9, its reject with the number that is meant
    (b"d8:msg_typei0e5:piecei0ee", MetadataMessage("request", 0)),
    (b"d8:msg_typei1e5:piecei0e10:total_sizei34256eehello", MetadataMessage("data", 0, 34_256, b"hello")),
    (b"d8:msg_typei2e5:piecei0ee", MetadataMessage("reject", 0)),
    (b"d8:msg_typei3ee", None),
    (b"d8:msg_typei-1ee", None),
]


@pytest.mark.parametrize(("payload", "message"), METADATA)
def test_metadata(payload: bytes, message: MetadataMessage | None) -> None:
    assert ext.decode_metadata(payload) == message
    if message is not None:
        assert ext.encode_metadata(message) == payload


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"d",
        b"le",
        b"de",
        b"d8:msg_typei0ee",
        b"d8:msg_type1:0e",
        b"d8:msg_typei0e5:piecei-1ee",
        b"d8:msg_typei0e5:piecei%dee" % (limits.METADATA_SIZE // limits.METADATA_PIECE + 1),
        b"d8:msg_typei1e5:piecei0ee",
        b"d8:msg_typei1e5:piecei0e10:total_sizei%dee" % (limits.METADATA_SIZE + 1),
        b"d8:msg_typei1e5:piecei0e10:total_sizei9ee" + bytes(limits.METADATA_PIECE + 1),
    ],
)
def test_metadata_that_is_broken(payload: bytes) -> None:
    with pytest.raises(PeerError):
        ext.decode_metadata(payload)


PEX = PexMessage(
    added=((("192.0.2.1", 6881), 0x12), (("192.0.2.2", 80), 0), (("2001:db8::1", 443), 2)),
    dropped=(("198.51.100.3", 1), ("2001:db8::2", 2)),
)


def test_pex_comes_back_as_it_was_said() -> None:
    assert ext.decode_pex(ext.encode_pex(PEX)) == PEX
    assert ext.encode_pex(PexMessage((), ())) == b"de"
    only = PexMessage(((("192.0.2.1", 6881), 1),), ())
    assert ext.encode_pex(only) == b"d5:added6:\xc0\0\2\1\x1a\xe17:added.f1:\1e"


def test_pex_without_flags_or_with_peers_nobody_can_be_at() -> None:
    packed = b"\xc0\0\2\1\0\0" + b"\xc0\0\2\2\0\7"
    found = ext.decode_pex(b"d5:added12:%b7:added.f2:\1\2e" % packed)
    assert found == PexMessage(((("192.0.2.2", 7), 2),), ())
    assert ext.decode_pex(b"d5:added12:%be" % packed) == PexMessage(((("192.0.2.2", 7), 0),), ())
    assert ext.decode_pex(b"d5:added12:%b7:added.fi1ee" % packed) == PexMessage(((("192.0.2.2", 7), 0),), ())
    assert ext.decode_pex(b"de") == PexMessage((), ())


@pytest.mark.parametrize(
    "payload", [b"d5:added5:12345e", b"d5:addedi1ee", b"d8:dropped617:12345678901234567e", b"le", b""]
)
def test_pex_that_is_broken(payload: bytes) -> None:
    with pytest.raises(PeerError):
        ext.decode_pex(payload)


def test_the_bounds_of_pex() -> None:
    four = [((f"192.0.2.{number}", 1), 0) for number in range(1, 61)]
    six = [((f"2001:db8::{number}", 1), 0) for number in range(1, 61)]
    message = PexMessage((*four, *six), tuple(address for address, _ in (*four, *six)))
    found = ext.decode_pex(ext.encode_pex(message))
    assert found.added == (*four, *six[: limits.PEX_PEERS - 60])
    assert found.dropped == message.dropped[: limits.PEX_PEERS]
    many = b"d5:added%d:%be" % (6 * 1_000, b"\xc0\0\2\1\0\7" * 1_000)
    assert len(ext.decode_pex(many).added) == limits.PEX_PEERS


def test_the_small_ones() -> None:
    assert ext.decode_dont_have(b"\0\0\1\0") == 256 and ext.encode_dont_have(256) == b"\0\0\1\0"
    assert ext.decode_upload_only(ext.encode_upload_only(True)) is True
    assert ext.decode_upload_only(ext.encode_upload_only(False)) is False
    for payload in (b"", b"12345", b"123"):
        with pytest.raises(PeerError):
            ext.decode_dont_have(payload)
        if len(payload) != 1:
            with pytest.raises(PeerError):
                ext.decode_upload_only(payload)


VALUES = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.binary(max_size=12), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    b"m p v yourip reqq metadata_size upload_only added added.f dropped6 msg_type piece total_size ipv4".split()
)


@given(st.dictionaries(KEYS, VALUES, max_size=5), st.binary(max_size=20))
def test_only_peer_errors_come_out(table: dict[bytes, bencode.Value], tail: bytes) -> None:
    for decode in (ext.decode_handshake, ext.decode_metadata, ext.decode_pex):
        for payload in (bencode.encode(table), bencode.encode(table) + tail, tail):
            try:
                decode(payload)
            except PeerError:
                pass
