"""The choker: every rule by itself, then ten simulated minutes and random histories."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btor.limits import (
    CHOKE_FLIP_GUARD,
    CHOKE_ROUND,
    NEWCOMER,
    NEWCOMER_WEIGHT,
    OPTIMISTIC_PERIOD,
    SEED_QUOTA_PIECES,
    SEED_QUOTA_SECONDS,
    SLOTS_PER_OPTIMISTIC,
    UPLOAD_SLOTS,
)
from btor.swarm.choker import Candidate, Choker

PIECE = 1000


def peer(key: int, **fields: object) -> Candidate:
    """An old, interested, choked peer of a torrent that is not complete."""
    base: dict[str, object] = {
        "interested": True,
        "unchoked": False,
        "received": 0,
        "sent": 0,
        "sent_since_unchoke": 0,
        "unchoked_at": 0.0,
        "waiting_since": 0.0,
        "connected_at": -1e6,
        "piece_length": PIECE,
    }
    return Candidate(key=key, **{**base, **fields})  # type: ignore[arg-type]  # a table of keyword arguments


def rng() -> random.Random:
    return random.Random(5)


def apply(choker: Choker, peers: list[Candidate], now: float, random_: random.Random) -> set[int]:
    """One round, carried out as the engine does."""
    unchoked = choker.rechoke(peers, now, random_)
    choker.check_invariants()
    for one in peers:
        set_unchoked(one, one.key in unchoked, now)
    return {key for key in unchoked if isinstance(key, int)}


def set_unchoked(one: Candidate, unchoked: bool, now: float) -> None:
    if unchoked and not one.unchoked:
        one.unchoked_at, one.sent_since_unchoke = now, 0
    elif one.unchoked and not unchoked:
        one.waiting_since = now
    one.unchoked = unchoked


# --- who gets the slots ----------------------------------------------------------------------------------------------


def test_nobody() -> None:
    assert Choker().rechoke([], 0.0, rng()) == set()


def test_the_interested_only() -> None:
    peers = [peer(1), peer(2, interested=False, received=10**6, unchoked=True)]
    assert Choker().rechoke(peers, 0.0, rng()) == {1}


def test_slots_and_optimistic_slots() -> None:
    for slots in [1, 4, UPLOAD_SLOTS, 10, 50]:
        unchoked = Choker(slots).rechoke([peer(key) for key in range(100)], 0.0, rng())
        assert len(unchoked) == slots + max(1, slots // SLOTS_PER_OPTIMISTIC)


def test_no_slots_means_everybody() -> None:
    choker = Choker(0)
    peers = [peer(key, snubbed=key % 2 == 0) for key in range(500)] + [peer(999, interested=False)]
    assert choker.rechoke(peers, 0.0, rng()) == set(range(500))
    assert choker.admit(peer(1000, snubbed=True), 1.0)
    assert not choker.admit(peer(1001, interested=False), 1.0)


def test_as_a_leecher_who_sent_most() -> None:
    peers = [peer(key, received=key) for key in range(1, 30)]
    unchoked = Choker(4).rechoke(peers, 0.0, rng())
    assert {26, 27, 28, 29} < unchoked
    assert len(unchoked) == 5


def test_priority_of_the_torrent_comes_first() -> None:
    peers = [peer(key, received=1000) for key in range(20)] + [peer(100, priority=1), peer(101, priority=1)]
    assert {100, 101} <= Choker(2).rechoke(peers, 0.0, rng())


def test_as_a_seed_what_came_in_before_does_not_count() -> None:
    peers = [peer(key, seeding=True, received=10**6, waiting_since=50.0) for key in range(20)]
    peers += [peer(100, seeding=True, waiting_since=10.0), peer(101, seeding=True, waiting_since=20.0)]
    assert {100, 101} <= Choker(2).rechoke(peers, 60.0, rng())


def test_as_a_seed_the_fastest_that_is_unchoked_keeps_its_slot() -> None:
    peers = [peer(key, seeding=True, sent=500, sent_since_unchoke=5 * PIECE, unchoked=True) for key in range(3)]
    peers += [peer(3, seeding=True, sent=600, sent_since_unchoke=5 * PIECE, unchoked=True)]
    # what a choked peer got in the round before its choke counts for nothing
    peers += [peer(key, seeding=True, sent=10**6, waiting_since=-9.0) for key in range(10, 20)]
    assert 3 in Choker(1).rechoke(peers, 50.0, rng())


@pytest.mark.parametrize(
    ("sent", "seconds", "leaves"),
    [
        (SEED_QUOTA_PIECES * PIECE, SEED_QUOTA_SECONDS, True),
        (SEED_QUOTA_PIECES * PIECE - 1, SEED_QUOTA_SECONDS, False),
        (SEED_QUOTA_PIECES * PIECE, SEED_QUOTA_SECONDS - 0.1, False),
    ],
)
def test_quota_is_pieces_and_seconds(sent: int, seconds: float, leaves: bool) -> None:
    peers = [peer(1, seeding=True, unchoked=True, sent=900, sent_since_unchoke=sent, unchoked_at=100.0)]
    peers += [peer(key, seeding=True, waiting_since=150.0) for key in range(2, 12)]
    regular = regular_of(Choker(1), peers, 100.0 + seconds)
    assert (1 not in regular) is leaves


def test_who_waited_longest_is_next() -> None:
    peers = [peer(key, seeding=True, waiting_since=100.0 - key) for key in range(10)]
    assert regular_of(Choker(2), peers, 200.0) == {8, 9}


def test_ties_are_broken_by_lot() -> None:
    chosen = Counter(
        key
        for seed in range(200)
        for key in regular_of(Choker(2), [peer(key) for key in range(10)], 0.0, random.Random(seed))
    )
    assert all(15 < chosen[key] < 80 for key in range(10))


def regular_of(choker: Choker, peers: list[Candidate], now: float, random_: random.Random | None = None) -> set[object]:
    choker.rechoke(peers, now, random_ or rng())
    return set(choker._regular)


# --- snubbed and optimistic ------------------------------------------------------------------------------------------


def test_snubbed_peers_have_only_the_optimistic_slot() -> None:
    peers = [peer(key, snubbed=True, received=10**6) for key in range(20)] + [peer(100)]
    choker = Choker(8)
    unchoked = choker.rechoke(peers, 0.0, rng())
    assert len(unchoked) == 2
    assert 100 in unchoked


def test_a_peer_that_becomes_snubbed_loses_its_slot() -> None:
    choker, peers = Choker(2), [peer(1), peer(2)]
    assert apply(choker, peers, 0.0, rng()) == {1, 2}
    peers[0].snubbed = peers[1].snubbed = True
    assert len(apply(choker, peers, 10.0, rng())) == 1


def test_optimistic_turns_last_a_period_and_change_hands() -> None:
    choker, random_ = Choker(1), rng()
    peers = [peer(key, received=100 if key == 0 else 0) for key in range(6)]
    turns: list[int] = []
    for step in range(60):
        (optimistic,) = apply(choker, peers, step * CHOKE_ROUND, random_) - {0}
        turns.append(optimistic)
    per_turn = int(OPTIMISTIC_PERIOD / CHOKE_ROUND)
    blocks = [turns[start : start + per_turn] for start in range(0, 60, per_turn)]
    assert all(len(set(block)) == 1 for block in blocks)
    assert all(first[0] != second[0] for first, second in itertools.pairwise(blocks))
    assert set(turns) == {1, 2, 3, 4, 5}


def test_rounds_that_come_a_little_early_do_not_lengthen_a_turn() -> None:
    choker, random_ = Choker(1), rng()
    peers = [peer(key, received=100 if key == 0 else 0) for key in range(6)]
    first = apply(choker, peers, 0.01, random_)
    assert apply(choker, peers, 10.0, random_) == first
    assert apply(choker, peers, 20.0, random_) == first
    assert apply(choker, peers, 30.0, random_) != first


def test_the_only_one_keeps_the_optimistic_slot() -> None:
    choker, peers = Choker(1), [peer(1, received=100), peer(2, snubbed=True)]
    for step in range(10):
        assert apply(choker, peers, step * CHOKE_ROUND, rng()) == {1, 2}


def test_an_optimistic_peer_that_rises_makes_room_for_another() -> None:
    choker, random_ = Choker(1), rng()
    peers = [peer(key, received=100 if key == 0 else 0) for key in range(6)]
    (optimistic,) = apply(choker, peers, 0.0, random_) - {0}
    peers[optimistic].received = 1000
    unchoked = apply(choker, peers, 10.0, random_)
    assert optimistic in unchoked
    assert len(unchoked) == 2
    assert optimistic in choker._regular


def test_an_optimistic_peer_that_loses_interest_makes_room() -> None:
    choker, random_ = Choker(1), rng()
    peers = [peer(key, received=100 if key == 0 else 0) for key in range(6)]
    (optimistic,) = apply(choker, peers, 0.0, random_) - {0}
    peers[optimistic].interested = False
    (other,) = apply(choker, peers, 10.0, random_) - {0}
    assert other != optimistic


def test_newcomers_are_likelier() -> None:
    drawn: Counter[bool] = Counter()
    for seed in range(1500):
        peers = [peer(0, received=100)]
        peers += [peer(key, connected_at=1000.0 - NEWCOMER + (0.1 if key == 1 else 0.0)) for key in range(1, 5)]
        choker = Choker(1)
        choker.rechoke(peers, 1000.0, random.Random(seed))
        drawn[1 in choker._optimistic] += 1
    share = NEWCOMER_WEIGHT / (NEWCOMER_WEIGHT + 3)
    assert drawn[True] / 1500 == pytest.approx(share, abs=0.06)


# --- flapping --------------------------------------------------------------------------------------------------------


def test_flip_guard_keeps_a_fresh_slot() -> None:
    choker = Choker(1)
    newcomer, rival = peer(1), peer(2, received=10**6)
    assert choker.admit(newcomer, 95.0)
    set_unchoked(newcomer, True, 95.0)
    apply(choker, [newcomer, rival], 100.0, rng())
    assert choker._regular == {1}
    apply(choker, [newcomer, rival], 95.0 + CHOKE_FLIP_GUARD, rng())
    assert choker._regular == {2}


def test_flip_guard_keeps_a_choked_peer_choked() -> None:
    choker = Choker(1)
    toggling = peer(1)
    apply(choker, [toggling], 100.0, rng())
    toggling.interested = False
    assert apply(choker, [toggling], 110.0, rng()) == set()
    toggling.interested = True
    assert not choker.admit(toggling, 115.0)
    assert apply(choker, [toggling], 118.0, rng()) == set()
    assert choker.admit(toggling, 110.0 + CHOKE_FLIP_GUARD)


def test_rounds_a_little_less_apart_than_the_guard() -> None:
    choker = Choker(1)
    peers = [peer(1, received=10), peer(2, received=5, snubbed=True), peer(3, received=1, snubbed=True)]
    apply(choker, peers, 0.02, rng())
    peers.append(peer(4, received=100))
    apply(choker, peers, 10.0, rng())
    assert choker._regular == {4}
    peers[0].received = 1000
    apply(choker, peers, 20.0, rng())
    assert choker._regular == {1}


# --- between rounds --------------------------------------------------------------------------------------------------


def test_arrivals_take_the_empty_slots_at_once() -> None:
    choker = Choker(4)
    assert [choker.admit(peer(key), 1.0) for key in range(7)] == [True] * 5 + [False] * 2
    choker.check_invariants()
    assert choker.admit(peer(0), 2.0)  # it has one
    assert choker.admit(peer(4), 2.0)  # the optimistic one
    choker.forget(3)
    assert choker.admit(peer(5), 2.0)
    assert not choker.admit(peer(6), 2.0)
    choker.forget(4)
    assert choker.admit(peer(6), 2.0)


def test_snubbed_arrivals_take_the_optimistic_slot_only() -> None:
    choker = Choker(8)
    assert choker.admit(peer(1, snubbed=True), 1.0)
    assert not choker.admit(peer(2, snubbed=True), 1.0)
    assert choker.admit(peer(3), 1.0)


def test_gone_peers_leave_nothing_behind() -> None:
    choker = Choker(1)
    peers = [peer(key, received=key) for key in range(10)]
    apply(choker, peers, 0.0, rng())
    for key in range(10):
        peers[key].received = 10 - key
    apply(choker, peers, 10.0, rng())
    assert choker._choked_at
    for key in range(10):
        choker.forget(key)
    assert not choker._choked_at
    assert not choker._regular
    assert not choker._optimistic
    choker.forget("never heard of")


# --- ten minutes -----------------------------------------------------------------------------------------------------


@dataclass
class Swarm:
    """Peers that get an equal share of 1,000 pieces a second while they are unchoked, as a seed serves them."""

    choker: Choker
    peers: list[Candidate]
    got: Counter[int] = field(default_factory=Counter)

    def run(self, seconds: float, random_: random.Random) -> None:
        for step in range(int(seconds / CHOKE_ROUND)):
            unchoked = apply(self.choker, self.peers, step * CHOKE_ROUND, random_)
            for one in self.peers:
                one.sent = 10 * PIECE if one.key in unchoked else 0
                one.sent_since_unchoke += one.sent
                assert isinstance(one.key, int)
                self.got[one.key] += one.sent


def test_a_seed_serves_everybody_in_turn() -> None:
    swarm = Swarm(Choker(8), [peer(key, seeding=True, waiting_since=key / 100) for key in range(40)])
    swarm.run(1200, rng())
    assert len(swarm.got) == 40
    shares = sorted(swarm.got.values())
    assert shares[0] > 0.35 * shares[-1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 5, 8, 10]), st.booleans())
def test_any_history(seed: int, slots: int, seeding: bool) -> None:
    """No peer flips twice within the guard, no slot stays empty beside a peer that may have it."""
    random_ = random.Random(seed)
    choker, peers, now, flips = Choker(slots), list[Candidate](), 0.0, dict[object, float]()
    for step in range(60):
        now += random_.choice([CHOKE_ROUND, CHOKE_ROUND, 3.0])
        if random_.random() < 0.5:
            new = peer(step, interested=random_.random() < 0.8, connected_at=now, waiting_since=now, seeding=seeding)
            peers.append(new)
            if choker.admit(new, now):
                set_unchoked(new, True, now)
                flips[new.key] = now
        if peers and random_.random() < 0.2:
            gone = peers.pop(random_.randrange(len(peers)))
            choker.forget(gone.key)
            flips.pop(gone.key, None)
        for one in peers:
            one.interested = random_.random() < 0.9
            one.snubbed = not seeding and random_.random() < 0.1
            one.received, one.sent = random_.randrange(5), random_.randrange(5)
        before = {one.key: one.unchoked for one in peers}
        unchoked = apply(choker, peers, now, random_)
        assert len(unchoked) <= slots + choker.optimistic_slots
        for one in peers:
            if before[one.key] == one.unchoked:
                continue
            # losing interest or being snubbed ends a slot at once; nothing gives one back too soon
            if one.unchoked or (one.interested and not one.snubbed):
                assert now - flips.get(one.key, -1e9) >= CHOKE_FLIP_GUARD - 0.5
            flips[one.key] = now
        able = [one for one in peers if one.interested and not one.snubbed]
        left_out = [one for one in able if not one.unchoked and now - flips.get(one.key, -1e9) > CHOKE_FLIP_GUARD]
        assert not left_out or len(choker._regular) == slots
