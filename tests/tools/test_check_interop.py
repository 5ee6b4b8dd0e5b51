"""The comparison that fails a run in which a test beside another client silently did not run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import check_interop

EXPECTED = "# a comment\n\na::b[x y]\taria2 opentracker\na::c\t\na::d\trtorrent\n"


def test_the_list_is_read() -> None:
    assert check_interop.parse(EXPECTED) == {"a::b[x y]": {"aria2", "opentracker"}, "a::c": set(), "a::d": {"rtorrent"}}


@pytest.mark.parametrize(
    ("ran", "missing", "outcome"),
    [
        ({"a::b[x y]", "a::c", "a::d"}, set(), ([], [], [])),
        ({"a::b[x y]", "a::c"}, set(), (["a::d"], [], [])),
        ({"a::b[x y]", "a::c"}, {"rtorrent"}, ([], ["a::d"], [])),
        ({"a::b[x y]", "a::d"}, {"rtorrent"}, (["a::c"], [], [])),
        ({"a::c", "a::d"}, {"opentracker"}, ([], ["a::b[x y]"], [])),
        ({"a::b[x y]", "a::c", "a::d", "a::e"}, set(), ([], [], ["a::e"])),
    ],
)
def test_what_ran_is_compared(ran: set[str], missing: set[str], outcome: tuple[list[str], ...]) -> None:
    assert check_interop.compare(check_interop.parse(EXPECTED), ran, missing) == outcome


@pytest.mark.parametrize(("ran", "status"), [("a::b[x y]\na::c\na::d\n", 0), ("a::c\na::d\n", 1)])
def test_it_ends_with_the_verdict(tmp_path: Path, ran: str, status: int) -> None:
    (tmp_path / "expected").write_text(EXPECTED)
    (tmp_path / "ran").write_text(ran)
    command = [sys.executable, check_interop.__file__, str(tmp_path / "expected"), str(tmp_path / "ran")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == status
    assert ("DID NOT RUN: a::b[x y]" in answer.stdout) == bool(status)


def test_the_list_names_tests_that_exist() -> None:
    """And every one that exists, as they are collected now."""
    folder = Path(__file__).parent.parent
    expected = check_interop.parse((folder / "interop" / "expected.txt").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/interop"]
    env = {name: value for name, value in os.environ.items() if name != "BTOR_INTEROP_REPORT"}
    answer = subprocess.run(
        command, cwd=folder.parent, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert {line for line in answer.stdout.splitlines() if "::" in line} == expected.keys(), answer.stdout
