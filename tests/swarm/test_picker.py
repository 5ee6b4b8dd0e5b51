"""The picker rule by rule: what is asked of whom, what comes back, what is never lost."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest

from btor import limits
from btor.errors import PeerError
from btor.limits import BLOCK
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.geometry import Geometry
from btor.swarm.choices import CHOICES_MAX
from btor.swarm.picker import RETRY, SHARE, SHARE_LATENCIES, SHARE_MIN, Picker, Run
from btor.swarm.source import Source

FAST = 1e9
KEYS = iter(range(10**9))


def picker_of(pieces: int, blocks: int, *, have: Iterable[int] = (), seed: int = 1, last: int = 0) -> Picker:
    """``pieces`` of ``blocks`` blocks each; ``last``: bytes that the last piece lacks."""
    had = Bitfield(pieces)
    for piece in have:
        had.add(piece)
    return Picker(Geometry(pieces * blocks * BLOCK - last, blocks * BLOCK), had, random.Random(seed))


def join(picker: Picker, pieces: Iterable[int] | None = None, *, rate: float = 0.0) -> Source:
    """A source of ``pieces``, or a seed, that does not choke us."""
    source = picker.add_source(next(KEYS))
    source.choked = False
    source.rate = rate
    if pieces is None:
        picker.on_have_all(source)
    else:
        bits = Bitfield(picker.geometry.piece_count)
        for piece in pieces:
            bits.add(piece)
        picker.on_bitfield(source, bits)
    return source


def take(picker: Picker, source: Source, room: int, now: float = 0.0) -> list[Run]:
    runs = picker.take(source, room, now)
    picker.check_invariants()
    return runs


def blocks(runs: Iterable[Run]) -> set[tuple[int, int]]:
    return {(piece, block) for piece, first, count in runs for block in range(first, first + count)}


def deliver(picker: Picker, source: Source, runs: Iterable[Run]) -> None:
    """All blocks of ``runs`` come and are good."""
    for piece, first, count in runs:
        mask = ((1 << count) - 1) << first
        requested, new, complete = picker.on_blocks(source, piece, first, count)
        assert requested == new == mask
        if complete:
            picker.on_verified(piece)
    picker.check_invariants()


def fetch(picker: Picker, source: Source, room: int, now: float = 0.0) -> list[Run]:
    runs = take(picker, source, room, now)
    deliver(picker, source, runs)
    return runs


def fail(picker: Picker, contributors: dict[Source, list[Run]]) -> int:
    """The piece of these runs comes from these sources, and its hash is wrong."""
    verdicts = [picker.on_blocks(source, *run) for source, runs in contributors.items() for run in runs]
    assert [complete for _, _, complete in verdicts] == [False] * (len(verdicts) - 1) + [True]
    piece = next(run[0] for runs in contributors.values() for run in runs)
    picker.on_failed(piece, [source.key for source in contributors])
    picker.check_invariants()
    return piece


# --- new pieces --------------------------------------------------------------------------------------------------


def test_nothing_is_asked_of_a_choking_source_nor_without_room() -> None:
    picker = picker_of(4, 4)
    source = picker.add_source(1)
    assert source.choked
    picker.on_have_all(source)
    assert take(picker, source, 10) == []
    source.choked = False
    assert take(picker, source, 0) == []
    assert take(picker, source, -3) == []
    assert len(blocks(take(picker, source, 10))) == 10


def test_a_download_from_one_seed_asks_each_block_once() -> None:
    picker = picker_of(9, 5, last=3 * BLOCK + 1)
    source = join(picker)
    asked: list[Run] = []
    while not picker.have.complete:
        runs = fetch(picker, source, 7)
        assert runs
        asked += runs
    assert len(blocks(asked)) == sum(count for _, _, count in asked) == 8 * 5 + 2
    assert take(picker, source, 7) == []


def test_room_is_used_up_where_the_last_piece_is_short() -> None:
    picker = picker_of(2, 8, last=7 * BLOCK)
    source = join(picker)
    assert sum(count for _, _, count in take(picker, source, 9)) == 9


def test_rarest_first_after_the_random_first_pieces() -> None:
    picker = picker_of(40, 1, have=range(limits.RANDOM_FIRST_PIECES))
    join(picker, range(30))
    seed = join(picker)
    assert {piece for piece, _, _ in take(picker, seed, 10)} == set(range(30, 40))


def test_the_first_pieces_are_random() -> None:
    firsts: set[int] = set()
    for seed in range(200):
        picker = picker_of(40, 1, seed=seed)
        join(picker, range(39))  # piece 39 is the rarest
        firsts |= {piece for piece, _, _ in take(picker, join(picker), limits.RANDOM_FIRST_PIECES)}
    assert firsts == set(range(40))
    picker = picker_of(40, 1)
    join(picker, range(39))
    source = join(picker)
    take(picker, source, limits.RANDOM_FIRST_PIECES)
    assert take(picker, source, 1) == [(39, 0, 1)]


def test_small_pieces_are_asked_in_one_ascending_run() -> None:
    picker = picker_of(1000, 1, have=range(limits.RANDOM_FIRST_PIECES))
    runs = take(picker, join(picker), 256)
    pieces = [piece for piece, _, _ in runs]
    assert len(pieces) == 256
    jumps = sum(after != before + 1 for before, after in itertools.pairwise(pieces))
    assert jumps <= 1  # around the end


def test_a_snubbed_source_begins_the_most_common_pieces() -> None:
    picker = picker_of(40, 1, have=range(4))
    join(picker, range(30))
    seed = join(picker)
    seed.snubbed = True
    assert {piece for piece, _, _ in take(picker, seed, 10)} <= set(range(4, 30))


def test_pieces_that_only_others_have_are_not_asked() -> None:
    picker = picker_of(20, 2)
    join(picker)
    source = join(picker, {3, 9})
    assert {piece for piece, _, _ in take(picker, source, 50)} == {3, 9}


# --- partial pieces ----------------------------------------------------------------------------------------------


def test_slow_sources_share_a_piece() -> None:
    picker = picker_of(20, 8)
    one, two, three = (join(picker, rate=1000.0) for _ in range(3))
    runs = take(picker, one, 3) + take(picker, two, 3) + take(picker, three, 2)
    assert len({piece for piece, _, _ in runs}) == 1
    assert [(first, count) for _, first, count in runs] == [(0, 3), (3, 3), (6, 2)]


def test_a_fast_source_keeps_its_piece() -> None:
    picker = picker_of(20, 8)
    needed = 8 * BLOCK / limits.AFFINITY_SECONDS
    fast, slow = join(picker, rate=needed), join(picker, rate=needed - 1)
    (first,) = take(picker, fast, 3)
    (other,) = take(picker, slow, 3)
    assert other[0] != first[0]
    assert take(picker, fast, 5) == [(first[0], 3, 5)]
    third = join(picker)
    assert take(picker, third, 3) == [(other[0], 3, 3)]


def test_what_is_kept_for_one_is_had_by_others_before_they_are_idle() -> None:
    picker = picker_of(1, 8)
    fast, other = join(picker, rate=FAST), join(picker)
    assert take(picker, fast, 2) == [(0, 0, 2)]
    assert take(picker, other, 2) == [(0, 2, 2)]
    assert take(picker, fast, 2) == [(0, 4, 2)]  # it is shared now


@pytest.mark.parametrize("end", ["leaves", "chokes", "times out"])
def test_what_is_kept_for_one_is_shared_when_it_lets_go(end: str) -> None:
    picker = picker_of(9, 8)
    fast, other = join(picker, rate=FAST), join(picker)
    ((piece, _, _),) = take(picker, fast, 3)
    picker.on_blocks(fast, piece, 0, 1)
    if end == "leaves":
        picker.remove_source(fast)
    elif end == "chokes":
        picker.on_choked(fast)
        assert fast.choked
    else:
        picker.release(fast, [(piece, 0, 3)])
    picker.check_invariants()
    assert take(picker, other, 8)[0] == (piece, 1, 7)


def test_what_is_kept_for_one_that_leaves_with_nothing_outstanding_is_shared() -> None:
    picker = picker_of(1, 8)
    fast, other = join(picker, rate=FAST), join(picker)
    fetch(picker, fast, 3)
    assert fast.own
    picker.remove_source(fast)
    assert take(picker, other, 8) == [(0, 3, 5)]


def test_a_piece_of_which_nothing_came_is_untouched_again() -> None:
    picker = picker_of(9, 8)
    source = join(picker)
    take(picker, source, 20)
    assert len(list(picker._open)) == 3
    picker.on_choked(source)
    picker.check_invariants()
    assert list(picker._open) == []


def leave_partials(picker: Picker, pieces: Iterable[int]) -> None:
    """Sources that nobody can replace leave these pieces half done."""
    for piece in pieces:
        gone = join(picker, {piece})
        picker.on_blocks(gone, *take(picker, gone, 2)[0])
        picker.remove_source(gone)


@pytest.mark.parametrize(("partials", "kept"), [(3, True), (4, False)])
def test_above_the_guard_on_open_pieces_nothing_is_kept_for_one(partials: int, kept: bool) -> None:
    """Two sources: 1.5 partial pieces each are in order."""
    picker = picker_of(50, 8)
    leave_partials(picker, range(partials))
    fast, _ = join(picker, {20}, rate=FAST), join(picker, set())
    assert take(picker, fast, 1) == [(20, 0, 1)]
    assert bool(fast.own) == kept


@pytest.mark.parametrize(("partials", "first"), [(2, 30), (3, 20)])
def test_above_the_guard_partials_come_before_new_pieces_whoever_they_are_kept_for(partials: int, first: int) -> None:
    """As before, but the piece was kept while there were few: it is the one partial more."""
    picker = picker_of(50, 8)
    fast, other = join(picker, {20}, rate=FAST), join(picker, {20, 30})
    assert take(picker, fast, 1) == [(20, 0, 1)]
    leave_partials(picker, range(partials))
    assert take(picker, other, 1)[0][0] == first


def test_above_the_guard_on_open_blocks_nothing_is_kept_for_one() -> None:
    for per_piece, kept in ((limits.OPEN_BLOCKS, True), (limits.OPEN_BLOCKS + 1, False)):
        picker = picker_of(3, per_piece)
        fast, other = join(picker, rate=FAST), join(picker, rate=FAST)
        ((first, _, _),) = take(picker, fast, 10)
        ((second, _, _),) = take(picker, other, 10)
        assert (first != second) == kept


def test_a_crowd_that_nobody_here_can_finish_does_not_stop_the_rest() -> None:
    picker = picker_of(50, 8)
    leave_partials(picker, range(10))
    rest = join(picker, range(10, 50))
    while runs := fetch(picker, rest, 20):
        assert all(piece >= 10 for piece, _, _ in runs)
    assert set(picker.have) == set(range(10, 50))


def test_a_snubbed_source_leaves_shared_pieces_to_others_unless_it_has_nothing_else() -> None:
    picker = picker_of(2, 8)
    one, snubbed = join(picker), join(picker, {0, 1})
    snubbed.snubbed = True
    ((first, _, _),) = take(picker, one, 3)
    ((second, _, _),) = take(picker, snubbed, 1)
    assert first != second
    assert take(picker, snubbed, 1) == []
    deliver(picker, snubbed, [(second, 0, 1)])
    assert take(picker, snubbed, 1) != []


# --- what comes back ---------------------------------------------------------------------------------------------


def test_what_was_not_requested_is_named_and_not_used() -> None:
    picker = picker_of(4, 4)
    source, other = join(picker, {0}), join(picker, {0})
    assert take(picker, source, 2) == [(0, 0, 2)]
    assert take(picker, other, 1) == [(0, 2, 1)]
    assert picker.on_blocks(source, 0, 1, 3) == (0b0010, 0b0010, False)
    assert picker.on_blocks(source, 1, 0, 4) == (0, 0, False)
    assert picker.on_blocks(source, 0, 1, 1) == (0, 0, False)
    picker.check_invariants()
    assert picker._open[0].missing == 0b1101


def test_a_block_of_a_piece_that_is_not_open_is_not_new() -> None:
    picker = picker_of(4, 1)
    source, other = join(picker, {0}), join(picker, {0})
    take(picker, source, 1)
    picker.release(source, [(0, 0, 1)])
    fetch(picker, other, 1)
    assert picker.on_blocks(source, 0, 0, 1) == (1, 0, False)


@pytest.mark.parametrize("size", [1, 2], ids=["the whole piece", "a part"])
def test_a_late_block_opens_a_piece_that_became_untouched(size: int) -> None:
    picker = picker_of(4, size)
    source, other = join(picker, {0}), join(picker, {0})
    take(picker, source, 1)
    picker.release(source, [(0, 0, 1)])
    assert list(picker._open) == []
    assert picker.on_blocks(source, 0, 0, 1) == (1, 1, size == 1)
    picker.check_invariants()
    assert take(picker, other, 4) == [(0, first, 1) for first in range(1, size)]


def test_on_parole_a_late_block_opens_no_piece() -> None:
    picker = picker_of(4, 1)
    source = join(picker, {0})
    take(picker, source, 1)
    picker.release(source, [(0, 0, 1)])
    source.on_parole = True
    assert picker.on_blocks(source, 0, 0, 1) == (1, 0, False)
    picker.check_invariants()


@pytest.mark.parametrize("why", ["timed out", "choked"])
def test_a_late_block_is_forgiven_and_used_once(why: str) -> None:
    picker = picker_of(4, 4)
    source, other = join(picker, {0}), join(picker, {0})
    take(picker, source, 4)
    deliver(picker, source, [(0, 0, 1)])
    if why == "timed out":
        picker.release(source, [(0, 0, 4)])
    else:
        picker.on_choked(source)
    assert take(picker, other, 2) == [(0, 1, 2)]
    assert picker.on_blocks(source, 0, 1, 1) == (0b0010, 0b0010, False)  # asked of the other by now
    assert picker.take_cancels() == [(other, 0, 1)]
    assert picker.on_blocks(source, 0, 3, 1) == (0b1000, 0b1000, False)  # still free
    picker.check_invariants()
    assert picker.on_blocks(source, 0, 3, 1) == (0, 0, False)
    assert picker.on_blocks(other, 0, 1, 2) == (0b0110, 0b0100, True)  # the cancel came too late: forgiven
    picker.check_invariants()


def test_a_late_block_may_leave_others_free() -> None:
    picker = picker_of(1, 4)
    source = join(picker)
    fetch(picker, source, 1)
    take(picker, source, 3)
    picker.on_choked(source)
    assert picker.on_blocks(source, 0, 2, 1) == (0b0100, 0b0100, False)
    picker.check_invariants()
    source.choked = False
    assert take(picker, source, 4) == [(0, 1, 1), (0, 3, 1)]


def test_an_answer_to_each_of_two_requests_for_a_block_is_forgiven() -> None:
    picker = picker_of(1, 1)
    source = join(picker)
    take(picker, source, 1)
    picker.on_choked(source)
    source.choked = False
    take(picker, source, 1)
    assert picker.on_blocks(source, 0, 0, 1) == (1, 1, True)
    assert picker.on_blocks(source, 0, 0, 1) == (1, 0, False)
    assert picker.on_blocks(source, 0, 0, 1) == (0, 0, False)


def test_forgiveness_and_avoidance_are_bounded() -> None:
    many = limits.FORGIVEN_PIECES + 1
    picker = picker_of(many, 1)
    source = join(picker)
    runs = picker.take(source, many, 0.0)
    picker.release(source, runs[:-1])
    assert len(source.forgiven) == len(source.avoid) == limits.FORGIVEN_PIECES
    assert runs[0][0] in source.forgiven
    picker.release(source, runs[-1:])
    assert len(source.forgiven) == len(source.avoid) == limits.FORGIVEN_PIECES
    assert runs[0][0] not in source.forgiven
    assert picker.on_blocks(source, *runs[0]) == (0, 0, False)
    assert picker.on_blocks(source, *runs[1])[0] == 1


def test_releasing_what_is_not_outstanding_changes_nothing() -> None:
    picker = picker_of(4, 4)
    source = join(picker, {0})
    take(picker, source, 2)
    picker.release(source, [(0, 2, 2), (3, 0, 4)])
    assert source.outstanding == {0: 0b0011}
    picker.release(source, [(0, 0, 4)])
    assert source.outstanding == {}


def test_what_timed_out_is_asked_of_others_first_and_of_the_same_source_in_the_end() -> None:
    picker = picker_of(2, 2)
    source = join(picker)
    ((first, _, _),) = take(picker, source, 1)
    picker.release(source, [(first, 0, 1)])
    ((second, _, _),) = take(picker, source, 2)  # the other piece
    assert second == 1 - first
    assert take(picker, source, 2) == []
    picker.release(source, [(second, 0, 2)])
    runs = take(picker, source, 4, now=10.0)
    assert len(blocks(runs)) == 4
    picker.release(source, runs)
    assert take(picker, source, 4, now=10.0 + RETRY - 0.01) == []
    assert len(blocks(take(picker, source, 4, now=10.0 + RETRY))) == 4


def test_a_block_from_a_source_ends_what_it_is_avoided_for() -> None:
    picker = picker_of(3, 2)
    source = join(picker)
    runs = take(picker, source, 4)
    picker.release(source, runs[:1])
    assert source.avoid
    deliver(picker, source, runs[1:2])
    assert not source.avoid
    assert runs[0] in take(picker, source, 4)


def test_a_timed_out_block_of_a_shared_piece_is_left_to_others() -> None:
    picker = picker_of(1, 4)
    source, other = join(picker), join(picker)
    take(picker, source, 2)
    picker.release(source, [(0, 0, 1)])
    assert take(picker, source, 1) == [(0, 2, 1)]
    assert take(picker, other, 4) == [(0, 0, 1), (0, 3, 1)]


def test_a_shared_piece_that_is_all_avoided_is_passed_over() -> None:
    picker = picker_of(2, 4)
    source = join(picker)
    ((piece, _, _),) = fetch(picker, source, 1)
    assert take(picker, source, 3) == [(piece, 1, 3)]
    picker.release(source, [(piece, 1, 3)])
    leave_partials(picker, [1 - piece])
    assert take(picker, source, 8) == [(1 - piece, 2, 2)]


def test_a_source_that_leaves_takes_nothing_with_it() -> None:
    picker = picker_of(6, 4)
    one = join(picker, rate=FAST)
    runs = take(picker, one, 10)
    deliver(picker, one, runs[:1])
    picker.remove_source(one)
    picker.check_invariants()
    assert one.key not in picker.sources
    assert [picker.availability(piece) for piece in range(6)] == [0] * 6
    other = join(picker)
    while fetch(picker, other, 10):
        pass
    assert picker.have.complete


# --- the endgame -------------------------------------------------------------------------------------------------


def test_no_block_is_asked_twice_while_any_is_free() -> None:
    picker = picker_of(2, 2)
    one, other = join(picker), join(picker, {1})
    take(picker, one, 3)
    assert not picker.in_endgame
    free = next(piece for piece in (0, 1) if one.outstanding[piece] != 0b11)
    idle = join(picker, {1 - free})
    assert take(picker, idle, 5) == []
    take(picker, one, 1)
    assert picker.in_endgame
    assert len(take(picker, idle, 5)) == 1
    assert other.outstanding_count == 0


def test_the_endgame_asks_one_busy_block_of_an_idle_source_up_to_three_owners() -> None:
    picker = picker_of(1, 2)
    owner = join(picker)
    take(picker, owner, 2)
    helpers = [join(picker) for _ in range(2 * (limits.BLOCK_OWNERS - 1) + 1)]
    for helper in helpers[:-1]:
        assert len(take(picker, helper, 9)) == 1
        assert take(picker, helper, 9) == []  # it is busy now
    assert take(picker, helpers[-1], 9) == []  # both blocks have three owners
    owned = [helper.outstanding[0] for helper in helpers[:-1]]
    assert sorted(owned[:2]) == sorted(owned[2:]) == [1, 2]  # few owners first
    picker.remove_source(helpers[0])
    assert len(take(picker, helpers[-1], 9)) == 1


def silent_owners(picker: Picker) -> list[Source]:
    """The only block is owed by as many sources as may owe it, all of them snubbed."""
    silent = [join(picker) for _ in range(limits.BLOCK_OWNERS)]
    for source in silent:
        assert take(picker, source, 1) == [(0, 0, 1)]
        source.snubbed = True
    return silent


def test_a_snubbed_source_makes_room_in_the_endgame_for_one_that_answers() -> None:
    picker = picker_of(1, 1)
    silent = silent_owners(picker)
    snubbed = join(picker)
    snubbed.snubbed = True
    assert take(picker, snubbed, 1) == []
    answering = [join(picker) for _ in range(limits.BLOCK_OWNERS + 1)]
    for source in answering[:-1]:
        assert take(picker, source, 1) == [(0, 0, 1)]
    assert picker.take_cancels() == [(source, 0, 0) for source in silent]
    assert take(picker, answering[-1], 1) == []
    assert picker.on_blocks(silent[0], 0, 0, 1) == (1, 1, True)  # the cancel came too late: forgiven


def test_a_snubbed_source_makes_no_room_for_what_another_lacks_or_failed_to_send() -> None:
    picker = picker_of(1, 1)
    failed = join(picker)
    take(picker, failed, 1)
    picker.release(failed, [(0, 0, 1)])
    silent_owners(picker)
    failed.retry_at = 100.0
    assert take(picker, failed, 1) == []
    assert take(picker, join(picker, set()), 1) == []
    assert take(picker, failed, 1, now=100.0) == [(0, 0, 1)]


def test_a_snubbed_source_keeps_a_piece_that_it_fills_alone() -> None:
    picker = picker_of(2, 1)
    suspect = join(picker, {0})
    fail(picker, {suspect: take(picker, suspect, 1)})
    owner = join(picker)
    assert sorted(take(picker, owner, 2)) == [(0, 0, 1), (1, 0, 1)]
    owner.snubbed = True
    assert take(picker, join(picker, {0}), 1) == []
    for _ in range(limits.BLOCK_OWNERS):
        assert take(picker, join(picker), 1) == [(1, 0, 1)]


def test_an_arrival_in_the_endgame_cancels_the_others() -> None:
    picker = picker_of(1, 1)
    sources = [join(picker) for _ in range(3)]
    for source in sources:
        assert take(picker, source, 5) == [(0, 0, 1)]
    assert picker.on_blocks(sources[1], 0, 0, 1) == (1, 1, True)
    assert picker.take_cancels() == [(sources[0], 0, 0), (sources[2], 0, 0)]
    assert picker.take_cancels() == []
    assert picker.in_endgame
    assert take(picker, sources[1], 5) == []  # nothing is missing, the verdict is due
    picker.on_verified(0)
    picker.check_invariants()
    assert not picker.in_endgame
    assert picker.on_blocks(sources[0], 0, 0, 1) == (1, 0, False)


def test_a_released_duplicate_stays_with_its_other_owner() -> None:
    picker = picker_of(1, 1)
    one, two, three = (join(picker) for _ in range(3))
    for source in (one, two, three):
        take(picker, source, 1)
    picker.release(two, [(0, 0, 1)])
    picker.remove_source(three)
    picker.check_invariants()
    assert picker.in_endgame
    picker.on_choked(one)
    picker.check_invariants()
    assert not picker.in_endgame


def test_the_endgame_asks_no_block_that_the_source_failed_to_send() -> None:
    picker = picker_of(1, 1)
    one, two = join(picker), join(picker)
    take(picker, two, 1)
    picker.release(two, [(0, 0, 1)])
    take(picker, one, 1)
    two.retry_at = 100.0
    assert take(picker, two, 1) == []
    assert take(picker, two, 1, now=100.0) == [(0, 0, 1)]


def test_no_endgame_for_a_source_that_lacks_the_missing_pieces() -> None:
    picker = picker_of(3, 1)
    seed, other = join(picker), join(picker, set())
    take(picker, seed, 3)
    assert picker.in_endgame
    assert take(picker, other, 3) == []


def test_what_nobody_here_has_does_not_keep_the_endgame_waiting() -> None:
    picker = picker_of(3, 2)
    fetch(picker, gone := join(picker, {1}), 1)
    picker.remove_source(gone)  # piece 1 is half done, piece 2 untouched
    slow, idle = join(picker, {0}), join(picker, {0})
    assert take(picker, slow, 2) == [(0, 0, 2)]
    assert picker.in_endgame
    assert len(take(picker, idle, 2)) == 1


@pytest.mark.parametrize("piece", [1, 2], ids=["half done", "untouched"])
def test_what_somebody_here_has_keeps_the_endgame_waiting(piece: int) -> None:
    picker = picker_of(3, 2)
    fetch(picker, gone := join(picker, {1}), 1)
    picker.remove_source(gone)
    slow, idle = join(picker, {0}), join(picker, {0})
    take(picker, slow, 2)
    choking = join(picker, {piece})
    choking.choked = True
    assert not picker.in_endgame
    assert take(picker, idle, 2) == []


# --- verdicts ----------------------------------------------------------------------------------------------------


def mixed_failure(picker: Picker, one: Source, two: Source) -> int:
    first = take(picker, one, 2)
    second = take(picker, two, 2)
    return fail(picker, {one: first, two: second})


def test_a_failed_piece_is_filled_by_one_source_that_had_no_part_in_it() -> None:
    picker = picker_of(9, 4, have=range(4, 9))
    one, two, three = (join(picker, {0}) for _ in range(3))
    piece = mixed_failure(picker, one, two)
    assert one.on_parole and two.on_parole and not three.on_parole
    assert take(picker, one, 4) == []
    assert take(picker, three, 2) == [(piece, 0, 2)]
    assert take(picker, one, 4) == take(picker, two, 4) == []
    deliver(picker, three, [(piece, 0, 2)])
    assert fetch(picker, three, 4) == [(piece, 2, 2)]
    assert picker.have.count == 6
    assert not one.on_parole and not two.on_parole


def test_a_source_that_lacks_the_failed_piece_does_not_become_its_owner() -> None:
    picker = picker_of(2, 1)
    suspect = join(picker, {0})
    fail(picker, {suspect: take(picker, suspect, 1)})
    assert take(picker, join(picker, {1}), 2) == [(1, 0, 1)]


@pytest.mark.parametrize("stranger", ["none", "choked", "snubbed", "without the piece", "too slow to ask"])
def test_a_suspect_fills_the_failed_piece_if_no_stranger_does(stranger: str) -> None:
    picker = picker_of(1, 4)
    one, two = join(picker), join(picker)
    if stranger != "none":
        third = join(picker, set() if stranger == "without the piece" else {0})
        third.choked = stranger == "choked"
        third.snubbed = stranger == "snubbed"
    piece = mixed_failure(picker, one, two)
    now = 5.0
    if stranger == "too slow to ask":
        assert take(picker, one, 4, now) == []
        now += limits.AFFINITY_SECONDS
        assert take(picker, one, 4, now - 0.01) == []
    assert take(picker, one, 4, now) == [(piece, 0, 4)]
    assert take(picker, two, 4, now) == []


@pytest.mark.parametrize("end", ["leaves", "chokes", "choked, told later", "snubbed", "times out"])
def test_a_piece_filled_alone_begins_anew_with_another(end: str) -> None:
    picker = picker_of(1, 4)
    one, two, three, four = (join(picker) for _ in range(4))
    piece = mixed_failure(picker, one, two)
    take(picker, three, 3)
    deliver(picker, three, [(piece, 0, 1)])
    assert take(picker, four, 4) == []
    if end == "leaves":
        picker.remove_source(three)
    elif end == "chokes":
        picker.on_choked(three)
    elif end == "choked, told later":
        three.choked = True
    elif end == "snubbed":
        three.snubbed = True
    else:
        picker.release(three, [(piece, 1, 1)])
    picker.check_invariants()
    assert take(picker, four, 4) == [(piece, 0, 4)]
    assert picker.take_restarts() == [piece]
    assert picker.take_restarts() == []
    owed = {(3, piece, 2), (3, piece, 1)} if end in ("choked, told later", "snubbed") else set()
    owed |= {(3, piece, 2)} if end == "times out" else set()
    keys = {three.key: 3}
    assert {(keys[source.key], *rest) for source, *rest in picker.take_cancels()} == owed
    if end != "leaves":
        late = picker.on_blocks(three, piece, 2, 1)
        assert late == (0b0100, 0, False)  # forgiven, and not mixed in
    deliver(picker, four, [(piece, 0, 4)])
    assert picker.have.complete


def test_the_owner_of_a_piece_filled_alone_goes_on_if_nobody_took_over() -> None:
    picker = picker_of(1, 4)
    one, two, three = (join(picker) for _ in range(3))
    piece = mixed_failure(picker, one, two)
    take(picker, three, 3)
    deliver(picker, three, [(piece, 0, 1)])
    picker.on_choked(three)
    three.choked = False
    assert take(picker, three, 9) == [(piece, 1, 3)]
    assert take(picker, one, 9) == []  # no longer stalled
    assert picker.take_restarts() == []
    deliver(picker, three, [(piece, 1, 3)])
    assert picker.have.complete


def test_an_owner_that_goes_on_is_not_taken_for_stalled() -> None:
    picker = picker_of(1, 4)
    one, two, three, four = (join(picker) for _ in range(4))
    piece = mixed_failure(picker, one, two)
    take(picker, three, 2)
    picker.release(three, [(piece, 1, 1)])
    assert take(picker, three, 1) == [(piece, 2, 1)]
    assert take(picker, four, 4) == []


def test_suspects_of_an_earlier_failure_stay_suspects() -> None:
    picker = picker_of(1, 4)
    one, two, three, four = (join(picker) for _ in range(4))
    piece = mixed_failure(picker, one, two)
    fail(picker, {three: take(picker, three, 4)})
    assert take(picker, one, 4) == take(picker, three, 4) == []
    assert take(picker, four, 4) == [(piece, 0, 4)]


def test_nothing_that_came_is_void_if_nothing_came() -> None:
    picker = picker_of(1, 4)
    one, two, three = (join(picker) for _ in range(3))
    mixed_failure(picker, one, two)
    take(picker, three, 2)
    picker.remove_source(three)
    picker.check_invariants()
    assert picker.take_restarts() == []
    assert list(picker._open) == [0]  # it is still known to have failed


def test_a_source_on_parole_fills_pieces_alone() -> None:
    picker = picker_of(5, 4)
    one, two = join(picker), join(picker)
    mixed_failure(picker, one, two)
    ((first, _, _),) = take(picker, two, 2)  # the failed one: there is no stranger
    ((second, _, _),) = take(picker, one, 2)
    assert len({first, second}) == 2
    third = join(picker)
    ((other, _, _),) = take(picker, third, 2)
    assert other not in (first, second)
    assert take(picker, one, 4)[0] == (second, 2, 2)
    assert one.on_parole
    deliver(picker, one, [(second, 0, 4)])
    assert not one.on_parole
    assert two.on_parole


def test_a_piece_begun_on_parole_of_which_nothing_came_is_untouched_again() -> None:
    picker = picker_of(5, 4, have=[4])
    one = join(picker, {1})
    one.on_parole = True
    assert take(picker, one, 2) == [(1, 0, 2)]
    picker.on_choked(one)
    picker.check_invariants()
    assert list(picker._open) == []
    one.choked = False
    take(picker, one, 2)
    deliver(picker, one, [(1, 0, 1)])
    picker.remove_source(one)
    picker.check_invariants()
    assert list(picker._open) == []
    assert picker.take_restarts() == [1]


def test_a_source_on_parole_helps_to_finish_what_is_shared_if_it_has_nothing_else() -> None:
    picker = picker_of(2, 4)
    gone, one = join(picker, {0}), join(picker)
    picker.on_blocks(gone, *take(picker, gone, 2)[0])
    picker.remove_source(gone)
    one.on_parole = True
    assert take(picker, one, 1) == [(1, 0, 1)]
    deliver(picker, one, [(1, 0, 1)])
    assert fetch(picker, one, 9)[0] == (1, 1, 3)
    one.on_parole = True
    assert fetch(picker, one, 9) == [(0, 2, 2)]
    assert picker.have.complete


def test_no_endgame_on_parole_nor_into_a_piece_filled_alone() -> None:
    picker = picker_of(1, 4)
    one, two, three = (join(picker) for _ in range(3))
    take(picker, one, 4)
    two.on_parole = True
    assert picker.in_endgame
    assert take(picker, two, 4) == []
    deliver(picker, one, [(0, 0, 3)])
    picker.on_blocks(one, 0, 3, 1)
    picker = picker_of(1, 4)
    one, two, three, four = (join(picker) for _ in range(4))
    mixed_failure(picker, one, two)
    take(picker, three, 4)
    assert picker.in_endgame
    assert take(picker, four, 4) == []


def test_a_piece_can_fail_again_and_again() -> None:
    picker = picker_of(1, 4)
    sources = [join(picker) for _ in range(5)]
    piece = mixed_failure(picker, sources[0], sources[1])
    for source in sources[2:]:
        assert take(picker, source, 4) == [(piece, 0, 4)]
        fail(picker, {source: [(piece, 0, 4)]})
        picker.remove_source(source)
        picker.check_invariants()
    assert all(source.on_parole for source in sources[:2])
    fetch(picker, sources[0], 4)
    assert picker.have.complete


def test_a_piece_that_failed_by_nobodys_fault_is_untouched_again() -> None:
    picker = picker_of(2, 4)
    one, two = join(picker), join(picker)
    first, second = take(picker, one, 2), take(picker, two, 2)
    for source, runs in ((one, first), (two, second)):
        picker.on_blocks(source, *runs[0])
    picker.on_failed(first[0][0], ())
    picker.check_invariants()
    assert list(picker._open) == []
    assert not one.on_parole
    with pytest.raises(KeyError):
        picker.on_failed(first[0][0], ())


def test_verified_without_being_asked_for() -> None:
    picker = picker_of(4, 4)
    source = join(picker)
    ((piece, _, _),) = take(picker, source, 2)
    untouched = (piece + 1) % 4
    picker.on_verified(untouched)
    picker.on_verified(untouched)
    picker.on_verified(piece)  # found on disk meanwhile
    picker.check_invariants()
    assert sorted(picker.take_cancels(), key=lambda cancel: cancel[2]) == [(source, piece, 0), (source, piece, 1)]
    assert picker.have.count == 2
    assert source.outstanding_count == 0


def test_a_failed_piece_that_nobody_fills_may_be_found_on_disk() -> None:
    picker = picker_of(1, 4)
    one, two = join(picker), join(picker)
    piece = mixed_failure(picker, one, two)
    picker.on_verified(piece)
    picker.check_invariants()
    assert picker.have.complete
    assert not one.on_parole and not two.on_parole


def test_parole_ends_when_no_failed_piece_of_the_source_is_left() -> None:
    picker = picker_of(2, 4)
    one, two = join(picker, {0, 1}), join(picker, {0, 1})
    first = mixed_failure(picker, one, two)
    one.on_parole = two.on_parole = False
    runs = take(picker, join(picker, {first}), 4)  # a stranger has taken that one
    second = mixed_failure(picker, one, two)
    assert {first, second} == {0, 1}
    deliver(picker, next(source for source in picker.sources.values() if source.outstanding), runs)
    assert one.on_parole and two.on_parole
    picker.on_verified(second)
    assert not one.on_parole and not two.on_parole


# --- sources -----------------------------------------------------------------------------------------------------


def test_have_tells_what_is_new() -> None:
    picker = picker_of(3, 1)
    source = join(picker, {0})
    assert not picker.on_have(source, 0)
    assert picker.on_have(source, 1)
    assert not source.complete
    assert picker.on_have(source, 2)
    assert source.complete
    assert picker.seeds == 1
    assert not picker.on_have(source, 2)
    picker.check_invariants()


@pytest.mark.parametrize("piece", [-1, 3, 7, 2**32 - 1])
def test_P2_a_have_of_no_piece_is_an_offence(piece: int) -> None:
    picker = picker_of(3, 1)
    with pytest.raises(PeerError):
        picker.on_have(join(picker, set()), piece)


def test_a_bitfield_replaces_what_was_known() -> None:
    picker = picker_of(10, 1)
    source = join(picker, {1, 2})
    picker.on_bitfield(source, Bitfield.full(10))
    picker.on_bitfield(source, Bitfield(10))
    picker.check_invariants()
    assert picker.seeds == 0
    assert take(picker, source, 5) == []


def test_interest_follows_what_both_have() -> None:
    picker = picker_of(4, 1, have=[0])
    source = join(picker, {0})
    assert not picker.is_interesting(source)
    picker.on_have(source, 2)
    assert picker.is_interesting(source)
    picker.on_have(source, 1)
    picker.on_verified(2)
    assert picker.is_interesting(source)
    picker.on_verified(1)
    assert not picker.is_interesting(source)
    assert not picker.is_interesting(source)
    seed = join(picker)
    assert picker.is_interesting(seed)
    picker.on_verified(3)
    assert not picker.is_interesting(seed)


def test_interest_starts_with_a_have_that_comes_first() -> None:
    picker = picker_of(4, 1, have=[0])
    source = picker.add_source(5)
    assert not picker.is_interesting(source)
    picker.on_have(source, 0)
    assert not picker.is_interesting(source)
    picker.on_have(source, 1)
    assert picker.is_interesting(source)
    assert repr(source) == "<Source 5: has 2, asked 0>"


# --- sharing a seed with other leechers --------------------------------------------------------------------------


def test_alone_with_seeds_the_room_is_used() -> None:
    picker = picker_of(100, 10)
    source = join(picker)
    join(picker)
    assert sum(run[2] for run in picker.take(source, 500, 0.0)) == 500
    picker = picker_of(100, 10)
    assert sum(run[2] for run in picker.take(join(picker, range(99)), 500, 0.0)) == 500  # it cannot pass on its own


def test_beside_leechers_a_share_of_what_is_missing_is_asked_ahead() -> None:
    picker = picker_of(100, 10, have=[0])
    seed = join(picker)
    for _ in range(4):
        join(picker, {0})
    share = int(SHARE * 990 / 5)
    assert sum(run[2] for run in take(picker, seed, 500)) == share
    assert take(picker, seed, 500) == []
    piece = next(iter(seed.outstanding))
    deliver(picker, seed, [(piece, 0, 10)])
    assert take(picker, seed, 500) == []  # a tenth of the share: too little to ask
    pieces = list(seed.outstanding)[:2]
    deliver(picker, seed, [(piece, 0, 10) for piece in pieces])
    assert sum(run[2] for run in take(picker, seed, 500)) == int(SHARE * 960 / 5) - share + 30


def test_beside_leechers_a_source_is_kept_busy_all_the_same() -> None:
    picker = picker_of(100, 10)
    seed = join(picker, rate=300 * BLOCK)
    for _ in range(400):
        join(picker, set())
    seed.latency = 0.0
    assert sum(run[2] for run in picker.take(seed, 500, 0.0)) == SHARE_MIN
    seed.latency = 0.5
    assert sum(run[2] for run in picker.take(seed, 500, 0.0)) == int(SHARE_LATENCIES * 0.5 * 300) - SHARE_MIN
    picker.check_invariants()


# --- the fast extension, and pieces that are gone ------------------------------------------------------------------


def test_a_choking_source_is_asked_for_what_it_allows_and_has() -> None:
    picker = picker_of(4, 2)
    source = join(picker, [0, 1, 2])
    other = join(picker, [1])
    assert blocks(take(picker, other, 1)) == {(1, 0)}
    source.choked = True
    assert take(picker, source, 10) == []
    runs = picker.take_allowed(source, [3, 0, 1], 10)
    picker.check_invariants()
    assert blocks(runs) == {(0, 0), (0, 1), (1, 1)}
    assert picker.take_allowed(source, [3, 0, 1], 10) == []
    deliver(picker, source, runs[:1])


def test_room_bounds_what_is_asked_of_a_choking_source() -> None:
    picker = picker_of(4, 2)
    source = join(picker)
    assert len(blocks(picker.take_allowed(source, [0, 1], 3))) == 3
    assert picker.take_allowed(source, [2], 0) == []


def test_a_choking_source_is_not_asked_again_for_what_it_refused() -> None:
    picker = picker_of(2, 1)
    source = join(picker)
    runs = picker.take_allowed(source, [0], 1)
    picker.release(source, runs)
    assert picker.take_allowed(source, [0], 1) == []
    assert picker.take_allowed(source, [1], 1) == [(1, 0, 1)]
    source.snubbed = True
    picker.release(source, [(1, 0, 1)])
    assert picker.take_allowed(join(picker), [1], 1) == [(1, 0, 1)]
    assert picker.take_allowed(source, [1], 1) == []


def test_a_piece_that_is_filled_alone_is_not_taken_by_allowance() -> None:
    picker = picker_of(1, 2)
    one, other = join(picker), join(picker)
    runs = take(picker, one, 1)
    more = take(picker, other, 1)
    fail(picker, {one: runs, other: more})
    third = join(picker)
    assert picker.take_allowed(third, [0], 2) == []


def test_a_piece_that_is_gone_is_free_and_counts_no_more() -> None:
    picker = picker_of(2, 2)
    seed = join(picker)
    assert len(blocks(take(picker, seed, 4))) == 4
    picker.on_dont_have(seed, 0)
    picker.check_invariants()
    assert (picker.availability(0), picker.availability(1), picker.seeds) == (0, 1, 0)
    assert not seed.complete and set(seed.outstanding) == {1}
    picker.on_dont_have(seed, 0)
    assert take(picker, seed, 4) == []
    picker.on_have(seed, 0)
    assert {piece for piece, _, _ in take(picker, seed, 4, 10.0)} == {0}


def test_a_piece_kept_for_a_source_that_lost_it_is_for_all() -> None:
    picker = picker_of(3, 8)
    fast, other = join(picker, rate=FAST), join(picker)
    (run,) = take(picker, fast, 3)
    piece = run[0]
    deliver(picker, fast, [run])
    assert piece in fast.own
    picker.on_dont_have(fast, piece)
    picker.check_invariants()
    assert piece not in fast.own
    assert piece in {piece for piece, _, _ in take(picker, other, 24)}


def test_a_piece_filled_alone_begins_anew_when_its_owner_lost_it() -> None:
    picker = picker_of(1, 2)
    one, other = join(picker), join(picker)
    fail(picker, {one: take(picker, one, 1), other: take(picker, other, 1)})
    third = join(picker)
    first = take(picker, third, 1, 100.0)
    deliver(picker, third, first)
    picker.on_dont_have(third, 0)
    picker.check_invariants()
    assert picker.take_restarts() == [0]


def test_a_suggested_piece_comes_first() -> None:
    picker = picker_of(200, 1, have=range(limits.RANDOM_FIRST_PIECES))
    seed, partial = join(picker), join(picker, [7])
    picker.on_suggest(seed, 150, 5.0)
    picker.on_suggest(partial, 9, 5.0)
    picker.on_suggest(seed, 0, 5.0)  # had already
    assert take(picker, seed, 1, 5.0) == [(150, 0, 1)]
    assert take(picker, partial, 5, 5.0) == [(7, 0, 1)]


def test_suggestions_are_bounded() -> None:
    picker = picker_of(CHOICES_MAX + 10, 1, have=range(limits.RANDOM_FIRST_PIECES))
    seed = join(picker)
    for _ in range(2):
        for piece in range(limits.RANDOM_FIRST_PIECES, CHOICES_MAX + 10):
            picker.on_suggest(seed, piece, 0.0)
    assert len(seed.choices) == CHOICES_MAX


def test_a_piece_that_is_lost_on_the_disk_is_wanted_again() -> None:
    picker = picker_of(4, 2, have=[0, 1, 2])
    one, other = join(picker, [0, 1]), join(picker, [3])
    assert not picker.is_interesting(one)
    picker.on_lost(1)
    picker.on_lost(1)
    picker.on_lost(3)  # it was not had
    picker.check_invariants()
    assert set(picker.have) == {0, 2}
    assert picker.is_interesting(one)
    assert blocks(fetch(picker, one, 9)) == {(1, 0), (1, 1)}
    assert blocks(fetch(picker, other, 9)) == {(3, 0), (3, 1)}
    assert picker.have.complete
    picker.on_lost(0)
    picker.on_verified(0)
    picker.check_invariants()
