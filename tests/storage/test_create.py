"""Making torrents, beside libtorrent."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from btor import bencode, limits
from btor.errors import MetainfoError, StorageError, UsageError
from btor.limits import KIB, MIB
from btor.metainfo.torrent_file import parse_torrent
from btor.storage.create import automatic_piece_length, create_torrent
from btor.storage.side import side_name
from btor.storage.verify import verify
from tests.storage.torrents import random_bytes

libtorrent: Any = pytest.importorskip("libtorrent")


def info_of(data: bytes) -> dict[bytes, Any]:
    torrent = bencode.decode(data, depth=10, tokens=100_000)
    assert isinstance(torrent, dict)
    info = torrent[b"info"]
    assert isinstance(info, dict)
    return info


def plant(top: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)


def libtorrents(top: Path, order: list[str] | None, piece_length: int) -> bytes:
    """The info dictionary that libtorrent makes of ``top``; ``order``: of its files, None for a single file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        storage = libtorrent.file_storage()
        for name in [top.name] if order is None else [f"{top.name}/{name}" for name in order]:
            found = (top.parent / name).stat()
            executable = libtorrent.file_flags_t.flag_executable if found.st_mode & 0o100 else 0
            storage.add_file(name, found.st_size, executable, 0, "")
        made = libtorrent.create_torrent(storage, piece_size=piece_length, flags=libtorrent.create_torrent.v1_only)
        libtorrent.set_piece_hashes(made, str(top.parent))
        return bencode.encode(made.generate()[b"info"])


FILES = {
    "b": random_bytes(30_000, 1),
    "a.txt": random_bytes(70_000, 2),
    "empty": b"",
    ".hidden": random_bytes(16_384, 3),
    "ä/ö": random_bytes(1, 4),
    "a/z": random_bytes(100_000, 5),
    "Z": random_bytes(5, 6),
}
ORDER = [".hidden", "Z", "a/z", "a.txt", "b", "empty", "ä/ö"]


@pytest.mark.parametrize("piece_length", [None, 16 * KIB, 64 * KIB, MIB])
def test_a_folder_has_libtorrents_info_hash(tmp_path: Path, piece_length: int | None) -> None:
    top = tmp_path / "some nâme"
    plant(top, FILES)
    os.chmod(top / "b", 0o755)
    made = create_torrent(top, piece_length=piece_length)
    assert bencode.encode(info_of(made)) == libtorrents(top, ORDER, piece_length or 0)
    assert verify(parse_torrent(made), top).complete


@pytest.mark.parametrize("length", [1, 16_383, 16_384, 16_385, 300_000])
@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_a_file_has_libtorrents_info_hash(tmp_path: Path, length: int, mode: int) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(random_bytes(length))
    path.chmod(mode)
    made = create_torrent(path)
    assert bencode.encode(info_of(made)) == libtorrents(path, None, 0)


def test_a_folder_with_one_file_stays_a_folder(tmp_path: Path) -> None:
    plant(tmp_path / "top", {"only": b"x" * 100})
    made = create_torrent(tmp_path / "top")
    assert bencode.encode(info_of(made)) == libtorrents(tmp_path / "top", ["only"], 0)


@pytest.mark.parametrize("power", range(12))
@pytest.mark.parametrize("beyond", [0, 1])
def test_piece_lengths_are_libtorrents(power: int, beyond: int) -> None:
    """Its steps, on each bound and one byte over it, up to 16 MiB."""
    total = (2**28 * 4**power + 50) // 100 + beyond
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        storage = libtorrent.file_storage()
        storage.add_file("f", total)
        theirs = libtorrent.create_torrent(storage, flags=libtorrent.create_torrent.v1_only).piece_length()
    assert automatic_piece_length(total) == min(theirs, 16 * MIB)


