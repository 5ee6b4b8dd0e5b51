"""Cases of a measurement, one after the other, each in a folder of its own."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from tools.bench.__main__ import machine

C = TypeVar("C")


def run_each(cases: Iterable[C], where: Path, measure: Callable[[C, Path], list[str]]) -> int:
    """What a tool ends with: 1 if ``measure(case, folder)`` finds anything out of bounds, which is printed last."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended, too
    print(machine())
    complaints = []
    for case in cases:
        root = Path(tempfile.mkdtemp(prefix="btor-measured-", dir=where))
        try:
            complaints += measure(case, root)
        finally:
            shutil.rmtree(root)
    for complaint in complaints:
        print(complaint)
    return 1 if complaints else 0
