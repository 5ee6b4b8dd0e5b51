"""Compare the interop tests that ran with those that must: check_interop.py EXPECTED RAN [PACKAGE...].

EXPECTED has one test id a line, then the packages it needs; RAN one test id a line. PACKAGE: could not be installed.
"""

from __future__ import annotations

import sys
from pathlib import Path


def parse(text: str) -> dict[str, set[str]]:
    """Test id -> packages. An id may hold spaces (parameters), so a tab ends it."""
    expected = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            test, _, packages = line.partition("\t")
            expected[test] = set(packages.split())
    return expected


def compare(expected: dict[str, set[str]], ran: set[str], missing: set[str]) -> tuple[list[str], list[str], list[str]]:
    """(must have run and did not, excused, ran but are not in the list), each sorted."""
    absent = expected.keys() - ran
    excused = {test for test in absent if expected[test] & missing}
    return sorted(absent - excused), sorted(excused), sorted(ran - expected.keys())


def main() -> int:
    expected = parse(Path(sys.argv[1]).read_text(encoding="utf-8"))
    ran = set(Path(sys.argv[2]).read_text(encoding="utf-8").splitlines())
    absent, excused, unlisted = compare(expected, ran, set(sys.argv[3:]))
    print(f"interop: {len(expected) - len(absent) - len(excused)} of {len(expected)} listed tests ran")
    for what, tests in (("excused", excused), ("not in the list, add it", unlisted), ("DID NOT RUN", absent)):
        for test in tests:
            print(f"  {what}: {test}")
    return 1 if absent or unlisted else 0


if __name__ == "__main__":
    sys.exit(main())
