"""Which lines of its decoder the committed corpus of each target reaches: ``python -m tests.fuzz.cover [TARGET …]``.

Without atheris: the corpora are replayed under coverage.py, quickly and with an exact result.
"""

from __future__ import annotations

import sys

import coverage

from tests.fuzz.harness import COVERED, Target, check, decoder_lines
from tests.fuzz.targets import TARGETS


def missing_lines(one: Target, inputs: list[bytes]) -> tuple[int, dict[str, list[int]]]:
    """How many lines the decoder of a target has, and those, by file, that none of ``inputs`` reaches."""
    wanted = decoder_lines(one)
    measured = coverage.Coverage(data_file=None, branch=False, config_file=False, include=list(wanted))
    measured.start()
    try:
        for data in inputs:
            check(one, data)
    finally:
        measured.stop()
    reached = measured.get_data()
    missing = {file: sorted(lines - set(reached.lines(file) or ())) for file, lines in wanted.items()}
    return sum(map(len, wanted.values())), {file: lines for file, lines in missing.items() if lines}


def main(names: list[str]) -> int:
    short = False
    for name in names or TARGETS:
        one = TARGETS[name]
        total, missing = missing_lines(one, [path.read_bytes() for path in one.corpus])
        share = 1 - sum(map(len, missing.values())) / total
        short |= share < COVERED
        print(f"{name:<24} {len(one.corpus):>4} inputs  {total:>4} lines  {share:>6.1%}")
        if share < COVERED:
            for file, lines in missing.items():
                print(f"    {file}: {', '.join(map(str, lines))}")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
