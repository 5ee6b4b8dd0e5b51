"""CRC-32C against the vectors of RFC 3720 and of BEP 40."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.wire.crc32c import crc32c

VECTORS = [
    # RFC 3720 B.4; it prints the bytes in the order of the wire
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
    (b"123456789", 0xE3069283),  # the check value
    (bytes.fromhex("624c14007bd50000"), 0xEC2D7224),  # BEP 40
    (bytes.fromhex("7bd5200a7bd520ea"), 0x99568189),  # BEP 40
    (b"", 0),
]


@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_vectors(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@given(st.binary(max_size=64))
def test_bit_by_bit(data: bytes) -> None:
    rest = 0xFFFF_FFFF
    for byte in data:
        rest ^= byte
        for _ in range(8):
            rest = rest >> 1 ^ (0x82F63B78 if rest & 1 else 0)
    assert crc32c(data) == rest ^ 0xFFFF_FFFF
