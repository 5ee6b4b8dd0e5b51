"""Metadata that came from peers, kept so that the next run of the same magnet needs none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from btor import limits
from btor.storage.state import private_folder, read_private, replace_private

FOLDER: Final = "metadata"


def save(state_dir: Path, info_hash: bytes, torrent: bytes) -> None:
    """Keep ``torrent``, the torrent file made of what came. StateError."""
    path = _path(state_dir, info_hash)
    replace_private(path, torrent, previous=path + ".old", keep_previous=False)


def load(state_dir: Path, info_hash: bytes) -> bytes | None:
    """What was kept, None if nothing was; whether it is still the torrent's is not checked here. StateError."""
    return read_private(_path(state_dir, info_hash), limits.TORRENT_FILE_SIZE)


def _path(state_dir: Path, info_hash: bytes) -> str:
    return os.path.join(private_folder(state_dir, FOLDER), f"{info_hash.hex()}.torrent")
