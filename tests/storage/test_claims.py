"""Two torrents never write to one file at a time, whoever runs them."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from btor import limits
from btor.errors import StorageError
from btor.metainfo.torrent_file import Metainfo
from btor.storage import claims, system
from btor.storage.claims import FOLDER, FilesClaimed, user_folder
from btor.storage.state import StateError, private_folder
from tests.storage.torrents import File, open_content, stream, torrent

ME = os.getpid()
HALF = 60  # bytes, of a claim


def folder_torrent(*names: str, name: str = "content") -> Metainfo:
    files: list[File] = [(path, 100) for path in names]
    return torrent(files, content=stream(files), name=name)


SINGLE = torrent(content=b"x" * 100)


def claim(tmp_path: Path, metainfo: Metainfo, top: Path, state: str = "state") -> FilesClaimed:
    return FilesClaimed(open_content(metainfo, top), [tmp_path / state])


def entered(tmp_path: Path) -> list[str]:
    return sorted(set(os.listdir(tmp_path / "state" / FOLDER)) - {"gate"})


CLASHES: list[tuple[str, Metainfo, str, Metainfo, str, str]] = [
    ("the same", SINGLE, "x", SINGLE, "x", "x"),
    ("another torrent of the same name", SINGLE, "x", torrent(content=b"y" * 50), "x", "x"),
    ("one file of two folders", folder_torrent("a", "b"), "d", folder_torrent("b", "c"), "d", "d/b"),
    ("inside a folder's torrent", folder_torrent("s/a", "b"), "d", SINGLE, "d/s/a", "d/s/a"),
    ("around a file's torrent", SINGLE, "d/s/a", folder_torrent("b", "s/a"), "d", "d/s/a"),
    ("a folder inside", folder_torrent("s/t/a"), "d", folder_torrent("t/a"), "d/s", "d/s/t/a"),
    ("a folder around", folder_torrent("t/a"), "d/s", folder_torrent("s/t/a"), "d", "d/s/t/a"),
]
BESIDE: list[tuple[str, Metainfo, str, Metainfo, str]] = [
    ("two files", SINGLE, "x", SINGLE, "y"),
    ("the beginning of a name", SINGLE, "x", SINGLE, "xx"),
    ("other files of one folder", folder_torrent("a", "s/b"), "d", folder_torrent("b", "s/a"), "d"),
    ("inside a folder", folder_torrent("s/a"), "d", SINGLE, "d/s/b"),
    ("around a file", SINGLE, "d/s/b", folder_torrent("s/a", "b"), "d"),
    ("one name in two folders", folder_torrent("a"), "d", folder_torrent("a"), "e"),
]


@pytest.mark.parametrize("made", ["", "d/s"])
@pytest.mark.parametrize(("first", "at", "second", "there", "file"), [row[1:] for row in CLASHES])
def test_F7_one_file_one_writer(
    tmp_path: Path, made: str, first: Metainfo, at: str, second: Metainfo, there: str, file: str
) -> None:
    """Whether the folders are there when the first comes, or come later."""
    (tmp_path / "p" / made).mkdir(parents=True)
    with claim(tmp_path, first, tmp_path / "p" / at):
        (tmp_path / "p" / "d" / "s").mkdir(parents=True, exist_ok=True)
        with pytest.raises(
            StorageError, match=rf"process {ME} \(this one\) is writing to it for the torrent"
        ) as caught:
            claim(tmp_path, second, tmp_path / "p" / there)
    assert (caught.value.exit_status, caught.value.path) == (4, str(tmp_path / "p" / file))
    claim(tmp_path, second, tmp_path / "p" / there).release()
    assert entered(tmp_path) == []


@pytest.mark.parametrize(("first", "at", "second", "there"), [row[1:] for row in BESIDE])
def test_who_writes_beside_another_is_free_to(
    tmp_path: Path, first: Metainfo, at: str, second: Metainfo, there: str
) -> None:
    with claim(tmp_path, first, tmp_path / at), claim(tmp_path, second, tmp_path / there):
        assert len(entered(tmp_path)) == 1


def test_padding_is_nobodys(tmp_path: Path) -> None:
    files: list[File] = [("a", 10), ("", 90)]
    one = torrent(files, content=stream(files))
    other = torrent([("b", 10), ("", 90)], content=stream([("b", 10), ("", 90)]))
    with claim(tmp_path, one, tmp_path), claim(tmp_path, other, tmp_path):
        pass


def test_links_to_one_folder_are_one_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with claim(tmp_path, SINGLE, tmp_path / "link" / "x"), pytest.raises(StorageError, match="is writing to it"):
        claim(tmp_path, SINGLE, tmp_path / "real" / ".." / "real" / "x")


def test_a_second_name_of_one_folder_is_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a folder that is mounted twice, or where the case of letters does not count."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    with claim(tmp_path, folder_torrent("a"), tmp_path / "one" / "d"):
        (tmp_path / "one" / "d").mkdir()
        (tmp_path / "other" / "d").mkdir()
        real = os.stat
        monkeypatch.setattr(os, "stat", lambda path, **o: real(str(path).replace("other", "one"), **o))
        with pytest.raises(StorageError, match="is writing to it"):
            claim(tmp_path, SINGLE, tmp_path / "other" / "d" / "a")
        with pytest.raises(StorageError, match="is writing to it"):
            claim(tmp_path, folder_torrent("d/a"), tmp_path / "other")


HOLDER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from btor.storage.claims import FilesClaimed
from tests.storage.torrents import open_content, torrent
held = [FilesClaimed(open_content(torrent(content=b"x" * 100), Path(p)), [Path(sys.argv[2])]) for p in sys.argv[3:]]
print("claimed", flush=True)
for line in sys.stdin:
    held.pop().release()
    print("released", flush=True)
"""


