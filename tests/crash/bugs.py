"""Bugs that the checker must find, each planted for the length of a block."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unittest import mock

from btor.errors import StorageError
from btor.storage import resume, state, system
from btor.storage.checkpoint import Checkpoint, Snapshot
from btor.storage.files import Content, FileStat


@contextmanager
def no_sync() -> Iterator[None]:
    """The content is not synced before the record is written."""

    def sync(content: Content, indexes: Iterable[int]) -> dict[int, FileStat]:
        found = {index: content.stat(index) for index in indexes}
        return {index: one for index, one in found.items() if one is not None}

    with mock.patch.object(Content, "sync", sync):
        yield


@contextmanager
def record_first() -> Iterator[None]:
    """The record is written before the content is synced."""
    in_order = Checkpoint.save

    def save(checkpoint: Checkpoint, snapshot: Snapshot) -> None:
        checkpoint._write(snapshot)
        in_order(checkpoint, snapshot)

    with mock.patch.object(Checkpoint, "save", save):
        yield


@contextmanager
def rename_first() -> Iterator[None]:
    """The new record takes the place of the last one, and then it is written."""

    def replace(path: str, data: bytes, *, previous: str, keep_previous: bool) -> None:
        new = path + state._NEW
        fd = system.open_file(new, os.O_WRONLY | os.O_CREAT, follow=False, mode=0o600)
        try:
            state._remove(previous)
            if keep_previous:
                state._keep(path, previous)
            os.replace(new, path)
            system.write_all(fd, [memoryview(data)], 0, len(data))
            system.sync_file(fd)
        finally:
            os.close(fd)
        system.sync_folder(os.path.dirname(path))

    with mock.patch.object(resume, "replace_private", replace):
        yield


@contextmanager
def failed_sync_forgotten() -> Iterator[None]:
    """A sync that failed is tried again, and its success is believed: the system has dropped the pages meanwhile."""
    in_order = Checkpoint.save

    def save(checkpoint: Checkpoint, snapshot: Snapshot) -> None:
        try:
            in_order(checkpoint, snapshot)
        except StorageError:
            checkpoint._suspect.clear()
            raise

    with mock.patch.object(Checkpoint, "save", save):
        yield