def test_piece_lengths_keep_within_the_number_of_pieces() -> None:
    assert automatic_piece_length(limits.PIECE_COUNT * 16 * MIB) == 16 * MIB
    assert automatic_piece_length(limits.PIECE_COUNT * 16 * MIB + 1) == 32 * MIB
    assert -(-limits.TOTAL_LENGTH // automatic_piece_length(limits.TOTAL_LENGTH)) <= limits.PIECE_COUNT


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_progress_and_processes(tmp_path: Path, processes: int) -> None:
    plant(tmp_path / "top", FILES)
    told: list[tuple[int, int]] = []
    made = create_torrent(
        tmp_path / "top", processes=processes, progress=lambda done, whole: told.append((done, whole))
    )
    whole = b"".join(FILES[name] for name in ORDER)
    count = -(-len(whole) // 16_384)
    assert info_of(made)[b"pieces"] == b"".join(
        hashlib.sha1(whole[at : at + 16_384]).digest() for at in range(0, len(whole), 16_384)
    )
    assert told == [(done, count) for done in range(1, count + 1)]


def test_every_option_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    made = create_torrent(
        str(path),
        trackers=[["http://a.example/announce", "udp://b.example:80"], [], ["https://c.example/x?y=z"]],
        web_seeds=["http://seed.example/f"],
        private=True,
        source="SRC",
        comment="hällo",
        date=1_700_000_000,
        piece_length=MIB,
    )
    metainfo = parse_torrent(made)
    assert metainfo.trackers == (
        ("http://a.example/announce", "udp://b.example:80"),
        ("https://c.example/x?y=z",),
    )
    assert metainfo.web_seeds == ("http://seed.example/f",)
    assert metainfo.private
    assert (metainfo.source, metainfo.comment, metainfo.creation_date) == ("SRC", "hällo", 1_700_000_000)
    assert metainfo.geometry.piece_length == MIB
    assert metainfo.created_by is not None
    assert metainfo.created_by.startswith("btor ")
    assert bencode.decode(made, depth=10, tokens=100)[b"announce"] == b"http://a.example/announce"  # type: ignore[index, call-overload]  # a dictionary


def test_nothing_that_was_not_asked_for_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    torrent = bencode.decode(create_torrent(path), depth=10, tokens=100)
    assert isinstance(torrent, dict)
    assert sorted(torrent) == [b"created by", b"info"]
    assert sorted(info_of(create_torrent(path))) == [b"length", b"name", b"piece length", b"pieces"]
    one = bencode.decode(create_torrent(path, trackers=[["http://a.example/"]]), depth=10, tokens=100)
    assert isinstance(one, dict)
    assert sorted(one) == [b"announce", b"created by", b"info"]


def test_the_same_folder_gives_the_same_torrent(tmp_path: Path) -> None:
    plant(tmp_path / "one/top", FILES)
    plant(tmp_path / "two/top", dict(reversed(FILES.items())))
    assert create_torrent(tmp_path / "one/top") == create_torrent(tmp_path / "two/top")


def test_what_btor_keeps_aside_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    for name in ("a", ".btor-x.parts"):
        (tmp_path / "content" / name).write_bytes(b"x")
    whole = create_torrent(tmp_path / "content")
    (tmp_path / "content" / side_name(bytes(20))).write_bytes(b"aside")
    assert create_torrent(tmp_path / "content") == whole
    assert [file.path[-1] for file in parse_torrent(whole).files] == [".btor-x.parts", "a"]


def test_one_file_may_be_left_out(tmp_path: Path) -> None:
    plant(tmp_path / "content", {"a": b"1", "d/b": b"2"})
    plant(tmp_path, {"other": b"3"})
    whole = create_torrent(tmp_path / "content")
    for path in ("other", "content/none", "content", "content/a/none"):
        assert create_torrent(tmp_path / "content", leave_out=tmp_path / path) == whole
    (tmp_path / "link").symlink_to(tmp_path / "content" / "d" / "b")
    for name in ("content/d/b", "link"):
        made = parse_torrent(create_torrent(tmp_path / "content", leave_out=tmp_path / name))
        assert [entry.path for entry in made.files] == [("content", "a")]
    with pytest.raises(UsageError, match="cannot take its place"):
        create_torrent(tmp_path / "content" / "a", leave_out=tmp_path / "content" / "a")


def test_T4_many_files_take_little_memory(tmp_path: Path) -> None:
    """Less than 1 KiB a file, encoding included."""
    plant(tmp_path, {f"d/{number}": b"x" for number in range(3_000)})
    create_torrent(tmp_path)
    tracemalloc.start()
    try:
        create_torrent(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3_000 * 1_024 + MIB


def test_a_relative_path_has_the_folders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path / "top", FILES)
    monkeypatch.chdir(tmp_path / "top")
    assert info_of(create_torrent("."))[b"name"] == b"top"


# --- refusals ----------------------------------------------------------------------------------------------------


def refused(path: Path, **options: Any) -> StorageError:
    with pytest.raises(StorageError) as caught:
        create_torrent(path, **options)
    return caught.value


def test_T6_nothing_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    plant(tmp_path / "empties", {"a": b"", "b/c": b""})
    for name in ("empty", "folder", "empties"):
        assert "not one byte of content" in str(refused(tmp_path / name))


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    error = refused(tmp_path / "none")
    assert (error.path, error.errno) == (str(tmp_path / "none"), errno.ENOENT)


def test_the_root_has_no_name() -> None:
    with pytest.raises(UsageError, match="no name"):
        create_torrent("/")


@pytest.mark.parametrize("target", ["file", "folder", "nowhere"])
def test_a_link_inside_is_named(tmp_path: Path, target: str) -> None:
    plant(tmp_path / "top", {"file": b"x", "folder/y": b"y"})
    (tmp_path / "top/link").symlink_to(target)
    error = refused(tmp_path / "top")
    assert error.path == str(tmp_path / "top/link")
    assert "symbolic link" in error.reason


def test_a_link_given_by_the_user_is_followed(tmp_path: Path) -> None:
    plant(tmp_path / "top", {"file": b"x"})
    (tmp_path / "alias").symlink_to("top")
    (tmp_path / "file").symlink_to("top/file")
    assert info_of(create_torrent(tmp_path / "alias"))[b"name"] == b"alias"
    assert info_of(create_torrent(tmp_path / "file"))[b"length"] == 1
    (tmp_path / "broken").symlink_to("nowhere")
    assert refused(tmp_path / "broken").errno == errno.ENOENT


def test_neither_file_nor_folder(tmp_path: Path) -> None:
    plant(tmp_path / "top", {"file": b"x"})
    os.mkfifo(tmp_path / "top/fifo")
    assert refused(tmp_path / "top").path == str(tmp_path / "top/fifo")


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system has no such names")
@pytest.mark.parametrize("name", [b"caf\xe9", b"caf\xe9/inside"])
def test_a_name_that_is_not_utf8(tmp_path: Path, name: bytes) -> None:
    plant(tmp_path / "top", {os.fsdecode(name): b"x", "fine": b"y"})
    error = refused(tmp_path / "top")
    assert "UTF-8" in error.reason
    assert error.path == str(tmp_path / "top") + "/caf\\xe9"
    error = refused(tmp_path / "top" / os.fsdecode(b"caf\xe9"))
    assert "UTF-8" in error.reason


@pytest.mark.parametrize(("name", "inside"), [("file", False), ("folder", True)])
def test_F2_an_unreadable_place_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, inside: bool
) -> None:
    plant(tmp_path / "top", {"file": b"x" * 20_000, "folder/y": b"y"})
    place = str(tmp_path / "top" / name)

    def denied(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: str | bytes, *args: Any, **options: Any) -> Any:
            if os.fsdecode(path) == place:
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(path, *args, **options)

        return call

    monkeypatch.setattr(os, "listdir" if inside else "open", denied(os.listdir if inside else os.open))
    error = refused(tmp_path / "top", processes=0)
    assert (error.path, error.errno) == (place, errno.EACCES)


@pytest.mark.parametrize("how", ["longer", "shorter", "rewritten", "gone"])
@pytest.mark.parametrize("when", ["between", "at the end"])
def test_a_file_that_changes_while_it_is_hashed(tmp_path: Path, how: str, when: str) -> None:
    plant(tmp_path / "top", {"a": bytes(40_000), "b": random_bytes(40_000)})
    victim = tmp_path / "top/b"
    last = -(-80_000 // 16_384)

    def progress(done: int, whole: int) -> None:
        if done == (1 if when == "between" else last):
            change(victim, how)

    error = refused(tmp_path / "top", progress=progress, processes=0)
    assert error.path == str(victim)
    assert "changed" in error.reason or error.errno == errno.ENOENT


def change(victim: Path, how: str) -> None:
    if how == "gone":
        victim.unlink()
    elif how == "rewritten":
        data = victim.read_bytes()
        found = victim.stat()
        victim.write_bytes(data)
        os.utime(victim, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    else:
        os.truncate(victim, 40_001 if how == "longer" else 39_999)


@pytest.mark.parametrize("piece_length", [0, -1, 1, 8 * KIB, 16 * KIB - 1, 16 * KIB + 1, 48 * KIB, 512 * MIB])
def test_T5_piece_lengths_that_make_no_sense(tmp_path: Path, piece_length: int) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UsageError, match="piece length"):
        create_torrent(tmp_path / "file", piece_length=piece_length)


def test_T5_the_largest_piece_length(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert info_of(create_torrent(tmp_path / "file", piece_length=256 * MIB))[b"piece length"] == 256 * MIB


@pytest.mark.parametrize(("pieces", "fits"), [(3, True), (2, False)])
def test_T4_the_number_of_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int, fits: bool) -> None:
    monkeypatch.setattr(limits, "PIECE_COUNT", pieces)
    (tmp_path / "file").write_bytes(bytes(40_000))
    if fits:
        create_torrent(tmp_path / "file", piece_length=16 * KIB)
    else:
        with pytest.raises(UsageError, match="more than 2 pieces"):
            create_torrent(tmp_path / "file", piece_length=16 * KIB)


@pytest.mark.parametrize(("files", "fits"), [(3, True), (2, False)])
def test_T4_the_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, fits: bool) -> None:
    monkeypatch.setattr(limits, "FILE_COUNT", files)
    plant(tmp_path / "top", {"a": b"x", "b": b"x", "c": b"x"})
    if fits:
        create_torrent(tmp_path / "top")
    else:
        assert "more than 2 files" in str(refused(tmp_path / "top"))


@pytest.mark.parametrize(("total", "fits"), [(4, True), (3, False)])
def test_T6_the_total_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, fits: bool) -> None:
    monkeypatch.setattr(limits, "TOTAL_LENGTH", total)
    (tmp_path / "file").write_bytes(b"four")
    if fits:
        create_torrent(tmp_path / "file")
    else:
        assert "more than 3 bytes" in str(refused(tmp_path / "file"))


