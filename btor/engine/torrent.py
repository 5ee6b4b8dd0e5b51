"""One torrent of a session: its life from check to removal, and what programs see of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from btor import limits
from btor.engine import report
from btor.engine.announcing import Announcing
from btor.engine.background import in_thread, see_through
from btor.engine.contain import first_of
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
    Warned,
)
from btor.engine.feed import Feed, Subscription
from btor.engine.keeper import Keeper
from btor.engine.lookup import look_up
from btor.engine.metadata import MetadataExchange
from btor.engine.transfer import Transfer
from btor.errors import BtorError, NetworkError, StorageError, UsageError
from btor.metainfo.from_magnet import metainfo_of, torrent_of
from btor.metainfo.magnet import Magnet
from btor.metainfo.paths import display, safe_name
from btor.metainfo.selection import wanted_files
from btor.metainfo.torrent_file import Metainfo
from btor.storage import metadata as stored_metadata
from btor.storage.state import StateError
from btor.swarm.tiers import Tiers
from btor.wire.address import is_ip

if TYPE_CHECKING:
    from btor.engine.options import AddOptions
    from btor.engine.session import Session
    from btor.engine.transport import Address
    from btor.swarm.peerbook import PeerSource

_log = logging.getLogger(__name__)

LARGE: Final = limits.MIB  # a larger torrent is parsed in a thread
SEEDING_PERIOD: Final = 10.0  # s between two `seeding` events


class Torrent(Announcing):
    """Made by `Session.add`. ``transfer`` is there from the end of the check on.

    ``magnet``: what it was added by, None for a torrent file. ``keeper`` is there as soon as the metadata is.
    """

    def __init__(
        self, session: Session, metainfo: Metainfo | None, options: AddOptions, magnet: Magnet | None = None
    ) -> None:
        self.session = session
        self.magnet = magnet
        self.options = options
        self.error: BtorError | None = None
        self.bug: BaseException | None = None  # what ended it unexpectedly
        self.gathering: MetadataExchange | None = None
        self.transfer: Transfer | None = None
        self.unsaved = False  # something changed that the resume record does not know
        self.feed = Feed(session.feed)
        self.keeper: Keeper
        self.tiers: Tiers
        self.key = session.rng.randrange(1 << 32)  # for announces
        self.tracker_failures: dict[str, str] = {}  # of trackers that failed when last asked, the latest at the end
        self._added = trio.current_time()
        self._metainfo: Metainfo | None = None
        self._metadata = trio.Event()
        if metainfo is not None:
            self._learn(metainfo)
            self.info_hash = metainfo.info_hash
        else:
            assert magnet is not None
            self.info_hash = magnet.info_hash
            self._set_trackers([(url,) for url in magnet.trackers], private=False)
        self._state: State = "metadata" if metainfo is None else "checking"
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
    def metainfo(self) -> Metainfo:
        """What the torrent is; UsageError while that is not known."""
        if self._metainfo is None:
            raise UsageError(f"the metadata of {self.name} is not here yet")
        return self._metainfo

    @property
    def has_metadata(self) -> bool:
        """Whether it is known what the torrent is."""
        return self._metainfo is not None

    @property
    def name(self) -> str:
        """The torrent's name, safe to show and to use as a file name; that of the magnet while it is not known."""
        if self._metainfo is not None:
            return self._metainfo.name
        named = None if self.magnet is None else self.magnet.name
        return safe_name((named or "").encode("utf-8", "replace"), self.info_hash.hex())

    @property
    def complete(self) -> bool:
        """Whether everything wanted is there and verified (and durable, if that was asked for)."""
        return self._complete.is_set()

    @property
    def ended(self) -> bool:
        """Whether it has failed or been removed: what still comes of its work changes nothing that is told."""
        return self.error is not None or self.bug is not None or self._ended.is_set()

    @property
    def is_idle(self) -> bool:
        """Whether it has no peer, dials none, and nobody listens to it: then its tick has little to do."""
        exchange = self.exchange
        return (exchange is None or not (exchange.peers or exchange.dialling)) and not self.feed.listened

    @property
    def uploaded_before(self) -> int:
        """Bytes that were uploaded in earlier runs, as the resume record has it; ``status`` counts from the start."""
        return self.keeper.uploaded_before if self.has_metadata else 0

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

    async def wait_metadata(self) -> Metainfo:
        """What the torrent is, as soon as that is known. Raises what ended it before, of right a BtorError."""
        async with trio.open_nursery() as nursery:
            for event in (self._metadata, self._ended):
                nursery.start_soon(_wait_then_cancel, event, nursery.cancel_scope)
        if self._metainfo is None:
            raise self.error or self.bug or UsageError(f"the torrent {self.name} was removed")
        return self._metainfo

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
        if self.magnet is not None and self.has_metadata:
            events.append(report.metadata_arrived(self))
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
                named: list[tuple[Address, PeerSource]] = [(peer, "user") for peer in peers]
                if self.magnet is not None:
                    named += [(peer, "magnet") for peer in self.magnet.peers]
                if self._metainfo is None:
                    await self._get_metadata(named)
                else:
                    self._metadata.set()
                if self.options.metadata_only:
                    return
                await self._check()
                async with trio.open_nursery() as nursery:
                    if named:
                        nursery.start_soon(self._name_peers, named)
                    await self._exchange()
        except* BtorError as group:
            self._fail(first_of(group, BtorError))
        finally:
            self._state = "error" if self.error is not None else "stopped"
            if self.error is not None:
                if self.transfer is not None:
                    self.transfer.disk.abandon()
                self._let_go()
            self._ended.set()
            self._tell_stopped()

    def _let_go(self) -> None:
        """Nothing of it is used any more: its files, and connections that nobody took over."""
        if self.has_metadata:
            self.keeper.close()
        if self.gathering is not None:
            for connection in self.gathering.take_parked():
                connection.transport.close()

    def _set_trackers(self, tiers: Sequence[Sequence[str]], *, private: bool) -> None:
        enabled = self.options.trackers_enabled and self.session.settings.trackers
        self.tiers = Tiers(tiers if enabled else (), self.session.rng, private=private)

    def _learn(self, metainfo: Metainfo) -> None:
        """It is known now what the torrent is. UsageError, MetainfoError: it has no such files as are wanted."""
        select = None if self.magnet is None or self.options.metadata_only else self.magnet.select
        wanted = wanted_files(metainfo, self.options.selection, select)
        keeper = Keeper(self.session, metainfo, self.options, wanted)
        self._metainfo = metainfo
        self.keeper = keeper
        if self.gathering is None or metainfo.private:
            self._set_trackers(metainfo.trackers, private=metainfo.private)

    async def _get_metadata(self, named: Sequence[tuple[Address, PeerSource]]) -> None:
        """Ask peers for the metadata until it is there. MetainfoError: it is invalid."""
        assert self.magnet is not None
        gathering = self.gathering = MetadataExchange(self, self.magnet.info_hashes)
        while (info := gathering.fetch.result) is None:
            await self._resumed.wait()
            self._away = trio.Event()
            with trio.CancelScope() as self._active:
                self._announce(self.magnet.nodes)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._name_peers, named)
                        await gathering.run()
                        nursery.cancel_scope.cancel()
                finally:
                    if gathering.fetch.result is None:
                        self._leave_swarm()
                    self._away.set()
        large = len(info) > LARGE
        metainfo = await in_thread(metainfo_of, info, self.magnet) if large else metainfo_of(info, self.magnet)
        if metainfo.private:  # peers of other sources are none of its swarm, and its trackers are asked in turn
            self._leave_swarm()
            gathering.book.forget_swarm()
        self._learn(metainfo)
        await self._keep_metadata(info, self.magnet)
        self._state = "checking"
        self._metadata.set()
        self.feed.publish(report.metadata_arrived(self))

    async def _keep_metadata(self, info: bytes, magnet: Magnet) -> None:
        """For the next run."""
        settings = self.session.settings
        if settings.state_dir is None:
            return
        try:
            await in_thread(stored_metadata.save, settings.state_dir, self.info_hash, torrent_of(info, magnet))
        except StateError as error:
            if settings.state_dir_required:
                raise
            self.publish(Warned, message=f"the metadata cannot be kept: {error}")

    def _announce(self, nodes: Sequence[tuple[str, int]]) -> None:
        """Let trackers and the DHT know of us. ``nodes``: of the DHT, that the torrent names."""
        self.session.announcer.add(self)
        if not (self.has_metadata and self.metainfo.private):
            self.session.dht.add_named(nodes)
            self.session.dht_announcer.add(self)

    def _leave_swarm(self) -> None:
        self.session.announcer.remove(self)
        self.session.dht_announcer.remove(self)

    async def _check(self) -> None:
        began = trio.current_time()
        await self.keeper.open()
        for message in self.keeper.warnings:
            self.publish(Warned, message=message)
        transfer = Transfer(self, self.keeper.content, self.keeper.have, self.keeper.device)
        self.transfer = transfer
        transfer.book.restore_bans(ip for ip in self.keeper.banned if is_ip(ip))
        self._checked = report.checked(self, transfer.picker.missing, trio.current_time() - began)
        self.feed.publish(self._checked)
        if self.keeper.known_from == "hash":
            self.on_progress()
        if transfer.complete:
            self._state = "seeding"
            await self._settle_complete()
        elif self.keeper.seed_only:  # a part of it
            self._state = "seeding"
            transfer.give_only()
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
                self._announce(self.metainfo.nodes)
                try:
                    await self.transfer.run()
                finally:
                    self._leave_swarm()
                    self._away.set()

    async def _name_peers(self, named: Sequence[tuple[Address, PeerSource]]) -> None:
        """The peers that the user or the magnet named; a private torrent has none of the latter (BEP 27)."""
        assert self.exchange is not None
        for (host, port), source in named:
            if source == "magnet" and self.has_metadata and self.metainfo.private:
                continue
            try:
                addresses = await look_up(self.session.network, host, port)
            except NetworkError as error:
                self.publish(Warned, message=display(f"peer {host}: {error}"))
                continue
            self.exchange.add_peers(addresses, source)

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
            self._let_go()

    # ------------------------------------------------------------------------------------------ what happens

    def on_progress(self) -> None:
        """A piece was verified, or found by the check, or a peer was barred."""
        self.unsaved = True
        self.session.save_soon()

    def on_complete(self) -> None:
        """The last piece was verified, before the torrent ended."""
        self._state = "seeding"  # then the tick need not see to it
        self.in_background(self._settle_complete)
        if self.transfer is not None and self.transfer.is_seed:
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
            needed = self.keeper.wanted_bytes if transfer is None else transfer.picker.missing_bytes
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
        self.publish(DiskFull, path=error.path, needed_bytes=transfer.picker.missing_bytes)

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
                if self.keeper.has_space(transfer.picker.missing_bytes):
                    self._state = "seeding" if transfer.complete else "downloading"
                    transfer.go_on_asking()
        elif self.gathering is not None and self.gathering.active:
            self.gathering.on_tick(now)
            if self.is_alone and not self.gathering.dialling:
                self.session.announcer.hurry(self)
        if self.feed.listened and not self._ended.is_set():
            self.feed.publish(self.status())
            if self._state == "seeding" and now >= self._next_seeding and not self.is_paused:
                self._tell_seeding(now)

    def _tell_seeding(self, now: float) -> None:
        transfer = self.transfer
        assert transfer is not None
        self._next_seeding = now + SEEDING_PERIOD
        self.publish(Seeding, port=self.session.port, uploaded=transfer.uploaded, peers=len(transfer.peers))


async def _wait_then_cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
