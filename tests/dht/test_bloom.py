"""The Bloom filters of BEP 33."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.dht.bloom import estimate, filter_of, union

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())["bep33"]


def _addresses(ranges: list[str]) -> list[bytes]:
    packed = []
    for one in ranges:
        first, _, last = one.partition("-")
        start, end = ip_address(first), ip_address(last or first)
        kind = IPv4Address if isinstance(start, IPv4Address) else IPv6Address
        packed += [kind(number).packed for number in range(int(start), int(end) + 1)]
    return packed


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["source"])
def test_vectors(vector: dict[str, Any]) -> None:
    made = filter_of(_addresses(vector["insert"]))
    assert made.hex() == vector["filter_hex"]
    assert estimate(made) == pytest.approx(vector["estimate"], abs=0.001)


def test_empty_and_full() -> None:
    assert filter_of(()) == bytes(256)
    assert str(estimate(bytes(256))) == "0.0"
    assert estimate(b"\xff" * 256) == estimate(b"\xff" * 255 + b"\x7f") > 7000


ips = st.lists(st.binary(min_size=4, max_size=4), max_size=40)


@given(ips, ips)
def test_a_union_is_the_filter_of_both(one: list[bytes], other: list[bytes]) -> None:
    assert union(filter_of(one), filter_of(other)) == filter_of(one + other)


@given(st.sets(st.binary(min_size=4, max_size=4), max_size=300))
def test_the_estimate_is_near(ips: set[bytes]) -> None:
    assert estimate(filter_of(ips)) == pytest.approx(len(ips), rel=0.15, abs=8)
