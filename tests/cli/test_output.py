"""The streams: no text fails, and the person's locale decides what they take."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from btor.cli import output
from btor.errors import StorageError
from tests.cli.running import BTOR, CONTENT, PROJECT, TORRENTS, Ended, child

NAMES = TORRENTS / "many-files.torrent"  # Swedish, Chinese, Russian, and an emoji


@pytest.mark.parametrize(
    ("locale", "plain"),
    [
        ({"LANG": "C"}, True),
        ({"LC_ALL": "C"}, True),
        ({"LANG": "POSIX"}, True),
        ({}, True),
        ({"LANG": "C.UTF-8"}, False),
        ({"LC_CTYPE": "C.UTF-8", "LANG": "C.UTF-8"}, False),
        ({"LC_ALL": "C.UTF-8", "LANG": "C"}, False),
        ({"LC_ALL": "C", "LANG": "C.UTF-8"}, True),
        ({"LANG": "C.UTF-8", "PYTHONIOENCODING": "ascii"}, True),
    ],
    ids=str,
)
def test_names_in_every_locale(locale: dict[str, str], plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_CTYPE", "LANG", "PYTHONUTF8", "PYTHONIOENCODING"):
        monkeypatch.delenv(name, raising=False)
    ended = child(["info", NAMES], env=locale)
    assert ended.status == 0
    assert ended.err == ""
    assert ended.out.isascii() == plain
    assert ("写真" in ended.out) == (not plain)
    assert child(["info", "--json", NAMES], env=locale).out.isascii()


def test_what_a_missing_stream_is_told_is_lost() -> None:
    output.write(None, "x")


def test_the_reader_is_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream, pytest.raises(output.ReaderGoneError):
        try:
            output.write(stream, "x")
        finally:
            os.dup2(sys.__stderr__.fileno() if sys.__stderr__ else 2, stream.fileno())  # so that closing it works


def test_is_unicode() -> None:
    assert output.is_unicode(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert not output.is_unicode(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert not output.is_unicode(io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert not output.is_unicode(None)
    assert output.ellipsis(None) == "..."


FULL = Path("/dev/full")
SMALL = TORRENTS / "one-small-piece.torrent"
NO_SPACE = "btor: write standard output: No space left on device\n"
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def redirected(redirection: str, *arguments: str | Path) -> Ended:
    """A command line in a shell, with ``redirection`` behind it."""
    command = ["sh", "-c", f'"$@" {redirection}', "sh", *BTOR, *map(str, arguments)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


@needs_full
@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["info", "--help"],
        ["info", NAMES],
        ["info", "--json", NAMES],
        ["verify", SMALL, CONTENT],
        ["tracker", "--http", "127.0.0.1:0", "--udp", "127.0.0.1:0", "--json"],
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:2])).replace(str(TORRENTS), ""),
)
def test_an_answer_that_finds_no_room_is_4(arguments: list[str | Path]) -> None:
    assert redirected(f">{FULL}", *arguments) == Ended(4, "", NO_SPACE)
    assert redirected(f">{FULL} 2>&1", *arguments) == Ended(4, "", "")


@needs_full
def test_an_error_that_finds_no_room_keeps_its_status() -> None:
    missing = "btor: read nowhere: No such file or directory\n"
    assert redirected(f">{FULL}", "info", "nowhere", "--json") == Ended(4, "", missing)
    assert redirected(f"2>{FULL}", "info", "nowhere") == Ended(4, "", "")
    assert redirected(f"2>{FULL}", "frob").status == 2
    assert redirected(f"2>{FULL}").status == 2
    ended = redirected(f"2>{FULL}", "info", NAMES, "--json")
    assert (ended.status, ended.err) == (0, "")


@needs_full
def test_standard_error_loses_what_it_cannot_take(monkeypatch: pytest.MonkeyPatch) -> None:
    with FULL.open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        output.tell("x" * 100_000)
        output.tell("x")
    with FULL.open("w") as stream, pytest.raises(StorageError, match="write standard output: No space"):
        output.write(stream, "x")


def test_nobody_at_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "stdout", stream)
        for _ in range(2):
            with pytest.raises(output.ReaderGoneError):  # `2>&1 | head`
                output.tell("x")
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        output.tell("x")
