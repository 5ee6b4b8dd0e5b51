"""The extension protocol on a connection (BEP 10): every key of the handshake, and ids that change."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from btor import bencode
from btor.limits import BLOCK, METADATA_PIECE
from btor.settings import CLIENT_NAME
from tests.engine.support import Lab, Sample, sample, scenario, until
from tests.simulated.scripted_peer import EXTENDED, ScriptedPeer

CONTENT = sample(10 * 2 * BLOCK)
LARGE = sample(2_000 * BLOCK, piece_length=BLOCK)  # its metadata takes three pieces
EXTENSIONS = b"\0\0\0\0\0\x10\0\0"
THEIRS = 1  # the id under which btor receives metadata messages


async def heard_table(peer: ScriptedPeer) -> dict[bytes, Any]:
    """Their next handshake."""
    while (payload := await peer.wait_for(EXTENDED))[0] != 0:
        pass
    table = bencode.decode(payload[1:], depth=5, tokens=100)
    assert isinstance(table, dict)
    return table


async def connect(lab: Lab, found: Any, ip: str, content: Sample) -> ScriptedPeer:
    await until(lambda: found.exchange is not None and found.exchange.active)
    network = lab.host(ip)
    peer = await lab.call(found.session, network)
    await peer.handshake(content.metainfo.info_hash, reserved=EXTENSIONS)
    return peer


@scenario()
async def test_every_key_of_our_handshake(lab: Lab) -> None:
    ids = {b"ut_metadata": 1, b"ut_pex": 2, b"lt_donthave": 3, b"upload_only": 4}
    seeder = await lab.seed(CONTENT)
    peer = await connect(lab, seeder, "40.0.0.1", CONTENT)
    always = {b"m": ids, b"p": seeder.session.port, b"v": CLIENT_NAME.encode(), b"reqq": 500}
    always |= {b"yourip": bytes([40, 0, 0, 1]), b"metadata_size": len(CONTENT.metainfo.info)}
    assert await heard_table(peer) == {**always, b"upload_only": 1, b"complete_ago": 0}
    leecher = await lab.leech(CONTENT)
    peer = await connect(lab, leecher, "40.0.0.2", CONTENT)
    always |= {b"p": leecher.session.port, b"yourip": bytes([40, 0, 0, 2])}
    assert await heard_table(peer) == {**always, b"complete_ago": -1}
    for voter in ("40.1.0.1", "40.2.0.1"):  # two networks see us there
        leecher.session.on_own_ip(voter, "2600::77")
    peer = await connect(lab, leecher, "40.0.0.3", CONTENT)
    always |= {b"yourip": bytes([40, 0, 0, 3]), b"ipv6": bytes.fromhex("2600" + 26 * "0" + "77")}
    assert await heard_table(peer) == {**always, b"complete_ago": -1}


@scenario()
async def test_what_theirs_says_counts(lab: Lab) -> None:
    """Its client, its requests at a time, where it listens, that it only uploads; a later one changes what it names."""
    leecher: Any = await lab.leech(CONTENT)
    peer = await connect(lab, leecher, "40.0.0.1", CONTENT)
    said: bencode.Value = {b"v": b"Some Client 1.0", b"reqq": 7, b"p": 4_321, b"yourip": bytes([50, 0, 0, 9])}
    await peer.send(EXTENDED, b"\0" + bencode.encode(said))
    await until(lambda: any(one.extended.settled.heard for one in leecher.transfer.peers.values()))
    (connection,) = leecher.transfer.peers.values()
    assert (connection.client, connection.queue.reqq, connection.extended.listen_address) == (
        "Some Client 1.0",
        7,
        ("40.0.0.1", 4_321),
    )
    assert not connection.upload_only
    await peer.send(EXTENDED, b"\0" + bencode.encode({b"reqq": 9, b"upload_only": 1, b"complete_ago": 5}))
    await until(lambda: bool(connection.upload_only))
    assert (connection.client, connection.queue.reqq) == ("Some Client 1.0", 9)
    assert connection.extended.settled.complete_ago == 5
    await peer.send(EXTENDED, b"\4\0")  # and the message of the same name takes it back (BEP 21)
    await until(lambda: not connection.upload_only)


@scenario()
async def test_ids_that_change(lab: Lab) -> None:
    """Ours stay; theirs are those of the latest handshake that names the extension, and 0 switches it off."""
    info = LARGE.metainfo.info
    seeder = await lab.seed(LARGE)
    peer = await connect(lab, seeder, "40.0.0.1", LARGE)
    await heard_table(peer)

    async def name(table: bencode.Value) -> None:
        await peer.send(EXTENDED, b"\0" + bencode.encode({b"m": table}))

    async def ask(piece: int) -> tuple[int, bytes] | None:
        """The id and the data of the answer; None: there is none."""
        await peer.send(EXTENDED, bytes([THEIRS]) + bencode.encode({b"msg_type": 0, b"piece": piece}))
        with trio.move_on_after(5):
            payload = await peer.wait_for(EXTENDED)
            table, end = bencode.decode_prefix(payload[1:], depth=3, tokens=20)
            assert table == {b"msg_type": 1, b"piece": piece, b"total_size": len(info)}
            return payload[0], payload[1 + end :]
        return None

    assert await ask(0) is None  # it has not said how to answer
    await name({b"ut_metadata": 7})
    assert await ask(0) == (7, info[:METADATA_PIECE])
    await name({b"ut_metadata": 255, b"something": 3})
    assert await ask(1) == (255, info[METADATA_PIECE : 2 * METADATA_PIECE])
    await name({b"ut_pex": 9})
    assert await ask(2) == (255, info[2 * METADATA_PIECE :])
    await name({b"ut_metadata": 0})
    assert await ask(0) is None
    await name({b"ut_metadata": 11})
    assert await ask(0) == (11, info[:METADATA_PIECE])
    await peer.send(EXTENDED, b"\x4dwhatever")  # of an extension that we did not name
    assert await ask(1) == (11, info[METADATA_PIECE : 2 * METADATA_PIECE])


@pytest.mark.parametrize("payload", [b"\0", b"\0i5e", b"\0d1:md11:ut_metadata", b"\0de!", b"\0" + b"d1:a" * 20])
def test_a_handshake_that_is_none_ends_the_connection(tmp_path: Any, payload: bytes) -> None:
    @scenario()
    async def play(lab: Lab) -> None:
        seeder = await lab.seed(CONTENT)
        peer = await connect(lab, seeder, "40.0.0.1", CONTENT)
        await peer.send(EXTENDED, payload)
        with trio.fail_after(5):
            await peer.wait_closed()

    play(tmp_path=tmp_path)
