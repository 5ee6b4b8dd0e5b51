"""The handshake: its 68 bytes, and refusal on the first byte that can tell."""

from __future__ import annotations

import pytest

from btor.errors import PeerError
from btor.wire.handshake import (
    INFO_HASH_END,
    Features,
    check_protocol,
    decode_handshake,
    decode_info_hash,
    encode_handshake,
)

HASH = bytes(range(20))
ID = b"-BO0100-abcdefghijkl"


def test_round_trip() -> None:
    data = encode_handshake(HASH, ID, b"\0\0\0\0\0\x10\0\5")
    assert data == b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\5" + HASH + ID
    assert decode_handshake(data) == (b"\0\0\0\0\0\x10\0\5", HASH, ID)
    assert decode_info_hash(data[:INFO_HASH_END]) == HASH
    assert encode_handshake(HASH, ID)[20:28] == bytes(8)


def test_every_prefix_of_the_protocol_is_accepted_and_every_other_byte_refused() -> None:
    data = encode_handshake(HASH, ID)
    for end in range(21):
        check_protocol(data[:end])
    for at in range(20):
        wrong = bytearray(data[: at + 1])
        wrong[at] ^= 1
        with pytest.raises(PeerError):
            check_protocol(bytes(wrong))


def test_a_wrong_length_is_refused() -> None:
    data = encode_handshake(HASH, ID)
    for wrong in (data[:-1], data + b"x"):
        with pytest.raises(PeerError):
            decode_handshake(wrong)


@pytest.mark.parametrize(
    ("reserved", "features"),
    [
        (bytes(8), Features()),
        (b"\0\0\0\0\0\x10\0\0", Features(extensions=True)),
        (b"\0\0\0\0\0\0\0\1", Features(dht=True)),
        (b"\0\0\0\0\0\0\0\4", Features(fast=True)),
        (b"\0\0\0\0\0\x10\0\5", Features(extensions=True, fast=True, dht=True)),
    ],
)
def test_features(reserved: bytes, features: Features) -> None:
    assert Features.decode(reserved) == features
    assert features.encode() == reserved


def test_a_feature_needs_both_sides() -> None:
    assert Features.decode(b"\xff" * 8) == Features(True, True, True)
    assert Features(True, True, False) & Features(True, False, True) == Features(True, False, False)
