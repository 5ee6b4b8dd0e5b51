"""A torrent's place on disk: found, locked, checked at the start, and its resume record kept up to date."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import trio

from btor.engine.check import Recheck
from btor.errors import IncompleteError, StorageError
from btor.limits import MIB
from btor.metainfo.bitfield import Bitfield
from btor.storage.checkpoint import Checkpoint
from btor.storage.files import Content, locate
from btor.storage.resume import ResumeRecord, load
from btor.storage.state import DestinationLock
from btor.storage.survey import Survey, refuse, survey

if TYPE_CHECKING:
    from btor.engine.options import AddOptions
    from btor.engine.session import Session
    from btor.engine.transfer import Transfer
    from btor.metainfo.torrent_file import Metainfo

SMALL_SYNC = 16 * MIB  # verified bytes that a sync at the end may make durable: nobody notices that wait
RESUME_SPACE = 64 * MIB  # free bytes that end the waiting of a full disk

_log = logging.getLogger(__name__)


class Keeper:
    """``open`` first; then ``content``, ``have`` (verified pieces), ``device`` and ``known_from`` are there.

    ``warnings``: what the person should hear about the check. ``seed_only``: nothing below the place is ever written.
    """

    def __init__(self, session: Session, metainfo: Metainfo, options: AddOptions) -> None:
        self._session = session
        self._metainfo = metainfo
        self._options = options
        self.seed_only = options.seed_only
        self.warnings: list[str] = []
        self.have = Bitfield(metainfo.geometry.piece_count)
        self.known_from: Literal["resume", "hash", "nothing"] = "nothing"
        self.device = 0
        self.content: Content
        self._state_dir: Path | None = session.settings.state_dir
        self._lock: DestinationLock | None = None
        self._checkpoint: Checkpoint | None = None
        self._saving = trio.Lock()
        self._hashing: Recheck | None = None
        self._past = (0, 0)  # uploaded and downloaded in earlier runs
        self._saved_bytes = 0  # verified when the record was last written

    @property
    def checked_pieces(self) -> int:
        """Pieces hashed by the check so far."""
        return 0 if self._hashing is None else self._hashing.checked

    async def open(self) -> None:
        """Lock the place and find out what is there. StorageError, IncompleteError."""
        top = await trio.to_thread.run_sync(self._find_top)
        self.content = Content(
            self._metainfo,
            top,
            self._session.disk.pool,
            writable=not self.seed_only,
            follow_links=self.seed_only,
        )
        record = await trio.to_thread.run_sync(self._lock_and_load, top)
        found = await trio.to_thread.run_sync(partial(survey, self.content, record, recheck=self._options.recheck))
        protect = not (self.seed_only or self._options.overwrite)
        if protect:
            refuse(self.content, found, None)
        self.have = found.trusted.copy()
        self._saved_bytes = found.trusted.count * self._metainfo.geometry.piece_length
        if found.to_hash.count:
            self._hashing = Recheck(self._session.disk, self._metainfo, self.content, self.have)
            await self._hashing.run(found.to_hash)
        if protect:
            refuse(self.content, found, self.have)
        self.known_from = "hash" if found.to_hash.count else "resume" if found.trusted.count else "nothing"
        self.warnings += [f"{path} changed since the last run: hashed again" for path in found.changed]
        if self.seed_only and not self.have.complete and not self._options.partial:
            missing = self.have.size - self.have.count
            raise IncompleteError(
                f"{top}: {missing} of {self.have.size} pieces are missing or bad (--partial seeds what is there)"
            )
        await trio.to_thread.run_sync(self._begin, found)

    def _find_top(self) -> Path:
        if self.seed_only:
            return locate(self._metainfo, self._options.place)
        place = self._options.place
        return place if self._options.place_is_content else place / self._metainfo.name

    def _lock_and_load(self, top: Path) -> ResumeRecord | None:
        """The resume record, if there is one that may be believed. StorageError: somebody else holds the place."""
        if self._state_dir is None:
            return None
        try:
            record = load(self._state_dir, self._metainfo.info_hash, top)
        except StorageError as error:
            if self._session.settings.state_dir_required:
                raise
            self.warnings.append(f"no resume record can be kept: {error}")
            self._state_dir = None
            return None
        if not self.seed_only:
            self._lock = DestinationLock(self._state_dir, self._metainfo.info_hash, top)
        if record is not None:
            self._past = (record.uploaded, record.downloaded)
        return record

    def _begin(self, found: Survey) -> None:
        folder = self.content.top.parent
        while not folder.exists():
            folder = folder.parent
        self.device = os.stat(folder).st_dev
        if self._state_dir is not None:
            self._checkpoint = Checkpoint(
                self._state_dir, self.content, have=self.have, trusted=found.trusted, files=found.files
            )
        if self.seed_only:
            return
        if not self.have.complete:
            needed, free = self.content.space_needed(), self.content.free_space()
            if needed > free:
                self.warnings.append(f"{needed} bytes are needed and {free} are free: the disk will be full")
            if self._checkpoint is not None:
                self._checkpoint.begin(uploaded=self._past[0], downloaded=self._past[1])
        self.content.prepare(shorten=self._options.overwrite)

    async def save(self, transfer: Transfer | None, *, final: bool = False, durable: bool = False) -> None:
        """Write the record: first what it names is made durable. StorageError.

        ``final``: nothing is written after. ``durable``: sync the content even where no record is kept.
        """
        async with self._saving:
            if transfer is None:
                return
            if self._checkpoint is None:
                if durable:
                    await trio.to_thread.run_sync(self._sync, abandon_on_cancel=True)
                return
            snapshot = self._checkpoint.snapshot(
                transfer.have,
                finished=final or transfer.have.complete,
                uploaded=self._past[0] + transfer.uploaded,
                downloaded=self._past[1] + transfer.downloaded,
            )
            # a sync can take as long as the disk likes: the end of a session does not wait for it, and the record
            # is written only after it
            done = transfer.done_bytes
            await trio.to_thread.run_sync(self._checkpoint.save, snapshot, abandon_on_cancel=True)
            self._saved_bytes = done

    def _sync(self) -> None:
        self.content.sync(self.content.take_dirty())
        self.content.sync_folders()

    def is_nearly_saved(self, transfer: Transfer) -> bool:
        """Whether little would have to be synced to bring the record up to date."""
        return transfer.done_bytes - self._saved_bytes <= SMALL_SYNC

    def has_space(self, needed: int) -> bool:
        """Whether ``needed`` bytes, or enough to go on for a while, are free."""
        try:
            return self.content.free_space() >= min(needed, RESUME_SPACE)
        except StorageError as error:
            _log.warning("%s", error)
            return False

    def close(self) -> None:
        """Close the files and let go of the place; no record is written any more."""
        self._checkpoint = None
        if hasattr(self, "content"):
            self.content.close()
        if self._lock is not None:
            self._lock.release()
