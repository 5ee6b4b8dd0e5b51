"""The live view: what its lines hold at every width, and how it goes back over them."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btor.cli.view import LiveView, Row, Signs, cut, frame
from btor.engine import events
from btor.metainfo.paths import display
from tests.cli.fakes import INFO_HASH, progress

UNICODE, ASCII = Signs.of(unicode=True), Signs.of(unicode=False)
LONG = "a-rather-long-name-of-a-torrent-that-will-not-fit-into-forty-columns.iso"
WAITING = "trackers 1/3, 4 peers, none has what is missing"


def drawn(rows: list[Row], width: int, height: int = 24, signs: Signs = UNICODE) -> list[str]:
    return [line.plain for line in frame(rows, width, height, signs)]


def test_wide_shows_everything() -> None:
    name, figures = drawn([Row("x.iso", progress(eta=190.0))], 120)
    assert name == "x.iso"
    assert re.fullmatch(r" 25\.0 % ━+─+ 1\.00 MB/s  ↑ 2\.00 KB/s   3 peers     eta 3:10  1\.00 MB of 4\.00 MB", figures)


def test_peers_are_counted_once() -> None:
    row = Row("x", progress(state="waiting", reason=WAITING, peers=4, eta=None))
    assert "\n".join(drawn([row], 100)).count("4 peers") == 1


@pytest.mark.parametrize("signs", [UNICODE, ASCII])
def test_eta_goes_first_then_peers(signs: Signs) -> None:
    seen: list[tuple[str, ...]] = []
    for width in range(120, 25, -1):
        figures = drawn([Row(LONG, progress(eta=190.0))], width, signs=signs)[1]
        shown = tuple(word for word in ("eta", "peers", "KB/s", "MB/s") if word in figures)
        if not seen or seen[-1] != shown:
            seen.append(shown)
        assert "25.0 %" in figures
        assert signs.full in figures, width
    assert seen == [("eta", "peers", "KB/s", "MB/s"), ("peers", "KB/s", "MB/s"), ("KB/s", "MB/s"), ("MB/s",)]


def test_forty_columns_hold_percent_bar_and_rates() -> None:
    lines = drawn([Row(LONG, progress(down_rate=999.4e6, up_rate=999.4e6))], 40)
    assert lines[0] == LONG[:38] + "…"
    assert lines[1] == " 25.0 % ━━──────  999 MB/s  ↑  999 MB/s"


def test_it_says_why_it_waits() -> None:
    row = Row("x", progress(state="waiting", reason=WAITING))
    assert drawn([row], 80)[2:] == [WAITING]
    assert drawn([row], 40)[2:] == ["trackers 1/3, 4 peers, none has what is", "missing"]
    assert "checking" in drawn([Row("x", progress(state="checking", checked_pieces=42))], 40)[1]
    assert " 42.0 %" in drawn([Row("x", progress(state="checking", checked_pieces=42))], 40)[1]
    assert drawn([row, row], 60)[0].endswith(" 25.0 % trackers 1/3, 4 peers, none has wha…")


def test_several_have_a_row_each_and_a_summary() -> None:
    rows = [Row("one", progress()), Row("two", progress(state="seeding", done_bytes=4_000_000)), Row("three")]
    rows.append(Row("four", progress(), "read /x: Input/output error"))
    lines = drawn(rows, 100)
    assert [line.split()[0] for line in lines] == ["one", "two", "three", "four", "3"]
    assert lines[-1] == "3 torrents, 1 complete, 3.00 MB/s down, 6.00 KB/s up, 9 peers"
    assert lines[2].endswith("starting")
    assert lines[3].endswith("read /x: Input/output error")


def test_more_torrents_than_lines() -> None:
    rows = [Row(f"seeding {index}", progress(state="seeding")) for index in range(30)]
    rows.append(Row("busy", progress()))
    lines = drawn(rows, 80, 10)
    assert len(lines) == 9
    assert lines[0].startswith("busy ")  # what is complete gives way
    assert lines[-2] == "… 24 more"


def test_seeding_of_a_part_shows_the_part() -> None:
    assert " 25.0 % " in drawn([Row("x", progress(state="seeding"))], 80)[1]


_names = st.text(max_size=60).map(display)
_rows = st.builds(
    Row,
    name=_names,
    progress=st.one_of(
        st.none(),
        st.builds(
            progress,
            state=st.sampled_from(["checking", "downloading", "waiting", "seeding", "disk_full", "error"]),
            reason=_names,
            eta=st.one_of(st.none(), st.floats(0, 1e9)),
            down_rate=st.floats(0, 1e12),
            up_rate=st.floats(0, 1e12),
            peers=st.integers(0, 10_000),
            done_bytes=st.integers(0, 4_000_000),
            checked_pieces=st.integers(0, 100),
        ),
    ),
    failed=st.one_of(st.just(""), _names),
)


@settings(max_examples=200)
@given(st.lists(_rows, min_size=1, max_size=8), st.integers(1, 200), st.integers(1, 12), st.booleans())
def test_no_line_reaches_the_edge(rows: list[Row], width: int, height: int, unicode: bool) -> None:
    lines = frame(rows, width, height, Signs.of(unicode=unicode))
    assert len(lines) < max(height, 2)
    for line in lines:
        assert line.cell_len <= max(width - 1, 1), line.plain


def test_names_are_cut_by_columns_not_characters() -> None:
    assert cut("日本語の名前", 7, UNICODE) == "日本語…"
    assert cut("日本語の名前", 6, UNICODE) == "日本 …"  # a wide character does not fit in one column
    assert cut("ab", 4, UNICODE) == "ab  "


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def taken(self) -> str:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


class Ascii(Terminal):
    encoding = "ascii"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def started(name: str) -> events.Started:
    return events.Started(
        time=0.0, info_hash=INFO_HASH, name=name, total_bytes=4_000_000, piece_length=40_000, pieces=100, port=6881
    )


def complete(*, seconds: float, downloaded: int) -> events.Complete:
    return events.Complete(
        time=0.0, info_hash=INFO_HASH, seconds=seconds, downloaded=downloaded, uploaded=0, wasted=0, hash_failures=0
    )


def sized(view: LiveView, monkeypatch: pytest.MonkeyPatch, columns: int, lines: int = 24) -> None:
    monkeypatch.setattr(view, "_size", lambda: (columns, lines))


def test_each_frame_is_drawn_over_the_last(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    view = LiveView(terminal)
    sized(view, monkeypatch, 80)
    view.on_event(started("x"))
    terminal.taken()
    view.on_event(progress())
    text = terminal.taken()
    assert text.startswith("\r\r\x1b[?7l")
    assert text.count("\n") == 1
    assert text.endswith("\x1b[J\x1b[?7h\r\x1b[1A")  # back at the top of two lines
    view.say("above")
    text = terminal.taken()
    assert text.startswith("\rabove\x1b[K\n")
    assert text.endswith("\x1b[1A")
    view.close()
    assert terminal.taken().endswith("\x1b[?7h\n")  # below them
    view.close()
    assert terminal.taken() == ""


@pytest.mark.parametrize("took_a_second", [True, False])
def test_the_last_frame_is_of_what_was_reached(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, took_a_second: bool
) -> None:
    view = LiveView(terminal)
    sized(view, monkeypatch, 80)
    view.on_event(started("x"))
    if took_a_second:
        view.on_event(progress())
    view.on_event(complete(seconds=2.0, downloaded=4_000_000))
    terminal.taken()
    view.close()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.taken())
    assert "100.0 %" in text
    assert "2.00 MB/s" in text


def test_progress_waits_for_the_tick(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    view = LiveView(terminal)
    sized(view, monkeypatch, 80)
    view.on_event(started("x"))
    view.on_event(progress())
    terminal.taken()
    for _ in range(100):
        view.on_event(progress())
    assert terminal.taken() == ""


def test_colours(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    view = LiveView(terminal)
    sized(view, monkeypatch, 80)
    view.on_event(started("x"))
    view.on_event(progress())
    assert "\x1b[32m" in terminal.taken()


def test_no_color(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    view = LiveView(terminal)
    sized(view, monkeypatch, 80)
    view.on_event(started("x"))
    view.on_event(progress())
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal.taken())


def test_ascii_terminals_get_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Ascii()
    view = LiveView(stream)
    sized(view, monkeypatch, 30)
    view.on_event(started("日本語-" + "x" * 60))
    view.on_event(progress(state="waiting", reason="größer…"))
    view.on_tick()
    assert stream.taken().isascii()


def test_hostile_names_cannot_steer_the_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    view = LiveView(terminal)
    sized(view, monkeypatch, 80)
    view.on_event(started("a\x1b[2Jb\u202ec\nd"))
    view.on_event(progress())
    view.on_event(events.Warned(time=0.0, info_hash=INFO_HASH, message="x\x1b]0;title\x07\u2066"))
    text = re.sub(r"\x1b\[([0-9;]*m|[0-9]*[AK]|J|\?7[hl])", "", terminal.taken())  # what the view itself writes
    assert not re.search("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


def test_notices_scroll_by_above(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    view = LiveView(terminal)
    sized(view, monkeypatch, 80)
    view.on_event(started("x"))
    view.on_event(progress())
    terminal.taken()
    view.on_event(complete(seconds=61.0, downloaded=4))
    assert "x: complete and verified: 4 B in 1:01" in terminal.taken()
    view.on_event(events.Failed(time=0.0, info_hash=INFO_HASH, code=4, kind="storage", message="write /x: no"))
    text = terminal.taken()
    assert "btor: write /x: no\x1b[K\n" in text
    assert text.count("write /x: no") == 2  # and in its row
