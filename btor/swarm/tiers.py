"""Which tracker of a torrent is asked when (BEP 3, 12, 27, 31): tiers, intervals, back-off, events owed.

Every tier is a *lane* of its own, so that all tiers are announced to side by side; a private torrent has one lane with
all trackers. Within a lane the first tracker is asked; while it is silent the next is asked beside it after a short
while, and at once when it fails. The first answer wins: that tracker moves to the front, the others are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from btor import limits
from btor.wire.tracker_http import AnnounceEvent

if TYPE_CHECKING:
    from random import Random

JITTER: Final = 0.1  # of a back-off, either way
DOUBLINGS: Final = 30  # by then far over any maximum


class Ask(NamedTuple):
    """An announce to start now: the tracker and the event it is owed."""

    url: str
    event: AnnounceEvent


class Farewell(NamedTuple):
    """What a tracker is told when the torrent stops: ``completed`` first if it is owed, then ``stopped``."""

    url: str
    completed: bool


class Verdict(NamedTuple):
    """What follows from an answer: trackers not to wait for any more, whether a private torrent changed over to this
    one, and the s until the next announce as they will be kept."""

    silenced: list[str]
    switched: bool
    interval: float


@dataclass(slots=True)
class _Tracker:
    url: str
    lane: _Lane = field(repr=False)
    tracker_id: bytes | None = None
    flying: bool = False  # asked, no outcome yet
    started: bool = False  # has answered a `started`
    completed_owed: bool = False
    failures: int = 0  # in a row
    retry_at: float = -inf
    never: bool = False  # asked us not to come back
    soonest: float = -inf  # by its min interval, or our own
    scrape_at: float = inf
    scraped_at: float = -inf
    scrape_rest: float = limits.TRACKER_SCRAPE_MIN  # least time between scrapes

    def plan_scrape(self, when: float, *, figures: bool) -> None:
        """Scrape at ``when``, or later if the tracker wishes; not at all if an announce brings ``figures`` by then."""
        when = max(when, self.scraped_at + self.scrape_rest)
        self.scrape_at = inf if figures and self.lane.due <= when else when


@dataclass(slots=True)
class _Lane:
    hedge: bool
    trackers: list[_Tracker] = field(default_factory=list)
    due: float = 0.0  # the next announce; from then on until an answer comes the lane is wanting
    ask_at: float = 0.0  # when the next tracker may be asked, while wanting
    answered: bool = False
    loopback: bool = False  # who answered last is on this machine
    hurried: bool = False  # `due` was moved forward for lack of peers
    hurries: int = 0  # since there was last company
    patient_until: float = -inf  # not moved forward again before then

    def next_time(self) -> float:
        """When the lane has a tracker to ask."""
        if not self.hedge and any(tracker.flying for tracker in self.trackers):
            return inf
        ready = min((one.retry_at for one in self.trackers if not one.flying and not one.never), default=inf)
        return max(self.due, self.ask_at, ready)

    def wait(self) -> float:
        """How long a tracker may be silent before the next one is asked."""
        return limits.TRACKER_NEXT_AFTER if self.answered else limits.TRACKER_NEXT_AFTER_FIRST


class Tiers:
    """The trackers of one torrent and their schedule. Times are seconds of one monotonic clock.

    Duplicates are dropped. ``private`` asks one tracker at a time, the working one as long as it works.
    """

    def __init__(self, tiers: Sequence[Sequence[str]], rng: Random, *, private: bool = False) -> None:
        self.private = private
        self._rng = rng
        self._lanes: list[_Lane] = []
        self._trackers: dict[str, _Tracker] = {}
        self._complete = False
        self._current: str | None = None  # of a private torrent
        for tier in tiers:
            urls = [url for url in dict.fromkeys(tier) if url not in self._trackers]
            rng.shuffle(urls)
            if not urls:
                continue
            if not self._lanes or not private:
                self._lanes.append(_Lane(hedge=not private))
            lane = self._lanes[-1]
            for url in urls:
                tracker = _Tracker(url, lane)
                self._trackers[url] = tracker
                lane.trackers.append(tracker)

    @property
    def urls(self) -> list[list[str]]:
        """The URLs as they would be asked now, one list a lane."""
        return [[tracker.url for tracker in lane.trackers] for lane in self._lanes]

    @property
    def total(self) -> int:
        """How many trackers there are."""
        return len(self._trackers)

    @property
    def working(self) -> int:
        """How many trackers answered when last asked."""
        return sum(tracker.started and not tracker.failures for tracker in self._trackers.values())

    def tracker_id(self, url: str) -> bytes | None:
        """The ``tracker id`` to echo to that tracker."""
        return self._trackers[url].tracker_id

    def start(self, now: float, *, complete: bool) -> None:
        """Begin, or begin again after a stop: every lane is due. ``complete``: there is nothing left to download."""
        self._complete = complete
        for lane in self._lanes:
            lane.due = lane.ask_at = now
            lane.answered = lane.hurried = False
            lane.hurries = 0
            lane.patient_until = -inf
        for tracker in self._trackers.values():
            tracker.flying = tracker.started = tracker.completed_owed = False
            tracker.scrape_at = inf

    def next_due(self) -> float:
        """When ``take`` or ``take_scrapes`` next has something; inf while everything waits for an outcome."""
        announce = min((lane.next_time() for lane in self._lanes), default=inf)
        return min(announce, min((lane.trackers[0].scrape_at for lane in self._lanes), default=inf))

    def take(self, now: float) -> list[Ask]:
        """The announces to start now. Each is followed by ``on_answer`` or ``on_failure``, or by an ``on_answer``
        of another tracker that names it silenced."""
        asks = []
        for lane in self._lanes:
            if lane.next_time() > now:
                continue
            tracker = next(one for one in lane.trackers if not one.flying and not one.never and one.retry_at <= now)
            tracker.flying = True
            lane.ask_at = now + lane.wait()
            event: AnnounceEvent = "completed" if tracker.completed_owed else ""
            if not tracker.started:
                event = "started"
                tracker.completed_owed = False  # only who hears `started` before the end is owed a `completed`
            asks.append(Ask(tracker.url, event))
        return asks

    def take_scrapes(self, now: float) -> list[str]:
        """The trackers to scrape now: working ones whose figures are missing or old."""
        urls = []
        for lane in self._lanes:
            tracker = lane.trackers[0]
            if tracker.scrape_at <= now:
                tracker.scraped_at = now
                tracker.plan_scrape(now + limits.TRACKER_SCRAPE, figures=True)
                urls.append(tracker.url)
        return urls

    def on_answer(
        self,
        ask: Ask,
        now: float,
        *,
        interval: float,
        min_interval: float | None = None,
        tracker_id: bytes | None = None,
        figures: bool = True,
        loopback: bool = False,
    ) -> Verdict:
        """The tracker accepted the announce. ``interval`` and ``min_interval`` as it said them, in s.

        ``figures``: the answer counted seeds and leechers. ``loopback``: the tracker is on this machine.
        """
        tracker = self._trackers[ask.url]
        lane = tracker.lane
        tracker.flying = False
        tracker.failures = 0
        tracker.retry_at = -inf
        tracker.tracker_id = tracker_id or tracker.tracker_id
        if ask.event == "started":
            tracker.started = True
        elif ask.event == "completed":
            tracker.completed_owed = False
        floor = limits.TRACKER_INTERVAL_MIN_LOOPBACK if loopback else limits.TRACKER_INTERVAL_MIN
        least = min(max(min_interval or 0, floor), limits.TRACKER_INTERVAL_MAX)
        lane.hurries += lane.hurried
        lane.hurried = False
        lane.answered, lane.loopback = True, loopback
        regular = min(max(interval, least), limits.TRACKER_INTERVAL_MAX)
        lane.due = now + regular
        tracker.soonest = now + least
        if loopback:
            lane.patient_until = now + min(floor * (1 + lane.hurries), limits.TRACKER_HURRY_MAX_LOOPBACK)
        else:
            lane.patient_until = now + min(floor * 2.0 ** min(lane.hurries, DOUBLINGS), regular)
        tracker.plan_scrape(now if not figures else now + limits.TRACKER_SCRAPE, figures=figures)
        if tracker.completed_owed:
            lane.due = now
        lane.ask_at = now
        lane.trackers.remove(tracker)
        lane.trackers.insert(0, tracker)
        silenced = [one.url for one in lane.trackers if one.flying]
        for one in lane.trackers:
            one.flying = False
        switched = self.private and self._current not in (None, ask.url)
        self._current = ask.url
        return Verdict(silenced, switched, regular)

    def on_failure(
        self,
        ask: Ask,
        now: float,
        *,
        retry_after: float | None = None,
        never: bool = False,
        unsent: bool = False,
        loopback: bool = False,
    ) -> None:
        """The tracker refused or could not be had; it rests, and the next of its tier may be asked at once.

        ``retry_after`` (s) and ``never``: what it asked for itself (BEP 31). ``unsent``: it was not even asked, so that
        it is spared nothing by a longer rest, and our own network may be there again any moment.
        """
        tracker = self._trackers[ask.url]
        tracker.flying = False
        tracker.never = tracker.never or never
        tracker.scrape_at = inf
        least = limits.TRACKER_RETRY_MIN_LOOPBACK if loopback else limits.TRACKER_RETRY_MIN
        most = limits.TRACKER_RETRY_MAX_LOOPBACK if loopback else limits.TRACKER_RETRY_MAX
        doublings = 0 if unsent else min(tracker.failures, DOUBLINGS)
        rest = min(least * 2.0**doublings, most) * self._rng.uniform(1 - JITTER, 1 + JITTER)
        if retry_after is not None:
            rest = min(max(retry_after, least), limits.TRACKER_INTERVAL_MAX)
        tracker.failures += 1
        tracker.retry_at = now + rest
        tracker.lane.ask_at = now

    def on_scrape(self, url: str, *, ok: bool, min_interval: float | None = None) -> None:
        """A scrape ended; ``min_interval`` (s) is the tracker's wish between two. A failed one is not soon repeated."""
        least = limits.TRACKER_SCRAPE_MIN if ok else limits.TRACKER_SCRAPE
        tracker = self._trackers[url]
        tracker.scrape_rest = min(max(min_interval or 0, least), limits.TRACKER_INTERVAL_MAX)
        if tracker.scrape_at < inf:
            tracker.scrape_at = max(tracker.scrape_at, tracker.scraped_at + tracker.scrape_rest)

    def on_complete(self, now: float) -> None:
        """The download became complete: each tracker that was told `started` before is told."""
        if self._complete:
            return
        self._complete = True
        for tracker in self._trackers.values():
            tracker.completed_owed = tracker.started or tracker.flying
        for lane in self._lanes:
            if lane.trackers[0].completed_owed and not any(one.flying for one in lane.trackers):
                lane.due = lane.ask_at = now

    def hurry(self, now: float) -> None:
        """There are no peers at all: announce as soon as each tracker, or else our own bound, allows.

        Each time in vain doubles the wait, up to the interval: trackers bar clients that keep asking. A seed does not
        hurry, for it is those who want something that look for it; only to a tracker on this machine.
        """
        for lane in self._lanes:
            if self._complete and not lane.loopback:
                continue
            soon = max(now, lane.trackers[0].soonest, lane.patient_until)
            if lane.answered and soon < lane.due:
                lane.due = soon
                lane.hurried = True

    def on_time_missed(self, now: float, unseen: float) -> None:
        """The machine has slept: announce as soon as each tracker allows. ``unseen``: seconds not on this clock."""
        for lane in self._lanes:
            if lane.answered:
                lane.due = min(lane.due, max(now, lane.trackers[0].soonest - unseen))

    def revive(self, now: float) -> None:
        """The network was gone, not they: trackers that had answered before may be asked again."""
        for tracker in self._trackers.values():
            if tracker.started and tracker.failures and tracker.retry_at > now:
                tracker.retry_at = tracker.lane.ask_at = now

    def on_company(self) -> None:
        """A peer has stayed for a while: when there is none again, the first announces come soon again."""
        for lane in self._lanes:
            lane.hurries = 0
            lane.patient_until = -inf

    def stop(self) -> list[Farewell]:
        """No more announces; whom to tell `stopped`: every tracker that answered us."""
        told = [Farewell(one.url, one.completed_owed) for one in self._trackers.values() if one.started]
        for lane in self._lanes:
            lane.due = inf
            lane.answered = False
        for tracker in self._trackers.values():
            tracker.flying = tracker.started = tracker.completed_owed = False
            tracker.scrape_at = inf
        return told
