"""Which untouched piece comes next: rarity, runs, batches that grow old."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import limits
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.geometry import Geometry
from btor.swarm import choices
from btor.swarm.availability import Availability, Window
from btor.swarm.choices import (
    CHOICES_LIFE,
    CHOICES_LIFE_MAX,
    CHOICES_MAX,
    CHOICES_PIECES,
    Choices,
    few_members,
    members,
)
from btor.swarm.source import Source

MIB = 1024 * 1024


class Torrent:
    """``Choices`` with the sources counted as the picker counts them."""

    def __init__(self, pieces: int, piece_length: int = MIB, seed: int = 1, have: set[int] | None = None) -> None:
        self.geometry = Geometry(pieces * piece_length, piece_length)
        had = Bitfield(pieces)
        for piece in have or ():
            had.add(piece)
        self.availability = Availability(pieces)
        missing = self.availability.everything() ^ had.to_int()
        self.choices = Choices(self.geometry, missing, self.availability, random.Random(seed))

    def source(self, pieces: set[int] | None = None) -> Source:
        """A source of ``pieces``, or a seed."""
        made = Source(0, self.availability.length)
        if pieces is None:
            made.complete = True
            self.availability.seeds += 1
        for piece in pieces or ():
            self.add(made, piece)
        return made

    def add(self, source: Source, piece: int) -> None:
        source.bits[piece >> 3] |= 0x80 >> (piece & 7)
        self.availability.add_one(piece)
        self.choices.on_have(source, piece)

    def pick(self, source: Source, count: int, now: float = 0.0, random_first: int = 0) -> list[int]:
        return self.choices.pick(source, count, now, random_first)


@given(st.sets(st.integers(0, 79), min_size=1), st.integers(0, 79))
def test_members_go_once_around(pieces: set[int], start: int) -> None:
    bits = Bitfield(80)
    for piece in pieces:
        bits.add(piece)
    ahead = sorted(piece for piece in pieces if piece >= start)
    assert list(members(bits.to_wire(), start)) == ahead + sorted(pieces - set(ahead))
    assert few_members(bits.to_int(), 10, start) == ahead + sorted(pieces - set(ahead))


def test_the_rarest_come_first() -> None:
    torrent = Torrent(30)
    torrent.source(set(range(20)))
    torrent.source(set(range(10)))
    seed = torrent.source()
    assert sorted(torrent.pick(seed, 10)) == list(range(20, 30))
    assert sorted(torrent.pick(seed, 10)) == list(range(10, 20))
    assert sorted(torrent.pick(seed, 99)) == list(range(10))
    assert torrent.pick(seed, 1) == []
    assert torrent.choices.count == 0


def test_a_snubbed_source_begins_with_the_most_common() -> None:
    torrent = Torrent(30)
    torrent.source(set(range(20)))
    torrent.source(set(range(10)))
    seed = torrent.source()
    seed.snubbed = True
    assert sorted(torrent.pick(seed, 10)) == list(range(10))


def test_untouched_pieces_can_be_had_while_a_source_has_one() -> None:
    torrent = Torrent(20, have={0})
    choices = torrent.choices
    assert not choices.obtainable()
    source = torrent.source({0, 5, 6, 19})
    for _ in (5, 6, 19):
        assert choices.obtainable()
        assert choices.obtainable()  # from what was found before
        torrent.pick(source, 1)
    assert not choices.obtainable()
    choices.put_back(6)
    assert choices.obtainable()
    torrent.availability.remove(0b00000010 << 16)
    assert not choices.obtainable()
    torrent.source()
    assert choices.obtainable()


def test_nothing_untouched_can_be_had_of_a_seed_when_there_is_nothing() -> None:
    torrent = Torrent(3, have={0, 1, 2})
    torrent.source()
    assert not torrent.choices.obtainable()


def test_of_equals_a_run_ascends_from_anywhere() -> None:
    starts = Counter()  # type: Counter[int]
    for seed in range(300):
        torrent = Torrent(64, seed=seed)
        picked = torrent.pick(torrent.source(), 8)
        assert picked == [(picked[0] + k) % 64 for k in range(8)]
        starts[picked[0]] += 1
    assert len(starts) > 55  # of 64, from 300 tries
    assert max(starts.values()) < 20


def test_runs_of_two_sources_differ() -> None:
    torrent = Torrent(1000)
    one, other = torrent.source(), torrent.source()
    first, second = torrent.pick(one, 50), torrent.pick(other, 50)
    assert not set(first) & set(second)


def test_the_first_pieces_are_random_whatever_their_rarity() -> None:
    seen: set[int] = set()
    for seed in range(60):
        torrent = Torrent(16, seed=seed)
        torrent.source(set(range(15)))  # piece 15 is the rarest
        source = torrent.source()
        picked = torrent.pick(source, 2, random_first=2)
        assert len(set(picked)) == 2
        seen.update(picked)
    assert len(seen) == 16
    torrent = Torrent(16)
    torrent.source(set(range(15)))
    assert torrent.pick(torrent.source(), 1) == [15]


def test_random_first_is_followed_by_the_rarest_in_one_pick() -> None:
    torrent = Torrent(400)
    torrent.source(set(range(399)))
    picked = torrent.pick(torrent.source(), 10, random_first=2)
    assert len(set(picked)) == 10
    assert 399 in picked[:3]


def test_the_batch_follows_the_rate_up_to_its_bound() -> None:
    torrent = Torrent(100_000, piece_length=limits.BLOCK)
    source = torrent.source()
    source.rate = 100 * limits.BLOCK / torrent.choices._life
    torrent.pick(source, 1)
    assert len(source.choices) == 99
    fast = torrent.source()
    fast.rate = 1e12
    torrent.pick(fast, 1)
    assert len(fast.choices) == limits.AFFINITY_BYTES // limits.BLOCK - 1


@pytest.mark.parametrize(
    ("pieces", "life"),
    [
        (1, CHOICES_LIFE),
        (CHOICES_PIECES, CHOICES_LIFE),
        (5 * CHOICES_PIECES, 5 * CHOICES_LIFE),
        (limits.PIECE_COUNT, CHOICES_LIFE_MAX),
    ],
)
def test_a_batch_lives_longer_where_it_costs_more(pieces: int, life: float) -> None:
    torrent = Torrent(pieces, piece_length=limits.BLOCK)
    assert torrent.choices._life == pytest.approx(life)


def test_an_old_batch_is_made_anew() -> None:
    torrent = Torrent(30)
    source = torrent.source()
    source.rate = 10 * MIB / CHOICES_LIFE
    first = torrent.pick(source, 1, now=0.0)[0]
    run = [(first + k) % 30 for k in range(10)]
    torrent.source(set(range(30)) - {(first + 20) % 30})  # now that one is the rarest
    assert torrent.pick(source, 1, now=CHOICES_LIFE - 0.001) == [run[1]]
    assert torrent.pick(source, 1, now=CHOICES_LIFE) == [(first + 20) % 30]


def test_a_piece_taken_by_another_is_skipped() -> None:
    torrent = Torrent(30)
    source = torrent.source()
    source.rate = 10 * MIB / CHOICES_LIFE
    first = torrent.pick(source, 1)[0]
    torrent.choices.take_out((first + 1) % 30)
    assert torrent.choices.count == 28
    assert (first + 1) % 30 not in torrent.choices
    assert torrent.pick(source, 1) == [(first + 2) % 30]


def test_pieces_that_are_had_are_never_chosen() -> None:
    torrent = Torrent(20, have=set(range(0, 20, 2)))
    assert sorted(torrent.pick(torrent.source(), 20)) == list(range(1, 20, 2))


def test_a_source_with_nothing_more_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    torrent = Torrent(40)
    source = torrent.source({3})
    looks: list[int] = []
    choose = Choices._choose

    def counting(self: Choices, of: Source, pieces: int, wanted: int, window: Window | None) -> None:
        looks.append(wanted)
        choose(self, of, pieces, wanted, window)

    monkeypatch.setattr(Choices, "_choose", counting)
    assert torrent.pick(source, 5) == [3]
    assert torrent.pick(source, 5) == []
    torrent.add(source, 7)  # a new piece is chosen without looking at everything
    assert torrent.pick(source, 5, now=100.0) == [7]
    assert len(looks) == 1
    torrent.choices.put_back(3)  # what came back must be looked for
    assert torrent.choices.count == 39
    assert torrent.pick(source, 5) == [3]
    assert len(looks) == 2


def test_haves_are_gathered_up_to_the_bound() -> None:
    torrent = Torrent(CHOICES_MAX + 10)
    source = torrent.source(set())
    assert torrent.pick(source, 1) == []
    for piece in range(CHOICES_MAX + 1):
        assert len(source.choices) == min(piece, CHOICES_MAX)
        torrent.add(source, piece)
    assert len(source.choices) == CHOICES_MAX
    assert set(torrent.pick(source, CHOICES_MAX + 10)) == set(range(CHOICES_MAX + 1))


def test_a_source_without_any_piece_gives_nothing() -> None:
    torrent = Torrent(40)
    source = torrent.source(set())
    assert torrent.pick(source, 5) == []
    torrent.add(source, 39)
    assert torrent.pick(source, 5) == [39]


def test_a_have_of_a_piece_that_is_not_untouched_changes_nothing() -> None:
    torrent = Torrent(40, have={5})
    source = torrent.source({3})
    assert torrent.pick(source, 5) == [3]
    torrent.add(source, 5)
    assert source.choices == []


def test_pieces_to_avoid_stay_untouched_until_trusted_again() -> None:
    torrent = Torrent(10)
    source = torrent.source()
    source.avoid = dict.fromkeys(range(9), 1)
    assert torrent.pick(source, 5) == [9]
    assert torrent.pick(source, 5) == []
    torrent.choices.trust_again(source)
    assert len(torrent.pick(source, 5)) == 5


def test_a_chosen_piece_that_is_then_avoided_is_passed_over() -> None:
    torrent = Torrent(10)
    source = torrent.source()
    source.rate = 5 * MIB / CHOICES_LIFE
    first = torrent.pick(source, 1)[0]
    source.avoid[(first + 1) % 10] = 1
    assert torrent.pick(source, 1) == [(first + 2) % 10]


def test_forget_drops_a_batch() -> None:
    torrent = Torrent(10)
    source = torrent.source({1, 2, 3})
    source.rate = 5 * MIB / CHOICES_LIFE
    torrent.pick(source, 1)
    source.bits[0] = 0  # it has nothing now
    torrent.choices.forget(source)
    assert torrent.pick(source, 9) == []


def test_any_of_names_a_member_each_about_as_often() -> None:
    torrent = Torrent(24)
    number = Bitfield(24)
    for piece in (0, 9, 10, 23):
        number.add(piece)
    found = Counter(torrent.choices.any_of(number.to_int()) for _ in range(200))
    assert set(found) == {0, 9, 10, 23}


# --- torrents so large that only a part of them is looked at at once -----------------------------------------------


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(choices, "WINDOW", 64)
    return 64


def test_of_a_large_torrent_the_rarest_of_some_neighbours_comes_first(small_window: int) -> None:
    torrent = Torrent(1_000)
    rare = set(range(0, 1_000, 10))
    torrent.source(set(range(1_000)) - rare)
    assert torrent.availability.anywhere()  # single pieces count only once they are merged
    seed = torrent.source()
    for _ in range(3):
        seed.choices.clear()
        picked = torrent.pick(seed, 2)
        assert set(picked) <= rare
        assert max(picked) - min(picked) < small_window


def test_nothing_of_a_large_torrent_is_forgotten(small_window: int) -> None:
    torrent = Torrent(1_003)
    torrent.source(set(range(0, 1_003, 3)))
    has = set(range(0, 1_003, 2))
    source = torrent.source(has)
    source.avoid[500] = 1
    picked: list[int] = []
    while some := torrent.pick(source, 7, random_first=4 - len(picked)):
        picked += some
    assert sorted(picked) == sorted(has - {500})
    assert source.dry == torrent.choices._returns


def test_neighbours_that_are_all_chosen_are_not_all_there_is(small_window: int) -> None:
    torrent = Torrent(1_000, piece_length=limits.BLOCK)
    source = torrent.source(set(range(1_000)) - {0})
    source.rate = 1e9  # more is wanted than the neighbours have
    picked: list[int] = []
    while some := torrent.pick(source, 1):
        picked += some
    assert sorted(picked) == list(range(1, 1_000))


def test_where_the_neighbours_have_too_little_all_is_looked_at(small_window: int) -> None:
    torrent = Torrent(4_000)
    source = torrent.source({3_999, 7})
    assert sorted(torrent.pick(source, 2)) == [7, 3_999]
    assert torrent.pick(source, 1) == []


def test_a_large_torrent_is_looked_at_in_parts_and_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2,000,000 pieces: no set that is compared has more than WINDOW, and a look brings many pieces."""
    looks: list[int] = []
    ranked = Availability.ranked

    def watching(
        self: Availability, pieces: int, enough: int, window: Window | None = None, *, common_first: bool = False
    ) -> list[tuple[int, int]]:
        looks.append(pieces.bit_length())
        return ranked(self, pieces, enough, window, common_first=common_first)

    monkeypatch.setattr(Availability, "ranked", watching)
    torrent = Torrent(2_000_000, piece_length=limits.BLOCK)
    half = Bitfield.from_wire(random.Random(1).randbytes(250_000), 2_000_000)
    source = torrent.source(set())
    source.bits[:] = half.to_wire()
    torrent.availability.add(half.to_int())
    picked = [piece for _ in range(500) for piece in torrent.pick(source, 4)]
    assert len(set(picked)) == 2_000
    assert all(piece in half for piece in picked)
    assert len(looks) <= 2_000 * CHOICES_PIECES / 2_000_000
    assert max(looks) <= choices.WINDOW
