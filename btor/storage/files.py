"""The content of one torrent on disk: a stream of bytes laid over files.

Blocking calls, usable from the loop and from worker threads at the same time. Content is never mapped into memory: a
file that somebody truncates would kill the process.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from btor.errors import StorageError
from btor.metainfo.torrent_file import FileEntry, Metainfo
from btor.storage import system
from btor.storage.hashing import SHORTER, Segment
from btor.storage.pool import FilePool, OpenFile
from btor.storage.side import SideFile, side_name
from btor.storage.users import Users

LINK = "a symbolic link is in the way, which btor does not follow here"
NOT_REGULAR = "is not a regular file"
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL)  # or no file


class FileStat(NamedTuple):
    """What tells one state of a file from another: size in bytes, inode, time of the last change in ns."""

    size: int
    inode: int
    mtime_ns: int


class ContentChangedError(StorageError):
    """File ``index`` is not as `Content.expect` has it: somebody has changed, replaced or removed it."""

    def __init__(self, path: str, index: int) -> None:
        super().__init__("read", path, "it has changed since it was verified", errno.ESTALE)
        self.index = index


class Content:
    """The files of ``metainfo`` at ``top``, which stands for the torrent's own name: the file or the folder itself.

    A ``writable`` content makes folders and files as they are first written, sparse and of full length. Unless
    ``follow_links`` (the user's own content, only read), no link is followed from ``top`` on. ``names``: of files that
    have another place below ``top`` than the torrent gives them, by index. ``wanted``: the indexes of the files to be
    written, None for all: the others are not made, and what a piece has of them goes to the side file (`aside`), which
    counts as one more of ``files``.
    Every method raises StorageError with the operation, the file and the system's reason.
    """

    def __init__(
        self,
        metainfo: Metainfo,
        top: Path,
        pool: FilePool,
        *,
        writable: bool,
        follow_links: bool = False,
        names: Mapping[int, tuple[str, ...]] | None = None,
        wanted: Collection[int] | None = None,
    ) -> None:
        self.metainfo = metainfo
        self.geometry = metainfo.geometry
        self.top = Path(os.path.abspath(top))
        self.files: tuple[FileEntry, ...] = metainfo.files
        self.writable = writable
        self.follow_links = follow_links
        self._top = str(self.top)
        self._names = names or {}
        self.users = Users(str(self.top))  # threads at work on it that somebody may have given up waiting for
        self._pool = pool
        self._open: dict[int, OpenFile] = {}
        # The last of several entries with one offset is the one that holds bytes: those before it are empty.
        self._starts = [entry.offset for entry in metainfo.files]
        self._expected: Callable[[int], FileStat | None] | None = None
        self._last = (0, 0, 0)  # start, end, index of the file last used
        self._wanted = wanted
        self.side: SideFile | None = None
        self.apart: set[int] = set()  # files of which the side file may have parts
        self._side_lock = threading.Lock()  # the loop and worker threads add parts
        if wanted is not None or (
            not metainfo.single_file and os.path.lexists(self.top / side_name(metainfo.info_hash))
        ):
            self.side = SideFile(metainfo.info_hash, metainfo.geometry, metainfo.files)
            self.files = (
                *metainfo.files,
                FileEntry((metainfo.name, side_name(metainfo.info_hash)), 0, metainfo.total_length),
            )
            self.apart = {index for index in range(len(metainfo.files)) if not self.is_wanted(index)}
        self._dirty: set[int] = set()
        self._new_entries: set[str] = set()  # folders in which something was made

    # --- names -----------------------------------------------------------------------------------------------

    def parts(self, index: int) -> tuple[str, ...]:
        """The place of file ``index`` below ``top``: () for the single file itself."""
        return self._names.get(index) or self.files[index].path[1:]

    def path(self, index: int) -> str:
        """The absolute path of file ``index``."""
        return os.path.join(self._top, *self.parts(index))

    def file_at(self, offset: int) -> int:
        """The index of the file (padding too) that holds the content byte ``offset``."""
        return bisect_right(self._starts, offset) - 1

    def is_wanted(self, index: int) -> bool:
        """Whether file ``index`` is to be made and written; the side file is."""
        return self._wanted is None or index in self._wanted or index == len(self.metainfo.files)

    def pieces_of(self, index: int) -> Sequence[int]:
        """The pieces that file ``index`` has bytes of, ascending; not those whose part is in the side file."""
        if self.side is not None and index == self.side.index:
            return self.side.pieces()
        entry = self.files[index]
        if not entry.length:
            return range(0)
        piece_length = self.geometry.piece_length
        first, last = entry.offset // piece_length, (entry.offset + entry.length - 1) // piece_length
        aside = self.side.pieces_of(index) if self.side is not None else ()
        return range(first + (first in aside), last + 1 - (last in aside and last > first))

    def segments(self, offset: int, length: int) -> list[Segment]:
        """Where ``length`` > 0 content bytes from ``offset`` on lie: (path, offset in it, length); path None: zeros."""
        return [
            (None if self.files[index].pad else self.path(index), position, size)
            for index, position, size in self._spans(offset, length)
        ]

    # --- reading and writing ---------------------------------------------------------------------------------

    def write(self, offset: int, views: Sequence[memoryview], length: int) -> None:
        """Write ``views`` (``length`` bytes in all) at the content byte ``offset``; what falls on padding is dropped.

        Files and their folders are made when they are first written.
        """
        if not self.writable:
            raise RuntimeError("write to content that is only read")
        place = self._place(offset, length)
        if place is not None:
            self.write_file(place[0], place[1], views, length)
            return
        if self.apart:
            self._make_room_aside(offset, length)
        for index, position, part, size in self._cut(offset, views, length):
            self.write_file(index, position, part, size)

    def read_into(self, offset: int, views: Sequence[memoryview], *, cached_only: bool = False) -> bool:
        """Fill ``views`` from the content byte ``offset`` on.

        With ``cached_only`` False means that the page cache does not hold all of it; ``views`` hold anything then.
        """
        length = sum(map(len, views))
        place = self._place(offset, length)
        if place is not None:
            return self._read(place[0], place[1], views, length, cached_only)
        return all(
            self._read(index, position, part, size, cached_only)
            for index, position, part, size in self._cut(offset, views, length)
        )

    def _place(self, offset: int, length: int) -> tuple[int, int] | None:
        """(index, offset in it) of the one file that holds the whole run; None when it spans several."""
        start, end, index = self._last
        if offset < start or offset + length > end:
            index = bisect_right(self._starts, offset) - 1
            start = self._starts[index]
            end = start + self.files[index].length
            if offset + length > end or index in self.apart:
                return None
            self._last = (start, end, index)
        return index, offset - start

    def _spans(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Where ``length`` content bytes from ``offset`` on lie: (index, offset in it, length), as `_entries`."""
        for index, position, size in self._entries(offset, length):
            if index in self.apart and self.side is not None:
                yield from self.side.split(index, position, size)
            else:
                yield index, position, size

    def _entries(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(index, offset in it, length) of each file of the torrent that these bytes are part of."""
        index = self.file_at(offset)
        while length > 0:
            position = offset - self._starts[index]
            size = min(length, self.files[index].length - position)
            if size > 0:
                yield index, position, size
                offset += size
                length -= size
            index += 1

    def _cut(
        self, offset: int, views: Sequence[memoryview], length: int
    ) -> Iterator[tuple[int, int, list[memoryview], int]]:
        rest = list(views)
        for index, position, size in self._spans(offset, length):
            part: list[memoryview] = []
            taken = 0
            while taken < size:
                part.append(rest[len(part)][: size - taken])
                taken += len(part[-1])
            rest = system.advance(rest, size)
            yield index, position, part, size

    def write_file(self, index: int, position: int, views: Sequence[memoryview], length: int) -> None:
        """As ``write``, ``position`` bytes into file ``index`` itself."""
        if self.files[index].pad:
            return
        file = self._acquire(index, writing=True)
        try:
            system.write_all(file.fd, views, position, length)
        except OSError as error:
            raise StorageError.from_os_error("write", self.path(index), error) from error
        finally:
            # After the write and before the caller hears of it: a checkpoint that names the piece has the file then.
            self._dirty.add(index)
            self._pool.release(file)

    def _make_room_aside(self, offset: int, length: int) -> None:
        """Have the places in the side file for what these bytes hold of unwanted files."""
        assert self.side is not None
        for index, position, size in self._entries(offset, length):
            if index in self.apart and not self.files[index].pad:
                with self._side_lock:
                    self.side.make_room(index, position, size, self._write_aside)

    def _write_aside(self, position: int, data: bytes) -> None:
        assert self.side is not None
        self.write_file(self.side.index, position, [memoryview(data)], len(data))

    def _read(self, index: int, position: int, views: Sequence[memoryview], length: int, cached_only: bool) -> bool:
        if self.files[index].pad:
            for view in views:
                view[:] = bytes(len(view))
            return True
        file = self._acquire_to_read(index)
        try:
            cached = None
            if cached_only and file.device not in self._pool.no_cached_reads:
                cached = self._read_cached(file, views, position, length)
            done = length if cached is not None else system.read_all(file.fd, views, position, length)
            self._check_unchanged(index, file)  # after the read: what was written before it shows, and later is no harm
        except OSError as error:
            raise StorageError.from_os_error("read", self.path(index), error) from error
        finally:
            self._pool.release(file)
        if done < length:
            raise StorageError("read", self.path(index), SHORTER, errno.ENODATA)
        return cached is not False

    def expect(self, state: Callable[[int], FileStat | None]) -> None:
        """From now on every read finds each file in the ``state`` of its index, or raises ContentChangedError."""
        self._expected = state

    @property
    def is_watched(self) -> bool:
        """Whether it is known how the files must be."""
        return self._expected is not None

    def _check_unchanged(self, index: int, file: OpenFile) -> None:
        if self._expected is not None:
            found = os.fstat(file.fd)
            if self._expected(index) != (found.st_size, found.st_ino, found.st_mtime_ns):
                raise ContentChangedError(self.path(index), index)

    def _acquire_to_read(self, index: int) -> OpenFile:
        try:
            return self._acquire(index, writing=False)
        except StorageError as error:
            if self._expected is None or error.errno not in NOT_THERE:
                raise
            raise ContentChangedError(self.path(index), index) from error

    def read_file(self, index: int, position: int, length: int) -> bytes:
        """Up to ``length`` bytes of file ``index`` itself, from ``position`` on: fewer only at its end."""
        data = bytearray(length)
        file = self._acquire(index, writing=False)
        try:
            return bytes(data[: system.read_all(file.fd, [memoryview(data)], position, length)])
        except OSError as error:
            raise StorageError.from_os_error("read", self.path(index), error) from error
        finally:
            self._pool.release(file)

    def remove(self, index: int) -> None:
        """Remove file ``index``."""
        self.reopen(index)
        try:
            os.unlink(self.path(index))
        except OSError as error:
            raise StorageError.from_os_error("remove", self.path(index), error) from error
        self._dirty.discard(index)
        self._new_entries.add(os.path.dirname(self.path(index)))

    def reopen(self, index: int) -> None:
        """Open file ``index`` anew when it is next used: another one may be in its place."""
        self._pool.close(self._open, index)

    def _read_cached(self, file: OpenFile, views: Sequence[memoryview], position: int, length: int) -> bool | None:
        """Whether the cache held it all; None when this file system cannot tell."""
        if len(views) > system.IOV_MAX:
            return False
        try:
            return system.readv_cached(file.fd, views, position) == length
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
            self._pool.no_cached_reads.add(file.device)
            return None

    # --- descriptors -----------------------------------------------------------------------------------------

    def _acquire(self, index: int, *, writing: bool) -> OpenFile:
        file = self._pool.take(self._open, index, writable=writing)
        if file is not None:
            return file
        fd = self._open_file(index, writing=writing)
        with self._closing_on_error("open", index, fd):
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise StorageError("open", self.path(index), NOT_REGULAR, errno.EINVAL)
        if writing and not found.st_size:  # most likely just made
            self._new_entries.add(os.path.dirname(self.path(index)))
        if writing and found.st_size < self.files[index].length:
            with self._closing_on_error("extend", index, fd):
                os.ftruncate(fd, self.files[index].length)
        file = OpenFile(self._open, index, fd, found.st_dev, writable=writing)
        self._pool.add(file)
        return file

    @contextmanager
    def _closing_on_error(self, operation: str, index: int, fd: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            os.close(fd)
            raise StorageError.from_os_error(operation, self.path(index), error) from error
        except StorageError:
            os.close(fd)
            raise

    def _open_file(self, index: int, *, writing: bool, flags: int = os.O_RDONLY) -> int:
        """A descriptor of file ``index``, for ``writing`` made if need be; else opened with ``flags``.

        When the process has no more descriptors, unused ones are closed.
        """
        while True:
            try:
                return self._open_or_make(index) if writing else self._open_flags(index, flags)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._pool.shrink():
                    continue
                if self._link_in_the_way(index, error):
                    raise StorageError("open", self.path(index), LINK, error.errno) from error
                raise StorageError.from_os_error("open", self.path(index), error) from error

    def _open_or_make(self, index: int) -> int:
        try:
            return self._open_flags(index, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            self._make_folders(self.parts(index))
        except PermissionError as error:  # Linux refuses O_CREAT of somebody else's file in a folder such as /tmp
            try:
                return self._open_flags(index, os.O_RDWR)
            except FileNotFoundError:
                raise error from None
        return self._open_flags(index, os.O_RDWR | os.O_CREAT)

    def _open_flags(self, index: int, flags: int) -> int:
        if self.follow_links:
            return system.open_file(self.path(index), flags, follow=True)
        mode = 0o777 if self.files[index].executable else 0o666
        return system.open_below(self._top, self.parts(index), flags, mode)

    def _make_folders(self, parts: tuple[str, ...]) -> None:
        """Make what is missing of the folders above file ``parts``, those above ``top`` included."""
        above = os.path.dirname(self._top)
        missing = []
        while not os.path.isdir(above):
            missing.append(above)
            above = os.path.dirname(above)
        for folder in reversed(missing):
            os.makedirs(folder, exist_ok=True)
            self._new_entries.add(os.path.dirname(folder))
        for depth in range(len(parts)):
            if system.make_folder_below(self._top, parts[:depth]):
                self._new_entries.add(os.path.dirname(os.path.join(self._top, *parts[:depth])))

    def _link_in_the_way(self, index: int, error: OSError) -> bool:
        if self.follow_links or error.errno not in (errno.ELOOP, errno.ENOTDIR):
            return False
        parts = self.parts(index)
        return any(os.path.islink(os.path.join(self._top, *parts[:depth])) for depth in range(len(parts) + 1))

    def close(self) -> None:
        """Close the files; one that a call is using closes when it is done."""
        self._pool.close_all(self._open)

    # --- what is on disk -------------------------------------------------------------------------------------

    def prepare(self, *, shorten: bool = False) -> None:
        """Make the empty files; ``shorten`` cuts files that are too long.

        All other files are made when they are first written. In the place of a link (BEP 47) an empty file is made.
        """
        for index, entry in enumerate(self.metainfo.files):
            if entry.pad or (entry.length and not shorten) or not self.is_wanted(index):
                continue
            if entry.symlink is not None:
                if not os.path.lexists(self.path(index)):
                    self._pool.release(self._acquire(index, writing=True))
                continue
            found = self.stat(index)
            if found is None and not entry.length:
                self._pool.release(self._acquire(index, writing=True))
            elif found is not None and found.size > entry.length and shorten:
                self.shorten(index, entry.length)

    def shorten(self, index: int, length: int) -> None:
        """Cut file ``index`` at ``length`` bytes."""
        file = self._acquire(index, writing=True)
        try:
            os.ftruncate(file.fd, length)
        except OSError as error:
            raise StorageError.from_os_error("shorten", self.path(index), error) from error
        finally:
            self._dirty.add(index)
            self._pool.release(file)

    def stat(self, index: int) -> FileStat | None:
        """The state of file ``index``; None: not there, or padding or a link in the torrent, which have no content.

        Anything but a file in its place is an error.
        """
        if self.files[index].pad or self.files[index].symlink is not None:
            return None
        path = self.path(index)
        try:
            found = os.stat(path, follow_symlinks=self.follow_links)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError.from_os_error("look at", path, error) from error
        if stat.S_ISREG(found.st_mode):
            return FileStat(found.st_size, found.st_ino, found.st_mtime_ns)
        raise StorageError("look at", path, LINK if stat.S_ISLNK(found.st_mode) else NOT_REGULAR, errno.EINVAL)

    def stats(self) -> list[FileStat | None]:
        """``stat`` of every file."""
        return [self.stat(index) for index in range(len(self.files))]

    def data_ranges(self, index: int) -> list[tuple[int, int]]:
        """The (start, end) of file ``index`` that hold data, up to the length it should have: no holes. [] if none."""
        found = self.stat(index)
        if found is None or not found.size:
            return []
        fd = self._open_file(index, writing=False)
        try:
            return list(system.data_ranges(fd, min(found.size, self.files[index].length)))
        except OSError as error:
            raise StorageError.from_os_error("look at", self.path(index), error) from error
        finally:
            os.close(fd)

    def take_dirty(self) -> set[int]:
        """The files written since the last call. Calls and writes of other threads may overlap: none gets lost."""
        taken = set(self._dirty.copy())
        # What is written again meanwhile and thrown out here is in ``taken``, whose sync comes after that write.
        self._dirty.difference_update(taken)
        return taken

    def sync(self, indexes: Iterable[int]) -> dict[int, FileStat]:
        """Make what was written to the files ``indexes`` durable.

        The answer is the state of each as it was before: what is durable now is at least as new.
        """
        states = {}
        for index in sorted(indexes):
            file = self._pool.take(self._open, index, writable=False)
            # Not through the pool: a sync of many files must not push out those that are being written.
            fd = file.fd if file is not None else self._open_file(index, writing=False, flags=system.SYNC_FLAGS)
            try:
                found = os.fstat(fd)
                system.sync_file(fd)
            except OSError as error:
                raise StorageError.from_os_error("sync", self.path(index), error) from error
            finally:
                if file is not None:
                    self._pool.release(file)
                else:
                    os.close(fd)
            states[index] = FileStat(found.st_size, found.st_ino, found.st_mtime_ns)
        return states

    def sync_folders(self) -> None:
        """Make the entries of all files and folders made so far durable."""
        for folder in sorted(self._new_entries.copy()):
            self._new_entries.discard(folder)
            try:
                system.sync_folder(folder)
            except OSError as error:
                self._new_entries.add(folder)
                raise StorageError.from_os_error("sync", folder, error) from error
