"""A peer that speaks just enough of BEP 3 to serve, to lie and to count, with nothing of btor in it.

It has all of some pieces, unchokes whoever is interested, answers requests at a rate of its own, and may ask for
pieces in turn, over and over. It counts bytes where btor's own counters cannot flatter: at the far end.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

PROTOCOL = b"\x13BitTorrent protocol"
BLOCK = 16 * 1024
CHOKE, UNCHOKE, INTERESTED, HAVE, BITFIELD, REQUEST, PIECE, CANCEL = 0, 1, 2, 4, 5, 6, 7, 8
REQUESTS_KEPT = 64


def no_blocks() -> Sequence[tuple[int, int, int]]:
    return ()


@dataclass
class WirePeer:
    """One scripted peer; it may hold several connections, one after the other or at once.

    ``content(piece, begin, length)`` gives the bytes it serves. ``bitfield``: as on the wire. ``upload_rate``: bytes a
    second over all its connections, None for no limit. ``corrupt_every``: every so manieth block it serves has its
    first byte changed, 0 for none. ``asks``: the blocks (piece, begin, length) that it requests in turn for ever.
    """

    info_hash: bytes
    peer_id: bytes
    bitfield: bytes
    content: Callable[[int, int, int], bytes]
    upload_rate: float | None = None
    corrupt_every: int = 0
    asks: Callable[[], Sequence[tuple[int, int, int]]] = no_blocks
    connections: int = 0  # handshakes completed
    blocks_served: int = 0
    bad_blocks_served: int = 0
    bytes_sent: int = 0  # everything the socket took
    bytes_received: int = 0
    next_send: float = field(default=0.0, repr=False)

    async def serve(self, listener: trio.SocketListener) -> None:
        """Accept for ever."""
        await trio.serve_listeners(self.accept, [listener])

    async def accept(self, stream: trio.SocketStream) -> None:
        await self._talk(stream, first=False)

    async def dial(self, address: tuple[str, int]) -> None:
        """Connect once and talk until the other end closes."""
        stream = await trio.open_tcp_stream(*address)
        await self._talk(stream, first=True)

    async def _talk(self, stream: trio.SocketStream, *, first: bool) -> None:
        async with stream:
            try:
                if await self._shake_hands(stream, first=first):
                    self.connections += 1
                    await _Connection(self, stream).run()
            except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                pass  # how the other end ends is its affair: the counters tell what happened

    async def _shake_hands(self, stream: trio.SocketStream, *, first: bool) -> bool:
        ours = PROTOCOL + bytes(8) + self.info_hash + self.peer_id
        if first:
            await stream.send_all(ours)
        theirs = bytearray()
        while len(theirs) < 68:
            data = await stream.receive_some(68 - len(theirs))
            if not data:
                return False
            theirs += data
        if theirs[:20] != PROTOCOL or theirs[28:48] != self.info_hash:
            return False
        if not first:
            await stream.send_all(ours)
        return True


class _Connection:
    """One connection of a WirePeer after the handshake."""

    def __init__(self, peer: WirePeer, stream: trio.SocketStream) -> None:
        self.peer = peer
        self.stream = stream
        self.control = bytearray()  # messages without data that wait to be sent
        self.requests: deque[tuple[int, int, int]] = deque()
        self.wake = trio.Event()
        self.choked = True
        self.asked = 0
        self.turn = 0

    async def run(self) -> None:
        self.control += struct.pack(">IB", 1 + len(self.peer.bitfield), BITFIELD) + self.peer.bitfield
        if self.peer.asks is not no_blocks:
            self.control += struct.pack(">IB", 1, INTERESTED)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            await self._read()
            nursery.cancel_scope.cancel()

    async def _read(self) -> None:
        pending, skip = bytearray(), 0
        while data := await self.stream.receive_some(256 * 1024):
            self.peer.bytes_received += len(data)
            skipped = min(skip, len(data))
            skip -= skipped
            pending += data[skipped:]
            at = 0
            while len(pending) - at >= 5:
                length = int.from_bytes(pending[at : at + 4], "big")
                end = at + 4 + length
                if length and pending[at + 4] == PIECE:
                    self.asked -= 1
                    skip = max(0, end - len(pending))
                    end = min(end, len(pending))
                elif end > len(pending):
                    break
                elif length:
                    self._on_message(pending[at + 4], bytes(pending[at + 5 : end]))
                at = end
            if len(pending) - at == 4 and not any(pending[at:]):
                at += 4  # a keep-alive at the very end
            del pending[:at]
            self._ask()

    def _on_message(self, kind: int, payload: bytes) -> None:
        if kind == INTERESTED:
            self.control += struct.pack(">IB", 1, UNCHOKE)
        elif kind == REQUEST:
            self.requests.append(struct.unpack(">III", payload))
        elif kind == CANCEL:
            cancelled = struct.unpack(">III", payload)
            self.requests = deque(request for request in self.requests if request != cancelled)
        elif kind == UNCHOKE:
            self.choked = False
        elif kind == CHOKE:
            self.choked, self.asked = True, 0
        self.wake.set()

    def _ask(self) -> None:
        blocks = self.peer.asks()
        while blocks and not self.choked and self.asked < REQUESTS_KEPT:
            block = blocks[self.turn % len(blocks)]
            self.control += struct.pack(">IBIII", 13, REQUEST, *block)
            self.turn += 1
            self.asked += 1
            self.wake.set()

    async def _write(self) -> None:
        while True:
            if self.control:
                data, self.control = bytes(self.control), bytearray()
                await self._send(data)
            elif self.requests:
                await self._wait_for_turn()
                if self.requests:  # none may be left after a cancel
                    await self._send(self._block(*self.requests.popleft()))
            else:
                self.wake = trio.Event()
                await self.wake.wait()

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            sent = await self.stream.socket.send(view)
            self.peer.bytes_sent += sent
            view = view[sent:]

    async def _wait_for_turn(self) -> None:
        peer = self.peer
        if peer.upload_rate is not None:
            now = trio.current_time()
            peer.next_send = max(peer.next_send, now - 0.1) + BLOCK / peer.upload_rate
            await trio.sleep_until(peer.next_send)

    def _block(self, piece: int, begin: int, length: int) -> bytes:
        peer = self.peer
        data = peer.content(piece, begin, length)
        peer.blocks_served += 1
        if peer.corrupt_every and peer.blocks_served % peer.corrupt_every == 0:
            data = bytes([data[0] ^ 0xFF]) + data[1:]
            peer.bad_blocks_served += 1
        return struct.pack(">IBII", 9 + length, PIECE, piece, begin) + data


async def until(done: Callable[[], bool], timeout: float) -> bool:
    """Whether ``done()`` came true within ``timeout`` seconds."""
    deadline = trio.current_time() + timeout
    while not done():
        if trio.current_time() > deadline:
            return False
        await trio.sleep(0.01)
    return True


def full_bitfield(pieces: int) -> bytes:
    """The bitfield of a peer that has every piece."""
    return bytes_of_pieces(range(pieces), pieces)


def bytes_of_pieces(have: Sequence[int] | range, pieces: int) -> bytes:
    """The bitfield of a peer that has these of ``pieces``."""
    field_ = bytearray(-(-pieces // 8))
    for piece in have:
        field_[piece // 8] |= 0x80 >> piece % 8
    return bytes(field_)


async def bitfield_of(address: tuple[str, int], info_hash: bytes, pieces: int) -> set[int]:
    """The pieces that the peer at ``address`` says it has when asked now (bitfield and haves of the first 0.3 s)."""
    found: set[int] = set()
    stream = await trio.open_tcp_stream(*address)
    async with stream:
        await stream.send_all(PROTOCOL + bytes(8) + info_hash + b"-XX0000-askingaround")
        received = bytearray()
        with trio.move_on_after(0.3):
            while data := await stream.receive_some(65536):
                received += data
        at = 68
        while len(received) - at >= 5:
            length = int.from_bytes(received[at : at + 4], "big")
            kind, payload = received[at + 4], received[at + 5 : at + 4 + length]
            if length and kind == BITFIELD:
                found |= {piece for piece in range(pieces) if payload[piece // 8] & 0x80 >> piece % 8}
            elif length and kind == HAVE:
                found.add(int.from_bytes(payload, "big"))
            at += 4 + length
    return found
