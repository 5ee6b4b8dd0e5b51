"""The Bloom filters of a DHT scrape (BEP 33): how many different addresses, without naming them."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha1
from math import log
from typing import Final

from btor.wire.krpc import FILTER

BITS: Final = FILTER * 8


def filter_of(ips: Iterable[bytes]) -> bytes:
    """256 bytes with the bits of each packed IP set."""
    made = bytearray(FILTER)
    for ip in ips:
        digest = sha1(ip, usedforsecurity=False).digest()
        for index in ((digest[0] | digest[1] << 8) % BITS, (digest[2] | digest[3] << 8) % BITS):
            made[index >> 3] |= 1 << (index & 7)
    return bytes(made)


def union(first: bytes, second: bytes) -> bytes:
    """The filter of what is in either."""
    return (int.from_bytes(first) | int.from_bytes(second)).to_bytes(FILTER)


def estimate(bloom: bytes) -> float:
    """About how many addresses went into a filter."""
    ones = int.from_bytes(bloom).bit_count()
    zeros = max(BITS - ones, 1)  # a full filter cannot tell how many more there are
    return abs(log(zeros / BITS) / (2 * log(1 - 1 / BITS)))  # abs: no minus zero
