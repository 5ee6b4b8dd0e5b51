"""The v1 list of files: what is refused, and what becomes of padding, links and attributes."""

from __future__ import annotations

from typing import Any

import pytest

from btor import limits
from btor.bencode import Value
from btor.errors import MetainfoError
from btor.metainfo.file_list import FileEntry, place_files, read_file_list
from btor.metainfo.raw_file import RawFile
from tests.metainfo.build import ABSENT, entry


def refused(files: Value) -> MetainfoError:
    with pytest.raises(MetainfoError) as caught:
        read_file_list(files)
    return caught.value


@pytest.mark.parametrize("files", [[], {}, b"files", 1, {b"a": 1}])
def test_the_list_must_be_one(files: Value) -> None:
    assert refused(files).field == "files"


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (b"a", "files[1]"),
        ([], "files[1]"),
        (entry(b"a", length=ABSENT), "files[1] length"),
        (entry(b"a", length=b"1"), "files[1] length"),
        (entry(b"a", length=-1), "files[1] length"),
        (entry(b"a", length=limits.TOTAL_LENGTH + 1), "files[1] length"),
        (entry(path=ABSENT), "files[1] path"),
        (entry(path=b"abc"), "files[1] path"),
        (entry(path=[]), "files[1] path"),
        (entry(b"a", path=[b"a", 5]), "files[1] path"),
        (entry(b"a", path=[[b"a"]]), "files[1] path"),
        (entry(*[b"d"] * 101), "files[1] path"),
        (entry(b"l", attr=b"l"), "files[1] symlink path"),
        (entry(b"l", attr=b"l", symlink_path=b"../x"), "files[1] symlink path"),
        (entry(b"l", attr=b"l", symlink_path=[]), "files[1] symlink path"),
        (entry(b"l", attr=b"l", symlink_path=[b"a", 4]), "files[1] symlink path"),
        (entry(b"p", attr=b"p", length=-1), "files[1] length"),
        (entry(attr=b"p", path=[1]), "files[1] path"),
    ],
)
def test_bad_entries(bad: Value, field: str) -> None:
    assert refused([entry(b"ok"), bad]).field == field


def test_bounds() -> None:
    deep = entry(*[b"d"] * limits.PATH_DEPTH, length=limits.TOTAL_LENGTH)
    assert read_file_list([deep]) == [RawFile((b"d",) * limits.PATH_DEPTH, limits.TOTAL_LENGTH)]


def test_file_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("btor.metainfo.file_list.FILE_COUNT", 2)
    assert len(read_file_list([entry(b"a"), entry(b"b")])) == 2
    assert "more than 2" in str(refused([entry(b"a"), entry(b"b"), entry(b"c")]))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (entry(b"a", b"b"), RawFile((b"a", b"b"), 1)),
        (entry(b"a", attr=b"x"), RawFile((b"a",), 1, executable=True)),
        (entry(b"a", attr=b"hz?"), RawFile((b"a",), 1)),
        (entry(b"a", attr=[b"x"]), RawFile((b"a",), 1)),
        (entry(b"a", **{"path.utf-8": [b"b"]}), RawFile((b"b",), 1)),
        (entry(path=ABSENT, **{"path.utf-8": [b"b"]}), RawFile((b"b",), 1)),
        (entry(b"a", **{"path.utf-8": b"b"}), RawFile((b"a",), 1)),
        (entry(b"p", attr=b"p", length=5), RawFile((b"p",), 5, pad=True)),
        (entry(path=ABSENT, attr=b"p", length=5), RawFile((b".pad", b"5"), 5, pad=True)),
        (entry(path=[], attr=b"p", length=5), RawFile((b".pad", b"5"), 5, pad=True)),
        (entry(b"_____padding_file_7_if", length=5), RawFile((b"_____padding_file_7_if",), 5, pad=True)),
        (entry(b"l", attr=b"xl", symlink_path=[b"t"]), RawFile((b"l",), 0, False, True, (b"t",))),
        (entry(b"l", attr=b"l", length=ABSENT, symlink_path=[b"t"]), RawFile((b"l",), 0, target=(b"t",))),
        (entry(b"l", symlink_path=[b"t"]), RawFile((b"l",), 1)),
    ],
)
def test_entries(written: dict[bytes, Value], read: RawFile) -> None:
    assert read_file_list([written]) == [read]


def placed(**changes: Any) -> FileEntry:
    return FileEntry(**{"path": ("root", "a"), "length": 1, "offset": 0, **changes})


def test_files_follow_each_other() -> None:
    raw = [
        RawFile((b"a",), 1, executable=True),
        RawFile((b"..", b"pad"), 9, pad=True),
        RawFile((b"a",), 0),
        RawFile((b"..", b"pad"), 9, pad=True),
        RawFile((b"l",), 0, target=(b"a",)),
        RawFile((b"m",), 0, target=(b"pad",)),
        RawFile((b"a",), 5),
    ]
    assert place_files("root", raw) == (
        placed(executable=True),
        placed(path=("root", "_", "pad"), length=9, offset=1, pad=True),
        placed(path=("root", "a.1"), length=0, offset=10, raw_path=(b"a",)),
        placed(path=("root", "_", "pad"), length=9, offset=10, pad=True),
        placed(path=("root", "l"), length=0, offset=19, symlink=("root", "a")),
        placed(path=("root", "m"), length=0, offset=19, symlink=()),
        placed(path=("root", "a.2"), length=5, offset=19, raw_path=(b"a",)),
    )


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ((b"d", b"a"), False),
        (("dü".encode(), b"a"), False),
        ((b"d", b"CON"), True),
        ((b"d\\", b"a"), True),
        ((b"\xff",), True),
        ((b"a\n",), True),
        ((b"",), False),
        ((b"d", b"."), False),
        ((b"..", b"a"), False),
        ((b"a/b",), False),
        ((b"a\0",), False),
    ],
)
def test_what_the_torrent_writes_is_kept_where_a_file_could_have_that_name(
    path: tuple[bytes, ...], kept: bool, pad: bool
) -> None:
    (entry,) = place_files("root", [RawFile(path, 1, pad=pad)])
    assert entry.raw_path == (path if kept and not pad else None)
