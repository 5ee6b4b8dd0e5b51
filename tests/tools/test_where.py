"""Where the CPU time goes: how samples are counted, and one small dose of each profiler that is there."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tools._processes import run
from tools.where import PY_SPY, shares

SAMPLES = """\
process 7:"btor";main (btor.py:1);read (peer.py:10);recv (socket.py:3) 5
process 7:"btor";main (btor.py:1);read (peer.py:12);decode (messages.py:4) 2
process 7:"btor";main (btor.py:1);read (peer.py:13) 1
process 7:"btor";thread (0x1);_watch (btor/cli/interrupts.py:40) 9
process 8:"hasher";main (hasher.py:1) 2
"""


def test_samples_are_counted_on_top_and_in_all_of_a_stack() -> None:
    total, own, whole = shares(SAMPLES.splitlines())
    assert total == 10  # who sleeps is left out
    assert own == {"recv (socket.py)": 5, "decode (messages.py)": 2, "read (peer.py)": 1, "main (hasher.py)": 2}
    assert whole["read (peer.py)"] == 8
    assert whole["main (btor.py)"] == 8


@pytest.mark.parametrize(("what", "profiler"), [("download", "py-spy"), ("seed", "perf")])
def test_a_small_dose(what: str, profiler: str, tmp_path: Path) -> None:
    if not (PY_SPY.exists() if profiler == "py-spy" else shutil.which("perf")):
        pytest.skip(f"{profiler} is not installed")
    command = [sys.executable, "-m", "tools.where", what, "--profiler", profiler, "--size", "8"]
    answer = run([*command, "--where", str(tmp_path)], timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "gulps" in answer.stdout
    assert "%" in answer.stdout
    assert list(tmp_path.iterdir()) == []
