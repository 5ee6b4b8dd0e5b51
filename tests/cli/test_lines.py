"""What is said of each happening, at which verbosity, and that nothing in it steers a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from btor.cli.lines import JsonLines, PlainLines, Quiet, notice, reporter_for, rounded, summary
from btor.cli.options import Voice
from btor.engine import events
from btor.engine.events import Event
from tests.cli.fakes import INFO_HASH, progress


def event(kind: type[Event], /, **fields: Any) -> Event:
    return kind(time=1_700_000_000.123456, info_hash=INFO_HASH, **fields)


STARTED = event(events.Started, name="x", total_bytes=4_000_000, piece_length=40_000, pieces=100, port=6881)
CASES: list[tuple[Event, int, str]] = [
    (STARTED, 1, "4.00 MB, listening on port 6881"),
    (
        event(events.Checked, have_pieces=7, pieces=100, seconds=1.0, from_="resume"),
        0,
        "7 of 100 pieces already there by the resume record",
    ),
    (
        event(events.Checked, have_pieces=1, pieces=1, seconds=1.0, from_="hash"),
        0,
        "1 of 1 piece already there by their hashes",
    ),
    (
        event(events.Checked, have_pieces=0, pieces=100, seconds=1.0, from_="hash"),
        1,
        "0 of 100 pieces already there by their hashes",
    ),
    (
        event(events.TrackerAnswer, url="u", ok=True, peers=3, seeders=1, leechers=2, interval=60.0, message=""),
        1,
        "tracker u: 3 peers",
    ),
    (
        event(events.TrackerAnswer, url="u", ok=True, peers=1, seeders=1, leechers=2, interval=60.0, message="hello"),
        1,
        "tracker u: 1 peer: hello",
    ),
    (
        event(
            events.TrackerAnswer, url="u", ok=False, peers=0, seeders=None, leechers=None, interval=None, message="no"
        ),
        1,
        "tracker u: no",
    ),
    (
        event(events.PeerChange, address="a", client="c", change="banned", reason="bad data"),
        1,
        "a c: banned: bad data",
    ),
    (event(events.PeerChange, address="a", client="c", change="connected", reason=""), 2, "a c: connected"),
    (event(events.PieceFailed, piece=7, peers=["a", "b"]), 1, "piece 7 did not match its hash, from a, b"),
    (event(events.DiskFull, path="/x", needed_bytes=5_000_000), 0, "the disk is full at /x: 5.00 MB more needed"),
    (
        event(events.Complete, seconds=61.0, downloaded=4_000_000, uploaded=0, wasted=0, hash_failures=0),
        0,
        "complete and verified: 4.00 MB in 1:01",
    ),
    (
        event(events.Complete, seconds=61.0, downloaded=0, uploaded=0, wasted=0, hash_failures=0),
        0,
        "complete and verified",
    ),
    (event(events.Seeding, port=6881, uploaded=0, peers=0), 0, "seeding on port 6881"),
    (event(events.Warned, message="odd"), 0, "odd"),
    (event(events.Stopped, reason="removed", downloaded=0, uploaded=0), 2, "stopped: removed"),
]


@pytest.mark.parametrize(("happening", "verbosity", "text"), CASES)
def test_notices(happening: Event, verbosity: int, text: str) -> None:
    assert notice(happening, "x", verbosity) == f"x: {text}"
    if verbosity:
        assert notice(happening, "x", verbosity - 1) is None


def test_nothing_there_is_not_worth_a_line() -> None:
    assert notice(event(events.Checked, have_pieces=0, pieces=1, seconds=0.0, from_="nothing"), "x", 2) is None


def test_errors_are_said_as_the_command_says_them() -> None:
    happening = event(events.Failed, code=4, kind="storage", message="write /x: no")
    assert notice(happening, "x", 0) == "btor: write /x: no"


def test_foreign_texts_are_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = PlainLines(2)
    reporter.on_event(event(events.Started, name="a\x1b[2J\nb", total_bytes=1, piece_length=1, pieces=1, port=1))
    reporter.on_event(event(events.Warned, message="\x1b]0;title\n"))
    reporter.on_event(event(events.PeerChange, address="a", client="\u202ex", change="connected", reason="\x07"))
    reporter.on_event(progress(reason="x\x1b"))
    reporter.on_tick()
    err = capsys.readouterr().err
    assert err.count("\n") == 4
    for character in ("\x1b", "\x07", "\u202e"):
        assert character not in err


def tracked(url: str, *, message: str = "", info_hash: str = INFO_HASH) -> Event:
    """A tracker's answer; with a message, its failure."""
    figures: dict[str, Any] = {"peers": 2, "seeders": None, "leechers": None, "interval": None}
    return events.TrackerAnswer(time=1.0, info_hash=info_hash, url=url, ok=not message, message=message, **figures)


def test_a_tracker_is_spoken_of_when_it_fails_and_when_it_works_again(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = PlainLines()
    reporter.on_event(event(events.Started, name="x", total_bytes=1, piece_length=1, pieces=1, port=1))
    for answer in (tracked("u"), tracked("u"), tracked("v", message="no"), tracked("v", message="still no")):
        reporter.on_event(answer)
    assert capsys.readouterr().err == "x: tracker v: no\n"
    reporter.on_event(tracked("v", message="no", info_hash="another"))
    assert capsys.readouterr().err == "another: tracker v: no\n"
    for answer in (tracked("v"), tracked("v"), tracked("u", message="gone")):
        reporter.on_event(answer)
    assert capsys.readouterr().err == "x: tracker v: 2 peers\nx: tracker u: gone\n"


def test_with_v_every_answer_of_a_tracker_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = PlainLines(1)
    for answer in (tracked("u"), tracked("u"), tracked("u", message="no"), tracked("u", message="no")):
        reporter.on_event(answer)
    assert capsys.readouterr().err.count("tracker u: ") == 4


def test_seeding_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = PlainLines()
    for _ in range(3):
        reporter.on_event(event(events.Seeding, port=6881, uploaded=0, peers=0))
    assert capsys.readouterr().err == f"{INFO_HASH}: seeding on port 6881\n"


def test_json_says_every_event(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = JsonLines()
    for happening, _, _ in CASES:
        reporter.on_event(happening)
    reporter.on_tick()
    reporter.close()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == [happening.event for happening, _, _ in CASES]
    assert all(line["time"] == 1_700_000_000.123 for line in lines)
    assert lines[1]["from"] == "resume"


def test_rates_are_whole_bytes() -> None:
    line = rounded(progress(down_rate=1234.567, up_rate=0.4, eta=3.00049))
    assert (line["down_rate"], line["up_rate"], line["eta"]) == (1235, 0, 3.0)


def test_many_torrents_are_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = PlainLines()
    for number in range(6):
        reporter.on_event(progress(info_hash=f"{number:040x}"))
    reporter.on_tick()
    assert capsys.readouterr().err == "6 torrents, 0 complete, 6.00 MB/s down, 12.0 KB/s up, 18 peers\n"
    reporter.on_event(events.Stopped(time=1.0, info_hash=f"{0:040x}", reason="", downloaded=0, uploaded=0))
    reporter.on_tick()
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_summary_counts_the_complete() -> None:
    assert summary([progress(), progress(done_bytes=4_000_000)]).startswith("2 torrents, 1 complete, ")


def test_the_reporter_fits_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(reporter_for(Voice(json=True)), JsonLines)
    assert isinstance(reporter_for(Voice(quiet=True)), Quiet)
    assert isinstance(reporter_for(Voice(verbosity=1)), PlainLines)
