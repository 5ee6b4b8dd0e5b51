"""Holding content on disk against its torrent, with all processors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from btor.metainfo.bitfield import Bitfield
from btor.metainfo.torrent_file import Metainfo
from btor.storage.aside import load_side
from btor.storage.files import Content, FileStat
from btor.storage.hasher import NOT_THERE
from btor.storage.hashing import hash_pieces
from btor.storage.own import open_own
from btor.storage.pool import FilePool

Status = Literal["ok", "missing", "short", "long", "bad"]
Progress = Callable[[int, int], None]
"""Called with (pieces done, pieces in all)."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What ``verify`` found.

    ``have``: the good pieces; ``bad_pieces``: the others, ascending. ``files``: for every file but padding its path,
    "/" between the parts, the torrent's name first, and a status. A file is ``bad`` when its length is right and a
    piece it has bytes of is not good: of a piece that several files share nobody can tell whose fault it is. Of a link
    (BEP 47) it is only asked whether something is there.
    ``complete``: every file is ``ok``.
    """

    complete: bool
    have: Bitfield
    bad_pieces: tuple[int, ...]
    files: tuple[tuple[str, Status], ...]


def verify(
    metainfo: Metainfo,
    path: str | os.PathLike[str],
    *,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Hash the content at ``path``, which is the content itself under any name, or the folder that holds it.

    Nothing is written, and links are followed. ``processes``: hashers, None for one per processor. StorageError: there
    is nothing at ``path``, or what is there cannot be read.
    """
    content = open_own(metainfo, Path(path), FilePool())
    load_side(content)
    stats = content.stats()
    count = metainfo.geometry.piece_count
    have = Bitfield(count)
    for piece, digest in hash_content(content, range(count), processes):
        if digest == metainfo.piece_hash(piece):
            have.add(piece)
        if progress is not None:
            progress(piece + 1, count)
    files = tuple(
        ("/".join(entry.path), _status(content, index, stats[index], have))
        for index, entry in enumerate(metainfo.files)
        if not entry.pad
    )
    return Verification(all(status == "ok" for _, status in files), have, tuple(have.missing()), files)


def hash_content(
    content: Content, pieces: Sequence[int], processes: int | None = None
) -> Iterator[tuple[int, bytes | None]]:
    """The SHA-1 of each of ``pieces`` (ascending); None where a file is missing or short. StorageError otherwise."""
    for piece, digest, failure in hash_pieces(content.geometry, pieces, content.segments, processes):
        if failure is not None and failure.errno not in NOT_THERE:
            raise failure
        yield piece, digest


def _status(content: Content, index: int, stat: FileStat | None, have: Bitfield) -> Status:
    length = content.files[index].length
    if content.files[index].symlink is not None:
        return "ok" if os.path.lexists(content.path(index)) else "missing"
    if stat is None:
        return "missing"
    if stat.size != length:
        return "short" if stat.size < length else "long"
    if index in content.apart:  # some of it lies in the side file
        return "bad"
    return "ok" if all(piece in have for piece in content.pieces_of(index)) else "bad"