def hold(tmp_path: Path, *tops: Path) -> subprocess.Popen[bytes]:
    root = str(Path(claims.__file__).parents[2])
    arguments = [sys.executable, "-c", HOLDER, root, str(tmp_path / "state"), *map(str, tops)]
    holder = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"claimed\n"
    return holder


def test_F7_another_process_holds_it_until_it_lets_go_or_is_killed(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with hold(tmp_path, one, two) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        for top in (one, two):
            with pytest.raises(StorageError, match=f"process {holder.pid} is writing to it for the torrent content"):
                claim(tmp_path, SINGLE, top)
        holder.stdin.write(b"\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == b"released\n"
        claim(tmp_path, SINGLE, two).release()
        with pytest.raises(StorageError, match="is writing to it"):
            claim(tmp_path, SINGLE, one)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert len(entered(tmp_path)) == 1
    with claim(tmp_path, SINGLE, one):
        assert len(entered(tmp_path)) == 1  # ours; what the dead left is gone
    assert entered(tmp_path) == []


def write_other(tmp_path: Path, data: bytes) -> int:
    """A file as of another process that lives, with ``data`` in it."""
    path = Path(private_folder(tmp_path / "state", FOLDER)) / "1-abc"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\x05hello", b"\xff\xff\xff\xffd", b"\0\0\0\x02de", b"\0\0\0\0"])
def test_what_another_process_wrote_in_part_or_otherwise_is_no_claim(tmp_path: Path, data: bytes) -> None:
    fd = write_other(tmp_path, data)
    with claim(tmp_path, SINGLE, tmp_path / "x"):
        pass
    os.close(fd)


def test_what_stands_before_damage_counts(tmp_path: Path) -> None:
    with claim(tmp_path, SINGLE, tmp_path / "x"):
        (name,) = entered(tmp_path)
        data = (tmp_path / "state" / FOLDER / name).read_bytes()
    fd = write_other(tmp_path, data + b"\0\0\0\x05hello")
    with pytest.raises(StorageError, match="is writing to it"):
        claim(tmp_path, SINGLE, tmp_path / "x")
    os.close(fd)


def test_the_first_folder_that_can_be_used_counts(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    content = open_content(SINGLE, tmp_path / "x")
    with FilesClaimed(content, [tmp_path / "file", tmp_path / "state"]):
        assert len(entered(tmp_path)) == 1
    for folders in ([tmp_path / "file"], []):
        with pytest.raises(StateError):
            FilesClaimed(content, folders)


def half_then_full(fd: int, views: Sequence[memoryview], position: int) -> int:
    """A disk that is full after half of it."""
    if len(views[0]) <= HALF:
        raise OSError(errno.ENOSPC, "full")
    return os.pwrite(fd, views[0][:-HALF], position)


@pytest.mark.parametrize("others", [0, 1])
def test_a_claim_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    rest = [claim(tmp_path, SINGLE, tmp_path / f"{number}") for number in range(others)]
    with monkeypatch.context() as patch:
        patch.setattr(system, "writev", half_then_full)
        with pytest.raises(StateError, match="full"):
            claim(tmp_path, SINGLE, tmp_path / "x")
    assert len(entered(tmp_path)) == others
    with hold(tmp_path, tmp_path / "x"):  # it reads what is there
        pass
    for other in rest:
        other.release()
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(entered(tmp_path)) == 1  # of the other process, which was not asked to let go


@pytest.mark.parametrize("others", [0, 1])
def test_who_cannot_let_go_in_the_folder_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, others: int
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    rest = [claim(tmp_path, SINGLE, tmp_path / f"{number}") for number in range(others)]
    held = claim(tmp_path, SINGLE, tmp_path / "x")

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        patch.setattr(system, "writev", refuse)
        held.release()
        held.release()
    assert os.strerror(errno.EROFS) in caplog.text
    for other in rest:
        other.release()
    assert len(os.listdir("/proc/self/fd")) == before
    claim(tmp_path, SINGLE, tmp_path / "x").release()
    assert entered(tmp_path) == []


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_who_stands_in_the_gate_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(limits, "CLAIM_WAIT", seconds)
    folder = private_folder(tmp_path / "state", FOLDER)
    gate = os.open(os.path.join(folder, "gate"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(gate, fcntl.LOCK_EX)
    with pytest.raises(StateError, match="kept it for too long"):
        claim(tmp_path, SINGLE, tmp_path / "x")
    os.close(gate)
    claim(tmp_path, SINGLE, tmp_path / "x").release()


def test_without_locks_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "HAS_LOCKS", False)
    with claim(tmp_path, SINGLE, tmp_path / "x"), claim(tmp_path, SINGLE, tmp_path / "x"):
        assert not (tmp_path / "state").exists()


def test_the_folder_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert user_folder() == tmp_path / "btor"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert user_folder() == tmp_path / "me" / ".local" / "state" / "btor"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # nobody knows where it is
    assert user_folder() is None
