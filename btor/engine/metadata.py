"""The exchange of a torrent known by its info-hash alone: its peers are asked for the metadata (BEP 9).

When that is there the connections are parked, with all that the peers have said, until the content's exchange takes
them over (`Transfer.run`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from btor import limits
from btor.engine.events import PeerChange
from btor.engine.extended import greeting
from btor.errors import PeerError
from btor.metainfo.paths import display
from btor.swarm.early import EarlyMessages
from btor.swarm.metadata import MetadataFetch
from btor.swarm.peerbook import PeerBook
from btor.swarm.pex import PexPace
from btor.wire import extension
from btor.wire import messages as wire
from btor.wire.address import Address, format_address
from btor.wire.client_id import client_name
from btor.wire.extension import OWN_IDS, MetadataMessage
from btor.wire.handshake import Features

if TYPE_CHECKING:
    from btor.engine.connection import Connection
    from btor.engine.torrent import Torrent
    from btor.metainfo.info_hashes import InfoHashes

_log = logging.getLogger(__name__)

RECEIVED_AT_ONCE: Final = 256 * limits.KIB


class MetadataExchange:
    """One for a torrent without metadata. ``book``: its peers' addresses, which the content's exchange inherits."""

    def __init__(self, torrent: Torrent, hashes: InfoHashes) -> None:
        session = torrent.session
        self.torrent = torrent
        self.session = session
        self.info_hash = torrent.info_hash
        self.book = PeerBook(session.rng, bans=session.bans, loopback_is_public=session.settings.loopback_is_public)
        self.fetch = MetadataFetch(hashes)
        self.peers: dict[int, MetadataPeer] = {}
        self.dialling = 0
        self.active = False
        self.received = 0  # bytes of metadata, wrong ones included
        self._parked: list[Connection] = []
        self._done = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Ask until the metadata is there; the connections are parked then."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.active = True
                await self._done.wait()
                self.active = False
                self.close_peers("")
        finally:
            self.active = False
            self._nursery = None

    @property
    def features(self) -> Features:
        """What we promise in a handshake."""
        return self.session.features(private=False)

    @property
    def wants_peers(self) -> bool:
        """Whether to dial."""
        return self.active and len(self.peers) + self.dialling < self.session.settings.max_peers

    def add_peers(self, addresses: Iterable[Address], source: Any, from_ip: str | None = None) -> int:
        """A source named peers; how many are known now."""
        known = self.book.add_all(addresses, source, trio.current_time(), from_ip=from_ip)
        self.session.dialler.wake()
        return known

    def on_dial_failed(self, address: Address, error: BaseException) -> None:
        """A peer could not be reached."""
        _log.debug("cannot connect to %s: %s", format_address(address), error or type(error).__name__)

    def close_peers(self, reason: str) -> None:
        """End all connections, or park them if the metadata is there."""
        for peer in list(self.peers.values()):
            peer.close(reason)

    def take_parked(self) -> list[Connection]:
        """The connections that outlived the fetching; whoever takes them closes them."""
        parked, self._parked = self._parked, []
        for connection in parked:
            self.book.on_closed(connection.address, trio.current_time(), moved=True)
        return parked

    # -- connections ----------------------------------------------------------------------------------------------

    def adopt(self, connection: Connection) -> None:
        """A handshake is complete: take the connection in, or close it."""
        now = trio.current_time()
        address, peer_id = connection.address, connection.peer_id
        if peer_id == self.session.peer_id:
            self.book.on_self(address)
        elif self._nursery is not None and self._is_welcome(connection):
            self.book.on_connected(address, now)
            peer = MetadataPeer(self, connection)
            self.peers[peer.key] = peer
            self._nursery.start_soon(self.session.container.run, f"peer {peer.name}", self._serve, peer)
            return
        elif not connection.incoming:
            self.book.on_failed(address, now)
        connection.transport.close()

    def _is_welcome(self, connection: Connection) -> bool:
        return not (
            self.book.is_banned(connection.address, connection.peer_id)
            or self.book.is_connected(connection.address)
            or any(peer.connection.peer_id == connection.peer_id for peer in self.peers.values())
            or len(self.peers) >= self.session.settings.max_peers
        )

    async def _serve(self, peer: MetadataPeer) -> None:
        self._tell_peer(peer, "connected", "incoming" if peer.connection.incoming else "outgoing")
        try:
            await peer.run()
        except* PeerError as group:
            peer.close_reason = str(group.exceptions[0])
        except* (OSError, trio.ClosedResourceError) as group:
            peer.close_reason = peer.close_reason or str(group.exceptions[0])
        finally:
            self._gone(peer)

    def _gone(self, peer: MetadataPeer) -> None:
        del self.peers[peer.key]
        self.fetch.on_gone(peer.key)
        if self.fetch.result is not None and not peer.close_reason:
            self._parked.append(peer.park())
            return
        peer.connection.transport.close()
        self.book.on_closed(peer.connection.address, trio.current_time(), moved=peer.was_of_use)
        self._tell_peer(peer, "disconnected", peer.close_reason)
        if self.active:
            self.session.dialler.wake()
            self.pump()

    def _tell_peer(self, peer: MetadataPeer, change: Any, reason: str) -> None:
        self.torrent.publish(PeerChange, address=peer.name, client=peer.client, change=change, reason=reason)

    # -- metadata -------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Ask for what can be asked for now, bar who lied, and end when the metadata is there."""
        now = trio.current_time()
        requests = self.fetch.take_requests(now)
        for key, piece in requests:
            self.peers[key].tell_metadata(MetadataMessage("request", piece))
        for key in {key for key, _ in requests}:
            self.peers[key].flush()
        for key in self.fetch.take_guilty():
            peer = self.peers.get(key)
            if peer is not None:
                self.book.ban(peer.connection.address, peer.connection.peer_id if peer.connection.incoming else None)
                self._tell_peer(peer, "banned", "sent bad metadata")
                peer.close("sent bad metadata")
        if self.fetch.result is not None:
            self._done.set()

    def on_tick(self, now: float) -> None:
        """Once a second."""
        for peer in list(self.peers.values()):
            peer.on_tick(now)
        if len(self.peers) >= self.session.settings.max_peers:
            useless = next((peer for peer in self.peers.values() if not peer.was_of_use), None)
            if useless is not None:
                useless.close("has no metadata")
        self.pump()


