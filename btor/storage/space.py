"""How much room the content of a torrent needs on its disk, and how much there is."""

from __future__ import annotations

import errno
import os
import shutil

from btor.errors import StorageError
from btor.metainfo.selection import pieces_of_files
from btor.storage.files import Content


def space_needed(content: Content) -> int:
    """Bytes that the disk must still give for the whole of the wanted files, and for what goes to the side file."""
    needed = _aside(content)
    for index, entry in enumerate(content.files):
        if entry.pad or not content.is_wanted(index):
            continue
        try:
            found = os.stat(content.path(index), follow_symlinks=content.follow_links)
            given = found.st_blocks * 512 if hasattr(found, "st_blocks") else found.st_size
        except OSError:  # not there, as far as space goes; who opens it will say why
            given = 0
        needed += max(0, entry.length - given)
    return needed


def _aside(content: Content) -> int:
    """Bytes that the side file will have in addition to what it has."""
    if content.side is None:
        return 0
    files = range(len(content.metainfo.files))
    wanted = pieces_of_files(content.metainfo, filter(content.is_wanted, files))
    needed = 0
    for index in files:
        pieces = content.pieces_of(index)
        if pieces and not content.files[index].pad and not content.is_wanted(index):
            edges = {pieces[0], pieces[-1]}
            needed += sum(content.side.edge(index, piece)[1] for piece in edges if piece in wanted)
    return needed


def check_place(content: Content) -> None:
    """StorageError where nothing can be written: known before a peer is asked for anything."""
    path = _place_there(content)
    if path == str(content.top) and os.path.isdir(path) and _all_there(content):
        return  # nothing need be made
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY if hasattr(os, "statvfs") else False
        code = errno.EROFS if read_only else errno.EACCES
        raise StorageError.from_os_error("write", path, OSError(code, os.strerror(code)))


def _all_there(content: Content) -> bool:
    """Whether every wanted file has been made."""
    wanted = (index for index, entry in enumerate(content.files) if content.is_wanted(index) and not entry.pad)
    return all(os.path.lexists(content.path(index)) for index in wanted)


def _place_there(content: Content) -> str:
    """What is there already of the content's place: itself or a folder above."""
    path = str(content.top)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def free_space(content: Content) -> int:
    """Bytes free for us where the content is, or will be. StorageError."""
    path = _place_there(content)
    try:
        return shutil.disk_usage(path).free
    except OSError as error:
        raise StorageError.from_os_error("look at", path, error) from error


def device(content: Content) -> int:
    """The number of the file system (st_dev) where the content is, or will be. StorageError."""
    folder = os.path.dirname(content.top)
    while True:
        try:
            return os.stat(folder).st_dev
        except FileNotFoundError:
            folder = os.path.dirname(folder)
        except OSError as error:
            raise StorageError.from_os_error("look at", folder, error) from error
