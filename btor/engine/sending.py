"""What one peer is sent: messages and blocks, one well-formed stream however little the socket takes."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

import trio

from btor import limits
from btor.engine.upload import BLOCKS_AT_ONCE
from btor.limits import BLOCK
from btor.storage.files import ContentChangedError

if TYPE_CHECKING:
    from btor.engine.extended import Extended
    from btor.engine.session import Session
    from btor.engine.transfer import Transfer
    from btor.engine.transport import Transport
    from btor.engine.upload import Request

SEND_GULP_MIN = 2 * BLOCK
CONTENT_CHANGED = "the content has changed"  # why a connection ends


class Sender:
    """The sending half of a peer: ``_out`` are messages that wait, ``_uploads`` requests whose blocks do."""

    extended: Extended | None

    def __init__(self, transfer: Transfer, transport: Transport, unsent: bytes) -> None:
        self.transfer: Transfer = transfer
        self.session: Session = transfer.session
        self.transport = transport
        self.scope = trio.CancelScope()
        self.close_reason = ""
        self._out = bytearray(unsent)
        self._uploads: OrderedDict[Request, None] = OrderedDict()  # a cancel finds its request at once
        self._dropped_requests = 0
        self._head_sent = 0
        self._last_taken = SEND_GULP_MIN
        self._stuck = False
        self._warming = False  # a thread reads the next block
        self._wake = trio.Event()
        now = trio.current_time()
        self.last_sent = now
        self.choked_at = now
        self._choke_sent = True  # that is how a connection begins
        # amounts, in bytes of blocks
        self.sent_total = 0
        self.sent_round = 0
        self.sent_since_unchoke = 0

    def close(self, reason: str) -> None:
        """End the connection from our side."""
        if not self.close_reason:
            self.close_reason = reason
        self.scope.cancel()

    def say(self, message: bytes) -> None:
        """Send a message with what else goes out in a moment."""
        self._out += message
        if self.extended is not None:
            self._out += self.extended.take_metadata(len(self._out))
        self.session.flush_soon(self)

    def flush_with_blocks(self) -> None:
        """As ``flush``, but messages go out with the blocks that the writer is about to send, in one call.

        Not where a rate limit or a disk could hold the blocks back.
        """
        if not self._uploads or self._stuck or self._warming or self.transfer.upload.bucket.limited:
            self.flush()

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
        if self.extended is not None:
            self._out += self.extended.take_metadata(len(self._out))
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
            try:
                taken = await self._send(budget)
            except ContentChangedError as error:
                self.transfer.guard.on_error(error)  # takes back what is queued of it, or leaves
                if any(request[0] not in self.transfer.have for request in self._uploads):
                    self.close(CONTENT_CHANGED)
                taken = True
            if not taken:
                self._stuck = True
            elif self._out or self._uploads:
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
        self.flush()
        self._warming = True
        try:
            await transfer.disk.warm(islice(self._uploads, 4))
        finally:
            self._warming = False
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
