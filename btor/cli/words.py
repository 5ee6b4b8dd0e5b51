"""Numbers in words, as short as a person reads them. Powers of 1000, as in the options."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from btor.engine.events import Progress

_PREFIXES = ("B", "KB", "MB", "GB", "TB", "PB")
_DAY = 86_400


def size(count: float) -> str:
    """Bytes with three digits: ``999 B``, ``1.23 MB``, ``45.6 GB``; at most seven characters."""
    value = float(max(count, 0))
    for prefix in _PREFIXES:
        if value < 999.5 or prefix == _PREFIXES[-1]:
            break
        value /= 1000
    if prefix == "B":
        return f"{value:.0f} B"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {prefix}"


def rate(bytes_per_second: float) -> str:
    """``5.20 MB/s``; at most nine characters."""
    return f"{size(bytes_per_second)}/s"


def duration(seconds: float) -> str:
    """``0:07``, ``3:10``, ``1:02:03``, ``12 d``; at most eight characters up to three years."""
    whole = round(seconds)
    if whole >= 4 * _DAY:
        return f"{whole // _DAY} d"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(part: int, whole: int) -> str:
    """``42.3 %``, rounded down, so that only what is complete reads ``100.0 %``."""
    thousandths = part * 1000 // whole if whole else 1000
    return f"{thousandths // 10}.{thousandths % 10} %"


def count(number: int, noun: str) -> str:
    """``1 peer``, ``1,200 peers``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def waiting(progress: Progress) -> str:
    """What a torrent does instead of downloading or seeding, and why; empty while bytes are what it is about.

    Of one that seeds: why nobody comes.
    """
    match progress.state:
        case "checking":
            return f"checking {progress.checked_pieces * 100 // max(progress.pieces, 1)} %"
        case "downloading":
            return ""
        case "seeding":
            return progress.reason
        case "disk_full":
            return progress.reason or "the disk is full"
        case "waiting":
            return progress.reason or "waiting for peers"
        case other:
            return join(other, progress.reason)


def join(first: str, second: str) -> str:
    """Both with a colon between them, or the one that is there."""
    return f"{first}: {second}" if first and second else first or second


def progress_line(name: str, progress: Progress) -> str:
    """One torrent's state as a line of plain text."""
    if progress.state in ("checking", "metadata"):
        return f"{name}: {waiting(progress)}"
    down, up = f"{rate(progress.down_rate)} down", f"{rate(progress.up_rate)} up"
    if progress.state == "seeding":
        parts = ["seeding", up, f"{size(progress.uploaded)} in all"]
    else:
        parts = [f"{percent(progress.done_bytes, progress.total_bytes)} of {size(progress.total_bytes)}", down, up]
    why = waiting(progress) or progress.reason
    if not names_peers(progress):
        parts.append(count(progress.peers, "peer"))
    if progress.eta is not None and progress.state != "seeding":
        parts.append(f"eta {duration(progress.eta)}")
    if why:
        parts.append(why)
    return f"{name}: {', '.join(parts)}"


def names_peers(progress: Progress) -> bool:
    """Whether the reason of a torrent that waits says how many peers it has."""
    return count(progress.peers, "peer") in progress.reason.split(", ")
