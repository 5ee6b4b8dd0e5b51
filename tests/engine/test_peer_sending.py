"""What a peer sends is one well-formed stream, however little the socket takes and however small the allowance."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from btor.engine.counters import Counters
from btor.engine.peer import Peer
from btor.engine.upload import SendBuffer
from btor.limits import BLOCK
from btor.metainfo.geometry import Geometry
from btor.wire import messages as wire

GEOMETRY = Geometry(10 * BLOCK + 777, 3 * BLOCK)
CONTENT = random.Random(1).randbytes(GEOMETRY.total_length)


class Stingy:
    """A transport that takes a random part of what it is offered."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.sent = bytearray()

    def send(self, views: Sequence[memoryview | bytes | bytearray]) -> int:
        if self.chance.random() < 0.2:
            raise BlockingIOError
        offered = b"".join(views)
        taken = offered[: self.chance.randint(1, len(offered))]
        self.sent += taken
        return len(taken)


class Content:
    """Content in memory, of which now and then something is not in the page cache."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def read_into(self, offset: int, views: Sequence[memoryview], *, cached_only: bool = False) -> bool:
        if cached_only and self.chance.random() < 0.2:
            return False
        for view in views:
            view[:] = CONTENT[offset : offset + len(view)]
            offset += len(view)
        return True

    async def warm(self, requests: list[Any]) -> None:
        await trio.lowlevel.checkpoint()


def make_peer(chance: random.Random) -> tuple[Peer, Stingy]:
    """A peer with nothing around it but what sending needs."""
    peer = Peer.__new__(Peer)
    transport = Stingy(chance)
    content = Content(chance)
    peer.transport = cast(Any, transport)
    peer.transfer = cast(
        Any,
        SimpleNamespace(
            geometry=GEOMETRY,
            content=content,
            disk=content,
            on_uploaded=lambda payload, taken, now: None,
            upload=SimpleNamespace(bucket=SimpleNamespace(limited=chance.random() < 0.5)),
        ),
    )
    peer.extended = None
    peer.session = cast(Any, SimpleNamespace(send_buffer=SendBuffer(), counters=Counters()))
    peer._out = bytearray()
    peer._uploads = OrderedDict()
    peer._choke_sent = True
    peer._head_sent = 0
    peer._last_taken = 2 * BLOCK
    peer._stuck = False
    peer._wake = trio.Event()
    peer.sent_total = peer.sent_round = peer.sent_since_unchoke = 0
    return peer, transport


@pytest.mark.parametrize("seed", range(40))
async def test_messages_and_blocks_never_mix(seed: int) -> None:
    chance = random.Random(seed)
    peer, transport = make_peer(chance)
    requests = []
    haves = []
    with trio.fail_after(20):
        for _ in range(60):
            if chance.random() < 0.5:
                piece = chance.randrange(GEOMETRY.piece_count)
                block = chance.randrange(GEOMETRY.block_count(piece))
                request = (piece, block * BLOCK, GEOMETRY.block_size(piece, block))
                if request not in peer._uploads:
                    peer._uploads[request] = None
                    requests.append(request)
            if chance.random() < 0.5:
                haves.append(chance.randrange(GEOMETRY.piece_count))
                peer._out += wire.encode_have(haves[-1])
            await peer._send(chance.choice([1, 100, BLOCK, 5 * BLOCK, 40 * BLOCK]))
        while peer._uploads or peer._out:
            await peer._send(2 * BLOCK)
    assert peer._head_sent == 0
    assert peer.sent_total == sum(length for _, _, length in requests)
    seen_requests, seen_haves = decode(bytes(transport.sent))
    assert seen_requests == requests
    assert seen_haves == haves


async def test_messages_do_not_wait_for_the_end_of_the_queue() -> None:
    """With a trickle of an allowance there is always a block half sent: requests must still get through."""
    peer, transport = make_peer(random.Random(0))
    transport.chance = cast(Any, SimpleNamespace(random=lambda: 1.0, randint=lambda low, high: high))
    for block in range(3):
        peer._uploads[0, block * BLOCK, BLOCK] = None
    with trio.fail_after(20):
        await peer._send(2_500)
        peer._out += wire.encode_have(1)
        while peer._out:
            await peer._send(2_500)
    assert len(transport.sent) == 13 + BLOCK + 9
    assert bytes(transport.sent[-9:]) == wire.encode_have(1)


def decode(stream: bytes) -> tuple[list[tuple[int, int, int]], list[int]]:
    """The blocks (checked against the content) and haves in a stream."""
    reader = wire.MessageReader(GEOMETRY)
    shared = memoryview(bytearray(len(stream) + 200_000))
    views = reader.targets(shared, len(stream))
    views[0][: len(stream)] = stream
    reader.received(shared, len(stream))
    blocks: list[tuple[int, int, int]] = []
    haves: list[int] = []
    while (items := reader.take()) is not None:
        for item in items:
            if isinstance(item, list):
                piece, first, count, length, parts = cast(tuple[int, int, int, int, list[memoryview]], tuple(item))
                offset = GEOMETRY.piece_offset(piece) + first * BLOCK
                assert b"".join(parts) == CONTENT[offset : offset + length]
                blocks += [(piece, (first + i) * BLOCK, GEOMETRY.block_size(piece, first + i)) for i in range(count)]
            else:
                assert item[0] == wire.HAVE
                haves.append(cast(int, item[1]))
    return blocks, haves
