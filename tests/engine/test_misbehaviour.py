"""Peers that break the protocol: what ends their connection, and that nothing else is harmed."""

from __future__ import annotations

import struct

import pytest
import trio

from btor.engine.events import PeerChange
from btor.engine.torrent import Torrent
from btor.limits import (
    BAD_REQUESTS,
    BLOCK,
    DEAD_PEER,
    KEEP_ALIVE,
    NO_MUTUAL_INTEREST,
    REQUEST_GRACE_AFTER_CHOKE,
    REQUESTS_ACCEPTED,
    REQUESTS_UNANSWERED,
)
from tests.engine.support import (
    Lab,
    Sample,
    hear_interest,
    hear_requests,
    message,
    next_event,
    piece_message,
    requests_of,
    said,
    sample,
    scenario,
)
from tests.simulated.scripted_peer import (
    BITFIELD,
    CANCEL,
    CHOKE,
    EXTENDED,
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

CONTENT = sample(20 * 2 * BLOCK)


async def reason_of_end(found: Torrent) -> str:
    gone = await next_event(found, PeerChange, lambda event: event.change == "disconnected")
    return gone.reason


async def finishes(lab: Lab, leecher: Torrent, content: Sample = CONTENT) -> None:
    """Another, honest peer comes, and the torrent completes."""
    honest = await lab.join(leecher, has=range(content.pieces))
    lab.nursery.start_soon(honest.serve, content.content, content.metainfo.geometry.piece_length)
    await leecher.wait_complete()
    assert content.is_at(leecher.keeper.content.top)


# --- the handshake ------------------------------------------------------------------------------------------------


@scenario(both=True)
@pytest.mark.parametrize("first", [b"\x13BitTorrent protocoL", b"\x14", b"GET / HTTP/1.1\r\n\r\n", bytes(68)])
async def test_garbage_instead_of_a_handshake(lab: Lab, first: bytes) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await lab.call(seeder.session)
    with pytest.raises(DisconnectedError):
        await peer.raw(first)
        await peer.receive()
    assert seeder.status().peers == 0
    await (await lab.leech(CONTENT, seeder)).wait_complete()


@scenario()
async def test_an_unknown_torrent_is_not_answered(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await lab.call(seeder.session)
    with pytest.raises(DisconnectedError):
        await peer.handshake(bytes(20))


@scenario()
async def test_another_torrent_in_the_answer(lab: Lab) -> None:
    caller = await lab.listen()
    leecher = await lab.leech(CONTENT, caller.address)
    peer = await caller.accept(sample(seed=2))
    await peer.wait_closed()
    assert leecher.status().peers == 0
    await finishes(lab, leecher)


@scenario()
async def test_our_own_peer_id(lab: Lab) -> None:
    caller = await lab.listen()
    leecher = await lab.leech(CONTENT, caller.address)
    peer = await caller.accept(CONTENT, peer_id=leecher.session.peer_id)
    await peer.wait_closed()
    await trio.sleep(600)  # and it never comes back
    assert [address for _, address in leecher.session.network.dialled] == [caller.address]


@scenario()
async def test_a_session_that_dials_itself(lab: Lab) -> None:
    host = lab.host()
    session = await lab.session(host)
    leecher = await session.add(CONTENT.metainfo, directory=lab.place(), peers=[(host.ips[0], session.port)])
    await trio.sleep(600)
    assert len(host.dialled) == 1
    assert leecher.status().peers == 0


@scenario()
async def test_a_second_connection_with_the_same_peer_id(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    older = await lab.join(seeder, peer_id=b"the same peer id ...")
    await older.receive()
    newer = await lab.join(seeder, peer_id=b"the same peer id ...")
    await newer.wait_closed()
    assert newer.heard == []
    await older.send(INTERESTED)
    await older.wait_for(UNCHOKE)


@scenario()
async def test_one_connection_for_each_address(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    host = lab.host()
    older = await lab.join(seeder, host)
    await older.receive()
    newer = await lab.join(seeder, host)
    await newer.wait_closed()
    await older.send(INTERESTED)
    await older.wait_for(UNCHOKE)


@scenario(both=True)
async def test_on_loopback_many_peers_share_an_address(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT, lab.host("127.0.0.1"))
    host = lab.host("127.0.0.2")
    peers = [await lab.join(seeder, host) for _ in range(5)]
    for peer in peers:
        assert (await peer.receive()).id == BITFIELD


# --- messages that end the connection -------------------------------------------------------------------------------

LAST = CONTENT.pieces - 1
BAD = {
    "endless": struct.pack(">I", 0xFFFFFFFF),
    "long piece": struct.pack(">IB", 10 + BLOCK, PIECE),
    "long request": message(REQUEST, bytes(13)),
    "long choke": message(CHOKE, b"x"),
    "long unknown": struct.pack(">IB", 64 * 1024 + 1, 99),
    "long extended": struct.pack(">IB", 128 * 1024 + 1, EXTENDED),
    "have too far": message(HAVE, struct.pack(">I", CONTENT.pieces)),
    "piece too far": piece_message(CONTENT.pieces, 0, bytes(BLOCK)),
    "bitfield short": message(BITFIELD, bytes(2)),
    "bitfield long": message(BITFIELD, bytes(4)),
    "spare bit": message(BITFIELD, b"\xff\xff\xff"),
    "fast": message(14),
}


@scenario(both=True)
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_ends_the_connection(lab: Lab, bad: bytes) -> None:
    leecher = await lab.leech(CONTENT)
    peer = await lab.join(leecher)
    await peer.raw(bad)
    await peer.wait_closed()
    assert leecher.error is None
    await finishes(lab, leecher)


FINE = {
    "keep-alive": bytes(4),
    "have": message(HAVE, struct.pack(">I", LAST)),
    "have again": message(HAVE, struct.pack(">I", LAST)) * 2,
    "unknown": message(99, bytes(64 * 1024 - 1)),
    "extended": message(EXTENDED, bytes(1000)),
    "port": message(9, b"\x1a\xe1"),
    "choke twice": message(CHOKE) * 2,
    "states": message(INTERESTED) * 2 + message(NOT_INTERESTED) * 2 + message(UNCHOKE) * 2,
    "cancel of nothing": message(CANCEL, struct.pack(">III", 0, 0, BLOCK)),
    "cancel of nonsense": message(CANCEL, b"\xff" * 12),
    "empty bitfield": message(BITFIELD, bitfield_of([], CONTENT.pieces)),
    "bitfield after extended": message(EXTENDED, b"\x00de") + message(BITFIELD, bitfield_of([1], CONTENT.pieces)),
    "second bitfield": message(BITFIELD, bitfield_of([1], CONTENT.pieces)) * 2,
}


@scenario()
@pytest.mark.parametrize("fine", FINE.values(), ids=FINE.keys())
async def test_is_borne(lab: Lab, fine: bytes) -> None:
    leecher = await lab.leech(CONTENT)
    peer = await lab.join(leecher)
    await peer.raw(fine + message(HAVE, struct.pack(">I", 3)))
    await hear_interest(peer)
    await finishes(lab, leecher)


@scenario()
@pytest.mark.parametrize("cut", [1, 3, 4, 5, 9, 12, 13, 14, 5000, BLOCK + 12])
async def test_messages_in_two_parts(lab: Lab, cut: int) -> None:
    leecher = await lab.leech(CONTENT)
    peer = await lab.join(leecher, has=[0])
    await hear_interest(peer)
    await peer.send(UNCHOKE)
    await hear_requests(peer, 2)
    for block in range(2):
        data = piece_message(0, block * BLOCK, CONTENT.block(0, block))
        await peer.raw(data[:cut])
        await trio.sleep(0.1)
        await peer.raw(data[cut:])
    await peer.wait_for(NOT_INTERESTED)
    assert leecher.status().have_pieces == 1
    await finishes(lab, leecher)


@scenario()
async def test_a_bitfield_after_data_ends_the_connection(lab: Lab) -> None:
    leecher = await lab.leech(CONTENT)
    peer = await lab.join(leecher, has=[0])
    await hear_interest(peer)
    await peer.send(UNCHOKE)
    await hear_requests(peer, 2)
    await peer.block(0, 0, CONTENT.block(0, 0))
    await peer.bitfield([0, 1], CONTENT.pieces)
    await peer.wait_closed()


@scenario(both=True)
async def test_what_came_before_the_breach_is_on_disk(lab: Lab) -> None:
    """The receive buffer is shared: what is not written before another peer's turn is overwritten."""
    content = sample(8 * 2 * BLOCK)
    leecher = await lab.leech(content)
    peer = await lab.join(leecher, has=range(content.pieces))
    await hear_interest(peer)
    await peer.send(UNCHOKE)
    piece, begin, _ = (await hear_requests(peer, 4))[0]
    good = piece_message(piece, begin, content.block(piece, begin // BLOCK))
    # in one go with the block something that only the peer, not the decoder, objects to
    await peer.raw(good + message(BITFIELD, bitfield_of([], content.pieces)))
    await peer.wait_closed()
    other = await lab.join(leecher)
    await other.send(EXTENDED, bytes(2 * BLOCK))
    await finishes(lab, leecher, content)
