"""The streams: no text fails, and the person's locale decides what they take."""

from __future__ import annotations

import io
import os
import sys

import pytest

from btor.cli import output
from tests.cli.running import TORRENTS, child

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
