"""docs/library.md: its programs run as they stand there, and its tables tell the truth."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import btor
from btor.settings import Settings
from tests.cli.running import CONTENT, PROJECT, TORRENTS
from tools import _btor, _payload

DOCUMENT = (PROJECT / "docs" / "library.md").read_text(encoding="utf-8")
PROGRAMS = [program for program in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL) if "import btor" in program]


def run(program: str, folder: Path) -> str:
    """What a program prints that runs in ``folder``."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_download(tmp_path: Path) -> None:
    source = TORRENTS / "one-small-piece.torrent"
    with _btor.tracker(tmp_path / "tracker") as tracker:
        (tmp_path / "ubuntu.torrent").write_bytes(_payload.with_trackers(source.read_bytes(), [tracker.http]))
        with _btor.seed(tmp_path / "ubuntu.torrent", CONTENT, tmp_path / "seeder"):
            program = PROGRAMS[0].replace("port=0", 'port=0, bind=("127.0.0.1",)')  # nothing may leave the machine
            printed = run(program, tmp_path)
    assert printed.startswith("Started(")
    assert "Complete(" in printed
    copy = tmp_path / "downloads" / "one-small-piece.txt"
    assert copy.read_bytes() == (CONTENT / "one-small-piece.txt").read_bytes()


def test_without_trio(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"x" * 40_000)
    printed = run(PROGRAMS[1], tmp_path).splitlines()
    assert printed[0].startswith("photos ")
    assert printed[0].endswith(" 40000 3")
    assert printed[1] == "photos/one.jpg 40000"
    assert printed[2] == "True 3 () (('photos/one.jpg', 'ok'),)"
    assert printed[3] == "photos ('http://tracker.example/announce',)"
    assert len(PROGRAMS) == 2


def test_the_blocking_functions_import_no_trio(tmp_path: Path) -> None:
    (tmp_path / "photos").write_bytes(b"x")
    assert run(f"{PROGRAMS[1]}\nimport sys\nprint('trio' in sys.modules)", tmp_path).endswith("\nFalse\n")


def rows(heading: str) -> set[str]:
    """The names in the first column of the table whose header is ``heading``."""
    table = re.search(rf"^\| {heading} \|.*?\n\n", DOCUMENT, re.DOTALL | re.MULTILINE)
    assert table is not None
    cells = [line.split("|")[1] for line in table[0].splitlines()[2:] if line]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_setting_is_described() -> None:
    known = {field.name for field in dataclasses.fields(Settings)}
    assert rows("field") == known - {"strict", "loopback_is_public"}  # those two are for tests


def test_every_option_of_add_is_described() -> None:
    parameters = set(inspect.signature(btor.Session.add).parameters)
    assert rows("option") == parameters - {"self", "source"}


def test_every_public_name_is_described() -> None:
    for name in btor.__all__:
        assert re.search(rf"\b{name}\b", DOCUMENT), name
