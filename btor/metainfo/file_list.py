"""The list of files of a v1 ``info`` (BEP 3, BEP 47) and the files that btor makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from btor.bencode import Value
from btor.errors import MetainfoError
from btor.limits import FILE_COUNT
from btor.metainfo.links import Links
from btor.metainfo.paths import safe_element, unique_paths
from btor.metainfo.raw_file import RawFile, differing, read_attributes, read_elements, read_length

_OLD_PADDING = b"_____padding_file_"  # what BitComet calls its padding, without the attribute of BEP 47


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the content.

    ``path``: safe elements, the torrent's own name first. ``length`` and ``offset`` in the content stream: bytes.
    ``pad``: zeros that are never written; its path is for show and may equal another's. ``symlink``: None for a file,
    for a link where it points, a safe path like ``path``, or () where that is not in the torrent. A link has length 0.
    ``raw_path``: below the torrent's name, as the torrent writes it, where that is another path that a file can have:
    who made the torrent has it there.
    """

    path: tuple[str, ...]
    length: int
    offset: int
    pad: bool = False
    executable: bool = False
    symlink: tuple[str, ...] | None = None
    raw_path: tuple[bytes, ...] | None = None


def read_file_list(files: Value) -> list[RawFile]:
    """The entries of ``files``, in order. MetainfoError."""
    if not isinstance(files, list) or not files:
        raise MetainfoError("files", "must be a list of at least one file")
    if len(files) > FILE_COUNT:
        raise MetainfoError("files", f"more than {FILE_COUNT}")
    entries = []
    for index, entry in enumerate(files):
        try:
            entries.append(_read_entry(entry))
        except MetainfoError as error:
            raise MetainfoError(f"files[{index}] {error.field}".rstrip(), error.reason) from None
    return entries


def _read_entry(entry: Value) -> RawFile:
    if not isinstance(entry, dict):
        raise MetainfoError("", "must be a dictionary")
    attributes = read_attributes(entry)
    path = entry.get(b"path.utf-8")
    if not isinstance(path, list):
        path = entry.get(b"path")
    if b"p" in attributes:
        length = read_length(entry.get(b"length"))
        elements = read_elements(path, "path") if path else (b".pad", b"%d" % length)
        return RawFile(elements, length, pad=True)
    elements = read_elements(path, "path")
    if b"l" in attributes:
        target = read_elements(entry.get(b"symlink path"), "symlink path")
        return RawFile(elements, 0, False, b"x" in attributes, target)
    pad = elements[-1].startswith(_OLD_PADDING)
    return RawFile(elements, read_length(entry.get(b"length")), pad, b"x" in attributes)


def place_files(root: str, raw_files: Sequence[RawFile]) -> tuple[FileEntry, ...]:
    """The files below the safe name ``root``, at safe paths of their own, one after the other. MetainfoError."""
    content = iter(unique_paths(root, [raw.path for raw in raw_files if not raw.pad]))
    paths = [None if raw.pad else next(content) for raw in raw_files]
    links = Links(root, raw_files, paths) if any(raw.target is not None for raw in raw_files) else None
    placed = []
    offset = 0
    for index, (raw, path) in enumerate(zip(raw_files, paths, strict=True)):
        if path is None:
            path = (root, *map(safe_element, raw.path))
        symlink = None if links is None or raw.target is None else links.target(index)
        raw_path = None if raw.pad else differing(raw.path, path[1:])
        placed.append(FileEntry(path, raw.length, offset, raw.pad, raw.executable, symlink, raw_path))
        offset += raw.length
    return tuple(placed)
