"""What a running command says when no view is drawn: plain lines for people, JSON lines for programs, or nothing."""

from __future__ import annotations

import time
from typing import Protocol

from btor.cli import output, words
from btor.cli.options import Voice
from btor.engine import events
from btor.engine.events import Event, Progress
from btor.metainfo.paths import display

PLAIN_PERIOD = 10.0  # seconds between two plain progress lines
NOTICE_CHARACTERS = 1_000
PLAIN_TORRENTS = 5  # above, they are summed up in one line


class Reporter(Protocol):
    """Tells a person or a program what happens. Any method may raise ReaderGoneError or StorageError."""

    period: float | None
    """Seconds between two calls of ``on_tick``; None for none."""

    def on_event(self, event: Event) -> None:
        """Something happened."""

    def on_tick(self) -> None:
        """``period`` has passed, or the terminal has another size."""

    def say(self, text: str) -> None:
        """A line for standard error, safe to print."""

    def close(self) -> None:
        """No more will be said through this."""

    def leave(self) -> None:
        """The process ends at once, out of order. Called in another thread."""


class Names:
    """The names of torrents by info hash, safe to print, and what is known of them already."""

    def __init__(self) -> None:
        self._names: dict[str | None, str] = {}
        self._seeding: set[str | None] = set()
        self._failing: set[tuple[str | None, str]] = set()  # trackers: info hash and URL

    def learn(self, event: Event) -> bool:
        """Remember what ``event`` tells. False: it only repeats what it has said before."""
        if isinstance(event, events.Started | events.MetadataArrived):
            self._names[event.info_hash] = display(event.name)
        elif isinstance(event, events.Seeding):
            known = event.info_hash in self._seeding
            self._seeding.add(event.info_hash)
            return not known
        return True

    def turned(self, answer: events.TrackerAnswer) -> bool:
        """Whether a tracker fails that did not, or works again."""
        key = (answer.info_hash, answer.url)
        failed = key in self._failing
        (self._failing.discard if answer.ok else self._failing.add)(key)
        return failed == answer.ok

    def of(self, event: Event) -> str:
        """The name of the torrent that ``event`` is about."""
        return self._names.get(event.info_hash) or event.info_hash or "btor"


def notice(event: Event, name: str, verbosity: int) -> str | None:
    """The line that a happening is worth at this verbosity (0 to 2), or None."""
    if isinstance(event, events.Failed):
        return f"btor: {event.message}"
    text, needed = _happening(event)
    return f"{name}: {display(text, limit=NOTICE_CHARACTERS)}" if text and verbosity >= needed else None


def _happening(event: Event) -> tuple[str, int]:
    """What an event says, and the verbosity from which on it is said."""
    match event:
        case events.Started():
            return f"{words.size(event.total_bytes)}, listening on port {event.port}", 1
        case events.MetadataArrived():
            return f"the metadata is there: {words.size(event.total_bytes)}", 0
        case events.Checked(from_="nothing"):
            return "", 0
        case events.Checked():
            known = f"{event.have_pieces:,} of {words.count(event.pieces, 'piece')} already there"
            source = "by the resume record" if event.from_ == "resume" else "by their hashes"
            return f"{known} {source}", 0 if event.have_pieces else 1
        case events.TrackerAnswer(ok=True):
            return words.join(f"tracker {event.url}: {words.count(event.peers, 'peer')}", event.message), 1
        case events.TrackerAnswer():
            return f"tracker {event.url}: {event.message}", 1
        case events.PeerChange(change="banned"):
            return f"{event.address} {event.client}: banned: {event.reason}", 1
        case events.PeerChange():
            return words.join(f"{event.address} {event.client}: {event.change}", event.reason), 2
        case events.PieceFailed():
            return f"piece {event.piece} did not match its hash, from {', '.join(event.peers)}", 1
        case events.DiskFull():
            return f"the disk is full at {event.path}: {words.size(event.needed_bytes)} more needed", 0
        case events.Complete(downloaded=0):
            return "complete and verified", 0
        case events.Complete():
            took = f"{words.size(event.downloaded)} in {words.duration(event.seconds)}"
            return f"complete and verified: {took}", 0
        case events.Seeding():
            return f"seeding on port {event.port}", 0
        case events.Warned():
            return event.message, 0
        case events.Stopped():
            return words.join("stopped", event.reason), 2
    return "", 0


class PlainLines:
    """A line per torrent every ten seconds, and one for each happening, on standard error."""

    period: float | None = PLAIN_PERIOD

    def __init__(self, verbosity: int = 0) -> None:
        self._verbosity = verbosity
        self._names = Names()
        self._latest: dict[str | None, tuple[str, Progress]] = {}

    def on_event(self, event: Event) -> None:
        """Remember progress, say the rest."""
        if isinstance(event, Progress):
            self._latest[event.info_hash] = (self._names.of(event), event)
            return
        news = self._names.learn(event)
        if isinstance(event, events.Stopped | events.Failed):
            self._latest.pop(event.info_hash, None)
        verbosity = self._verbosity
        if isinstance(event, events.TrackerAnswer) and self._names.turned(event):
            verbosity = max(verbosity, 1)
        if news and (line := notice(event, self._names.of(event), verbosity)):
            self.say(line)

    def on_tick(self) -> None:
        """Say how far each torrent is."""
        if len(self._latest) > PLAIN_TORRENTS:
            self.say(summary([progress for _, progress in self._latest.values()]))
            return
        for name, progress in self._latest.values():
            self.say(display(words.progress_line(name, progress), limit=NOTICE_CHARACTERS))

    def say(self, text: str) -> None:
        """A line on standard error."""
        output.tell(text)

    def close(self) -> None:
        """Nothing is left behind by plain lines."""

    def leave(self) -> None:
        """Nothing is left behind by plain lines."""


class JsonLines:
    """Every event as one line of JSON on standard output."""

    period: float | None = None

    def on_event(self, event: Event) -> None:
        """Print it; an error on standard error as well."""
        output.answer_json(rounded(event))
        if isinstance(event, events.Failed):
            output.tell(f"btor: {event.message}")

    def on_tick(self) -> None:
        """Nothing happens by itself: progress is an event."""

    def say(self, text: str) -> None:
        """A line on standard error: logs are not JSON."""
        output.tell(text)

    def close(self) -> None:
        """Nothing is left behind by lines."""

    def leave(self) -> None:
        """Nothing is left behind by lines."""


class Quiet:
    """Says nothing but errors and what is said through ``say``."""

    period: float | None = None

    def on_event(self, event: Event) -> None:
        """Say errors."""
        if isinstance(event, events.Failed):
            output.tell(f"btor: {event.message}")

    def on_tick(self) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """A line on standard error."""
        output.tell(text)

    def close(self) -> None:
        """Nothing."""

    def leave(self) -> None:
        """Nothing."""


def rounded(event: Event) -> dict[str, object]:
    """``event`` as JSON prints it: times to the millisecond, rates to the byte."""
    line = event.as_json()
    for key, value in line.items():
        if isinstance(value, float):
            line[key] = round(value) if key.endswith("_rate") else round(value, 3)
    return line


def summary(torrents: list[Progress]) -> str:
    """Several torrents in one line."""
    done = sum(1 for progress in torrents if progress.done_bytes >= progress.total_bytes > 0)
    parts = [
        words.count(len(torrents), "torrent"),
        f"{done} complete",
        f"{words.rate(sum(progress.down_rate for progress in torrents))} down",
        f"{words.rate(sum(progress.up_rate for progress in torrents))} up",
        words.count(sum(progress.peers for progress in torrents), "peer"),
    ]
    return ", ".join(parts)


def reporter_for(voice: Voice) -> Reporter:
    """The one that fits what was asked for and where standard error goes."""
    import os
    import sys

    if voice.json:
        return JsonLines()
    if voice.quiet:
        return Quiet()
    stream = sys.stderr
    if stream is not None and stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb"):
        from btor.cli.view import LiveView

        return LiveView(stream, voice.verbosity)
    return PlainLines(voice.verbosity)


def now() -> float:
    """Unix time, for events that the command line makes itself."""
    return time.time()
