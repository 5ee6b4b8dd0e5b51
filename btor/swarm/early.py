"""What a peer says before the metadata is there: framed without knowing a torrent, and what it claims kept for later.

Whether a bitfield or a piece number can be is known only with the metadata; the bytes are kept as they came, within
bounds, and judged then.
"""

from __future__ import annotations

import struct

from btor.errors import PeerError
from btor.limits import (
    ALLOWED_FAST_HEARD,
    CLAIMED_BITFIELD,
    CLAIMED_HAVES,
    EXTENDED_MESSAGE,
    MESSAGE_HEADER,
    UNKNOWN_MESSAGE,
)
from btor.wire import messages as wire

_LENGTHS = {
    wire.CHOKE: 1,
    wire.UNCHOKE: 1,
    wire.INTERESTED: 1,
    wire.NOT_INTERESTED: 1,
    wire.HAVE: 5,
    wire.REQUEST: 13,
    wire.CANCEL: 13,
    wire.PORT: 3,
    wire.SUGGEST: 5,
    wire.HAVE_ALL: 1,
    wire.HAVE_NONE: 1,
    wire.REJECT: 13,
    wire.ALLOWED_FAST: 5,
}


class EarlyMessages:
    """One peer's stream."""

    __slots__ = ("_allowed", "_choked", "_fast", "_haves", "_interested", "_pieces", "_received")

    def __init__(self, *, fast: bool) -> None:
        self._received = bytearray()
        self._fast = fast
        self._pieces: wire.Message | None = None  # the last bitfield, have-all or have-none
        self._haves: dict[int, None] = {}
        self._allowed: dict[int, None] = {}
        self._choked = True
        self._interested = False

    def feed(self, data: bytes | bytearray | memoryview) -> list[wire.Message]:
        """What of the next bytes is to be acted on: extended messages, requests, ports. The rest is kept. PeerError."""
        self._received += data
        data = self._received  # grows by what comes, and is cut once for each receive
        at = 0
        answer: list[wire.Message] = []
        while len(data) - at >= MESSAGE_HEADER:
            length = int.from_bytes(data[at : at + MESSAGE_HEADER])
            body = at + MESSAGE_HEADER
            if length and len(data) > body:
                self._check(data[body], length)
            elif length > max(EXTENDED_MESSAGE, 1 + CLAIMED_BITFIELD):
                raise PeerError(f"message of {length} bytes")
            if len(data) - body < length:
                break
            if length:
                self._take(data[body], bytes(data[body + 1 : body + length]), answer)
            at = body + length
        del self._received[:at]
        return answer

    @property
    def tail(self) -> bytes:
        """The beginning of a message of which the rest has not come."""
        return bytes(self._received)

    def _check(self, kind: int, length: int) -> None:
        if kind == wire.PIECE:
            raise PeerError("a block before the metadata")
        if kind in wire.FAST_IDS and not self._fast:
            raise PeerError(f"message {kind} without the fast extension")
        if kind == wire.BITFIELD:
            legal = 2 <= length <= 1 + CLAIMED_BITFIELD
        elif kind == wire.EXTENDED:
            legal = 2 <= length <= EXTENDED_MESSAGE
        else:
            fixed = _LENGTHS.get(kind)
            legal = length == fixed if fixed is not None else length <= UNKNOWN_MESSAGE
        if not legal:
            raise PeerError(f"message {kind} of {length} bytes")

    def _take(self, kind: int, payload: bytes, answer: list[wire.Message]) -> None:
        if kind in (wire.BITFIELD, wire.HAVE_ALL, wire.HAVE_NONE):
            self._pieces = (kind, payload) if kind == wire.BITFIELD else (kind,)
            self._haves.clear()
        elif kind == wire.HAVE:
            if len(self._haves) < CLAIMED_HAVES:
                self._haves[int.from_bytes(payload)] = None
        elif kind in (wire.CHOKE, wire.UNCHOKE):
            self._choked = kind == wire.CHOKE
        elif kind in (wire.INTERESTED, wire.NOT_INTERESTED):
            self._interested = kind == wire.INTERESTED
        elif kind == wire.ALLOWED_FAST:
            if len(self._allowed) < ALLOWED_FAST_HEARD:
                self._allowed[int.from_bytes(payload)] = None
        elif kind == wire.PORT:
            answer.append((kind, int.from_bytes(payload)))
        elif kind == wire.EXTENDED:
            answer.append((kind, payload))
        elif kind == wire.REQUEST:
            answer.append((kind, *struct.unpack(">III", payload)))

    def replay(self, piece_count: int) -> list[wire.Message]:
        """What the peer has said that still holds, as messages of a torrent of ``piece_count`` pieces.

        PeerError: it named a piece that does not exist. Whether the bitfield has the right length is not checked here.
        """
        for piece in (*self._haves, *self._allowed):
            if piece >= piece_count:
                raise PeerError(f"spoke of piece {piece} of {piece_count}")
        messages: list[wire.Message] = [] if self._pieces is None else [self._pieces]
        messages += [(wire.HAVE, piece) for piece in self._haves]
        messages += [(wire.ALLOWED_FAST, piece) for piece in self._allowed]
        if not self._choked:
            messages.append((wire.UNCHOKE,))
        if self._interested:
            messages.append((wire.INTERESTED,))
        return messages
