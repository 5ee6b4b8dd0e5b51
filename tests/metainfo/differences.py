"""What docs/differences.md lists, so that tests can hold it against what btor does."""

from __future__ import annotations

import re
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs" / "differences.md"


def listed(section: str) -> set[str]:
    """The inputs named in the first column of the tables under the heading ``section``."""
    text = _PAGE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return {name for line in text.splitlines() for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])}
