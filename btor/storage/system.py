"""Every call that only some systems have, in one place, each with a plain fallback.

The ``HAS_…`` flags say what this system offers; a test switches one off to run the fallback. All functions raise
OSError as the system call does; who calls knows the operation and the path and makes a StorageError of it.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Final

fcntl: ModuleType | None
try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None
resource: ModuleType | None
try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None

HAS_VECTORED = hasattr(os, "preadv") and hasattr(os, "pwritev")
HAS_CACHED_READ = hasattr(os, "RWF_NOWAIT")
HAS_FOLDER_DESCRIPTORS = os.open in os.supports_dir_fd and os.mkdir in os.supports_dir_fd
HAS_DATA_RANGES = hasattr(os, "SEEK_DATA")
HAS_LOCKS = fcntl is not None
HAS_PROBE_SIGNAL = os.name == "posix"  # elsewhere the signal 0 is not nothing
HAS_DESCRIPTOR_LIMIT = resource is not None
HAS_THREAD_USAGE = hasattr(resource, "RUSAGE_THREAD")
HAS_SLEEP_CLOCK = hasattr(time, "CLOCK_BOOTTIME")
HAS_FULL_SYNC = hasattr(fcntl, "F_FULLFSYNC")  # macOS, whose fsync leaves data in the drive's cache

IOV_MAX: Final = 1024  # POSIX systems of today take this many buffers a call
NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_NON_BLOCKING: Final = getattr(os, "O_NONBLOCK", 0)  # a planted FIFO must not hang the open; files do not care
_COMMON: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | _NON_BLOCKING
_FOLDER: Final = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_PATH", 0) | getattr(os, "O_CLOEXEC", 0)
SYNC_FLAGS: Final = os.O_RDWR if os.name == "nt" else os.O_RDONLY  # what a sync needs the file to be opened for
_position_lock = threading.Lock()  # the fallback moves the file's one position, which threads share


def readv(fd: int, views: Sequence[memoryview], position: int) -> int:
    """Read at ``position`` into ``views`` (at most IOV_MAX) in order; how many bytes, 0 at the end."""
    if HAS_VECTORED:
        return os.preadv(fd, views, position)
    done = 0
    with _position_lock:
        os.lseek(fd, position, os.SEEK_SET)
        for view in views:
            data = os.read(fd, len(view))
            view[: len(data)] = data
            done += len(data)
            if len(data) < len(view):
                break
    return done


def readv_cached(fd: int, views: Sequence[memoryview], position: int) -> int:
    """As ``readv``, but only what the page cache holds: BlockingIOError when it holds none of it.

    OSError with EOPNOTSUPP: the file system, or this system, cannot tell.
    """
    if not (HAS_CACHED_READ and HAS_VECTORED):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return os.preadv(fd, views, position, os.RWF_NOWAIT)


def writev(fd: int, views: Sequence[memoryview], position: int) -> int:
    """Write ``views`` (at most IOV_MAX) at ``position``; how many bytes were taken."""
    if HAS_VECTORED:
        return os.pwritev(fd, views, position)
    done = 0
    with _position_lock:
        os.lseek(fd, position, os.SEEK_SET)
        for view in views:
            taken = os.write(fd, view)
            done += taken
            if taken < len(view):
                break
    return done


def write_all(fd: int, views: Sequence[memoryview], position: int, length: int) -> None:
    """Write all ``length`` bytes of ``views`` at ``position``, in one call where the system takes them at once."""
    if len(views) <= IOV_MAX:
        done = writev(fd, views, position)
        if done == length:
            return
    else:
        done = 0
    rest = list(views)
    taken = done
    while done < length:
        rest = advance(rest, taken)
        taken = writev(fd, rest[:IOV_MAX], position + done)
        if taken == 0:
            raise OSError(errno.EIO, "the system wrote nothing and gave no reason")
        done += taken


def read_all(fd: int, views: Sequence[memoryview], position: int, length: int) -> int:
    """Fill ``views`` (``length`` bytes in all) from ``position``; how many bytes: fewer only at the end of the file."""
    done = 0
    rest = views
    while done < length:
        taken = readv(fd, rest[:IOV_MAX] if len(rest) > IOV_MAX else rest, position + done)
        if taken == 0:
            break
        done += taken
        if done < length:
            rest = advance(rest, taken)
    return done


def advance(views: Sequence[memoryview], count: int) -> list[memoryview]:
    """What is left of ``views`` after their first ``count`` bytes."""
    for index, view in enumerate(views):
        if count < len(view):
            return [view[count:], *views[index + 1 :]]
        count -= len(view)
    return []


def open_file(path: str, flags: int, *, follow: bool, mode: int = 0o666) -> int:
    """Open ``path``; without ``follow`` a link in its last place is refused (ELOOP)."""
    return os.open(path, flags | _COMMON | (0 if follow else NO_FOLLOW), mode)


def open_below(top: str, parts: tuple[str, ...], flags: int, mode: int = 0o666) -> int:
    """Open ``top``/``parts`` without following any link from ``top`` on (``top`` itself included).

    Folders are walked by descriptor, so that nobody can swap one for a link meanwhile.
    """
    if not parts:
        return open_file(top, flags, follow=False, mode=mode)
    if not HAS_FOLDER_DESCRIPTORS:
        _refuse_links(top, parts[:-1])
        return open_file(os.path.join(top, *parts), flags, follow=False, mode=mode)
    folder = open_folder(top, parts[:-1])
    try:
        return os.open(parts[-1], flags | _COMMON | NO_FOLLOW, mode, dir_fd=folder)
    finally:
        os.close(folder)


def open_folder(top: str, parts: tuple[str, ...]) -> int:
    """A descriptor of the folder ``top``/``parts``, no link followed. Good as ``dir_fd`` only."""
    folder = os.open(top, _FOLDER | NO_FOLLOW)
    for part in parts:
        try:
            deeper = os.open(part, _FOLDER | NO_FOLLOW, dir_fd=folder)
        finally:
            os.close(folder)
        folder = deeper
    return folder


def make_folder_below(top: str, parts: tuple[str, ...]) -> bool:
    """Make the folder ``top``/``parts``, whose parent is there; False when it was there. No link is followed."""
    try:
        if not parts:
            os.mkdir(top)
        elif not HAS_FOLDER_DESCRIPTORS:
            _refuse_links(top, parts[:-1])
            os.mkdir(os.path.join(top, *parts))
        else:
            folder = open_folder(top, parts[:-1])
            try:
                os.mkdir(parts[-1], dir_fd=folder)
            finally:
                os.close(folder)
    except FileExistsError:
        return False
    return True


def _refuse_links(top: str, parts: tuple[str, ...]) -> None:
    path = top
    for part in ("", *parts):
        path = os.path.join(path, part) if part else path
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The (start, end) ranges below ``size`` that hold data, not holes. One range of all where nobody can tell."""
    if not HAS_DATA_RANGES:
        if size:
            yield 0, size
        return
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            start, end = position, size
        if start >= size:
            return
        yield start, min(end, size)
        position = end


