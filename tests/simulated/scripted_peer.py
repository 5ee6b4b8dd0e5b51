"""A peer that says what a test wants it to say, over any ``Transport``: right, wrong or absurd.

It shares no code with ``btor/wire``, so that a mistake there is not repeated here. Its answers as a seeder can be
spoiled block by block.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import trio

if TYPE_CHECKING:
    from btor.engine.transport import Transport

CHOKE, UNCHOKE, INTERESTED, NOT_INTERESTED, HAVE, BITFIELD, REQUEST, PIECE, CANCEL = range(9)
EXTENDED = 20

BLOCK = 16 * 1024
HANDSHAKE_LENGTH = 68
READ = 256 * 1024
GONE = (OSError, trio.ClosedResourceError)


class Said(NamedTuple):
    """A message of the other side. ``id`` None: keep-alive."""

    id: int | None
    payload: bytes = b""


class DisconnectedError(Exception):
    """The connection is closed, by either side, or reset."""


def bitfield_of(pieces: Iterable[int], count: int) -> bytes:
    """The payload of a bitfield with ``count`` bits."""
    field = bytearray(-(-count // 8))
    for piece in pieces:
        field[piece // 8] |= 0x80 >> piece % 8
    return bytes(field)


def never(_piece: int, _begin: int) -> bool:
    """Spoil nothing."""
    return False


class ScriptedPeer:
    """One end of a peer connection. ``heard`` keeps every message received, in order."""

    def __init__(self, transport: Transport, *, peer_id: bytes = b"-XX0000-scripted0000") -> None:
        self.transport = transport
        self.peer_id = peer_id
        self.heard: list[Said] = []
        self.blocks_sent = 0
        self._received = bytearray()
        self._room = memoryview(bytearray(READ))

    # -- saying -----------------------------------------------------------------------------------------------------

    async def raw(self, data: bytes) -> None:
        """Send any bytes. DisconnectedError."""
        await trio.lowlevel.checkpoint()
        view = memoryview(data)
        while view:
            try:
                view = view[self.transport.send([view]) :]
            except BlockingIOError:
                await self._wait(self.transport.wait_writable)
            except GONE as error:
                raise DisconnectedError(str(error)) from error

    async def send(self, id_: int, payload: bytes = b"", *, claimed: int | None = None) -> None:
        """Send a message; ``claimed``: the length that its prefix tells instead of the true one."""
        length = 1 + len(payload) if claimed is None else claimed
        await self.raw(struct.pack(">IB", length, id_) + payload)

    async def keep_alive(self) -> None:
        """Send four zero bytes."""
        await self.raw(bytes(4))

    async def have(self, piece: int) -> None:
        """Announce a piece."""
        await self.send(HAVE, struct.pack(">I", piece))

    async def bitfield(self, pieces: Iterable[int], count: int) -> None:
        """Announce all pieces at once."""
        await self.send(BITFIELD, bitfield_of(pieces, count))

    async def request(self, piece: int, begin: int, length: int = BLOCK) -> None:
        """Ask for a block."""
        await self.send(REQUEST, struct.pack(">III", piece, begin, length))

    async def cancel(self, piece: int, begin: int, length: int = BLOCK) -> None:
        """Take a request back."""
        await self.send(CANCEL, struct.pack(">III", piece, begin, length))

    async def block(self, piece: int, begin: int, data: bytes) -> None:
        """Send a block, asked for or not."""
        self.blocks_sent += 1
        await self.send(PIECE, struct.pack(">II", piece, begin) + data)

    async def handshake(self, info_hash: bytes, *, reserved: bytes = bytes(8)) -> bytes:
        """Send our handshake and return the 68 bytes of theirs, as either side. DisconnectedError."""
        await self.raw(b"\x13BitTorrent protocol" + reserved + info_hash + self.peer_id)
        return await self._take(HANDSHAKE_LENGTH)

    # -- hearing ----------------------------------------------------------------------------------------------------

    async def receive(self) -> Said:
        """The next message. DisconnectedError."""
        (length,) = struct.unpack(">I", await self._take(4))
        body = await self._take(length)
        said = Said(body[0], body[1:]) if body else Said(None)
        self.heard.append(said)
        return said

    async def wait_for(self, id_: int) -> bytes:
        """The payload of the next message with this id; others are passed over. DisconnectedError."""
        while True:
            said = await self.receive()
            if said.id == id_:
                return said.payload

    async def wait_closed(self) -> None:
        """Listen until the other side closes; whatever it says is in ``heard``."""
        try:
            while True:
                await self.receive()
        except DisconnectedError:
            return

    async def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            try:
                got = self.transport.recv_into([self._room])
            except BlockingIOError:
                await self._wait(self.transport.wait_readable)
                continue
            except GONE as error:
                raise DisconnectedError(str(error)) from error
            if not got:
                raise DisconnectedError("end of stream")
            self._received += self._room[:got]
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    async def _wait(self, ready: Callable[[], Awaitable[None]]) -> None:
        try:
            await ready()
        except GONE as error:
            raise DisconnectedError("closed while waiting") from error

    # -- whole roles ------------------------------------------------------------------------------------------------

    async def serve(
        self,
        content: bytes,
        piece_length: int,
        *,
        spoil: Callable[[int, int], bool] = never,
        pause: float = 0.0,
        blocks: int | None = None,
    ) -> None:
        """Seed ``content`` until either side closes: unchoke who is interested, answer every request.

        ``spoil(piece, begin)``: whether to send that block with its first byte changed. ``pause``: seconds before each
        answer. ``blocks``: after that many, nothing is answered any more.
        """
        try:
            while True:
                said = await self.receive()
                if said.id == INTERESTED:
                    await self.send(UNCHOKE)
                elif said.id == REQUEST and (blocks is None or self.blocks_sent < blocks):
                    await trio.sleep(pause)
                    await self.block(*self._answer(said.payload, content, piece_length, spoil))
        except DisconnectedError:
            return

    def _answer(
        self, request: bytes, content: bytes, piece_length: int, spoil: Callable[[int, int], bool]
    ) -> tuple[int, int, bytes]:
        piece, begin, length = struct.unpack(">III", request)
        start = piece * piece_length + begin
        data = content[start : start + length]
        if spoil(piece, begin):
            data = bytes([data[0] ^ 0xFF]) + data[1:]
        return piece, begin, data

    async def fetch(self, piece: int, size: int) -> bytes:
        """Download one piece of ``size`` bytes as a leecher that is unchoked already. DisconnectedError."""
        found = bytearray(size)
        begins = range(0, size, BLOCK)
        for begin in begins:
            await self.request(piece, begin, min(BLOCK, size - begin))
        for _ in begins:
            payload = await self.wait_for(PIECE)
            index, begin = struct.unpack_from(">II", payload)
            assert index == piece
            found[begin : begin + len(payload) - 8] = payload[8:]
        return bytes(found)
