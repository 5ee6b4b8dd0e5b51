"""The exchange of one torrent with its peers: what arrives is accounted, written, hashed, believed and told.

It lives from the end of the check to the removal of the torrent; a pause only takes the peers away.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import trio

from btor import limits
from btor.engine.contain import first_of
from btor.engine.disk import TorrentDisk
from btor.engine.events import PeerChange, PieceFailed
from btor.engine.limiter import UploadGate
from btor.engine.peer import Peer
from btor.engine.pex import PeerExchange
from btor.engine.watch import Guard
from btor.errors import PeerError, StorageError
from btor.limits import BLOCK
from btor.swarm.blame import Blame
from btor.swarm.peerbook import PeerBook
from btor.swarm.picker import Picker
from btor.swarm.rates import RateMeter, TokenBucket
from btor.wire.address import Address, format_address
from btor.wire.handshake import Features
from btor.wire.messages import encode_have

if TYPE_CHECKING:
    from btor.engine.connection import Connection
    from btor.engine.torrent import Torrent
    from btor.metainfo.bitfield import Bitfield
    from btor.storage.files import Content
    from btor.swarm.source import Source
    from btor.wire.messages import Run

_log = logging.getLogger(__name__)

REMEMBERED_PEERS: Final = 1_000  # that left, so that one found guilty later can still be barred
TWINS_TIME: Final = 1.0  # s that a peer has to close one of two connections that crossed
FEW_PIECES_LEFT: Final = 16  # from here on idle peers are asked at once when something changes


class Transfer:
    """Peers, picker, blame and disk of one torrent. ``have``: the verified pieces, kept up to date here."""

    def __init__(self, torrent: Torrent, content: Content, have: Bitfield, device: int) -> None:
        session = torrent.session
        self.torrent = torrent
        self.session = session
        self.metainfo = torrent.metainfo
        self.geometry = torrent.metainfo.geometry
        self.info_hash = torrent.info_hash
        self.content = content
        self.have = have
        self.picker: Picker = Picker(self.geometry, have, session.rng, torrent.keeper.wanted)
        self.blame = Blame(self.geometry)
        if torrent.gathering is not None:
            self.book = torrent.gathering.book
        else:
            self.book = PeerBook(session.rng, bans=session.bans, loopback_is_public=session.settings.loopback_is_public)
        self.upload = UploadGate(TokenBucket(torrent.options.max_upload, session.upload))
        self.download = TokenBucket(torrent.options.max_download, session.download)
        self.down_meter = RateMeter()
        self.up_meter = RateMeter()
        self.disk = TorrentDisk(
            session.disk,
            self.metainfo,
            content,
            device,
            rate=self.down_meter.rate,
            on_hashed=self.on_hashed,
            on_void=self.on_void,
            on_error=torrent.on_storage_error,
            in_background=torrent.in_background,
        )
        self.peers: dict[int, Peer] = {}
        self.pex = PeerExchange(self)
        self.dialling = 0
        self.paused_requests = False
        self.gives_only = False  # nothing of what is missing is wanted, now or later (BEP 21)
        self.active = False
        self.downloaded = 0
        self.uploaded = 0
        self.granted = 0  # bytes that peers were allowed to ask for while choked, used or not
        self.wasted = 0
        self.hash_failures = 0
        self.done_bytes = self._verified_bytes()
        self.guard = Guard(self, content, torrent.keeper.files)
        self._left: OrderedDict[int, tuple[Address, bytes | None]] = OrderedDict()
        self._nursery: trio.Nursery | None = None
        self._turn = 0
        self._news: list[int] = []  # verified pieces that the peers have not been told of
        self._next_turnover = trio.current_time() + limits.TURNOVER_PERIOD
        self._seen_complete = trio.current_time() if have.complete else None

    @property
    def complete(self) -> bool:
        """Whether every piece that is wanted is verified."""
        return not self.picker.missing

    @property
    def is_seed(self) -> bool:
        """Whether every piece of the torrent is verified."""
        return self.have.complete

    @property
    def upload_only(self) -> bool:
        """Whether nothing more is downloaded: of a part of the content it makes a partial seed (BEP 21)."""
        return self.complete or self.gives_only

    @property
    def complete_ago(self) -> int:
        """Seconds since all pieces were here or at one peer, -1: never."""
        return -1 if self._seen_complete is None else int(trio.current_time() - self._seen_complete)

    def _verified_bytes(self) -> int:
        last = self.geometry.piece_count - 1
        done = self.have.count * self.geometry.piece_length
        if last in self.have:
            done -= self.geometry.piece_length - self.geometry.last_piece_length
        return done

    # ------------------------------------------------------------------------------------------ life

    async def run(self) -> None:
        """Talk to peers until cancelled."""
        try:
            self.book.resize(limits.PEER_LIST)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.active = True
                self.session.pacer.wake()
                nursery.start_soon(self.disk.run)
                if self.torrent.gathering is not None:
                    for connection in self.torrent.gathering.take_parked():
                        self.adopt(connection)
                try:
                    await trio.sleep_forever()
                finally:
                    self.active = False  # before the peers go: nobody need care any more who gets their slots
                    self._nursery = None  # a dial that succeeds now comes too late
        finally:
            self.active = False
            self._nursery = None
            self.book.resize(limits.PEER_LIST_PAUSED)

    @property
    def features(self) -> Features:
        """What we promise in a handshake."""
        return self.session.features(private=self.metainfo.private)

    @property
    def wants_peers(self) -> bool:
        """Whether to dial."""
        return self.active and len(self.peers) + self.dialling < self.session.settings.max_peers

    def has_company(self, now: float) -> bool:
        """Whether a peer has stayed for a while."""
        oldest = next(iter(self.peers.values()), None)
        return oldest is not None and now - oldest.connected_at >= limits.TRACKER_INTERVAL_MIN

    def adopt(self, connection: Connection) -> None:
        """A handshake is complete: take the connection in, or close it."""
        now = trio.current_time()
        peer_id, address, incoming = connection.peer_id, connection.address, connection.incoming
        older = next((peer for peer in self.peers.values() if peer.peer_id == peer_id), None)
        twin = older if older is not None and self._crossed(older, address, incoming=incoming) else None
        refusal = "" if twin is not None else self._refusal(peer_id, address, older, incoming=incoming)
        if refusal or self._nursery is None:
            _log.debug("connection with %s refused: %s", address, refusal)
            connection.transport.close()
            if refusal == "self":
                self.book.on_self(address)
            elif older is not None and not incoming:
                self.book.on_duplicate(address, older.address, now)
            elif not incoming:
                self.book.on_failed(address, now)
            return
        self.book.on_connected(address, now)
        peer = Peer(self, connection)
        self.peers[peer.key] = peer
        self._nursery.start_soon(self.session.container.run, f"peer {peer.name}", self._serve, peer)
        if twin is not None:
            self._nursery.start_soon(self.session.container.run, "twins", self._settle_twins, twin, peer)

    def _crossed(self, older: Peer, address: Address, *, incoming: bool) -> bool:
        """Whether both sides dialled at the same moment: two connections, and each side has its own older one."""
        return (
            older.incoming != incoming
            and older.address[0] == address[0]
            and not (older.received_total or older.sent_total)
            and trio.current_time() - older.connected_at < limits.HANDSHAKE_TIMEOUT
        )

    async def _settle_twins(self, older: Peer, newer: Peer) -> None:
        """Close one of two connections that crossed, unless the peer does it.

        Clients differ in which one they close, and most close it at once: had we closed the other, none would be left.
        Peers that wait as we do agree by who has the greater peer id: it keeps its dial.
        """
        await trio.sleep(TWINS_TIME)
        if older.key in self.peers and newer.key in self.peers:
            loser = older if (newer.peer_id > self.session.peer_id) == newer.incoming else newer
            loser.close("connected twice at the same time")

    def _refusal(self, peer_id: bytes, address: Address, older: Peer | None, *, incoming: bool) -> str:
        if peer_id == self.session.peer_id:
            return "self"
        if self.book.is_banned(address, peer_id):
            return "banned"
        if older is not None:
            return "connected already"
        if self.book.is_connected(address):
            return "one connection for each address"
        if not incoming and not self.book.knows(address):
            return "of a swarm that was left"
        if len(self.peers) >= self.session.settings.max_peers:
            return "enough peers"
        return ""

    async def _serve(self, peer: Peer) -> None:
        if not peer.was_parked:  # else that has been told
            self._tell_peer(peer, "connected", "incoming" if peer.incoming else "outgoing")
        try:
            await peer.run()
        except* PeerError as group:
            peer.close_reason = str(first_of(group, PeerError))
        except* StorageError as group:
            error = first_of(group, StorageError)
            if not self.guard.on_error(error):
                self.torrent.on_storage_error(error)
        except* (OSError, trio.ClosedResourceError) as group:
            peer.close_reason = peer.close_reason or str(first_of(group, Exception))
        finally:
            self._gone(peer)

    def _gone(self, peer: Peer) -> None:
        now = trio.current_time()
        peer.transport.close()
        del self.peers[peer.key]
        self.on_requests_dropped(peer.source.outstanding_count)
        self.picker.remove_source(peer.source)
        self.session.choking.forget(peer, now)
        moved = bool(peer.received_total or peer.sent_total)
        self.book.on_closed(peer.address, now, moved, sated=self.upload_only and peer.upload_only)
        twin = next((other for other in self.peers.values() if other.peer_id == peer.peer_id), None)
        if twin is not None:
            self.book.on_connected(twin.address, now)
            if not peer.incoming:
                self.book.on_duplicate(peer.address, twin.address, now)
        self._left[peer.key] = (peer.address, peer.peer_id if peer.incoming else None)
        if len(self._left) > REMEMBERED_PEERS:
            self._left.popitem(last=False)
        self._tell_peer(peer, "disconnected", peer.close_reason)
        if self.active:
            self.session.dialler.wake()
            self._ask_idle(now)

    def _tell_peer(self, peer: Peer, change: Any, reason: str) -> None:
        self.torrent.publish(PeerChange, address=peer.name, client=peer.client, change=change, reason=reason)

    def on_dial_failed(self, address: Address, error: BaseException) -> None:
        """A peer could not be reached."""
        _log.debug("cannot connect to %s: %s", format_address(address), error or type(error).__name__)

    def add_peers(self, addresses: Iterable[Address], source: Any, from_ip: str | None = None) -> int:
        """A source named peers; how many are known now."""
        known = self.book.add_all(addresses, source, trio.current_time(), from_ip=from_ip)
        self.session.dialler.wake()
        return known

    def close_peers(self, reason: str) -> None:
        """End all connections."""
        for peer in list(self.peers.values()):
            peer.close(reason)

    # ------------------------------------------------------------------------------------------ receiving

    def on_run(self, peer: Peer, run: Run, now: float) -> None:
        """A run of whole blocks arrived. Its views are used before this gulp ends (`TorrentDisk.flush`). PeerError."""
        piece, first, count, length, views = run
        assert isinstance(piece, int) and isinstance(first, int) and isinstance(count, int)
        assert isinstance(length, int) and isinstance(views, list)
        requested, new, complete = self.picker.on_blocks(peer.source, piece, first, count)
        mask = ((1 << count) - 1) << first
        peer.queue.on_received(now, length, piece, first, count)
        self.down_meter.add(now, length)
        self.session.down_meter.add(now, length)
        self.downloaded += length
        if new == mask:
            self.blame.on_blocks(peer.key, piece, first, count)
            self.disk.receive(piece, first * BLOCK, views, length)
            peer.received_total += length
            peer.received_round += length
        else:
            self._receive_some(peer, piece, first, views, new)
        if complete:
            self.disk.finish(piece)
        if requested != mask:
            peer.on_stray((mask & ~requested).bit_count())

    def _receive_some(self, peer: Peer, piece: int, first: int, views: list[memoryview], new: int) -> None:
        """Of the blocks in ``views`` only those in the mask ``new`` are wanted."""
        for block, view in enumerate(views, first):
            if new >> block & 1:
                self.blame.on_blocks(peer.key, piece, block, 1)
                self.disk.receive(piece, block * BLOCK, [view], len(view))
                peer.received_total += len(view)
                peer.received_round += len(view)
            else:
                self.wasted += len(view)

    def after_gulp(self) -> None:
        """Tell peers what they need not send any more (endgame)."""
        for source, piece, block in self.picker.take_cancels():
            peer = self.peers.get(source.key)
            if peer is not None:
                peer.send_cancel(piece, block)

    def on_hashed(self, piece: int, matches: bool) -> None:
        """A piece that was received whole has been hashed."""
        if self.torrent.ended:
            if matches:  # the last record may know it
                self.done_bytes += self.geometry.piece_size(piece)
                self.picker.on_verified(piece)
            return
        if not matches:
            self.torrent.in_background(self._on_bad_piece, piece)  # a pause must not make us forget it
            return
        self.done_bytes += self.geometry.piece_size(piece)
        self.picker.on_verified(piece)
        if self.blame.needs_digests(piece, passed=True):
            self.session.in_background(self._settle_blame, piece)
        else:
            self._ban_all(self.blame.on_verified(piece, None))
        self.torrent.on_progress()
        self._news.append(piece)
        self.session.flush_soon(self)
        if self.complete:
            self._on_complete()
        elif self.picker.missing <= FEW_PIECES_LEFT:
            self._ask_idle(trio.current_time())

    def flush(self) -> None:
        """Tell the peers about the new pieces that they lack."""
        # many pieces times many peers: where each bit is in a bitfield is looked up once
        news = [(piece >> 3, 0x80 >> (piece & 7), encode_have(piece)) for piece in self._news]
        self._news = []
        for peer in self.peers.values():
            bits = peer.source.bits
            if not peer.source.complete:
                peer.send_haves(b"".join([have for byte, mask, have in news if not bits[byte] & mask]))

    def on_regained(self, piece: int) -> None:
        """A piece that was lost on the disk is there again."""
        self.picker.on_verified(piece)
        self._news.append(piece)
        self.session.flush_soon(self)

    def on_void(self, piece: int) -> None:
        """A piece that was received whole is not on disk, by no peer's fault: it must come again."""
        self.wasted += self.geometry.piece_size(piece)
        self.blame.on_restarted(piece)
        self.picker.on_failed(piece, ())

    def stop_asking(self) -> None:
        """Only upload from now on."""
        self.paused_requests = True
        for peer in self.peers.values():
            peer.take_requests_back()
            peer.set_interested(False)  # it can give our slot to another
            self.session.flush_soon(peer)

    def give_only(self) -> None:
        """Be a partial seed from now on (BEP 21): give what is here, want nothing."""
        self.paused_requests = self.gives_only = True
        for peer in self.peers.values():
            if peer.extended is not None:
                peer.say(peer.extended.tell_upload_only())

    def go_on_asking(self) -> None:
        """Download again."""
        self.paused_requests = False
        for peer in list(self.peers.values()):
            self.on_peer_has_more(peer)
            self.session.flush_soon(peer)
        self._ask_idle(trio.current_time())

    async def _on_bad_piece(self, piece: int) -> None:
        """Find out who lied before the piece may be asked for again."""
        size = self.geometry.piece_size(piece)
        self.hash_failures += 1
        self.wasted += size
        contributors = self.blame.contributors(piece)
        names = [self._name_of(key) for key in contributors]
        digests = None
        if self.blame.needs_digests(piece, passed=False):
            try:
                digests = await self.disk.block_digests(piece)
            except StorageError as error:
                self.torrent.on_storage_error(error)
                return
        guilty = self.blame.on_failed(piece, digests)
        self.disk.drop(piece)
        self.picker.on_failed(piece, contributors)
        _log.info("piece %d does not match its hash", piece)
        self.torrent.publish(PieceFailed, piece=piece, peers=names)
        self._ban_all(guilty)
        self._ask_idle(trio.current_time())

    async def _settle_blame(self, piece: int) -> None:
        """A piece that failed before has passed: who sent other bytes then?"""
        try:
            digests = await self.disk.block_digests(piece)
        except StorageError as error:
            self.torrent.on_storage_error(error)
            return
        self._ban_all(self.blame.on_verified(piece, digests))

    def _on_complete(self) -> None:
        for peer in list(self.peers.values()):
            peer.set_interested(False)
            if peer.extended is not None:
                peer.say(peer.extended.tell_upload_only())
            peer.flush()
            if peer.upload_only:
                peer.close("both are complete" if peer.source.complete else "both only upload")
        self.torrent.on_complete()
        self.session.watcher.wake()

    # ------------------------------------------------------------------------------------------ banning

    def _name_of(self, key: int) -> str:
        peer = self.peers.get(key)
        if peer is not None:
            return peer.name
        left = self._left.get(key)
        return format_address(left[0]) if left is not None else "?"

    def _ban_all(self, keys: Iterable[int]) -> None:
        for key in keys:
            self.ban(key, "sent bad data")

    def ban(self, key: int, reason: str) -> None:
        """Bar a peer, connected or gone, for the session. Again does nothing: it may have spoiled several pieces."""
        peer = self.peers.get(key)
        if peer is not None:
            if self.book.is_banned(peer.address, peer.peer_id):
                return
            self.book.ban(peer.address, peer.peer_id if peer.incoming else None)
            self._tell_peer(peer, "banned", reason)
            peer.close(reason)
        elif key in self._left:
            address, peer_id = self._left.pop(key)
            if self.book.is_banned(address, peer_id):
                return
            self.book.ban(address, peer_id)
            self.torrent.publish(PeerChange, address=format_address(address), client="", change="banned", reason=reason)
        self.torrent.on_progress()  # the record names who is barred
        for transfer in self.session.transfers():
            transfer.close_banned(reason)

    def close_banned(self, reason: str) -> None:
        """End the connections with peers that are barred, whichever torrent barred them."""
        for peer in list(self.peers.values()):
            if self.book.is_banned(peer.address, peer.peer_id):
                peer.close(reason)

    # ------------------------------------------------------------------------------------------ asking

    def take(self, source: Source, room: int, now: float) -> list[tuple[int, int, int]]:
        """Blocks to ask of ``source``; pieces that begin anew thereby are forgotten."""
        runs = self.picker.take(source, room, now)
        for piece in self.picker.take_restarts():
            self.disk.drop(piece)
            self.blame.on_restarted(piece)
        return runs

    def on_peer_has_more(self, peer: Peer) -> None:
        """A peer's set of pieces grew."""
        if self.complete:
            if peer.source.complete:
                peer.close("both are complete")
        elif not (peer.am_interested or self.paused_requests) and self.picker.is_interesting(peer.source):
            peer.set_interested(True)

    def on_requests_dropped(self, count: int) -> None:
        """``count`` blocks that were asked will not come: their share of the download limit goes to others."""
        if count and self.download.limited:
            self.download.give_back(count * BLOCK)

    def _ask_idle(self, now: float) -> None:
        """Something can be asked again: of the peers that have nothing to do."""
        for peer in self._promising():
            if not peer.source.outstanding_count and peer.fill_requests(now):
                self.session.flush_soon(peer)

    def _promising(self) -> list[Peer]:
        """The peers, who is likeliest to answer first: else a few silent ones keep the last block from all others."""
        interesting = [peer for peer in self.peers.values() if peer.am_interested]
        return sorted(interesting, key=lambda peer: (peer.queue.snubbed, -peer.queue.rate))

    def peers_in_turn(self) -> list[Peer]:
        """The peers that can be asked, another one first each time."""
        peers = [peer for peer in self.peers.values() if peer.am_interested and not peer.source.choked]
        if peers:
            self._turn = (self._turn + 1) % len(peers)
        return peers[self._turn :] + peers[: self._turn]

    def on_uploaded(self, payload: int, taken: int, now: float) -> None:
        """``taken`` bytes went to a peer, which completed ``payload`` bytes of blocks."""
        self.upload.bucket.take(taken, now)
        self.uploaded += payload
        self.up_meter.add(now, taken)
        self.session.up_meter.add(now, taken)

    # ------------------------------------------------------------------------------------------ time

    def on_tick(self, now: float) -> None:
        """Once a second."""
        for peer in list(self.peers.values()):
            if peer.am_interested and not self.complete and not self.picker.is_interesting(peer.source):
                peer.set_interested(False)
            peer.on_tick(now)
        self.pex.on_tick(now)
        if self.is_seed or self.picker.seeds:
            self._seen_complete = now
        for peer in self._promising():  # after all time-outs: what some gave up others may take
            if not peer.scope.cancel_called:
                peer.fill_requests(now)
        for peer in self.peers.values():
            peer.flush()
        if now >= self._next_turnover:
            self._next_turnover = now + limits.TURNOVER_PERIOD
            self._turn_over(now)

    def _turn_over(self, now: float) -> None:
        """Nearly full: make room for others by closing the peers that bring and take least for their time here."""
        peers = list(self.peers.values())
        if len(peers) < limits.TURNOVER_FULL * self.session.settings.max_peers:
            return
        settled = [peer for peer in peers if now - peer.connected_at >= limits.TURNOVER_PERIOD / 2]
        settled.sort(key=lambda peer: peer.worth(now))
        for peer in settled[: max(1, int(limits.TURNOVER_SHARE * len(peers)))]:
            peer.close("made room for others")
