"""Wall time, CPU seconds and peak memory of a command with all its children, on Linux."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools._processes import PROJECT, ProcessFailedError

SAMPLE_PERIOD = 0.02  # s


@dataclass(frozen=True)
class Usage:
    """What one run cost. ``peak_rss``: bytes, the largest sum over the process tree at one sample."""

    wall: float
    cpu: float
    peak_rss: int
    status: int


def children_of(pid: int) -> list[int]:
    """The direct children of every thread of ``pid``; none when it is gone."""
    found: list[int] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def tree_of(pid: int) -> list[int]:
    """``pid`` and all below it."""
    tree = [pid]
    for member in tree:
        tree += children_of(member)
    return tree


def resident(pid: int) -> int:
    """Bytes of memory that a process holds now; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and its descendants have used so far, those included that it has waited for."""
    ticks = 0
    for member in tree_of(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")


class PeakMemory(threading.Thread):
    """Samples a process tree until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(SAMPLE_PERIOD):
            self.peak = max(self.peak, sum(map(resident, tree_of(self.pid))))

    def stop(self) -> int:
        self.stopped.set()
        self.join()
        return self.peak


def measure(command: Sequence[str], *, timeout: float, env: dict[str, str] | None = None) -> Usage:
    """Run ``command`` to its end. CPU time is that of the tree: a child counts once its parent waited for it."""
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=PROJECT,
        env={**os.environ, **(env or {})},
    )
    memory = PeakMemory(process.pid)
    memory.start()
    killer = threading.Timer(timeout, process.kill)
    killer.start()
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - begun
    killer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode != 0:
        raise ProcessFailedError(f"{' '.join(command)}\nended with {process.returncode}\n{errors.decode()[-2000:]}")
    return Usage(wall, usage.ru_utime + usage.ru_stime, memory.stop(), process.returncode)
