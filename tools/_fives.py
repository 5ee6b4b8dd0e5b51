"""Torrents whose content is one byte over and over: as large as one likes, made at once, hashed once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import bencodepy

FILLER = b"5"  # not zero: a hole in a file must not pass for content
MIB = 1024 * 1024


def write_fives(root: Path, piece_length: int, pieces: int, there: int) -> tuple[Path, str]:
    """``fives.torrent`` in ``root`` and its info-hash in hex; ``root/here/fives`` has the first ``there`` pieces."""
    info = {
        b"name": b"fives",
        b"length": piece_length * pieces,
        b"piece length": piece_length,
        b"pieces": hashlib.sha1(FILLER * piece_length).digest() * pieces,
    }
    torrent = root / "fives.torrent"
    torrent.write_bytes(bencodepy.encode({b"info": info}))
    (root / "here").mkdir()
    with (root / "here" / "fives").open("wb") as file:
        for _ in range(there):
            file.write(FILLER * piece_length)
        file.truncate(piece_length * pieces)
    return torrent, hashlib.sha1(bencodepy.encode(info)).hexdigest()
