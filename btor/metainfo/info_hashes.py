"""What a torrent is known by."""

from __future__ import annotations

from typing import NamedTuple

V2_ONLY = "v2-only torrents are not supported yet"


class InfoHashes(NamedTuple):
    """The identity of a torrent: ``v1`` the SHA-1 (20 bytes, BEP 3), ``v2`` the SHA-256 (32 bytes, BEP 52) of its info.

    At least one is there; a hybrid has both.
    """

    v1: bytes | None
    v2: bytes | None
