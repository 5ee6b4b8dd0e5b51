"""Stand-ins for the engine: a session whose torrents do what a test tells them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.lowlevel

from btor.engine import events
from btor.engine.events import Event, Progress
from btor.errors import BtorError
from btor.settings import Settings

INFO_HASH = "0123456789abcdef0123456789abcdef01234567"


def progress(**changes: Any) -> Progress:
    """A torrent of 4 MB in 100 pieces, a quarter of it there."""
    fields: dict[str, Any] = {
        "time": 1.0,
        "info_hash": INFO_HASH,
        "state": "downloading",
        "done_bytes": 1_000_000,
        "total_bytes": 4_000_000,
        "have_pieces": 25,
        "pieces": 100,
        "down_rate": 1e6,
        "up_rate": 2e3,
        "downloaded": 1_000_000,
        "uploaded": 7_000,
        "wasted": 0,
        "peers": 3,
        "seeds": 1,
        "eta": 3.0,
    }
    return Progress(**(fields | changes))


class FakeTorrent:
    """A torrent that a test completes, fails or leaves alone."""

    def __init__(self, session: FakeSession, name: str, number: int) -> None:
        self.name = name
        self.info_hash = bytes([number]) * 20
        self.complete = False
        self.error: BtorError | None = None
        self.bug: BaseException | None = None
        self.ended = False
        self.uploaded_before = 0
        self.removed = False
        self.now = progress(info_hash=self.info_hash.hex())
        self._session = session
        self._changed = trio.Event()

    def status(self) -> Progress:
        return self.now

    async def wait_complete(self) -> None:
        while not self.complete:
            if self.error is not None:
                raise self.error
            await self._changed.wait()

    async def remove(self) -> None:
        await trio.lowlevel.checkpoint()
        self.removed = True

    def finish(self) -> None:
        """Everything is there."""
        self.complete = True
        self.tell(events.Complete, seconds=1.0, downloaded=4, uploaded=0, wasted=0, hash_failures=0)
        self._wake()

    def fail(self, error: BtorError) -> None:
        """As the engine does: an event, and an error."""
        self.error = error
        self.ended = True
        self.tell(events.Failed, code=error.exit_status, kind=error.kind, message=str(error))
        self._wake()

    def tell(self, kind: type[Event], /, **fields: Any) -> None:
        self._session.tell(kind(time=1.0, info_hash=self.info_hash.hex(), **fields))

    def tell_progress(self) -> None:
        """What the engine does each second."""
        self._session.tell(self.now)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


Script = Callable[[FakeTorrent], Awaitable[None]]


class FakeSession:
    """A session. ``scripts`` says, by source, what becomes of a torrent, or which error ``add`` raises."""

    port = 6881

    def __init__(self, scripts: dict[str, Script | BtorError]) -> None:
        self.scripts = scripts
        self.added: dict[str, dict[str, Any]] = {}
        self.torrents: dict[str, FakeTorrent] = {}
        self.settings: Settings | None = None
        self.closed = False
        self.closing_takes = 0.0
        self._told: list[trio.MemorySendChannel[Event]] = []

    @asynccontextmanager
    async def open(self, settings: Settings) -> AsyncIterator[FakeSession]:
        """In the place of ``open_session``."""
        self.settings = settings
        async with trio.open_nursery() as self._nursery:
            try:
                yield self
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(self.closing_takes)
                for name in self.torrents:
                    self.torrents[name].tell(events.Stopped, reason="ended", downloaded=0, uploaded=0)
                for channel in self._told:
                    channel.close()
                self.closed = True
                self._nursery.cancel_scope.cancel()

    def events(self) -> AsyncIterator[Event]:
        sender, receiver = trio.open_memory_channel[Event](1000)
        self._told.append(sender)
        return receiver

    def tell(self, event: Event) -> None:
        for channel in self._told:
            channel.send_nowait(event)

    async def add(self, source: Any, **options: Any) -> FakeTorrent:
        await trio.lowlevel.checkpoint()
        script = self.scripts[source]
        if isinstance(script, BtorError):
            raise script
        self.added[source] = options
        torrent = FakeTorrent(self, source.removesuffix(".torrent"), len(self.torrents) + 1)
        self.torrents[source] = torrent
        torrent.tell(
            events.Started, name=torrent.name, total_bytes=4_000_000, piece_length=40_000, pieces=100, port=self.port
        )
        self._nursery.start_soon(script, torrent)
        return torrent


async def completes(torrent: FakeTorrent) -> None:
    """A script: all goes well."""
    await trio.lowlevel.checkpoint()
    torrent.finish()


async def waits(torrent: FakeTorrent) -> None:
    """A script: nothing ever arrives."""
    await trio.sleep_forever()


def fails(error: BtorError) -> Script:
    """A script: it ends with ``error``."""

    async def script(torrent: FakeTorrent) -> None:
        await trio.lowlevel.checkpoint()
        torrent.fail(error)

    return script
