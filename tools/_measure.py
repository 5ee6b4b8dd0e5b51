"""Wall time, CPU seconds and peak memory of commands with all their children, on Linux."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools._processes import Process, ProcessFailedError

SAMPLE_PERIOD = 0.02  # s
SAMPLES_PER_LOOK = 5  # for new children: a look reads one file for each thread, a sample one for each process


@dataclass(frozen=True)
class Usage:
    """What one run cost: seconds, CPU seconds, and the largest sum of resident bytes over all processes at one sample.

    ``read``: bytes that read calls returned (``rchar``), from files, pipes and sockets alike.
    """

    wall: float
    cpu: float
    peak_rss: int
    read: int = 0


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
    """CPU time that a process and its descendants have used so far, those included that it has waited for.

    The kernel tells it in ticks of 10 ms, and of the threads that live in nanoseconds, too: what is more is nearer.
    """
    total = 0.0
    for member in tree_of(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            threads = [thread / "schedstat" for thread in Path(f"/proc/{member}/task").iterdir()]
            living = sum(int(path.read_text().split()[0]) for path in threads) / 1e9
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks = sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
        total += max(ticks / os.sysconf("SC_CLK_TCK"), living)
    return total


class PeakMemory(threading.Thread):
    """Samples the sum over some process trees until told to stop."""

    def __init__(self, pids: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self.pids = pids
        self.peak = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        count = 0
        members: list[int] = []
        while not self.stopped.wait(SAMPLE_PERIOD):
            if count % SAMPLES_PER_LOOK == 0:
                members = [member for pid in self.pids for member in tree_of(pid)]
            count += 1
            self.peak = max(self.peak, sum(map(resident, members)))

    def stop(self) -> int:
        self.stopped.set()
        self.join()
        return self.peak


def finish(process: Process, timeout: float) -> tuple[float, float, int]:
    """Wait until it ends: when that was (monotonic), CPU seconds and bytes read, of the children too it waited for.

    ProcessFailedError: it did not end within ``timeout`` seconds, or not with 0.
    """
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise ProcessFailedError(f"not within {timeout:.0f} s: {process.name} at its end\n{process.tail()}")
    finally:
        os.close(descriptor)
    ended = time.monotonic()
    counters = Path(f"/proc/{process.pid}/io").read_text().split()  # a process that nobody waited for still has them
    _, status, usage = os.wait4(process.pid, 0)
    process.popen.returncode = os.waitstatus_to_exitcode(status)
    if process.popen.returncode != 0:
        raise ProcessFailedError(f"{process.name} ended with {process.popen.returncode}\n{process.tail()}")
    return ended, usage.ru_utime + usage.ru_stime, int(counters[1])


def measure(command: Sequence[str], log: Path, *, timeout: float, env: dict[str, str] | None = None) -> Usage:
    """Run ``command`` to its end. What it prints is kept beside ``log``."""
    begun = time.monotonic()
    with Process(command, log, env=env) as process:
        memory = PeakMemory([process.pid])
        memory.start()
        try:
            ended, cpu, read = finish(process, timeout)
        finally:
            peak = memory.stop()
    return Usage(ended - begun, cpu, peak, read)
