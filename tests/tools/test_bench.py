"""The bench: whom it lets take part, how it counts, and that a wrong byte does not pass."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools._measure import Usage, cpu_seconds, measure, tree_of
from tools._payload import info_hash
from tools._processes import Process, ProcessFailedError, run, wait_until
from tools.bench.__main__ import chosen
from tools.bench.contest import Contender, Row, Spread, ratios, run_row, take_turns
from tools.bench.workshop import KIB, MIB, Workshop

BUSY = """
import subprocess, sys, time
block = bytearray({size})
for at in range(0, len(block), 4096):
    block[at] = 1
while time.process_time() < {seconds}:
    pass
{more}
"""
CHILD = "subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    (tmp_path / "disk").mkdir()
    return Workshop(tmp_path, tmp_path / "disk", quick=True)


def contender(name: str, turns: list[str], missing: str = "") -> Contender:
    def once() -> Usage:
        turns.append(name)
        return Usage(float(len(turns)), 2.0, 3 * MIB)

    return Contender(name, f"settings of {name}", once, missing)


def test_the_order_turns_about_and_the_warm_up_does_not_count() -> None:
    turns: list[str] = []
    results = take_turns([contender("one", turns), contender("other", turns)], rounds=3, warm_ups=1)
    assert turns == ["one", "other", "other", "one", "one", "other", "other", "one"]
    assert [usage.wall for usage in results["one"]] == [4.0, 5.0, 8.0]


def test_ratios_are_of_pairs() -> None:
    ours, theirs = [Usage(wall, 1.0, 1) for wall in (1.0, 4.0, 9.0)], [Usage(wall, 1.0, 1) for wall in (2.0, 4.0, 6.0)]
    assert ratios(ours, theirs, "wall") == Spread(0.5, 1.0, 1.5)


def test_a_figure_too_little_to_be_seen_divides_nothing() -> None:
    assert ratios([Usage(1.0, 0.5, 1)], [Usage(1.0, 0.0, 1)], "cpu") == Spread(math.inf, math.inf, math.inf)


def test_what_a_process_that_lives_has_used_is_seen_below_a_tick(tmp_path: Path) -> None:
    with Process(["sleep", "60"], tmp_path / "log") as process:
        wait_until("CPU time of an idle process", lambda: 0 < cpu_seconds(process.pid) < 0.01, 10)


def row_of(contenders: list[Contender]) -> Row:
    @contextmanager
    def opened(workshop: Workshop) -> Iterator[list[Contender]]:
        yield contenders

    return Row("z", "a row", opened)


def test_who_is_missing_is_named_and_passed_over(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    turns: list[str] = []
    entrants = [contender("btor", turns), contender("absent", turns, "skipped: not there"), contender("third", turns)]
    figures = run_row(row_of(entrants), workshop, rounds=2, warm_ups=0)
    assert "absent" not in turns
    assert set(figures["runs"]) == {"btor", "third"}
    printed = capsys.readouterr().out
    assert "absent: skipped: not there" in printed
    assert "settings of third" in printed
    assert "btor / third" in printed


def test_a_row_with_btor_alone_runs_nothing(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    turns: list[str] = []
    entrants = [contender("btor", turns), contender("absent", turns, "skipped: not there")]
    assert run_row(row_of(entrants), workshop, rounds=2, warm_ups=0) == {}
    assert turns == []
    assert "nobody to compare with" in capsys.readouterr().out


def test_a_row_is_chosen_by_its_key_or_the_beginning_of_several() -> None:
    assert [row.key for row in chosen(["a"])] == ["a"]
    assert [row.key for row in chosen(["c"])] == ["c-16k", "c-4m", "c-files", "c-files-disk"]
    assert chosen(["c-"]) == chosen(["none"]) == []


def test_content_passes_only_byte_for_byte(workshop: Workshop) -> None:
    payload = workshop.album(20 * 16, 64 * KIB)
    assert sum(path.is_file() for path in payload.content.rglob("*")) == 20
    with workshop.folder() as folder:
        copy = folder / payload.name
        for path in payload.content.rglob("*"):
            if path.is_file():
                there = copy / path.relative_to(payload.content)
                there.parent.mkdir(parents=True, exist_ok=True)
                there.write_bytes(path.read_bytes())
        payload.verify(folder)
        victim = copy / "00" / "00007"
        good = victim.read_bytes()
        for wrong in (good[:-1] + bytes([good[-1] ^ 1]), good[:-1], good + b"\0"):
            victim.write_bytes(wrong)
            with pytest.raises(ProcessFailedError, match="00007"):
                payload.verify(folder)
        victim.unlink()
        with pytest.raises(ProcessFailedError, match="00007"):
            payload.verify(folder)
        victim.write_bytes(good)
        (copy / "more").write_bytes(b"")
        with pytest.raises(ProcessFailedError, match="more"):
            payload.verify(folder)


def test_the_same_content_is_made_once_and_scaled(workshop: Workshop) -> None:
    payload = workshop.single(16, 64 * KIB)
    assert payload.content.stat().st_size == payload.size == MIB
    assert workshop.fixed(1, 64 * KIB) is payload
    other = workshop.single(16, 128 * KIB)
    assert other.content == payload.content
    assert info_hash(other.torrent.read_bytes()) != info_hash(payload.torrent.read_bytes())


def test_a_whole_tree_is_measured(tmp_path: Path) -> None:
    child = BUSY.format(size=40 * MIB, seconds=0.4, more="time.sleep(0.3)")
    parent = BUSY.format(size=30 * MIB, seconds=0.2, more=CHILD)
    usage = measure([sys.executable, "-c", parent, child], tmp_path / "log", timeout=60)
    assert 0.6 <= usage.cpu <= usage.wall + 0.1  # the two are not busy at the same time
    assert usage.peak_rss >= 70 * MIB


def test_what_is_read_counts(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 * MIB))
    reading = f"open({str(tmp_path / 'file')!r}, 'rb').read()"
    usage = measure([sys.executable, "-c", reading], tmp_path / "log", timeout=60)
    assert 3 * MIB <= usage.read < 4 * MIB


def test_a_command_that_fails_or_hangs_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailedError, match="ended with 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log", timeout=60)
    with pytest.raises(ProcessFailedError, match="not within"):
        measure([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", timeout=0.3)


def test_a_small_dose(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.bench", "--quick", "--row", "a-8", "--rounds", "1"]
    answer = run([*command, "--where", str(tmp_path), "--disk", str(tmp_path)], timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "btor / libtorrent" in answer.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_bench_that_is_ended_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.bench", "--quick", "--row", "a-8", "--rounds", "1000"]
    log = tmp_path / "log" / "bench"
    where = tmp_path / "where"
    where.mkdir()
    with Process([*command, "--where", str(where), "--disk", str(where)], log) as bench:
        wait_until("a result folder", lambda: any(where.glob("*/result-*")), 60)
        tree = tree_of(bench.pid)
        assert len(tree) > 1
        assert bench.end() == 128 + signal.SIGTERM
    assert list(where.iterdir()) == []
    wait_until("no process of it", lambda: not any(Path(f"/proc/{pid}").exists() for pid in tree), 10)
