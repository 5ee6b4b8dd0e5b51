"""Fuzz with atheris: ``python -m tests.fuzz --seconds 60 [--runs N] [TARGET …]``, each target in a process of its own.

New inputs that reach something go to ``.fuzz/TARGET`` and are used again; an input that is a finding goes to
``.fuzz/findings``. Ends with 1 when there was one.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

WORK = Path(".fuzz")
HANG = 20  # s of wall time; the harness ends an input after a second of CPU time long before
SHOWN = 4_000  # characters of what a finding printed
PROCESS_MEMORY = 2_048  # MiB, of the fuzzer with all that it keeps


def fuzz(name: str, seconds: int, runs: int) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["btor"]):
        from tests.fuzz import targets
    from tests.fuzz.harness import check

    one = targets.TARGETS[name]
    for folder in (WORK / name, WORK / "findings"):
        folder.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-runs={runs}",
        f"-timeout={HANG}",
        f"-rss_limit_mb={PROCESS_MEMORY}",
        f"-artifact_prefix={WORK / 'findings' / name}-",
        "-print_final_stats=1",
        str(WORK / name),
        str(targets.CORPORA / name),
    ]
    atheris.Setup([sys.argv[0], *options], lambda data: check(one, data))
    atheris.Fuzz()


def main() -> int:
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="for each target, 0: until --runs")
    parser.add_argument("--runs", type=int, default=-1, help="inputs for each target, -1: until --seconds")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="one of: " + ", ".join(TARGETS))
    asked = parser.parse_args()
    unknown = set(asked.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    failed = False
    for name in asked.targets or TARGETS:
        failed |= _apart(name, asked.seconds, asked.runs)
    return int(failed)


def _apart(name: str, seconds: int, runs: int) -> bool:
    """Fuzz one target in a process of its own; whether there was a finding. Prints what came of it."""
    command = [sys.executable, "-c", f"from tests.fuzz.__main__ import fuzz; fuzz({name!r}, {seconds}, {runs})"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    figures = re.findall(r"number_of_executed_units: *([0-9]+)", done.stderr)
    print(
        f"{name:<24} {figures[-1] if figures else '?':>10} inputs  {'finding' if done.returncode else 'ok'}", flush=True
    )
    if done.returncode:
        print(done.stdout[-SHOWN:], done.stderr[-SHOWN:], sep="\n")
    return done.returncode != 0


if __name__ == "__main__":
    sys.exit(main())
