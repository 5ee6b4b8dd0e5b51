"""A peer that says anything in any order: what btor answers, asks and believes is right, and who breaks rules goes."""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import trio
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from btor.engine.peer import Peer
from btor.engine.sending import Sender
from btor.engine.torrent import Torrent
from btor.limits import BLOCK, REQUEST_TIMEOUT_MIN
from btor.swarm.source import Source
from tests.engine.support import Lab, sample
from tests.machine import Bug, Machine, explore, finds, named
from tests.simulated.scripted_peer import (
    BITFIELD,
    CANCEL,
    CHOKE,
    HAVE,
    INTERESTED,
    NOT_INTERESTED,
    PIECE,
    REQUEST,
    UNCHOKE,
    DisconnectedError,
    ScriptedPeer,
    bitfield_of,
)
from tests.simulated.stepped import Stepped

CONTENT = sample(6 * 2 * BLOCK - 100)
PIECES = CONTENT.pieces
HELD = (0, 1)  # what btor has at the beginning
MOMENT = 0.1  # s: whatever is said has been heard and answered
Block = tuple[int, int, int]
numbers = st.integers(0, PIECES - 1)
ILLEGAL = [
    (HAVE, struct.pack(">I", PIECES)),
    (HAVE, b"\0\0"),
    (BITFIELD, bytes(3)),
    (BITFIELD, b"\xff"),  # bits beyond the last piece
    (CHOKE, b"\0"),
    (REQUEST, bytes(11)),
    (PIECE, struct.pack(">II", PIECES, 0) + bytes(BLOCK)),
    (PIECE, bytes(8)),
    (14, b""),  # have-all without the fast extension
    (99, bytes(70_000)),
]


