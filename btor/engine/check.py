"""Hashing what is on disk already, on all cores, before a torrent starts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from btor.limits import MIB
from btor.storage.hasher import Worker
from btor.storage.hashing import HashResult, hash_inline, piece_jobs, processors

if TYPE_CHECKING:
    from btor.engine.disk import Disk
    from btor.metainfo.bitfield import Bitfield
    from btor.metainfo.torrent_file import Metainfo
    from btor.storage.files import Content

SMALL: Final = 32 * MIB  # up to here one thread is done before children have started
JOBS_AHEAD: Final = 4  # for each child


class Recheck:
    """Hashes pieces of one torrent where they lie. ``have`` gets those that match; ``checked`` counts all."""

    def __init__(self, disk: Disk, metainfo: Metainfo, content: Content, have: Bitfield) -> None:
        self._disk = disk
        self._metainfo = metainfo
        self._content = content
        self._have = have
        self.checked = 0

    async def run(self, pieces: Bitfield) -> None:
        """Hash ``pieces``. What cannot be read does not match."""
        jobs = piece_jobs(self._metainfo.geometry, pieces, self._content.segments)
        if pieces.count * self._metainfo.geometry.piece_length <= SMALL:
            worker = Worker()
            for job in jobs:
                self._on_result(
                    job.job,
                    await trio.to_thread.run_sync(
                        hash_inline, job, worker, limiter=self._disk.threads, abandon_on_cancel=True
                    ),
                )
            return
        children = processors()
        window = trio.Semaphore(children * JOBS_AHEAD)
        for job in jobs:
            await window.acquire()
            self._disk.hashers.submit(
                job.segments, partial(self._on_child_result, window, job.job), stride=job.stride, children=children
            )
        for _ in range(children * JOBS_AHEAD):
            await window.acquire()
        self._disk.hashers.rest()

    def _on_child_result(self, window: trio.Semaphore, first: int, result: HashResult) -> None:
        window.release()
        self._on_result(first, result)

    def _on_result(self, first: int, result: HashResult) -> None:
        for piece, digest in enumerate(result.digests, first):
            self.checked += 1
            if digest is not None and digest == self._metainfo.piece_hash(piece):
                self._have.add(piece)
