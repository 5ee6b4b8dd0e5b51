"""The open files of a session: at most so many at a time, the longest unused closed first.

Worker threads and the loop share the pool, so a descriptor in use is pinned: it is closed, and its number given to
another file, only when nobody reads or writes through it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from itertools import islice

from btor import limits


class OpenFile:
    """One descriptor. ``device``: of its file system. ``users``: how many calls are using it just now."""

    __slots__ = ("device", "fd", "index", "owner", "retired", "users", "writable")

    def __init__(self, owner: dict[int, OpenFile], index: int, fd: int, device: int, *, writable: bool) -> None:
        self.owner = owner
        self.index = index
        self.fd = fd
        self.device = device
        self.writable = writable
        self.users = 1
        self.retired = False


class FilePool:
    """At most ``size`` unused descriptors stay open. Each owner keeps its own table of index → OpenFile.

    ``no_cached_reads``: the devices whose file systems cannot say what is cached.
    """

    def __init__(self, size: int = limits.OPEN_FILES) -> None:
        self.size = size
        self.no_cached_reads: set[int] = set()
        self._lock = threading.Lock()
        self._files: OrderedDict[OpenFile, None] = OrderedDict()

    @property
    def count(self) -> int:
        """How many files are open."""
        return len(self._files)

    def take(self, owner: dict[int, OpenFile], index: int, *, writable: bool) -> OpenFile | None:
        """The open file ``index`` of ``owner``, pinned until ``release``; None when it is not open, or not so."""
        with self._lock:
            file = owner.get(index)
            if file is None or (writable and not file.writable):
                return None
            file.users += 1
            self._files.move_to_end(file)
            return file

    def add(self, file: OpenFile) -> None:
        """Take in a file that was just opened, pinned by who opened it. It stands in for an older one of its place."""
        with self._lock:
            older = file.owner.get(file.index)
            if older is not None:
                self._retire(older)
            file.owner[file.index] = file
            self._files[file] = None
            self._evict(self.size)

    def release(self, file: OpenFile) -> None:
        """The end of one use."""
        with self._lock:
            file.users -= 1
            if file.retired and not file.users:
                os.close(file.fd)

    def close(self, owner: dict[int, OpenFile], index: int) -> None:
        """Close file ``index`` of ``owner`` if it is open; one in use closes when its use ends."""
        with self._lock:
            file = owner.get(index)
            if file is not None:
                self._retire(file)

    def close_all(self, owner: dict[int, OpenFile]) -> None:
        """Close every file of ``owner``; one in use closes when its use ends."""
        with self._lock:
            for file in list(owner.values()):
                self._retire(file)

    def shrink(self) -> bool:
        """Give descriptors back because the process has no more; False when there was nothing to give."""
        with self._lock:
            before = len(self._files)
            self._evict(before // 2)
            return len(self._files) < before

    def _evict(self, keep: int) -> None:
        excess = len(self._files) - keep
        unused = (file for file in self._files if not file.users)
        for file in list(islice(unused, max(0, excess))):
            self._retire(file)

    def _retire(self, file: OpenFile) -> None:
        del self._files[file]
        del file.owner[file.index]
        file.retired = True
        if not file.users:
            os.close(file.fd)
