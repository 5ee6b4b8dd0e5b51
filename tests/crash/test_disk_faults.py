"""One operation of the disk fails in a whole transfer: a seeded slice of what `tools/disk_faults.py` tries in full."""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import pytest

from btor.storage.files import Content
from tests.crash.disk_faults import CODES, SHORT, transfer
from tests.crash.test_crash_states import fast_disk

__all__ = ["fast_disk"]  # a fixture


@pytest.mark.parametrize("code", CODES)
def test_F13_the_nth_operation_fails(fast_disk: Path, code: int) -> None:
    rng = random.Random(code)
    total = transfer(fast_disk / "counted", -1, code).count
    assert total > 150
    fired = 0
    for at in rng.sample(range(1, total + 1), 16 if code == SHORT else 5):
        fired += bool(transfer(fast_disk / str(at), at, code).fired)
    assert fired == 5 or (code == SHORT and fired >= 2)


def test_a_piece_that_is_believed_all_the_same_is_found(fast_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: with errors of writes that nobody is told of it does."""
    write = Content.write_file

    def deaf(content: Content, *args: Any) -> None:
        try:
            write(content, *args)
        except Exception:  # noqa: BLE001  # the bug
            pass

    monkeypatch.setattr(Content, "write_file", deaf)
    with pytest.raises(AssertionError, match="not on disk"):
        for at in range(40, 100):
            transfer(fast_disk / str(at), at, errno.EIO)
