"""docs/security.md names bounds and tests that exist, and has every row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from btor import limits

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs/security.md").read_text(encoding="utf-8")
LETTERS = {"T": 15, "P": 12, "N": 6, "D": 4, "L": 1, "F": 14}
ROWS = {row: cells for row, *cells in re.findall(r"^\| ([A-Z]\d+) \|(.*?)\|(.*?)\|(.*?)\|(.*?)\|$", PAGE, re.MULTILINE)}
DEFINED = {
    name
    for path in TESTS.rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
}


def test_every_row_is_there() -> None:
    assert set(ROWS) == {f"{letter}{number}" for letter, count in LETTERS.items() for number in range(1, count + 1)}


@pytest.mark.parametrize("row", ROWS)
def test_bounds_and_tests_of_a_row_exist(row: str) -> None:
    _, bounds, tests, held = ROWS[row]
    assert all(hasattr(limits, name) for name in re.findall(r"`(\w+)`", bounds))
    named = re.findall(r"`(\w+)`", tests)
    assert set(named) <= DEFINED
    assert all(name.startswith(f"test_{row}_") for name in named)
    assert held.strip()
    assert named or re.search("has no|not built", held), "what has no test is said not to be there"


def test_every_test_of_a_row_has_a_row() -> None:
    assert {name.split("_")[1] for name in DEFINED if re.match(r"test_[TPNDLF]\d+_", name)} <= set(ROWS)