class MetadataPeer:
    """One connection while the metadata is not there. ``was_of_use``: it offers the metadata."""

    def __init__(self, exchange: MetadataExchange, connection: Connection) -> None:
        now = trio.current_time()
        self.key = exchange.session.next_key()
        self.connection = connection
        self.client = client_name(connection.peer_id)
        self.scope = trio.CancelScope()
        self.close_reason = ""
        self._exchange = exchange
        self._early = EarlyMessages(fast=connection.features.fast)
        self._pace = PexPace()
        self._out = bytearray()
        self._wake = trio.Event()
        self._last_received = self._last_sent = now

    @property
    def name(self) -> str:
        """The address, as shown to a person."""
        return format_address(self.connection.address)

    @property
    def was_of_use(self) -> bool:
        """Whether it has offered metadata."""
        settled = self.connection.extensions
        return settled.metadata_size is not None and settled.takes(extension.UT_METADATA)

    def close(self, reason: str) -> None:
        """End it from our side; without a reason it may be parked."""
        self.close_reason = self.close_reason or reason
        self.scope.cancel()

    def park(self) -> Connection:
        """The connection with all that is to be known of it, for whoever takes it over."""
        self.connection.early = self._early
        self.connection.unsent = bytes(self._out)
        return self.connection

    # -- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Speak until either side ends it. PeerError, OSError."""
        session = self._exchange.session
        with self.scope:
            if self.connection.features.fast:
                self._out += wire.encode_state(wire.HAVE_NONE)
            if self.connection.features.extensions:
                self._out += greeting(session, self.connection.transport.remote[0], pex=session.settings.pex)
            if self.connection.features.dht:
                self._out += session.port_message(self.connection.transport.remote[0])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read()
                nursery.cancel_scope.cancel()

    async def _read(self) -> None:
        transport = self.connection.transport
        shared = self._exchange.session.receive_buffer[:RECEIVED_AT_ONCE]
        while True:
            try:
                count = transport.recv_into([shared])
            except BlockingIOError:
                await transport.wait_readable()
                continue
            if not count:
                self.close_reason = self.close_reason or "closed by the peer"
                return
            self._last_received = trio.current_time()
            items = self._early.feed(shared[:count])
            for item in items:
                self._on_message(item)
            if items:
                self._exchange.pump()  # once for all that came
            await trio.lowlevel.checkpoint()

    async def _write(self) -> None:
        transport = self.connection.transport
        while True:
            if not self._out:
                self._wake = trio.Event()
                await self._wake.wait()
            try:
                del self._out[: transport.send([self._out])]
            except BlockingIOError:
                await transport.wait_writable()
                continue
            self._last_sent = trio.current_time()
            await trio.lowlevel.checkpoint()

    def say(self, message: bytes) -> None:
        """Send a message as soon as may be."""
        self._out += message
        self._wake.set()

    def flush(self) -> None:
        """Send at once what the socket takes; the rest is the writer's, and so is a socket that has failed."""
        with suppress(OSError, trio.ClosedResourceError):
            del self._out[: self.connection.transport.send([self._out])]
            self._last_sent = trio.current_time()

    def tell_metadata(self, message: MetadataMessage) -> None:
        """Send a message of ``ut_metadata``, if the peer takes such."""
        if self.connection.extensions.takes(extension.UT_METADATA):
            payload = extension.encode_metadata(message)
            self.say(self.connection.extensions.message(extension.UT_METADATA, payload))

    def on_tick(self, now: float) -> None:
        """Once a second: keep-alive, dead connections."""
        if now - self._last_received > limits.DEAD_PEER:
            self.close("silent for too long")
        elif len(self._out) > limits.SEND_BACKLOG:
            self.close("takes nothing of what is sent")
        elif now - self._last_sent > limits.KEEP_ALIVE and not self._out:
            self.say(wire.KEEP_ALIVE)

    # -- messages -------------------------------------------------------------------------------------------------

    def _on_message(self, item: wire.Message) -> None:
        kind = item[0]
        if kind == wire.EXTENDED and self.connection.features.extensions:
            self._on_extended(item[1])  # type: ignore[arg-type]  # bytes
        elif kind == wire.REQUEST and self.connection.features.fast:
            self.say(wire.encode_reject(*item[1:]))
        elif kind == wire.PORT:
            self._exchange.session.on_dht_port(self.connection.transport.remote[0], item[1])  # type: ignore[arg-type]  # one number

    def _on_extended(self, payload: bytes) -> None:
        body = payload[1:]
        if payload[0] == extension.HANDSHAKE_ID:
            self._on_handshake(body)
        elif payload[0] == OWN_IDS[extension.UT_METADATA]:
            self._on_metadata(body)
        elif payload[0] == OWN_IDS[extension.UT_PEX] and self._exchange.session.settings.pex:
            self._pace.on_message(self._last_received)
            added = [address for address, _ in extension.decode_pex(body).added]
            self._exchange.add_peers(added, "pex", self.connection.transport.remote[0])
        elif payload[0] == OWN_IDS[extension.UPLOAD_ONLY]:
            self.connection.extensions.upload_only = extension.decode_upload_only(body)

    def _on_handshake(self, body: bytes) -> None:
        said = extension.decode_handshake(body)
        settled = self.connection.extensions
        settled.on_handshake(said)
        remote = self.connection.transport.remote
        if settled.client:
            self.client = display(settled.client)
        if said.your_ip is not None:
            self._exchange.session.on_own_ip(remote[0], said.your_ip)
        if self.connection.incoming and said.port is not None:
            self._exchange.book.on_listen_port(remote, said.port, self._last_received)
        self._exchange.fetch.on_offer(self.key, settled.metadata_size if self.was_of_use else None)

    def _on_metadata(self, body: bytes) -> None:
        message = extension.decode_metadata(body)
        if message is None:
            return
        fetch, now = self._exchange.fetch, self._last_received
        if message.kind == "request":
            self.tell_metadata(MetadataMessage("reject", message.piece))
            return
        if message.kind == "reject":
            fetch.on_reject(self.key, message.piece, now)
        else:
            self._exchange.received += len(message.data)
            fetch.on_data(self.key, message.piece, message.total_size, message.data, now)
