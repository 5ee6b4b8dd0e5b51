"""Peer exchange between sessions, and with peers that overdo it."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from btor import bencode
from btor.limits import BLOCK, PEX_MESSAGES, PEX_PERIOD
from btor.metainfo.torrent_file import parse_torrent
from tests.engine.support import Lab, Sample, closes_at_once, sample, scenario, until
from tests.simulated.scripted_peer import EXTENDED, ScriptedPeer

CONTENT = sample(40 * 2 * BLOCK)
EXTENSIONS = b"\0\0\0\0\0\x10\0\0"
UT_PEX = 9  # the id that scripted peers name
THEIRS = 2  # the id under which btor receives peer exchange


def private() -> Sample:
    """The same content in a private torrent."""
    info = CONTENT.metainfo.info[:-1] + b"7:privatei1ee"
    return Sample(parse_torrent(b"d4:info" + info + b"e"), CONTENT.content)


async def three(lab: Lab, content: Sample, **settings: Any) -> tuple[Any, Any, Any]:
    """B knows A, and C knows B."""
    one = await lab.seed(content, lab.host(up=20_000), **settings)
    two = await lab.leech(content, one, **settings)
    three = await lab.leech(content, two, **settings)
    return one, two, three


def ips(found: Any) -> set[str]:
    return {peer.address[0] for peer in found.transfer.peers.values()}


@scenario()
async def test_c_hears_of_a(lab: Lab) -> None:
    one, _, three_ = await three(lab, CONTENT)
    await until(lambda: three_.transfer is not None and lab.ip_of(one.session.network) in ips(three_))
    assert trio.current_time() < 10
    assert len(one.transfer.peers) == 2


@scenario()
async def test_not_without_it_nor_in_private_torrents(lab: Lab) -> None:
    for content, settings in ((CONTENT, {"pex": False}), (private(), {})):
        one, _, three_ = await three(lab, content, **settings)
        await trio.sleep(3 * PEX_PERIOD)
        assert lab.ip_of(one.session.network) not in ips(three_)
        for found in (one, three_):
            await found.remove()


async def speak(peer: ScriptedPeer, content: Sample) -> dict[bytes, Any]:
    """Say an extension handshake that takes peer exchange; theirs."""
    await peer.send(EXTENDED, b"\0" + bencode.encode({b"m": {b"ut_pex": UT_PEX}, b"p": 4321}))
    while True:
        payload = await peer.wait_for(EXTENDED)
        if payload[0] == 0:
            said = bencode.decode(payload[1:], depth=5, tokens=200)
            assert isinstance(said, dict)
            return said


@pytest.mark.parametrize("content", [CONTENT, private()], ids=["public", "private"])
def test_what_a_peer_hears(tmp_path: Any, content: Sample) -> None:
    @scenario()
    async def play(lab: Lab) -> None:
        found: Any = await lab.leech(content)
        await until(lambda: found.transfer is not None and found.transfer.active)
        first = await lab.call(found.session, lab.host("40.0.0.1"))
        await first.handshake(content.metainfo.info_hash, reserved=EXTENSIONS)
        said = await speak(first, content)
        assert (b"ut_pex" in said[b"m"]) == (not content.metainfo.private)
        assert said[b"yourip"] == bytes([40, 0, 0, 1]) and said[b"p"] == found.session.port and said[b"reqq"] == 500
        second = await lab.call(found.session, lab.host("40.0.1.1"))
        await second.handshake(content.metainfo.info_hash, reserved=EXTENSIONS)
        await speak(second, content)
        with trio.move_on_after(30):
            while (payload := await first.wait_for(EXTENDED))[0] != UT_PEX:
                pass
            assert not content.metainfo.private
            table = bencode.decode(payload[1:], depth=3, tokens=20)
            assert table == {b"added": bytes([40, 0, 1, 1]) + (4321).to_bytes(2), b"added.f": b"\0"}
            return
        assert content.metainfo.private

    play(tmp_path=tmp_path)


@scenario()
async def test_P10_who_tells_too_often_is_left(lab: Lab) -> None:
    found: Any = await lab.leech(CONTENT)
    await until(lambda: found.transfer is not None and found.transfer.active)
    peer = await lab.call(found.session)
    await peer.handshake(CONTENT.metainfo.info_hash, reserved=EXTENSIONS)
    message = bytes([THEIRS]) + bencode.encode({b"added": bytes([40, 0, 9, 9]) + b"\x1a\xe1"})
    for _ in range(PEX_MESSAGES):
        await peer.send(EXTENDED, message)
    await trio.sleep(1)
    assert len(found.transfer.peers) == 1
    assert ("40.0.9.9", 6881) in lab.dialled(found.session.network)
    await peer.send(EXTENDED, message)
    await closes_at_once(peer)
