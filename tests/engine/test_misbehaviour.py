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
    INTEREST_FLIPS,
    KEEP_ALIVE,
    NO_MUTUAL_INTEREST,
    REQUEST_GRACE_AFTER_CHOKE,
    REQUESTS_ACCEPTED,
    REQUESTS_ACCEPTED_UNSAID,
    REQUESTS_UNANSWERED,
    REQUESTS_WHILE_CHOKED,
    SILENT_REQUESTER,
    STUCK_RECEIVER,
    UNREQUESTED_BLOCKS,
)
from tests.engine.support import (
    Lab,
    Sample,
    closes_at_once,
    hear_interest,
    hear_requests,
    message,
    next_event,
    piece_message,
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


# --- the handshake ---------------------------------------------------------------------------------------------------


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
    await closes_at_once(peer)
    assert leecher.status().peers == 0
    await finishes(lab, leecher)


@scenario()
async def test_P8_our_own_peer_id(lab: Lab) -> None:
    caller = await lab.listen()
    leecher = await lab.leech(CONTENT, caller.address)
    peer = await caller.accept(CONTENT, peer_id=leecher.session.peer_id)
    await closes_at_once(peer)
    await trio.sleep(600)  # and it never comes back
    assert lab.dialled(leecher.session.network) == [caller.address]


@scenario()
async def test_a_session_that_dials_itself(lab: Lab) -> None:
    host = lab.host()
    session = await lab.session(host)
    leecher = await session.add(CONTENT.metainfo, directory=lab.place(), peers=[(lab.ip_of(host), session.port)])
    await trio.sleep(600)
    assert len(lab.dialled(host)) == 1
    assert leecher.status().peers == 0


@scenario()
async def test_P8_a_second_connection_with_the_same_peer_id(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    older = await lab.join(seeder, peer_id=b"the same peer id ...")
    await older.receive()
    newer = await lab.join(seeder, peer_id=b"the same peer id ...")
    await closes_at_once(newer)
    assert newer.heard == []
    await older.send(INTERESTED)
    await older.wait_for(UNCHOKE)


@scenario()
async def test_P8_one_connection_for_each_address(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    host = lab.host()
    older = await lab.join(seeder, host)
    await older.receive()
    newer = await lab.join(seeder, host)
    await closes_at_once(newer)
    await older.send(INTERESTED)
    await older.wait_for(UNCHOKE)


@scenario(both=True)
async def test_on_loopback_many_peers_share_an_address(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT, lab.host("127.0.0.1"))
    host = lab.host("127.0.0.2")
    peers = [await lab.join(seeder, host) for _ in range(5)]
    for peer in peers:
        assert (await peer.receive()).id == BITFIELD


# --- messages that end the connection --------------------------------------------------------------------------------

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
    await closes_at_once(peer)
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
async def test_a_bitfield_may_come_at_any_time(lab: Lab) -> None:
    """aria2 sends one in place of many haves."""
    leecher = await lab.leech(CONTENT)
    peer = await lab.join(leecher, has=[0])
    await hear_interest(peer)
    await peer.send(UNCHOKE)
    await hear_requests(peer, 2)
    await peer.block(0, 0, CONTENT.block(0, 0))
    await peer.bitfield(range(CONTENT.pieces), CONTENT.pieces)
    await peer.block(0, 1, CONTENT.block(0, 1))
    await hear_requests(peer, 4)
    assert leecher.status().seeds == 1


@scenario(both=True)
async def test_what_came_before_the_breach_is_on_disk(lab: Lab) -> None:
    """The receive buffer is shared: what is not written before another peer's turn is overwritten."""
    content = sample(7 * 2 * BLOCK)
    leecher = await lab.leech(content)
    peer = await lab.join(leecher, has=range(content.pieces))
    await hear_interest(peer)
    await peer.send(UNCHOKE)
    piece, begin, _ = (await hear_requests(peer, 4))[0]
    good = piece_message(piece, begin, content.block(piece, begin // BLOCK))
    # in one go with the block something that only the peer, not the decoder, objects to: a spare bit
    await peer.raw(good + message(BITFIELD, b"\x01"))
    await closes_at_once(peer)
    other = await lab.join(leecher)
    await other.send(EXTENDED, bytes(2 * BLOCK))
    await finishes(lab, leecher, content)


# --- blocks that nobody asked for ------------------------------------------------------------------------------------


@scenario(both=True)
async def test_P2_the_second_stray_block_ends_the_connection(lab: Lab) -> None:
    leecher = await lab.leech(CONTENT)
    peer = await lab.join(leecher, has=range(CONTENT.pieces))
    await hear_interest(peer)
    for _ in range(UNREQUESTED_BLOCKS - 1):
        await peer.block(3, 0, CONTENT.block(3, 0))
    await peer.send(UNCHOKE)
    asked = await hear_requests(peer, 1)  # the first one is borne, and not believed
    assert asked
    assert leecher.status().have_pieces == 0
    await peer.block(3, 1, CONTENT.block(3, 0))
    await closes_at_once(peer)
    await finishes(lab, leecher)


@scenario()
@pytest.mark.parametrize(
    ("piece", "begin", "length"), [(0, 1, BLOCK), (0, 2 * BLOCK, 1), (0, 0, 1), (0, 0, BLOCK - 1), (0, BLOCK, 5)]
)
async def test_stray_shapes(lab: Lab, piece: int, begin: int, length: int) -> None:
    leecher = await lab.leech(CONTENT)
    peer = await lab.join(leecher, has=range(CONTENT.pieces))
    await hear_interest(peer)
    await peer.send(UNCHOKE)
    await hear_requests(peer, 2)
    for _ in range(2):
        await peer.block(piece, begin, bytes(length))
    await closes_at_once(peer)
    await finishes(lab, leecher)


@scenario()
async def test_blocks_that_come_after_a_choke_are_no_breach(lab: Lab) -> None:
    content = sample(3 * BLOCK, piece_length=3 * BLOCK)
    leecher = await lab.leech(content)
    peer = await lab.join(leecher, has=[0])
    await hear_interest(peer)
    await peer.send(UNCHOKE)
    await hear_requests(peer, 3)
    await peer.block(0, 0, content.block(0, 0))
    await peer.send(CHOKE)
    for block in (1, 2):
        await peer.block(0, block * BLOCK, content.block(0, block))
    await leecher.wait_complete()
    assert leecher.status().wasted == 0


# --- requests --------------------------------------------------------------------------------------------------------


async def unchoked(lab: Lab, seeder: Torrent, reserved: bytes = bytes(8)) -> ScriptedPeer:
    peer = await lab.call(seeder.session)
    await peer.handshake(seeder.info_hash, reserved=reserved)
    await peer.send(INTERESTED)
    await peer.wait_for(UNCHOKE)
    return peer


EXTENSIONS = b"\0\0\0\0\0\x10\0\0"  # BEP 10

BAD_REQUEST = {
    "too long": (0, 0, BLOCK + 1),
    "huge": (0, 0, 0xFFFFFFFF),
    "empty": (0, 0, 0),
    "over the end of the piece": (0, BLOCK + 1, BLOCK),
    "overflowing": (0, 0xFFFFFFF0, BLOCK),
    "no such piece": (CONTENT.pieces, 0, BLOCK),
    "far away": (124_134_235, 0, BLOCK),
}


@scenario()
@pytest.mark.parametrize("request_", BAD_REQUEST.values(), ids=BAD_REQUEST.keys())
async def test_P2_bad_requests(lab: Lab, request_: tuple[int, int, int]) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await unchoked(lab, seeder)
    bad = message(REQUEST, struct.pack(">III", *request_))
    await peer.raw(bad * (BAD_REQUESTS - 1))
    await peer.request(1, 0)
    payload = await peer.wait_for(PIECE)
    assert payload[8:] == CONTENT.block(1, 0)
    assert len(said(peer, PIECE)) == 1
    await peer.raw(bad)
    await closes_at_once(peer)


@scenario()
async def test_requests_of_any_shape_within_a_piece(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await unchoked(lab, seeder)
    for begin, length in [(0, 1), (1, BLOCK), (BLOCK - 5, 10), (2 * BLOCK - 1, 1)]:
        await peer.request(2, begin, length)
        payload = await peer.wait_for(PIECE)
        assert struct.unpack_from(">II", payload) == (2, begin)
        assert payload[8:] == CONTENT.piece(2)[begin : begin + length]


@scenario()
async def test_a_piece_that_we_lack(lab: Lab) -> None:
    leecher = await lab.leech(CONTENT)
    seed = await lab.join(leecher, has=[0])
    await hear_interest(seed)
    await seed.send(UNCHOKE)
    await hear_requests(seed, 2)
    peer = await unchoked(lab, leecher)
    await peer.request(0, 0)
    await seed.block(0, 0, CONTENT.block(0, 0))
    await trio.sleep(1)
    await peer.request(0, 0)  # the block is there, but not the piece
    await trio.sleep(1)
    await seed.block(0, BLOCK, CONTENT.block(0, 1))
    await peer.wait_for(HAVE)
    await peer.request(0, 0)
    await peer.wait_for(PIECE)
    assert len(said(peer, PIECE)) == 1


@scenario()
async def test_P3_requests_of_one_that_was_never_unchoked(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT, upload_slots=1)
    await unchoked(lab, seeder)
    await unchoked(lab, seeder)  # the optimistic slot
    peer = await lab.join(seeder)
    await peer.send(INTERESTED)
    await trio.sleep(REQUEST_GRACE_AFTER_CHOKE + 1)
    for _ in range(REQUESTS_WHILE_CHOKED):
        await peer.request(0, 0)
    await trio.sleep(1)
    assert seeder.status().peers == 3
    await peer.request(0, 0)
    await closes_at_once(peer)
    assert said(peer, PIECE) == []
    assert said(peer, UNCHOKE) == []


@scenario()
async def test_P3_requests_after_a_choke(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await unchoked(lab, seeder)
    transfer = seeder.transfer
    assert transfer is not None
    (inside,) = transfer.peers.values()
    inside.choke(trio.current_time())
    await peer.wait_for(CHOKE)
    await trio.sleep(REQUEST_GRACE_AFTER_CHOKE / 2)
    await peer.request(0, 0)  # it was on its way
    await trio.sleep(REQUEST_GRACE_AFTER_CHOKE)
    for _ in range(REQUESTS_WHILE_CHOKED):
        await peer.request(0, 0)
    await trio.sleep(1)
    assert seeder.status().peers == 1
    await peer.request(0, 0)
    await closes_at_once(peer)
    assert said(peer, PIECE) == []


def different_requests(count: int) -> bytes:
    """So many requests of 100 bytes, no two the same."""
    return b"".join(message(REQUEST, struct.pack(">III", 0, begin, 100)) for begin in range(count))


@scenario()
async def test_the_same_request_twice_is_one(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await unchoked(lab, seeder)
    await peer.raw(message(REQUEST, struct.pack(">III", 0, 0, BLOCK)) * 10)
    await peer.wait_for(PIECE)
    await trio.sleep(10)
    assert seeder.status().uploaded == BLOCK


@scenario()
async def test_P7_interest_that_flips(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await unchoked(lab, seeder)
    await trio.sleep(1.1)  # past the next tick, which counts anew
    await peer.raw((message(NOT_INTERESTED) + message(INTERESTED)) * (INTEREST_FLIPS // 2))
    await trio.sleep(0.5)
    assert seeder.status().peers == 1
    await peer.raw((message(NOT_INTERESTED) + message(INTERESTED)) * (INTEREST_FLIPS // 2 + 1))
    await closes_at_once(peer)


ACCEPTED = [(bytes(8), REQUESTS_ACCEPTED_UNSAID), (EXTENSIONS, REQUESTS_ACCEPTED)]  # by who has heard our reqq


@scenario()
@pytest.mark.parametrize(("reserved", "accepted"), ACCEPTED)
async def test_P3_as_many_requests_as_are_accepted(lab: Lab, reserved: bytes, accepted: int) -> None:
    lab.world.send_buffer = 2_000
    seeder = await lab.seed(CONTENT, lab.host(up=20_000))
    peer = await unchoked(lab, seeder, reserved)
    # in one go; what is over the bound is dropped, and not held against the peer yet
    await peer.raw(different_requests(REQUESTS_UNANSWERED * accepted))
    for _ in range(accepted):
        await peer.wait_for(PIECE)
    await trio.sleep(10)
    # they come in several gulps, between which some are answered
    assert accepted * 100 <= seeder.status().uploaded < accepted * 100 * 3 // 2
    assert seeder.status().peers == 1


@scenario()
@pytest.mark.parametrize(("reserved", "accepted"), ACCEPTED)
@pytest.mark.parametrize(("more", "peers"), [(0, 1), (50, 0)])
async def test_P3_one_request_too_many(lab: Lab, reserved: bytes, accepted: int, more: int, peers: int) -> None:
    lab.world.send_buffer = 2_000  # so that hardly anything is answered meanwhile
    seeder = await lab.seed(CONTENT, lab.host(up=100))
    peer = await unchoked(lab, seeder, reserved)
    await peer.raw(different_requests(REQUESTS_UNANSWERED * accepted + more))
    await trio.sleep(5)
    assert seeder.status().peers == peers


@scenario()
@pytest.mark.parametrize(("after", "peers"), [(STUCK_RECEIVER - 5, 1), (STUCK_RECEIVER + 5, 0)])
async def test_P5_a_slot_is_not_held_by_who_reads_nothing(lab: Lab, after: float, peers: int) -> None:
    lab.world.send_buffer = lab.world.receive_window = 2_000
    seeder = await lab.seed(CONTENT)
    peer = await unchoked(lab, seeder)
    await peer.raw(different_requests(240))
    for _ in range(int(after) // 10):
        await trio.sleep(10)
        await peer.raw(bytes(4))  # it is alive
    await trio.sleep(after % 10)
    assert seeder.status().peers == peers


@scenario()
async def test_cancelled_requests_are_not_served(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT, lab.host(up=50_000))
    peer = await unchoked(lab, seeder)
    asked = [(piece, begin) for piece in range(10) for begin in (0, BLOCK)]
    for piece, begin in asked:
        await peer.request(piece, begin)
    kept = asked[:12] + asked[-1:]
    for piece, begin in asked[12:-1]:
        await peer.cancel(piece, begin)
    while len(said(peer, PIECE)) < len(kept):
        await peer.receive()
    await trio.sleep(30)
    served = [struct.unpack_from(">II", payload) for payload in said(peer, PIECE)]
    assert served == kept
    assert seeder.status().uploaded == len(kept) * BLOCK


@scenario()
async def test_a_cancel_that_comes_too_late(lab: Lab) -> None:
    """A block of which something has been sent is sent whole: else the stream would be torn."""
    lab.world.send_buffer = 3_000
    seeder = await lab.seed(CONTENT, lab.host(up=2_000))
    peer = await unchoked(lab, seeder)
    await peer.request(0, 0)
    await peer.request(0, BLOCK)
    await trio.sleep(2)
    await peer.cancel(0, 0)
    await peer.cancel(0, BLOCK)
    payload = await peer.wait_for(PIECE)
    assert payload[8:] == CONTENT.block(0, 0)
    await peer.request(5, 0)
    payload = await peer.wait_for(PIECE)
    assert payload[8:] == CONTENT.block(5, 0)


@scenario()
async def test_what_a_choke_leaves_of_the_requests(lab: Lab) -> None:
    lab.world.send_buffer = 3_000
    seeder = await lab.seed(CONTENT, lab.host(up=2_000))
    peer = await unchoked(lab, seeder)
    for begin in (0, BLOCK):
        await peer.request(0, begin)
    await trio.sleep(2)
    assert seeder.transfer is not None
    (inside,) = seeder.transfer.peers.values()
    inside.choke(trio.current_time())
    await peer.wait_for(CHOKE)
    assert [payload[8:] for payload in said(peer, PIECE)] == [CONTENT.block(0, 0)]
    await trio.sleep(60)
    assert seeder.status().uploaded == BLOCK


# --- time ------------------------------------------------------------------------------------------------------------


async def hear_keep_alive(peer: ScriptedPeer) -> None:
    while (await peer.receive()).id is not None:
        pass


@scenario()
async def test_P5_keep_alives(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await lab.join(seeder)
    await peer.receive()
    began = trio.current_time()
    await hear_keep_alive(peer)
    assert KEEP_ALIVE <= trio.current_time() - began <= KEEP_ALIVE + 2
    await peer.keep_alive()
    await hear_keep_alive(peer)
    assert 2 * KEEP_ALIVE <= trio.current_time() - began <= 2 * KEEP_ALIVE + 4


@scenario()
async def test_P5_a_silent_peer(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await lab.join(seeder)
    began = trio.current_time()
    await peer.wait_closed()
    assert DEAD_PEER <= trio.current_time() - began <= DEAD_PEER + 2


@scenario()
async def test_keep_alives_keep_alive(lab: Lab) -> None:
    leecher = await lab.leech(CONTENT)
    peer = await lab.join(leecher, has=[0])
    await hear_interest(peer)
    for _ in range(10):
        await trio.sleep(DEAD_PEER - 5)
        await peer.keep_alive()
    assert leecher.status().peers == 1


@scenario()
async def test_P5_a_peer_that_holds_a_slot_and_asks_for_nothing(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await unchoked(lab, seeder)
    for _ in range(5):
        await trio.sleep(SILENT_REQUESTER - 2)
        await peer.request(0, 0)
        await peer.wait_for(PIECE)
    began = trio.current_time()
    await peer.wait_closed()
    assert SILENT_REQUESTER <= trio.current_time() - began <= SILENT_REQUESTER + 2


@scenario()
async def test_P5_nobody_wants_anything(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await lab.join(seeder)
    began = trio.current_time()

    async def hold() -> None:
        try:
            while True:
                await peer.keep_alive()
                await trio.sleep(100)
        except DisconnectedError:
            return

    lab.nursery.start_soon(hold)
    await peer.wait_closed()
    assert NO_MUTUAL_INTEREST <= trio.current_time() - began <= NO_MUTUAL_INTEREST + 2
