"""One connected peer: its reader, its writer, and what it may ask and be told.

The reader receives a gulp into the session's buffer, decodes and accounts it without awaiting, and asks for more blocks
in the same breath. The writer sleeps unless a socket is full, a block is not in the page cache, or a rate limit holds
it back. Messages are sent at once where the socket takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING

import trio

from btor import limits
from btor.engine.extended import Extended
from btor.engine.fast import Fast
from btor.engine.sending import CONTENT_CHANGED, Sender
from btor.errors import PeerError
from btor.limits import BLOCK
from btor.metainfo.bitfield import Bitfield
from btor.swarm.requests import RequestQueue, runs_of
from btor.wire import messages as wire
from btor.wire.address import format_address
from btor.wire.client_id import client_name

if TYPE_CHECKING:
    from btor.engine.connection import Connection
    from btor.engine.transfer import Transfer
    from btor.engine.upload import Request

GULP_ROOM = limits.EXTENDED_MESSAGE + limits.MESSAGE_HEADER  # of the shared buffer, for what is put in front
GULP_GROWTH = 4
SMALL_MESSAGES = 500  # in one gulp: a peer that chatters that much is heard in small portions, others in between


class Peer(Sender):
    """A peer of one torrent after the handshake. ``key`` is unique in the session.

    ``fast``, ``extended``: the fast extension and the extension protocol, None where one side does not speak it.
    """

    def __init__(self, transfer: Transfer, connection: Connection) -> None:
        super().__init__(transfer, connection.transport, connection.unsent)
        session = transfer.session
        features = connection.features
        self.address = connection.transport.remote
        self.peer_id = connection.peer_id
        self.incoming = connection.incoming
        self.client = client_name(connection.peer_id)
        self.key = session.next_key()
        self.gulp_turn = -1
        self._gulp_limit = limits.GULP_MIN
        now = trio.current_time()
        self.connected_at = now
        self.source = transfer.picker.add_source(self.key)
        self.queue = RequestQueue()
        self._early = connection.early
        self.was_parked = connection.early is not None  # it was connected before the metadata was there
        self._speaks_dht = features.dht and not transfer.metainfo.private
        begun = b"" if connection.early is None else connection.early.tail
        self._reader = wire.MessageReader(transfer.geometry, fast=features.fast, begun=begun)
        # states of both sides, BEP 3
        self.am_choking = True
        self.am_interested = False
        self.peer_interested = False
        self.interested_since = now
        self.unchoked_at = now
        self.received_total = 0  # bytes of blocks
        self.received_round = 0
        # abuse
        self._strays = 0
        self._bad_requests = 0
        self._requests_while_choked = 0
        self._interest_flips = 0
        self.last_received = now
        self.last_request = now
        self.last_useful = now
        self.fast = Fast(self) if features.fast else None
        self.extended = Extended(self, connection.extensions) if features.extensions else None

    # ------------------------------------------------------------------------------------------ life

    async def run(self) -> None:
        """Speak until either side ends it. PeerError, OSError."""
        with self.scope:
            self._greet()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                try:
                    await self._read()
                finally:
                    nursery.cancel_scope.cancel()

    def _greet(self) -> None:
        have = self.transfer.have
        if self._early is not None and have.count <= limits.HAVES_AT_ONCE:  # it was told that we have nothing
            self._out += b"".join(map(wire.encode_have, have))
        elif self.fast is not None and (have.complete or not have.count) and self._early is None:
            self._out += wire.encode_state(wire.HAVE_ALL if have.complete else wire.HAVE_NONE)
        elif have.count:
            self._out += wire.encode_bitfield(have.to_wire())
        if self.extended is not None:
            self._out += self.extended.greet()
        if self._speaks_dht and self._early is None:
            self._out += self.session.port_message(self.address[0])
        if self._early is not None:
            for item in self._early.replay(have.size):
                self._on_message(item, self.last_received)
            self._early = None
            self.fill_requests(self.last_received)
        self.flush()

    @property
    def upload_only(self) -> bool:
        """Whether it downloads nothing more (BEP 21)."""
        return self.source.complete or (self.extended is not None and self.extended.settled.upload_only)

    async def _read(self) -> None:
        session = self.session
        transport = self.transport
        reader = self._reader
        shared = session.receive_buffer
        counters = session.counters
        while True:
            await self.transfer.disk.room_to_write()
            gulp = min(session.gulps.size(), self._gulp_limit)
            counters.recvs += 1
            try:
                count = transport.recv_into(reader.targets(shared, gulp))
            except BlockingIOError:
                await transport.wait_readable()
                continue
            if count == 0:
                self.close_reason = self.close_reason or "closed by the peer"
                return
            now = trio.current_time()
            self.last_received = now
            session.gulps.on_gulp(self)
            reader.received(shared, count)
            started = perf_counter()
            small = self._decode(now)
            counters.deciding += perf_counter() - started
            counters.gulps += 1
            counters.received += count
            if small > SMALL_MESSAGES:
                self._gulp_limit = limits.GULP_MIN
            elif count == gulp:
                self._gulp_limit = min(self._gulp_limit * GULP_GROWTH, limits.GULP_MAX)
            if count < gulp:
                await transport.wait_readable()
            else:
                await trio.lowlevel.checkpoint()

    def _decode(self, now: float) -> int:
        """All that arrived, without awaiting: the views end with the next receive. How many messages were small."""
        transfer = self.transfer
        small = 0
        while (items := self._reader.take()) is not None:
            try:
                for item in items:
                    if isinstance(item, list):
                        transfer.on_run(self, item, now)
                    else:
                        small += 1
                        self._on_message(item, now)
            finally:  # after a breach too: what came before it is accounted, and the next receive overwrites it
                transfer.disk.flush()
            transfer.after_gulp()
        self.fill_requests(now)
        if self._out:
            self.flush_with_blocks()
        return small

    # ------------------------------------------------------------------------------------------ messages

    def _on_message(self, item: tuple[int, ...] | tuple[int, bytes], now: float) -> None:
        kind = item[0]
        if kind == wire.HAVE:
            self._on_have(item[1])  # type: ignore[arg-type]  # a have carries one int
        elif kind == wire.REQUEST:
            self._on_request(item[1], item[2], item[3], now)  # type: ignore[misc,arg-type]  # three ints
        elif kind == wire.CANCEL:
            self._on_cancel(item[1:])  # type: ignore[arg-type]  # three ints
        elif kind == wire.BITFIELD:
            self._on_bitfield(item[1])  # type: ignore[arg-type]  # bytes
        elif kind == wire.CHOKE:
            self._on_choke()
        elif kind == wire.UNCHOKE:
            self.source.choked = False
            if self.fast is not None:
                self.fast.on_unchoked(now)
        elif kind in (wire.INTERESTED, wire.NOT_INTERESTED):
            self._on_interest(kind == wire.INTERESTED, now)
        elif kind == wire.STRAY_BLOCK:
            self.on_stray(1)
        elif kind == wire.EXTENDED:
            if self.extended is not None:
                self.extended.on_message(item[1], now)  # type: ignore[arg-type]  # bytes
        elif kind == wire.PORT:
            if self._speaks_dht:
                self.session.on_dht_port(self.address[0], item[1])  # type: ignore[arg-type]  # a port carries one int
        elif self.fast is not None:
            self.fast.on_message(item, now)

    def _on_choke(self) -> None:
        """Our requests are free for others, whether the peer says so of each (BEP 6) or not; late blocks count."""
        if not self.source.choked:
            if self.fast is not None:
                self.fast.on_choked()
            self.transfer.on_requests_dropped(self.source.outstanding_count)
            self.transfer.picker.on_choked(self.source)
            self.queue.on_dropped()

    def _on_bitfield(self, data: bytes) -> None:
        # aria2 sends another one at any time, in place of many haves
        try:
            bits = Bitfield.from_wire(data, self.transfer.geometry.piece_count)
        except ValueError as error:
            raise PeerError(str(error)) from None
        self.transfer.picker.on_bitfield(self.source, bits)
        self.on_pieces_known()

    def on_pieces_known(self) -> None:
        """It has said which pieces it has."""
        self.transfer.on_peer_has_more(self)
        if self.fast is not None:
            self._out += self.fast.grant()

    def _on_have(self, piece: int) -> None:
        if self.transfer.picker.on_have(self.source, piece) and (not self.am_interested or self.source.complete):
            self.transfer.on_peer_has_more(self)

    def _on_interest(self, interested: bool, now: float) -> None:
        if interested == self.peer_interested:
            return
        self._interest_flips += 1
        if self._interest_flips > limits.INTEREST_FLIPS:
            raise PeerError("interest that changes all the time")
        self.peer_interested = interested
        if interested:
            self.interested_since = self.last_request = now
            self.session.choking.on_interested(self, now)
        else:
            self.session.choking.on_not_interested(self, now)

    def _on_request(self, piece: int, begin: int, length: int, now: float) -> None:
        self.last_request = now
        if self.am_choking and not (self.fast is not None and self.fast.is_granted(piece)):
            if self._choke_sent and now - self.choked_at > limits.REQUEST_GRACE_AFTER_CHOKE:
                self._requests_while_choked += 1
                if self._requests_while_choked > limits.REQUESTS_WHILE_CHOKED:
                    raise PeerError("requests while choked")
            self._reject(piece, begin, length)
            return
        geometry = self.transfer.geometry
        if length > BLOCK or not geometry.holds(piece, begin, length) or piece not in self.transfer.have:
            self._count_bad_request()
            self._reject(piece, begin, length)
            return
        accepted = limits.REQUESTS_ACCEPTED_UNSAID if self.extended is None else limits.REQUESTS_ACCEPTED
        if len(self._uploads) >= accepted:
            self._dropped_requests += 1
            if len(self._uploads) + self._dropped_requests > limits.REQUESTS_UNANSWERED * accepted:
                raise PeerError("too many requests")
            self._reject(piece, begin, length)
            return
        self._uploads[piece, begin, length] = None
        if not self._stuck:
            self._wake.set()

    def _reject(self, piece: int, begin: int, length: int) -> None:
        """A request will not be served: say so where that can be said (BEP 6)."""
        if self.fast is not None:
            self._out += wire.encode_reject(piece, begin, length)

    def _count_bad_request(self) -> None:
        self._bad_requests += 1
        if self._bad_requests >= limits.BAD_REQUESTS:
            raise PeerError("too many bad requests")

    def _on_cancel(self, request: Request) -> None:
        if self._head_sent and request == next(iter(self._uploads)):
            return
        if request in self._uploads:
            del self._uploads[request]
            self._reject(*request)

    def take_back(self, pieces: Sequence[int]) -> None:
        """We have these pieces no longer, which it knows of: say so (BEP 54), or leave if that cannot be said."""
        lost = set(pieces)
        queued = [request for request in self._uploads if request[0] in lost]
        inside_block = bool(self._head_sent) and next(iter(self._uploads))[0] in lost
        if inside_block or self.extended is None or not self.extended.tell_dont_have(pieces):
            self.close(CONTENT_CHANGED)
            return
        for request in queued:
            del self._uploads[request]
            self._reject(*request)

    def on_stray(self, count: int) -> None:
        """``count`` blocks came that were never asked for. PeerError on the second."""
        self._strays += count
        if self._strays >= limits.UNREQUESTED_BLOCKS:
            raise PeerError("blocks that were never asked for")

    # ------------------------------------------------------------------------------------------ asking

    def set_interested(self, interested: bool) -> None:
        """Say whether this peer has what we want."""
        if interested != self.am_interested:
            self.am_interested = interested
            self._out += wire.encode_state(wire.INTERESTED if interested else wire.NOT_INTERESTED)

    def fill_requests(self, now: float, allowance: int | None = None) -> int:
        """Ask for as many blocks as the peer's speed calls for; how many were asked.

        ``allowance``: the most blocks, given by the pacer under a download limit; without it nothing is asked then.
        """
        source = self.source
        if not self.am_interested or self.transfer.paused_requests:
            return 0
        allowed = self.fast.allowed if source.choked and self.fast is not None else None
        if source.choked and not allowed:
            return 0
        room = self.queue.room(now, source.outstanding_count)
        if self.transfer.download.limited:
            room = min(room, allowance or 0)
        if room <= 0:
            return 0
        self.queue.tell(source)
        if allowed:
            runs = self.transfer.picker.take_allowed(source, allowed, room)
        else:
            runs = self.transfer.take(source, room, now)
        if not runs:
            return 0
        self.queue.on_sent(now, runs)
        self._out += wire.encode_requests(self.transfer.geometry, runs)
        return sum(run[2] for run in runs)

    def send_cancel(self, piece: int, block: int) -> None:
        """Take a request back (endgame)."""
        self.queue.on_dropped([(piece, block, 1)])
        self._out += wire.encode_cancel(piece, block * BLOCK, self.transfer.geometry.block_size(piece, block))
        self.session.flush_soon(self)

    def take_requests_back(self) -> None:
        """Nothing is wanted for now: cancel all that was asked."""
        transfer = self.transfer
        transfer.on_requests_dropped(self.source.outstanding_count)
        for piece, mask in list(self.source.outstanding.items()):
            runs = runs_of(piece, mask)
            transfer.picker.release(self.source, runs)
            for _, first, count in runs:
                for block in range(first, first + count):
                    self.send_cancel(piece, block)

    def send_haves(self, haves: bytes) -> None:
        """Tell about new pieces; ``haves`` are the encoded messages."""
        self._out += haves
        self.flush()

    # ------------------------------------------------------------------------------------------ choking

    def choke(self, now: float) -> None:
        """Stop serving: what is queued is dropped, save a block that is half sent."""
        if self.am_choking:
            return
        self.am_choking = True
        self.choked_at = now
        self._choke_sent = False
        self._out += wire.encode_state(wire.CHOKE)
        for request in list(islice(self._uploads, 1 if self._head_sent else 0, None)):
            if self.fast is None or not self.fast.was_granted(request[0]):
                del self._uploads[request]
                self._reject(*request)
        self.session.flush_soon(self)

    def unchoke(self, now: float) -> None:
        """Start serving."""
        if not self.am_choking:
            return
        self.am_choking = False
        self.unchoked_at = self.last_request = now
        self._requests_while_choked = 0
        self.sent_since_unchoke = 0
        self._dropped_requests = 0
        self._out += wire.encode_state(wire.UNCHOKE)
        self.session.flush_soon(self)

    # ------------------------------------------------------------------------------------------ time

    def worth(self, now: float) -> float:
        """Bytes a second of blocks that it brought and took since it came."""
        return (self.received_total + self.sent_total) / max(now - self.connected_at, 1.0)

    def on_time_missed(self, now: float, unseen: float) -> None:
        """Nobody did anything for long, for we were not there; ``unseen`` s of that are not on our clock."""
        self.last_received -= unseen
        self.last_useful = self.last_request = now

    def on_tick(self, now: float) -> None:
        """Once a second: time-outs, snubbing, keep-alive, dead connections."""
        if now - self.last_received > limits.DEAD_PEER:
            self.close("silent for too long")
            return
        if now - self.last_sent > limits.KEEP_ALIVE and not self._stuck:
            self._out += wire.KEEP_ALIVE
        holds_slot = self.peer_interested and not self.am_choking and not self._uploads
        if holds_slot and now - self.last_request > limits.SILENT_REQUESTER:
            self.close("holds a slot and asks for nothing")
            return
        if self._stuck and self._uploads and now - self.last_sent > limits.STUCK_RECEIVER:
            self.close("asks for much and reads nothing")
            return
        self._interest_flips = 0
        if self.extended is not None:
            self.extended.on_tick()
        if len(self._out) > limits.SEND_BACKLOG + self.transfer.have.size // 8:
            self.close("takes nothing of what is sent")
            return
        overdue = self.queue.on_tick(now)
        if overdue:
            self.transfer.picker.release(self.source, overdue)
        if self.am_interested or self.peer_interested:
            self.last_useful = now
        elif now - self.last_useful > limits.NO_MUTUAL_INTEREST:
            self.close("no interest on either side")

    @property
    def name(self) -> str:
        """The address, as shown to a person."""
        return format_address(self.address)
