"""Where the content of a person is, and under which names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from btor import bencode
from btor.errors import StorageError
from btor.metainfo.file_list import FileEntry
from btor.metainfo.torrent_file import Metainfo, parse_torrent
from btor.storage import own
from btor.storage.create import create_torrent
from btor.storage.own import locate, open_own
from btor.storage.pool import FilePool
from btor.storage.verify import verify
from tests.storage.torrents import File, open_content, put, stream, torrent

FILES: list[File] = [("a", 20_000), ("d/b", 50_000)]
DATA = stream(FILES)


def test_locate_a_single_file(tmp_path: Path) -> None:
    metainfo = torrent(content=b"x" * 100, name="name")
    (tmp_path / "name").write_bytes(b"x" * 100)
    (tmp_path / "other").write_bytes(b"x")
    assert locate(metainfo, tmp_path) == tmp_path / "name"
    assert locate(metainfo, tmp_path / "other") == tmp_path / "other"
    with pytest.raises(StorageError, match="No such file"):
        locate(metainfo, tmp_path / "none")


@pytest.mark.parametrize("place", ["content", "renamed", "content/content", "."])
def test_locate_a_folder(tmp_path: Path, place: str) -> None:
    top = tmp_path / place
    content = open_content(torrent(FILES, content=DATA), top)
    content.prepare()
    put(content, DATA)
    content.close()
    assert locate(content.metainfo, top) == top
    if place.endswith("content"):
        assert locate(content.metainfo, top.parent) == top


def test_locate_prefers_the_path_itself(tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    assert locate(torrent(FILES, content=DATA), tmp_path) == tmp_path


# --- names that btor changes ---------------------------------------------------------------------------------------

ODD = ["a", "A", "back\\slash", "new\nline", "CON", "_CON", "dots...", "D/f", "d/g", "d.1"]
ODD += ["zero\u200bwidth", "q\\r/NUL"]
NAMES = ["content", "fol\\der", "NUL", "\u202econtent", "C\n"]


def make(top: Path, names: list[str]) -> Metainfo:
    """Files of one length each, so that only their bytes tell them apart, and their torrent."""
    for number, name in enumerate(names):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content {number:04}".encode())
    return parse_torrent(create_torrent(top))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given", ["itself", "its folder"])
def test_what_one_has_made_a_torrent_of_is_found(tmp_path: Path, name: str, given: str) -> None:
    metainfo = make(tmp_path / name, ODD)
    assert any(entry.raw_path is not None for entry in metainfo.files)
    found = verify(metainfo, tmp_path / name if given == "itself" else tmp_path)
    assert found.complete
    assert [path for path, _ in found.files] == ["/".join(entry.path) for entry in metainfo.files]


@pytest.mark.parametrize("name", NAMES)
def test_one_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x" * 100)
    metainfo = parse_torrent(create_torrent(tmp_path / name))
    assert verify(metainfo, tmp_path).complete
    assert verify(metainfo, tmp_path / name).complete


@pytest.mark.parametrize("name", NAMES)
def test_what_btor_has_downloaded_is_found(tmp_path: Path, name: str) -> None:
    """There one file's changed name may be another's own."""
    metainfo = make(tmp_path / "made" / name, ODD)
    content = open_content(metainfo, tmp_path / metainfo.name)
    top = tmp_path / "made" / name
    data = b"".join(top.joinpath(*map(os.fsdecode, raw(entry))).read_bytes() for entry in metainfo.files)
    put(content, data)
    content.close()
    assert verify(metainfo, tmp_path).complete
    assert verify(metainfo, tmp_path / metainfo.name).complete


def raw(entry: FileEntry) -> tuple[bytes, ...]:
    return entry.raw_path or tuple(map(os.fsencode, entry.path[1:]))


def test_of_files_of_which_some_are_gone_those_that_are_there_are_found(tmp_path: Path) -> None:
    top = tmp_path / "content"
    metainfo = make(top, ODD)
    for number, entry in enumerate(metainfo.files):
        if number % 2:
            top.joinpath(*map(os.fsdecode, raw(entry))).unlink()
    found = verify(metainfo, top)
    assert [status for _, status in found.files] == ["missing" if number % 2 else "bad" for number in range(len(ODD))]


def test_both_ways_of_naming_in_one_folder(tmp_path: Path) -> None:
    top = tmp_path / "content"
    metainfo = make(top, ["CON", "NUL", "x\\y"])
    (top / "NUL").rename(top / "_NUL")
    assert verify(metainfo, top).complete


@pytest.mark.parametrize("element", [b"..", b".", b"", b"a/../../secret", b"/etc/passwd", b"a\0b"])
@pytest.mark.parametrize("where", ["first", "last"])
def test_T7_no_name_leads_out_of_the_folder(tmp_path: Path, element: bytes, where: str) -> None:
    info: dict[bytes, bencode.Value] = {b"name": element, b"piece length": 16384, b"pieces": bytes(20)}
    path: list[bencode.Value] = [element, b"secret"] if where == "first" else [b"d", element]
    metainfo = parse_torrent(bencode.encode({b"info": {**info, b"files": [{b"length": 5, b"path": path}]}}))
    assert metainfo.raw_name is None
    assert metainfo.files[0].raw_path is None
    (tmp_path / "top" / "d").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"12345")
    content = open_own(metainfo, tmp_path / "top", FilePool())
    assert Path(content.path(0)).is_relative_to(tmp_path / "top")


def test_where_names_can_lead_elsewhere_only_changed_ones_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "ANY_NAME", False)
    metainfo = make(tmp_path / "fol\\der", ["CON"])
    assert not verify(metainfo, tmp_path / "fol\\der").complete
    with pytest.raises(StorageError):
        open_own(metainfo, tmp_path / "none", FilePool())
