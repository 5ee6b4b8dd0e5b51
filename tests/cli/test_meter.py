"""How far hashing is: drawn in place on a terminal, a line now and then elsewhere, nothing where it must be quiet."""

from __future__ import annotations

import io

import pytest

from btor.cli import meter
from btor.cli.meter import Meter
from btor.cli.options import Voice


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in its only item."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_on_a_terminal_a_line_is_drawn_over(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr(stream, "fileno", lambda: -1, raising=False)
    shown = Meter("hashing x", stream)
    shown(1, 100)
    assert stream.getvalue() == ""
    clock[0] += 1
    shown(25, 100)
    shown(26, 100)  # too soon
    assert stream.getvalue() == "\rhashing x: 25.0 %, eta 0:03\x1b[K"
    shown.clear()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_it_fits_the_terminal(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = Meter("hashing " + "x" * 100, Terminal())
    monkeypatch.setattr(shown, "_columns", lambda: 20)
    clock[0] += 1
    shown(1, 2)
    stream = shown._stream
    assert isinstance(stream, Terminal)
    assert stream.getvalue() == "\rhashing xxxxxxxxxxxx\x1b[K"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_elsewhere_a_line_every_ten_seconds(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, stream: io.StringIO
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    shown = Meter("hashing x", stream)
    for second in range(25):
        clock[0] += 1
        shown(second + 1, 100)
    shown.clear()
    assert stream.getvalue() == "hashing x: 10.0 %, eta 1:30\nhashing x: 20.0 %, eta 1:20\n"


@pytest.mark.parametrize("voice", [Voice(json=True), Voice(quiet=True)])
def test_nothing_where_nothing_is_wanted(voice: Voice) -> None:
    with meter.meter("hashing x", voice) as shown:
        assert shown is None


def test_a_short_one_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with meter.meter("hashing x", Voice()) as shown:
        assert shown is not None
        shown(1, 1)
    assert capsys.readouterr() == ("", "")
