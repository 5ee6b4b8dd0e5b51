"""The resume record: what of a torrent is verified and durable in one place, and how its files looked then.

On disk: MAGIC, the SHA-256 of all that follows it and of MAGIC, and a bencoded dictionary. A record that differs by a
bit is not believed; then the generation before it is.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from btor import bencode, limits
from btor.errors import BencodeError
from btor.metainfo.bitfield import Bitfield
from btor.storage.files import FileStat
from btor.storage.state import file_name, private_folder, read_private, real_top, remove_unfinished, replace_private

MAGIC: Final = b"btor resume record 1\n"  # another version reads as damage: that torrent is hashed again
_SEAL: Final = hashlib.sha256().digest_size
_ENTRY: Final = struct.Struct("<qQq")  # size (-1: not there), inode, mtime in ns
_MISSING: Final = _ENTRY.pack(-1, 0, 0)
_DEPTH: Final = 2
_TOKENS: Final = 64

log = logging.getLogger(__name__)


class FileStats:
    """The state of each file of a torrent, None where none is there (or it is padding), packed: 24 bytes a file."""

    __slots__ = ("_packed",)

    def __init__(self, packed: bytes | bytearray) -> None:
        self._packed = bytearray(packed)

    @classmethod
    def of(cls, stats: list[FileStat | None]) -> FileStats:
        """Pack ``stats``."""
        return cls(b"".join(_MISSING if stat is None else _ENTRY.pack(*stat) for stat in stats))

    def __len__(self) -> int:
        return len(self._packed) // _ENTRY.size

    def __getitem__(self, index: int) -> FileStat | None:
        size, inode, mtime_ns = _ENTRY.unpack_from(self._packed, index * _ENTRY.size)
        return None if size < 0 else FileStat(size, inode, mtime_ns)

    def __setitem__(self, index: int, stat: FileStat | None) -> None:
        packed = _MISSING if stat is None else _ENTRY.pack(*stat)
        self._packed[index * _ENTRY.size : (index + 1) * _ENTRY.size] = packed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FileStats) and self._packed == other._packed

    __hash__ = None  # type: ignore[assignment]  # mutable

    def to_bytes(self) -> bytes:
        """The packed form, which the constructor takes."""
        return bytes(self._packed)


@dataclass(frozen=True, slots=True)
class ResumeRecord:
    """What was known of a torrent at ``top``.

    ``have``: pieces verified and durable. ``files``: their state, by file index. ``finished``: nothing was written
    after this record, so a later time of a file is somebody else's doing; a record made while downloading is not, and
    then it may be btor's own: a sample of the pieces tells. ``uploaded`` and ``downloaded``: bytes over all runs.
    ``banned``: the IPs of peers that were proven to send bad data.
    """

    info_hash: bytes
    top: Path
    have: Bitfield
    files: FileStats
    finished: bool
    uploaded: int = 0
    downloaded: int = 0
    banned: tuple[str, ...] = ()


def encode(record: ResumeRecord) -> bytes:
    """The sealed bytes of ``record``."""
    body = bencode.encode(
        {
            b"banned": "\n".join(record.banned).encode("ascii"),
            b"downloaded": record.downloaded,
            b"files": record.files.to_bytes(),
            b"finished": int(record.finished),
            b"have": record.have.to_wire(),
            b"info_hash": record.info_hash,
            b"pieces": record.have.size,
            b"top": os.fsencode(real_top(record.top)),
            b"uploaded": record.uploaded,
        }
    )
    return MAGIC + hashlib.sha256(MAGIC + body).digest() + body


def decode(data: bytes) -> ResumeRecord | None:
    """The record that ``encode`` made ``data`` of; None for anything else."""
    start = len(MAGIC) + _SEAL
    body = data[start:]
    if data[: len(MAGIC)] != MAGIC or data[len(MAGIC) : start] != hashlib.sha256(MAGIC + body).digest():
        return None
    try:
        value = bencode.decode(body, depth=_DEPTH, tokens=_TOKENS)
        match value:
            case {
                b"downloaded": int(downloaded),
                b"files": bytes(files),
                b"finished": int(finished),
                b"have": bytes(have),
                b"info_hash": bytes(info_hash),
                b"pieces": int(pieces),
                b"top": bytes(top),
                b"uploaded": int(uploaded),
                **rest,
            } if len(files) % _ENTRY.size == 0:
                held = Bitfield.from_wire(have, pieces)
                banned = _banned(rest.get(b"banned", b""))
            case _:
                return None
    except (BencodeError, ValueError):
        return None
    path = Path(os.fsdecode(top))
    return ResumeRecord(info_hash, path, held, FileStats(files), bool(finished), uploaded, downloaded, banned)


def _banned(field: object) -> tuple[str, ...]:
    """The IPs of a record; none in an older one. ValueError."""
    if not isinstance(field, bytes):
        raise ValueError("not a string")
    return tuple(field.decode("ascii").split("\n")) if field else ()


def save(state_dir: Path, record: ResumeRecord, *, keep_previous: bool = True) -> None:
    """Write ``record``, durably, after what it names was made so. StateError.

    The one before it is kept as a fallback; not so with ``keep_previous`` False, which is for when a piece that it
    names is no longer believed.
    """
    path = _path(state_dir, record.info_hash, record.top)
    replace_private(path, encode(record), previous=path + ".old", keep_previous=keep_previous)


def load(state_dir: Path, info_hash: bytes, top: Path) -> ResumeRecord | None:
    """The record of a torrent and a destination; None without one that can be believed. StateError."""
    path = _path(state_dir, info_hash, top)
    for candidate in (path, path + ".old"):
        data = read_private(candidate, limits.RESUME_RECORD_SIZE)
        if data is None:
            continue
        record = decode(data)
        if record is not None and record.info_hash == info_hash and str(record.top) == real_top(top):
            return record
        log.warning("the resume record %s is damaged and not believed", candidate)
    return None


def clean(state_dir: Path, info_hash: bytes, top: Path) -> None:
    """Remove what a process that was killed left of a record it was writing. StateError."""
    remove_unfinished(_path(state_dir, info_hash, top))


def _path(state_dir: Path, info_hash: bytes, top: Path) -> str:
    return os.path.join(private_folder(state_dir), file_name(info_hash, top) + ".resume")
