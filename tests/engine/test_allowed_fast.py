"""How much a side that is choked may have all the same (BEP 6): a little of a large torrent, whoever asks how often."""

from __future__ import annotations

import random
import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest

from btor.engine.fast import Fast
from btor.limits import ALLOWED_FAST, ALLOWED_FAST_COPIES, ALLOWED_FAST_ONE_IN, ALLOWED_FAST_PART, BLOCK
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.geometry import Geometry
from btor.swarm.allowed_fast import allowed_fast_set

INFO_HASH = b"\xaa" * 20
ADDRESS = "80.4.4.200"


def transfer_of(pieces: int, *, piece_length: int = BLOCK, have: range | None = None) -> Any:
    held = Bitfield(pieces)
    for piece in range(pieces) if have is None else have:
        held.add(piece)
    geometry = Geometry(pieces * piece_length, piece_length)
    return SimpleNamespace(geometry=geometry, info_hash=INFO_HASH, have=held, uploaded=0, granted=0)


def fast_to(transfer: Any, ip: str = ADDRESS, *, has: int = 0, upload_only: bool = False) -> Fast:
    source = SimpleNamespace(have_count=has)
    peer = SimpleNamespace(transfer=transfer, address=(ip, 6881), upload_only=upload_only, source=source)
    return Fast(cast(Any, peer))


def pieces_of(messages: bytes) -> list[int]:
    found = []
    for start in range(0, len(messages), 9):
        length, kind, piece = struct.unpack_from(">IBI", messages, start)
        assert (length, kind) == (5, 17)
        found.append(piece)
    return found


@pytest.mark.parametrize(
    ("pieces", "count"),
    [
        (1, 0),
        (ALLOWED_FAST_ONE_IN - 1, 0),
        (ALLOWED_FAST_ONE_IN, 1),
        (2 * ALLOWED_FAST_ONE_IN - 1, 1),
        (ALLOWED_FAST * ALLOWED_FAST_ONE_IN - 1, ALLOWED_FAST - 1),
        (ALLOWED_FAST * ALLOWED_FAST_ONE_IN, ALLOWED_FAST),
        (10 * ALLOWED_FAST * ALLOWED_FAST_ONE_IN, ALLOWED_FAST),
    ],
)
def test_a_peer_may_have_one_piece_in_a_hundred_and_at_most_ten(pieces: int, count: int) -> None:
    granted = pieces_of(fast_to(transfer_of(pieces)).grant())
    assert granted == allowed_fast_set(ADDRESS, INFO_HASH, pieces)[:count]


@pytest.mark.parametrize(("has", "count"), [(0, 10), (ALLOWED_FAST - 1, 10), (ALLOWED_FAST, 0)])
def test_a_peer_that_has_pieces_to_trade_needs_none(has: int, count: int) -> None:
    assert len(pieces_of(fast_to(transfer_of(1000), has=has).grant())) == count


def test_none_to_who_wants_none_over_ipv6_or_twice() -> None:
    transfer = transfer_of(1000)
    assert fast_to(transfer, upload_only=True).grant() == b""
    assert fast_to(transfer, "2001:db8::1").grant() == b""
    assert transfer.granted == 0
    fast = fast_to(transfer)
    assert fast.grant()
    assert fast.grant() == b""


def test_only_pieces_that_are_here() -> None:
    transfer = transfer_of(1000, have=range(500))
    wanted = allowed_fast_set(ADDRESS, INFO_HASH, 1000)
    assert pieces_of(fast_to(transfer).grant()) == [piece for piece in wanted if piece < 500]


def test_a_granted_piece_is_sent_three_times_and_outlives_a_choke() -> None:
    transfer = transfer_of(1000, piece_length=2 * BLOCK)
    fast = fast_to(transfer)
    (first, *_) = pieces_of(fast.grant())
    other = next(piece for piece in range(1000) if not fast.was_granted(piece))
    asked = 2 * ALLOWED_FAST_COPIES
    assert [fast.is_granted(first) for _ in range(asked + 1)] == [True] * asked + [False]
    assert not fast.is_granted(other)
    assert fast.was_granted(first)
    assert not fast_to(transfer).is_granted(first)  # before anything was granted
    assert not fast_to(transfer).was_granted(first)


@pytest.mark.parametrize("pieces", [100, 250, 1000, 5000])
def test_however_many_ask_they_get_one_byte_in_ten(pieces: int) -> None:
    rng = random.Random(pieces)
    transfer = transfer_of(pieces)
    total = most = 0
    for _ in range(500):
        fast = fast_to(transfer, f"{rng.randint(11, 99)}.{rng.randrange(256)}.{rng.randrange(256)}.9")
        granted = pieces_of(fast.grant())
        total += BLOCK * sum(fast.is_granted(piece) for piece in granted for _ in range(3 * ALLOWED_FAST_COPIES))
        most = (transfer.geometry.total_length + transfer.uploaded) // ALLOWED_FAST_PART
        assert total == transfer.granted <= most
        if rng.random() < 0.3:
            transfer.uploaded += rng.randrange(pieces * BLOCK // 5)
    assert total > most // 2  # nor is the rule so strict that nobody gets any


def test_the_first_few_peers_get_some_before_anything_was_sent() -> None:
    transfer = transfer_of(1000)
    counts = [len(pieces_of(fast_to(transfer, f"80.4.{net}.1").grant())) for net in range(5)]
    assert counts == [10, 10, 10, 3, 0]
    transfer.uploaded = 10 * ALLOWED_FAST_COPIES * BLOCK
    assert len(pieces_of(fast_to(transfer).grant())) == 1
