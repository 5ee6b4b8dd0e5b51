"""How much room is needed, and how much there is."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from btor.errors import StorageError
from btor.storage.space import check_place, free_space, space_needed
from tests.storage.torrents import open_content, put, random_bytes, torrent


def test_space(tmp_path: Path) -> None:
    data = random_bytes(1 << 20)
    content = open_content(torrent(content=data), tmp_path / "not" / "there" / "file")
    assert space_needed(content) == 1 << 20
    assert abs(free_space(content) - shutil.disk_usage(tmp_path).free) < 1 << 28
    put(content, data, 0, 1 << 19)
    assert space_needed(content) <= 1 << 19
    put(content, data)
    assert space_needed(content) == 0
    content.close()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    content = open_content(torrent(content=b"x"), tmp_path / "not" / "there" / "file")
    check_place(content)
    asked: list[str] = []

    def access(path: str, mode: int, *, effective_ids: bool = False) -> bool:
        asked.append(path)
        return mode != os.W_OK

    class Flags:
        f_flag = os.ST_RDONLY if code == errno.EROFS else 0

    monkeypatch.setattr(os, "access", access)
    monkeypatch.setattr(os, "statvfs", lambda _path: Flags)
    with pytest.raises(StorageError) as caught:
        check_place(content)
    assert (caught.value.operation, caught.value.path, caught.value.errno) == ("write", str(tmp_path), code)
    (tmp_path / "not").mkdir()
    with pytest.raises(StorageError, match="not"):
        check_place(content)
    assert asked == [str(tmp_path), str(tmp_path / "not")]
