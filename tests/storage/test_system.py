"""Calls of one system only, and what stands in for them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from btor.storage import system
from tests.storage.torrents import record_writes


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def views(*parts: bytes) -> list[memoryview]:
    return [memoryview(bytearray(part)) for part in parts]


@pytest.mark.parametrize("vectored", [True, False])
def test_vectors_are_written_and_read_at_a_position(fd: int, monkeypatch: pytest.MonkeyPatch, vectored: bool) -> None:
    monkeypatch.setattr(system, "HAS_VECTORED", vectored)
    assert system.writev(fd, views(b"abc", b"", b"de"), 3) == 5
    into = views(b"....", b"......")
    assert system.readv(fd, into, 2) == 6
    assert b"".join(into) == b"\0abcde...."
    assert system.readv(fd, into, 8) == 0


def test_the_fallback_reports_a_short_write(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "HAS_VECTORED", False)
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:2]))
    assert system.writev(fd, views(b"abc", b"de"), 0) == 2


@pytest.mark.parametrize("count", [1, 5, system.IOV_MAX, system.IOV_MAX + 1, 3 * system.IOV_MAX])
def test_any_number_of_views_is_written_whole(fd: int, count: int) -> None:
    parts = [bytes([65 + i % 26]) * (i % 7) for i in range(count)]
    whole = b"".join(parts)
    system.write_all(fd, views(*parts), 10, len(whole))
    assert os.pread(fd, len(whole) + 1, 10) == whole
    into = views(*(bytes(len(part)) for part in parts))
    assert system.read_all(fd, into, 10, len(whole)) == len(whole)
    assert b"".join(into) == whole


def test_as_many_views_as_the_system_takes_are_one_call(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_writes(monkeypatch)
    system.write_all(fd, views(*[b"x"] * system.IOV_MAX), 0, system.IOV_MAX)
    assert calls == [(system.IOV_MAX, 0)]


@pytest.mark.parametrize("step", [1, 3, 7])
def test_short_writes_and_reads_are_continued(fd: int, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    write, read = os.pwritev, os.preadv

    def some(views: list[memoryview]) -> list[memoryview]:
        return [next(view for view in views if view)[:step]]

    monkeypatch.setattr(os, "pwritev", lambda fd, views, at: write(fd, some(views), at))
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: read(fd, some(views), at))
    data = b"a quick brown fox", b"", b"jumps", b"over"
    system.write_all(fd, views(*data), 0, 26)
    into = views(bytes(20), bytes(4), bytes(2))
    assert system.read_all(fd, into, 0, 26) == 26
    assert b"".join(into) == b"".join(data)


def test_a_write_of_nothing_is_an_error_not_a_loop(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwritev", lambda *_: 0)
    with pytest.raises(OSError, match="wrote nothing"):
        system.write_all(fd, views(b"abc"), 0, 3)


def test_a_read_beyond_the_end_is_short(fd: int) -> None:
    os.write(fd, b"abc")
    assert system.read_all(fd, views(bytes(2), bytes(5)), 1, 7) == 2


def test_cached_reads_say_when_the_system_cannot_tell(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "HAS_CACHED_READ", False)
    with pytest.raises(OSError) as caught:
        system.readv_cached(fd, views(b"."), 0)
    assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize(("count", "left"), [(0, b"abcdef"), (2, b"cdef"), (3, b"def"), (5, b"f"), (6, b""), (9, b"")])
def test_advance(count: int, left: bytes) -> None:
    assert b"".join(system.advance(views(b"abc", b"", b"def"), count)) == left


@pytest.fixture(params=["descriptors", "plain"])
def walking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(system, "HAS_FOLDER_DESCRIPTORS", False)
    return str(request.param)


@pytest.mark.usefixtures("walking")
class TestBelow:
    """No link is followed from the top on."""

    def test_files_and_folders_are_made(self, tmp_path: Path) -> None:
        top = str(tmp_path / "top")
        assert system.make_folder_below(top, ())
        assert not system.make_folder_below(top, ())
        assert system.make_folder_below(top, ("a",))
        assert system.make_folder_below(top, ("a", "b"))
        fd = system.open_below(top, ("a", "b", "c"), os.O_RDWR | os.O_CREAT)
        os.write(fd, b"here")
        os.close(fd)
        assert (tmp_path / "top/a/b/c").read_bytes() == b"here"

    def test_links_above_the_top_are_the_users(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        system.make_folder_below(str(tmp_path / "link" / "top"), ())
        assert (tmp_path / "real/top").is_dir()

    @pytest.mark.parametrize("link", ["top", "top/a", "top/a/f"])
    def test_a_link_on_the_way_is_refused(self, tmp_path: Path, link: str) -> None:
        outside = tmp_path / "outside"
        (outside / "a").mkdir(parents=True)
        (outside / "f").write_bytes(b"mine")
        (outside / "a/f").write_bytes(b"mine")
        place = tmp_path / link
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(outside / {"top": "", "top/a": "a", "top/a/f": "f"}[link])
        with pytest.raises(OSError) as caught:
            os.close(system.open_below(str(tmp_path / "top"), ("a", "f"), os.O_RDWR))
        assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)

    @pytest.mark.parametrize("link", ["top", "top/a"])
    def test_no_folder_is_made_through_a_link(self, tmp_path: Path, link: str) -> None:
        (tmp_path / "outside/a").mkdir(parents=True)
        place = tmp_path / link
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(tmp_path / "outside")
        with pytest.raises(OSError):
            system.make_folder_below(str(tmp_path / "top"), ("a", "b"))
        assert not (tmp_path / "outside/b").exists()

    def test_a_fifo_does_not_hang_the_open(self, tmp_path: Path) -> None:
        (tmp_path / "top").mkdir()
        os.mkfifo(tmp_path / "top/f")
        fd = system.open_below(str(tmp_path / "top"), ("f",), os.O_RDONLY)
        assert stat.S_ISFIFO(os.fstat(fd).st_mode)
        os.close(fd)


def test_data_ranges_leave_out_holes(fd: int) -> None:
    os.ftruncate(fd, 1 << 20)
    assert list(system.data_ranges(fd, 1 << 20)) == []
    os.pwrite(fd, b"x", 70_000)
    os.pwrite(fd, b"x", (1 << 20) - 1)
    ranges = list(system.data_ranges(fd, 1 << 20))
    assert len(ranges) == 2
    assert ranges[0][0] <= 70_000 < ranges[0][1] < 200_000
    assert ranges[1][1] == 1 << 20
    assert next(system.data_ranges(fd, 70_001))[1] == 70_001


def test_without_data_ranges_all_is_data(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "HAS_DATA_RANGES", False)
    assert list(system.data_ranges(fd, 100)) == [(0, 100)]
    assert list(system.data_ranges(fd, 0)) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_without_data_ranges(fd: int, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: int) -> int:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "lseek", refuse)
    assert list(system.data_ranges(fd, 100)) == [(0, 100)]


def test_other_errors_of_data_ranges_come_through(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> int:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "lseek", refuse)
    with pytest.raises(OSError):
        list(system.data_ranges(fd, 100))


def test_locks_exclude(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert system.try_lock(first)
    assert not system.try_lock(second)
    os.close(first)
    assert system.try_lock(second)
    os.close(second)


def test_without_locks_everybody_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "HAS_LOCKS", False)
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert system.try_lock(first)
    assert system.try_lock(second)
    os.close(first)
    os.close(second)


@pytest.mark.parametrize(("code", "passes"), [(errno.ENOLCK, True), (errno.EIO, False)])
def test_a_file_system_without_locks(fd: int, monkeypatch: pytest.MonkeyPatch, code: int, passes: bool) -> None:
    def refuse(*_: int) -> None:
        raise OSError(code, "no")

    assert system.fcntl is not None
    monkeypatch.setattr(system.fcntl, "flock", refuse)
    if passes:
        assert system.try_lock(fd)
    else:
        with pytest.raises(OSError):
            system.try_lock(fd)


@pytest.mark.parametrize(("code", "passes"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_folder_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, passes: bool
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(os, "fsync", refuse)
    if passes:
        system.sync_folder(str(tmp_path))
    else:
        with pytest.raises(OSError):
            system.sync_folder(str(tmp_path))


@pytest.mark.parametrize(
    ("code", "plain", "fails"), [(0, False, False), (errno.EINVAL, True, False), (errno.EIO, False, True)]
)
def test_the_sync_of_a_system_whose_own_does_too_little(
    fd: int, monkeypatch: pytest.MonkeyPatch, code: int, plain: bool, fails: bool
) -> None:
    calls: list[str] = []

    def full(*_: int) -> None:
        calls.append("full")
        if code:
            raise OSError(code, "no")

    assert system.fcntl is not None
    monkeypatch.setattr(system, "HAS_FULL_SYNC", True)
    monkeypatch.setattr(system.fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(system.fcntl, "fcntl", full)
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("plain"))
    if fails:
        with pytest.raises(OSError):
            system.sync_file(fd)
    else:
        system.sync_file(fd)
    assert calls == ["full"] + ["plain"] * plain


@pytest.mark.parametrize("able", [True, False])
def test_a_second_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    if not able:
        monkeypatch.setattr(os, "supports_follow_symlinks", set())
    (tmp_path / "a").write_bytes(b"x")
    system.link(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").samefile(tmp_path / "a")


# --- the process -----------------------------------------------------------------------------------------------------


class Limit:
    """What the system says of descriptors. ``refuses``: what it answers who wants more."""

    RLIMIT_NOFILE = 7
    RLIM_INFINITY = -1

    def __init__(self, soft: int, hard: int, refuses: Exception | None = None) -> None:
        self.now = (soft, hard)
        self.refuses = refuses

    def getrlimit(self, which: int) -> tuple[int, int]:
        assert which == self.RLIMIT_NOFILE
        return self.now

    def setrlimit(self, which: int, now: tuple[int, int]) -> None:
        assert which == self.RLIMIT_NOFILE
        if self.refuses is not None:
            raise self.refuses
        self.now = now


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 4096), 4096),
        ((1024, 99_999), 8192),
        ((1024, -1), 8192),
        ((8192, 8192), 8192),
        ((9000, 99_999), 9000),
        ((-1, -1), -1),
    ],
)
def test_the_descriptor_limit(monkeypatch: pytest.MonkeyPatch, before: tuple[int, int], after: int) -> None:
    limit = Limit(*before)
    monkeypatch.setattr(system, "resource", limit)
    assert system.raise_descriptor_limit(8192) == (8192 if after < 0 else min(after, 8192))
    assert limit.now == (after, before[1])


@pytest.mark.parametrize("refusal", [PermissionError(errno.EPERM, "no"), ValueError("over the kernel's own limit")])
def test_a_descriptor_limit_that_cannot_be_raised(monkeypatch: pytest.MonkeyPatch, refusal: Exception) -> None:
    limit = Limit(256, -1, refusal)
    monkeypatch.setattr(system, "resource", limit)
    assert system.raise_descriptor_limit(8192) == 256
    assert limit.now == (256, -1)


def test_no_descriptor_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Limit(256, -1)
    monkeypatch.setattr(system, "resource", limit)
    monkeypatch.setattr(system, "HAS_DESCRIPTOR_LIMIT", False)
    assert system.raise_descriptor_limit(8192) == 8192
    assert limit.now == (256, -1)


def test_sleeps_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    before = system.voluntary_switches()
    time.sleep(0.001)
    assert system.voluntary_switches() > before >= 0
    monkeypatch.setattr(system, "HAS_THREAD_USAGE", False)
    assert system.voluntary_switches() == -1


def test_which_processes_live(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        assert system.process_lives(dead.pid)
    assert not system.process_lives(dead.pid)
    assert system.process_lives(os.getpid())
    assert system.process_lives(10**30)

    def refuse(_number: int, _signal: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "kill", refuse)
    assert system.process_lives(dead.pid)
    monkeypatch.setattr(system, "HAS_PROBE_SIGNAL", False)
    assert system.process_lives(dead.pid)
