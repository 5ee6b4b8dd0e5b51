"""What a real transfer does to the disk, call by call: a layer below btor's storage that logs and then does it.

It stands in the place of the functions of ``os`` that change a disk, so nothing that btor calls can pass it by
(`test_crash_states.py` looks for calls that it does not know, and replays the whole log to see that it gives the disk).
It also is the clock of the file system, so that times in the log are the same each time.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

FOLDER: Final = 0  # the node of every folder: only whether it is there counts
EPOCH: Final = 1_700_000_000 * 10**9  # ns


@dataclass(frozen=True, slots=True)
class Write:
    """``data`` at ``position`` of the file ``node``, which then has the time ``mtime`` (ns)."""

    node: int
    position: int
    data: bytes
    mtime: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """The file ``node`` is ``size`` bytes long from now on."""

    node: int
    size: int
    mtime: int


@dataclass(frozen=True, slots=True)
class Name:
    """Entries of folders change together: each path leads to a node, or (None) is gone."""

    changes: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Sync:
    """All before to the file ``node`` is durable."""

    node: int


@dataclass(frozen=True, slots=True)
class FailedSync:
    """What is pending of the file ``node`` may never be durable, whatever is said later."""

    node: int


@dataclass(frozen=True, slots=True)
class SyncFolder:
    """The entries of the folder ``path`` are durable."""

    path: str


Operation = Write | Truncate | Name | Sync | FailedSync | SyncFolder
RECORDED: Final = (
    "open",
    "pwritev",
    "write",
    "ftruncate",
    "fsync",
    "fdatasync",
    "mkdir",
    "replace",
    "rename",
    "link",
    "unlink",
    "remove",
)


@dataclass
class Recorder:
    """Logs what happens below ``root`` while `installed`.

    ``tick``: after so many changes the clock goes on; a coarse clock gives files one time before and after a sync.
    ``on_sync``: called before each sync of a file, to do something in the middle of a checkpoint. ``fail_sync``: asked
    for each sync of a file; an errno, or 0.
    """

    root: Path
    tick: int = 1
    log: list[Operation] = field(default_factory=list)
    on_sync: Callable[[], None] = lambda: None
    fail_sync: Callable[[str], int] = lambda _path: 0
    inodes: dict[int, int] = field(default_factory=dict)  # inode → node, of files that have a name
    names: dict[str, int] = field(default_factory=dict)  # as they are now
    _nodes: int = FOLDER
    _changes: int = 0
    _dead: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _real: dict[str, Any] = field(default_factory=dict)

    def kill(self) -> None:
        """From now on nothing reaches the disk: the process is dead, however orderly the rest of it ends."""
        self._dead = True

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Log, until the end of the block. A killed one lives again."""
        self._dead = False
        self._real = {name: getattr(os, name) for name in RECORDED}
        with mock.patch.multiple(os, **{name: getattr(self, f"_{name}") for name in RECORDED}):
            yield

    def somebody_writes(self, path: Path, position: int, data: bytes) -> None:
        """Another program has changed ``path``, durably."""
        with self.installed(), open(path, "r+b", buffering=0) as file:
            self._pwritev(file.fileno(), [memoryview(data)], position)
            self._fsync(file.fileno())

    # ------------------------------------------------------------------------------------------ the calls

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        whole = self._path(path, dir_fd)
        if self._dead and flags & os.O_CREAT and self._is_ours(whole):
            return int(self._real["open"](os.devnull, os.O_RDWR | os.O_CLOEXEC))
        with self._lock:
            fd = int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
            if flags & os.O_CREAT and self._is_ours(whole) and whole not in self.names:
                self._nodes += 1
                self.inodes[os.fstat(fd).st_ino] = self._nodes
                self._name((whole, self._nodes))
            assert not flags & os.O_TRUNC or not self._is_ours(whole), "not known here"
            return fd

    def _pwritev(self, fd: int, views: Any, position: int, *flags: int) -> int:
        with self._lock:
            node = self._node(fd)
            if self._dead and node is not None:
                return sum(map(len, views))
            done = int(self._real["pwritev"](fd, views, position, *flags))
            if node is not None and done:
                data = b"".join(views)[:done]
                self.log.append(Write(node, position, data, self._touch(fd)))
            return done

    def _write(self, fd: int, data: Any) -> int:
        assert self._node(fd) is None, "a write without a position: not known here"
        return int(self._real["write"](fd, data))

    def _ftruncate(self, fd: int, size: int) -> None:
        with self._lock:
            node = self._node(fd)
            if self._dead and node is not None:
                return
            self._real["ftruncate"](fd, size)
            if node is not None:
                self.log.append(Truncate(node, size, self._touch(fd)))

    def _fsync(self, fd: int) -> None:
        if self._dead:
            return
        path = os.readlink(f"/proc/self/fd/{fd}")
        if not self._is_ours(path) and path != str(self.root):
            return
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            self.log.append(SyncFolder(path))
            return
        self.on_sync()
        with self._lock:
            node = self._node(fd)
            assert node is not None
            code = self.fail_sync(path)
            if code:
                self.log.append(FailedSync(node))
                raise OSError(code, os.strerror(code))
            self.log.append(Sync(node))

    _fdatasync = _fsync

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        whole = self._path(path, dir_fd)
        with self._lock:
            if not (self._dead and self._is_ours(whole)):
                self._real["mkdir"](path, mode, dir_fd=dir_fd)
                if self._is_ours(whole):
                    self._name((whole, FOLDER))

    def _replace(self, source: Any, target: Any) -> None:
        with self._lock:
            if not self._dead:
                node = self.names.get(os.fspath(source))
                self._real["replace"](source, target)
                if node is not None:
                    self._name((os.fspath(source), None), (os.fspath(target), node))

    _rename = _replace

    def _link(self, source: Any, target: Any, **options: Any) -> None:
        with self._lock:
            if not self._dead:
                self._real["link"](source, target, **options)
                if source in self.names:
                    self._name((os.fspath(target), self.names[source]))

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        whole = self._path(path, dir_fd)
        with self._lock:
            if not (self._dead and self._is_ours(whole)):
                self._real["unlink"](path, dir_fd=dir_fd)
                if whole in self.names:
                    self._name((whole, None))

    _remove = _unlink

    # ------------------------------------------------------------------------------------------ what they are about

    def _path(self, path: str | os.PathLike[str], folder: int | None) -> str:
        if folder is not None:
            return f"{os.readlink(f'/proc/self/fd/{folder}')}/{os.fspath(path)}"
        return os.path.abspath(os.fspath(path))

    def _is_ours(self, path: str) -> bool:
        return path.startswith(f"{self.root}{os.sep}")

    def _node(self, fd: int) -> int | None:
        """The node of a file below the root."""
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and self._is_ours(os.readlink(f"/proc/self/fd/{fd}")):
            return self.inodes[found.st_ino]
        return None

    def _name(self, *changes: tuple[str, int | None]) -> None:
        self.log.append(Name(changes))
        for path, node in changes:
            if node is None:
                del self.names[path]
            else:
                self.names[path] = node
        named = set(self.names.values())
        self.inodes = {inode: node for inode, node in self.inodes.items() if node in named}

    def _touch(self, fd: int) -> int:
        self._changes += 1
        now = EPOCH + self._changes // self.tick * 4_000_000
        os.utime(fd, ns=(now, now))
        return now
