"""The private folder: modes, links, replacing a file."""

from __future__ import annotations

import errno
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from btor.errors import StorageError
from btor.storage import state
from btor.storage.state import (
    StateError,
    file_name,
    private_folder,
    read_private,
    remove_unfinished,
    replace_private,
)

HASH = bytes(range(20))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_T9_the_folder_is_private(tmp_path: Path) -> None:
    folder = Path(private_folder(tmp_path / "new" / "state"))
    assert mode(folder) == mode(tmp_path / "new" / "state") == 0o700
    folder.chmod(0o755)
    assert private_folder(tmp_path / "new" / "state") == str(folder)
    assert mode(folder) == 0o700


def test_a_folder_that_a_person_named_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o755)
    before = mode(tmp_path / "mine")
    private_folder(tmp_path / "mine")
    assert mode(tmp_path / "mine") == before


@pytest.mark.parametrize("what", ["link", "file"])
def test_T9_something_planted_in_its_place(tmp_path: Path, what: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    if what == "link":
        (tmp_path / state.FOLDER).symlink_to("elsewhere")
    else:
        (tmp_path / state.FOLDER).write_bytes(b"")
    with pytest.raises(StorageError, match="not a folder"):
        private_folder(tmp_path)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_state_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        private_folder(tmp_path / "file" / "state")
    assert caught.value.errno == errno.ENOTDIR


def test_the_same_place_has_one_name(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    names = {
        file_name(HASH, tmp_path / "real" / "x"),
        file_name(HASH, tmp_path / "link" / "x"),
        file_name(HASH, tmp_path / "real" / ".." / "real" / "x"),
    }
    assert len(names) == 1
    assert file_name(HASH, tmp_path / "real" / "y") not in names
    assert file_name(bytes(20), tmp_path / "real" / "x") not in names
    (tmp_path / "real" / "x").symlink_to("y")  # the last place itself is never a link that btor follows
    assert file_name(HASH, tmp_path / "real" / "x") in names


def replace(path: Path, data: bytes, *, keep: bool = True) -> None:
    replace_private(str(path), data, previous=f"{path}.old", keep_previous=keep)


def test_the_generation_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "record"
    for data in (b"1", b"2", b"3"):
        replace(path, data)
    assert (path.read_bytes(), (tmp_path / "record.old").read_bytes()) == (b"3", b"2")
    assert mode(path) == mode(tmp_path / "record.old") == 0o600
    replace(path, b"4", keep=False)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("record", b"4")]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(code, "no links here")

    replace(tmp_path / "record", b"1")
    monkeypatch.setattr(os, "link", link)
    replace(tmp_path / "record", b"2")
    replace(tmp_path / "record", b"3")
    assert ((tmp_path / "record").read_bytes(), (tmp_path / "record.old").read_bytes()) == (b"3", b"2")


@pytest.mark.parametrize("call", ["open", "fsync", "replace", "unlink"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_F1_a_failed_replacement_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    replace(tmp_path / "record", b"1")
    replace(tmp_path / "record", b"2")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StorageError) as caught:
            replace(tmp_path / "record", b"3")
    assert (caught.value.operation, caught.value.errno) == ("write", code)
    assert (tmp_path / "record").read_bytes() == b"2"
    if call != "unlink":
        assert set(os.listdir(tmp_path)) <= {"record", "record.old"}
    replace(tmp_path / "record", b"4")
    assert (tmp_path / "record").read_bytes() == b"4"


def test_two_writers_of_one_process_are_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sessions may seed one place. What one writes is never half of the other's."""
    real = state._write_durably
    names: list[str] = []

    def write(path: str, data: bytes) -> None:
        names.append(path)
        real(path, data)
        if len(names) == 1:
            replace(tmp_path / "record", b"other")
            assert Path(path).read_bytes() == data

    monkeypatch.setattr(state, "_write_durably", write)
    replace(tmp_path / "record", b"one")
    assert (tmp_path / "record").read_bytes() == b"one"
    assert (tmp_path / "record.old").read_bytes() == b"other"
    assert sorted(os.listdir(tmp_path)) == ["record", "record.old"]


@pytest.mark.parametrize("temporary", [True, False])
def test_T9_a_planted_link_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: bool
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / (f"record.new-{os.getpid()}-guessed" if temporary else "record")).symlink_to("victim")
    if temporary:
        with pytest.raises(StorageError):
            replace(tmp_path / "record", b"1")
    else:
        replace(tmp_path / "record", b"1")
        with pytest.raises(StorageError):
            read_private(str(tmp_path / "record.old"), 100)
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "record").write_bytes(bytes(100))
    assert read_private(str(tmp_path / "record"), 100) == bytes(100)
    assert read_private(str(tmp_path / "record"), 99) == bytes(99)
    assert read_private(str(tmp_path / "none"), 99) is None
    with pytest.raises(StorageError, match="read"):
        read_private(str(tmp_path), 99)


# --- what killed writers left ----------------------------------------------------------------------------------------


def test_only_what_dead_writers_left_is_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    own, other = f"record.new-{os.getpid()}-ab", f"record.new-{os.getppid()}"
    kept = {"record", "record.old", own, other, "record.new-x", "record.new-", f"another.new-{dead.pid}-ab"}
    kept |= {str(dead.pid), f"{dead.pid}-ab"}
    for name in (*kept, f"record.new-{dead.pid}", f"record.new-{dead.pid}-ab"):
        (tmp_path / name).write_bytes(b"")
    remove_unfinished(str(tmp_path / "record"))
    assert set(os.listdir(tmp_path)) == kept
    with pytest.raises(StateError, match="clean"):
        remove_unfinished(str(tmp_path / "none" / "record"))
