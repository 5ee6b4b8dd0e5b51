"""BEP 40, by the examples of the BEP and of other clients' tests."""

from __future__ import annotations

import pytest

from btor.swarm.priority import peer_priority

VECTORS = [
    ("123.213.32.10", 0, "98.76.54.32", 0, 0xEC2D7224),
    ("123.213.32.10", 0, "123.213.32.234", 0, 0x99568189),
    ("206.248.98.111", 0, "142.147.89.224", 0, 0x2B41D456),
    ("230.12.123.3", 1234, "230.12.123.3", 300, 0xAE8B7034),
    ("230.12.123.1", 1234, "230.12.123.3", 300, 0x99C54D79),
    ("230.12.23.1", 1234, "230.12.123.3", 300, 0x21FD5F80),
    ("230.120.23.1", 1234, "230.12.123.3", 300, 0xFA9A860E),
    ("ffff:" * 7 + "ffff", 1234, "ffff:" * 7 + "ffff", 300, 0xAE8B7034),
    ("ffff:" * 7 + "ffff", 1234, "ffff:0fff:" + "ffff:" * 5 + "ffff", 300, 0x59D71F38),
    ("ffff:" * 7 + "ffff", 1234, "ffff:ffff:0fff:" + "ffff:" * 4 + "ffff", 300, 0x081D5282),
    ("ffff:" * 7 + "ffff", 1234, "ffff:ffff:ff0f:" + "ffff:" * 4 + "ffff", 300, 0x755F8512),
    ("ffff:" * 7 + "ffff", 1234, "ffff:ffff:ffff:0fff:" + "ffff:" * 3 + "ffff", 300, 0x27A88382),
]


@pytest.mark.parametrize(("one", "port", "other", "other_port", "expected"), VECTORS)
def test_vectors(one: str, port: int, other: str, other_port: int, expected: int) -> None:
    assert peer_priority((one, port), (other, other_port)) == expected
    assert peer_priority((other, other_port), (one, port)) == expected


def test_two_families_have_no_priority() -> None:
    with pytest.raises(ValueError):
        peer_priority(("192.0.2.1", 1), ("2001:db8::1", 1))
