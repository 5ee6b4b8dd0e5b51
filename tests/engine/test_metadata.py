"""Magnets: the metadata from peers that are honest or not, and what they claimed before it was there."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import trio

from btor import bencode
from btor.engine.events import MetadataArrived, PeerChange
from btor.errors import MetainfoError, UnsupportedError, UsageError
from btor.limits import BLOCK, METADATA_BACKLOG, METADATA_COPIES, METADATA_PIECE, METADATA_QUEUE
from btor.metainfo.magnet import Magnet
from btor.metainfo.torrent_file import parse_torrent
from tests.engine.support import Lab, Sample, next_event, sample, scenario, until
from tests.simulated.scripted_peer import BITFIELD, EXTENDED, HAVE, ScriptedPeer

CONTENT = sample(10 * 2 * BLOCK)
LARGE = sample(2_000 * BLOCK, piece_length=BLOCK)  # its metadata takes three pieces
EXTENSIONS = b"\0\0\0\0\0\x10\0\0"
FAST_TOO = b"\0\0\0\0\0\x10\0\4"
UT_METADATA = 7  # the id that scripted peers name


def magnet_of(content: Sample, **more: Any) -> Magnet:
    return Magnet(content.metainfo.info_hashes, **more)


async def add(lab: Lab, content: Sample, *peers: Any, **options: Any) -> Any:
    """A session that knows the info-hash alone, and these peers."""
    session = await lab.session(**options.pop("settings", {}))
    where = [lab.address(peer.session) if hasattr(peer, "session") else peer for peer in peers]
    return await session.add(magnet_of(content), directory=lab.place(), peers=where, **options)


def extended(number: int, table: dict[bytes, Any], tail: bytes = b"") -> bytes:
    return bytes([number]) + bencode.encode(table) + tail


async def offer(peer: ScriptedPeer, size: int) -> int:
    """Say that we have metadata of this size; the id under which they receive metadata messages."""
    table: dict[bytes, Any] = {b"m": {b"ut_metadata": UT_METADATA}, b"metadata_size": size}
    await peer.send(EXTENDED, extended(0, table))
    while True:
        payload = await peer.wait_for(EXTENDED)
        if payload[0] == 0:
            said = bencode.decode(payload[1:], depth=5, tokens=100)
            assert isinstance(said, dict)
            ids = said[b"m"]
            assert isinstance(ids, dict)
            number = ids[b"ut_metadata"]
            assert isinstance(number, int)
            return number


async def next_request(peer: ScriptedPeer) -> int:
    """The piece that they ask for next."""
    while True:
        payload = await peer.wait_for(EXTENDED)
        if payload[0] == UT_METADATA:
            said = bencode.decode(payload[1:], depth=5, tokens=100)
            assert isinstance(said, dict) and isinstance(said[b"piece"], int)
            assert said[b"msg_type"] == 0
            return said[b"piece"]


async def send_piece(peer: ScriptedPeer, number: int, info: bytes, piece: int) -> None:
    data = info[piece * METADATA_PIECE : (piece + 1) * METADATA_PIECE]
    table = {b"msg_type": 1, b"piece": piece, b"total_size": len(info)}
    await peer.send(EXTENDED, extended(number, table, data))


@scenario(both=True)
async def test_a_magnet_becomes_a_download(lab: Lab) -> None:
    seeder = await lab.seed(LARGE)
    leecher = await add(lab, LARGE, seeder)
    assert not leecher.has_metadata
    with pytest.raises(UsageError):
        _ = leecher.metainfo
    arrived = await next_event(leecher, MetadataArrived)
    assert (arrived.name, arrived.total_bytes, arrived.pieces) == ("content", 2_000 * BLOCK, 2_000)
    await leecher.wait_complete()
    assert leecher.metainfo.info == LARGE.metainfo.info
    assert LARGE.is_at(leecher.keeper.content.top)
    assert leecher.status().state == "seeding"


@scenario()
async def test_a_bare_info_hash_and_a_magnet_with_a_peer(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    uri = magnet_of(CONTENT, peers=(lab.address(seeder.session),), name="../evil\x1b", length=5).uri()
    session = await lab.session()
    leecher = await session.add(uri, directory=lab.place())
    assert "/" not in leecher.name and "\x1b" not in leecher.name
    await leecher.wait_complete()
    with pytest.raises(UsageError):
        await session.add(uri, directory=lab.place())
    other = await lab.session()
    found = await other.add(CONTENT.metainfo.info_hash.hex(), directory=lab.place(), peers=[lab.address(session)])
    await found.wait_complete()


@scenario()
async def test_nobody_has_anything_and_then_somebody_has(lab: Lab) -> None:
    """Two that know the info-hash alone meet; the one that gets the metadata passes it on."""
    one = await add(lab, CONTENT)
    other = await add(lab, CONTENT, one)
    await until(lambda: one.status().peers == 1)
    assert (one.status().state, one.status().pieces) == ("metadata", 0)
    assert "none has the metadata" in one.status().reason
    seeder = await lab.seed(CONTENT)
    one.exchange.add_peers([lab.address(seeder.session)], "user")
    await one.wait_complete()
    await other.wait_complete()


@scenario()
async def test_pause_and_removal_without_metadata(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    leecher = await add(lab, CONTENT)
    await until(lambda: leecher.exchange is not None and leecher.exchange.active)
    await leecher.pause()
    assert leecher.status().state == "paused"
    leecher.exchange.add_peers([lab.address(seeder.session)], "user")
    await trio.sleep(30)
    assert not leecher.has_metadata
    await leecher.resume()
    await leecher.wait_complete()
    again = await add(lab, CONTENT)
    await again.remove()
    with pytest.raises(UsageError):
        await again.wait_metadata()


@scenario()
async def test_the_metadata_alone(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    found = await add(lab, CONTENT, seeder, metadata_only=True)
    assert (await found.wait_metadata()).info == CONTENT.metainfo.info
    await trio.sleep(1)
    assert found.status().state == "stopped" and found.transfer is None


@scenario()
async def test_the_next_run_needs_none(lab: Lab) -> None:
    state, place = lab.folder / "state", lab.place()
    seeder = await lab.seed(CONTENT)
    async with lab.open(state_dir=state) as session:
        await (
            await session.add(magnet_of(CONTENT), directory=place, peers=[lab.address(seeder.session)])
        ).wait_complete()
    async with lab.open(state_dir=state) as session:
        found = await session.add(magnet_of(CONTENT, trackers=("http://127.0.0.1:9/announce",)), directory=place)
        assert found.metainfo.trackers == (("http://127.0.0.1:9/announce",),)
        await found.wait_complete()
        assert (await next_event(found, MetadataArrived)).pieces == 10
    kept = next(state.glob("metadata/*.torrent"))
    kept.write_bytes(sample(5 * BLOCK, seed=9).metainfo.info)
    async with lab.open(state_dir=state) as session:
        found = await session.add(magnet_of(CONTENT), directory=place)
        assert not found.has_metadata


@scenario()
async def test_what_no_magnet_can_be(lab: Lab) -> None:
    session = await lab.session()
    with pytest.raises(MetainfoError):
        await session.add("magnet:?dn=nothing")
    with pytest.raises(UnsupportedError):
        await session.add("magnet:?xt=urn:btmh:1220" + "ab" * 32)


@scenario()
async def test_liars_stallers_and_an_honest_one(lab: Lab) -> None:
    info = LARGE.metainfo.info
    leecher = await add(lab, LARGE)
    await until(lambda: leecher.exchange is not None and leecher.exchange.active)
    events = leecher.events()

    async def liar() -> None:
        peer = await lab.call(leecher.session)
        await peer.handshake(LARGE.metainfo.info_hash, reserved=EXTENSIONS)
        number = await offer(peer, len(info))
        while True:
            await send_piece(peer, number, bytes(len(info)), await next_request(peer))

    async def staller(size: int) -> None:
        peer = await lab.call(leecher.session)
        await peer.handshake(LARGE.metainfo.info_hash, reserved=EXTENSIONS)
        await offer(peer, size)
        await peer.wait_closed()

    async def refuser() -> None:
        peer = await lab.call(leecher.session)
        await peer.handshake(LARGE.metainfo.info_hash, reserved=EXTENSIONS)
        number = await offer(peer, len(info))
        while True:
            piece = await next_request(peer)
            await peer.send(EXTENDED, extended(number, {b"msg_type": 2, b"piece": piece}))

    async def gone(task: Any, *args: Any) -> None:
        try:
            await task(*args)
        except Exception as error:  # noqa: BLE001  # a scripted peer that was closed
            assert type(error).__name__ == "DisconnectedError"

    for task, *args in ([liar], [staller, len(info)], [staller, len(info) + 1], [staller, 2**31 - 1], [refuser]):
        lab.nursery.start_soon(gone, task, *args)
    await trio.sleep(5)
    seeder = await lab.seed(LARGE)
    leecher.exchange.add_peers([lab.address(seeder.session)], "user")
    await leecher.wait_complete()
    await leecher.remove()
    banned = [event async for event in events if isinstance(event, PeerChange) and event.change == "banned"]
    assert len(banned) == 1


@pytest.mark.parametrize(
    ("statement", "lives"),
    [
        ((BITFIELD, b"\xff\xc0"), True),
        ((BITFIELD, b"\xff\xe0"), False),  # a spare bit
        ((BITFIELD, b"\xff"), False),
        ((BITFIELD, bytes(3)), False),
        ((HAVE, struct.pack(">I", 9)), True),
        ((HAVE, struct.pack(">I", 10)), False),
        ((14, b""), True),
        ((15, b""), True),
        ((17, struct.pack(">I", 10)), False),
    ],
)
def test_T12_claims_are_judged_when_the_metadata_is_there(
    tmp_path: Any, statement: tuple[int, bytes], lives: bool
) -> None:
    @scenario()
    async def play(lab: Lab) -> None:
        leecher = await add(lab, CONTENT)
        await until(lambda: leecher.exchange is not None and leecher.exchange.active)
        host = lab.host()
        peer = await lab.call(leecher.session, host)
        await peer.handshake(CONTENT.metainfo.info_hash, reserved=FAST_TOO)
        await peer.send(*statement)
        await peer.send(9, b"\1\1")
        seeder = await lab.seed(CONTENT)
        leecher.exchange.add_peers([lab.address(seeder.session)], "user")
        events = leecher.events()
        await leecher.wait_complete()
        leecher.transfer.picker.check_invariants()
        await leecher.remove()
        ip = lab.ip_of(host)
        reasons = [
            event.reason
            async for event in events
            if isinstance(event, PeerChange) and event.change == "disconnected" and event.address.startswith(f"{ip}:")
        ]
        assert (reasons in ([""], ["both are complete"])) == lives, reasons

    play(tmp_path=tmp_path)


@scenario()
async def test_what_was_said_before_still_holds(lab: Lab) -> None:
    """A peer that had it all, unchoked us and fell silent is asked as soon as the metadata is there."""
    info = CONTENT.metainfo.info
    leecher = await add(lab, CONTENT)
    await until(lambda: leecher.exchange is not None and leecher.exchange.active)
    peer = await lab.call(leecher.session)
    await peer.handshake(CONTENT.metainfo.info_hash, reserved=FAST_TOO)
    await peer.send(14)
    await peer.send(1)
    number = await offer(peer, len(info))
    await next_request(peer)
    table = {b"msg_type": 1, b"piece": 0, b"total_size": len(info)}
    whole = struct.pack(">IB", 2 + len(extended(number, table, info)) - 1, EXTENDED) + extended(number, table, info)
    await peer.raw(whole + struct.pack(">IBI", 5, HAVE, 3)[:6])  # a message that is cut at the hand-over
    await leecher.wait_metadata()
    await peer.raw(struct.pack(">IBI", 5, HAVE, 3)[6:])
    await peer.serve(CONTENT.content, 2 * BLOCK, blocks=20)
    await leecher.wait_complete()


@scenario()
async def test_T11_metadata_is_served_within_limits(lab: Lab) -> None:
    info = LARGE.metainfo.info
    pieces = -(-len(info) // METADATA_PIECE)
    seeder = await lab.seed(LARGE)
    peer = await lab.call(seeder.session)
    await peer.handshake(LARGE.metainfo.info_hash, reserved=EXTENSIONS)
    number = await offer(peer, 0)
    kinds = []

    async def ask(piece: int) -> None:
        await peer.send(EXTENDED, extended(number, {b"msg_type": 0, b"piece": piece}))

    async def hear() -> tuple[int, bytes]:
        payload = await peer.wait_for(EXTENDED)
        said, end = bencode.decode_prefix(payload[1:], depth=5, tokens=100)
        assert isinstance(said, dict) and isinstance(said[b"msg_type"], int)
        return said[b"msg_type"], payload[1 + end :]

    got = b""
    for piece in range(pieces):
        await ask(piece)
        kind, data = await hear()
        assert kind == 1
        got += data
    assert got == info
    await ask(pieces)
    assert (await hear())[0] == 2
    for _ in range(METADATA_COPIES * pieces):
        await ask(0)
    for _ in range(METADATA_COPIES * pieces):
        kinds.append((await hear())[0])
    assert kinds.count(1) == (METADATA_COPIES - 1) * pieces and kinds.count(2) == pieces
    assert len(kinds) < METADATA_QUEUE


@pytest.mark.parametrize(("more", "rejects"), [(0, 0), (1, 1), (5, 5)])
def test_so_many_requests_for_metadata_wait(tmp_path: Any, more: int, rejects: int) -> None:
    """What comes at once: what is sent ahead, what may wait, and the rest is refused."""

    @scenario()
    async def play(lab: Lab) -> None:
        content = sample(24_000, piece_length=1)
        info = content.metainfo.info
        count = METADATA_BACKLOG // METADATA_PIECE + METADATA_QUEUE + more
        pieces = -(-len(info) // METADATA_PIECE)
        assert count < METADATA_COPIES * pieces
        seeder = await lab.seed(content)
        peer = await lab.call(seeder.session)
        await peer.handshake(content.metainfo.info_hash, reserved=EXTENSIONS)
        number = await offer(peer, 0)
        asked = [extended(number, {b"msg_type": 0, b"piece": at % (pieces - 1)}) for at in range(count)]
        await peer.raw(b"".join(struct.pack(">IB", 1 + len(payload), EXTENDED) + payload for payload in asked))
        kinds = []
        for _ in range(count):
            said, _ = bencode.decode_prefix((await peer.wait_for(EXTENDED))[1:], depth=5, tokens=100)
            assert isinstance(said, dict)
            kinds.append(said[b"msg_type"])
        assert (kinds.count(1), kinds.count(2)) == (count - rejects, rejects)

    play(tmp_path=tmp_path)


def private() -> Sample:
    """The same content in a private torrent."""
    info = CONTENT.metainfo.info[:-1] + b"7:privatei1ee"
    return Sample(parse_torrent(b"d4:info" + info + b"e"), CONTENT.content)


@scenario()
async def test_a_private_one_keeps_none_but_the_users_peers(lab: Lab) -> None:
    """That it is private comes to light with the metadata (BEP 27): who was named by the magnet is let go."""
    content = private()
    seeder = await lab.seed(content)
    session = await lab.session()
    magnet = magnet_of(content, peers=(lab.address(seeder.session),))
    by_magnet: Any = await session.add(magnet, directory=lab.place())
    await by_magnet.wait_metadata()
    await trio.sleep(120)
    assert by_magnet.status().peers == 0 and not by_magnet.complete
    assert len(by_magnet.transfer.book) == 0
    by_user = await add(lab, content, seeder)
    await by_user.wait_complete()
