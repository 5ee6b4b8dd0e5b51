"""Stand-ins for the engine: a session whose torrents do what a test tells them."""

from __future__ import annotations

from typing import Any

from btor.engine.events import Progress

INFO_HASH = "0123456789abcdef0123456789abcdef01234567"


def progress(**changes: Any) -> Progress:
    """A torrent of 4 MB in 100 pieces, a quarter of it there."""
    fields: dict[str, Any] = {
        "time": 1.0,
        "info_hash": INFO_HASH,
        "state": "downloading",
        "done_bytes": 1_000_000,
        "total_bytes": 4_000_000,
        "have_pieces": 25,
        "pieces": 100,
        "down_rate": 1e6,
        "up_rate": 2e3,
        "downloaded": 1_000_000,
        "uploaded": 7_000,
        "wasted": 0,
        "peers": 3,
        "seeds": 1,
        "eta": 3.0,
    }
    return Progress(**(fields | changes))
