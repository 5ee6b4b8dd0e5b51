"""A session: what all torrents share, and the order in which everything starts and ends."""

from __future__ import annotations

import errno
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from btor import limits
from btor.engine.announce import Announcer
from btor.engine.background import sheltered_nursery
from btor.engine.choking import Choking
from btor.engine.contain import Container
from btor.engine.counters import Counters
from btor.engine.descriptors import share_out
from btor.engine.dht import Dht
from btor.engine.dht_announce import DhtAnnouncer
from btor.engine.dial import Dialler, Joinable
from btor.engine.disk import Disk
from btor.engine.events import Event
from btor.engine.feed import Feed, Subscription
from btor.engine.gulps import Gulps
from btor.engine.hashers import Hashers
from btor.engine.identify import identify
from btor.engine.limiter import Pacer
from btor.engine.listener import Porter
from btor.engine.lsd import LocalDiscovery, open_multicast_sockets
from btor.engine.options import AddOptions
from btor.engine.outage import Outage
from btor.engine.peer import GULP_ROOM, Peer
from btor.engine.torrent import Torrent
from btor.engine.transport import Address, Listener, Network, TcpNetwork, Transport
from btor.engine.udp import UdpHub
from btor.engine.upload import SendBuffer
from btor.engine.watch import Watcher
from btor.errors import NetworkError, UsageError
from btor.metainfo.magnet import Magnet
from btor.metainfo.selection import Selection
from btor.metainfo.torrent_file import Metainfo
from btor.settings import DEFAULT_PORT, DHT_ROUTERS, PEER_ID_PREFIX, Settings
from btor.storage import system
from btor.storage.hashing import processors
from btor.swarm.bans import Bans
from btor.swarm.dial_budget import DialBudget
from btor.swarm.own_ips import OwnIps
from btor.swarm.rates import RateMeter, TokenBucket
from btor.wire.address import format_address, parse_host_port
from btor.wire.handshake import Features
from btor.wire.messages import encode_port

if TYPE_CHECKING:
    from btor.engine.sending import Sender
    from btor.engine.transfer import Transfer
    from btor.engine.udp import UdpSocket

_log = logging.getLogger(__name__)

TICK: Final = 1.0  # s
FLUSH_DELAY: Final = 0.01  # s in which small messages are gathered
PORTS_TRIED: Final = 11


class PortTakenError(NetworkError):
    """Somebody else listens there, or only the system may."""


