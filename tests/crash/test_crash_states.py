"""A power cut at any moment of a transfer: btor never believes what is not on disk (`tools/crash_states.py` tries all).

The checker itself is tried on planted bugs, and the recorder on the disk that the transfer left.
"""

from __future__ import annotations

import ast
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import btor.storage
from tests.crash import bugs
from tests.crash.checker import Recording, Verdict, check, some_states
from tests.crash.recorder import FOLDER, RECORDED
from tests.crash.scenarios import SAMPLE, steps, transfer
from tests.crash.states import after

FALSE = "a piece is believed that is not on disk"
NO_RECORD = "no record is there, and one was durable"
CHANGES = {"chmod", "fchmod", "truncate", "symlink", "rmdir", "utime", "pwrite", "writev", "posix_fallocate", *RECORDED}
HARMLESS = {"chmod"}  # of a private folder that others could read


@pytest.fixture
def fast_disk(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: a state costs some thirty calls."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="btor-crash-") as folder:
        yield Path(folder)


def failing(folder: Path, tick: int, seed: int) -> Recording:
    return steps(folder, tick=tick, seed=seed, syncs_fail=0.03)


def without(folder: Path, tick: int, seed: int) -> Recording:
    return steps(folder, tick=tick, seed=seed)


def engine(folder: Path, tick: int, seed: int) -> Recording:
    return transfer(folder, tick=tick, seed=seed)


def judged(recording: Recording) -> Verdict:
    verdict = Verdict()
    check(recording, some_states(random.Random(1), 0.01), verdict)
    return verdict


@pytest.mark.parametrize(("make", "tick"), [(engine, 1), (engine, 25), (without, 1), (failing, 1)])
def test_F5_no_power_cut_makes_a_false_have(
    fast_disk: Path, make: Callable[[Path, int, int], Recording], tick: int
) -> None:
    """With a clock of the file system that is fine, and with one so coarse that most writes have the time of a sync."""
    verdict = judged(make(fast_disk, tick, 1))
    assert not verdict.faults, verdict.examples
    assert len(verdict.images) > 200
    assert max(verdict.believed) > 0.9 * SAMPLE.pieces
    assert len(verdict.believed) > SAMPLE.pieces / 2  # moments from all over the transfer
    assert verdict.refused < verdict.tried / 10


@pytest.mark.parametrize(
    ("bug", "make", "fault"),
    [
        (bugs.no_sync, engine, FALSE),
        (bugs.record_first, without, FALSE),
        (bugs.rename_first, without, NO_RECORD),
        (bugs.failed_sync_forgotten, failing, FALSE),
    ],
)
def test_F5_planted_bugs_are_found(
    fast_disk: Path,
    bug: Callable[[], AbstractContextManager[None]],
    make: Callable[[Path, int, int], Recording],
    fault: str,
) -> None:
    """A record that takes its place too early is not believed, for it is sealed: what it costs is what was durable."""
    with bug():
        recording = make(fast_disk, 1, 1)
    verdict = Verdict()
    check(recording, some_states(random.Random(1), 0.005, often=1.0), verdict, until=fault)
    assert verdict.faults[fault]


def test_the_log_makes_the_disk(tmp_path: Path) -> None:
    """Replayed to the end it gives every file that the transfer left, byte for byte, and no other."""
    recording = transfer(tmp_path)
    root = recording.recorder.root
    *_, disk = after(recording.recorder.log)
    found = disk.as_it_is()
    on_disk = {str(path) for path in root.rglob("*")}
    assert set(found.names) == on_disk
    for path, node in found.names.items():
        if node != FOLDER:
            data = found.versions[node].data() if node in found.versions else b""
            assert data == Path(path).read_bytes(), path
            if "/here/" in path:
                assert found.times.get(node, 0) in (0, Path(path).stat().st_mtime_ns)


def changing_calls() -> Iterator[tuple[str, str]]:
    """(file, function) of every call in the storage of something of ``os`` that changes a disk, or of ``open``."""
    assert btor.storage.__file__ is not None
    for path in sorted(Path(btor.storage.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = node.func
                if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
                    if called.value.id == "os" and called.attr in CHANGES:
                        yield path.name, called.attr
                elif isinstance(called, ast.Name) and called.id == "open":
                    yield path.name, "open(" + ", ".join(map(ast.unparse, node.args[1:2])) + ")"


def test_nothing_passes_the_recorder_by() -> None:
    calls = set(changing_calls())
    assert ("system.py", "pwritev") in calls
    unknown = {call for call in calls if call[1] not in (*RECORDED, *HARMLESS, "open('rb')")}
    assert not unknown
