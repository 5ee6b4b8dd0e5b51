"""btor beside other clients: every row is one kind of work, on which all take turns in one run.

Wall time, CPU time (user and system) and the peak of memory are those of whole process trees. A cell shows the median
of all rounds, and in brackets the least and the most; the last lines of a row divide btor's figure by the other's,
round by round. Every result is compared with the content byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tools.bench.contenders import versions
from tools.bench.contest import Row, run_row
from tools.bench.rows import ROWS
from tools.bench.workshop import Workshop


def machine() -> str:
    """Processor, cores, memory and system, in one line."""
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{os.cpu_count()} × {cpu}, {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def file_system(folder: Path) -> str:
    """The kind of file system that holds ``folder``."""
    best, kind = "", "?"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, name, *_ = line.split()
        if folder.resolve().is_relative_to(point) and len(point) >= len(best):
            best, kind = point, name
    return kind


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--row", action="append", metavar="KEY", help="only this one; c: all of c-16k, c-4m …")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the content, two rounds: does all work?")
    parser.add_argument("--rounds", type=int, help="default: 5; with --quick 2")
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"), help="content and results; default: /dev/shm")
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"), help="of the rows on a disk; default: /var/tmp")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there, too")
    arguments = parser.parse_args()
    for wanted in arguments.row or ():
        if not chosen([wanted]):
            parser.error(f"no row {wanted}: there are {', '.join(row.key for row in ROWS)}")
    return arguments


def chosen(keys: Sequence[str]) -> list[Row]:
    """The rows of these keys, in their order; where no row has the key, those whose key begins with it and a dash."""
    named = {row.key for row in ROWS}
    return [
        row
        for row in ROWS
        if any(key == row.key or (key not in named and row.key.startswith(f"{key}-")) for key in keys)
    ]


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended, too
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed command is compiled once, not at every start
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    root = Path(tempfile.mkdtemp(prefix="btor-bench-", dir=arguments.where))
    disk = Path(tempfile.mkdtemp(prefix="btor-bench-", dir=arguments.disk))
    workshop = Workshop(root, disk, arguments.quick)
    head = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "file systems": {"where": file_system(root), "disk": file_system(disk)},
        "rounds": rounds,
        "quick": arguments.quick,
    }
    for name, value in head.items():
        print(f"{name}: {value}")
    results = []
    try:
        for row in chosen(arguments.row) if arguments.row else ROWS:
            results.append(run_row(row, workshop, rounds, warm_ups=1))
    finally:
        shutil.rmtree(root)
        shutil.rmtree(disk)
    if arguments.json:
        arguments.json.write_text(json.dumps({**head, "rows": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
