"""The canonical allowed-fast set, by the examples of BEP 6."""

from __future__ import annotations

import pytest

from btor.limits import ALLOWED_FAST
from btor.swarm.allowed_fast import allowed_fast_set

NINE = [1059, 431, 808, 1217, 287, 376, 1188, 353, 508]


@pytest.mark.parametrize(
    ("ip", "info_hash", "pieces", "size", "expected"),
    [
        ("80.4.4.200", b"\xaa" * 20, 1313, 7, NINE[:7]),
        ("80.4.4.200", b"\xaa" * 20, 1313, 9, NINE),
        ("80.4.4.1", b"\xaa" * 20, 1313, 9, NINE),
        ("10.1.2.3", bytes(20), 20, 10, [2, 11, 4, 19, 8, 15, 3, 14, 7, 1]),
        ("80.4.4.200", b"\xaa" * 20, 5, 10, [0, 1, 2, 3, 4]),
        ("80.4.4.200", b"\xaa" * 20, 1, 1, [0]),
        ("2001:db8::1", b"\xaa" * 20, 1313, 9, []),
    ],
)
def test_vectors(ip: str, info_hash: bytes, pieces: int, size: int, expected: list[int]) -> None:
    assert allowed_fast_set(ip, info_hash, pieces, size) == expected


def test_there_are_ten_of_them() -> None:
    assert len(allowed_fast_set("80.4.4.200", bytes(20), 1000)) == ALLOWED_FAST
    assert len(set(allowed_fast_set("80.4.4.200", bytes(20), ALLOWED_FAST + 1))) == ALLOWED_FAST