@pytest.mark.parametrize(
    "url",
    ["ftp://a.example/", "a.example", "", "http://", "http://a b/", "http://a\n/", "udp://a:99999", "udp://a:0"],
)
def test_urls_that_make_no_sense(tmp_path: Path, url: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UsageError, match="tracker"):
        create_torrent(tmp_path / "file", trackers=[[url]])
    with pytest.raises(UsageError, match="web seed"):
        create_torrent(tmp_path / "file", web_seeds=[url])


def test_a_web_seed_is_not_a_udp_url(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UsageError, match="web seed"):
        create_torrent(tmp_path / "file", web_seeds=["udp://a.example:80"])


@pytest.mark.parametrize("option", ["comment", "source"])
def test_options_that_are_not_utf8(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    options: dict[str, Any] = {option: os.fsdecode(b"caf\xe9")}
    with pytest.raises(UsageError, match=option):
        create_torrent(tmp_path / "file", **options)


def test_a_torrent_over_a_bound_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    size = len(create_torrent(tmp_path / "file"))
    monkeypatch.setattr(limits, "TORRENT_FILE_SIZE", size)
    create_torrent(tmp_path / "file")
    monkeypatch.setattr(limits, "TORRENT_FILE_SIZE", size - 1)
    with pytest.raises(MetainfoError):
        create_torrent(tmp_path / "file")
