"""What is there before a torrent starts: what is trusted, what must be hashed, what is in the way."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from btor.errors import StorageError
from btor.metainfo.bitfield import Bitfield
from btor.storage.files import Content, FileStat, mark
from btor.storage.resume import FileStats, ResumeRecord

LEFT_ALONE = "it is left untouched (--overwrite uses its place)"


@dataclass(frozen=True, slots=True)
class Survey:
    """What ``survey`` found.

    ``trusted``: pieces had by the record's word. ``to_hash``: pieces that may be on disk besides. ``changed``: paths of
    files that are no longer as the record says, to be named. ``strangers``: indexes of files with something in them
    that btor knows nothing of. ``longer``: indexes of files longer than the torrent says. ``files``: the state of all,
    as it was before anything is hashed. ``nothing``: no file holds a byte.
    """

    trusted: Bitfield
    to_hash: Bitfield
    changed: tuple[str, ...]
    strangers: tuple[int, ...]
    longer: tuple[int, ...]
    files: FileStats
    nothing: bool


def survey(content: Content, record: ResumeRecord | None, *, recheck: bool = False) -> Survey:
    """Look at the files of ``content`` and hold them against ``record`` (None: there is none).

    A file whose size, inode and time agree with the record is taken at its word; a later time is btor's own when the
    record was made while downloading. Of such files the data beyond the record is to be hashed, of others everything.
    With ``recheck`` the record only tells which files are btor's own, and all are to be hashed.
    StorageError: something that is no file stands in a file's place.
    """
    if record is not None and not _fits(record, content):
        record = None
    return _Surveyor(content, record, recheck).result()


def _fits(record: ResumeRecord, content: Content) -> bool:
    return (
        record.info_hash == content.metainfo.info_hash
        and record.have.size == content.geometry.piece_count
        and len(record.files) == len(content.files)
    )


class _Surveyor:
    def __init__(self, content: Content, record: ResumeRecord | None, recheck: bool) -> None:
        self.content = content
        self.recheck = recheck
        self.record = record
        size = (content.geometry.piece_count + 7) // 8
        self.present = bytearray(size)  # pieces that some file has bytes of
        self.absent = bytearray(size)  # pieces that some file lacks bytes of: they cannot be good
        self.denied = bytearray(size)  # pieces for which the record's word is not taken
        self.changed: list[str] = []
        self.strangers: list[int] = []
        self.longer: list[int] = []

    def result(self) -> Survey:
        stats = self.content.stats()
        for index, entry in enumerate(self.content.files):
            if not entry.pad and entry.symlink is None:
                self._look_at(index, stats[index])
        count = self.content.geometry.piece_count
        word = self.record.have.to_int() if self.record is not None else 0
        trusted = word & ~_int(self.denied) & ~_int(self.absent)
        to_hash = _int(self.present) & ~_int(self.absent) & ~trusted
        return Survey(
            _bitfield(trusted, count),
            _bitfield(to_hash, count),
            tuple(self.changed),
            tuple(self.strangers),
            tuple(self.longer),
            FileStats.of(stats),
            not any(stat is not None and stat.size for stat in stats),
        )

    def _look_at(self, index: int, now: FileStat | None) -> None:
        entry = self.content.files[index]
        then = self.record.files[index] if self.record is not None else None
        if now is not None and now.size > entry.length:
            self.longer.append(index)
        known = self._is_known(then, now)
        if then is not None and not known:
            self.changed.append(self.content.path(index))
        if not entry.length:
            return
        size = min(now.size, entry.length) if now is not None else 0
        if size < entry.length:
            self._mark(self.absent, index, size, entry.length)
        if known and not self.recheck:
            self._mark_unnamed_data(index, size)
            return
        self._mark(self.denied, index, 0, entry.length)
        if now is None or not size:
            return
        self._mark(self.present, index, 0, size)
        # a removed file's inode is soon another's: only with the size that btor gave it is it a sign
        own = known or (then is not None and (then.inode, then.size) == (now.inode, now.size))
        if not own and self.content.data_ranges(index):
            self.strangers.append(index)

    def _is_known(self, then: FileStat | None, now: FileStat | None) -> bool:
        """Whether nobody but btor has touched a file since the record."""
        if self.record is None or now is None:
            return False
        if then is None:  # made by btor after the record, unless that was the last thing btor did
            return not self.record.finished
        if (then.size, then.inode) != (now.size, now.inode):
            return False
        return then.mtime_ns == now.mtime_ns or (not self.record.finished and then.mtime_ns < now.mtime_ns)

    def _mark_unnamed_data(self, index: int, size: int) -> None:
        """Of a file at its word, only what the record does not name and what is no hole is worth hashing."""
        assert self.record is not None
        have = self.record.have
        if size and not (have.complete or all(piece in have for piece in self.content.pieces_of(index))):
            for start, end in self.content.data_ranges(index):
                self._mark(self.present, index, start, min(end, size))

    def _mark(self, marks: bytearray, index: int, start: int, end: int) -> None:
        offset = self.content.files[index].offset
        piece_length = self.content.geometry.piece_length
        mark(marks, (offset + start) // piece_length, (offset + end - 1) // piece_length)


def _int(marks: bytearray) -> int:
    return int.from_bytes(marks, "big")


def _bitfield(value: int, count: int) -> Bitfield:
    return Bitfield.from_wire(value.to_bytes((count + 7) // 8, "big"), count)


def refuse(content: Content, found: Survey, have: Bitfield | None) -> None:
    """Stop before anything of somebody else's is lost, unless the person said --overwrite (then do not call this).

    Call it after ``survey`` with ``have`` None, and again when ``found.to_hash`` is hashed, with the pieces that are
    good. StorageError: a file is longer than the torrent says, or holds not one of the good pieces and yet something.
    """
    for index in found.longer:
        length = content.files[index].length
        reason = f"longer than the {length} bytes the torrent says; {LEFT_ALONE}"
        raise StorageError("keep", content.path(index), reason, errno.EEXIST)
    if have is None:
        return
    for index in found.strangers:
        if not any(piece in have for piece in content.pieces_of(index)):
            reason = f"not one valid piece of this torrent is in it; {LEFT_ALONE}"
            raise StorageError("keep", content.path(index), reason, errno.EEXIST)
