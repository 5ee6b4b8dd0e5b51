"""Messages of the peer wire (BEP 3), both directions, shaped for the hot path.

Receiving: the bytes of one gulp lie in a buffer that all peers share; `MessageReader` says where to receive, then
yields what arrived. Blocks come as *runs*, lists ``[piece, first_block, count, length, views]`` of consecutive whole
blocks of one piece whose views point into the buffer: valid until the next receive. Everything else comes as tuples
``(id, …)``. A block that is cut by the end of a gulp gets a buffer of its own, and the next receive continues there, so
that no byte is copied twice; any other message that is cut is short and is kept and put in front of the next gulp.

Every length is checked on the first bytes that carry it, and nothing is allocated beyond one block because a peer says
so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from btor.errors import PeerError
from btor.limits import BLOCK, EXTENDED_MESSAGE, MESSAGE_HEADER, PIECE_HEADER, UNKNOWN_MESSAGE
from btor.metainfo.geometry import Geometry

CHOKE: Final = 0
UNCHOKE: Final = 1
INTERESTED: Final = 2
NOT_INTERESTED: Final = 3
HAVE: Final = 4
BITFIELD: Final = 5
REQUEST: Final = 6
PIECE: Final = 7
CANCEL: Final = 8
PORT: Final = 9
SUGGEST: Final = 13
HAVE_ALL: Final = 14
HAVE_NONE: Final = 15
REJECT: Final = 16
ALLOWED_FAST: Final = 17
EXTENDED: Final = 20

STRAY_BLOCK: Final = -1  # yielded for a block that nobody can have asked for: misaligned or of a wrong length
FAST_IDS: Final = frozenset((SUGGEST, HAVE_ALL, HAVE_NONE, REJECT, ALLOWED_FAST))  # BEP 6, illegal without it

SMALL_MESSAGES_AT_ONCE: Final = 4_096  # yielded by one call, so that a flood of tiny messages costs bounded memory

KEEP_ALIVE: Final = bytes(4)

Run = list[int | list[memoryview]]
Message = tuple[int, ...] | tuple[int, bytes]

_block_header = struct.Struct(">IBII").unpack_from
_three_numbers = struct.Struct(">III").unpack_from
_pack_request = struct.Struct(">IBIII").pack
_pack_one = struct.Struct(">IBI").pack
_pack_block_header = struct.Struct(">IBII").pack_into

_FIXED_LENGTHS: Final = {
    CHOKE: 1,
    UNCHOKE: 1,
    INTERESTED: 1,
    NOT_INTERESTED: 1,
    HAVE: 5,
    REQUEST: 13,
    CANCEL: 13,
    PORT: 3,
    SUGGEST: 5,
    HAVE_ALL: 1,
    HAVE_NONE: 1,
    REJECT: 13,
    ALLOWED_FAST: 5,
}
_PIECE_NUMBER: Final = {HAVE: "have", SUGGEST: "suggestion", ALLOWED_FAST: "allowed-fast message"}


class MessageReader:
    """Decodes one peer's stream. Feed by `targets` and `received`, then drain `take` until it answers None.

    ``fast``: both sides speak the fast extension (BEP 6). ``begun``: bytes of the stream that somebody else received,
    the beginning of a message that is not a block.
    """

    __slots__ = ("_block", "_block_have", "_block_place", "_fast", "_geometry", "_hi", "_lo", "_tail", "_view")

    def __init__(self, geometry: Geometry, *, fast: bool = False, begun: bytes = b"") -> None:
        self._geometry = geometry
        self._fast = fast
        self._tail = begun  # the beginning of a message that is not a block, or of a block's header
        self._block: memoryview | None = None  # the block that is cut, with room for all of it
        self._block_have = 0
        self._block_place = (0, 0)
        self._view = memoryview(b"")
        self._lo = self._hi = 0

    def targets(self, shared: memoryview, gulp: int) -> list[memoryview]:
        """Where to receive up to ``gulp`` bytes: what completes the cut block, then the shared buffer.

        ``shared`` is larger than ``gulp`` by at least 128 KiB + 4, for what is put in front.
        """
        if self._block is not None:
            missing = len(self._block) - self._block_have
            if missing >= gulp:
                return [self._block[self._block_have : self._block_have + gulp]]
            return [self._block[self._block_have :], shared[: gulp - missing]]
        kept = len(self._tail)
        if kept:
            shared[:kept] = self._tail
        return [shared[kept : kept + gulp]]

    def received(self, shared: memoryview, count: int) -> None:
        """``count`` > 0 bytes came into the targets."""
        self._view = shared
        self._lo = 0
        if self._block is not None:
            into_block = min(count, len(self._block) - self._block_have)
            self._block_have += into_block
            self._hi = count - into_block
        else:
            self._hi = len(self._tail) + count
            self._tail = b""

    def take(self) -> list[Run | Message] | None:
        """The next messages in order, perhaps none; None when all that arrived is decoded. PeerError.

        The views are into the shared buffer: use them before anything else is received.
        """
        out: list[Run | Message] = []
        if self._block is not None:
            if self._block_have < len(self._block):
                return None
            piece, begin = self._block_place
            self._open_run(out, piece, begin, self._block)
            self._block = None
        if self._lo < self._hi:
            self._scan(out)
        return out if out or self._lo < self._hi else None

    def _scan(self, out: list[Run | Message]) -> None:
        view = self._view
        lo = self._lo
        hi = self._hi
        small = 0
        # the run that grows: its list of views, and what the next block must be to belong to it
        run: Run | None = None
        run_piece = run_next = run_limit = -1
        if out and isinstance(out[0], list):
            run = out[0]
            run_piece, run_next, run_limit = self._follows(run)
        while hi - lo >= PIECE_HEADER:
            length, kind, piece, begin = _block_header(view, lo)
            if kind != PIECE or length < 10:
                if length > hi - lo - MESSAGE_HEADER:
                    break
                if length:
                    self._small(out, length, kind, lo)
                    small += 1
                lo += MESSAGE_HEADER + length
                if small >= SMALL_MESSAGES_AT_ONCE:
                    self._lo = lo
                    return
                continue
            end = lo + MESSAGE_HEADER + length
            if length > BLOCK + 9:
                raise PeerError(f"piece message of {length} bytes")
            if end > hi:
                break
            if piece == run_piece and begin == run_next and length == BLOCK + 9 and run is not None:
                run[2] += 1  # type: ignore[operator]  # the counters of a run are ints, see the module's head
                run[3] += BLOCK  # type: ignore[operator]
                run[4].append(view[lo + PIECE_HEADER : end])  # type: ignore[union-attr]
                run_next = begin + BLOCK
                if run_next > run_limit:
                    run_piece = -1
            else:
                run = self._open_run(out, piece, begin, view[lo + PIECE_HEADER : end])
                run_piece, run_next, run_limit = self._follows(run) if run is not None else (-1, -1, -1)
            lo = end
        while 0 < hi - lo < PIECE_HEADER and lo < hi:
            length = int.from_bytes(view[lo : lo + MESSAGE_HEADER], "big")
            if hi - lo < MESSAGE_HEADER or length > hi - lo - MESSAGE_HEADER:
                break
            if length:
                self._small(out, length, view[lo + MESSAGE_HEADER], lo)
            lo += MESSAGE_HEADER + length
        self._lo = self._hi
        if lo < hi:
            self._keep(view, lo, hi)

    def _follows(self, run: Run) -> tuple[int, int, int]:
        """Which whole block would continue ``run``: its piece, its begin, and the last begin a whole block can have."""
        piece, first, count, length = run[0], run[1], run[2], run[3]
        assert isinstance(piece, int) and isinstance(first, int) and isinstance(count, int)
        limit = self._geometry.piece_size(piece) - BLOCK
        begin = (first + count) * BLOCK
        if length != count * BLOCK or begin > limit:
            return -1, -1, -1
        return piece, begin, limit

    def _open_run(self, out: list[Run | Message], piece: int, begin: int, data: memoryview) -> Run | None:
        """Begin a run with one block, or yield a stray one. PeerError for a piece that does not exist."""
        geometry = self._geometry
        if piece >= geometry.piece_count:
            raise PeerError(f"block of piece {piece} of {geometry.piece_count}")
        size = geometry.piece_size(piece)
        if begin % BLOCK or begin >= size or len(data) != min(BLOCK, size - begin):
            out.append((STRAY_BLOCK, piece, begin, len(data)))
            return None
        run: Run = [piece, begin // BLOCK, 1, len(data), [data]]
        out.append(run)
        return run

    def _small(self, out: list[Run | Message], length: int, kind: int, at: int) -> None:
        """Decode one whole message that is not a block, which begins at ``at``. PeerError."""
        view = self._view
        self._check_length(kind, length)
        if kind in _PIECE_NUMBER:
            piece = int.from_bytes(view[at + 5 : at + 9], "big")
            if piece >= self._geometry.piece_count:
                raise PeerError(f"{_PIECE_NUMBER[kind]} of piece {piece} of {self._geometry.piece_count}")
            out.append((kind, piece))
        elif kind in (REQUEST, CANCEL, REJECT):
            out.append((kind, *_three_numbers(view, at + 5)))
        elif kind <= NOT_INTERESTED or kind in (HAVE_ALL, HAVE_NONE):
            out.append((kind,))
        elif kind in (BITFIELD, EXTENDED):
            out.append((kind, bytes(view[at + 5 : at + MESSAGE_HEADER + length])))
        elif kind == PORT:
            out.append((PORT, int.from_bytes(view[at + 5 : at + 7], "big")))

    def _check_length(self, kind: int, length: int) -> None:
        """Whether a message of ``kind`` may have this ``length`` > 0. PeerError."""
        if kind == PIECE:
            legal = 9 < length <= 9 + BLOCK
        elif kind == BITFIELD:
            legal = length == 1 + (self._geometry.piece_count + 7) // 8
        elif kind == EXTENDED:
            legal = 2 <= length <= EXTENDED_MESSAGE
        elif kind in FAST_IDS and not self._fast:
            raise PeerError(f"message {kind} without the fast extension")
        else:
            fixed = _FIXED_LENGTHS.get(kind)
            legal = length == fixed if fixed is not None else length <= UNKNOWN_MESSAGE
        if not legal:
            raise PeerError(f"message {kind} of {length} bytes")

    def _keep(self, view: memoryview, lo: int, hi: int) -> None:
        """Remember the message that is cut. PeerError as soon as its length cannot be right."""
        have = hi - lo
        if have > MESSAGE_HEADER:
            length = int.from_bytes(view[lo : lo + MESSAGE_HEADER], "big")
            kind = view[lo + MESSAGE_HEADER]
            self._check_length(kind, length)
            if kind == PIECE and have >= PIECE_HEADER:
                _, _, piece, begin = _block_header(view, lo)
                block = memoryview(bytearray(length - 9))
                self._block_have = have - PIECE_HEADER
                block[: self._block_have] = view[lo + PIECE_HEADER : hi]
                self._block = block
                self._block_place = (piece, begin)
                return
        elif have == MESSAGE_HEADER:
            length = int.from_bytes(view[lo:hi], "big")
            if length > EXTENDED_MESSAGE and length != 1 + (self._geometry.piece_count + 7) // 8:
                raise PeerError(f"message of {length} bytes")
        self._tail = bytes(view[lo:hi])


def encode_state(kind: int) -> bytes:
    """A message that is its id alone: choke, unchoke, interested, not interested, have-all, have-none."""
    return b"\x00\x00\x00\x01" + kind.to_bytes(1, "big")


def encode_have(piece: int) -> bytes:
    """have."""
    return _pack_one(5, HAVE, piece)


def encode_bitfield(data: bytes) -> bytes:
    """bitfield; ``data`` in wire order."""
    return (1 + len(data)).to_bytes(4, "big") + b"\x05" + data


def encode_requests(geometry: Geometry, runs: Iterable[tuple[int, int, int]]) -> bytes:
    """One request message for each block of ``runs`` (piece, first block, count)."""
    out = []
    for piece, first, count in runs:
        begin = first * BLOCK
        whole = count if geometry.run_size(piece, first, count) == count * BLOCK else count - 1
        for _ in range(whole):
            out.append(_pack_request(13, REQUEST, piece, begin, BLOCK))
            begin += BLOCK
        if whole != count:
            out.append(_pack_request(13, REQUEST, piece, begin, geometry.block_size(piece, first + whole)))
    return b"".join(out)


def encode_cancel(piece: int, begin: int, length: int) -> bytes:
    """cancel."""
    return _pack_request(13, CANCEL, piece, begin, length)


def encode_reject(piece: int, begin: int, length: int) -> bytes:
    """reject request (BEP 6)."""
    return _pack_request(13, REJECT, piece, begin, length)


def encode_allowed_fast(piece: int) -> bytes:
    """allowed fast (BEP 6)."""
    return _pack_one(5, ALLOWED_FAST, piece)


def encode_port(port: int) -> bytes:
    """port: where our DHT node listens (BEP 5)."""
    return b"\x00\x00\x00\x03\x09" + port.to_bytes(2)


def encode_extended(number: int, payload: bytes) -> bytes:
    """extended (BEP 10); ``number``: the id that the receiver gave the extension, 0 for the handshake."""
    return (2 + len(payload)).to_bytes(4) + bytes((EXTENDED, number)) + payload


def put_block_header(buffer: memoryview, at: int, piece: int, begin: int, length: int) -> None:
    """Write the 13 bytes that stand before a block of ``length`` bytes into ``buffer`` at ``at``."""
    _pack_block_header(buffer, at, length + 9, PIECE, piece, begin)
