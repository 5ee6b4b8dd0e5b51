"""Numbers in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.cli import words
from btor.engine import events
from tests.cli.fakes import progress


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (9_994, "9.99 KB"),
        (9_996, "10.0 KB"),
        (99_960, "100 KB"),
        (999_499, "999 KB"),
        (999_500, "1.00 MB"),
        (1_234_000_000, "1.23 GB"),
        (2**48, "281 TB"),
        (-5, "0 B"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert words.size(count) == text


@given(st.integers(0, 2**50))
def test_sizes_fit_their_column(count: int) -> None:
    assert len(words.size(count)) <= 7
    assert len(words.rate(count)) <= 9


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (7.4, "0:07"), (190, "3:10"), (3599.6, "1:00:00"), (3723, "1:02:03"), (4 * 86_400, "4 d")],
)
def test_duration(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@given(st.integers(0, 3 * 365 * 86_400))
def test_durations_fit_their_column(seconds: int) -> None:
    assert len(words.duration(seconds)) <= 8


def test_only_what_is_complete_reads_100_percent() -> None:
    assert words.percent(10**9 - 1, 10**9) == "99.9 %"
    assert words.percent(10**9, 10**9) == "100.0 %"
    assert words.percent(0, 0) == "100.0 %"


def test_counts() -> None:
    assert words.count(1, "peer") == "1 peer"
    assert words.count(0, "peer") == "0 peers"
    assert words.count(1234, "peer") == "1,234 peers"


@pytest.mark.parametrize(
    ("state", "reason", "text"),
    [
        ("downloading", "", ""),
        ("seeding", "", ""),
        ("waiting", "trackers 1/3, 4 peers", "trackers 1/3, 4 peers"),
        ("waiting", "", "waiting for peers"),
        ("checking", "", "checking 42 %"),
        ("disk_full", "", "the disk is full"),
        ("disk_full", "no space on /mnt", "no space on /mnt"),
        ("paused", "", "paused"),
        ("metadata", "3 peers", "metadata: 3 peers"),
    ],
)
def test_why_it_waits(state: events.State, reason: str, text: str) -> None:
    assert words.waiting(progress(state=state, reason=reason, checked_pieces=42)) == text


def test_plain_lines_say_what_matters() -> None:
    line = words.progress_line("x", progress(eta=190.0))
    assert line == "x: 25.0 % of 4.00 MB, 1.00 MB/s down, 2.00 KB/s up, 3 peers, eta 3:10"
    line = words.progress_line("x", progress(state="waiting", reason="trackers 1/3", eta=None))
    assert line == "x: 25.0 % of 4.00 MB, 1.00 MB/s down, 2.00 KB/s up, 3 peers, trackers 1/3"
    assert words.progress_line("x", progress(state="checking", checked_pieces=42)) == "x: checking 42 %"
    assert (
        words.progress_line("x", progress(state="seeding", peers=1))
        == "x: seeding, 2.00 KB/s up, 7.00 KB in all, 1 peer"
    )


def test_peers_are_counted_once() -> None:
    waits = progress(state="waiting", reason="trackers 0/1, 0 peers", peers=0, eta=None, done_bytes=0, down_rate=0.0)
    line = words.progress_line("x", waits)
    assert line == "x: 0.0 % of 4.00 MB, 0 B/s down, 2.00 KB/s up, trackers 0/1, 0 peers"
    eleven = progress(state="waiting", reason="trackers 0/1, 11 peers", peers=1, eta=None)
    assert words.progress_line("x", eleven).count(" peer") == 2


def test_a_seed_that_nobody_can_find_says_why() -> None:
    alone = progress(state="seeding", peers=0, reason="trackers 0/1 (announce: no)")
    line = words.progress_line("x", alone)
    assert line == "x: seeding, 2.00 KB/s up, 7.00 KB in all, 0 peers, trackers 0/1 (announce: no)"
