"""Who writes where: of all btor processes of a user, one torrent at a time may write to a file.

Each process that writes has one file in a private folder, locked as long as it lives, in which it says which files it
claims. Who wants to write reads those of the others first, behind a gate that one process passes at a time. What a
process leaves that was killed is not locked any more, and removed by the next one. Decision 7 says why it is so.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Final

from btor import bencode, limits
from btor.errors import BencodeError, StorageError
from btor.metainfo.paths import display
from btor.storage import system
from btor.storage.files import Content
from btor.storage.state import StateError, private_folder, real_top

FOLDER: Final = "writing"
_GATE: Final = "gate"
_GATE_POLL: Final = 0.01  # s
_DIGEST: Final = 8  # bytes for a name below a torrent's place: of 300,000 two are equal once in 400 million torrents
_FRAME: Final = struct.Struct(">I")
_IDENTITY: Final = struct.Struct(">QQ")  # device and inode
_DEPTH: Final = 2
_TOKENS: Final = limits.PATH_LENGTH  # the elements of a path are most of it

_log = logging.getLogger(__name__)

Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Claim:
    """The files of one torrent. ``place``: its own path, in elements; ``folders``: the identity of those of its leading
    elements that were there, of the root first; ``files``: digests of the names below the place.
    """

    process: int
    torrent: str
    place: tuple[str, ...]
    folders: tuple[Identity, ...]
    files: bytes = field(repr=False)

    def way_to(self, other: _Claim) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """What leads from this place down to the other's, and the other way round: one is empty. None: side by side.

        Folders are compared by identity, so that a second mount or another spelling of a name makes no difference.
        """
        known = {identity: depth for depth, identity in enumerate(other.folders)}
        for depth in reversed(range(len(self.folders))):
            if self.folders[depth] in known:
                down, up = other.place[known[self.folders[depth]] :], self.place[depth:]
                if down[: len(up)] == up or up[: len(down)] == down:
                    return down[len(up) :], up[len(down) :]
                return None
        return None

    def encode(self, number: int) -> bytes:
        return _framed(
            {
                b"files": self.files,
                b"folders": b"".join(_IDENTITY.pack(*identity) for identity in self.folders),
                b"number": number,
                b"place": [os.fsencode(element) for element in self.place],
                b"process": self.process,
                b"torrent": self.torrent.encode(),
            }
        )


class _Own:
    """The file of this process in one folder, and what it claims."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, f"{os.getpid()}-{secrets.token_hex(4)}")
        self.claims: dict[int, _Claim] = {}
        self.number = 0
        self.fd = system.open_file(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, follow=False, mode=0o600)
        system.try_lock(self.fd)

    def close(self) -> None:
        try:
            os.unlink(self.path)
        except OSError as error:  # it is only litter, and not locked
            _log.warning("the file %s stays behind: %s", self.path, error)
        os.close(self.fd)


_own: dict[str, _Own] = {}  # of this process, by folder
_own_lock = threading.Lock()  # held for moments only: the loop takes it too