class PeerMachine(Machine):
    """The model: what we have said that we have, who chokes whom, what btor owes us and we owe it."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="btor-machine-"))
        self.lab = Lab(self.folder)
        self.world = Stepped(self.main)
        self.open = False
        self.join()

    async def main(self, world: Stepped) -> None:
        async def test(lab: Lab) -> None:
            top = self.folder / "content"
            data = bytearray(len(CONTENT.content))
            size = CONTENT.metainfo.geometry.piece_length
            for piece in HELD:
                data[piece * size : (piece + 1) * size] = CONTENT.piece(piece)
            top.write_bytes(data)
            session = await lab.session(upload_slots=0)
            self.found: Torrent = await session.add(CONTENT.metainfo, output=top)
            while self.found.transfer is None or not self.found.transfer.active:  # noqa: ASYNC110  # no event tells that
                await trio.sleep(MOMENT)
            await world.serve()

        await self.lab.run(test)

    @property
    def transfer(self) -> Any:
        return self.found.transfer

    @rule()
    def join(self) -> None:
        """A new connection, from a new address; one at a time."""
        if self.open:
            return

        async def call() -> ScriptedPeer:
            return await self.lab.join(self.found)

        self.peer: ScriptedPeer = self.world.do(call)
        self.open = True
        self.silent = True  # nothing but the handshake was said
        self.has: set[int] = set()
        self.told: set[int] = set()  # what btor said that it has
        self.chokes_us = True
        self.we_choke = True
        self.interested = False
        self.is_interested = False
        self.asked: dict[Block, float] = {}  # by btor, and not answered; and when
        self.late: set[Block] = set()  # the same, before we choked
        self.wanted: list[Block] = []  # by us
        self.void: set[Block] = set()  # asked by us, and not to be expected: cancelled or choked
        self.strays = 0
        self.bad = 0
        self.now = 0.0
        self.unheard = 0.0  # s in which nobody listened
        self.listen()

    # -- saying and hearing ---------------------------------------------------------------------------------------

    def say(self, *messages: tuple[int, bytes]) -> None:
        async def speak() -> None:
            try:
                for id_, payload in messages:
                    await self.peer.send(id_, payload)
            except DisconnectedError:
                self.open = False

        if self.open:
            self.world.do(speak)
        self.listen()

    def listen(self, *, again: bool = True) -> None:
        """Take in all that btor says now; each thing it says must be right at that point.

        ``again``: once more, if what it says once a second is still on the way.
        """
        start = len(self.peer.heard)

        async def hear() -> None:
            with trio.move_on_after(MOMENT):
                try:
                    while True:
                        await self.peer.receive()
                except DisconnectedError:
                    self.open = False
            self.now = trio.current_time()

        if self.open:
            self.world.do(hear)
        for said in self.peer.heard[start:]:
            self.on_said(said.id, said.payload)
        self.settle(again=again)

    def on_said(self, id_: int | None, payload: bytes) -> None:
        if id_ == CHOKE:
            self.chokes_us = True
            self.void |= set(self.wanted)
            self.wanted.clear()
        elif id_ == UNCHOKE:
            self.chokes_us = False
        elif id_ in (INTERESTED, NOT_INTERESTED):
            assert self.is_interested != (id_ == INTERESTED)
            self.is_interested = id_ == INTERESTED
        elif id_ == HAVE:
            (piece,) = struct.unpack(">I", payload)
            assert piece not in self.told
            self.told.add(piece)
        elif id_ == BITFIELD:
            assert not self.told
            self.told = {piece for piece in range(PIECES) if payload[piece // 8] & 0x80 >> piece % 8}
            assert payload == bitfield_of(self.told, PIECES)
        elif id_ == REQUEST:
            self.on_asked(struct.unpack(">III", payload))
        elif id_ == CANCEL:
            block = struct.unpack(">III", payload)
            assert block in self.asked
            del self.asked[block]
            self.late.add(block)
        elif id_ == PIECE:
            piece, begin = struct.unpack_from(">II", payload)
            block = (piece, begin, len(payload) - 8)
            assert block in self.wanted or block in self.void
            if block in self.wanted:
                assert not self.chokes_us
                self.wanted.remove(block)
            self.void.discard(block)
            assert payload[8:] == CONTENT.piece(piece)[begin : begin + len(payload) - 8]
        else:
            assert id_ is None

    def on_asked(self, block: Block) -> None:
        """btor asks for what we have and it lacks, once, while we let it."""
        piece, begin, length = block
        assert not self.we_choke
        assert self.is_interested
        assert piece in self.has
        if block in self.asked and not self.unheard:
            self.time_out(block)
        assert begin % BLOCK == 0
        assert length == min(BLOCK, len(CONTENT.piece(piece)) - begin)
        self.asked[block] = self.now - self.unheard

    def time_out(self, block: Block) -> None:
        """A request that takes too long is void; what comes late is welcome."""
        assert self.now - self.asked.pop(block) >= REQUEST_TIMEOUT_MIN
        self.late.add(block)

    # -- legal ----------------------------------------------------------------------------------------------------

    @rule(piece=numbers)
    def have(self, piece: int) -> None:
        self.has.add(piece)
        self.say((HAVE, struct.pack(">I", piece)))

    @rule(pieces=st.sets(numbers))
    def bitfield(self, pieces: set[int]) -> None:
        self.has = set(pieces) if self.open else self.has
        self.say((BITFIELD, bitfield_of(pieces, PIECES)))

    @rule()
    def choke(self) -> None:
        if not self.we_choke:
            self.we_choke = True
            self.late |= self.asked.keys()
            self.asked.clear()
        self.say((CHOKE, b""))

    @rule()
    def unchoke(self) -> None:
        self.we_choke = False
        self.say((UNCHOKE, b""))

    @rule(interested=st.sampled_from([True, True, False]))
    def interest(self, interested: bool) -> None:
        self.interested = interested
        self.say((INTERESTED if interested else NOT_INTERESTED, b""))

    @rule(piece=numbers, second=st.booleans())
    def request(self, piece: int, second: bool) -> None:
        """Served if it has the piece and does not choke us."""
        begin = BLOCK if second else 0
        block = (piece, begin, min(BLOCK, len(CONTENT.piece(piece)) - begin))
        if not self.open or self.bad >= 40:
            return
        if piece in self.told and not self.chokes_us:
            self.wanted.append(block)
        else:
            self.bad += 1
            if piece in self.transfer.have and not self.chokes_us:
                self.void.add(block)  # it does not tell us of a piece that we have, and may serve it
        self.say((REQUEST, struct.pack(">III", *block)))
        if self.open and not self.chokes_us:
            assert not self.wanted  # all is answered at once

    @rule(piece=numbers)
    def cancel(self, piece: int) -> None:
        self.say((CANCEL, struct.pack(">III", piece, 0, BLOCK)))

    @rule(seconds=st.sampled_from([1.0, 30.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; what we owe for long may be asked again."""

        async def sleep() -> None:
            await trio.sleep(seconds)

        self.world.do(sleep)
        self.unheard = seconds
        self.listen()
        self.unheard = 0.0

    @rule(which=st.integers(0, 9), right=st.sampled_from([True] * 9 + [False]), count=st.integers(1, 4))
    def answer(self, which: int, right: bool, count: int) -> None:
        """Blocks that it asked for; a wrong one is never believed."""
        for _ in range(count):
            if not self.asked or not self.open:
                return
            blocks = sorted(self.asked)
            block = blocks[which % len(blocks)]
            del self.asked[block]
            piece, begin, length = block
            data = CONTENT.piece(piece)[begin : begin + length]
            data = data if right else bytes([data[0] ^ 1]) + data[1:]
            self.say((PIECE, struct.pack(">II", piece, begin) + data))

    @rule()
    def forget_all(self) -> None:
        """Another run of the torrent, with nothing but what it had first: there is something to ask for again."""
        if self.transfer.have.complete:
            self.teardown()
            self.begin()

    @rule()
    def keep_alive(self) -> None:
        async def speak() -> None:
            await self.peer.keep_alive()

        if self.open:
            self.world.do(speak)
        self.listen()

    # -- not legal ------------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 4 * len(ILLEGAL)))
    def break_a_rule(self, which: int) -> None:
        """The connection ends, and nothing else."""
        if which < len(ILLEGAL) and self.open:
            self.say(ILLEGAL[which])
            self.listen()
            assert not self.open, ILLEGAL[which]

    @rule(piece=numbers)
    def send_unasked(self, piece: int) -> None:
        """The second such block ends the connection."""
        block = (piece, 0, min(BLOCK, len(CONTENT.piece(piece))))
        if not self.open or block in self.asked.keys() | self.late:
            return
        self.strays += 1
        self.say((PIECE, struct.pack(">II", piece, 0) + CONTENT.piece(piece)[:BLOCK]))
        if self.strays >= 2:
            self.listen()
            assert not self.open

    @rule()
    def hang_up(self) -> None:
        async def close() -> None:
            self.peer.transport.close()
            await trio.sleep(MOMENT)

        if self.open:
            self.open = False
            self.world.do(close)
            self.settle()

    # -- what must hold -------------------------------------------------------------------------------------------

    def settle(self, *, again: bool = False) -> None:
        transfer = self.transfer
        transfer.picker.check_invariants()
        on_disk = (self.folder / "content").read_bytes()
        size = CONTENT.metainfo.geometry.piece_length
        for piece in transfer.have:
            assert on_disk[piece * size : (piece + 1) * size] == CONTENT.piece(piece)
        assert self.told <= set(transfer.have)
        assert set(HELD) <= set(transfer.have)
        assert self.found.error is None
        if not self.open:
            assert all(peer.peer_id != self.peer.peer_id for peer in transfer.peers.values())
            return
        (peer,) = (peer for peer in transfer.peers.values() if peer.peer_id == self.peer.peer_id)
        owed = {
            (piece, block * BLOCK, transfer.geometry.block_size(piece, block))
            for piece, mask in peer.source.outstanding.items()
            for block in range(2)
            if mask >> block & 1
        }
        for block in self.asked.keys() - owed:
            self.time_out(block)
        assert owed == self.asked.keys()
        assert {piece for piece in range(PIECES) if peer.source.has(piece)} == self.has
        assert peer.peer_interested == self.interested
        if again and self.is_interested and not peer.am_interested:
            self.listen(again=False)
            return
        assert peer.am_interested == self.is_interested

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.end()
            finally:
                shutil.rmtree(self.folder, ignore_errors=True)


def test_any_order_of_messages() -> None:
    explore(PeerMachine)


BUGS = [
    Bug("an unchoke is not heard", Peer, "_on_choke", "self.transfer.picker.on_choked(self.source)", "pass", seed=6),
    Bug("stray blocks are not counted", Peer, "on_stray", "self._strays += count", "pass", seed=3),
    Bug(
        "a piece that is not had is served",
        Peer,
        "_on_request",
        "or piece not in self.transfer.have",
        "",
        seed=6,
    ),
    Bug("interest is never noted", Peer, "_on_interest", "self.peer_interested = interested", "pass", seed=6),
    Bug("a block is asked again before it came", Source, "ask", "| mask", "", seed=7),
    Bug("an answer is sent twice", Sender, "_on_sent", "self._uploads.popitem(last=False)", "pass", seed=6),
]


@named(BUGS)
def test_planted_bugs_are_found(bug: Bug) -> None:
    finds(PeerMachine, bug)
