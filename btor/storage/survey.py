"""What is there before a torrent starts: what is trusted, what must be hashed, what is in the way."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass, replace

from btor import limits
from btor.errors import StorageError
from btor.limits import MIB
from btor.metainfo.bitfield import Bitfield, mark
from btor.storage.aside import load_side, may_come_home
from btor.storage.files import Content, FileStat
from btor.storage.resume import FileStats, ResumeRecord

LEFT_ALONE = "it is left untouched (--overwrite uses its place)"
FOREIGN = FileStat(0, 0, 0)  # in a record, of a file that is somebody else's: it is in no such state


@dataclass(frozen=True, slots=True)
class Survey:
    """What ``survey`` found.

    ``trusted``: pieces had by the record's word. ``to_hash``: pieces that may be on disk besides. ``changed``: paths of
    files that are no longer as the record says, to be named. ``strangers``: indexes of files with something in them
    that btor knows nothing of. ``longer``: indexes of files longer than the torrent says. ``files``: the state of all,
    as it was before anything is hashed. ``nothing``: no file holds a byte. ``doubts``: of each file whose word is only
    taken if a sample proves good, the index and the sample: pieces that the record names, which are in ``to_hash``.
    """

    trusted: Bitfield
    to_hash: Bitfield
    changed: tuple[str, ...]
    strangers: tuple[int, ...]
    longer: tuple[int, ...]
    files: FileStats
    nothing: bool
    doubts: tuple[tuple[int, tuple[int, ...]], ...] = ()


def survey(content: Content, record: ResumeRecord | None, *, recheck: bool = False) -> Survey:
    """Look at the files of ``content`` and hold them against ``record`` (None: there is none).

    A file whose size, inode and time agree with the record is taken at its word. A later time is btor's own when the
    record was made while downloading, or that of a file that has come to the same inode since: a sample of what the
    record names must prove good, and `settle` then says what follows. Of such files the data beyond the record is to be
    hashed, of others everything. With ``recheck`` all files are to be hashed. Files that are not wanted are used where
    they are there, and never in the way. What is in the side file is held against the record likewise.
    StorageError: something that is no file stands in a file's place.
    """
    load_side(content)
    if record is not None and not _fits(record, content):
        record = None
    return _Surveyor(content, record, recheck).result()


def _fits(record: ResumeRecord, content: Content) -> bool:
    return (
        record.info_hash == content.metainfo.info_hash
        and record.have.size == content.geometry.piece_count
        and 0 <= len(record.files) - len(content.metainfo.files) <= 1  # the side file is one more
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
        self.doubted: list[int] = []
        # what the record knew to be in a side file, if it is not as it was any more
        self.side_lost = self._then(len(content.metainfo.files)) is not None

    def result(self) -> Survey:
        stats = self.content.stats()
        for index, entry in enumerate(self.content.files):
            if not entry.pad and entry.symlink is None:
                self._look_at(index, stats[index])
        if self.side_lost:
            self._deny_shared()
        count = self.content.geometry.piece_count
        word = self.record.have.to_int() if self.record is not None else 0
        trusted = word & ~_int(self.denied) & ~_int(self.absent)
        doubts = self._samples(_bitfield(trusted, count))
        for _, sample in doubts:
            for piece in sample:
                mark(self.present, piece, piece)
                mark(self.denied, piece, piece)
        trusted &= ~_int(self.denied)
        if self.record is not None:
            self._mark_zeros()
        to_hash = _int(self.present) & ~_int(self.absent) & ~trusted
        return Survey(
            _bitfield(trusted, count),
            _bitfield(to_hash, count),
            tuple(self.changed),
            tuple(self.strangers),
            tuple(self.longer),
            FileStats.of(stats),
            not any(stat is not None and stat.size for stat in stats),
            doubts,
        )

    def _samples(self, trusted: Bitfield) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Of each doubted file the first and the last of the ``trusted`` pieces, and of those between as many as are
        worth their time: all of them where that is not much."""
        named = {}
        for index in self.doubted:
            pieces = [piece for piece in self.content.pieces_of(index) if piece in trusted]
            if pieces:
                named[index] = pieces
        total = sum(map(len, named.values()))
        step = -(-total // max(1, limits.RESUME_SAMPLE // self.content.geometry.piece_length))
        return tuple((index, tuple({*pieces[::step], pieces[-1]})) for index, pieces in named.items())

    def _look_at(self, index: int, now: FileStat | None) -> None:
        entry = self.content.files[index]
        then = self._then(index)
        is_side = self.content.side is not None and index == self.content.side.index
        in_the_way = self.content.is_wanted(index) and not is_side
        if now is not None and now.size > entry.length and in_the_way:
            self.longer.append(index)
        known = self._is_known(then, now, index)
        if then is not None and not known and (in_the_way or (is_side and now is not None)):
            self.changed.append(self.content.path(index))
        if is_side:
            self._look_aside(known=known)
            return
        own = self._own_range(index)
        if in_the_way and not known and now is not None and entry.length and (own is None or 0 < now.size <= own[0]):
            self._look_before_home(index, now)
        if not entry.length or own is None:
            return
        size = min(now.size, entry.length) if now is not None else 0
        if size < own[1]:
            self._mark(self.absent, index, max(size, own[0]), own[1])
        if known and not self.recheck:
            self._mark_unnamed_data(index, own[0], min(size, own[1]))
            return
        self._mark(self.denied, index, *own)
        if now is None or size <= own[0]:
            return
        self._mark(self.present, index, own[0], min(size, own[1]))
        surely_own = (known and index not in self.doubted) or not in_the_way
        if not (surely_own or self._seems_own(then, now, index)) and self.content.data_ranges(index):
            self.strangers.append(index)

    def _look_before_home(self, index: int, now: FileStat) -> None:
        """Where a part of a wanted file comes home to, there may be a file that is not btor's."""
        if now.size and not may_come_home(self.content, index):
            self.strangers.append(index)

    def _then(self, index: int) -> FileStat | None:
        """The state that the record has of file ``index``, if it has one."""
        return self.record.files[index] if self.record is not None and index < len(self.record.files) else None

    def _own_range(self, index: int) -> tuple[int, int] | None:
        """The (start, end) of what file ``index`` has of its content itself, the rest being in the side file."""
        pieces = self.content.pieces_of(index)
        if not pieces:
            return None
        entry, piece_length = self.content.files[index], self.content.geometry.piece_length
        start, end = pieces[0] * piece_length - entry.offset, (pieces[-1] + 1) * piece_length - entry.offset
        return max(0, start), min(entry.length, end)

    def _look_aside(self, *, known: bool) -> None:
        """Of the side file everything is told by its parts: what is in it, and whether that is taken at its word."""
        assert self.content.side is not None
        self.side_lost = self.side_lost and not known
        named = self.record.have if self.record is not None else ()
        for piece in self.content.side.pieces():
            if not known or self.recheck:
                mark(self.denied, piece, piece)
            if not known or self.recheck or piece not in named:
                mark(self.present, piece, piece)

    def _deny_shared(self) -> None:
        """What the record names may be good only with bytes that were in the side file: all that can have been there
        is hashed, for other bytes may be in its place in a file that was not wanted."""
        piece_length = self.content.geometry.piece_length
        for entry in self.content.metainfo.files:
            if entry.length:
                for offset in (entry.offset, entry.offset + entry.length - 1):
                    piece = offset // piece_length
                    mark(self.denied, piece, piece)
                    mark(self.present, piece, piece)

    def _seems_own(self, then: FileStat | None, now: FileStat, index: int) -> bool:
        """Whether a file that was touched may yet be overwritten if not one piece in it is good.

        A removed file's inode is soon another's, so it is a sign only with the size that btor gave the file, and only
        where the record names nothing of it: of what it names something would still be good.
        """
        if self.record is None or then is None or not self._is_same(then, now, index):
            return False
        have = self.record.have
        return not any(piece in have for piece in self.content.pieces_of(index))

    def _is_known(self, then: FileStat | None, now: FileStat | None, index: int) -> bool:
        """Whether, for all that can be seen from outside, nobody but btor has touched a file since the record."""
        if self.record is None or now is None:
            return False
        if then is None:  # made by btor after the record, unless that was the last thing btor did: at full length
            return not self.record.finished and now.size == self.content.files[index].length
        if not self._is_same(then, now, index):
            return False
        if then.mtime_ns < now.mtime_ns and not self.record.finished:
            self.doubted.append(index)
            return True
        return then.mtime_ns == now.mtime_ns

    def _is_same(self, then: FileStat, now: FileStat, index: int) -> bool:
        """Whether it is the file of then, by inode and size. Its first write gives a file the size that it shall have,
        and btor may have ended between that, or the making of it, and the next record."""
        assert self.record is not None
        extended = then.size < now.size == self.content.files[index].length and not self.record.finished
        return then.inode == now.inode and (then.size == now.size or extended)

    def _mark_unnamed_data(self, index: int, first: int, last: int) -> None:
        """Of a file at its word, only what the record does not name and what is no hole is worth hashing, and zeros."""
        assert self.record is not None
        have = self.record.have
        if first < last and not (have.complete or all(piece in have for piece in self.content.pieces_of(index))):
            for start, end in self.content.data_ranges(index):
                if start < last and end > first:
                    self._mark(self.present, index, max(start, first), min(end, last))

    def _mark_zeros(self) -> None:
        """A hole may be content: of a piece that is all zeros, in a file that somebody else wrote and left sparse."""
        geometry, metainfo = self.content.geometry, self.content.metainfo
        last = geometry.piece_count - 1
        zeros = _sha1_of_zeros(geometry.piece_length)
        first, end = metainfo.hashes_at, metainfo.hashes_at + geometry.piece_count * len(zeros)
        at = metainfo.info.find(zeros, first, end)
        while at >= 0:
            piece, odd = divmod(at - first, len(zeros))
            if not odd:
                mark(self.present, piece, piece)
            at = metainfo.info.find(zeros, at + 1, end)
        if metainfo.piece_hash(last) == _sha1_of_zeros(geometry.last_piece_length):
            mark(self.present, last, last)

    def _mark(self, marks: bytearray, index: int, start: int, end: int) -> None:
        offset = self.content.files[index].offset
        piece_length = self.content.geometry.piece_length
        mark(marks, (offset + start) // piece_length, (offset + end - 1) // piece_length)


def _sha1_of_zeros(length: int) -> bytes:
    sha1 = hashlib.sha1(usedforsecurity=False)
    zeros = bytes(min(length, MIB))
    for start in range(0, length, MIB):
        sha1.update(zeros[: length - start])
    return sha1.digest()


def _int(marks: bytearray) -> int:
    return int.from_bytes(marks, "big")


def _bitfield(value: int, count: int) -> Bitfield:
    return Bitfield.from_wire(value.to_bytes((count + 7) // 8, "big"), count)


def settle(content: Content, found: Survey, have: Bitfield) -> Survey:
    """What is so when ``found.to_hash`` is hashed; ``have``: what was trusted and what proved good.

    A file whose sample is good is trusted. Of another one everything is hashed after all: ``to_hash`` are now the
    pieces that the record names and that are not believed any more, and it is ``changed`` and a stranger.
    """
    trusted = found.trusted.copy()
    to_hash = Bitfield(trusted.size)
    refuted = []
    for index, sample in found.doubts:
        if all(piece in have for piece in sample):
            for piece in sample:
                trusted.add(piece)
        else:
            refuted.append(index)
    for index in refuted:
        for piece in content.pieces_of(index):
            if trusted.discard(piece) and piece not in found.to_hash:
                to_hash.add(piece)
    return replace(
        found,
        trusted=trusted,
        to_hash=to_hash,
        changed=(*found.changed, *map(content.path, refuted)),
        strangers=(*found.strangers, *(index for index in refuted if content.data_ranges(index))),
        doubts=(),
    )


def disown(content: Content, files: FileStats, have: Bitfield) -> None:
    """Before ``files`` are kept in a record: a file that is not wanted and has no good piece is not btor's.

    Should it be wanted later, it must not pass for one that btor knows.
    """
    for index in range(len(content.metainfo.files)):
        if files[index] is not None and not content.is_wanted(index):
            pieces = content.pieces_of(index)
            if content.files[index].length and not any(piece in have for piece in pieces):
                files[index] = FOREIGN


def refuse(content: Content, found: Survey, have: Bitfield | None) -> None:
    """Stop before anything of somebody else's is lost, unless the person said --overwrite (then do not call this).

    Call it after ``survey`` with ``have`` None, and again when all is hashed, with the pieces that are good.
    StorageError: a file is longer than the torrent says, or holds not one of the good pieces and yet something.
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
