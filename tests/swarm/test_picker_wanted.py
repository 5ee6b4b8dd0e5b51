"""A picker of which not all pieces are wanted: it asks for those that are, and is interested in nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from btor.limits import BLOCK
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.geometry import Geometry
from btor.swarm.picker import Picker
from btor.swarm.source import Source

SIZE = 12  # pieces of two blocks, the last one short
GEOMETRY = Geometry(SIZE * 2 * BLOCK - 5, 2 * BLOCK)


def some(pieces: Iterable[int]) -> Bitfield:
    made = Bitfield(SIZE)
    for piece in pieces:
        made.add(piece)
    return made


def picker(wanted: Iterable[int], have: Iterable[int] = ()) -> Picker:
    return Picker(GEOMETRY, some(have), random.Random(1), some(wanted))


def source(picker: Picker, key: int, pieces: Iterable[int] | None = None) -> Source:
    made = picker.add_source(key)
    if pieces is None:
        picker.on_have_all(made)
    else:
        picker.on_bitfield(made, some(pieces))
    made.choked = False
    return made


def fetch(picker: Picker, source: Source, now: float = 0.0) -> set[int]:
    """Ask for everything that there is to ask, and have it."""
    fetched = set()
    while runs := picker.take(source, 100, now):
        for piece, first, count in runs:
            if picker.on_blocks(source, piece, first, count)[2]:
                picker.on_verified(piece)
                fetched.add(piece)
            picker.check_invariants()
    return fetched


@given(st.sets(st.integers(0, SIZE - 1)), st.sets(st.integers(0, SIZE - 1)), st.sets(st.integers(0, SIZE - 1)))
def test_what_is_wanted_is_fetched_and_nothing_else(wanted: set[int], have: set[int], offered: set[int]) -> None:
    tested = picker(wanted, have)
    seed, other = source(tested, 1), source(tested, 2, offered)
    tested.check_invariants()
    missing = wanted - have
    assert tested.missing == len(missing)
    assert tested.missing_bytes == sum(map(GEOMETRY.piece_size, missing))
    assert tested.is_interesting(seed) == bool(missing)
    assert tested.is_interesting(other) == bool(missing & offered)
    assert fetch(tested, other) == missing & offered
    assert not tested.is_interesting(other)
    assert fetch(tested, seed) == missing - offered
    assert (tested.missing, tested.missing_bytes) == (0, 0)
    assert not tested.is_interesting(seed)
    assert not tested.in_endgame


def test_a_have_of_what_is_not_wanted_is_not_interesting() -> None:
    tested = picker({3})
    peer = source(tested, 1, {0})
    assert not tested.is_interesting(peer)
    tested.on_have(peer, 5)
    assert not tested.is_interesting(peer)
    tested.on_have(peer, 3)
    assert tested.is_interesting(peer)


def test_what_is_suggested_or_allowed_and_not_wanted_is_not_asked() -> None:
    tested = picker({3})
    peer = source(tested, 1)
    tested.on_suggest(peer, 5, 0.0)
    assert tested.take_allowed(peer, (5, 6), 10) == []
    assert [run[0] for run in tested.take(peer, 10, 0.0)] == [3]
    tested.check_invariants()


def test_what_is_lost_is_missing_only_if_it_is_wanted() -> None:
    tested = picker({3, 4}, have={3, 5})
    peer = source(tested, 1, {3, 5})
    assert not tested.is_interesting(peer)
    tested.on_lost(5)
    tested.check_invariants()
    assert (tested.missing, tested.is_interesting(peer)) == (1, False)
    tested.on_verified(5)
    tested.check_invariants()
    assert tested.missing == 1
    tested.on_lost(3)
    tested.check_invariants()
    assert (tested.missing, tested.is_interesting(peer)) == (2, True)
