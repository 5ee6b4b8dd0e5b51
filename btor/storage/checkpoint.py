"""Writing the resume record while a torrent runs, so that it never names a piece that the disk could deny.

Two steps. ``snapshot`` on the loop's thread takes the pieces that are verified now and the files written since. Whoever
has a blocking thread then calls ``save``, which syncs those files, and only then writes the record. A piece verified
after the snapshot is not in it; what was written before it is in a file that is synced. Of a file whose sync failed
nobody knows what the disk holds (the system forgets the failure), so pieces in it that were not durable before are
never named in this run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from btor.errors import StorageError
from btor.metainfo.bitfield import Bitfield
from btor.storage.files import NOT_THERE, Content
from btor.storage.resume import FileStats, ResumeRecord, save


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one checkpoint is about. ``owed``: files that must be synced first; ``written``: those btor wrote to."""

    have: Bitfield
    owed: frozenset[int]
    written: frozenset[int]
    finished: bool
    uploaded: int
    downloaded: int


class Checkpoint:
    """The record of one torrent. One checkpoint at a time: no ``snapshot`` before the ``save`` of the last has ended.

    ``have``: the pieces had at the start, ``trusted``: those of them that the last record named; ``files``: the state
    of the files before the rest was hashed. ``banned``: the IPs that records name from now on.
    """

    def __init__(
        self, state_dir: Path, content: Content, *, have: Bitfield, trusted: Bitfield, files: FileStats
    ) -> None:
        self._state_dir = state_dir
        self._content = content
        self._files = files
        self._durable = trusted.copy()
        self.banned: tuple[str, ...] = ()
        self._first = True
        self._suspect: set[int] = set()
        self._written: set[int] = set()
        # Found on disk by hashing is not durable: an earlier run may have been killed before its sync.
        self._owed = _files_with(content, have, trusted)

    def begin(self, *, uploaded: int = 0, downloaded: int = 0) -> None:
        """Blocking; before the first write: a record that says that btor is at work here. StateError.

        Without it the next run, after a kill, would take btor's own files for somebody else's.
        """
        self._write(Snapshot(self._durable.copy(), frozenset(), frozenset(), False, uploaded, downloaded))

    def forget(self, index: int) -> None:
        """File ``index`` has been removed: there is nothing of it to be synced or known."""
        self._owed.discard(index)
        self._files[index] = None

    def snapshot(self, have: Bitfield, *, finished: bool, uploaded: int, downloaded: int) -> Snapshot:
        """On the loop's thread; cheap. ``have``: the pieces verified, all of whose bytes the kernel has.

        ``finished``: no write is under way and none follows before the next ``begin``.
        """
        self._written |= self._content.take_dirty()
        self._owed |= self._written
        return Snapshot(have.copy(), frozenset(self._owed), frozenset(self._written), finished, uploaded, downloaded)

    def save(self, snapshot: Snapshot) -> None:
        """Blocking, in any thread: sync, then write the record.

        StorageError: the content cannot be synced, StateError: the record cannot be written; the one before it stands.

        A snapshot that is not saved costs nothing: what it owed, the next one owes.
        """
        for index in sorted(snapshot.owed):
            try:
                state = self._content.sync([index])[index]
            except StorageError as error:
                self._suspect.add(index)
                if self._content.is_watched and error.errno in NOT_THERE:
                    continue  # somebody has taken it away: whoever watches sees to that
                raise
            if index in snapshot.written:
                self._files[index] = state
        self._content.sync_folders()
        self._write(snapshot)
        self._owed -= snapshot.owed
        self._written -= snapshot.owed

    def end(self, *, uploaded: int, downloaded: int) -> None:
        """Blocking, in place of a last `save` where a sync would take too long. StorageError, StateError.

        The record names what was durable before, and the files as they are now: what is changed later is not btor's.
        """
        self._written |= self._content.take_dirty()
        for index in self._written:
            state = self._content.stat(index)
            if state is not None:
                self._files[index] = state
        self._write(Snapshot(self._durable.copy(), frozenset(), frozenset(), True, uploaded, downloaded))

    def _write(self, snapshot: Snapshot) -> None:
        have = self._without_suspects(snapshot.have)
        metainfo = self._content.metainfo
        record = ResumeRecord(
            metainfo.info_hash,
            self._content.top,
            have,
            self._files,
            snapshot.finished,
            snapshot.uploaded,
            snapshot.downloaded,
            self.banned,
        )
        # A generation that names a piece no longer believed must not be fallen back to.
        forgotten = self._durable.to_int() & ~have.to_int()
        save(self._state_dir, record, keep_previous=not (forgotten or self._first))
        self._first = False
        self._durable = have

    def _without_suspects(self, have: Bitfield) -> Bitfield:
        for index in self._suspect:
            for piece in self._content.pieces_of(index):
                if piece in have and piece not in self._durable:
                    have.discard(piece)
        return have


def _files_with(content: Content, have: Bitfield, trusted: Bitfield) -> set[int]:
    """The files that hold bytes of the pieces in ``have`` and not in ``trusted``."""
    found: set[int] = set()
    more = (have.to_int() & ~trusted.to_int()).to_bytes((have.size + 7) // 8, "big")
    if not any(more):
        return found
    pieces = Bitfield.from_wire(more, have.size)
    for index, entry in enumerate(content.files):
        span = content.pieces_of(index)
        if (
            entry.pad or not span or not any(more[span[0] >> 3 : (span[-1] >> 3) + 1])
        ):  # whole bytes first: that is quick
            continue
        if any(piece in pieces for piece in span):
            found.add(index)
    return found
