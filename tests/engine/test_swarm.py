"""One torrent among many peers: who is asked, who is asked instead, who lied, and who is told."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest
import trio

from btor.engine.events import Complete, PeerChange, PieceFailed, Progress
from btor.engine.feed import Subscription
from btor.engine.torrent import Torrent
from btor.limits import BLOCK, REQUEST_TIMEOUT_MAX, SNUB_AFTER
from tests.engine.support import (
    Lab,
    Sample,
    closes_at_once,
    hear_interest,
    hear_requests,
    next_event,
    requests_of,
    said,
    sample,
    scenario,
    until,
)
from tests.simulated.network import Host
from tests.simulated.scripted_peer import (
    CANCEL,
    CHOKE,
    HAVE,
    NOT_INTERESTED,
    UNCHOKE,
    DisconnectedError,
    ScriptedPeer,
    never,
)

CONTENT = sample(20 * 2 * BLOCK)
ALL = range(CONTENT.pieces)

Request = tuple[int, int, int]


async def open_seed(lab: Lab, leecher: Torrent, content: Sample = CONTENT) -> ScriptedPeer:
    """A scripted seed that has unchoked the leecher, which is interested."""
    peer = await lab.join(leecher, has=range(content.pieces))
    await hear_interest(peer)
    await peer.send(UNCHOKE)
    return peer


async def answer(peer: ScriptedPeer, requests: list[Request], content: Sample = CONTENT) -> None:
    for piece, begin, length in requests:
        await peer.block(piece, begin, content.piece(piece)[begin : begin + length])


def listen(lab: Lab, peer: ScriptedPeer) -> None:
    """Note in the background what the peer is told."""
    lab.nursery.start_soon(peer.wait_closed)


def cancels_of(peer: ScriptedPeer) -> list[Request]:
    return [struct.unpack(">III", payload) for payload in said(peer, CANCEL)]


def serve(
    lab: Lab,
    peer: ScriptedPeer,
    content: Sample = CONTENT,
    *,
    spoil: Callable[[int, int], bool] = never,
    pause: float = 0.0,
    blocks: int | None = None,
) -> None:
    async def run() -> None:
        await peer.serve(
            content.content, content.metainfo.geometry.piece_length, spoil=spoil, pause=pause, blocks=blocks
        )

    lab.nursery.start_soon(run)


# --- asking ----------------------------------------------------------------------------------------------------------


@scenario(both=True)
async def test_nothing_is_asked_of_one_that_chokes(lab: Lab) -> None:
    leecher = await lab.leech(CONTENT)
    peer = await lab.join(leecher, has=ALL)
    await hear_interest(peer)
    with trio.move_on_after(0.3 if lab.real else 300):
        await peer.receive()
    assert requests_of(peer) == []


@scenario()
async def test_interest_comes_and_goes(lab: Lab) -> None:
    leecher = await lab.leech(CONTENT)
    peer = await lab.join(leecher, has=[])
    await trio.sleep(5)
    await peer.have(7)
    await hear_interest(peer)
    other = await lab.join(leecher, has=[7])
    await hear_interest(other)
    await other.send(UNCHOKE)
    await answer(other, await hear_requests(other, 2))
    await peer.wait_for(NOT_INTERESTED)
    await peer.have(8)
    await hear_interest(peer)


@scenario()
async def test_a_new_piece_is_told_to_those_that_lack_it(lab: Lab) -> None:
    leecher = await lab.leech(CONTENT)
    lacks, has = await lab.join(leecher), await lab.join(leecher, has=[3])
    listen(lab, lacks)
    await hear_interest(has)
    await has.send(UNCHOKE)
    await answer(has, await hear_requests(has, 2))
    listen(lab, has)
    await trio.sleep(1)
    assert said(lacks, HAVE) == [struct.pack(">I", 3)]
    assert said(has, HAVE) == []


@scenario()
async def test_requests_are_whole_blocks_of_what_is_lacking(lab: Lab) -> None:
    content = sample(5 * 40_000 + 123, piece_length=40_000)
    leecher = await lab.leech(content)
    peer = await open_seed(lab, leecher, content)
    serve(lab, peer, content)
    await leecher.wait_complete()
    asked = requests_of(peer)
    geometry = content.metainfo.geometry
    assert len(asked) == len(set(asked))
    assert sorted(asked) == [
        (piece, block * BLOCK, geometry.block_size(piece, block))
        for piece in range(content.pieces)
        for block in range(geometry.block_count(piece))
    ]


@scenario()
async def test_a_choke_drops_requests_which_are_asked_elsewhere(lab: Lab) -> None:
    leecher = await lab.leech(CONTENT)
    one = await open_seed(lab, leecher)
    dropped = await hear_requests(one, 4)
    other = await open_seed(lab, leecher)
    await hear_requests(other, 4)
    assert not set(requests_of(other)) & set(dropped)
    await one.send(CHOKE)
    listen(lab, one)
    serve(lab, other)
    await leecher.wait_complete()
    assert requests_of(one) == dropped
    assert set(requests_of(other)) >= set(dropped)
    assert leecher.status().wasted == 0


@scenario()
async def test_what_was_asked_of_one_that_leaves_is_asked_elsewhere(lab: Lab) -> None:
    leecher = await lab.leech(CONTENT)
    one = await open_seed(lab, leecher)
    dropped = await hear_requests(one, 4)
    other = await open_seed(lab, leecher)
    serve(lab, other)
    one.transport.close()
    await leecher.wait_complete()
    assert set(requests_of(other)) >= set(dropped)
    assert leecher.status().downloaded == len(CONTENT.content)


@scenario()
async def test_after_an_unchoke_it_goes_on(lab: Lab) -> None:
    leecher = await lab.leech(CONTENT)
    peer = await open_seed(lab, leecher)
    await hear_requests(peer, 4)
    await peer.send(CHOKE)
    await trio.sleep(10)
    await peer.send(UNCHOKE)
    serve(lab, peer)
    await leecher.wait_complete()


@scenario()
async def test_one_that_does_not_answer_is_passed_over(lab: Lab) -> None:
    """Silence is not waited for: what it was asked is asked of others, and it gets one block at a time."""
    leecher = await lab.leech(CONTENT)
    silent = await open_seed(lab, leecher)
    await hear_requests(silent, 4)
    listen(lab, silent)
    busy = await open_seed(lab, leecher)
    serve(lab, busy, pause=0.2)
    began = trio.current_time()
    await leecher.wait_complete()
    assert trio.current_time() - began < SNUB_AFTER + REQUEST_TIMEOUT_MAX
    assert set(requests_of(busy)) == {(piece, begin, BLOCK) for piece in ALL for begin in (0, BLOCK)}


@scenario()
async def test_a_snubbed_peer_that_wakes_up(lab: Lab) -> None:
    leecher = await lab.leech(CONTENT)
    peer = await open_seed(lab, leecher)
    asked = await hear_requests(peer, 4)
    listen(lab, peer)
    assert leecher.transfer is not None
    (inside,) = leecher.transfer.peers.values()
    await trio.sleep(SNUB_AFTER - 2)
    assert not inside.queue.snubbed
    await trio.sleep(4)
    assert inside.queue.snubbed
    assert inside.source.outstanding_count <= 1
    await answer(peer, asked)  # late, and no breach
    await trio.sleep(1)
    assert not inside.queue.snubbed
    assert leecher.status().peers == 1
    later = [request for request in requests_of(peer) if request not in asked]
    assert len(later) > 1


@scenario()
async def test_requests_follow_the_speed(lab: Lab) -> None:
    content = sample(200 * 2 * BLOCK)
    leecher = await lab.leech(content)
    slow = await lab.join(leecher, has=range(content.pieces))
    await hear_interest(slow)
    await slow.send(UNCHOKE)
    quick = await lab.join(leecher, lab.host(up=2_000_000), has=range(content.pieces))
    await hear_interest(quick)
    await quick.send(UNCHOKE)
    serve(lab, quick, content)
    serve(lab, slow, content, pause=1.0)
    await next_event(leecher, Progress, lambda event: event.have_pieces > 150)
    assert leecher.transfer is not None
    depths = {peer.peer_id: peer.queue.depth(trio.current_time()) for peer in leecher.transfer.peers.values()}
    assert depths[slow.peer_id] <= 8
    assert depths[quick.peer_id] >= 16


# --- the endgame -----------------------------------------------------------------------------------------------------


@scenario(both=True)
async def test_endgame(lab: Lab) -> None:
    """The last blocks are asked of others too; who is too late is told, and need not send them."""
    leecher = await lab.leech(CONTENT)
    slow = await lab.join(leecher, has=ALL[:-1])
    await hear_interest(slow)
    await slow.send(UNCHOKE)
    held = await hear_requests(slow, 4)
    listen(lab, slow)
    quick = await open_seed(lab, leecher)
    serve(lab, quick)
    await leecher.wait_complete()
    assert set(requests_of(quick)) >= set(held)
    await until(lambda: set(cancels_of(slow)) >= set(held))
    assert set(cancels_of(slow)) <= set(requests_of(slow))
    assert leecher.status().wasted == 0
    assert CONTENT.is_at(leecher.keeper.content.top)


@scenario()
async def test_what_comes_in_spite_of_a_cancel_is_no_breach(lab: Lab) -> None:
    leecher = await lab.leech(CONTENT)
    slow = await lab.join(leecher, has=ALL[:-1])
    await hear_interest(slow)
    await slow.send(UNCHOKE)
    held = await hear_requests(slow, 4)
    listen(lab, slow)
    quick = await open_seed(lab, leecher)
    serve(lab, quick)
    await until(lambda: len(cancels_of(slow)) >= 4)
    await answer(slow, held)
    await trio.sleep(1)
    assert leecher.transfer is not None
    assert [peer.peer_id for peer in leecher.transfer.peers.values()] == [slow.peer_id]
    assert leecher.status().wasted == 4 * BLOCK


# --- bad data --------------------------------------------------------------------------------------------------------


async def banned(events: Subscription, count: int) -> list[PeerChange]:
    """The next peers that are banned."""
    found: list[PeerChange] = []
    async for event in events:
        if isinstance(event, PeerChange) and event.change == "banned":
            found.append(event)
            if len(found) == count:
                break
    return found


@scenario(both=True)
async def test_a_single_liar_is_banned_at_once(lab: Lab) -> None:
    content = sample(8 * BLOCK, piece_length=8 * BLOCK)
    leecher = await lab.leech(content)
    host = lab.host()
    liar = await lab.join(leecher, host, has=[0])
    await hear_interest(liar)
    await liar.send(UNCHOKE)
    serve(lab, liar, content, spoil=lambda _piece, begin: begin == 3 * BLOCK)
    events = leecher.events()
    failed = await next_event(leecher, PieceFailed)
    assert failed.piece == 0
    (ban,) = await banned(events, 1)
    assert failed.peers == [ban.address]
    await until(lambda: leecher.status().peers == 0)
    honest = await open_seed(lab, leecher, content)
    serve(lab, honest, content)
    done = await next_event(leecher, Complete)
    assert (done.hash_failures, done.wasted) == (1, len(content.content))
    assert content.is_at(leecher.keeper.content.top)
    # and it does not come back, by the same address or, on loopback, with the same peer id
    again = await lab.call(leecher.session, host, peer_id=liar.peer_id)
    with pytest.raises(DisconnectedError):
        await again.handshake(leecher.info_hash)
        await again.receive()


@scenario()
async def test_a_liar_is_banned_once_however_many_pieces_it_spoiled(lab: Lab) -> None:
    content = sample(2 * BLOCK)
    leecher = await lab.leech(content)
    events = leecher.events()
    await lab.join(leecher, has=[0])
    assert leecher.transfer is not None
    (key,) = leecher.transfer.peers
    for _ in range(2):
        leecher.transfer.ban(key, "sent bad data")
    await until(lambda: leecher.status().peers == 0)
    leecher.transfer.ban(key, "sent bad data")  # found out only now
    await leecher.remove()
    told = [event.change async for event in events if isinstance(event, PeerChange)]
    assert told == ["connected", "banned", "disconnected"]


@scenario()
async def test_a_banned_peer_is_not_dialled_again(lab: Lab) -> None:
    content = sample(2 * BLOCK, piece_length=2 * BLOCK)
    caller = await lab.listen()
    leecher = await lab.leech(content, caller.address)
    liar = await caller.accept(content, has=[0])
    await hear_interest(liar)
    await liar.send(UNCHOKE)
    serve(lab, liar, content, spoil=lambda *_: True)
    await next_event(leecher, PeerChange, lambda event: event.change == "banned")
    await trio.sleep(600)
    assert lab.dialled(leecher.session.network) == [caller.address]
    assert leecher.transfer is not None
    leecher.transfer.add_peers([caller.address], "user")
    await trio.sleep(600)
    assert lab.dialled(leecher.session.network) == [caller.address]


@scenario()
@pytest.mark.parametrize("seed", range(10))
async def test_liars_among_honest_peers(lab: Lab, seed: int) -> None:
    """Exactly those that sent bad data are banned, and the torrent completes, byte for byte."""
    rng = random.Random(seed)
    content = sample(30 * 4 * BLOCK, piece_length=4 * BLOCK)
    leecher = await lab.leech(content)
    events = leecher.events()
    lied: dict[ScriptedPeer, int] = {}
    addresses: dict[str, ScriptedPeer] = {}
    for number in range(6):
        host = lab.host(up=100_000)
        peer = await lab.join(leecher, host, has=range(content.pieces))
        addresses[f"{peer.transport.local[0]}:{peer.transport.local[1]}"] = peer
        await hear_interest(peer)
        await peer.send(UNCHOKE)
        if number < 3:
            lied[peer] = 0

            def spoil(_piece: int, _begin: int, peer: ScriptedPeer = peer) -> bool:
                bad = rng.random() < 0.1
                lied[peer] += bad
                return bad

            serve(lab, peer, content, spoil=spoil)
        else:
            serve(lab, peer, content)
    done = await next_event(leecher, Complete)
    assert content.is_at(leecher.keeper.content.top)
    await trio.sleep(30)
    await leecher.remove()
    barred = {
        addresses[event.address] async for event in events if isinstance(event, PeerChange) and event.change == "banned"
    }
    assert barred == {peer for peer, times in lied.items() if times}
    assert done.hash_failures > 0


@scenario()
async def test_a_liar_that_left_is_still_banned(lab: Lab) -> None:
    content = sample(2 * BLOCK, piece_length=2 * BLOCK)
    leecher = await lab.leech(content)
    host = lab.host()
    liar = await lab.join(leecher, host, has=[0])
    await hear_interest(liar)
    await liar.send(UNCHOKE)
    (first, second) = await hear_requests(liar, 2)
    await liar.block(first[0], first[1], bytes(BLOCK))
    await trio.sleep(0.1)
    liar.transport.close()
    honest = await open_seed(lab, leecher, content)
    serve(lab, honest, content)
    ban = await next_event(leecher, PeerChange, lambda event: event.change == "banned")
    await leecher.wait_complete()
    assert ban.address.startswith(f"{lab.ip_of(host)}:")
    assert second
    again = await lab.call(leecher.session, host)
    with pytest.raises(DisconnectedError):
        await again.handshake(leecher.info_hash)
        await again.receive()


@scenario()
async def test_a_bad_piece_whose_verdict_comes_while_paused(lab: Lab) -> None:
    """It must not be forgotten: after the pause it is asked for again."""
    content = sample(3 * 2 * BLOCK)
    leecher = await lab.leech(content)
    assert await until_active(leecher)
    transfer = leecher.transfer
    assert transfer is not None
    await leecher.pause()
    await trio.sleep(1)
    source = transfer.picker.add_source(10**6)
    transfer.picker.on_have_all(source)
    source.choked = False
    runs = transfer.take(source, 2, trio.current_time())
    for piece, first, count in runs:
        transfer.picker.on_blocks(source, piece, first, count)
        transfer.blame.on_blocks(source.key, piece, first, count)
    transfer.picker.remove_source(source)
    transfer.on_hashed(runs[0][0], False)  # a hasher that took its time
    await trio.sleep(1)
    await leecher.resume()
    honest = await open_seed(lab, leecher, content)
    serve(lab, honest, content)
    await leecher.wait_complete()
    assert content.is_at(leecher.keeper.content.top)


async def until_active(found: Torrent) -> bool:
    await until(lambda: found.transfer is not None and found.transfer.active)
    return True


@scenario()
async def test_the_last_piece_is_verified_while_paused(lab: Lab) -> None:
    content = sample(2 * BLOCK, piece_length=2 * BLOCK)
    leecher = await lab.leech(content)
    await until_active(leecher)
    transfer = leecher.transfer
    assert transfer is not None
    await leecher.pause()
    await trio.sleep(1)
    transfer.on_hashed(0, True)
    await leecher.wait_complete()
    assert leecher.status().state == "paused"
    await leecher.resume()
    await trio.sleep(1)
    assert leecher.status().state == "seeding"


@scenario()
async def test_an_answer_that_is_wrong_every_time(lab: Lab) -> None:
    """Nobody honest is there: everybody that lies is banned, and the rest is waited for."""
    leecher = await lab.leech(CONTENT)
    events = leecher.events()
    for _ in range(3):
        liar = await open_seed(lab, leecher)
        serve(lab, liar, spoil=lambda *_: True)
    assert len(await banned(events, 3)) == 3
    assert leecher.status().have_pieces == 0
    assert leecher.status().wasted <= 6 * 2 * BLOCK
    honest = await open_seed(lab, leecher)
    serve(lab, honest)
    await leecher.wait_complete()


# --- who is connected ------------------------------------------------------------------------------------------------


@scenario()
@pytest.mark.parametrize("network", ["127.0.0", "10.0.0", "85.1.2"])
async def test_two_that_dial_each_other_at_the_same_moment(lab: Lab, network: str) -> None:
    """One of the two connections stays, the same at both ends."""
    hosts = [lab.host(f"{network}.{number}") for number in (1, 2)]
    found = []
    for host in hosts:
        session = await lab.session(host)
        found.append(await session.add(CONTENT.metainfo, directory=lab.place()))
    await trio.sleep(1)
    for torrent, other in zip(found, reversed(found), strict=True):
        assert torrent.transfer is not None
        torrent.transfer.add_peers([lab.address(other.session)], "user")
    await trio.sleep(500)
    assert [torrent.status().peers for torrent in found] == [1, 1]
    assert sum(len(lab.dialled(host)) for host in hosts) <= 3
    for torrent in found:
        assert torrent.transfer is not None
        torrent.transfer.book.check_invariants()
        assert len(torrent.transfer.book) == 1


@scenario()
async def test_as_many_peers_as_are_allowed(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT, max_peers=3)
    for _ in range(3):
        await (await lab.join(seeder)).receive()
    one_more = await lab.call(seeder.session)
    with pytest.raises(DisconnectedError):
        await one_more.handshake(seeder.info_hash)
        await one_more.receive()
    assert seeder.status().peers == 3


@scenario()
async def test_a_broken_connection_is_made_again(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT, lab.host(up=100_000))
    leecher = await lab.leech(CONTENT, seeder)
    await next_event(leecher, Progress, lambda event: event.have_pieces > 3)
    network = leecher.session.network
    assert isinstance(network, Host)
    for end in list(network.ends):
        end.break_connection()
    await leecher.wait_complete()
    assert len(lab.dialled(network)) == 2


@scenario()
async def test_a_bug_in_one_peer_stops_nobody_else(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    leecher = await lab.leech(CONTENT, strict=False)
    one = await open_seed(lab, leecher)
    other = await open_seed(lab, leecher)
    assert leecher.transfer is not None
    victim = next(iter(leecher.transfer.peers.values()))

    def fail(_now: float) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(victim, "_decode", fail)
    await one.keep_alive()
    await closes_at_once(one)
    assert leecher.session.container.failures == 1
    serve(lab, other)
    await leecher.wait_complete()
    assert leecher.error is None
