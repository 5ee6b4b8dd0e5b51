"""Rates: the meter against a plain count, the buckets by a clock moved by hand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.limits import BLOCK, RATE_BURST
from btor.swarm.rates import SLOT, SLOTS, UNLIMITED, RateMeter, TokenBucket

RATES = [50_000, 500_000, 5_000_000, 50_000_000]


# --- the meter -------------------------------------------------------------------------------------------------------


def test_silence_is_zero() -> None:
    assert RateMeter().rate(1234.5) == 0.0


@pytest.mark.parametrize("began", [0.0, 0.3, 123_456.789])
@pytest.mark.parametrize("each", [0.01, 0.1, 0.37])
def test_steady_stream(began: float, each: float) -> None:
    meter = RateMeter()
    for step in range(int(20 / each)):
        meter.add(began + step * each, 1000)
        if step * each > 2:
            assert meter.rate(began + (step + 1) * each) == pytest.approx(1000 / each, rel=0.15)
    assert meter.rate(began + int(20 / each) * each) == pytest.approx(1000 / each, rel=0.12)


def test_first_second_counts_as_a_whole_one() -> None:
    meter = RateMeter()
    meter.add(100.2, 16_384)
    assert meter.rate(100.2) == 16_384
    assert meter.rate(100.7) == 16_384
    assert meter.rate(102.2) == 8_192


def test_a_burst_fades_within_the_window() -> None:
    meter = RateMeter()
    meter.add(10.0, 1_000_000)
    assert meter.rate(10.0 + SLOT * (SLOTS - 1)) > 0
    assert meter.rate(10.0 + SLOT * SLOTS) == 0.0


def test_after_a_silence_it_begins_anew() -> None:
    meter = RateMeter()
    meter.add(0.0, 1_000_000)
    meter.add(1000.0, 500)
    assert meter.rate(1000.5) == 500
    meter.add(1002.0, 500)
    assert meter.rate(1002.0) == 500


def test_a_clock_that_stands_still_or_goes_back_does_no_harm() -> None:
    meter = RateMeter()
    meter.add(10.0, 100)
    meter.add(10.0, 100)
    meter.add(9.0, 100)
    assert meter.rate(10.0) == 300


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 10**9)), max_size=60))
def test_meter_against_a_list(steps: list[tuple[float, int]]) -> None:
    meter, now = RateMeter(), 50.0
    heard: list[tuple[int, int]] = []
    for wait, count in steps:
        now += wait
        meter.add(now, count)
        heard.append((int(now / SLOT), count))
        inside = sum(amount for slot, amount in heard if slot > int(now / SLOT) - SLOTS)
        rate = meter.rate(now)
        assert inside / (SLOT * SLOTS) <= rate <= inside


# --- the buckets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_is_above_zero(rate: int) -> None:
    with pytest.raises(ValueError, match="above zero"):
        TokenBucket(rate)


def test_without_a_rate_everything_may_move() -> None:
    bucket = TokenBucket(None, TokenBucket(None))
    assert not bucket.limited
    assert bucket.available(5.0) == UNLIMITED
    bucket.take(10**12, 5.0)
    bucket.give_back(1)
    assert bucket.available(5.0) == UNLIMITED


def test_starts_empty_and_fills_to_the_burst() -> None:
    bucket = TokenBucket(1000)
    assert bucket.limited
    assert bucket.available(7.0) == 0
    assert bucket.available(7.1) == 100
    assert bucket.available(7.0 + RATE_BURST) == 250
    assert bucket.available(9999.0) == 250


def test_the_clock_never_takes_tokens_away() -> None:
    bucket = TokenBucket(1000)
    bucket.available(7.0)
    assert bucket.available(7.1) == 100
    assert bucket.available(6.0) == 100
    assert bucket.available(7.2) == 200


def test_a_debt_is_paid_first() -> None:
    bucket = TokenBucket(1000)
    bucket.available(0.0)
    bucket.take(1000, 0.1)
    assert bucket.available(0.1) == 0
    assert bucket.available(1.0) == 0
    assert bucket.available(1.1) == 100


def test_what_did_not_move_comes_back_but_not_above_the_burst() -> None:
    bucket = TokenBucket(1000)
    bucket.available(0.0)
    bucket.take(200, 0.25)
    bucket.give_back(150)
    assert bucket.available(0.25) == 200
    bucket.give_back(150)
    assert bucket.available(0.25) == 250


def test_the_parent_limits_and_pays_too() -> None:
    session = TokenBucket(1000)
    torrent, other = TokenBucket(5000, session), TokenBucket(None, session)
    assert torrent.limited and other.limited
    assert torrent.available(0.0) == 0
    assert torrent.available(0.25) == 250
    torrent.take(250, 0.25)
    assert other.available(0.25) == 0
    assert other.available(0.35) == 100
    other.take(100, 0.35)
    torrent.give_back(50)
    assert other.available(0.35) == 50


def test_the_child_limits_below_its_parent() -> None:
    session = TokenBucket(5000)
    torrent = TokenBucket(1000, session)
    torrent.available(0.0)
    assert torrent.available(0.25) == 250
    assert session.available(0.25) == 1250
    torrent.take(250, 0.25)
    assert torrent.available(0.25) == 0
    assert session.available(0.25) == 1000
    assert torrent.available(0.5) == 250


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("start", [0.0, 987_654.321])
def test_rate_holds_with_chunks_of_a_block(rate: int, start: float) -> None:
    """Whole blocks, each when anything is there, with the lateness of a busy loop."""
    bucket, rng, now, moved = TokenBucket(rate), random.Random(1), start, 0
    while now < start + 10:
        if not bucket.available(now):
            now += rng.uniform(0.001, 0.003)
            continue
        bucket.take(BLOCK, now)
        moved += BLOCK
    assert moved == pytest.approx(10 * rate, rel=0.04)


@pytest.mark.parametrize("rate", RATES)
def test_rate_holds_when_as_much_as_there_is_is_taken(rate: int) -> None:
    bucket, rng, now, moved = TokenBucket(rate), random.Random(1), 0.0, 0
    while now < 10:
        there = min(bucket.available(now), BLOCK)
        if not there:
            now += rng.uniform(0.001, 0.002)
            continue
        took = rng.randint(1, there)
        bucket.take(there, now)
        bucket.give_back(there - took)
        moved += took
    assert moved == pytest.approx(10 * rate, rel=0.04)


@pytest.mark.parametrize("rate", RATES)
def test_rate_of_a_session_is_shared(rate: int) -> None:
    session = TokenBucket(rate)
    torrents = [TokenBucket(None, session), TokenBucket(rate / 4, session)]
    moved = [0, 0]
    now = 0.0
    while now < 10:
        for index, torrent in enumerate(torrents):
            if torrent.available(now):
                torrent.take(BLOCK, now)
                moved[index] += BLOCK
        if not session.available(now):
            now += 0.001
    assert sum(moved) == pytest.approx(10 * rate, rel=0.04)
    assert moved[1] <= 10 * rate / 4 * 1.04 + BLOCK


@given(st.floats(100, 1e8), st.lists(st.tuples(st.floats(0, 2), st.integers(0, 10**7)), max_size=40))
def test_never_more_than_burst_and_time_allow(rate: float, steps: list[tuple[float, int]]) -> None:
    bucket, now, moved = TokenBucket(rate), 1000.0, 0
    bucket.available(now)
    for wait, wish in steps:
        now += wait
        count = min(wish, bucket.available(now))
        bucket.take(count, now)
        moved += count
        assert moved <= rate * (now - 1000.0) + 1
    assert bucket.available(now + RATE_BURST) >= int(rate * RATE_BURST)
