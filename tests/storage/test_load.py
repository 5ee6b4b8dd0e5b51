"""Loading torrent files."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from btor import limits
from btor.errors import MetainfoError, StorageError
from btor.storage.create import create_torrent
from btor.storage.load import load_metainfo


def test_a_torrent_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"x" * 10)
    (tmp_path / "t").write_bytes(create_torrent(tmp_path / "name"))
    assert load_metainfo(tmp_path / "t").name == "name"
    assert load_metainfo(str(tmp_path / "t")).total_length == 10


@pytest.mark.parametrize(("name", "code"), [("none", errno.ENOENT), (".", errno.EISDIR)])
def test_what_cannot_be_read(tmp_path: Path, name: str, code: int) -> None:
    with pytest.raises(StorageError) as caught:
        load_metainfo(tmp_path / name)
    assert caught.value.errno == code


def test_no_torrent(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"hello")
    with pytest.raises(MetainfoError):
        load_metainfo(tmp_path / "t")


@pytest.mark.parametrize(("extra", "too_big"), [(0, False), (1, True)])
def test_T4_the_size_of_a_torrent_file_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: int, too_big: bool
) -> None:
    (tmp_path / "name").write_bytes(b"x" * 10)
    data = create_torrent(tmp_path / "name")
    monkeypatch.setattr(limits, "TORRENT_FILE_SIZE", len(data))
    (tmp_path / "t").write_bytes(data + b"\n" * extra)
    if too_big:
        with pytest.raises(MetainfoError, match="more than"):
            load_metainfo(tmp_path / "t")
    else:
        load_metainfo(tmp_path / "t")