class FilesClaimed:
    """Keeps everybody else from writing to the files of ``content``. A context manager; ``release`` ends it.

    ``folders``: where to say it; the first one that can be used counts. StorageError: another torrent writes to one of
    the files; the message names the process. StateError: none of the folders can be used.
    """

    def __init__(self, content: Content, folders: Sequence[Path]) -> None:
        self._folder = ""
        self._number = -1
        if not system.HAS_LOCKS:
            return
        claim = _claim_of(content)
        failure = StateError("lock", str(content.top), "there is no folder to say it in", errno.ENOENT)
        for folder in folders:
            try:
                self._enter(private_folder(folder, FOLDER), content, claim)
            except StateError as error:
                failure = error
            else:
                return
        raise failure

    def _enter(self, folder: str, content: Content, claim: _Claim) -> None:
        try:
            with _gate(folder):
                for other in _others(folder):
                    _compare(content, claim, other)
                self._number = _say(folder, claim)
        except OSError as error:
            raise StateError.from_os_error("lock", folder, error) from error
        self._folder = folder

    def release(self) -> None:
        """Let go. Again does nothing."""
        folder, self._folder = self._folder, ""
        if not folder:
            return
        with _own_lock:
            own = _own[folder]
            del own.claims[self._number]
            if own.claims:
                try:
                    _write(own.fd, _framed({b"released": self._number}))
                except OSError as error:
                    _log.warning("the place stays locked until this process ends: %s", error)
                return
            del _own[folder]
        own.close()

    def __enter__(self) -> FilesClaimed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def user_folder() -> Path | None:
    """The folder that all btor processes of this user have in common, whatever state directory they were told."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.local/state")
    return Path(base, "btor") if os.path.isabs(base) else None


# --- what is claimed ---------------------------------------------------------------------------------------------


def _claim_of(content: Content) -> _Claim:
    top = real_top(content.top)
    place = tuple(Path(top).parts)
    folders: list[Identity] = []
    for depth in range(1, len(place) + 1):
        try:
            found = os.stat(os.path.join(*place[:depth]))
        except OSError:
            break
        if not stat.S_ISDIR(found.st_mode):
            break
        folders.append((found.st_dev, found.st_ino))
    files = b"".join(_digest(content.parts(index)) for index in _written(content))
    return _Claim(os.getpid(), display(content.metainfo.name), place[1:], tuple(folders), files)


def _written(content: Content) -> Iterator[int]:
    return (index for index, entry in enumerate(content.files) if not entry.pad and content.is_wanted(index))


def _digest(parts: tuple[str, ...]) -> bytes:
    return blake2b(os.fsencode("/".join(parts)), digest_size=_DIGEST).digest()


def _compare(content: Content, claim: _Claim, other: _Claim) -> None:
    """StorageError when ``other`` claims a file of ``content``."""
    way = other.way_to(claim)
    if way is None:
        return
    down, up = way  # from its place down to ours, or from ours down to its
    taken = {other.files[at : at + _DIGEST] for at in range(0, len(other.files), _DIGEST)}
    for index in _written(content):
        parts = down + content.parts(index)
        if parts[: len(up)] == up and _digest(parts[len(up) :]) in taken:
            here = " (this one)" if other.process == os.getpid() else ""
            reason = f"process {other.process}{here} is writing to it for the torrent {other.torrent}"
            raise StorageError("lock", content.path(index), reason, errno.EAGAIN)


# --- the files of the folder -------------------------------------------------------------------------------------


@contextmanager
def _gate(folder: str) -> Iterator[None]:
    """One at a time looks and enters. OSError (EAGAIN): somebody stands in it, stopped perhaps."""
    fd = system.open_file(os.path.join(folder, _GATE), os.O_RDWR | os.O_CREAT, follow=False, mode=0o600)
    try:
        deadline = time.monotonic() + limits.CLAIM_WAIT
        while not system.try_lock(fd):
            if time.monotonic() >= deadline:
                raise BlockingIOError(errno.EAGAIN, "another process has kept it for too long")
            time.sleep(_GATE_POLL)
        yield
    finally:
        os.close(fd)


def _say(folder: str, claim: _Claim) -> int:
    """Enter ``claim`` for this process; its number."""
    with _own_lock:
        own = _own.get(folder)
        if own is None:
            own = _own[folder] = _Own(folder)
        own.number += 1
        own.claims[own.number] = claim
        try:
            _write(own.fd, claim.encode(own.number))
        except OSError:
            del own.claims[own.number]
            if not own.claims:
                _own.pop(folder).close()
            raise
        return own.number


def _others(folder: str) -> Iterator[_Claim]:
    """What is claimed already, by this process or others."""
    with _own_lock:
        own = _own.get(folder)
        known = list(own.claims.values()) if own is not None else []
    yield from known
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name != _GATE and (own is None or path != own.path):
            yield from _read(path)


def _read(path: str) -> Iterable[_Claim]:
    """What the file ``path`` claims; one whose process has ended is removed."""
    try:
        fd = system.open_file(path, os.O_RDWR, follow=False)
    except FileNotFoundError:  # just let go
        return ()
    with open(fd, "rb") as file:
        if system.try_lock(fd):
            os.unlink(path)
            return ()
        return _decode(file.read())


def _write(fd: int, data: bytes) -> None:
    """Add ``data`` to the file, whole or not at all. OSError."""
    end = os.fstat(fd).st_size
    try:
        system.write_all(fd, [memoryview(data)], end, len(data))
    except OSError:
        os.ftruncate(fd, end)
        raise


def _framed(value: dict[bytes, bencode.Value]) -> bytes:
    body = bencode.encode(value)
    return _FRAME.pack(len(body)) + body


def _decode(data: bytes) -> Iterable[_Claim]:
    """The claims that stand in ``data``; what comes behind damage is lost."""
    claims: dict[int, _Claim] = {}
    at = 0
    while at + _FRAME.size <= len(data):
        (length,) = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        try:
            value = bencode.decode(data[at : at + length], depth=_DEPTH, tokens=_TOKENS)
        except BencodeError:
            break
        at += length
        match value:
            case {
                b"files": bytes(files),
                b"folders": bytes(folders),
                b"number": int(number),
                b"place": list(place),
                b"process": int(process),
                b"torrent": bytes(torrent),
            } if len(folders) % _IDENTITY.size == 0:
                claims[number] = _Claim(
                    process,
                    display(torrent),
                    tuple(os.fsdecode(element) for element in place if isinstance(element, bytes)),
                    tuple(_IDENTITY.iter_unpack(folders)),
                    files,
                )
            case {b"released": int(number)}:
                claims.pop(number, None)
            case _:
                break
    return claims.values()
