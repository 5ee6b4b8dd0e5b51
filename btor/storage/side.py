"""The side file of a torrent of which not all files are wanted.

A piece that a wanted and an unwanted file share has bytes that belong into no file that is made. They are kept, each
run of them a *part*: what one file has of one piece. The side file is HEAD and the info-hash, then parts, each behind
an ENTRY that says what it is. Decision 8 says why it is so, and where it is.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from btor import limits
from btor.metainfo.file_list import FileEntry
from btor.metainfo.geometry import Geometry

HEAD: Final = b"btor side file 1\n"
ENTRY: Final = struct.Struct(">4sIIII")  # tag, file, piece, length, CRC-32 of all that
_PART: Final = b"part"
_VOID: Final = b"void"  # of a part that is in its own file now
_NAME: Final = re.compile(r"\.btor-[0-9a-f]{40}\.parts")
_START: Final = len(HEAD) + 20

Span = tuple[int, int, int]  # (file, offset in it, length)
Read = Callable[[int, int], bytes]
"""(position, length) of the side file → what is there of it."""
Write = Callable[[int, bytes], None]


def side_name(info_hash: bytes) -> str:
    """The side file's name, below the torrent's folder."""
    return f".btor-{info_hash.hex()}.parts"


def is_side_name(name: str) -> bool:
    """Whether a file of this name is the side file of some torrent."""
    return _NAME.fullmatch(name) is not None


class SideFile:
    """Where in it each part is. ``index``: the number by which `Content` knows it, behind those of all ``files``."""

    def __init__(self, info_hash: bytes, geometry: Geometry, files: Sequence[FileEntry]) -> None:
        self.index = len(files)
        self._geometry = geometry
        self._files = files
        self._head = HEAD + info_hash
        self._parts: dict[int, dict[int, int]] = {}  # file → piece → where its bytes begin
        self._end = 0  # nothing behind it is of use; 0: there is no valid head

    # --- what is where -------------------------------------------------------------------------------------------

    def pieces(self) -> list[int]:
        """The pieces of which it has parts, ascending."""
        return sorted({piece for parts in list(self._parts.values()) for piece in list(parts)})

    def pieces_of(self, file: int) -> set[int]:
        """The pieces of which it has the part of ``file``."""
        return set(self._parts.get(file, ()))

    def files(self) -> list[int]:
        """The files that it has parts of."""
        return list(self._parts)

    def edge(self, file: int, piece: int) -> tuple[int, int]:
        """(offset in ``file``, length) of what it has of ``piece``; the length is 0 where that is nothing."""
        entry, piece_length = self._files[file], self._geometry.piece_length
        start = max(piece * piece_length, entry.offset)
        end = min((piece + 1) * piece_length, entry.offset + entry.length)
        return start - entry.offset, max(0, end - start)

    def split(self, file: int, position: int, length: int) -> Iterator[Span]:
        """Where ``length`` bytes of ``file`` from ``position`` on lie: in the file itself, or here."""
        at, end = position, position + length
        parts = self._parts.get(file, {})
        for piece in sorted(parts):
            start, size = self.edge(file, piece)
            first, last = max(start, at), min(start + size, end)
            if first < last:
                if at < first:
                    yield file, at, first - at
                yield self.index, parts[piece] + first - start, last - first
                at = last
        if at < end:
            yield file, at, end - at

    # --- what changes it -----------------------------------------------------------------------------------------

    def load(self, read: Read) -> int:
        """Find the parts; where the last one ends. What comes behind damage is lost."""
        self.clear()
        if read(0, _START) == self._head:
            self._end = _START
            for _ in range(limits.SIDE_ENTRIES):
                if not self._load_part(read(self._end, ENTRY.size)):
                    break
        return self._end

    def _load_part(self, data: bytes) -> bool:
        """The part whose entry stands at the end of those known; False: it is none."""
        if len(data) < ENTRY.size:
            return False
        tag, file, piece, length, _ = ENTRY.unpack(data)
        if data != _entry(tag, file, piece, length):
            return False
        if tag == _PART:
            if not self._is_edge(file, piece) or self.edge(file, piece)[1] != length or piece in self.pieces_of(file):
                return False
            self._parts.setdefault(file, {})[piece] = self._end + ENTRY.size
        self._end += ENTRY.size + length
        return True

    def _is_edge(self, file: int, piece: int) -> bool:
        """Whether ``piece`` is the first or the last that ``file`` has bytes of: another one is no other file's."""
        if file >= len(self._files) or not self._files[file].length:
            return False
        entry, piece_length = self._files[file], self._geometry.piece_length
        return piece in (entry.offset // piece_length, (entry.offset + entry.length - 1) // piece_length)

    def make_room(self, file: int, position: int, length: int, write: Write) -> None:
        """Have parts for ``length`` > 0 bytes of ``file`` from ``position`` on; new ones go to the end."""
        offset, piece_length = self._files[file].offset + position, self._geometry.piece_length
        for piece in range(offset // piece_length, (offset + length - 1) // piece_length + 1):
            if piece in self._parts.get(file, ()):
                continue
            if not self._is_edge(file, piece):
                raise RuntimeError(f"piece {piece} is of no wanted file")
            if not self._end:
                write(0, self._head)
                self._end = _START
            size = self.edge(file, piece)[1]
            write(self._end, _entry(_PART, file, piece, size))
            self._parts.setdefault(file, {})[piece] = self._end + ENTRY.size
            self._end += ENTRY.size + size

    def discard(self, file: int, write: Write) -> None:
        """The parts of ``file`` are of no use any more."""
        for piece, start in self._parts.pop(file).items():
            write(start - ENTRY.size, _entry(_VOID, file, piece, self.edge(file, piece)[1]))

    def clear(self) -> None:
        """It is not there any more."""
        self._parts.clear()
        self._end = 0


def _entry(tag: bytes, file: int, piece: int, length: int) -> bytes:
    known = ENTRY.pack(tag, file, piece, length, 0)[:-4]
    return known + zlib.crc32(known).to_bytes(4, "big")
