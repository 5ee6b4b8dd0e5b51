"""Tokens: bound to an address and an info-hash, good for five to ten minutes."""

from __future__ import annotations

import random

from btor import limits
from btor.dht.tokens import Tokens

IP, HASH = b"\x05\x06\x07\x08", b"h" * 20
LIFE = limits.DHT_TOKEN_ROTATION


def test_good_only_for_whom_it_was_made() -> None:
    tokens = Tokens(random.Random(1), 0.0)
    token = tokens.make(IP, HASH, 1.0)
    assert len(token) == 8
    assert tokens.is_good(token, IP, HASH, 2.0)
    assert not tokens.is_good(token, b"\x05\x06\x07\x09", HASH, 2.0)
    assert not tokens.is_good(token, IP, b"g" * 20, 2.0)
    assert not tokens.is_good(b"", IP, HASH, 2.0)
    assert not Tokens(random.Random(2), 0.0).is_good(token, IP, HASH, 2.0)


def test_good_for_one_rotation_more() -> None:
    tokens = Tokens(random.Random(1), 0.0)
    token = tokens.make(IP, HASH, LIFE - 0.1)
    assert tokens.is_good(token, IP, HASH, LIFE + 0.1)
    assert tokens.is_good(token, IP, HASH, 2 * LIFE + 0.05)
    assert not tokens.is_good(token, IP, HASH, 2 * LIFE + 0.2)


def test_after_a_long_rest_no_old_one_is_good() -> None:
    tokens = Tokens(random.Random(1), 0.0)
    token = tokens.make(IP, HASH, 0.0)
    assert not tokens.is_good(token, IP, HASH, 2 * LIFE)
