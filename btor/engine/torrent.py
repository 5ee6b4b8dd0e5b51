"""One torrent of a session: its life from check to removal, and what programs see of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from btor import limits
from btor.engine import report
from btor.engine.background import see_through
from btor.engine.disk import NO_SPACE
from btor.engine.events import (
    Checked,
    Complete,
    DiskFull,
    Event,
    Progress,
    Seeding,
    State,
    Stopped,
    TrackerAnswer,
    Warned,
)
from btor.engine.feed import Feed, Subscription
from btor.engine.keeper import Keeper
from btor.engine.lookup import look_up
from btor.engine.transfer import Transfer
from btor.errors import BtorError, NetworkError, StorageError, UsageError
from btor.metainfo.paths import display
from btor.storage.state import StateError
from btor.swarm.tiers import Tiers
from btor.wire.address import is_ip

if TYPE_CHECKING:
    from btor.engine.options import AddOptions
    from btor.engine.session import Session
    from btor.engine.transport import Address
    from btor.metainfo.torrent_file import Metainfo

_log = logging.getLogger(__name__)

SEEDING_PERIOD: Final = 10.0  # s between two `seeding` events


class Torrent:
    """Made by `Session.add`. ``transfer`` is there from the end of the check on."""

    def __init__(self, session: Session, metainfo: Metainfo, options: AddOptions) -> None:
        self.session = session
        self.metainfo = metainfo
        self.info_hash = metainfo.info_hash
        self.options = options
        self.error: BtorError | None = None
        self.bug: BaseException | None = None  # what ended it unexpectedly
        self.transfer: Transfer | None = None
        self.unsaved = False  # something changed that the resume record does not know
        self.feed = Feed(session.feed)
        self.keeper = Keeper(session, metainfo, options)
        # what the announcer asks for
        self.key = session.rng.randrange(1 << 32)
        enabled = options.trackers_enabled and session.settings.trackers
        self.tiers = Tiers(metainfo.trackers if enabled else (), session.rng, private=metainfo.private)
        self.tracker_failures: dict[str, str] = {}  # of trackers that failed when last asked, the latest at the end
        self._added = trio.current_time()
        self._state: State = "checking"
        self._checked: Checked | None = None
        self._completed: Complete | None = None
        self._complete = trio.Event()
        self._ended = trio.Event()
        self._resumed = trio.Event()
        self._resumed.set()
        self._away = trio.Event()  # not in the swarm
        self._away.set()
        self.removed = False  # or about to be
        self.gone = trio.Event()  # removed, and the session knows it no more
        self._active = trio.CancelScope()
        self._life = trio.CancelScope()
        self._next_seeding = 0.0
        self._next_probe = 0.0

    # ------------------------------------------------------------------------------------------ for programs

    @property
    def name(self) -> str:
        """The torrent's name, safe to show and to use as a file name."""
        return self.metainfo.name

    @property
    def complete(self) -> bool:
        """Whether everything is there and verified (and durable, if that was asked for)."""
        return self._complete.is_set()

    @property
    def ended(self) -> bool:
        """Whether it has failed or been removed: what still comes of its work changes nothing that is told."""
        return self.error is not None or self.bug is not None or self._ended.is_set()

    @property
    def uploaded_before(self) -> int:
        """Bytes that were uploaded in earlier runs, as the resume record has it; ``status`` counts from the start."""
        return self.keeper.uploaded_before

    def events(self) -> Subscription:
        """What happens, beginning with a snapshot; ends when the torrent does."""
        return self.feed.subscribe(self.snapshot())

    async def wait_complete(self) -> None:
        """Return when everything is there and verified. Raises what ended the torrent before, of right a BtorError."""
        async with trio.open_nursery() as nursery:
            for event in (self._complete, self._ended):
                nursery.start_soon(_wait_then_cancel, event, nursery.cancel_scope)
        if self.complete:
            return
        raise self.error or self.bug or UsageError(f"the torrent {self.name} was removed")

    async def pause(self) -> None:
        """Leave the swarm: peers are closed, trackers told, what was received is kept."""
        if not self.is_paused:
            self._resumed = trio.Event()
            self._active.cancel()
        await self._away.wait()
        if self.transfer is not None:
            await self.transfer.disk.drain()
            await self.save()

    @property
    def is_paused(self) -> bool:
        """Whether it was told to pause."""
        return not self._resumed.is_set()

    async def resume(self) -> None:
        """Go on after a pause."""
        self._resumed.set()
        await trio.lowlevel.checkpoint()

    async def remove(self) -> None:
        """End it and forget it; its content and resume record stay. Cancelled, it is only not waited for."""
        if not self.removed:
            self.removed = True
            self._life.cancel()
            self.session.in_background(self._leave)
        await self.gone.wait()

    async def _leave(self) -> None:
        try:
            await self._ended.wait()
            await self.close()
        finally:
            del self.session.torrents[self.info_hash]
            self.gone.set()

    def status(self) -> Progress:
        """How it stands now."""
        paused = self.is_paused and self._state not in ("checking", "stopped", "error")
        return report.progress(self, "paused" if paused else self._state)

    def snapshot(self) -> list[Event]:
        """The events that tell a newcomer how things stand."""
        events: list[Event] = [report.started(self)]
        if self._checked is not None:
            events.append(self._checked)
        if self._completed is not None:
            events.append(self._completed)
        if self.error is not None:
            events.append(report.failed(self, self.error))
        return [*events, self.status()]

    def publish(self, kind: type[Event], **fields: Any) -> None:
        """Tell an event to whoever listens."""
        if self.feed.listened:
            self.feed.publish(kind(time=self.session.wall_clock(), info_hash=self.info_hash.hex(), **fields))

    # ------------------------------------------------------------------------------------------ life

    def tell_started(self) -> None:
        """It is part of the session."""
        self.feed.publish(report.started(self))

    async def run(self, peers: Sequence[Address]) -> None:
        """The whole life, until removed or failed. ``peers``: (host name or IP, port), as the user named them."""
        try:
            with self._life:
                await self._check()
                async with trio.open_nursery() as nursery:
                    if peers:
                        nursery.start_soon(self._name_peers, peers)
                    await self._exchange()
        except* BtorError as group:
            self._fail(_leaf(group))
        finally:
            self._state = "error" if self.error is not None else "stopped"
            if self.error is not None:
                if self.transfer is not None:
                    self.transfer.disk.abandon()
                self.keeper.close()
            self._ended.set()
            self._tell_stopped()

    async def _check(self) -> None:
        began = trio.current_time()
        await self.keeper.open()
        for message in self.keeper.warnings:
            self.publish(Warned, message=message)
        transfer = Transfer(self, self.keeper.content, self.keeper.have, self.keeper.device)
        self.transfer = transfer
        transfer.book.restore_bans(ip for ip in self.keeper.banned if is_ip(ip))
        have = transfer.have
        self._checked = Checked(
            time=self.session.wall_clock(),
            info_hash=self.info_hash.hex(),
            have_pieces=have.count,
            pieces=have.size,
            seconds=trio.current_time() - began,
            from_=self.keeper.known_from,
        )
        self.feed.publish(self._checked)
        if self.keeper.known_from == "hash":
            self.on_progress()
        if have.complete:
            self._state = "seeding"
            await self._settle_complete()
        elif self.keeper.seed_only:  # a part of it
            self._state = "seeding"
            transfer.paused_requests = True
            self._tell_seeding(trio.current_time())
        else:
            self._state = "downloading"

    async def _exchange(self) -> None:
        """In and out of the swarm, as pauses come and go."""
        assert self.transfer is not None
        while True:
            await self._resumed.wait()
            self._away = trio.Event()
            with trio.CancelScope() as self._active:
                self.session.announcer.add(self)
                if not self.metainfo.private:
                    self.session.dht.add_named(self.metainfo.nodes)
                    self.session.dht_announcer.add(self)
                try:
                    await self.transfer.run()
                finally:
                    self.session.announcer.remove(self)
                    self.session.dht_announcer.remove(self)
                    self._away.set()

    async def _name_peers(self, peers: Sequence[Address]) -> None:
        """The peers that the user named."""
        assert self.transfer is not None
        for host, port in peers:
            try:
                addresses = await look_up(self.session.network, host, port)
            except NetworkError as error:
                self.publish(Warned, message=display(f"peer {host}: {error}"))
                continue
            self.transfer.add_peers(addresses, "user")

    def _fail(self, error: BtorError) -> None:
        if self.error is None:
            self.error = error
            self.feed.publish(report.failed(self, error))

    def _tell_stopped(self) -> None:
        transfer = self.transfer
        self.publish(
            Stopped,
            reason=str(self.error) if self.error is not None else "removed" if self.removed else "ended",
            downloaded=0 if transfer is None else transfer.downloaded,
            uploaded=0 if transfer is None else transfer.uploaded,
        )
        self.feed.end()

    def in_background(self, child: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run something that outlives its peers, and without which it cannot go on: a bug there ends the torrent."""
        self.session.in_background(child, *args, on_bug=self._on_bug)

    def _on_bug(self, bug: BaseException) -> None:
        if not self.ended:
            self.bug = bug
            self._life.cancel()

    async def save(self, *, final: bool = False, durable: bool = False) -> None:
        """Make the resume record say what is durable; errors are the torrent's. The options are those of the keeper."""
        await see_through(self.in_background, self._save, final, durable)

    async def _save(self, final: bool, durable: bool) -> None:
        self.unsaved = False
        told = len(self.keeper.warnings)
        try:
            await self.keeper.save(self.transfer, final=final, durable=durable)
        except StorageError as error:
            self.unsaved = True
            if isinstance(error, StateError) and not self.ended:
                self._end_with(error)  # waiting for space for the content would not help
            else:
                self.on_storage_error(error)
        for message in self.keeper.warnings[told:]:
            if self.ended:
                _log.error("%s: %s", self.name, message)
            else:
                self.publish(Warned, message=message)

    async def close(self) -> None:
        """The last of it, after the exchange has ended: writes, record, descriptors, lock."""
        transfer = self.transfer
        try:
            if transfer is not None and self.error is None:
                await transfer.disk.drain()
                await self.save(final=True)
        finally:
            if transfer is not None:
                transfer.disk.abandon()
            self.keeper.close()

    # ------------------------------------------------------------------------------------------ what happens

    def on_progress(self) -> None:
        """A piece was verified, or found by the check, or a peer was barred."""
        self.unsaved = True
        self.session.save_soon()

    def on_complete(self) -> None:
        """The last piece was verified, before the torrent ended."""
        self._state = "seeding"  # then the tick need not see to it
        self.in_background(self._settle_complete)
        self.session.announcer.completed(self)

    async def _settle_complete(self) -> None:
        """Say that it is complete, when it is durable if that was asked for."""
        transfer = self.transfer
        assert transfer is not None
        if self.options.sync and not self.keeper.seed_only:
            await self.save(durable=True)
        if self.ended:
            return
        self._completed = Complete(
            time=self.session.wall_clock(),
            info_hash=self.info_hash.hex(),
            seconds=trio.current_time() - self._added,
            downloaded=transfer.downloaded,
            uploaded=transfer.uploaded,
            wasted=transfer.wasted,
            hash_failures=transfer.hash_failures,
        )
        self.feed.publish(self._completed)
        self._complete.set()
        self._tell_seeding(trio.current_time())

    def on_storage_error(self, error: StorageError) -> None:
        """The disk failed: the torrent ends, or waits for space if that was asked for."""
        if self.ended:
            _log.warning("%s", error)
            return
        transfer = self.transfer
        if transfer is not None and self.options.wait_for_space and error.errno in NO_SPACE:
            self._on_disk_full(transfer, error)
            return
        if error.errno in NO_SPACE:
            needed = self.metainfo.geometry.total_length - (0 if transfer is None else transfer.done_bytes)
            self.publish(DiskFull, path=error.path, needed_bytes=needed)
        self._end_with(error)

    def _end_with(self, error: StorageError) -> None:
        self._fail(error)
        self._life.cancel()

    def _on_disk_full(self, transfer: Transfer, error: StorageError) -> None:
        """Only upload from now on, and look for space now and then."""
        if self._state == "disk_full":
            return
        self._state = "disk_full"
        transfer.stop_asking()
        self._next_probe = trio.current_time() + limits.FREE_SPACE_PROBE
        needed = self.metainfo.geometry.total_length - transfer.done_bytes
        self.publish(DiskFull, path=error.path, needed_bytes=needed)

    def on_tick(self, now: float) -> None:
        """Once a second."""
        transfer = self.transfer
        if transfer is not None and transfer.active:
            if transfer.complete and self._state == "downloading":
                self.on_complete()  # a bug in a peer kept it from being told
            transfer.on_tick(now)
            if not transfer.peers and not transfer.dialling:
                self.session.announcer.hurry(self)
            elif transfer.has_company(now):
                self.tiers.on_company()
            if self._state == "disk_full" and now >= self._next_probe:
                self._next_probe = now + limits.FREE_SPACE_PROBE
                if self.keeper.has_space(self.metainfo.geometry.total_length - transfer.done_bytes):
                    self._state = "seeding" if transfer.complete else "downloading"
                    transfer.go_on_asking()
        if self.feed.listened and not self._ended.is_set():
            self.feed.publish(self.status())
            if self._state == "seeding" and now >= self._next_seeding and not self.is_paused:
                self._tell_seeding(now)

    def _tell_seeding(self, now: float) -> None:
        transfer = self.transfer
        assert transfer is not None
        self._next_seeding = now + SEEDING_PERIOD
        self.publish(Seeding, port=self.session.port, uploaded=transfer.uploaded, peers=len(transfer.peers))

    # ------------------------------------------------------------------------------------------ trackers

    @property
    def peer_id(self) -> bytes:
        """20 bytes, for announces."""
        return self.session.peer_id

    @property
    def port(self) -> int:
        """Where peers connect to us, for announces."""
        return self.session.port

    def announce_counters(self) -> tuple[int, int, int]:
        """(uploaded, downloaded, left) in bytes since the torrent was added."""
        transfer = self.transfer
        if transfer is None:
            return 0, 0, self.metainfo.geometry.total_length
        return transfer.uploaded, transfer.downloaded, self.metainfo.geometry.total_length - transfer.done_bytes

    def on_tracker_peers(self, url: str, peers: list[Address], tracker_ip: str | None) -> None:
        """Peers that the tracker at ``tracker_ip`` named."""
        if self.transfer is not None:
            known = self.transfer.add_peers(peers[: limits.TRACKER_PEERS_USED], "tracker", tracker_ip)
            _log.debug("tracker %s: %d of %d peers may be dialled", url, known, len(peers))

    def on_tracker_answer(
        self,
        *,
        url: str,
        ok: bool,
        peers: int,
        seeders: int | None,
        leechers: int | None,
        interval: float | None,
        message: str,
    ) -> None:
        """An announce or a scrape ended."""
        if ok:
            self.session.outage.on_contact(trio.current_time())
        else:
            self.session.outage.on_failure()
        self.tracker_failures.pop(url, None)
        if not ok:
            self.tracker_failures[url] = message
        self.publish(
            TrackerAnswer,
            url=url,
            ok=ok,
            peers=peers,
            seeders=seeders,
            leechers=leechers,
            interval=interval,
            message=message,
        )

    @property
    def is_seed(self) -> bool:
        """Whether it has everything, for the DHT."""
        return self.transfer is not None and self.transfer.complete

    @property
    def is_alone(self) -> bool:
        """Whether it has no peer."""
        return self.transfer is None or not self.transfer.peers

    def on_dht_peers(self, peers: list[Address], node_ip: str) -> None:
        """Peers that the DHT node at ``node_ip`` named."""
        if self.transfer is not None:
            known = self.transfer.add_peers(peers, "dht", node_ip)
            _log.debug("DHT node %s: %d of %d peers may be dialled", node_ip, known, len(peers))

    def on_tracker_switch(self, url: str) -> None:
        """A private torrent goes over to another tracker: its peers are another swarm's (BEP 27)."""
        if self.transfer is not None:
            self.transfer.book.forget_swarm()
            self.transfer.close_peers(f"the tracker is now {url}")


async def _wait_then_cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _leaf(group: BaseExceptionGroup[BtorError]) -> BtorError:
    """The first exception of a group."""
    first = group.exceptions[0]
    return _leaf(first) if isinstance(first, BaseExceptionGroup) else first
