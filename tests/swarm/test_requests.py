"""How deep to ask, what is snubbed, what has timed out: against a hand-moved clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from btor import limits
from btor.limits import BLOCK, MIB
from btor.swarm.requests import LATENCIES, MEANS, RATE_WINDOW, SLOW_START_GROWTH, RequestQueue, Run, runs_of
from btor.swarm.source import Source


class Link:
    """A peer that answers in order at ``rate`` bytes/s, ``delay`` seconds after it is asked; the clock is here."""

    def __init__(self, rate: float, delay: float, reqq: int | None = None) -> None:
        self.queue = RequestQueue(reqq)
        self.rate = rate
        self.delay = delay
        self.now = 100.0
        self.due: list[tuple[float, int]] = []  # (when it comes, piece): pieces of one block
        self.free_at = self.now
        self.piece = 0
        self.depths: list[tuple[float, int]] = []

    def ask(self) -> None:
        room = self.queue.room(self.now, len(self.due))
        runs = [(self.piece + k, 0, 1) for k in range(room)]
        if runs:
            self.queue.on_sent(self.now, runs)
        for piece, _, _ in runs:
            self.free_at = max(self.free_at, self.now + self.delay) + BLOCK / self.rate
            self.due.append((self.free_at, piece))
        self.piece += room

    def run(self, seconds: float, step: float = 0.01) -> list[Run]:
        """Let time pass; what timed out."""
        late: list[Run] = []
        end = self.now + seconds
        ticked = self.now
        while self.now < end:
            self.ask()
            self.now += step
            while self.due and self.due[0][0] <= self.now:
                self.queue.on_received(self.now, BLOCK, self.due.pop(0)[1], 0, 1)
            if self.now - ticked >= 1.0:
                ticked = self.now
                late += self.queue.on_tick(self.now)
            self.depths.append((self.now, self.queue.depth(self.now)))
            assert self.queue.outstanding == len(self.due) - len(late)
        return late


@pytest.mark.parametrize("rate", [1_000, 2_000, 3_000, 8_000, 20_000])
def test_a_slow_link_is_not_asked_far_ahead(rate: float) -> None:
    """Its blocks come seconds apart: one of them in a short window is no sign of speed."""
    link = Link(rate=rate, delay=0.05)
    link.run(60)
    began = link.now
    link.run(60)
    assert link.queue.rate == pytest.approx(rate, rel=0.1)
    assert max(depth for when, depth in link.depths if when > began) == limits.REQUEST_QUEUE_MIN


def test_silence_slows() -> None:
    link = Link(rate=1e6, delay=0.05)
    link.run(10)
    assert link.queue.rate == pytest.approx(1e6, rel=0.1)
    link.queue.on_tick(link.now + 10)
    assert link.queue.rate <= 1.1 * BLOCK / 10


def test_idleness_is_not_slowness() -> None:
    queue = RequestQueue()
    now = 0.0
    for number in range(100):
        queue.on_sent(now, [(number, 0, 4)])
        now += 0.5
        queue.on_received(now, 4 * BLOCK, number, 0, 4)
        now += 3.0
    assert queue.rate > 4 * BLOCK / 3.5


def test_a_fast_link_is_asked_to_the_cap_within_300_ms() -> None:
    link = Link(rate=300e6, delay=0.001)
    link.run(0.3, step=0.002)
    assert link.queue.depth(link.now) == limits.REQUEST_QUEUE_MAX


@pytest.mark.parametrize("delay", [0.01, 0.2, 3.0])
def test_depth_settles_at_seconds_of_the_rate_or_latencies(delay: float) -> None:
    link = Link(rate=MIB / 2, delay=delay)
    assert link.run(60) == []
    assert link.queue.rate == pytest.approx(MIB / 2, rel=0.15)
    ahead = max(limits.REQUEST_QUEUE_SECONDS, LATENCIES * (delay + BLOCK / link.rate))
    assert link.queue.depth(link.now) == pytest.approx(ahead * MIB / 2 / BLOCK, rel=0.2)


def test_slow_start_doubles_each_round_trip() -> None:
    queue = RequestQueue()
    depth = limits.REQUEST_QUEUE_MIN
    for trip in range(5):
        queue.on_sent(0.0, [(trip, 0, depth)])
        queue.on_received(0.0, depth * BLOCK, trip, 0, depth)
        assert queue.depth(0.0) == 2 * depth
        depth *= 2


def test_slow_start_ends_when_the_rate_no_longer_grows() -> None:
    queue = RequestQueue()
    for second in range(5):
        queue.on_sent(float(second), [(second, 0, 4)])
        queue.on_received(second + 0.9, 4 * BLOCK, second, 0, 4)
        queue.on_tick(second + 0.95)
    # the rate says that many, slow start would have come to 4 + 20
    assert queue.depth(4.95) <= 4 * max(limits.REQUEST_QUEUE_SECONDS, LATENCIES * 0.9)


def test_slow_start_goes_on_while_each_second_brings_more() -> None:
    queue = RequestQueue()
    enough = SLOW_START_GROWTH // 125 + 1  # times 125 blocks a second
    received = 0
    for second, (growth, on) in enumerate([(1000, True), (enough, True), (enough, True), (enough - 1, False)]):
        received += growth
        for block in range(125):
            queue.on_sent(second + block / 125, [(second, block, 1)])
            queue.on_received(second + (block + 1) / 125, received, second, block, 1)
        assert queue._slow_start == on


def test_depth_bounds() -> None:
    queue = RequestQueue()
    assert queue.depth(0.0) == limits.REQUEST_QUEUE_MIN
    queue.latency = 0.0
    queue.rate = (limits.REQUEST_QUEUE_MAX - 1.5) * BLOCK / limits.REQUEST_QUEUE_SECONDS
    assert queue.depth(0.0) == limits.REQUEST_QUEUE_MAX - 2
    queue.rate = 1e12
    assert queue.depth(0.0) == limits.REQUEST_QUEUE_MAX


@pytest.mark.parametrize(("reqq", "depth"), [(None, 500), (1000, 500), (500, 500), (499, 499), (2, 2), (1, 1), (0, 1)])
def test_the_peers_own_bound_is_kept(reqq: int | None, depth: int) -> None:
    queue = RequestQueue(reqq)
    queue.rate = 1e12
    assert queue.depth(0.0) == depth


def test_room_comes_in_batches() -> None:
    queue = RequestQueue()
    queue.rate = 1e12
    quarter = limits.REQUEST_QUEUE_MAX // 4
    assert queue.room(0.0, limits.REQUEST_QUEUE_MAX) == 0
    assert queue.room(0.0, limits.REQUEST_QUEUE_MAX + 5) == 0
    assert queue.room(0.0, limits.REQUEST_QUEUE_MAX - quarter + 1) == 0
    assert queue.room(0.0, limits.REQUEST_QUEUE_MAX - quarter) == quarter
    queue.rate = 0.0
    assert queue.room(0.0, limits.REQUEST_QUEUE_MIN - 1) == 1
    assert queue.room(0.0, limits.REQUEST_QUEUE_MIN) == 0
    small = RequestQueue(reqq=5)  # less than a quarter of 5 is free, but few are outstanding
    small.rate = 1e12
    assert small.room(0.0, 4) == 0
    assert small.room(0.0, 3) == 2


def test_snubbed_after_twenty_seconds_without_a_block() -> None:
    queue = RequestQueue()
    queue.on_sent(0.0, [(7, 0, 4), (8, 2, 3)])
    assert queue.on_tick(limits.SNUB_AFTER - 0.01) == []
    assert not queue.snubbed
    assert queue.on_tick(limits.SNUB_AFTER) == [(7, 0, 4), (8, 2, 3)]
    assert queue.snubbed
    assert queue.outstanding == 0
    assert queue.depth(20.0) == 1
    assert queue.room(20.0, 0) == 1
    queue.on_received(30.0, BLOCK, 7, 0, 1)  # late, and yet
    assert not queue.snubbed
    assert queue.depth(30.0) >= limits.REQUEST_QUEUE_MIN


def test_idle_is_not_snubbed() -> None:
    queue = RequestQueue()
    assert queue.on_tick(1000.0) == []
    queue.on_sent(1000.0, [(0, 0, 1)])
    queue.on_received(1001.0, BLOCK, 0, 0, 1)
    assert queue.on_tick(2000.0) == []
    queue.on_sent(2000.0, [(1, 0, 1)])
    assert queue.on_tick(2001.0) == []
    assert not queue.snubbed


def test_a_snubbed_peer_has_longer_for_its_one_block_if_it_is_slow() -> None:
    queue = RequestQueue()
    for second, answer in ((0.0, 40.0), (50.0, 50.0), (100.0, 40.0), (150.0, 50.0)):
        queue.on_sent(second, [(0, 0, 1)])
        queue.on_received(second + answer, BLOCK, 0, 0, 1)
    assert queue.timeout > 55.0
    queue.on_sent(200.0, [(0, 0, 1)])
    assert queue.on_tick(200.0 + limits.SNUB_AFTER) == [(0, 0, 1)]
    assert queue.snubbed
    queue.on_sent(230.0, [(0, 0, 1)])
    assert queue.on_tick(230.0 + 55.0) == []
    assert queue.on_tick(230.0 + limits.REQUEST_TIMEOUT_MAX) == [(0, 0, 1)]


def steady(queue: RequestQueue, period: float, blocks: int = 50, start: float = 0.0) -> float:
    """Blocks at a steady pace after a quick first one, two outstanding; the time of the last."""
    now = start
    queue.on_sent(now, [(0, 0, 1), (1, 0, 1)])
    for piece in range(blocks):
        now += period if piece else min(period, 1.0)
        queue.on_received(now, BLOCK, piece, 0, 1)
        queue.on_sent(now, [(piece + 2, 0, 1)])
    return now


@pytest.mark.parametrize(
    ("period", "timeout"),
    [(0.001, limits.REQUEST_TIMEOUT_MIN), (5.0, MEANS * 5.0), (100.0, limits.REQUEST_TIMEOUT_MAX)],
    ids=["the least", "between", "the most"],
)
def test_timeout_of_an_even_flow_is_four_times_the_mean_within_bounds(period: float, timeout: float) -> None:
    queue = RequestQueue()
    steady(queue, period)
    assert queue.timeout == pytest.approx(timeout, rel=0.05)


def test_timeout_of_few_samples() -> None:
    queue = RequestQueue()
    assert queue.timeout == limits.REQUEST_TIMEOUT_MAX
    queue.on_sent(0.0, [(0, 0, 2)])
    queue.on_received(4.0, BLOCK, 0, 0, 1)
    assert queue.timeout == pytest.approx(MEANS * 4.0)
    queue.on_received(36.0, BLOCK, 0, 1, 1)  # the mean is 7.5, the deviation 7
    assert queue.timeout == pytest.approx(35.5)


def test_a_flow_that_slows_to_a_third_does_not_time_out() -> None:
    """The sender has given away other slots, and is not silent."""
    queue = RequestQueue()
    now = steady(queue, 2.0)
    for piece in range(50, 60):
        for second in range(1, 6):
            assert queue.on_tick(now + second) == []
        now += 6.0
        queue.on_received(now, BLOCK, piece, 0, 1)
        queue.on_sent(now, [(piece + 2, 0, 1)])


def test_timeout_is_two_latencies_at_least() -> None:
    queue = RequestQueue()
    for start in (0.0, 10.0):
        queue.on_sent(start, [(0, 0, 100)])
        queue.on_received(start + 3.0, BLOCK, 0, 0, 1)
        for block in range(1, 100):
            queue.on_received(start + 3.0 + block / 1000, BLOCK, 0, block, 1)
    assert queue.timeout == pytest.approx(LATENCIES * 3.0)


def test_the_head_times_out_then_the_next() -> None:
    queue = RequestQueue()
    now = steady(queue, 0.1)
    queue.on_sent(now, [(100, 0, 64)])
    assert queue.on_tick(now + limits.REQUEST_TIMEOUT_MIN - 0.01) == []
    assert queue.on_tick(now + limits.REQUEST_TIMEOUT_MIN) == [(50, 0, 1)]
    assert queue.depth(now + 2.0) == 1
    assert queue.on_tick(now + 2.0) == []
    assert queue.on_tick(now + 4.0) == [(51, 0, 1)]
    queue.on_received(now + 5.0, BLOCK, 100, 0, 1)
    assert queue.depth(now + 5.0) >= limits.REQUEST_QUEUE_MIN
    assert queue.outstanding == 63
    patience = queue.timeout
    assert patience > limits.REQUEST_TIMEOUT_MIN  # it has learned that it can take long
    assert queue.on_tick(now + 4.9 + patience) == []
    assert queue.on_tick(now + 5.0 + patience) == [(100, 1, 63)]


def test_a_block_that_was_skipped_times_out_while_others_come() -> None:
    queue = RequestQueue()
    now = steady(queue, 0.1)
    queue.on_sent(now, [(piece, 0, 1) for piece in range(52, 100)])  # head is 50
    assert queue.outstanding == 50
    for piece in range(51, 80):
        now += 0.1
        queue.on_received(now, BLOCK, piece, 0, 1)
        late = queue.on_tick(now)
        if late:
            break
    assert late == [(50, 0, 1)]
    assert piece in (71, 72)  # 2 s after it was overtaken by 51
    assert not queue.snubbed
    assert queue.depth(now) > 1
    for rest in range(piece + 1, 100):
        now += 0.1
        queue.on_received(now, BLOCK, rest, 0, 1)
        assert queue.on_tick(now) == []


def test_a_long_queue_never_times_out_while_its_blocks_come_in_order() -> None:
    queue = RequestQueue()
    queue.on_sent(0.0, [(piece, 0, 1) for piece in range(500)])
    for piece in range(500):
        queue.on_received(1.5 * piece + 1.5, BLOCK, piece, 0, 1)
        assert queue.on_tick(1.5 * piece + 1.5) == []


def test_blocks_of_one_piece_come_in_any_cut() -> None:
    queue = RequestQueue()
    queue.on_sent(0.0, [(3, 0, 4), (3, 4, 4)])
    queue.on_received(0.1, 6 * BLOCK, 3, 1, 6)
    assert queue.outstanding == 2
    queue.on_received(0.2, 2 * BLOCK, 3, 6, 2)  # of these one had come
    assert queue.outstanding == 1
    assert queue.on_tick(0.3) == []
    assert queue.on_tick(50.0) == [(3, 0, 1)]


def test_late_blocks_count_as_progress_and_not_as_outstanding() -> None:
    queue = RequestQueue()
    now = steady(queue, 0.1)
    assert queue.on_tick(now + 2.0) == [(50, 0, 1)]
    queue.on_received(now + 2.5, BLOCK, 50, 0, 1)
    assert queue.outstanding == 1
    assert queue.on_tick(now + 4.4) == []
    assert queue.on_tick(now + 4.5) == [(51, 0, 1)]


def test_dropped_requests_are_not_waited_for() -> None:
    queue = RequestQueue()
    queue.on_sent(0.0, [(1, 0, 4), (2, 0, 4)])
    queue.on_dropped([(1, 1, 2), (9, 0, 1)])
    assert queue.outstanding == 6
    queue.on_dropped([(1, 0, 4)])
    assert queue.outstanding == 4
    queue.on_dropped()
    assert queue.outstanding == 0
    assert queue.on_tick(100.0) == []
    assert not queue.snubbed


def test_latency_is_the_shortest_answer_to_an_idle_queue() -> None:
    queue = RequestQueue()
    unknown = queue.latency
    queue.on_sent(0.0, [(1, 0, 2)])
    assert queue.latency == unknown
    queue.on_received(0.25, BLOCK, 1, 0, 1)
    queue.on_received(0.26, BLOCK, 1, 1, 1)
    assert queue.latency == 0.25
    for start, answer in ((1.0, 0.5), (2.0, 0.125)):
        queue.on_sent(start, [(1, 0, 1)])
        queue.on_received(start + answer, BLOCK, 1, 0, 1)
    assert queue.latency == 0.125


def test_the_rate_falls_when_nothing_comes() -> None:
    link = Link(rate=1e6, delay=0.01)
    link.run(5)
    assert link.queue.rate == pytest.approx(1e6, rel=0.15)
    link.queue.on_dropped()
    link.queue.on_tick(link.now + 5.0)
    assert link.queue.rate < 1e6 / 20
    assert link.queue.depth(link.now + 10.0) < link.depths[-1][1]


def test_the_rate_is_measured_within_a_window_even_without_a_tick() -> None:
    queue = RequestQueue()
    queue.on_sent(0.0, [(1, 0, 100)])
    queue.on_received(RATE_WINDOW / 2, 10 * BLOCK, 1, 0, 10)
    assert queue.rate == 0.0
    queue.on_received(RATE_WINDOW, 10 * BLOCK, 1, 10, 10)
    assert queue.rate == pytest.approx(20 * BLOCK / RATE_WINDOW)
    before = queue.rate
    queue.depth(2 * RATE_WINDOW)
    assert queue.rate < before


def test_what_comes_before_anything_was_asked_is_no_rate() -> None:
    queue = RequestQueue()
    queue.on_received(5.0, BLOCK, 1, 0, 1)
    assert queue.rate == 0.0
    queue.on_received(5.5, BLOCK, 1, 1, 1)
    assert queue.rate == pytest.approx(2 * BLOCK / 0.5)


def test_tell_sets_the_source() -> None:
    queue = RequestQueue()
    source = Source(1, 1)
    queue.rate, queue.snubbed, queue.latency = 5.0, True, 0.5
    queue.tell(source)
    assert (source.rate, source.snubbed, source.latency) == (5.0, True, 0.5)


@given(st.integers(0, 2**70))
def test_runs_of_are_the_mask(mask: int) -> None:
    runs = runs_of(3, mask)
    rebuilt = sum(((1 << count) - 1) << first for _, first, count in runs)
    assert rebuilt == mask
    assert all(piece == 3 for piece, _, _ in runs)
    ends = [first + count for _, first, count in runs]
    assert all(end < first for end, (_, first, _) in zip(ends, runs[1:], strict=False))


class QueueMachine(RuleBasedStateMachine):
    """Any order of events against a plain set of blocks."""

    @initialize(reqq=st.sampled_from([None, 1, 3, 250]))
    def begin(self, reqq: int | None) -> None:
        self.queue = RequestQueue(reqq)
        self.now = 0.0
        self.asked: set[tuple[int, int]] = set()

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 1.0, 3.0, 25.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(piece=st.integers(0, 4), first=st.integers(0, 6), count=st.integers(1, 4))
    def send(self, piece: int, first: int, count: int) -> None:
        blocks = {(piece, block) for block in range(first, first + count)}
        if not blocks & self.asked:
            self.queue.on_sent(self.now, [(piece, first, count)])
            self.asked |= blocks

    @rule(piece=st.integers(0, 4), first=st.integers(0, 6), count=st.integers(1, 4))
    def receive(self, piece: int, first: int, count: int) -> None:
        self.queue.on_received(self.now, count * BLOCK, piece, first, count)
        self.asked -= {(piece, block) for block in range(first, first + count)}
        assert not self.queue.snubbed

    @rule(piece=st.integers(0, 4), first=st.integers(0, 6), count=st.integers(1, 4))
    def drop(self, piece: int, first: int, count: int) -> None:
        self.queue.on_dropped([(piece, first, count)])
        self.asked -= {(piece, block) for block in range(first, first + count)}

    @rule()
    def choke(self) -> None:
        self.queue.on_dropped()
        self.asked.clear()

    @rule()
    def tick(self) -> None:
        late = {
            (piece, block)
            for piece, first, count in self.queue.on_tick(self.now)
            for block in range(first, first + count)
        }
        assert late <= self.asked
        self.asked -= late

    @precondition(lambda self: self.asked)
    @rule()
    def wait_long_enough(self) -> None:
        self.now += limits.REQUEST_TIMEOUT_MAX + 0.001  # more than what floats lose
        self.tick()
        assert not self.asked  # nothing is waited for longer than that
        assert self.queue.snubbed

    @invariant()
    def bounds_hold(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.outstanding == len(self.asked)
            assert 1 <= self.queue.depth(self.now) <= limits.REQUEST_QUEUE_MAX
            assert self.queue.rate >= 0.0
            assert limits.REQUEST_TIMEOUT_MIN <= self.queue.timeout <= limits.REQUEST_TIMEOUT_MAX
            assert 0 <= self.queue.room(self.now, self.queue.outstanding) <= limits.REQUEST_QUEUE_MAX


TestQueueMachine = QueueMachine.TestCase