def sync_file(fd: int) -> None:
    """Make what was written to ``fd``, its length and its time of change durable.

    Not fdatasync, which may leave the time behind: it costs no less while blocks are being allocated, and a file whose
    time went back in a power cut would have to be hashed again.
    """
    if HAS_FULL_SYNC and fcntl is not None:
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY):  # file systems without it
                raise
    os.fsync(fd)


def link(source: str, target: str) -> None:
    """Give the file ``source`` the second name ``target``; where it can be helped, a symbolic link is not followed."""
    if os.link in os.supports_follow_symlinks:
        os.link(source, target, follow_symlinks=False)
    else:
        os.link(source, target)


def sync_folder(path: str) -> None:
    """Make the entries of the folder ``path`` durable, where the system has that notion."""
    if os.name == "nt":
        return
    folder = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _COMMON)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF):  # file systems without it
            raise
    finally:
        os.close(folder)


def try_lock(fd: int) -> bool:
    """Lock the open file ``fd`` for this process until it is closed; False when another holds it.

    Where the system or the file system has no such locks the answer is True.
    """
    if not HAS_LOCKS or fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    return True


def raise_descriptor_limit(wanted: int) -> int:
    """Let the process have ``wanted`` descriptors, or as many as it may; how many of these it has now."""
    if not HAS_DESCRIPTOR_LIMIT or resource is None:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # some systems and sandboxes allow less than they say
            return int(soft)
    return wanted


def time_asleep() -> float:
    """Seconds that the machine has slept since some fixed moment, which monotonic clocks leave out; 0.0: unknown."""
    if HAS_SLEEP_CLOCK:
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    return 0.0


def voluntary_switches() -> int:
    """How often this thread has slept in the kernel; -1 where the system does not tell."""
    if not HAS_THREAD_USAGE or resource is None:
        return -1
    return int(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw)


def process_lives(number: int) -> bool:
    """Whether there is a process ``number``; True where nobody can tell."""
    if not HAS_PROBE_SIGNAL:
        return True
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's; no number of a process
        return True
    return True
