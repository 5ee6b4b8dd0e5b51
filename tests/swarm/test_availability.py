"""Counts of all pieces at once, against a plain Counter."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.metainfo.bitfield import Bitfield
from btor.swarm import availability
from btor.swarm.availability import MERGE_AT, Availability


def pieces_of(size: int, members: set[int]) -> int:
    """A set of pieces as the number that Availability takes."""
    bits = Bitfield(size)
    for piece in members:
        bits.add(piece)
    return bits.to_int()


def members_of(size: int, number: int) -> set[int]:
    return set(Bitfield.from_wire(number.to_bytes((size + 7) // 8, "big"), size))


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[tuple[str, set[int]]]]:
    size = draw(st.integers(1, 40))
    some = st.sets(st.integers(0, size - 1))
    return size, draw(st.lists(st.tuples(st.sampled_from(["add", "one by one", "remove"]), some), max_size=30))


@given(histories())
def test_counts_equal_a_recount_after_each_step(history: tuple[int, list[tuple[str, set[int]]]]) -> None:
    size, steps = history
    counted = Availability(size)
    sources: list[set[int]] = []
    for step, members in steps:
        if step == "add":
            counted.add(pieces_of(size, members))
            sources.append(members)
        elif step == "one by one":
            for piece in sorted(members):
                counted.add_one(piece)
            sources.append(members)
        elif sources:
            counted.remove(pieces_of(size, sources.pop(len(members) % len(sources))))
        recount = Counter(piece for source in sources for piece in source)
        if step == "remove":
            assert members_of(size, counted.anywhere()) == recount.keys()
        assert [counted.count(piece) for piece in range(size)] == [recount[piece] for piece in range(size)]


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=40),
    st.integers(1, 50),
    st.booleans(),
    st.data(),
)
def test_ranked_narrows_to_the_rarest(counts: list[int], enough: int, common_first: bool, data: st.DataObject) -> None:
    size = len(counts)
    counted = Availability(size)
    for level in range(9):
        counted.add(pieces_of(size, {piece for piece in range(size) if counts[piece] > level}))
    candidates = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    classes = counted.ranked(pieces_of(size, candidates), enough, common_first=common_first)

    by_count: dict[int, set[int]] = {}
    for piece in candidates:
        by_count.setdefault(counts[piece], set()).add(piece)
    expected: list[set[int]] = []
    for count in sorted(by_count, reverse=common_first):
        if sum(map(len, expected)) < enough:
            expected.append(by_count[count])
    assert [members_of(size, number) for number, _ in classes] == expected
    assert [count for _, count in classes] == [len(members) for members in expected]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=90), st.integers(1, 90), st.data())
def test_ranked_in_a_window_is_ranked_of_its_pieces(counts: list[int], enough: int, data: st.DataObject) -> None:
    size = len(counts)
    counted = Availability(size)
    for level in range(9):
        counted.add(pieces_of(size, {piece for piece in range(size) if counts[piece] > level}))
    first = data.draw(st.integers(0, counted.length - 1))
    length = data.draw(st.integers(1, counted.length - first))
    inside = range(8 * first, min(size, 8 * (first + length)))
    candidates = data.draw(st.sets(st.sampled_from(inside), min_size=1))
    below = 8 * (counted.length - first - length)
    classes = counted.ranked(pieces_of(size, candidates) >> below, enough, (first, length))
    assert [(pieces << below, count) for pieces, count in classes] == counted.ranked(
        pieces_of(size, candidates), enough
    )


def test_seeds_count_once_for_all_pieces() -> None:
    counted = Availability(10)
    counted.seeds = 3
    counted.add_one(4)
    assert [counted.count(piece) for piece in (0, 4, 9)] == [3, 4, 3]


def test_single_pieces_are_merged_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "MERGE_AT", 8)
    counted = Availability(64)
    for piece in range(7):
        counted.add_one(piece)
        counted.add_one(piece)
    assert len(counted._pending) == 7
    counted.add_one(63)
    assert not counted._pending
    assert [counted.count(piece) for piece in (0, 6, 7, 63)] == [2, 2, 0, 1]
    assert MERGE_AT > 8


def test_single_pieces_that_two_sources_have_are_merged_into_nothing() -> None:
    counted = Availability(8)
    for piece in (1, 1, 2, 2):
        counted.add_one(piece)
    assert [members_of(8, number) for number, _ in counted.ranked(0xFF, 8)] == [{0, 3, 4, 5, 6, 7}, {1, 2}]
    assert [counted.count(piece) for piece in (0, 1, 2)] == [0, 2, 2]


def test_planes_shrink_when_sources_leave() -> None:
    counted = Availability(8)
    for _ in range(200):
        counted.add(0xFF)
    assert len(counted._planes) == 8
    for _ in range(200):
        counted.remove(0xFF)
    assert counted._planes == []


def test_everything_has_no_spare_bits() -> None:
    for size in (1, 7, 8, 9, 17):
        assert Availability(size).everything() == Bitfield.full(size).to_int()
