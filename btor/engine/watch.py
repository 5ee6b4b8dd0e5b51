"""Content that somebody changes while it is given to others: noticed, no more given, hashed again, and said.

Every read looks at the open file first, so nothing is sent of a file that is not as it was when it was verified. Beyond
that the files are looked at in turn, as one that was replaced or removed shows nothing to who has it open. What is
written by btor itself is not watched before it is complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import trio

from btor import limits
from btor.engine.background import in_thread
from btor.engine.check import Recheck
from btor.engine.events import Warned
from btor.errors import StorageError
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.paths import display
from btor.storage.files import Content, ContentChangedError, FileStat
from btor.storage.resume import FileStats

if TYPE_CHECKING:
    from btor.engine.transfer import Transfer

_log = logging.getLogger(__name__)


def some_named(messages: Sequence[str]) -> list[str]:
    """The first few of ``messages`` about files, and how many more there are."""
    more = len(messages) - limits.FILES_NAMED
    return [*messages[: limits.FILES_NAMED], *([f"and {more} more likewise"] if more > 0 else [])]


class Guard:
    """Watches over the content of one torrent. ``files``: their state when they were verified; None: not yet."""

    def __init__(self, transfer: Transfer, content: Content, files: FileStats | None) -> None:
        self._transfer = transfer
        self._content = content
        self._files: FileStats | None = None
        self._suspects: set[int] = set()
        self._settling = False
        self._next = 0
        if files is not None:
            self._begin(files)

    def _begin(self, files: FileStats) -> None:
        self._files = files
        self._content.expect(files.__getitem__)

    @property
    def may_begin(self) -> bool:
        """Whether everything is there now, and nothing is watched yet."""
        return self._files is None and self._transfer.complete

    def begin(self) -> None:
        """Blocking: from now on the files must stay as they are."""
        with self._content.users:
            self._begin(FileStats.of([_state(self._content, index) for index in range(len(self._content.files))]))

    def on_error(self, error: StorageError) -> bool:
        """Whether a read has failed only because a file has changed; then that is seen to."""
        if not isinstance(error, ContentChangedError):
            return False
        self._suspect(error.index)
        return True

    def _suspect(self, index: int) -> None:
        """Give nothing of file ``index`` to anybody until it has been hashed again."""
        self._suspects.add(index)
        transfer = self._transfer
        lost = [piece for piece in self._content.pieces_of(index) if piece in transfer.have]
        for piece in lost:
            transfer.picker.on_lost(piece)
            transfer.done_bytes -= transfer.geometry.piece_size(piece)
        if lost:
            transfer.give_only()  # somebody else works on it: it is not for us to overwrite that
            for peer in list(transfer.peers.values()):
                peer.take_back(lost)
            transfer.torrent.on_progress()

    def turn(self, most: int) -> range:
        """The next files to look at, at most so many."""
        if self._files is None:
            return range(0)
        first = self._next if self._next < len(self._files) else 0
        self._next = min(first + most, len(self._files))
        return range(first, self._next)

    def look(self, indexes: Iterable[int]) -> list[int]:
        """Blocking: which of these files are not as they were."""
        files = self._files
        if files is None:
            return []
        with self._content.users:
            return [index for index in indexes if _state(self._content, index) != files[index]]

    def settle(self, changed: Iterable[int]) -> None:
        """See to the files that have changed, in the background."""
        for index in changed:
            self._suspect(index)
        if self._suspects and not self._settling:
            self._settling = True
            self._transfer.torrent.in_background(self._settle)

    async def _settle(self) -> None:
        """Hash again what the suspects have bytes of; what is good is given on."""
        suspects = sorted(self._suspects)
        try:
            states = await in_thread(self._states, suspects)
            assert self._files is not None
            for index, state in states:
                self._files[index] = state
            self._suspects.difference_update(suspects)
            await self._hash(suspects)
            self._tell(dict(states))
        except StorageError as error:
            _log.debug("%s", error)  # it is just being closed
        finally:
            self._settling = False

    def _states(self, indexes: Iterable[int]) -> list[tuple[int, FileStat | None]]:
        with self._content.users:
            for index in indexes:
                self._content.reopen(index)
            return [(index, _state(self._content, index)) for index in indexes]

    async def _hash(self, indexes: Iterable[int]) -> None:
        transfer = self._transfer
        pieces = Bitfield(transfer.have.size)
        for index in indexes:
            for piece in self._content.pieces_of(index):
                if piece not in transfer.have:
                    pieces.add(piece)
        good = Bitfield(pieces.size)
        await Recheck(transfer.session.disk, transfer.metainfo, self._content, good).run(pieces)
        doubtful = {piece for index in self._suspects for piece in self._content.pieces_of(index)}
        for piece in good:
            if piece not in doubtful:  # of what has changed again meanwhile
                transfer.done_bytes += transfer.geometry.piece_size(piece)
                transfer.on_regained(piece)
        transfer.torrent.on_progress()

    def _tell(self, states: dict[int, FileStat | None]) -> None:
        """Name the files of which something is missing now."""
        transfer = self._transfer
        messages = []
        for index, state in states.items():
            pieces = self._content.pieces_of(index)
            missing = sum(piece not in transfer.have for piece in pieces)
            if missing:
                what = "is gone" if state is None else "has changed"
                path = self._content.path(index)
                given = "is not" if missing == 1 else "are not"
                messages.append(f"{path} {what}: {missing} of its {len(pieces)} pieces {given} given any more")
        for message in some_named(messages):
            _log.warning("%s: %s", transfer.torrent.name, display(message))
            transfer.torrent.publish(Warned, message=message)


def _state(content: Content, index: int) -> FileStat | None:
    try:
        return content.stat(index)
    except StorageError:  # something else stands in its place, or nobody may look at it
        return None


class Watcher:
    """Looks at the files of all torrents of a session in turn, at so many each time however many there are."""

    def __init__(self, transfers: Callable[[], Iterator[Transfer]]) -> None:
        self._transfers = transfers
        self._wake = trio.Event()
        self._turn = 0

    def wake(self) -> None:
        """A torrent is complete: its files are watched from now on."""
        self._wake.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._wake = trio.Event()
            with trio.move_on_after(limits.WATCH_PERIOD):
                await self._wake.wait()
            guards = [transfer.guard for transfer in self._transfers() if not transfer.torrent.ended]
            for guard in guards:
                if guard.may_begin:
                    try:
                        await in_thread(guard.begin)
                    except StorageError as error:
                        _log.debug("%s", error)  # it is just being closed
            for guard, changed in await in_thread(_look, self._choose(guards)):
                guard.settle(changed)

    def _choose(self, guards: Sequence[Guard]) -> list[tuple[Guard, range]]:
        """Which files to look at this time, another torrent first each time."""
        self._turn = (self._turn + 1) % max(1, len(guards))
        room = limits.WATCH_FILES
        chosen = []
        for guard in [*guards[self._turn :], *guards[: self._turn]]:
            files = guard.turn(room)
            room -= len(files)
            chosen.append((guard, files))
        return chosen


def _look(chosen: list[tuple[Guard, range]]) -> list[tuple[Guard, list[int]]]:
    """Blocking: of each the files that are not as they were; those of a torrent that has ended count no more."""
    found = []
    for guard, files in chosen:
        try:
            found.append((guard, guard.look(files)))
        except StorageError as error:
            _log.debug("%s", error)
    return found
