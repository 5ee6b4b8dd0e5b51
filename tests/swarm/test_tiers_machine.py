"""Trackers that answer, fail, are silent and have wishes, in any order: who is told what when (BEP 3, 12, 27, 31)."""

from __future__ import annotations

import random
import sys
from math import inf

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from btor import limits
from btor.swarm.tiers import Ask, Tiers
from tests.machine import Bug, Machine, explore, finds, named

HOUR = 3_600.0


class TiersMachine(Machine):
    """The model: what was told to whom since the start, and since when a tracker must be left alone."""

    @initialize(
        sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3), private=st.booleans(), seed=st.integers(0, 9)
    )
    def begin(self, sizes: list[int], private: bool, seed: int) -> None:
        numbers = iter(range(99))
        self.tiers_of = [[f"http://t{next(numbers)}.example/" for _ in range(size)] for size in sizes]
        self.urls = [url for tier in self.tiers_of for url in tier]
        self.tiers = Tiers(self.tiers_of, random.Random(seed), private=private)
        self.now = 0.0
        self.never: set[str] = set()
        self.running = False
        self.resting: dict[str, float] = {}  # who failed, not to be asked before
        self.soonest: dict[str, float] = {}  # who answered, not to be asked before
        self.complete = False
        self.start(False)

    @rule(complete=st.booleans())
    def start(self, complete: bool) -> None:
        if self.running:
            return
        self.complete = self.complete or complete
        self.tiers.start(self.now, complete=self.complete)
        self.running = True
        self.soonest.clear()
        self.flying: dict[str, Ask] = {}
        self.started: set[str] = set()
        self.owed: set[str] = set()
        self.told_completed: set[str] = set()
        self.settle()

    @rule()
    def stop(self) -> None:
        """Whom it told that it began is told that it stops, and before that what it is owed."""
        if not self.running:
            return
        told = self.tiers.stop()
        assert {one.url for one in told} == self.started
        assert {one.url for one in told if one.completed} == self.owed & self.started
        self.running = False
        self.flying.clear()
        assert self.tiers.next_due() == inf
        assert not self.tiers.take(self.now)

    @rule(seconds=st.sampled_from([0.0, 1.0, 2.0, 6.0, 70.0, HOUR]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.take()

    @rule()
    def wait_until_due(self) -> None:
        due = self.tiers.next_due()
        if due < inf:
            self.now = max(self.now, due)
            before = (len(self.flying), self.tiers.next_due())
            self.take()
            assert (len(self.flying), self.tiers.next_due()) != before  # something was due

    def lane_of(self, url: str) -> list[str]:
        return next(lane for lane in self.tiers.urls if url in lane)

    def take(self) -> None:
        if not self.running:
            return
        for ask in self.tiers.take(self.now):
            url = ask.url
            assert url not in self.flying
            assert url not in self.never
            assert self.now >= max(self.resting.get(url, -inf), self.soonest.get(url, -inf)) - 1e-6
            if self.tiers.private:
                assert not self.flying
            expected = "started" if url not in self.started else "completed" if url in self.owed else ""
            assert ask.event == expected
            if ask.event == "started":
                self.owed.discard(url)
            self.flying[url] = ask
        for url in self.tiers.take_scrapes(self.now):
            assert url in self.started and url == self.lane_of(url)[0]
        self.settle()

    def some_flying(self, which: int) -> Ask | None:
        urls = sorted(self.flying)
        return self.flying[urls[which % len(urls)]] if urls else None

    @rule(
        which=st.integers(0, 9),
        interval=st.sampled_from([0.0, 100.0, 1_800.0, 1e6]),
        least=st.sampled_from([None, 30.0, 900.0, 1e6]),
        figures=st.booleans(),
        loopback=st.booleans(),
    )
    def answer(self, which: int, interval: float, least: float | None, figures: bool, loopback: bool) -> None:
        ask = self.some_flying(which)
        if ask is None:
            return
        others = {url for url in self.lane_of(ask.url) if url in self.flying and url != ask.url}
        verdict = self.tiers.on_answer(
            ask, self.now, interval=interval, min_interval=least, figures=figures, loopback=loopback
        )
        del self.flying[ask.url]
        assert set(verdict.silenced) == others
        for url in others:
            del self.flying[url]
            self.owed.discard(url) if url not in self.started else None
        floor = limits.TRACKER_INTERVAL_MIN_LOOPBACK if loopback else limits.TRACKER_INTERVAL_MIN
        wish = min(max(least or 0.0, floor), limits.TRACKER_INTERVAL_MAX)
        assert wish <= verdict.interval <= limits.TRACKER_INTERVAL_MAX
        assert verdict.interval >= min(interval, limits.TRACKER_INTERVAL_MAX)
        self.soonest[ask.url] = self.now + wish
        self.resting.pop(ask.url, None)
        if ask.event == "started":
            self.started.add(ask.url)
        elif ask.event == "completed":
            self.owed.discard(ask.url)
            self.told_completed.add(ask.url)
        if ask.url in self.owed:
            self.soonest[ask.url] = self.now  # what it is owed it gets at once
        assert self.lane_of(ask.url)[0] == ask.url
        self.settle()

    @rule(
        which=st.integers(0, 9),
        wish=st.sampled_from([None, 10.0, HOUR, 1e9]),
        never=st.sampled_from([False, False, False, True]),
        unsent=st.booleans(),
        loopback=st.booleans(),
    )
    def fail(self, which: int, wish: float | None, never: bool, unsent: bool, loopback: bool) -> None:
        ask = self.some_flying(which)
        if ask is None:
            return
        self.tiers.on_failure(ask, self.now, retry_after=wish, never=never, unsent=unsent, loopback=loopback)
        del self.flying[ask.url]
        if never:
            self.never.add(ask.url)
        least = limits.TRACKER_RETRY_MIN_LOOPBACK if loopback else limits.TRACKER_RETRY_MIN
        rest = 0.9 * least if wish is None else min(max(wish, least), limits.TRACKER_INTERVAL_MAX)
        self.resting[ask.url] = self.now + rest
        self.settle()

    @rule()
    def complete_now(self) -> None:
        """Whoever has been told of the beginning, or is just being told, is told of the end, once."""
        if not self.running:
            return
        self.tiers.on_complete(self.now)
        if not self.complete:
            self.complete = True
            self.owed = self.started | self.flying.keys()
            for lane in self.tiers.urls:
                if lane[0] in self.owed and not any(url in self.flying for url in lane):
                    self.soonest[lane[0]] = self.now
        self.settle()

    @rule()
    def hurry(self) -> None:
        """Sooner, and never before a tracker allows."""
        due = self.tiers.next_due()
        self.tiers.hurry(self.now)
        assert self.tiers.next_due() <= max(due, self.now)
        self.settle()

    @rule()
    def company(self) -> None:
        self.tiers.on_company()

    @rule()
    def network_is_back(self) -> None:
        self.tiers.revive(self.now)
        for url in self.started - self.flying.keys():
            self.resting[url] = min(self.resting.get(url, -inf), self.now)

    @rule(url=st.integers(0, 9), ok=st.booleans(), least=st.sampled_from([None, 10.0, 1e9]))
    def scraped(self, url: int, ok: bool, least: float | None) -> None:
        self.tiers.on_scrape(self.urls[url % len(self.urls)], ok=ok, min_interval=least)
        self.settle()

    def settle(self) -> None:
        tiers = self.tiers
        lanes = [sorted(lane) for lane in tiers.urls]
        expected = [sorted(self.urls)] if tiers.private else [sorted(tier) for tier in self.tiers_of]
        assert lanes == expected  # none lost, none in another tier
        assert tiers.total == len(self.urls)
        assert {url for url, tracker in tiers._trackers.items() if tracker.flying} == self.flying.keys()
        if not self.running:
            return
        for lane in tiers.urls:
            idle = not any(url in self.flying for url in lane)
            if idle and not self.never.issuperset(lane):
                assert tiers.next_due() < inf  # no tier sleeps for ever
        assert self.tiers.working <= len(self.started)

    def teardown(self) -> None:
        """With trackers that answer, everybody who is asked hears what is owed within an hour or two."""
        if not hasattr(self, "tiers") or not self.running or sys.exc_info()[0] is not None:
            return
        for _ in range(200):
            for url in sorted(self.flying):
                if url in self.flying:
                    self.answer(sorted(self.flying).index(url), 1_800.0, None, True, False)
            self.wait_until_due()
        for lane in self.tiers.urls:
            if not self.never.issuperset(lane):
                assert any(url in self.started for url in lane)
                assert lane[0] not in self.owed or lane[0] in self.flying or lane[0] in self.never


def test_any_order_of_events() -> None:
    explore(TiersMachine)


BUGS = [
    Bug("a tracker that failed counts as being asked", Tiers, "on_failure", "tracker.flying = False", "pass"),
    Bug(
        "who wants no more announces gets them",
        Tiers,
        "take",
        "not one.flying and not one.never and",
        "not one.flying and",
        seed=2,
    ),
    Bug("the end is told twice", Tiers, "on_answer", "tracker.completed_owed = False", "pass", seed=4),
    Bug(
        "who was being told of the beginning never hears of the end",
        Tiers,
        "on_complete",
        " or tracker.flying",
        "",
        seed=4,
    ),
]


@named(BUGS)
def test_planted_bugs_are_found(bug: Bug) -> None:
    finds(TiersMachine, bug)
