"""The fast extension and the extended messages of a peer: what is said, what is answered, what ends a connection."""

from __future__ import annotations

import struct
from typing import Any
from unittest import mock

import pytest
import trio

from btor import limits
from btor.limits import ALLOWED_FAST, ALLOWED_FAST_COPIES, BAD_REJECTS, BLOCK, DONT_HAVES
from btor.swarm.allowed_fast import allowed_fast_set
from tests.engine.support import Lab, closes_at_once, hear_requests, requests_of, said, sample, scenario, until
from tests.simulated.scripted_peer import CHOKE, EXTENDED, INTERESTED, PIECE, UNCHOKE, ScriptedPeer

CONTENT = sample(30 * 2 * BLOCK)
FAST = b"\0\0\0\0\0\0\0\4"
FAST_TOO = b"\0\0\0\0\0\x10\0\4"
SUGGEST, HAVE_ALL, HAVE_NONE, REJECT, ALLOWED = 13, 14, 15, 16, 17


async def join(lab: Lab, found: Any, ip: str = "", *, reserved: bytes = FAST) -> ScriptedPeer:
    await until(lambda: found.transfer is not None and found.transfer.active)
    peer = await lab.call(found.session, lab.host(ip))
    await peer.handshake(CONTENT.metainfo.info_hash, reserved=reserved)
    return peer