class Session:
    """Made by `open_session`. ``port``: where peers connect to us, 0 if nothing listens."""

    def __init__(self, settings: Settings, network: Network, rng: random.Random) -> None:
        self.shares = share_out(system.raise_descriptor_limit(limits.DESCRIPTORS))
        settings = replace(settings, max_peers=min(settings.max_peers, self.shares.peers))
        self.settings = settings
        self.network = network
        self.rng = rng
        self.peer_id = PEER_ID_PREFIX + bytes(rng.randrange(256) for _ in range(20 - len(PEER_ID_PREFIX)))
        self.port = 0
        self.container = Container(strict=settings.strict)
        self.feed = Feed()
        self.receive_buffer = memoryview(bytearray(limits.GULP_MAX + GULP_ROOM))
        self.counters = Counters()
        self.send_buffer = SendBuffer(self.counters)
        self.gulps = Gulps()
        self.upload = TokenBucket(settings.max_upload)
        self.download = TokenBucket(settings.max_download)
        self.up_meter = RateMeter()
        self.down_meter = RateMeter()
        self.bans = Bans(loopback_is_public=settings.loopback_is_public)
        self.dial_budget = DialBudget(loopback_is_public=settings.loopback_is_public)
        self.choking = Choking(settings.upload_slots, self._peers, rng)
        self.dialler = Dialler(self, self.exchanges)
        self.outage = Outage(self)
        self.watcher = Watcher(self.transfers)
        self.pacer = Pacer(self.transfers)
        self.torrents: dict[bytes, Torrent] = {}
        self.own_ips = OwnIps()
        self._keys = 0
        self._ticked = 0  # where the next idle torrents to tick begin
        self._unflushed: dict[Sender | Transfer, None] = {}  # in the order of asking, so that runs can be repeated
        self._flush = trio.Event()
        self._save = trio.Event()
        self.disk: Disk
        self.announcer: Announcer
        self.dht: Dht
        self.dht_announcer: DhtAnnouncer
        self._inner: trio.Nursery
        self._outer: trio.Nursery
        self._listeners: list[Listener] = []

    # ------------------------------------------------------------------------------------------ for programs

    async def add(
        self,
        source: str | Path | Metainfo | Magnet,
        *,
        directory: str | Path = ".",
        output: str | Path | None = None,
        overwrite: bool = False,
        recheck: bool = False,
        seed_only: bool = False,
        partial: bool = False,
        peers: Sequence[str | Address] = (),
        trackers_enabled: bool = True,
        sync: bool = False,
        wait_for_space: bool = False,
        max_download: int | None = None,
        max_upload: int | None = None,
        metadata_only: bool = False,
        selection: Selection | None = None,
    ) -> Torrent:
        """Add a torrent and start it. ``source``: a .torrent file's path, or its parsed content; a magnet URI, or the
        40 hexadecimal digits of an info-hash, or what they are parsed into: then peers are asked for the metadata.

        Its content goes below ``directory``, or is ``output`` itself. ``seed_only``: ``output`` (or ``directory``) is
        the content, or the folder that holds it, and is never written; incomplete content is an error unless
        ``partial``. ``overwrite``: a file in the way that holds nothing valid is replaced. ``recheck``: the resume
        record is not believed. ``metadata_only``: it ends when `Torrent.wait_metadata` has it. ``peers``: addresses to
        connect to beside those of the trackers. ``selection``: the files wanted; without one those that ``so`` of the
        magnet names, or all. ``sync``: complete means durable on disk. ``wait_for_space``: a full
        disk is waited out. Rates in bytes/s.

        One that is just being removed is waited for. MetainfoError, StorageError (the torrent file), UsageError (a bad
        peer address, it is here already, ``selection`` names what the torrent does not have; of a magnet, that ends the
        torrent later).
        """
        named = [parse_host_port(peer) if isinstance(peer, str) else peer for peer in peers]
        metainfo, magnet = await identify(source, self.settings.state_dir)
        info_hash = (
            metainfo.info_hash if metainfo is not None else magnet.info_hashes.v1 if magnet is not None else None
        )
        assert info_hash is not None
        while (here := self.torrents.get(info_hash)) is not None:
            if not here.removed:
                raise UsageError(f"the torrent {here.name} is here already")
            await here.gone.wait()
        options = AddOptions(
            place=Path(output if output is not None else directory),
            place_is_content=output is not None,
            overwrite=overwrite,
            recheck=recheck,
            seed_only=seed_only,
            partial=partial,
            trackers_enabled=trackers_enabled,
            sync=sync,
            wait_for_space=wait_for_space,
            max_download=max_download,
            max_upload=max_upload,
            metadata_only=metadata_only,
            selection=selection,
        )
        torrent = self.torrents[info_hash] = Torrent(self, metainfo, options, magnet)
        torrent.tell_started()
        self._inner.start_soon(self._live, torrent, named)
        return torrent

    async def _live(self, torrent: Torrent, peers: Sequence[Address]) -> None:
        bug = await self.container.run(f"torrent {torrent.name}", torrent.run, peers)
        torrent.bug = torrent.bug or bug

    def events(self) -> Subscription:
        """The events of all torrents, beginning with a snapshot of each."""
        first: list[Event] = []
        for torrent in self.torrents.values():
            first += torrent.snapshot()
        return self.feed.subscribe(first)

    # ------------------------------------------------------------------------------------------ for the engine

    def next_key(self) -> int:
        """A number that no peer of this session has had."""
        self._keys += 1
        return self._keys

    def transfers(self) -> Iterator[Transfer]:
        """The torrents that are past their check."""
        for torrent in self.torrents.values():
            if torrent.transfer is not None:
                yield torrent.transfer

    def _peers(self) -> Iterator[Peer]:
        for transfer in self.transfers():
            yield from transfer.peers.values()

    def exchanges(self) -> Iterator[Joinable]:
        """Where connections can go: the torrents that are past their check, or have no metadata yet."""
        for torrent in self.torrents.values():
            if torrent.exchange is not None:
                yield torrent.exchange

    def features(self, *, private: bool) -> Features:
        """What we promise in a handshake of a torrent."""
        return Features(extensions=True, fast=True, dht=bool(self.dht.nodes) and not private)

    def port_message(self, ip: str) -> bytes:
        """The message to a peer at ``ip`` that says where our DHT node is; empty where there is none."""
        port = self.dht.port(ipv6=":" in ip) if self.dht.nodes else 0
        return encode_port(port) if port else b""

    def on_dht_port(self, ip: str, port: int) -> None:
        """A peer at ``ip`` has a DHT node at ``port``."""
        self.dht.add_node((ip, port))

    def on_own_ip(self, voter: str, ip: str) -> None:
        """A peer at ``voter`` sees us at ``ip``."""
        self.own_ips.on_vote(voter, ip)
        own = tuple((seen, self.port) for family in ("0.0.0.0", "::") if (seen := self.own_ips.of_family(family)))
        for exchange in self.exchanges():
            exchange.book.own = own

    @property
    def room(self) -> int:
        """How many more connections with peers leave descriptors for all else. Looks at every torrent."""
        return self.shares.peers - sum(len(exchange.peers) + exchange.dialling for exchange in self.exchanges())

    @property
    def has_peers(self) -> bool:
        """Whether any torrent has a peer."""
        return any(exchange.peers for exchange in self.exchanges())

    def on_time_missed(self, now: float, unseen: float) -> None:
        """Much time has passed without us; of it ``unseen`` s are not on our clock."""
        for peer in self._peers():
            peer.on_time_missed(now, unseen)
        self.announcer.on_time_missed(unseen)

    def worst_peer(self, now: float) -> Peer | None:
        """Who brought and took least for its time here."""
        return min(self._peers(), key=lambda peer: peer.worth(now), default=None)

    def find_listening(self, info_hash: bytes) -> Joinable | None:
        """The active torrent that an incoming connection asks for."""
        torrent = self.torrents.get(info_hash)
        if torrent is None or torrent.exchange is None or not torrent.exchange.active:
            return None
        return torrent.exchange

    async def connect(self, address: Address) -> Transport:
        """Open a connection from our address of the same family. OSError."""
        local = next((one for one in self.settings.bind if (":" in one) == (":" in address[0])), None)
        if self.settings.bind and local is None:
            raise OSError(errno.EADDRNOTAVAIL, "no bound address of that family")
        return await self.network.connect(address, local=local)

    def wall_clock(self) -> float:
        """Unix time, for events only."""
        return time.time()

    def in_background(
        self,
        child: Callable[..., Awaitable[None]],
        *args: Any,
        on_bug: Callable[[BaseException], None] | None = None,
    ) -> None:
        """Run something that outlives peers. ``on_bug`` is called with what nobody expected, if that ends it."""
        self._outer.start_soon(self._run_contained, child, args, on_bug)

    async def _run_contained(
        self,
        child: Callable[..., Awaitable[None]],
        args: tuple[Any, ...],
        on_bug: Callable[[BaseException], None] | None,
    ) -> None:
        bug = await self.container.run(child.__name__, child, *args)
        if bug is not None and on_bug is not None:
            on_bug(bug)

    def flush_soon(self, peer: Sender | Transfer) -> None:
        """Send what waits for ``peer``, or for all peers of a torrent, together with what comes within a moment."""
        self._unflushed[peer] = None
        self._flush.set()

    def save_soon(self) -> None:
        """Something changed that the resume records should know."""
        self._save.set()

    # ------------------------------------------------------------------------------------------ life

    async def start(self, outer: trio.Nursery) -> None:
        """Start what outlives peers. NetworkError: no port can be had."""
        self._outer = outer
        listeners, sockets = await self._open_ports()
        hashers = self.settings.hashers
        self.disk = Disk(Hashers(processors() if hashers is None else hashers, outer, self.container), self.counters)
        self.disk.pool.size = self.shares.files
        hub = UdpHub(sockets)
        self.announcer = Announcer(
            self.network,
            hub,
            rng=self.rng,
            bind=self.settings.bind,
            loopback_is_public=self.settings.loopback_is_public,
            container=self.container,
        )
        try:
            self._make_dht(hub)
            await outer.start(hub.run)
            await outer.start(self.announcer.run)
            outer.start_soon(self.dht.run)
            outer.start_soon(self.dht_announcer.run)
            outer.start_soon(LocalDiscovery(self, self._open_multicast()).run)
            outer.start_soon(self._save_for_ever)
            self._listeners = listeners
        finally:
            if not self._listeners:  # it did not come to that, so nobody else closes them
                for listener in listeners:
                    listener.close()
                hub.close()

    def start_inner(self, inner: trio.Nursery) -> None:
        """Start what stops first."""
        self._inner = inner
        porter = Porter(self)
        for listener in self._listeners:
            inner.start_soon(porter.run, listener, inner)
        inner.start_soon(self.dialler.run, inner)
        inner.start_soon(self.choking.run)
        inner.start_soon(self._tick_for_ever)
        inner.start_soon(self._flush_for_ever)
        inner.start_soon(self.pacer.run)
        inner.start_soon(self.watcher.run)

    async def finish(self) -> None:
        """After the peers are gone: records, `stopped` announces, descriptors; within ``limits.SHUTDOWN`` seconds."""
        for listener in self._listeners:
            listener.close()
        deadline = trio.current_time() + limits.SHUTDOWN
        with trio.move_on_at(deadline):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.announcer.stop, deadline)
                nursery.start_soon(self.dht.save)
                for torrent in self.torrents.values():
                    nursery.start_soon(torrent.close)
        self.feed.end()

    async def _open_ports(self) -> tuple[list[Listener], list[UdpSocket]]:
        """The port that was asked for; by default 6881, one of the next ten, or any."""
        wanted = self.settings.port
        if wanted:
            return await self._open_port(wanted)
        for port in range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED) if wanted is None else (0, 0):
            with suppress(PortTakenError):
                return await self._open_port(port)
        return await self._open_port(0)

    async def _open_port(self, port: int) -> tuple[list[Listener], list[UdpSocket]]:
        """TCP and UDP on one number, 0: any. NetworkError, PortTakenError where another may do."""
        listeners: list[Listener] = []
        host = ""
        try:
            for host in self.settings.bind or ("",):
                listeners.append(await self.network.listen(host, port or (listeners[0].port if listeners else 0)))
            sockets = self.network.open_udp_sockets(self.settings.bind, listeners[0].port)
        except OSError as error:
            for listener in listeners:
                listener.close()
            place = format_address((host, port)) if host else f"port {port}"
            kind = PortTakenError if error.errno in (errno.EADDRINUSE, errno.EACCES) else NetworkError
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise kind(f"cannot listen on {place}: {reason}") from error
        self.port = listeners[0].port
        return listeners, sockets

    def _open_multicast(self) -> list[UdpSocket]:
        if not self.settings.lsd or not isinstance(self.network, TcpNetwork):
            return []
        return open_multicast_sockets(self.settings.bind)

    def _make_dht(self, hub: UdpHub) -> None:
        settings = self.settings
        sockets = list(hub.sockets) if settings.dht else []
        if sockets and settings.dht_port not in (None, self.port):
            try:
                sockets = self.network.open_udp_sockets(settings.bind, settings.dht_port or 0)
            except OSError as error:
                raise NetworkError(f"cannot listen on UDP port {settings.dht_port}: {error.strerror}") from error
            hub.sockets += sockets
        self.dht = Dht(
            sockets,
            self.network,
            rng=self.rng,
            bootstrap=settings.dht_bootstrap,
            public=settings.dht_bootstrap == DHT_ROUTERS,
            state_dir=settings.state_dir,
            loopback_is_public=settings.loopback_is_public,
            container=self.container,
        )
        hub.on_dht = self.dht.on_datagram
        self.dht_announcer = DhtAnnouncer(
            self.dht, loopback_is_public=settings.loopback_is_public, container=self.container
        )

    async def _tick_for_ever(self) -> None:
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            if self.outage.woke(now, TICK):
                continue
            for torrent in self._to_tick():
                self.container.call(f"the tick of {torrent.name}", torrent.on_tick, now)

    def _to_tick(self) -> list[Torrent]:
        """The torrents that have a peer or a listener, and of the others so many in turn."""
        busy: list[Torrent] = []
        idle: list[Torrent] = []
        for torrent in self.torrents.values():
            (idle if torrent.is_idle else busy).append(torrent)
        first = self._ticked % max(1, len(idle))
        self._ticked = first + limits.IDLE_TICKS
        return [*busy, *(idle + idle)[first : first + min(limits.IDLE_TICKS, len(idle))]]

    async def _flush_for_ever(self) -> None:
        while True:
            self._flush = trio.Event()
            await self._flush.wait()
            await trio.sleep(FLUSH_DELAY)
            peers, self._unflushed = self._unflushed, {}
            for peer in peers:
                self.container.call("a flush", peer.flush)

    async def _save_for_ever(self) -> None:
        """Checkpoints of the resume records, one at a time, at most every few seconds however fast the link is."""
        while True:
            await self._save.wait()
            await trio.sleep(limits.CHECKPOINT_PERIOD)
            self._save = trio.Event()
            for torrent in list(self.torrents.values()):
                if torrent.unsaved:
                    await torrent.save()


@asynccontextmanager
async def open_session(
    settings: Settings | None = None, *, network: Network | None = None, rng: random.Random | None = None
) -> AsyncIterator[Session]:
    """A running session; leaving the block ends it in good order within a few seconds.

    ``network`` and ``rng`` are for tests; without them it is the real network and the system's randomness.
    NetworkError: no port, or not the one asked for. StorageError: a state directory asked for by name cannot be used.
    """
    session = Session(settings or Settings(), network or TcpNetwork(), rng or random.SystemRandom())
    try:
        async with sheltered_nursery() as outer:
            await session.start(outer)
            try:
                async with trio.open_nursery() as inner:
                    session.start_inner(inner)
                    yield session
                    inner.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    await session.finish()
    except BaseExceptionGroup as group:
        raise _unwrapped(group) from None
    finally:  # the hashers have ended, so that their CPU time is known
        if _log.isEnabledFor(logging.DEBUG):
            for line in session.counters.lines():
                _log.debug(line)


def _unwrapped(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception inside groups of one, so that a caller's ``except StorageError`` matches; else the group."""
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    return inner
