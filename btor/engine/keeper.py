"""A torrent's place on disk: found, locked, checked at the start, and its resume record kept up to date."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import trio

from btor.engine.background import in_thread
from btor.engine.check import Recheck
from btor.engine.watch import some_named
from btor.errors import IncompleteError, StorageError
from btor.limits import MIB
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.selection import pieces_of_files
from btor.storage.aside import bring_home, owes_files
from btor.storage.checkpoint import Checkpoint, Snapshot
from btor.storage.claims import FilesClaimed, user_folder
from btor.storage.files import Content
from btor.storage.own import open_own
from btor.storage.resume import FileStats, ResumeRecord, clean, load
from btor.storage.space import check_place, device, free_space, space_needed
from btor.storage.state import StateError
from btor.storage.survey import Survey, disown, refuse, settle, survey

if TYPE_CHECKING:
    from btor.engine.options import AddOptions
    from btor.engine.session import Session
    from btor.engine.transfer import Transfer
    from btor.metainfo.torrent_file import Metainfo

SMALL_SYNC = 16 * MIB  # downloaded bytes that a sync at the end may make durable: nobody notices that wait
RESUME_SPACE = 64 * MIB  # free bytes that end the waiting of a full disk

_log = logging.getLogger(__name__)


class Keeper:
    """``open`` first; then ``content``, ``have`` (verified pieces), ``device`` and ``known_from`` are there.

    ``files``: the state of the files before they were checked, None if more is to be written to them.
    ``wanted_files``: those to download, None for all; ``wanted``: the pieces that takes, ``wanted_bytes`` in all.
    ``warnings``: what the person should hear about the check. ``seed_only``: nothing below the place is ever written.
    """

    def __init__(
        self, session: Session, metainfo: Metainfo, options: AddOptions, wanted_files: frozenset[int] | None = None
    ) -> None:
        self._session = session
        self._metainfo = metainfo
        self._options = options
        self._wanted_files = wanted_files
        geometry = metainfo.geometry
        if wanted_files is None:
            self.wanted = Bitfield.full(geometry.piece_count)
        else:
            self.wanted = pieces_of_files(metainfo, wanted_files)
        self.wanted_bytes = sum(map(geometry.piece_size, self.wanted)) if wanted_files else geometry.total_length
        self.seed_only = options.seed_only
        self.warnings: list[str] = []
        self.have = Bitfield(metainfo.geometry.piece_count)
        self.known_from: Literal["resume", "hash", "nothing"] = "nothing"
        self.device = 0
        self.content: Content
        self.files: FileStats | None = None
        self._state_dir: Path | None = session.settings.state_dir
        self._claimed: FilesClaimed | None = None
        self._alone: StateError | None = None  # why nobody could be told what is written to
        self._checkpoint: Checkpoint | None = None
        self._saving = trio.Lock()
        self._closed = False
        self._hashing: Recheck | None = None
        self.banned: tuple[str, ...] = ()  # IPs that earlier runs barred
        self._past = (0, 0)  # uploaded and downloaded in earlier runs
        self._saved_bytes = 0  # verified by the check, or when the record was last written

    @property
    def missing(self) -> int:
        """Wanted pieces that are not verified, before the exchange begins."""
        wanted = self.wanted.to_int()
        return (wanted ^ (wanted & self.have.to_int())).bit_count()

    @property
    def checked_pieces(self) -> int:
        """Pieces hashed by the check so far, those of files that are not wanted too; never more than are wanted."""
        return 0 if self._hashing is None else min(self._hashing.checked, self.wanted.count)

    async def open(self) -> None:
        """Lock the place and find out what is there. StorageError, IncompleteError."""
        found = await in_thread(self._look)
        protect = not (self.seed_only or self._options.overwrite)
        if protect:
            refuse(self.content, found, None)
        self.have = found.trusted.copy()
        if found.to_hash.count:
            self.known_from = "hash"
            self._hashing = Recheck(self._session.disk, self._metainfo, self.content, self.have)
            await self._hashing.run(found.to_hash)
            if found.doubts:
                found = await in_thread(settle, self.content, found, self.have)
                for piece in found.to_hash:
                    self.have.discard(piece)
                await self._hashing.run(found.to_hash)
        elif found.trusted.count:
            self.known_from = "resume"
        self._saved_bytes = self.have.count * self._metainfo.geometry.piece_length
        if protect:
            refuse(self.content, found, self.have)
        self.warnings += some_named([f"{path} changed since the last run: hashed again" for path in found.changed])
        if self.seed_only or not (self.missing or owes_files(self.content)):
            self.files = FileStats(found.files.to_bytes())
        if self.seed_only and self.missing and not self._options.partial:
            raise IncompleteError(
                f"{self.content.top}: {self.missing} of {self.wanted.count} pieces are missing or bad"
                " (--partial seeds what is there)"
            )
        await in_thread(self._begin, found)

    def _look(self) -> Survey:
        """What is there, against the resume record: in one thread, as with many torrents to go to one costs most."""
        self.content = self._open_content()
        record = self._claim_and_load()
        return survey(self.content, record, recheck=self._options.recheck)

    def _open_content(self) -> Content:
        pool = self._session.disk.pool
        place = self._options.place
        if self.seed_only:
            return open_own(self._metainfo, place, pool)
        top = place if self._options.place_is_content else place / self._metainfo.name
        return Content(self._metainfo, top, pool, writable=True, wanted=self._wanted_files)

    def _claim_and_load(self) -> ResumeRecord | None:
        """The resume record, if there is one that may be believed. StorageError: somebody else writes there."""
        with self.content.users:
            if not self.seed_only:  # first of all: a record is only as good as nobody else is at work on the files
                self._claim()
            record = None if self._state_dir is None else self._load_from(self._state_dir)
            if self._alone is not None and not self.warnings:  # one warning says enough of one folder
                self.warnings.append(f"nothing keeps another btor from writing to the same files: {self._alone}")
        if record is not None:
            self._past = (record.uploaded, record.downloaded)
            if not self._options.recheck:
                self.banned = record.banned
        return record

    def _load_from(self, state_dir: Path) -> ResumeRecord | None:
        info_hash, top = self._metainfo.info_hash, self.content.top
        try:
            if not self.seed_only:
                clean(state_dir, info_hash, top)
            return load(state_dir, info_hash, top)
        except StateError as error:
            self._give_records_up(error)
            return None

    def _claim(self) -> None:
        """Nobody else may write to these files now, if there is a place to say so."""
        folders = [folder for folder in (user_folder(), self._state_dir) if folder is not None]
        try:
            self._claimed = FilesClaimed(self.content, folders)
        except StateError as error:
            self._alone = error

    def _give_records_up(self, error: StateError) -> None:
        """Go on without, after a warning, unless records were asked for; then it is the torrent's end."""
        if self._session.settings.state_dir_required:
            raise error
        self.warnings.append(f"no resume record can be kept: {error}")
        self._state_dir = None
        self._checkpoint = None

    def _begin(self, found: Survey) -> None:
        with self.content.users:
            self._prepare(found)

    def _prepare(self, found: Survey) -> None:
        self.device = device(self.content)
        if self._state_dir is not None:
            disown(self.content, found.files, self.have)
            self._checkpoint = Checkpoint(
                self._state_dir, self.content, have=self.have, trusted=found.trusted, files=found.files
            )
            self._checkpoint.banned = self.banned
        if self.seed_only:
            return
        if self.missing:
            check_place(self.content)
            needed, free = space_needed(self.content), free_space(self.content)
            if needed > free:
                self.warnings.append(f"{needed} bytes are needed and {free} are free: the disk will be full")
        if (self.missing or owes_files(self.content)) and self._checkpoint is not None:
            try:
                self._checkpoint.begin(uploaded=self._past[0], downloaded=self._past[1])
            except StateError as error:
                self._give_records_up(error)
        if bring_home(self.content, self.have) and self._checkpoint is not None and self.content.side is not None:
            self._checkpoint.forget(self.content.side.index)
        self.content.prepare(shorten=self._options.overwrite)

    async def save(self, transfer: Transfer | None, *, final: bool = False, durable: bool = False) -> None:
        """Write the record: first what it names is made durable. StorageError.

        Not to be cancelled but by the end of the session: a second one would meet the thread of the first. A record
        that cannot be written is given up with one more of ``warnings``.

        ``final``: nothing is written after; with much downloaded and complete content to sync, the record then names
        only what was durable before. ``durable``: sync the content even where no record is kept.
        """
        async with self._saving:
            if transfer is None or self._closed:
                return
            if self._checkpoint is None:
                if durable:
                    await in_thread(self._sync)
                return
            self._checkpoint.banned = transfer.book.barred
            snapshot = self._checkpoint.snapshot(
                transfer.have,
                finished=final or transfer.upload_only or self.seed_only,
                uploaded=self._past[0] + transfer.uploaded,
                downloaded=self._past[1] + transfer.downloaded,
            )
            done = transfer.done_bytes
            unsynced = final and transfer.complete and done - self._saved_bytes > SMALL_SYNC
            try:
                await in_thread(self._write_record, self._checkpoint, snapshot, unsynced)
            except StateError as error:
                self._give_records_up(error)
            else:
                self._saved_bytes = done

    def _write_record(self, checkpoint: Checkpoint, snapshot: Snapshot, unsynced: bool) -> None:
        with self.content.users:
            if unsynced:  # nobody is made to wait for that: what the record does not name, the next run hashes
                checkpoint.end(uploaded=snapshot.uploaded, downloaded=snapshot.downloaded)
            else:
                checkpoint.save(snapshot)

    def _sync(self) -> None:
        with self.content.users:
            self.content.sync(self.content.take_dirty())
            self.content.sync_folders()

    @property
    def uploaded_before(self) -> int:
        """Bytes that were uploaded in earlier runs, as the resume record has it."""
        return self._past[0]

    def has_space(self, needed: int) -> bool:
        """Whether ``needed`` bytes, or enough to go on for a while, are free."""
        try:
            return free_space(self.content) >= min(needed, RESUME_SPACE)
        except StorageError as error:
            _log.warning("%s", error)
            return False

    def close(self) -> None:
        """Close the files and let go of the place, once no thread is at work there; nothing new is saved."""
        self._closed = True
        if hasattr(self, "content"):
            self.content.users.when_gone(self._let_go)

    def _let_go(self) -> None:
        self.content.close()
        if self._claimed is not None:
            self._claimed.release()
