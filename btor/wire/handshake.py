"""The 68 bytes that open a connection (BEP 3): protocol name, reserved bits, info-hash, peer id."""

from __future__ import annotations

from typing import NamedTuple

from btor.errors import PeerError
from btor.limits import HANDSHAKE

PROTOCOL = b"\x13BitTorrent protocol"
INFO_HASH_END = len(PROTOCOL) + 8 + 20  # an acceptor may answer once it has read this far


_EXTENSIONS = (5, 0x10)  # byte of the reserved ones and bit: the extension protocol, BEP 10
_DHT = (7, 0x01)  # BEP 5
_FAST = (7, 0x04)  # BEP 6


class Features(NamedTuple):
    """What the reserved bits promise. A feature is on when both sides promise it."""

    extensions: bool = False
    fast: bool = False
    dht: bool = False

    @classmethod
    def decode(cls, reserved: bytes) -> Features:
        """Read the 8 reserved bytes; bits that btor does not know are ignored."""
        return cls(*(bool(reserved[at] & bit) for at, bit in (_EXTENSIONS, _FAST, _DHT)))

    def encode(self) -> bytes:
        """The 8 reserved bytes."""
        reserved = bytearray(8)
        for promised, (at, bit) in zip(self, (_EXTENSIONS, _FAST, _DHT), strict=True):
            if promised:
                reserved[at] |= bit
        return bytes(reserved)

    def __and__(self, other: Features) -> Features:
        """What both sides promise."""
        return Features(*(mine and theirs for mine, theirs in zip(self, other, strict=True)))


class Handshake(NamedTuple):
    """What the other side said. ``reserved``: 8 bytes; ``info_hash`` and ``peer_id``: 20 bytes each."""

    reserved: bytes
    info_hash: bytes
    peer_id: bytes


def encode_handshake(info_hash: bytes, peer_id: bytes, reserved: bytes = bytes(8)) -> bytes:
    """The handshake to send."""
    return PROTOCOL + reserved + info_hash + peer_id


def check_protocol(received: bytes) -> None:
    """Refuse, on the first bytes that can tell, what is not a BitTorrent handshake. PeerError."""
    if received[: len(PROTOCOL)] != PROTOCOL[: len(received)]:
        raise PeerError("not a BitTorrent handshake")


def decode_info_hash(received: bytes) -> bytes:
    """The info-hash of the first 48 bytes. PeerError when the protocol name is another."""
    check_protocol(received)
    return received[len(PROTOCOL) + 8 : INFO_HASH_END]


def decode_handshake(received: bytes) -> Handshake:
    """Read 68 bytes. PeerError when the protocol name is another."""
    check_protocol(received)
    if len(received) != HANDSHAKE:
        raise PeerError("handshake cut short")
    reserved_at = len(PROTOCOL)
    return Handshake(received[reserved_at : reserved_at + 8], decode_info_hash(received), received[INFO_HASH_END:])
