"""Which files of a torrent are wanted, and which pieces that takes.

People number the files that hold content from 1 on, as ``btor info --files`` lists them; BEP 53 counts all entries of
the torrent from 0 on, padding included.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from btor.errors import MetainfoError, UsageError
from btor.metainfo.bitfield import Bitfield, mark
from btor.metainfo.file_list import FileEntry
from btor.metainfo.torrent_file import Metainfo

Ranges = tuple[tuple[int, int], ...]

_ITEM = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?").fullmatch


def parse_numbers(text: str) -> Ranges:
    """The (first, last) of each item of ``1,3-5``. ValueError."""
    ranges = []
    for item in text.split(","):
        match = _ITEM(item.strip())
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise ValueError("file numbers such as 1,3-5 are needed")
        ranges.append((int(match[1]), int(match[2] or match[1])))
    return tuple(ranges)


@dataclass(frozen=True, slots=True)
class Selection:
    """The files wanted: those that ``numbers``, (first, last) from 1 on, or ``include`` name, of all if neither names
    any, but for those that ``exclude`` names.

    A glob of ``include`` or ``exclude`` is held against a file's own name if it has no "/" in it, else against the path
    below the torrent's name; ``*`` stands for any characters, "/" too. Case counts.
    """

    numbers: Ranges = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def files(self, metainfo: Metainfo) -> frozenset[int]:
        """The indexes of the wanted ones. UsageError: a number or a glob names none, or nothing is left."""
        shown = [index for index, entry in enumerate(metainfo.files) if not entry.pad]
        named: set[int] = set()
        for first, last in self.numbers:
            if first < 1 or last > len(shown):
                files = "1 file" if len(shown) == 1 else f"{len(shown)} files"
                raise UsageError(f"there is no file {last if first else first}: {metainfo.name} has {files}")
            named.update(shown[first - 1 : last])
        for glob in self.include:
            named |= _matching(metainfo.files, shown, glob)
        wanted = named if self.numbers or self.include else set(shown)
        for glob in self.exclude:
            wanted -= _matching(metainfo.files, shown, glob)
        if not wanted:
            raise UsageError(f"no file of {metainfo.name} is left to download")
        return frozenset(wanted)


def _matching(files: Sequence[FileEntry], among: Iterable[int], glob: str) -> set[int]:
    found = {index for index in among if fnmatchcase(_name(files[index].path, glob), glob)}
    if not found:
        raise UsageError(f"{glob}: no file has such a name")
    return found


def _name(path: tuple[str, ...], glob: str) -> str:
    return "/".join(path[1:] or path) if "/" in glob else path[-1]


def wanted_files(metainfo: Metainfo, selection: Selection | None, select: Ranges | None) -> frozenset[int] | None:
    """The indexes of the files to download: those of ``selection``, else those that ``so`` of a magnet names.

    None for all. UsageError, MetainfoError: it names what is not there.
    """
    if selection is not None:
        wanted = selection.files(metainfo)
    elif select is not None:
        wanted = _of_magnet(metainfo, select)
    else:
        return None
    return None if all(entry.pad or index in wanted for index, entry in enumerate(metainfo.files)) else wanted


def _of_magnet(metainfo: Metainfo, select: Ranges) -> frozenset[int]:
    """The files that ``so`` names (BEP 53); what it names beyond the last one counts for nothing. MetainfoError."""
    count = len(metainfo.files)
    named = (index for first, last in select for index in range(first, min(last + 1, count)))
    wanted = frozenset(index for index in named if not metainfo.files[index].pad)
    if not wanted:
        raise MetainfoError("so", "names no file of the torrent")
    return wanted


def pieces_of_files(metainfo: Metainfo, wanted: Iterable[int]) -> Bitfield:
    """The pieces that the files ``wanted`` have bytes of."""
    geometry = metainfo.geometry
    marks = bytearray((geometry.piece_count + 7) // 8)
    for index in wanted:
        entry = metainfo.files[index]
        if entry.length:
            last = (entry.offset + entry.length - 1) // geometry.piece_length
            mark(marks, entry.offset // geometry.piece_length, last)
    return Bitfield.from_wire(marks, geometry.piece_count)
