"""Verifying content against its torrent."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from btor.errors import StorageError
from btor.metainfo.bitfield import Bitfield
from btor.storage.survey import survey
from btor.storage.verify import verify
from tests.storage.torrents import File, good_pieces, open_content, put, random_bytes, stream, torrent

FILES: list[File] = [("a", 40_000), ("empty", 0), ("d/b", 5), ("", 8_000), ("d/c", 70_000), ("z", 20_000)]
DATA = stream(FILES)
METAINFO = torrent(FILES, content=DATA)
NAMES = ["a", "empty", "d/b", "d/c", "z"]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    content = open_content(METAINFO, tmp_path / "content")
    content.prepare()
    put(content, DATA)
    content.close()
    return content.top


def statuses(path: Path) -> list[str]:
    verification = verify(METAINFO, path)
    assert [name for name, _ in verification.files] == ["content/" + name for name in NAMES]
    assert set(verification.have) == good_pieces(METAINFO, path)
    assert verification.bad_pieces == tuple(verification.have.missing())
    assert verification.complete == all(status == "ok" for _, status in verification.files)
    return [status for _, status in verification.files]


@pytest.mark.parametrize("processes", [None, 0, 1, 2])
def test_everything_there(top: Path, processes: int | None) -> None:
    told: list[tuple[int, int]] = []
    verification = verify(
        METAINFO, top.parent, processes=processes, progress=lambda done, whole: told.append((done, whole))
    )
    count = METAINFO.geometry.piece_count
    assert verification.complete
    assert verification.have == Bitfield.full(count)
    assert verification.bad_pieces == ()
    assert told == [(done, count) for done in range(1, count + 1)]


def test_a_missing_file(top: Path) -> None:
    (top / "d/c").unlink()
    assert statuses(top) == ["bad", "ok", "bad", "missing", "bad"]


def test_a_missing_empty_file(top: Path) -> None:
    (top / "empty").unlink()
    verification = verify(METAINFO, top)
    assert verification.have.complete
    assert not verification.complete
    assert dict(verification.files)["content/empty"] == "missing"


def test_a_short_file_and_a_long_one(top: Path) -> None:
    os.truncate(top / "z", 19_999)
    with open(top / "a", "ab") as file:
        file.write(b"x")
    assert statuses(top) == ["long", "ok", "ok", "ok", "short"]


def test_a_flipped_byte(top: Path) -> None:
    data = bytearray((top / "d/c").read_bytes())
    data[35_000] ^= 1
    (top / "d/c").write_bytes(data)
    assert statuses(top) == ["ok", "ok", "ok", "bad", "ok"]


def test_nothing_is_written(top: Path) -> None:
    (top / "d/c").unlink()
    before = sorted((path, path.stat().st_mtime_ns) for path in top.rglob("*"))
    statuses(top)
    assert sorted((path, path.stat().st_mtime_ns) for path in top.rglob("*")) == before


def test_links_are_followed(top: Path, tmp_path: Path) -> None:
    (top / "d").rename(tmp_path / "moved")
    (top / "d").symlink_to(tmp_path / "moved")
    (tmp_path / "alias").symlink_to(top)
    assert statuses(tmp_path / "alias") == ["ok"] * 5


def test_a_single_file_under_another_name(tmp_path: Path) -> None:
    data = random_bytes(50_000)
    (tmp_path / "other").write_bytes(data)
    assert verify(torrent(content=data), tmp_path / "other").files == (("content", "ok"),)
    assert verify(torrent(content=data), tmp_path).files == (("content", "missing"),)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        verify(METAINFO, tmp_path / "nothing")
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_F2_what_cannot_be_read_is_an_error(top: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    real = os.open

    def refuse(path: str | bytes, *args: int) -> int:
        if os.fsencode(path).endswith(b"d/c"):
            raise OSError(code, os.strerror(code))
        return real(path, *args)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError) as caught:
        verify(METAINFO, top, processes=0)
    assert (caught.value.operation, caught.value.path, caught.value.errno) == ("read", str(top / "d/c"), code)


@pytest.mark.parametrize("there", ["placeholder", "link", "nothing"])
def test_T8_a_link_of_the_torrent_is_content_of_nobody(tmp_path: Path, there: str) -> None:
    first, *others = METAINFO.files
    link = replace(METAINFO.files[1], symlink=first.path)
    metainfo = replace(METAINFO, files=(first, link, *others[1:]))
    content = open_content(metainfo, tmp_path / "content")
    put(content, DATA)
    if there == "placeholder":
        content.prepare()
        content.prepare(shorten=True)
        assert (content.top / "empty").read_bytes() == b""
        assert not (content.top / "empty").is_symlink()
    elif there == "link":
        (content.top / "empty").symlink_to("a")
        content.prepare(shorten=True)
    content.close()
    expected = "missing" if there == "nothing" else "ok"
    assert [status for _, status in verify(metainfo, content.top).files] == ["ok", expected, "ok", "ok", "ok"]
    found = survey(content, None)
    assert (found.longer, found.strangers) == ((), (0, 2, 4, 5))
    assert (content.top / "a").stat().st_size == 40_000
