"""Content over files: against a naive model, against planted things, against a failing system."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import bencode, limits
from btor.errors import MetainfoError, StorageError
from btor.metainfo.torrent_file import parse_torrent
from btor.storage import system
from btor.storage.files import Content, ContentChangedError, FileStat
from btor.storage.pool import FilePool
from tests.storage.torrents import File, get, open_content, put, random_bytes, record_writes, stream, torrent

FILES: list[File] = [("a", 20_000), ("empty", 0), ("d/b", 5), ("", 100), ("d/e/c", 70_000), ("z", 0)]
DATA = stream(FILES)


def made(tmp_path: Path, *, writable: bool = True, follow_links: bool = False) -> Content:
    metainfo = torrent(FILES, content=DATA)
    return open_content(metainfo, tmp_path / "content", writable=writable, follow_links=follow_links)


def on_disk(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}


def expected(files: list[File], data: bytes) -> dict[str, bytes]:
    found = {}
    offset = 0
    for path, length in files:
        if path:
            found[path] = data[offset : offset + length]
        offset += length
    return found


# --- against a model ---------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.tuples(st.integers(0, 3_000), st.booleans()), min_size=1, max_size=8),
    pieces=st.data(),
    pool_size=st.integers(1, 3),
)
def test_content_is_one_stream_over_its_files(
    lengths: list[tuple[int, bool]], pieces: st.DataObject, pool_size: int
) -> None:
    files = [("" if pad else f"f{i}", length) for i, (length, pad) in enumerate(lengths)]
    data = stream(files)
    if not data or all(not path for path, _ in files):
        return
    model = bytearray(len(data))
    holes = [i for i, zero in enumerate(_padding(files)) if zero]
    written = [False] * len(data)
    folder = tempfile.mkdtemp()
    content = open_content(torrent(files, content=data), Path(folder) / "top", FilePool(pool_size))
    try:
        content.prepare()
        for _ in range(pieces.draw(st.integers(1, 8))):
            start = pieces.draw(st.integers(0, len(data) - 1))
            end = pieces.draw(st.integers(start + 1, len(data)))
            cuts = sorted(pieces.draw(st.lists(st.integers(start, end), max_size=4)))
            edges = [start, *cuts, end]
            views = [memoryview(data)[a:b] for a, b in itertools.pairwise(edges)]
            content.write(start, views, end - start)
            model[start:end] = data[start:end]
            for at in holes:
                model[at] = 0
            written[start:end] = [True] * (end - start)
            if all(written[start:end]):
                into = [memoryview(bytearray(len(view))) for view in views]
                for cached_only in (False, True):
                    assert content.read_into(start, into, cached_only=cached_only)
                    assert b"".join(into) == model[start:end]
        disk = on_disk(Path(folder) / "top")
        for path, whole in expected(files, bytes(model)).items():
            if path in disk:
                assert disk[path] == whole
            else:
                assert whole == bytes(len(whole))
        segments = content.segments(0, len(data))
        assert sum(length for _, _, length in segments) == len(data)
    finally:
        content.close()
        shutil.rmtree(folder)


def _padding(files: list[File]) -> list[bool]:
    return [not path for path, length in files for _ in range(length)]


def test_a_multi_file_torrent_is_written_as_it_says(tmp_path: Path) -> None:
    content = made(tmp_path)
    content.prepare()
    assert on_disk(content.top) == {"empty": b"", "z": b""}
    put(content, DATA)
    assert on_disk(content.top) == expected(FILES, DATA)
    assert get(content, 0, len(DATA)) == DATA
    content.close()


def test_a_single_file_is_the_top_itself(tmp_path: Path) -> None:
    data = random_bytes(50_000)
    content = open_content(torrent(content=data), tmp_path / "new" / "deep" / "any name")
    content.prepare()
    assert not content.top.exists()
    put(content, data, 16384, 50_000)
    assert content.top.read_bytes() == bytes(16384) + data[16384:]
    put(content, data, 0, 16384)
    assert content.top.read_bytes() == data
    content.close()


def test_a_gulp_into_one_file_is_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_bytes(1 << 20)
    content = open_content(torrent(content=data), tmp_path / "file")
    put(content, data, 0, 16384)
    calls = record_writes(monkeypatch)
    put(content, data, 16384)
    assert calls == [(63, 16384)]
    content.close()


def test_a_gulp_over_three_files_is_one_call_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = made(tmp_path)
    calls = record_writes(monkeypatch)
    put(content, DATA)
    assert calls == [(2, 0), (1, 0), (5, 0)]
    content.close()


def test_files_are_sparse_and_of_full_length_from_the_first_write(tmp_path: Path) -> None:
    data = random_bytes(1 << 20)
    content = open_content(torrent(content=data), tmp_path / "file")
    put(content, data, 500_000, 516_384)
    found = content.top.stat()
    assert found.st_size == 1 << 20
    assert found.st_blocks * 512 < 200_000
    content.close()


def test_many_files_use_few_descriptors(tmp_path: Path) -> None:
    files = [(f"d{i % 7}/f{i}", 100) for i in range(3 * limits.OPEN_FILES)]
    data = stream(files)
    pool = FilePool()
    content = open_content(torrent(files, content=data), tmp_path / "top", pool)
    for start in range(0, len(data), 1600):
        put(content, data, start, min(start + 1600, len(data)))
        assert pool.count <= limits.OPEN_FILES
    assert on_disk(content.top) == expected(files, data)
    content.close()
    assert pool.count == 0


def test_an_executable_is_made_as_one(tmp_path: Path) -> None:
    metainfo = torrent([("run", 10), ("read", 10)], content=bytes(20))
    run, read = metainfo.files
    metainfo = replace(metainfo, files=(replace(run, executable=True), read))
    content = open_content(metainfo, tmp_path / "top")
    put(content, bytes(20))
    content.close()
    umask = os.umask(0)
    os.umask(umask)
    assert [(content.top / name).stat().st_mode & 0o777 for name in ("run", "read")] == [
        0o777 & ~umask,
        0o666 & ~umask,
    ]


# --- what is planted in the way ----------------------------------------------------------------------------------


@pytest.fixture(params=["descriptors", "plain"])
def walking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(system, "HAS_FOLDER_DESCRIPTORS", False)


@pytest.mark.usefixtures("walking")
@pytest.mark.parametrize("link", ["content", "content/d", "content/d/e", "content/d/e/c", "content/a"])
def test_T9_a_planted_link_is_not_followed(tmp_path: Path, link: str) -> None:
    victim = tmp_path / "victim"
    if link in ("content/d/e/c", "content/a"):
        victim.write_bytes(b"precious")
    else:
        victim.mkdir()
    place = tmp_path / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(victim)
    content = made(tmp_path)
    with pytest.raises(StorageError, match="symbolic link") as caught:
        put(content, DATA)
    assert caught.value.path.startswith(str(tmp_path / link))
    assert victim.read_bytes() == b"precious" if victim.is_file() else not list(victim.iterdir())
    content.close()


@given(
    names=st.lists(
        st.lists(
            st.sampled_from(["..", ".", "", "/", "a", "..\\..", "/etc/x", "a/../..", "\0", "../", "CON", "a\n"])
            | st.text(max_size=4),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=4,
    ),
    name=st.sampled_from(["..", "/", "../..", "x", "", "a/b"]),
)
def test_T7_no_name_leaves_the_folder(names: list[list[str]], name: str) -> None:
    info: dict[bytes, bencode.Value] = {
        b"name": name.encode(),
        b"piece length": 16384,
        b"pieces": bytes(20),
        b"files": [{b"length": 10, b"path": [part.encode() for part in path]} for path in names],
    }
    try:
        metainfo = parse_torrent(bencode.encode({b"info": info}))
    except MetainfoError:
        return
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "1" / "2" / "3"
        content = open_content(metainfo, inside / metainfo.name)
        put(content, random_bytes(10 * len(names)))
        content.close()
        made = [path for path in Path(folder).rglob("*") if path.is_file()]
        assert len(made) == len(names)
        assert all(path.is_relative_to(inside / metainfo.name) for path in made)


@pytest.mark.usefixtures("walking")
def test_folders_above_the_top_may_be_links(tmp_path: Path) -> None:
    (tmp_path / "disk2").mkdir()
    (tmp_path / "downloads").symlink_to("disk2")
    content = open_content(torrent(FILES, content=DATA), tmp_path / "downloads" / "content")
    put(content, DATA)
    assert on_disk(tmp_path / "disk2" / "content") == {k: v for k, v in expected(FILES, DATA).items() if v}
    content.close()


def test_links_are_followed_when_content_is_the_users_and_only_read(tmp_path: Path) -> None:
    content = made(tmp_path)
    content.prepare()
    put(content, DATA)
    content.close()
    (tmp_path / "content/d").rename(tmp_path / "elsewhere")
    (tmp_path / "content/d").symlink_to(tmp_path / "elsewhere")
    reader = made(tmp_path, writable=False, follow_links=True)
    assert get(reader, 0, len(DATA)) == DATA
    assert reader.stat(2) is not None
    reader.close()


@pytest.mark.parametrize("what", ["folder", "fifo"])
def test_something_else_in_a_files_place(tmp_path: Path, what: str) -> None:
    content = made(tmp_path)
    content.top.mkdir()
    if what == "folder":
        (content.top / "a").mkdir()
    else:
        os.mkfifo(content.top / "a")
    with pytest.raises(StorageError, match=r"content/a: "):
        put(content, DATA)
    with pytest.raises(StorageError, match="not a regular file"):
        content.stat(0)
    content.close()


def test_a_file_in_a_folders_place(tmp_path: Path) -> None:
    content = made(tmp_path)
    content.top.mkdir()
    (content.top / "d").write_bytes(b"mine")
    with pytest.raises(StorageError, match=r"content/d/b: Not a directory"):
        put(content, DATA)
    with pytest.raises(StorageError, match=r"content/d/b: Not a directory"):
        content.stats()
    assert (content.top / "d").read_bytes() == b"mine"
    content.close()


def test_content_that_is_only_read_is_never_written(tmp_path: Path) -> None:
    content = made(tmp_path, writable=False)
    with pytest.raises(RuntimeError):
        put(content, DATA)
    with pytest.raises(StorageError, match="No such file"):
        get(content, 0, 10)
    assert not content.top.exists()


# --- reading -----------------------------------------------------------------------------------------------------


def test_F3_a_short_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    content = made(tmp_path)
    put(content, DATA)
    os.truncate(content.top / "d/e/c", 69_999)
    with pytest.raises(StorageError, match="d/e/c: shorter than the torrent says") as caught:
        get(content, 0, len(DATA))
    assert (caught.value.operation, caught.value.errno) == ("read", errno.ENODATA)
    assert get(content, 0, len(DATA) - 1) == DATA[:-1]
    content.close()


@pytest.mark.parametrize("how", ["time", "size", "another", "gone", "folder", "link", "pipe"])
@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("cached_only", [False, True])
def test_F3_a_file_that_is_not_as_expected_is_not_read(
    tmp_path: Path, how: str, is_open: bool, cached_only: bool
) -> None:
    content = made(tmp_path)
    put(content, DATA)
    content.close()
    states = content.stats()
    content.expect(states.__getitem__)
    assert get(content, 0, len(DATA)) == DATA
    if not is_open:
        content.close()
    index = next(index for index in range(len(states)) if content.path(index).endswith("d/e/c"))
    path = Path(content.path(index))
    if how == "time":
        os.utime(path, ns=(0, 1))
    elif how == "size":
        os.truncate(path, 5)
    else:
        path.rename(tmp_path / "old")
        if how == "another":
            path.write_bytes((tmp_path / "old").read_bytes())
        elif how == "folder":
            path.mkdir()
        elif how == "link":
            path.symlink_to(tmp_path / "old")
        elif how == "pipe":
            os.mkfifo(path)
    buffer = [memoryview(bytearray(10))]
    offset = content.files[index].offset
    length = content.files[index].length
    content.read_into(0, buffer)
    if is_open and how not in ("time", "size"):  # what is open is what it was
        content.read_into(offset, buffer, cached_only=cached_only)
        content.reopen(index)
    with pytest.raises(ContentChangedError, match="it has changed since it was verified") as caught:
        content.read_into(offset, buffer, cached_only=cached_only)
    assert (caught.value.index, caught.value.path, caught.value.exit_status) == (index, str(path), 4)
    if how in ("time", "another"):  # as soon as it is what is expected, it is read
        states[index] = content.stat(index)
        assert get(content, offset, length) == DATA[offset : offset + length]
    content.close()


def test_F3_other_errors_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = made(tmp_path)
    put(content, DATA)
    content.close()
    content.expect(content.stats().__getitem__)
    real = os.open

    def denied(path: str, *args: Any, **options: Any) -> int:
        if path == "c":
            raise PermissionError(errno.EACCES, "denied")
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(StorageError, match="denied") as caught:
        get(content, 0, len(DATA))
    assert not isinstance(caught.value, ContentChangedError)


def test_a_read_that_the_cache_cannot_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = made(tmp_path)
    put(content, DATA)
    answers: list[Callable[[], int]] = []
    real = os.preadv

    def preadv(fd: int, views: list[memoryview], at: int, flags: int = 0) -> int:
        return answers.pop()() if flags else real(fd, views, at)

    def again() -> int:
        raise BlockingIOError(errno.EAGAIN, "again")

    monkeypatch.setattr(os, "preadv", preadv)
    view = memoryview(bytearray(1000))
    answers.append(again)
    assert not content.read_into(0, [view], cached_only=True)
    answers.append(lambda: 999)
    assert not content.read_into(0, [view], cached_only=True)
    assert content.read_into(0, [view])
    assert view == DATA[:1000]
    content.close()


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_that_cannot_tell_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    content = made(tmp_path)
    put(content, DATA)
    asked = []

    def readv_cached(*_: object) -> int:
        asked.append(1)
        raise OSError(code, "no")

    monkeypatch.setattr(system, "readv_cached", readv_cached)
    for _ in range(3):
        view = memoryview(bytearray(len(DATA)))
        assert content.read_into(0, [view], cached_only=True)
        assert view == DATA
    assert len(asked) == 1
    content.close()


def test_more_views_than_one_call_takes(tmp_path: Path) -> None:
    data = random_bytes(3 * system.IOV_MAX)
    content = open_content(torrent(content=data), tmp_path / "file")
    content.write(0, [memoryview(data)[i : i + 1] for i in range(len(data))], len(data))
    assert content.top.read_bytes() == data
    into = [memoryview(bytearray(1)) for _ in data]
    assert not content.read_into(0, into, cached_only=True)
    assert content.read_into(0, into)
    assert b"".join(into) == data
    content.close()


# --- a failing system --------------------------------------------------------------------------------------------


def failing(code: int) -> Callable[..., int]:
    def call(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS])
@pytest.mark.parametrize(
    ("call", "operation"), [("pwritev", "write"), ("ftruncate", "extend"), ("open", "open"), ("fstat", "open")]
)
def test_F2_every_failing_write_names_operation_file_and_errno(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str, operation: str
) -> None:
    content = made(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(code))
        with pytest.raises(StorageError) as caught:
            put(content, DATA, 0, 16384)
    assert caught.value.operation == operation
    assert caught.value.path == str(tmp_path / "content/a")
    assert caught.value.errno == code
    put(content, DATA)
    assert get(content, 0, len(DATA)) == DATA
    content.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize(("call", "operation"), [("preadv", "read"), ("open", "open"), ("fstat", "open")])
def test_F2_every_failing_read_names_operation_file_and_errno(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str, operation: str
) -> None:
    writer = made(tmp_path)
    put(writer, DATA)
    writer.close()
    content = made(tmp_path)
    for cached_only in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(code))
            with pytest.raises(StorageError) as caught:
                content.read_into(0, [memoryview(bytearray(10))], cached_only=cached_only)
        assert (caught.value.operation, caught.value.errno) == (operation, code)
        assert caught.value.path == str(tmp_path / "content/a")
    content.close()


def test_F9_when_descriptors_run_out_unused_ones_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [(f"f{i}", 10) for i in range(8)]
    data = stream(files)
    pool = FilePool()
    content = open_content(torrent(files, content=data), tmp_path / "top", pool)
    put(content, data, 0, 60)
    real = os.open
    left = [0]

    def scarce(*args: object, **options: object) -> int:
        if pool.count > 3:
            left[0] += 1
            raise OSError(errno.EMFILE, "too many open files")
        return real(*args, **options)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(os, "open", scarce)
    put(content, data, 60, 80)
    assert left[0] >= 1
    assert pool.count <= 5
    monkeypatch.setattr(os, "open", failing(errno.EMFILE))
    with pytest.raises(StorageError) as caught:
        put(content, data, 0, 10)
    assert caught.value.errno == errno.EMFILE
    content.close()


def test_a_failed_write_leaves_the_file_to_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = made(tmp_path)
    monkeypatch.setattr(os, "pwritev", failing(errno.ENOSPC))
    with pytest.raises(StorageError):
        put(content, DATA)
    assert content.take_dirty() == {0}
    content.close()


# --- what is on disk ---------------------------------------------------------------------------------------------


def test_stats(tmp_path: Path) -> None:
    content = made(tmp_path)
    assert content.stats() == [None] * 6
    content.prepare()
    put(content, DATA)
    found = (content.top / "d/b").stat()
    assert content.stats()[2] == FileStat(5, found.st_ino, found.st_mtime_ns)
    assert [stat.size if stat else None for stat in content.stats()] == [20_000, 0, 5, None, 70_000, 0]
    content.close()


def test_data_ranges_leave_holes_out(tmp_path: Path) -> None:
    data = random_bytes(64 * 16384 + 5)
    content = open_content(torrent(content=data), tmp_path / "file")
    assert content.data_ranges(0) == []
    put(content, data, 10 * 16384, 12 * 16384)
    put(content, data, 64 * 16384)
    assert content.data_ranges(0) == [(10 * 16384, 12 * 16384), (64 * 16384, len(data))]
    content.close()


def test_where_holes_cannot_be_told_all_below_the_size_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "HAS_DATA_RANGES", False)
    data = random_bytes(10 * 16384)
    content = open_content(torrent(content=data), tmp_path / "file")
    content.top.write_bytes(bytes(3 * 16384 + 1))
    assert content.data_ranges(0) == [(0, 3 * 16384 + 1)]


def test_prepare_shortens_what_is_too_long_only_when_told(tmp_path: Path) -> None:
    content = made(tmp_path)
    content.top.mkdir()
    for name, data in {"a": bytes(20_001), "empty": b"x", "z": b""}.items():
        (content.top / name).write_bytes(data)
    content.prepare()
    assert [(content.top / name).stat().st_size for name in ("a", "empty")] == [20_001, 1]
    content.prepare(shorten=True)
    assert [(content.top / name).stat().st_size for name in ("a", "empty")] == [20_000, 0]
    assert content.take_dirty() == {0, 1}
    content.close()


def test_shortening_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = made(tmp_path)
    content.top.mkdir()
    (content.top / "a").write_bytes(bytes(20_001))
    monkeypatch.setattr(os, "ftruncate", failing(errno.EIO))
    with pytest.raises(StorageError, match="shorten"):
        content.prepare(shorten=True)
    content.close()


def test_dirty_files_are_taken_once(tmp_path: Path) -> None:
    content = made(tmp_path)
    put(content, DATA, 0, 20_001)
    assert content.take_dirty() == {0, 2}
    assert content.take_dirty() == set()
    put(content, DATA, 21_000, 21_001)
    assert content.take_dirty() == {4}
    content.close()


def test_sync_tells_the_state_and_syncs_new_folders_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = open_content(torrent(FILES, content=DATA), tmp_path / "new" / "content", FilePool(1))
    put(content, DATA)
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    states = content.sync(content.take_dirty())
    assert states == {i: stat for i, stat in enumerate(content.stats()) if stat is not None}
    assert synced == ["new/content/a", "new/content/d/b", "new/content/d/e/c"]
    synced.clear()
    content.sync_folders()
    assert sorted(synced) == [".", "new", "new/content", "new/content/d", "new/content/d/e"]
    synced.clear()
    content.sync_folders()
    assert synced == []
    content.close()


def test_a_sync_that_fails_is_named_and_owed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = made(tmp_path)
    put(content, DATA)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(StorageError, match=r"sync .*content/a"):
            content.sync([0])
        with pytest.raises(StorageError, match=r"sync "):
            content.sync_folders()
    seen: list[str] = []
    monkeypatch.setattr(system, "sync_folder", seen.append)
    content.sync_folders()
    assert len(seen) == 4
    content.close()


def test_threads_read_and_write_while_descriptors_change_hands(tmp_path: Path) -> None:
    """Bytes never land in another file, though the pool is far too small and closes what is not in use."""
    files = [(f"f{i}", 5_000) for i in range(24)]
    data = stream(files)
    content = open_content(torrent(files, content=data), tmp_path / "top", FilePool(2))
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for i in range(60):
                start = (i * 7 + seed * 6) % 24 * 5_000
                put(content, data, start, start + 5_000)
                assert get(content, start, 5_000) == data[start : start + 5_000]
        except BaseException as error:  # noqa: BLE001  # carried over to the main thread, which raises it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not errors, errors
    assert on_disk(content.top) == expected(files, data)
    content.close()
