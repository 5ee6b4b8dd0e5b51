"""Where the CPU time of a download or of a seed goes: btor under a profiler, with a libtorrent peer at the other end.

Prints btor's counters, then the functions that were on a processor most, those of its hashers included. py-spy knows
the functions of Python: *own* time, what the kernel or a C library does for a line included, and *all* that they call;
whoever sleeps does not count. perf knows those of the kernel and of C libraries.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from tools._btor import state
from tools._measure import tree_of
from tools._processes import Process, run
from tools.bench import contenders as who
from tools.bench.workshop import KIB, Payload, Workshop

RATE = 400  # samples a second
SHOWN = 25
# they sleep in a call of C, which py-spy takes for work now and then
SLEEPERS = ("_watch (btor/cli/interrupts.py)", "WorkerThread._work (", "EpollIOManager.get_events (")
PY_SPY = Path(sys.executable).with_name("py-spy")


Recorder = Callable[[list[str], Path], list[str]]  # what runs a command and writes samples


def under_py_spy(command: list[str], samples: Path) -> list[str]:
    recording = ["record", "--subprocesses", "--rate", str(RATE), "--format", "raw", "--output", str(samples)]
    return [str(PY_SPY), *recording, "--", *command]


def under_perf(command: list[str], samples: Path) -> list[str]:
    return ["perf", "record", "--event", "cpu-clock", "--freq", str(RATE), "--output", str(samples), "--", *command]


def record_download(workshop: Workshop, payload: Payload, samples: Path, under: Recorder) -> str:
    """Its log."""
    with who.libtorrent_seed(payload, workshop) as (_, port), workshop.folder() as folder:
        command = [*who.btor_get(payload.torrent, folder, [f"127.0.0.1:{port}"]), "-vv"]
        log = workshop.log("btor")
        with Process(under(command, samples), log, env=state(log)) as process:
            process.check(4 * payload.timeout)
        payload.verify(folder)
    return process.errors()


def record_seed(workshop: Workshop, payload: Payload, samples: Path, under: Recorder) -> str:
    """Its log."""
    log = workshop.log("btor")
    command = who.btor_seed_command(payload, ["-vv"])
    with Process(under(command, samples), log, env=state(log)) as process, workshop.folder() as folder:
        port = process.wait_event("seeding", 4 * payload.timeout)["port"]
        seeder = tree_of(process.pid)[1]
        get = who.libtorrent_get(payload.torrent, folder, [f"127.0.0.1:{port}"])
        with Process(get, workshop.log("leecher")) as leecher:
            leecher.check(4 * payload.timeout)
        payload.verify(folder)
        os.kill(seeder, signal.SIGINT)
        process.wait(30)  # its status is that of a process that was interrupted
    return process.errors()


def shares(lines: Iterable[str]) -> tuple[int, Counter[str], Counter[str]]:
    """The number of samples, and of each function those with it on top, and those with it anywhere in the stack."""
    total = 0
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = [re.sub(r":\d+\)$", ")", frame) for frame in stack.split(";")]
        frames = [frame for frame in frames if not frame.startswith(("process ", "thread "))] or ["?"]
        if frames[-1].startswith(SLEEPERS):
            continue
        total += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):
            whole[frame] += int(count)
    return total, own, whole


def show_perf(samples: Path) -> None:
    for fields in ("overhead,dso", "overhead,comm,dso,symbol"):  # a hasher is a command of its own
        report = ["perf", "report", "--stdio", "--input", str(samples), "--fields", fields]
        lines = [line.rstrip() for line in run(report).stdout.splitlines()]
        print("\n".join([line for line in lines if line and not line.startswith("#")][:SHOWN]), end="\n\n")


def show_py_spy(samples: Path) -> None:
    total, own, whole = shares(samples.read_text(encoding="utf-8").splitlines())
    print(f"{total} samples, {total / RATE:.1f} s on a processor\n  own   all")
    for frame, count in own.most_common(SHOWN):
        print(f"{100 * count / total:4.0f}% {100 * whole[frame] / total:4.0f}%  {frame}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.where", description=__doc__)
    parser.add_argument("what", choices=["download", "seed"])
    parser.add_argument("--profiler", choices=["py-spy", "perf"], default="py-spy")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB")
    parser.add_argument("--piece-length", type=int, default=1024, metavar="KIB")
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"))
    arguments = parser.parse_args()
    if arguments.profiler == "py-spy":
        under, show, there = under_py_spy, show_py_spy, PY_SPY.exists()
    else:
        under, show, there = under_perf, show_perf, shutil.which("perf") is not None
    if not there:
        print(f"{arguments.profiler} is not installed", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or compiling is most of what a short run shows
    root = Path(tempfile.mkdtemp(prefix="btor-where-", dir=arguments.where))
    try:
        workshop = Workshop(root, root)
        payload = workshop.single(arguments.size, arguments.piece_length * KIB)
        samples = root / "samples"
        record = record_download if arguments.what == "download" else record_seed
        log = record(workshop, payload, samples, under)
        for line in log.splitlines():
            if "btor.engine.session: " in line:
                print(line.partition("btor.engine.session: ")[2])
        show(samples)
    finally:
        shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
