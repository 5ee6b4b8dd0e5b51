"""The tools that attack and measure, each in a small dose: they must work when somebody reaches for them.

`tools.interrupt` is not here: tests/cli/test_interrupts.py asks the same of fewer moments.
"""

from __future__ import annotations

import sys

import pytest

from tools._processes import run

DOSES = {
    "demo": [],
    "kill_download": ["--kills", "3", "--size", "32", "--seed", "1"],
    "liars": ["--seeds", "1"],
    "swarm_cost": ["--leechers", "4", "--size", "16", "--rate", "5000000"],
    "rate_limits": ["--levels", "torrent", "--peers", "2", "--rates", "500000"],
}


@pytest.mark.parametrize("name", DOSES)
def test_a_small_dose(name: str) -> None:
    answer = run([sys.executable, "-m", f"tools.{name}", *DOSES[name]], timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr
