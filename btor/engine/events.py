"""What a session tells: one immutable object per happening, each also a line of JSON (docs/interface.md)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

State = Literal["metadata", "checking", "downloading", "waiting", "seeding", "disk_full", "paused", "stopped", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base. ``time`` is Unix seconds; ``info_hash`` 40 hex digits, or None when it is about no torrent."""

    event: ClassVar[str] = ""
    time: float
    info_hash: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints: ``event`` first, then the fields; ``info_hash`` only if there is one."""
        line: dict[str, Any] = {"event": self.event}
        for field in dataclasses.fields(self):
            line[field.name.rstrip("_")] = getattr(self, field.name)
        if self.info_hash is None:
            del line["info_hash"]
        return line


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The torrent is known and its port open. Lengths in bytes."""

    event: ClassVar[str] = "started"
    name: str
    total_bytes: int
    piece_length: int
    pieces: int
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataArrived(Event):
    """For magnets: the info dictionary is there. Before, the torrent has neither size nor pieces."""

    event: ClassVar[str] = "metadata"
    name: str
    total_bytes: int
    piece_length: int
    pieces: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked(Event):
    """What was on disk is known. ``from``: the resume record, hashing, or nothing was there."""

    event: ClassVar[str] = "checked"
    have_pieces: int
    pieces: int
    seconds: float
    from_: Literal["resume", "hash", "nothing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerAnswer(Event):
    """An announce ended. ``message``: the failure reason or warning, display-safe, or empty."""

    event: ClassVar[str] = "tracker"
    url: str
    ok: bool
    peers: int
    seeders: int | None
    leechers: int | None
    interval: float | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerChange(Event):
    """A peer came, went or was barred. ``client`` is display-safe."""

    event: ClassVar[str] = "peer"
    address: str
    client: str
    change: Literal["connected", "disconnected", "banned"]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """Each second. Rates in bytes/s, ``eta`` in s or None; ``reason`` says why it waits, in words, or is empty."""

    event: ClassVar[str] = "progress"
    state: State
    done_bytes: int
    total_bytes: int
    have_pieces: int
    pieces: int
    down_rate: float
    up_rate: float
    downloaded: int
    uploaded: int
    wasted: int
    peers: int
    seeds: int
    eta: float | None
    reason: str = ""
    checked_pieces: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceFailed(Event):
    """A piece did not match its hash. ``peers``: who sent its blocks."""

    event: ClassVar[str] = "piece_failed"
    piece: int
    peers: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFull(Event):
    """No space left; the torrent only uploads until there is."""

    event: ClassVar[str] = "disk_full"
    path: str
    needed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete(Event):
    """Everything is there and verified. ``seconds`` since the torrent was added."""

    event: ClassVar[str] = "complete"
    seconds: float
    downloaded: int
    uploaded: int
    wasted: int
    hash_failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeding(Event):
    """First when the check is done and the port open, then every 10 s."""

    event: ClassVar[str] = "seeding"
    port: int
    uploaded: int
    peers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The torrent or the command ended with an error. ``code`` is the exit status."""

    event: ClassVar[str] = "error"
    code: int
    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Event):
    """Something the person should know that ends nothing, such as a file that changed since the last run."""

    event: ClassVar[str] = "warning"
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Event):
    """The torrent is no longer active."""

    event: ClassVar[str] = "stopped"
    reason: str
    downloaded: int
    uploaded: int
