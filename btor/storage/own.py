"""Content that a person has, to be read only: where it is, and under which names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from btor.errors import StorageError
from btor.metainfo.torrent_file import FileEntry, Metainfo
from btor.storage.files import Content
from btor.storage.pool import FilePool

ANY_NAME = os.name == "posix"  # elsewhere a name can lead to a device or to another drive
LOOKED_AT = 1_000  # files, to tell the content from the folder that holds it


def open_own(metainfo: Metainfo, path: Path, pool: FilePool) -> Content:
    """The content at ``path``, which is as `locate` has it. Links are followed. StorageError: nothing is there.

    Files whose names btor would change lie there under their own if the person made the torrent of them, and under
    the changed ones if btor downloaded them.
    """
    top = locate(metainfo, path)
    return Content(metainfo, top, pool, writable=False, follow_links=True, names=_raw_names(metainfo, top))


def locate(metainfo: Metainfo, path: Path) -> Path:
    """What ``path`` of ``seed`` and ``verify`` means: the content itself under any name, or the folder that holds it.

    Between two that could be meant, the one with more of the files in their sizes; the content itself if equal.
    StorageError: there is nothing at ``path``.
    """
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        raise StorageError.from_os_error("open", str(path), error) from error
    if not is_folder:
        return path
    inside = path / metainfo.name
    if metainfo.raw_name is not None and ANY_NAME and not os.path.lexists(inside):
        raw = path / os.fsdecode(metainfo.raw_name)
        inside = raw if os.path.lexists(raw) else inside
    if metainfo.single_file or _fitting(metainfo, inside) > _fitting(metainfo, path):
        return inside
    return path


def _fitting(metainfo: Metainfo, top: Path) -> int:
    count = 0
    for entry in metainfo.files[:LOOKED_AT]:
        if not entry.pad:
            raw = _raw(entry)
            count += _fits(entry, top, entry.path[1:]) or (raw is not None and _fits(entry, top, raw))
    return count


def _raw_names(metainfo: Metainfo, top: Path) -> dict[int, tuple[str, ...]]:
    """The places of those of ``metainfo.files`` that lie below ``top`` under the names that the torrent gives them."""
    changed: dict[int, tuple[str, ...]] = {}
    more_raw = 0
    for index, entry in enumerate(metainfo.files):
        raw = _raw(entry)
        if raw is not None and not entry.pad:
            changed[index] = raw
            more_raw += _fits(entry, top, raw) - _fits(entry, top, entry.path[1:])
    names = {}
    for index, raw in changed.items():
        # one's changed name may be another's own: what fits more files counts, where it leads to anything
        is_there = os.path.lexists(top.joinpath(*raw))  # not so for a name that this system cannot have
        if is_there and (more_raw > 0 or not os.path.lexists(top.joinpath(*metainfo.files[index].path[1:]))):
            names[index] = raw
    return names


def _raw(entry: FileEntry) -> tuple[str, ...] | None:
    if entry.raw_path is None or not ANY_NAME:
        return None
    return tuple(map(os.fsdecode, entry.raw_path))


def _fits(entry: FileEntry, top: Path, parts: tuple[str, ...]) -> bool:
    """Whether a file of the right length is there."""
    try:
        found = os.stat(top.joinpath(*parts))
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == entry.length
