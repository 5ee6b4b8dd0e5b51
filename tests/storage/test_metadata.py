"""Metadata that is kept: it comes back, only its owner can read it, and a folder that cannot be used is an error."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from btor.storage import metadata
from btor.storage.state import StateError

HASH = bytes(range(20))


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    assert metadata.load(tmp_path, HASH) is None
    metadata.save(tmp_path, HASH, b"one")
    metadata.save(tmp_path, HASH, b"another")
    assert metadata.load(tmp_path, HASH) == b"another"
    assert metadata.load(tmp_path, bytes(20)) is None
    (path,) = (tmp_path / "metadata").iterdir()
    assert path.name == HASH.hex() + ".torrent"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError):
        metadata.save(tmp_path / "file", HASH, b"one")