def numbers(payload: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(payload) // 4}I", payload)


def serve(content: bytes, request: tuple[int, int, int]) -> tuple[int, int, bytes]:
    piece, begin, length = request
    start = piece * 2 * BLOCK + begin
    return piece, begin, content[start : start + length]


@scenario()
async def test_what_is_said_first(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    leecher = await lab.leech(CONTENT)
    for found, first in ((seeder, HAVE_ALL), (leecher, HAVE_NONE)):
        peer = await join(lab, found)
        assert (await peer.receive()).id == first
    peer = await join(lab, leecher, reserved=bytes(8))
    await peer.have(0)
    assert (await peer.receive()).id == INTERESTED


@mock.patch.multiple(limits, ALLOWED_FAST_ONE_IN=3, ALLOWED_FAST_PART=1)  # ten pieces of these thirty
@scenario()
async def test_P3_a_newcomer_is_allowed_some_pieces_and_served_so_often(lab: Lab) -> None:
    content = sample(2_000 * BLOCK, piece_length=BLOCK)
    seeder = await lab.seed(content, upload_slots=1)
    peers = []
    for ip in ("40.0.0.1", "80.4.4.200"):
        peer = await lab.call(seeder.session, lab.host(ip))
        await peer.handshake(content.metainfo.info_hash, reserved=FAST)
        await peer.send(HAVE_NONE)
        peers.append(peer)
    rival, peer = peers
    await rival.send(INTERESTED)
    await rival.wait_for(UNCHOKE)
    with trio.move_on_after(1):
        while True:
            await peer.receive()
    allowed = [numbers(payload)[0] for payload in said(peer, ALLOWED)]
    canonical = allowed_fast_set("80.4.4.200", content.metainfo.info_hash, 2_000)
    assert 1 <= len(allowed) <= ALLOWED_FAST and allowed == [piece for piece in canonical if piece in allowed]
    assert len(said(peer, UNCHOKE)) == 0
    other = next(piece for piece in range(30) if piece not in allowed)
    await peer.request(other, 0)
    assert numbers(await peer.wait_for(REJECT)) == (other, 0, BLOCK)
    for _ in range(ALLOWED_FAST_COPIES):
        await peer.request(allowed[0], 0)
        assert (await peer.wait_for(PIECE))[8:] == content.piece(allowed[0])
    await peer.request(allowed[0], 0)
    assert numbers(await peer.wait_for(REJECT)) == (allowed[0], 0, BLOCK)


@pytest.mark.parametrize("reserved", [FAST, bytes(8)])
def test_a_seed_or_an_old_peer_is_allowed_nothing(tmp_path: Any, reserved: bytes) -> None:
    @scenario()
    async def play(lab: Lab) -> None:
        found: Any = await lab.leech(CONTENT)
        peer = await join(lab, found, reserved=reserved)
        await peer.bitfield(range(30), 30)
        await peer.wait_for(INTERESTED)
        assert said(peer, ALLOWED) == []

    play(tmp_path=tmp_path)


@scenario()
async def test_every_request_is_answered(lab: Lab) -> None:
    """Bad ones and cancelled ones too, and what a choke leaves."""
    seeder: Any = await lab.seed(CONTENT, lab.host(up=40_000))
    peer = await join(lab, seeder)
    await peer.bitfield(range(20), 30)
    await peer.send(INTERESTED)
    await peer.wait_for(UNCHOKE)
    await peer.request(99, 0)
    await peer.request(0, 0, 2 * BLOCK)
    for number in range(20, 30):
        await peer.request(number, 0)
    await peer.cancel(29, 0)
    rejected = {numbers(await peer.wait_for(REJECT)) for _ in range(3)}
    assert rejected == {(99, 0, BLOCK), (0, 0, 2 * BLOCK), (29, 0, BLOCK)}
    (connection,) = seeder.transfer.peers.values()
    connection.choke(trio.current_time())
    await peer.wait_for(CHOKE)
    await trio.sleep(5)
    with trio.move_on_after(1):
        while True:
            await peer.receive()
    answers = {numbers(payload)[0] for payload in said(peer, REJECT)} | {
        numbers(payload[:8])[0] for payload in said(peer, PIECE)
    }
    assert answers == {0, 99, *range(20, 30)}


@scenario()
async def test_a_rejected_block_is_asked_of_another_and_again_later(lab: Lab) -> None:
    found: Any = await lab.leech(CONTENT)
    peer = await join(lab, found)
    await peer.send(HAVE_ALL)
    await peer.send(UNCHOKE)
    first = (await hear_requests(peer, 1))[0]
    await peer.send(REJECT, struct.pack(">III", *first))
    other = await join(lab, found)
    await other.send(HAVE_ALL)
    await other.send(UNCHOKE)
    lab.nursery.start_soon(other.serve, CONTENT.content, 2 * BLOCK)
    for request in requests_of(peer):
        if request != first:
            await peer.block(*serve(CONTENT.content, request))
    with trio.move_on_after(60):
        await peer.serve(CONTENT.content, 2 * BLOCK)
    await found.wait_complete()


@scenario()
async def test_rejects_of_what_was_never_asked_for_end_the_connection(lab: Lab) -> None:
    found: Any = await lab.leech(CONTENT)
    peer = await join(lab, found)
    for _ in range(BAD_REJECTS):
        await peer.send(REJECT, struct.pack(">III", 99, 0, BLOCK))
    await trio.sleep(1)
    assert found.status().peers == 1
    await peer.send(REJECT, struct.pack(">III", 0, 0, BLOCK))
    await closes_at_once(peer)


@scenario()
async def test_what_a_choking_peer_allows_is_asked_of_it(lab: Lab) -> None:
    found: Any = await lab.leech(CONTENT)
    peer = await join(lab, found)
    await peer.send(HAVE_ALL)
    await peer.wait_for(INTERESTED)
    await trio.sleep(2)
    assert requests_of(peer) == []
    await peer.send(ALLOWED, struct.pack(">I", 7))
    assert set(await hear_requests(peer, 2)) == {(7, 0, BLOCK), (7, BLOCK, BLOCK)}
    for request in requests_of(peer):
        await peer.block(*serve(CONTENT.content, request))
    await until(lambda: 7 in found.transfer.have)


@scenario()
async def test_a_choke_keeps_no_block_back(lab: Lab) -> None:
    """What was asked of who chokes us is asked of others at once; its late rejects are no offence."""
    found: Any = await lab.leech(CONTENT)
    peer = await join(lab, found)
    await peer.send(HAVE_ALL)
    await peer.send(UNCHOKE)
    asked = await hear_requests(peer, 4)
    await peer.send(CHOKE)
    other = await join(lab, found)
    await other.send(HAVE_ALL)
    await other.send(UNCHOKE)
    lab.nursery.start_soon(other.serve, CONTENT.content, 2 * BLOCK)
    await found.wait_complete()
    assert said(peer, None) is not None
    assert set(asked) <= set(requests_of(other))


@scenario()
async def test_a_suggestion_comes_first(lab: Lab) -> None:
    found: Any = await lab.leech(CONTENT)
    peer = await join(lab, found)
    await peer.send(HAVE_ALL)
    await peer.send(SUGGEST, struct.pack(">I", 17))
    await peer.send(UNCHOKE)
    assert (await hear_requests(peer, 1))[0][0] == 17


@pytest.mark.parametrize("message", [(HAVE_ALL, b""), (REJECT, bytes(12)), (SUGGEST, bytes(4)), (ALLOWED, bytes(4))])
def test_without_the_extension_its_messages_end_the_connection(tmp_path: Any, message: tuple[int, bytes]) -> None:
    @scenario()
    async def play(lab: Lab) -> None:
        found: Any = await lab.leech(CONTENT)
        peer = await join(lab, found, reserved=bytes(8))
        await peer.send(*message)
        await closes_at_once(peer)

    play(tmp_path=tmp_path)


@scenario()
async def test_a_piece_that_is_gone(lab: Lab) -> None:
    found: Any = await lab.leech(CONTENT)
    peer = await join(lab, found, reserved=FAST_TOO)
    await peer.send(HAVE_ALL)
    await peer.send(UNCHOKE)
    first = (await hear_requests(peer, 1))[0][0]
    await peer.send(EXTENDED, b"\3" + struct.pack(">I", first))
    await until(lambda: found.transfer.picker.availability(first) == 0)
    (connection,) = found.transfer.peers.values()
    assert first not in connection.source.outstanding
    found.transfer.picker.check_invariants()
    for _ in range(DONT_HAVES + 2):
        await peer.send(EXTENDED, b"\3" + struct.pack(">I", first))
    await closes_at_once(peer)


@scenario()
async def test_two_that_only_upload_part(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await join(lab, seeder, reserved=FAST_TOO)
    await peer.send(EXTENDED, b"\0d11:upload_onlyi1ee")
    await closes_at_once(peer)
