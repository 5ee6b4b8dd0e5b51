"""One connected peer: its reader, its writer, and what it may ask and be told.

The reader receives a gulp into the session's buffer, decodes and accounts it without awaiting, and asks for more blocks
in the same breath. The writer sleeps unless a socket is full, a block is not in the page cache, or a rate limit holds
it back. Messages are sent at once where the socket takes them.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING

import trio

from btor import limits
from btor.engine.upload import BLOCKS_AT_ONCE
from btor.errors import PeerError
from btor.limits import BLOCK
from btor.metainfo.bitfield import Bitfield
from btor.swarm.requests import RequestQueue, runs_of
from btor.wire import messages as wire
from btor.wire.address import format_address
from btor.wire.client_id import client_name

if TYPE_CHECKING:
    from btor.engine.transfer import Transfer
    from btor.engine.transport import Transport
    from btor.engine.upload import Request

GULP_ROOM = limits.EXTENDED_MESSAGE + limits.MESSAGE_HEADER  # of the shared buffer, for what is put in front
SEND_GULP_MIN = 2 * BLOCK
GULP_GROWTH = 4
SMALL_MESSAGES = 500  # in one gulp: a peer that chatters that much is heard in small portions, others in between


class Peer:
    """A peer of one torrent after the handshake. ``key`` is unique in the session."""

    def __init__(self, transfer: Transfer, transport: Transport, peer_id: bytes, *, incoming: bool) -> None:
        session = transfer.session
        self.transfer = transfer
        self.session = session
        self.transport = transport
        self.address = transport.remote
        self.peer_id = peer_id
        self.incoming = incoming
        self.client = client_name(peer_id)
        self.key = session.next_key()
        self.scope = trio.CancelScope()
        self.close_reason = ""
        self.gulp_round = -1
        self._gulp_limit = limits.GULP_MIN
        now = trio.current_time()
        self.connected_at = now
        self.source = transfer.picker.add_source(self.key)
        self.queue = RequestQueue()
        self._reader = wire.MessageReader(transfer.geometry)
        # states of both sides, BEP 3
        self.am_choking = True
        self.am_interested = False
        self.peer_interested = False
        self.interested_since = now
        self.unchoked_at = now
        self.choked_at = now
        self._choke_sent = True  # that is how a connection begins
        # amounts, in bytes of blocks
        self.received_total = 0
        self.sent_total = 0
        self.received_round = 0
        self.sent_round = 0
        self.sent_since_unchoke = 0
        # abuse
        self._strays = 0
        self._bad_requests = 0
        self._requests_while_choked = 0
        self._interest_flips = 0
        self._dropped_requests = 0
        # sending
        self._out = bytearray()
        self._uploads: OrderedDict[Request, None] = OrderedDict()  # a cancel finds its request at once
        self._head_sent = 0
        self._last_taken = SEND_GULP_MIN
        self._stuck = False
        self._wake = trio.Event()
        self.last_received = now
        self.last_sent = now
        self.last_request = now
        self.last_useful = now

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

    def close(self, reason: str) -> None:
        """End the connection from our side."""
        if not self.close_reason:
            self.close_reason = reason
        self.scope.cancel()

    def _greet(self) -> None:
        have = self.transfer.have
        if have.count:
            self._out += wire.encode_bitfield(have.to_wire())
        self.flush()

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
            session.gulps.on_gulp(self, now)
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
            self.flush()
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
            if not self.source.choked:
                self.transfer.on_requests_dropped(self.source.outstanding_count)
                self.transfer.picker.on_choked(self.source)
                self.source.choked = True
                self.queue.on_dropped()
        elif kind == wire.UNCHOKE:
            self.source.choked = False
        elif kind in (wire.INTERESTED, wire.NOT_INTERESTED):
            self._on_interest(kind == wire.INTERESTED, now)
        elif kind == wire.STRAY_BLOCK:
            self.on_stray(1)

    def _on_bitfield(self, data: bytes) -> None:
        # aria2 sends another one at any time, in place of many haves
        try:
            bits = Bitfield.from_wire(data, self.transfer.geometry.piece_count)
        except ValueError as error:
            raise PeerError(str(error)) from None
        self.transfer.picker.on_bitfield(self.source, bits)
        self.transfer.on_peer_has_more(self)

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
        if self.am_choking:
            if self._choke_sent and now - self.choked_at > limits.REQUEST_GRACE_AFTER_CHOKE:
                self._requests_while_choked += 1
                if self._requests_while_choked > limits.REQUESTS_WHILE_CHOKED:
                    raise PeerError("requests while choked")
            return
        geometry = self.transfer.geometry
        if length > BLOCK or not geometry.holds(piece, begin, length) or piece not in self.transfer.have:
            self._count_bad_request()
            return
        if len(self._uploads) >= limits.REQUESTS_ACCEPTED:
            self._dropped_requests += 1
            if len(self._uploads) + self._dropped_requests > limits.REQUESTS_UNANSWERED:
                raise PeerError("too many requests")
            return
        self._uploads[piece, begin, length] = None
        if not self._stuck:
            self._wake.set()

    def _count_bad_request(self) -> None:
        self._bad_requests += 1
        if self._bad_requests >= limits.BAD_REQUESTS:
            raise PeerError("too many bad requests")

    def _on_cancel(self, request: Request) -> None:
        if self._head_sent and request == next(iter(self._uploads)):
            return
        self._uploads.pop(request, None)

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
        if source.choked or not self.am_interested or self.transfer.paused_requests:
            return 0
        room = self.queue.room(now, source.outstanding_count)
        if self.transfer.download.limited:
            room = min(room, allowance or 0)
        if room <= 0:
            return 0
        self.queue.tell(source)
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
        while len(self._uploads) > (1 if self._head_sent else 0):
            self._uploads.popitem()
        self._choke_sent = False
        self._out += wire.encode_state(wire.CHOKE)
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

    # ------------------------------------------------------------------------------------------ sending

    def flush(self) -> None:
        """Send waiting messages if the socket takes them now; the rest is the writer's."""
        if not self._out or self._stuck:
            return
        if self._head_sent:
            self._wake.set()  # inside a block nothing else may be sent
            return
        self.session.counters.sends += 1
        try:
            taken = self.transport.send([self._out])
        except BlockingIOError:
            self._wake.set()
            self._stuck = True
            return
        except (OSError, trio.ClosedResourceError) as error:
            self.close(str(error))
            return
        self._on_messages_taken(taken, trio.current_time())
        if self._out:
            self._stuck = True
            self._wake.set()

    def _on_messages_taken(self, taken: int, now: float) -> None:
        """The socket took ``taken`` bytes of the waiting messages."""
        self.session.counters.sent += taken
        self.last_sent = now
        del self._out[:taken]
        if not (self._choke_sent or self._out):
            self._choke_sent = True
            self.choked_at = now

    async def _write(self) -> None:
        while True:
            if not self._out and not self._uploads:
                self._wake = trio.Event()
                await self._wake.wait()
            if self._stuck:
                await self.transport.wait_writable()
                self._stuck = False
            budget = limits.SEND_GULP
            if self._uploads:
                budget = await self.transfer.upload.allowance(inside_block=self._head_sent > 0)
            if not await self._send(budget):
                self._stuck = True
            else:
                await trio.lowlevel.checkpoint()

    async def _send(self, budget: int) -> bool:
        """One send of messages and blocks; whether the socket took all of it. StorageError as contained by torrent."""
        view, answered = memoryview(b""), 0
        if self._uploads and budget > 0:
            budget = min(budget, 2 * self._last_taken)
            view, answered = await self._frame(budget)
        end = min(self._head_sent + budget, len(view)) if answered else 0
        head_first = bool(self._head_sent)
        whole = 0
        if end and (self._out or self.transfer.upload.bucket.limited):
            # a message may stand only behind a whole block, and must not wait until the budget happens to end there;
            # and who ends inside a block comes before all others that wait for their share of a limit
            whole = self._end_of_whole_blocks(end)
        blocks = view[self._head_sent : whole or end]
        order: tuple[memoryview | bytearray, ...] = (self._out, blocks)
        if head_first:
            order = (blocks, self._out) if whole else (blocks,)
        parts = [part for part in order if len(part)]
        if not parts:
            return True
        wanted = sum(len(part) for part in parts)
        self.session.counters.sends += 1
        try:
            taken = self.transport.send(parts)
        except BlockingIOError:
            return False
        now = trio.current_time()
        from_blocks = min(taken, len(blocks)) if head_first else max(0, taken - len(self._out))
        self._on_messages_taken(taken - from_blocks, now)
        if from_blocks:
            self._last_taken = max(from_blocks, SEND_GULP_MIN)
            self._on_sent(from_blocks, now)
        return taken == wanted

    def _end_of_whole_blocks(self, limit: int) -> int:
        """Where the last framed reply ends that fits into ``limit`` bytes; 0 if none does."""
        end = 0
        for _, _, length in self._uploads:
            if end + limits.PIECE_HEADER + length > limit:
                break
            end += limits.PIECE_HEADER + length
        return end

    async def _frame(self, budget: int) -> tuple[memoryview, int]:
        transfer = self.transfer
        buffer = self.session.send_buffer
        budget += self._head_sent
        view, answered = buffer.lay_out(self._uploads, budget, transfer.geometry, transfer.content, cached_only=True)
        if answered:
            return view, answered
        # the first block is not in the page cache: a thread reads it, which also puts it there
        await transfer.disk.warm(islice(self._uploads, 4))
        if not self._uploads:
            return memoryview(b""), 0
        return buffer.lay_out(
            [next(iter(self._uploads))], budget, transfer.geometry, transfer.content, cached_only=False
        )

    def _on_sent(self, taken: int, now: float) -> None:
        """``taken`` bytes of the framed replies are gone."""
        self.session.counters.sent += taken
        self._head_sent += taken
        payload = 0
        for _, _, length in list(islice(self._uploads, BLOCKS_AT_ONCE)):
            if self._head_sent < limits.PIECE_HEADER + length:
                break
            self._uploads.popitem(last=False)
            if not self._uploads:
                self._dropped_requests = 0  # what was dropped is asked again, or not wanted any more
            self._head_sent -= limits.PIECE_HEADER + length
            payload += length
        self.sent_total += payload
        self.sent_round += payload
        self.sent_since_unchoke += payload
        self.transfer.on_uploaded(payload, taken, now)

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
        self._interest_flips = 0
        if len(self._out) > limits.SEND_BACKLOG + len(self.transfer.have.to_wire()):
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
