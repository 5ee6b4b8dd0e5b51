"""Tiers of trackers: who is asked when, and what for."""

from __future__ import annotations

import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from btor import limits
from btor.swarm.tiers import JITTER, Ask, Farewell, Tiers, Verdict

A, B, C, D = "http://a/announce", "http://b/announce", "udp://c:1", "udp://d:1"
HOUR = 3_600.0


class Unshuffled(random.Random):
    """Leaves tiers in their order and jitters nothing."""

    def shuffle(self, x: object) -> None:
        """Not at all."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def started(*tiers: list[str], private: bool = False, complete: bool = False) -> Tiers:
    made = Tiers(tiers, Unshuffled(), private=private)
    made.start(0.0, complete=complete)
    return made


def answer(tiers: Tiers, url: str, now: float, *, event: str = "started", interval: float = HOUR) -> Verdict:
    return tiers.on_answer(Ask(url, event), now, interval=interval)  # type: ignore[arg-type]  # a literal in each test


# --- order ---------------------------------------------------------------------------------------------------------


def test_tiers_are_shuffled_within_themselves() -> None:
    tiers = [[f"http://{tier}{n}/" for n in range(6)] for tier in "ab"]
    seen = set()
    for seed in range(20):
        made = Tiers(tiers, random.Random(seed)).urls
        assert [sorted(tier) for tier in made] == tiers
        seen.add(str(made))
    assert len(seen) > 10


def test_a_tracker_that_is_listed_twice_counts_once() -> None:
    made = Tiers([[A, A], [A], [B, A]], Unshuffled())
    assert made.urls == [[A], [B]]
    assert made.total == 2


def test_all_tiers_are_asked_at_once() -> None:
    tiers = started([A, B], [C])
    assert tiers.next_due() == 0
    assert tiers.take(0.0) == [Ask(A, "started"), Ask(C, "started")]


def test_no_trackers() -> None:
    tiers = started()
    assert (tiers.next_due(), tiers.take(0.0), tiers.stop(), tiers.total, tiers.working) == (inf, [], [], 0, 0)


def test_the_next_is_asked_beside_a_silent_one() -> None:
    tiers = started([A, B, C])
    tiers.take(0.0)
    assert tiers.next_due() == limits.TRACKER_NEXT_AFTER_FIRST
    assert tiers.take(limits.TRACKER_NEXT_AFTER_FIRST - 0.01) == []
    assert tiers.take(limits.TRACKER_NEXT_AFTER_FIRST) == [Ask(B, "started")]
    assert tiers.next_due() == 2 * limits.TRACKER_NEXT_AFTER_FIRST


def test_once_a_tracker_answered_more_patience_is_had() -> None:
    tiers = started([A, B])
    tiers.take(0.0)
    answer(tiers, A, 0.0)
    assert tiers.take(HOUR) == [Ask(A, "")]
    assert tiers.take_scrapes(HOUR) == [A]
    assert tiers.next_due() == HOUR + limits.TRACKER_NEXT_AFTER
    assert tiers.take(HOUR + limits.TRACKER_NEXT_AFTER) == [Ask(B, "started")]


def test_after_a_failure_the_next_is_asked_at_once() -> None:
    tiers = started([A, B])
    tiers.take(0.0)
    tiers.on_failure(Ask(A, "started"), 0.5)
    assert tiers.next_due() == 0.5
    assert tiers.take(0.5) == [Ask(B, "started")]


def test_the_first_answer_wins_and_moves_to_the_front() -> None:
    tiers = started([A, B, C])
    tiers.take(0.0)
    tiers.take(1.5)
    tiers.take(3.0)
    assert answer(tiers, B, 3.1).silenced == [A, C]
    assert tiers.urls == [[B, A, C]]
    assert tiers.next_due() > HOUR / 2
    assert tiers.take(HOUR + 3.1) == [Ask(B, "")]


def test_the_schedule_starts_at_the_silent_one_again_when_the_winner_fails() -> None:
    tiers = started([A, B])
    tiers.take(0.0)
    tiers.take(1.5)
    answer(tiers, B, 2.0)
    tiers.take(HOUR + 2)
    tiers.on_failure(Ask(B, ""), HOUR + 2)
    assert tiers.take(HOUR + 2) == [Ask(A, "started")]


# --- private torrents (BEP 27) -------------------------------------------------------------------------------------


def test_a_private_torrent_asks_one_tracker_at_a_time() -> None:
    tiers = started([A, B], [C], private=True)
    assert tiers.take(0.0) == [Ask(A, "started")]
    assert tiers.next_due() == inf
    assert tiers.take(HOUR) == []
    tiers.on_failure(Ask(A, "started"), 30.0)
    assert tiers.take(30.0) == [Ask(B, "started")]
    assert not answer(tiers, B, 31.0).switched
    assert tiers.urls == [[B, A, C]]


def test_a_private_torrent_says_when_it_changes_over() -> None:
    tiers = started([A, B], private=True)
    tiers.take(0.0)
    assert not answer(tiers, A, 0.0).switched
    tiers.take(HOUR)
    tiers.on_failure(Ask(A, ""), HOUR)
    tiers.take(HOUR)
    assert answer(tiers, B, HOUR).switched
    tiers.take(2 * HOUR)
    assert not answer(tiers, B, 2 * HOUR, event="").switched


def test_only_private_torrents_change_over() -> None:
    tiers = started([A], [B])
    tiers.take(0.0)
    assert not answer(tiers, A, 0.0).switched
    assert not answer(tiers, B, 0.0).switched


# --- intervals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "min_interval", "loopback", "kept"),
    [
        (1_800, None, False, 1_800),
        (60, None, False, 60),
        (59, None, False, 60),
        (0, None, False, 60),
        (-(2**63), None, False, 60),
        (86_400, None, False, 86_400),
        (86_401, None, False, 86_400),
        (2**63 - 1, 2**63 - 1, False, 86_400),
        (60, 900, False, 900),
        (900, 60, False, 900),
        (60, -5, False, 60),
        (1, None, True, 1),
        (0.5, None, True, 1),
        (0, None, True, 1),
        (1, 30, True, 30),
    ],
)
def test_N2_intervals_are_clamped(interval: float, min_interval: float | None, loopback: bool, kept: float) -> None:
    tiers = started([A])
    tiers.take(0.0)
    verdict = tiers.on_answer(Ask(A, "started"), 10.0, interval=interval, min_interval=min_interval, loopback=loopback)
    assert verdict.interval == kept
    assert tiers.next_due() == pytest.approx(min(10 + kept, 10 + limits.TRACKER_SCRAPE))
    assert tiers.take(10 + kept - 0.01) == []
    assert tiers.take(10 + kept) == [Ask(A, "")]


def test_without_peers_the_announce_comes_sooner() -> None:
    tiers = started([A])
    tiers.hurry(0.0)  # nothing was answered yet: no effect
    tiers.take(0.0)
    answer(tiers, A, 0.0)
    tiers.hurry(1.0)
    tiers.hurry(2.0)
    assert tiers.next_due() == limits.TRACKER_INTERVAL_MIN
    assert tiers.take(60.0) == [Ask(A, "")]
    tiers.hurry(60.1)  # on its way already
    assert tiers.take(60.2) == []


def test_hurry_never_puts_an_announce_off() -> None:
    tiers = started([A])
    tiers.take(0.0)
    answer(tiers, A, 0.0, interval=70)
    tiers.hurry(69.0)
    assert tiers.take(69.0) == [Ask(A, "")]


def test_hurry_keeps_the_min_interval() -> None:
    tiers = started([A])
    tiers.take(0.0)
    tiers.on_answer(Ask(A, "started"), 0.0, interval=HOUR, min_interval=900)
    tiers.hurry(100.0)
    assert tiers.next_due() == 900


def test_on_loopback_hurry_slows_down_to_five_seconds() -> None:
    tiers = started([A])
    tiers.take(0.0)
    tiers.on_answer(Ask(A, "started"), 0.0, interval=HOUR, loopback=True)
    now, waits = 0.0, []
    for _ in range(7):
        tiers.hurry(now)
        waits.append(tiers.next_due() - now)
        now = tiers.next_due()
        tiers.take(now)
        tiers.on_answer(Ask(A, ""), now, interval=HOUR, loopback=True)
    assert waits == [1, 2, 3, 4, 5, 5, 5]
    tiers.on_company()
    tiers.take(now + HOUR)
    tiers.on_answer(Ask(A, ""), now + HOUR, interval=HOUR, loopback=True)
    tiers.hurry(now + HOUR)
    assert tiers.next_due() == now + HOUR + 1


def lonely(tiers: Tiers, until: float, *, interval: float = 1_800, loopback: bool = False) -> list[float]:
    """When a torrent that never finds a peer announces."""
    times = []
    for now in range(int(until)):
        for ask in tiers.take(now):
            times.append(float(now))
            tiers.on_answer(ask, now, interval=interval, loopback=loopback)
        tiers.hurry(now)
    return times


def test_who_stays_without_peers_asks_less_and_less_often() -> None:
    times = lonely(started([A]), 7_500)
    assert times == [0, 60, 180, 420, 900, 1_860, 3_660, 5_460, 7_260]


def test_a_hurried_wait_is_never_longer_than_the_interval() -> None:
    assert lonely(started([A]), 700, interval=200) == [0, 60, 180, 380, 580]


def test_a_seed_does_not_hurry() -> None:
    assert lonely(started([A], complete=True), 4_000) == [0, 1_800, 3_600]
    assert lonely(started([A], complete=True), 8, loopback=True) == [0, 1, 3, 6]


def test_company_makes_the_first_announces_soon_again() -> None:
    tiers = started([A])
    assert lonely(tiers, 2_000)[-1] == 1_860
    tiers.hurry(2_000)
    assert tiers.next_due() == 3_660
    tiers.on_company()
    tiers.hurry(2_000)
    assert tiers.take(2_000) == [Ask(A, "")]
    answer(tiers, A, 2_000)
    tiers.hurry(2_001)
    assert tiers.next_due() == 2_120
    tiers.on_company()
    tiers.hurry(2_001)
    assert tiers.next_due() == 2_060  # but never sooner than our own bound


# --- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loopback", "rests"),
    [(False, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]), (True, [1, 2, 4, 8, 16, 30, 30])],
)
def test_N2_back_off_doubles(loopback: bool, rests: list[float]) -> None:
    tiers = started([A])
    now, seen = 0.0, []
    for _ in rests:
        assert tiers.take(now) == [Ask(A, "started")]
        tiers.on_failure(Ask(A, "started"), now, loopback=loopback)
        seen.append(tiers.next_due() - now)
        assert tiers.take(tiers.next_due() - 0.01) == []
        now = tiers.next_due()
    assert seen == rests
    tiers.take(now)
    answer(tiers, A, now)
    tiers.take(now + HOUR)
    tiers.on_failure(Ask(A, ""), now + HOUR)
    assert tiers.next_due() == now + HOUR + 60


def test_back_off_does_not_grow_while_nothing_reaches_the_tracker() -> None:
    tiers = started([A])
    now = 0.0
    for _ in range(5):
        assert tiers.take(now) == [Ask(A, "started")]
        tiers.on_failure(Ask(A, "started"), now, unsent=True)
        assert tiers.next_due() == now + 60
        now = tiers.next_due()


def test_time_that_was_missed_brings_announces_forward() -> None:
    tiers = started([A], [B], [C])
    tiers.take(0.0)
    tiers.on_answer(Ask(A, "started"), 0.0, interval=HOUR, min_interval=100)
    answer(tiers, B, 0.0)
    tiers.on_time_missed(70.0, 20.0)
    assert tiers.take(70.0) == [Ask(B, "")]
    assert tiers.take(79.9) == []
    assert tiers.take(80.0) == [Ask(A, "")]  # its wish of 100 s, of which 20 went by unseen


def test_trackers_that_had_answered_are_asked_again_when_the_network_is_back() -> None:
    tiers = started([A], [B])
    tiers.take(0.0)
    answer(tiers, A, 0.0)
    tiers.on_failure(Ask(B, "started"), 0.0)
    assert tiers.take(HOUR) == [Ask(A, ""), Ask(B, "started")]
    tiers.revive(HOUR)  # both are on their way
    assert tiers.take(HOUR) == []
    tiers.on_failure(Ask(A, ""), HOUR)
    tiers.on_failure(Ask(B, "started"), HOUR)
    assert tiers.take(HOUR + 1) == []
    tiers.revive(HOUR + 1)
    assert tiers.take(HOUR + 1) == [Ask(A, "")]


def test_back_off_stays_bounded_however_often() -> None:
    tiers = started([A])
    for _ in range(3_000):
        tiers.on_failure(Ask(A, "started"), 0.0)
    assert tiers.next_due() == limits.TRACKER_RETRY_MAX


def test_N2_back_off_is_jittered_by_ten_percent() -> None:
    rests = []
    for seed in range(300):
        tiers = Tiers([[A]], random.Random(seed))
        tiers.start(0.0, complete=False)
        tiers.take(0.0)
        tiers.on_failure(Ask(A, "started"), 0.0)
        rests.append(tiers.next_due())
    assert 60 * (1 - JITTER) <= min(rests) < 55
    assert 65 < max(rests) <= 60 * (1 + JITTER)


@pytest.mark.parametrize(
    ("wished", "loopback", "kept"),
    [
        (300, False, 300),
        (60, False, 60),
        (59, False, 60),
        (86_400, False, 86_400),
        (86_401, False, 86_400),
        (0, True, 1),
    ],
)
def test_the_trackers_own_wish_counts(wished: float, loopback: bool, kept: float) -> None:
    tiers = started([A])
    tiers.take(0.0)
    tiers.on_failure(Ask(A, "started"), 0.0, retry_after=wished, loopback=loopback)
    assert tiers.next_due() == kept


def test_never_means_never() -> None:
    tiers = started([A, B])
    tiers.take(0.0)
    tiers.on_failure(Ask(A, "started"), 0.0, never=True)
    tiers.take(0.0)
    tiers.on_failure(Ask(B, "started"), 0.0)
    assert tiers.take(1e9) == [Ask(B, "started")]
    tiers.on_failure(Ask(B, "started"), 1e9, never=True)
    assert tiers.next_due() == inf
    tiers.start(2e9, complete=False)
    assert tiers.next_due() == inf


def test_how_many_work() -> None:
    tiers = started([A, B], [C])
    tiers.take(0.0)
    assert (tiers.working, tiers.total) == (0, 3)
    answer(tiers, A, 0.0)
    answer(tiers, C, 0.0)
    assert tiers.working == 2
    tiers.take(HOUR)
    tiers.on_failure(Ask(C, ""), HOUR)
    assert tiers.working == 1


# --- events --------------------------------------------------------------------------------------------------------


def test_completed_is_told_at_once() -> None:
    tiers = started([A, B])
    tiers.take(0.0)
    answer(tiers, A, 0.0)
    tiers.on_complete(5.0)
    tiers.on_complete(6.0)
    assert tiers.next_due() == 5.0
    assert tiers.take(5.0) == [Ask(A, "completed")]
    answer(tiers, A, 5.0, event="completed")
    assert tiers.take(HOUR + 5) == [Ask(A, "")]


def test_completed_follows_a_started_that_is_on_its_way() -> None:
    tiers = started([A])
    tiers.take(0.0)
    tiers.on_complete(0.1)
    assert tiers.take(0.1) == []
    answer(tiers, A, 0.2)
    assert tiers.take(0.2) == [Ask(A, "completed")]


def test_completed_is_tried_again_after_a_failure() -> None:
    tiers = started([A])
    tiers.take(0.0)
    answer(tiers, A, 0.0)
    tiers.on_complete(5.0)
    tiers.take(5.0)
    tiers.on_failure(Ask(A, "completed"), 5.0)
    assert tiers.take(65.0) == [Ask(A, "completed")]


def test_who_was_complete_at_the_start_never_completes() -> None:
    tiers = started([A], complete=True)
    tiers.take(0.0)
    tiers.on_complete(0.0)
    answer(tiers, A, 0.0)
    assert tiers.take(HOUR) == [Ask(A, "")]
    assert tiers.stop() == [Farewell(A, completed=False)]


def test_a_tracker_that_first_hears_of_us_complete_is_owed_nothing() -> None:
    tiers = started([A])
    tiers.take(0.0)
    tiers.on_complete(1.0)
    tiers.on_failure(Ask(A, "started"), 2.0)
    assert tiers.take(62.0) == [Ask(A, "started")]  # this one says that nothing is left
    answer(tiers, A, 62.0)
    assert tiers.take(62.0) == []


def test_stopped_goes_to_all_who_answered() -> None:
    tiers = started([A, B], [C], [D])
    tiers.take(0.0)
    answer(tiers, A, 0.0)
    answer(tiers, C, 0.0)
    tiers.take(HOUR)
    tiers.on_failure(Ask(A, ""), HOUR)
    tiers.take(HOUR)
    answer(tiers, B, HOUR)
    assert sorted(tiers.stop()) == [Farewell(A, False), Farewell(B, False), Farewell(C, False)]
    assert tiers.next_due() == inf
    tiers.hurry(2 * HOUR)
    assert tiers.next_due() == inf
    assert tiers.stop() == []


def test_a_completed_still_owed_goes_before_stopped() -> None:
    tiers = started([A])
    tiers.take(0.0)
    answer(tiers, A, 0.0)
    tiers.on_complete(1.0)
    assert tiers.stop() == [Farewell(A, completed=True)]


def test_starting_again_says_started_again() -> None:
    tiers = started([A])
    tiers.take(0.0)
    answer(tiers, A, 0.0)
    tiers.stop()
    tiers.start(10.0, complete=True)
    assert tiers.take(10.0) == [Ask(A, "started")]


def test_the_tracker_id_is_kept_until_a_new_one_comes() -> None:
    tiers = started([A])
    assert tiers.tracker_id(A) is None
    for given_id, kept in ((b"x", b"x"), (None, b"x"), (b"y", b"y")):
        tiers.on_answer(Ask(A, ""), 0.0, interval=60, tracker_id=given_id)
        assert tiers.tracker_id(A) == kept


# --- scrapes (BEP 48) ----------------------------------------------------------------------------------------------


def test_figures_are_asked_for_when_half_an_hour_old() -> None:
    tiers = started([A])
    assert tiers.take_scrapes(0.0) == []
    tiers.take(0.0)
    answer(tiers, A, 0.0, interval=10 * HOUR)
    assert tiers.next_due() == limits.TRACKER_SCRAPE
    assert tiers.take_scrapes(limits.TRACKER_SCRAPE - 1) == []
    assert tiers.take_scrapes(limits.TRACKER_SCRAPE) == [A]
    tiers.on_scrape(A, ok=True)
    assert tiers.next_due() == 2 * limits.TRACKER_SCRAPE


def test_no_scrape_when_an_announce_brings_figures_in_time() -> None:
    tiers = started([A])
    tiers.take(0.0)
    answer(tiers, A, 0.0, interval=limits.TRACKER_SCRAPE)
    assert tiers.next_due() == limits.TRACKER_SCRAPE
    assert tiers.take_scrapes(limits.TRACKER_SCRAPE) == []
    tiers.take(limits.TRACKER_SCRAPE)
    answer(tiers, A, limits.TRACKER_SCRAPE, event="", interval=2 * limits.TRACKER_SCRAPE)
    assert tiers.take_scrapes(2 * limits.TRACKER_SCRAPE) == [A]
    assert tiers.take_scrapes(3 * limits.TRACKER_SCRAPE) == []


def test_figures_that_are_missing_are_asked_for_at_once_but_not_within_five_minutes() -> None:
    tiers = started([A])
    tiers.take(0.0)
    tiers.on_answer(Ask(A, "started"), 0.0, interval=60, figures=False)
    assert tiers.take_scrapes(0.0) == [A]
    tiers.on_scrape(A, ok=True)
    for now in (60.0, 120.0, 180.0, 240.0):
        tiers.take(now)
        tiers.on_answer(Ask(A, ""), now, interval=60, figures=False)
        assert tiers.take_scrapes(now) == []
    tiers.take(300.0)
    tiers.on_answer(Ask(A, ""), 300.0, interval=60, figures=False)
    assert tiers.take_scrapes(limits.TRACKER_SCRAPE_MIN) == [A]


def test_a_scrape_that_failed_is_not_soon_repeated() -> None:
    tiers = started([A])
    tiers.take(0.0)
    tiers.on_answer(Ask(A, "started"), 0.0, interval=300, figures=False)
    assert tiers.take_scrapes(0.0) == [A]
    tiers.on_scrape(A, ok=False)
    tiers.take(300.0)
    tiers.on_answer(Ask(A, ""), 300.0, interval=300, figures=False)
    assert tiers.take_scrapes(300.0) == []
    assert tiers.take_scrapes(limits.TRACKER_SCRAPE) == [A]


@pytest.mark.parametrize(("wished", "kept"), [(1, 1_800), (7_200, 7_200), (2**63, 86_400)])
def test_scrapes_keep_the_distance_that_the_tracker_wishes(wished: float, kept: float) -> None:
    tiers = started([A])
    tiers.take(0.0)
    tiers.on_answer(Ask(A, "started"), 0.0, interval=200_000, figures=False)
    tiers.take_scrapes(0.0)
    tiers.on_scrape(A, ok=True, min_interval=wished)
    assert tiers.take_scrapes(kept - 1) == []
    assert tiers.take_scrapes(kept) == [A]


def test_a_tracker_that_failed_is_not_scraped() -> None:
    tiers = started([A])
    tiers.take(0.0)
    tiers.on_answer(Ask(A, "started"), 0.0, interval=60, figures=False)
    assert tiers.take_scrapes(0.0) == [A]
    tiers.take(60.0)
    tiers.on_failure(Ask(A, ""), 60.0)
    tiers.on_scrape(A, ok=True)
    assert tiers.take_scrapes(HOUR) == []


# --- any order of things -------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens: no tracker is asked twice at once, too soon, after `never`, or with an event not owed."""

    @initialize(
        tiers=st.lists(st.lists(st.sampled_from([A, B, C, D]), max_size=3), max_size=3),
        private=st.booleans(),
        seed=st.integers(0, 9),
    )
    def begin(self, tiers: list[list[str]], private: bool, seed: int) -> None:
        self.now = 0.0
        self.tiers = Tiers(tiers, random.Random(seed), private=private)
        self.flying: dict[str, Ask] = {}
        self.known: set[str] = set()  # trackers that answered `started`
        self.told_left: set[str] = set()  # …while something was left
        self.earliest: dict[str, float] = {}
        self.never: set[str] = set()
        self.owed: set[str] = set()
        self.complete = False
        self.tiers.start(0.0, complete=False)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.5, 5.0, 61.0, 3_700.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        for ask in self.tiers.take(self.now):
            assert ask.url not in self.flying
            assert ask.url not in self.never
            event = "started" if ask.url not in self.known else "completed" if ask.url in self.owed else ""
            assert ask.event == event
            if event != "completed":
                assert self.now >= self.earliest.get(ask.url, 0.0)
            if event == "started" and not self.complete:
                self.told_left.add(ask.url)
            if event == "started" and self.complete:
                self.told_left.discard(ask.url)
            self.flying[ask.url] = ask
        if self.tiers.private:
            assert len(self.flying) <= 1

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), interval=st.sampled_from([0, 60, 1_800, 10**9]))
    def answered(self, data: st.DataObject, interval: int) -> None:
        ask = self.flying.pop(data.draw(st.sampled_from(sorted(self.flying.values()))).url)
        verdict = self.tiers.on_answer(ask, self.now, interval=interval)
        assert limits.TRACKER_INTERVAL_MIN <= verdict.interval <= limits.TRACKER_INTERVAL_MAX
        for url in verdict.silenced:
            del self.flying[url]
        self.earliest[ask.url] = self.now + 60
        if ask.event == "started":
            self.known.add(ask.url)
            if self.complete and ask.url in self.told_left:
                self.owed.add(ask.url)
        if ask.event == "completed":
            self.owed.discard(ask.url)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), never=st.booleans())
    def failed(self, data: st.DataObject, never: bool) -> None:
        ask = self.flying.pop(data.draw(st.sampled_from(sorted(self.flying.values()))).url)
        self.tiers.on_failure(ask, self.now, never=never)
        self.earliest[ask.url] = self.now + 60 * (1 - JITTER)
        if never:
            self.never.add(ask.url)

    @rule()
    def finish(self) -> None:
        if not self.complete:
            self.owed = {url for url in self.known if url in self.told_left}
        self.complete = True
        self.tiers.on_complete(self.now)

    @rule()
    def hurry(self) -> None:
        self.tiers.hurry(self.now)

    @rule()
    def meet(self) -> None:
        self.tiers.on_company()

    @rule()
    def scrape(self) -> None:
        for url in self.tiers.take_scrapes(self.now):
            assert url in self.known
            self.tiers.on_scrape(url, ok=True)

    @rule(complete=st.booleans())
    def stop_and_start(self, complete: bool) -> None:
        farewells = self.tiers.stop()
        assert {farewell.url for farewell in farewells} == self.known
        assert {farewell.url for farewell in farewells if farewell.completed} == self.owed
        self.tiers.start(self.now, complete=complete)
        self.flying.clear()
        self.known.clear()
        self.told_left.clear()
        self.owed.clear()
        self.complete = complete
        self.earliest = {}

    @invariant()
    def no_tracker_is_forgotten(self) -> None:
        urls = [url for lane in self.tiers.urls for url in lane]
        assert len(urls) == len(set(urls)) == self.tiers.total
        if self.never.isdisjoint(urls) and not self.flying and urls:
            assert self.tiers.next_due() <= self.now + limits.TRACKER_INTERVAL_MAX


TestAnyOrder = AnyOrder.TestCase


@given(st.lists(st.lists(st.text(max_size=3), max_size=5), max_size=5), st.booleans())
def test_every_tracker_is_kept_once(tiers: list[list[str]], private: bool) -> None:
    made = Tiers(tiers, random.Random(0), private=private)
    assert sorted(url for lane in made.urls for url in lane) == sorted({url for tier in tiers for url in tier})
    assert len(made.urls) <= (1 if private else len(tiers))
