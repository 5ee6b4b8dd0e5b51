"""The scripted peer, with itself at the other end, over the simulated network and over loopback."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from btor.engine.transport import Network, TcpNetwork
from tests.simulated.network import World
from tests.simulated.scripted_peer import (
    BITFIELD,
    BLOCK,
    CANCEL,
    HAVE,
    INTERESTED,
    PIECE,
    REQUEST,
    UNCHOKE,
    DisconnectedError,
    Said,
    ScriptedPeer,
    bitfield_of,
)

INFO_HASH = bytes(range(20))
PIECE_LENGTH = 3 * BLOCK
CONTENT = random.Random(1).randbytes(10 * PIECE_LENGTH - 1000)

Pair = tuple[ScriptedPeer, ScriptedPeer]


@asynccontextmanager
async def peers(near: Network, far: Network, ip: str) -> AsyncIterator[Pair]:
    """Two peers that have said their handshakes."""
    with trio.fail_after(10):
        listener = await far.listen(ip, 0)
        one = ScriptedPeer(await near.connect((ip, listener.port)), peer_id=b"1" * 20)
        other = ScriptedPeer(await listener.accept(), peer_id=b"2" * 20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.handshake, INFO_HASH)
            theirs = await other.handshake(INFO_HASH)
        assert theirs == b"\x13BitTorrent protocol" + bytes(8) + INFO_HASH + b"1" * 20
        yield one, other
        one.transport.close()
        other.transport.close()
        listener.close()


@pytest.fixture(params=["simulated", "loopback"])
async def pair(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncIterator[Pair]:
    if request.param == "loopback":
        async with peers(TcpNetwork(), TcpNetwork(), "127.0.0.1") as made:
            yield made
        return
    world = World()
    await nursery.start(world.run)
    async with peers(world.host("10.0.0.1"), world.host("10.0.0.2"), "10.0.0.2") as made:
        yield made


async def test_messages(pair: Pair) -> None:
    one, other = pair
    with trio.fail_after(10):
        await one.keep_alive()
        await one.send(INTERESTED)
        await one.have(7)
        await one.bitfield([0, 9], 10)
        await one.request(1, 2)
        await one.cancel(1, 2, 3)
        await one.block(4, 5, b"data")
        await one.send(99, b"unknown")
        for expected in [
            Said(None),
            Said(INTERESTED),
            Said(HAVE, b"\0\0\0\7"),
            Said(BITFIELD, b"\x80\x40"),
            Said(REQUEST, struct.pack(">III", 1, 2, BLOCK)),
            Said(CANCEL, struct.pack(">III", 1, 2, 3)),
            Said(PIECE, struct.pack(">II", 4, 5) + b"data"),
            Said(99, b"unknown"),
        ]:
            assert await other.receive() == expected
        assert len(other.heard) == 8
        assert one.blocks_sent == 1


async def test_lengths_that_lie(pair: Pair) -> None:
    one, other = pair
    with trio.fail_after(10):
        await one.send(5, b"\xff", claimed=0xFFFFFFFF)
        assert await other._take(6) == b"\xff\xff\xff\xff\x05\xff"


async def test_the_end(pair: Pair) -> None:
    one, other = pair
    with trio.fail_after(10):
        await one.have(1)
        one.transport.close()
        await other.wait_closed()
        assert other.heard == [Said(HAVE, b"\0\0\0\1")]
        with pytest.raises(DisconnectedError):
            await other.wait_for(HAVE)
        with pytest.raises(DisconnectedError):
            while True:
                await other.keep_alive()


async def test_seeding(pair: Pair, nursery: trio.Nursery) -> None:
    one, other = pair
    nursery.start_soon(other.serve, CONTENT, PIECE_LENGTH)
    with trio.fail_after(10):
        await one.send(INTERESTED)
        await one.wait_for(UNCHOKE)
        found = [
            await one.fetch(start // PIECE_LENGTH, min(PIECE_LENGTH, len(CONTENT) - start))
            for start in range(0, len(CONTENT), PIECE_LENGTH)
        ]
        assert b"".join(found) == CONTENT
        one.transport.close()


async def test_seeding_spoiled_blocks(pair: Pair, nursery: trio.Nursery) -> None:
    one, other = pair
    nursery.start_soon(lambda: other.serve(CONTENT, PIECE_LENGTH, spoil=lambda piece, begin: begin == BLOCK, blocks=3))
    with trio.fail_after(10):
        piece = await one.fetch(2, PIECE_LENGTH)
        right = CONTENT[2 * PIECE_LENGTH : 3 * PIECE_LENGTH]
        assert [index for index in range(PIECE_LENGTH) if piece[index] != right[index]] == [BLOCK]
        await one.request(0, 0)
        await one.send(INTERESTED)
        await one.wait_for(UNCHOKE)  # nothing else came
        assert one.heard[-1] == Said(UNCHOKE)
        assert len(one.heard) == 4
        one.transport.close()


async def test_seeding_slowly(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    world = World()
    await nursery.start(world.run)
    async with peers(world.host("10.0.0.1"), world.host("10.0.0.2"), "10.0.0.2") as (one, other):
        nursery.start_soon(lambda: other.serve(CONTENT, PIECE_LENGTH, pause=1.0))
        before = trio.current_time()
        await one.fetch(0, PIECE_LENGTH)
        assert trio.current_time() - before == pytest.approx(3.0, abs=0.1)


def test_bitfield() -> None:
    assert bitfield_of([], 0) == b""
    assert bitfield_of([0, 7, 8, 15, 16], 17) == b"\x81\x81\x80"
