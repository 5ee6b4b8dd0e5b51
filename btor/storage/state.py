"""Private folders, of resume records and such: what is in them only their owner can read, and no link is followed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from pathlib import Path

from btor.errors import StorageError
from btor.storage import system

_NEW = ".new-"  # then the number of the process that writes it, and something that nobody else has
FOLDER = "resume"  # below the state directory, which may be one that a person named and uses for other things too


class StateError(StorageError):
    """The state directory cannot be used. The content is not concerned: one can go on without records."""


def real_top(top: Path) -> str:
    """One name for one place: ``top`` with the links of the folders above it resolved."""
    absolute = os.path.abspath(top)
    return os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))


def file_name(info_hash: bytes, top: Path) -> str:
    """The name, without its ending, of what is kept for a torrent and a destination."""
    return f"{info_hash.hex()}-{hashlib.sha256(os.fsencode(real_top(top))).hexdigest()[:16]}"


def private_folder(state_dir: Path, name: str = FOLDER) -> str:
    """The folder ``name``, by default that of records, below ``state_dir``, made if need be (0700). StateError."""
    path = os.path.join(os.path.abspath(state_dir), name)
    try:
        _make_folders(os.path.dirname(path))
        try:
            os.mkdir(path, 0o700)
            _sync_entry(path)
        except FileExistsError:
            found = os.lstat(path)
            if not stat.S_ISDIR(found.st_mode):
                raise StateError("open", path, "is not a folder", errno.ENOTDIR) from None
            if stat.S_IMODE(found.st_mode) & 0o077:
                os.chmod(path, 0o700)
    except OSError as error:
        raise StateError.from_os_error("make", path, error) from error
    return path


def _make_folders(path: str) -> None:
    missing = []
    above = path
    while not os.path.isdir(above):
        missing.append(above)
        above = os.path.dirname(above)
    os.makedirs(path, mode=0o700, exist_ok=True)
    for folder in missing:
        _sync_entry(folder)


def _sync_entry(path: str) -> None:
    """A record is only as durable as the folders above it."""
    with contextlib.suppress(OSError):  # one may make folders in a folder that one may not read
        system.sync_folder(os.path.dirname(path))


def read_private(path: str, size: int) -> bytes | None:
    """What the file ``path`` holds, its first ``size`` bytes at most; None: it is not there. StateError."""
    try:
        with open(path, "rb", opener=_open_private) as file:
            return file.read(size)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError.from_os_error("read", path, error) from error


def _open_private(path: str, flags: int) -> int:
    return system.open_file(path, flags, follow=False, mode=0o600)


def replace_private(path: str, data: bytes, *, previous: str, keep_previous: bool) -> None:
    """Put ``data`` into the file ``path`` (0600) so that at every moment a whole file is there, and durably.

    What was there becomes ``previous``, or with ``keep_previous`` False neither stays. StateError; then what was
    there is still there.
    """
    new = f"{path}{_NEW}{os.getpid()}-{secrets.token_hex(4)}"  # several sessions and processes may seed one place
    try:
        try:
            _write_durably(new, data)
            _remove(previous)
            if keep_previous:
                _keep(path, previous)
            os.replace(new, path)
        except OSError:
            with contextlib.suppress(OSError):  # it is only litter, and the first error is what matters
                _remove(new)
            raise
        system.sync_folder(os.path.dirname(path))
    except OSError as error:
        raise StateError.from_os_error("write", path, error) from error


def remove_unfinished(path: str) -> None:
    """Remove what writers of the file ``path`` left who were killed meanwhile. StateError."""
    folder, name = os.path.split(path)
    try:
        for found in os.listdir(folder):
            writer = found.removeprefix(name + _NEW).partition("-")[0]
            if found.startswith(name + _NEW) and writer.isdecimal() and not system.process_lives(int(writer)):
                _remove(os.path.join(folder, found))
    except OSError as error:
        raise StateError.from_os_error("clean", folder, error) from error


def _write_durably(path: str, data: bytes) -> None:
    fd = system.open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, follow=False, mode=0o600)
    try:
        system.write_all(fd, [memoryview(data)], 0, len(data))
        system.sync_file(fd)
    finally:
        os.close(fd)


def _keep(path: str, previous: str) -> None:
    try:
        system.link(path, previous)
    except (FileNotFoundError, FileExistsError):  # the first one; another process was quicker
        pass
    except OSError:  # no hard links here: for a moment only the previous one is there, which a reader falls back to
        os.replace(path, previous)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
