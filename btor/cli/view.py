"""The live view: a few lines at the bottom of a terminal, drawn over at each tick, with messages scrolling above.

``frame`` makes the lines, ``LiveView`` puts them on the terminal. Between two frames the cursor waits at the beginning
of the first line, not behind the last: a terminal that gets narrower breaks the lines below in two, but keeps the
cursor where it was in the text, so nothing has to be counted. The cursor is never hidden and no mode outlives a write,
so a process that is killed leaves nothing behind.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from btor.cli import output, words
from btor.cli.lines import Names, notice, summary
from btor.engine import events
from btor.engine.events import Event, Progress
from btor.metainfo.paths import display

PERIOD = 1.0  # seconds between two frames, as progress arrives
BAR_MIN, BAR_MAX = 5, 50
REASON_LINES = 3  # why it waits, where it has room
NO_WRAP, WRAP = "\x1b[?7l", "\x1b[?7h"  # what is too long for its line: cut off, or continued (DECAWM)
WRAPPED_MIN = 10  # columns; in fewer, words are cut, not broken into lines
ROW_NAME_MIN, ROW_NAME_MAX = 8, 40  # columns of the name where each torrent has one row


@dataclass(frozen=True, slots=True)
class Signs:
    """The characters of a view: ASCII where the locale has no more."""

    full: str
    empty: str
    up: str
    ellipsis: str

    @classmethod
    def of(cls, *, unicode: bool) -> Signs:
        """Those that the terminal can show."""
        return cls("━", "─", "↑", "…") if unicode else cls("#", "-", "up", "...")


@dataclass(frozen=True, slots=True)
class Row:
    """One torrent as the view knows it. ``failed`` holds its error, or nothing; ``whole``: bytes, if known."""

    name: str
    progress: Progress | None = None
    failed: str = ""
    whole: int = 0


def frame(rows: list[Row], width: int, height: int, signs: Signs) -> list[Text]:
    """The lines to draw, each at most ``width`` - 1 columns wide, fewer than ``height`` of them."""
    columns = max(width - 1, 1)
    if len(rows) == 1:
        lines = _alone(rows[0], columns, signs)
    else:
        room = max(height - 3, 1)  # for the summary, for what is left out, and for the cursor
        shown = rows if len(rows) <= room else _most_active(rows)[:room]
        lines = [_row(row, columns, signs) for row in shown]
        if len(rows) > room:
            lines.append(Text(f"{signs.ellipsis} {len(rows) - room} more", "dim"))
        lines.append(_summary(rows, columns))
    return [fit(line, columns, signs) for line in lines[: max(height - 1, 1)]]


def fit(line: Text, columns: int, signs: Signs) -> Text:
    """``line`` cut to ``columns``, with a sign that something is missing."""
    if line.cell_len <= columns:
        return line
    line = line.copy()
    line.truncate(max(columns - len(signs.ellipsis), 0), overflow="crop")
    return line.append(signs.ellipsis[:columns])


def _most_active(rows: list[Row]) -> list[Row]:
    """In their order, but the failed and the finished at the end."""
    return sorted(rows, key=lambda row: bool(row.failed) or row.progress is None or row.progress.state == "seeding")


def _alone(row: Row, columns: int, signs: Signs) -> list[Text]:
    """One torrent on two lines, and a third while it waits."""
    lines = [Text(row.name, "bold")]
    if row.failed:
        return [*lines, Text(row.failed, "red")]
    if row.progress is None:
        return [*lines, Text("starting", "dim")]
    lines.append(_figures(Text(), row.progress, columns, signs))
    why = words.waiting(row.progress)
    if why and row.progress.state != "checking":
        broken = wrap(why, max(columns, WRAPPED_MIN), max_lines=REASON_LINES, placeholder=signs.ellipsis)
        lines += [Text(line, "yellow") for line in broken]
    return lines


def _row(row: Row, columns: int, signs: Signs) -> Text:
    """One torrent of several on one line: its name, then its figures, or why it has none."""
    width = min(max(columns // 4, ROW_NAME_MIN), ROW_NAME_MAX)
    line = Text(cut(row.name, width, signs) + " ", "bold")
    line.stylize("not bold", len(line) - 1)
    if row.failed:
        return line.append(row.failed, "red")
    if row.progress is None:
        return line.append("starting", "dim")
    why = words.waiting(row.progress)
    if why and row.progress.state != "checking":
        return line.append(f"{_percent(row.progress)} ").append(why, "yellow")
    return _figures(line, row.progress, columns, signs)


def _figures(line: Text, progress: Progress, columns: int, signs: Signs) -> Text:
    """Append percent, bar, rates, peers and eta to ``line``. What has no room goes: size, eta, peers, upload, bar."""
    done, whole = progress.done_bytes, progress.total_bytes
    if progress.state == "checking":
        done, whole = progress.checked_pieces, max(progress.pieces, 1)
        parts = [("  checking", "yellow")]
    elif progress.state == "seeding":
        parts = [("  seeding", "green"), _up(progress, signs), _peers(progress)]
    else:
        eta = "" if progress.eta is None else f"eta {words.duration(progress.eta)}"
        parts = [(f" {words.rate(progress.down_rate):>9}", "green"), _up(progress, signs)]
        parts += [] if words.names_peers(progress) else [_peers(progress)]
        parts += [(f" {eta:>12}", "cyan"), (f"  {words.size(done):>7} of {words.size(whole):>7}", "dim")]
    line.append(_percent_of(done, whole))
    room = columns - line.cell_len - 1 - BAR_MIN
    while parts and sum(cell_len(text) for text, _ in parts) > room:
        parts.pop()
    bar = min(columns - line.cell_len - 1 - sum(cell_len(text) for text, _ in parts), BAR_MAX)
    if bar >= BAR_MIN:
        full = bar * done // whole
        line.append(" ").append(signs.full * full, "green").append(signs.empty * (bar - full), "dim")
    for text, style in parts:
        line.append(text, style)
    return line


def _percent(progress: Progress) -> str:
    return _percent_of(progress.done_bytes, progress.total_bytes)


def _percent_of(done: int, whole: int) -> str:
    return f"{words.percent(done, whole):>7}"


def _up(progress: Progress, signs: Signs) -> tuple[str, str]:
    return f"  {signs.up} {words.rate(progress.up_rate):>9}", "blue"


def _peers(progress: Progress) -> tuple[str, str]:
    return f" {words.count(progress.peers, 'peer'):>9}", ""


def _summary(rows: list[Row], columns: int) -> Text:
    """All torrents in one line, without its last parts where there is no room."""
    parts = summary([row.progress for row in rows if row.progress is not None]).split(", ")
    while len(parts) > 1 and len(", ".join(parts)) > columns:
        parts.pop()
    return Text(", ".join(parts), "bold")


def completed(row: Row, event: events.Complete) -> Row:
    """``row`` when everything is there: what it shows if nothing comes after that."""
    rate = event.downloaded / event.seconds if event.seconds > 0 else 0.0
    last = row.progress
    if last is None:  # it took less than a second
        last = Progress(
            time=event.time,
            info_hash=event.info_hash,
            state="downloading",
            done_bytes=row.whole,
            total_bytes=row.whole,
            have_pieces=0,
            pieces=0,
            down_rate=rate,
            up_rate=0.0,
            downloaded=event.downloaded,
            uploaded=event.uploaded,
            wasted=event.wasted,
            peers=0,
            seeds=0,
            eta=None,
        )
    last = replace(last, state="downloading", done_bytes=last.total_bytes, down_rate=rate, eta=None)
    return replace(row, progress=last)


def cut(name: str, width: int, signs: Signs) -> str:
    """``name`` in exactly ``width`` columns."""
    if cell_len(name) > width:
        name = set_cell_size(name, width - len(signs.ellipsis)) + signs.ellipsis
    return set_cell_size(name, width)


class LiveView:
    """A reporter that draws. ``stream`` is a terminal."""

    period: float | None = PERIOD

    def __init__(self, stream: TextIO, verbosity: int = 0) -> None:
        self._stream = stream
        self._verbosity = verbosity
        self._names = Names()
        self._rows: dict[str | None, Row] = {}
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False, force_terminal=True)
        self._unicode = output.is_unicode(stream)
        self._signs = Signs.of(unicode=self._unicode)

    def on_event(self, event: Event) -> None:
        """Remember progress until the next tick; scroll the rest by above the frame."""
        key = event.info_hash
        if isinstance(event, Progress):
            first = key in self._rows and self._rows[key].progress is None
            self._rows[key] = Row(self._shown(self._names.of(event)), self._shown_progress(event))
            if first:
                self.on_tick()
            return
        news = self._names.learn(event)
        if isinstance(event, events.Started):
            self._rows.setdefault(key, Row(self._shown(self._names.of(event)), whole=event.total_bytes))
        elif isinstance(event, events.MetadataArrived) and key in self._rows:
            self._rows[key] = replace(self._rows[key], whole=event.total_bytes)
        elif isinstance(event, events.Failed) and key in self._rows:
            self._rows[key] = replace(self._rows[key], failed=self._shown(event.message))
        elif isinstance(event, events.Complete) and key in self._rows:
            self._rows[key] = completed(self._rows[key], event)
        if news and (line := notice(event, self._names.of(event), self._verbosity)):
            self.say(line)

    def on_tick(self) -> None:
        """Draw the frame over the last one."""
        self._put([])

    def say(self, text: str) -> None:
        """A line above the frame."""
        self._put(text.split("\n"))

    def close(self) -> None:
        """Leave the last frame, and the cursor below it."""
        lines = self._lines()
        self._rows.clear()
        if lines:
            output.write(self._stream, self._drawn(lines) + "\n")

    def leave(self) -> None:
        """Take the frame away with one system call: another thread does this while ours may be stuck."""
        try:
            os.write(self._stream.fileno(), b"\r\x1b[J")
        except (OSError, ValueError):
            pass  # the terminal has gone

    def _shown(self, text: str) -> str:
        """``text`` without what could steer the terminal, in the characters that it has, so that its width is known."""
        text = display(text)
        return text if self._unicode else text.replace("…", "...").encode("ascii", "replace").decode()

    def _shown_progress(self, progress: Progress) -> Progress:
        return replace(progress, reason=self._shown(progress.reason)) if progress.reason else progress

    def _put(self, above: list[str]) -> None:
        """Print what belongs above and draw the frame below it, all in one write; the cursor goes back to its top."""
        lines = self._lines()
        text = "\r" + "".join(f"{line}\x1b[K\n" for line in above) + self._drawn(lines)
        back = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
        output.write(self._stream, f"{text}\r{back}")

    def _lines(self) -> list[Text]:
        width, height = self._size()
        return frame(list(self._rows.values()), width, height, self._signs) if self._rows else []

    def _drawn(self, lines: list[Text]) -> str:
        """The frame, and nothing below it. No line of it can wrap, even if the terminal is not as wide as it said."""
        return f"\r{NO_WRAP}" + "\x1b[K\n".join(self._rendered(line) for line in lines) + f"\x1b[J{WRAP}"

    def _rendered(self, line: Text) -> str:
        """``line`` with its colours, as far as this terminal has them and NO_COLOR allows."""
        self._console.width = line.cell_len + 1
        with self._console.capture() as capture:
            self._console.print(line, end="", no_wrap=True, crop=False, overflow="ignore")
        return capture.get()

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        return max(size.columns, 1), max(size.lines, 1)
