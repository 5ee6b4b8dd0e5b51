"""The fast extension (BEP 6) on one connection: what is refused, suggested, and allowed to a side that is choked."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from btor import limits
from btor.errors import PeerError
from btor.limits import BLOCK
from btor.metainfo.bitfield import Bitfield
from btor.swarm.allowed_fast import allowed_fast_set
from btor.wire import messages as wire

if TYPE_CHECKING:
    from btor.engine.peer import Peer


class Fast:
    """``allowed``: pieces that we may ask for while the peer chokes us, in the order they were named."""

    def __init__(self, peer: Peer) -> None:
        self.allowed: dict[int, None] = {}
        self._peer = peer
        self._suggested: deque[int] = deque(maxlen=limits.SUGGESTIONS)
        self._granted: dict[int, int] | None = None  # pieces it may ask for while choked → blocks it still gets so
        self._bad_rejects = 0

    def on_message(self, item: wire.Message, now: float) -> None:
        """A message that only this extension has. PeerError."""
        peer = self._peer
        kind, *numbers = item
        if kind == wire.REJECT:
            self._on_reject(*numbers)
        elif kind == wire.HAVE_ALL:
            peer.transfer.picker.on_have_all(peer.source)
            peer.on_pieces_known()
        elif kind == wire.HAVE_NONE:
            peer.transfer.picker.on_bitfield(peer.source, Bitfield(peer.transfer.geometry.piece_count))
            peer.on_pieces_known()
        elif kind == wire.ALLOWED_FAST:
            if len(self.allowed) < limits.ALLOWED_FAST_HEARD:
                self.allowed[numbers[0]] = None  # type: ignore[index]  # a piece
        elif kind == wire.SUGGEST:
            self._suggested.append(numbers[0])  # type: ignore[arg-type]  # a piece
            if not peer.source.choked:
                self.on_unchoked(now)

    def _on_reject(self, piece: int, begin: int, length: int) -> None:
        """Others may be asked for the block. PeerError: too many rejects of what was never asked for."""
        peer = self._peer
        transfer = peer.transfer
        block = begin // BLOCK
        if transfer.geometry.holds(piece, begin, length) and not begin % BLOCK:
            if peer.source.outstanding.get(piece, 0) >> block & 1:
                run = (piece, block, 1)
                peer.queue.on_dropped([run])
                transfer.on_requests_dropped(1)
                transfer.picker.release(peer.source, [run])
                return
            if peer.source.pardon(piece, 1 << block):
                return
        self._bad_rejects += 1
        if self._bad_rejects > limits.BAD_REJECTS:
            raise PeerError("rejects of what was never asked for")

    def on_choked(self) -> None:
        """The peer chokes us, and its requests are free again: what it allows all the same it may still send."""
        source = self._peer.source
        for piece, mask in source.outstanding.items():
            if piece in self.allowed:
                source.shun(piece, mask)

    def on_unchoked(self, now: float) -> None:
        """We may ask: what the peer would like to send comes first."""
        for piece in self._suggested:
            self._peer.transfer.picker.on_suggest(self._peer.source, piece, now)

    def grant(self) -> bytes:
        """Once it is known what the peer has: the messages that allow it some pieces, if it has hardly any.

        Of a small torrent none, and never so many to all peers together that those in the slots get much less for it.
        """
        peer = self._peer
        transfer = peer.transfer
        if self._granted is not None or peer.upload_only or peer.source.have_count >= limits.ALLOWED_FAST:
            return b""
        self._granted = {}
        geometry = transfer.geometry
        count = min(limits.ALLOWED_FAST, geometry.piece_count // limits.ALLOWED_FAST_ONE_IN)
        if not count:
            return b""
        room = (geometry.total_length + transfer.uploaded) // limits.ALLOWED_FAST_PART - transfer.granted
        for piece in allowed_fast_set(peer.address[0], transfer.info_hash, geometry.piece_count, count):
            cost = limits.ALLOWED_FAST_COPIES * geometry.piece_size(piece)
            if piece in transfer.have and cost <= room:
                room -= cost
                transfer.granted += cost
                self._granted[piece] = limits.ALLOWED_FAST_COPIES * geometry.block_count(piece)
        return b"".join(map(wire.encode_allowed_fast, self._granted))

    def is_granted(self, piece: int) -> bool:
        """Whether the choked peer may have one more block of ``piece``; asked once for each request."""
        if not self._granted or not self._granted.get(piece):
            return False
        self._granted[piece] -= 1
        return True

    def was_granted(self, piece: int) -> bool:
        """Whether requests for ``piece`` outlive a choke."""
        return self._granted is not None and piece in self._granted
