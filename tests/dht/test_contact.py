"""Node ids of BEP 42, and nodes as `nodes` holds them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.dht.contact import (
    Contact,
    compact_address,
    contact_at,
    contact_of,
    contacts_in,
    id_fits,
    is_exempt,
    make_id,
)
from btor.wire.address import pack_ip
from tests.dht.build import contact

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["bep42"], ids=lambda vector: f"{vector['ip']}-{vector['valid']}")
def test_vectors(vector: dict[str, Any]) -> None:
    assert id_fits(bytes.fromhex(vector["node_id"]), pack_ip(vector["ip"])) == vector["valid"]


class _Loaded(random.Random):
    """Draws ``last`` where the last byte of an id is drawn."""

    last = 0

    def randrange(self, *args: Any) -> int:
        return self.last if args == (256,) else super().randrange(*args)


@pytest.mark.parametrize("vector", [one for one in VECTORS["bep42"] if "rand" in one], ids=lambda one: str(one["ip"]))
def test_ids_are_made_as_the_vectors_say(vector: dict[str, Any]) -> None:
    rng = _Loaded(1)
    rng.last = vector["rand"]
    made = make_id(pack_ip(vector["ip"]), rng)
    prefix = bytes.fromhex(vector["prefix21_hex"])
    assert (made[:2], made[2] & 0xF8, made[19]) == (prefix[:2], prefix[2] & 0xF8, vector["rand"])


@given(st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)), st.integers(0, 2**32))
def test_what_is_made_fits(ip: bytes, seed: int) -> None:
    made = make_id(ip, random.Random(seed))
    assert len(made) == 20
    assert id_fits(made, ip)


def test_an_address_that_is_not_known_takes_any_id() -> None:
    assert len({make_id(None, random.Random(seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("ip", "exempt"),
    [
        ("9.255.255.255", False),
        ("10.0.0.0", True),
        ("11.0.0.0", False),
        ("172.15.0.1", False),
        ("172.16.0.0", True),
        ("172.31.255.255", True),
        ("172.32.0.0", False),
        ("192.168.0.1", True),
        ("192.169.0.1", False),
        ("169.254.0.1", True),
        ("169.253.0.1", False),
        ("127.9.9.9", True),
        ("::1", True),
        ("::2", False),
        ("fc00::1", True),
        ("fdff::1", True),
        ("fe80::1", True),
        ("fec0::1", False),
        ("2001:db8::1", False),
    ],
)
def test_exempt_networks(ip: str, exempt: bool) -> None:
    assert is_exempt(pack_ip(ip)) is exempt


def test_compact_form() -> None:
    (vector,) = VECTORS["compact"]
    found = contact_of(bytes.fromhex(vector["compact_hex"])) if "compact_hex" in vector else contact("10.0.0.1")
    assert found.address == (vector["ip"], vector["port"])
    four = contact("5.6.7.8", b"i" * 20, port=513)
    assert four.compact == b"i" * 20 + bytes([5, 6, 7, 8, 2, 1])
    assert (four.address, four.network, four.host) == (("5.6.7.8", 513), bytes([5, 6, 7]), bytes([5, 6, 7, 8]))
    six = contact("2001:db8:1:2::5", b"i" * 20, port=513)
    assert (six.address, six.network) == (("2001:db8:1:2::5", 513), bytes.fromhex("20010db800010002"))
    assert repr(four) == "<Contact 69696969 at 5.6.7.8 port 513>"


def test_contacts_are_shared() -> None:
    assert contact_at(b"i" * 20, ("5.6.7.8", 513)) is contact("5.6.7.8", b"i" * 20, port=513)
    assert compact_address(("5.6.7.8", 513)) == bytes([5, 6, 7, 8, 2, 1])
    entries = contact("5.6.7.8").compact + contact("5.6.7.9").compact
    assert contacts_in(entries, 26) == [contact("5.6.7.8"), contact("5.6.7.9")]


def test_on_loopback_a_node_is_an_address_and_a_port() -> None:
    one, other = contact("127.0.0.1", b"i" * 20, port=1), contact("127.0.0.1", b"i" * 20, port=2)
    assert one.is_loopback
    assert one.host != other.host
    assert contact("::1", b"i" * 20).is_loopback
    assert not contact("5.6.7.8").is_loopback


def test_fits_is_remembered() -> None:
    made = Contact(contact("124.31.75.21", bytes.fromhex("5fbfbff10c5d6a4ec8a88e4c6ab4c28b95eee401")).compact)
    assert made.fits
    assert made.fits
    assert not contact("124.31.75.21", b"x" * 20).fits


@pytest.mark.parametrize(
    ("ip", "port", "reach"),
    [
        ("5.6.7.8", 1, "global"),
        ("5.6.7.8", 0, "never"),
        ("10.1.1.1", 1, "private"),
        ("127.0.0.1", 1, "loopback"),
        ("224.0.0.1", 1, "never"),
        ("2001:db9::1", 1, "global"),
        ("2001:db9::1", 0, "never"),
    ],
)
def test_reach(ip: str, port: int, reach: str) -> None:
    found = contact(ip, b"i" * 20, port=port)
    assert found.reach == reach
    assert found.reach == reach


def test_an_ipv4_mapped_address_is_nobodys() -> None:
    assert contact_of(b"i" * 20 + bytes(10) + b"\xff\xff\x7f\x00\x00\x01\x1a\xe1").reach == "never"


@pytest.mark.parametrize(
    ("teller", "named", "may"),
    [
        ("5.6.7.8", "6.7.8.9", True),
        ("127.0.0.1", "6.7.8.9", True),
        ("5.6.7.8", "10.0.0.1", False),
        ("5.6.7.8", "127.0.0.1", False),
        ("10.0.0.2", "10.0.0.1", True),
        ("10.0.0.2", "127.0.0.1", False),
        ("127.0.0.2", "10.0.0.1", True),
        ("127.0.0.2", "127.0.0.1", True),
        ("127.0.0.2", "224.0.0.1", False),
    ],
)
def test_nobody_points_us_into_a_network_that_he_is_not_in(teller: str, named: str, may: bool) -> None:
    assert contact(named).may_be_named_by(contact(teller)) is may


def test_the_same_bytes_are_the_same_node() -> None:
    """However many were met in between, so that a node remembered is not made again."""
    one = Contact(contact("5.6.7.8").compact)
    assert one is not contact("5.6.7.8")
    assert one == contact("5.6.7.8")
    assert one in {contact("5.6.7.8")}
    assert one != contact("5.6.7.8", port=2)
    assert one != "5.6.7.8"
