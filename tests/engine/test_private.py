"""Private torrents (BEP 27): every packet of a session is watched, with DHT, LSD and PEX peers in reach.

The same is played with a public torrent, where each of them must show: else the watch would see nothing at all.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio

from btor import bencode
from btor.engine.session import Session
from btor.limits import BLOCK
from btor.metainfo.magnet import Magnet
from btor.metainfo.torrent_file import parse_torrent
from btor.wire.address import pack_address
from btor.wire.lsd import GROUP4, LSD_PORT, LocalAnnounce, encode_local
from tests.engine.support import Lab, Sample, sample, scenario
from tests.engine.test_dht import UdpOnHosts
from tests.engine.test_lsd import Wire
from tests.engine.web import WebServer, ok
from tests.simulated.scripted_peer import EXTENDED, DisconnectedError, Said, ScriptedPeer

US, TRACKER, PEER, DHT_NODE, BY_DHT, BY_LSD, BY_PEX, BY_MAGNET = (f"40.0.{number}.1" for number in range(8))
PORT = 7_000
LONG = 1_300.0  # s: everything that is said now and then is said in it
PORT_MESSAGE = 9
UT_PEX, UT_METADATA = 5, 6  # the ids that the peer names
EVERYTHING = b"\0\0\0\0\0\x10\0\x05"  # the extension protocol, the fast extension, a DHT node
CONTENT = sample(20 * BLOCK)


def torrent(*, private: bool, node: tuple[str, int]) -> Sample:
    """With a tracker, and a DHT node in it."""
    info = CONTENT.metainfo.info[:-1] + b"7:privatei%dee" % private
    outer = [b"8:announce", bencode.encode(f"http://{TRACKER}/announce".encode()), b"4:info", info]
    outer += [b"5:nodes", bencode.encode([[node[0].encode(), node[1]]])]
    return Sample(parse_torrent(b"d" + b"".join(outer) + b"e"), CONTENT.content)


class TrackersPeer:
    """The one peer that the tracker names: it tells of another, and of its DHT node, and has the metadata alone.

    ``heard``: all that came.
    """

    def __init__(self, content: Sample) -> None:
        self.heard: list[Said] = []
        self.handshakes: list[bytes] = []
        self._info = content.metainfo.info

    async def run(self, lab: Lab, info_hash: bytes) -> None:
        network = lab.host(PEER)
        listener = await network.listen(PEER, PORT)
        lab._stack.callback(listener.close)
        while True:
            try:
                peer = ScriptedPeer(await listener.accept())
            except trio.ClosedResourceError:
                return
            lab.nursery.start_soon(self._talk, peer, info_hash)

    async def _talk(self, peer: ScriptedPeer, info_hash: bytes) -> None:
        peer.heard = self.heard
        with suppress(DisconnectedError):
            self.handshakes.append(await peer.handshake(info_hash, reserved=EVERYTHING))
            ids: bencode.Value = {b"ut_pex": UT_PEX, b"ut_metadata": UT_METADATA}
            await peer.send(EXTENDED, b"\0" + bencode.encode({b"m": ids, b"metadata_size": len(self._info)}))
            told: bencode.Value = {b"added": pack_address((BY_PEX, PORT)), b"added.f": b"\x10"}
            await peer.send(EXTENDED, b"\2" + bencode.encode(told))
            await peer.send(PORT_MESSAGE, PORT.to_bytes(2))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stay, peer)
                with suppress(DisconnectedError):
                    while (payload := await peer.wait_for(EXTENDED))[0] != UT_METADATA:
                        pass
                    await trio.sleep(30)  # until the others have been heard of
                    table: bencode.Value = {b"msg_type": 1, b"piece": 0, b"total_size": len(self._info)}
                    await peer.send(EXTENDED, b"\1" + bencode.encode(table) + self._info)
                    assert payload
                    await peer.wait_closed()
                nursery.cancel_scope.cancel()

    async def _stay(self, peer: ScriptedPeer) -> None:
        while True:
            await trio.sleep(60)
            await peer.keep_alive()


async def announced(lab: Lab, node: Session, info_hash: bytes) -> None:
    """Somebody at BY_DHT tells the DHT that he has the torrent."""
    other = await lab.session(lab.host(BY_DHT), dht_bootstrap=(f"{DHT_NODE}:{node.port}",))
    answers = await other.dht.search(info_hash)
    assert other.dht.announce(answers, PORT) == 1
    await trio.sleep(1)


async def tell_for_ever(stranger: Wire, info_hash: bytes) -> None:
    """Somebody at BY_LSD tells the local network that he has the torrent."""
    while True:
        stranger.sendto(encode_local(LocalAnnounce(PORT, (info_hash,)), GROUP4), (GROUP4, LSD_PORT))
        await trio.sleep(10)


@pytest.mark.parametrize(("private", "by"), [(True, "file"), (False, "file"), (True, "magnet")])
def test_what_a_session_says(tmp_path: Any, private: bool, by: str) -> None:
    @scenario(limit=10_000)
    async def play(lab: Lab) -> None:
        with pytest.MonkeyPatch.context() as patch:
            tap = UdpOnHosts(patch)
            network: list[Wire] = []
            patch.setattr(Session, "_open_multicast", lambda session: [Wire(session.network.ips[0], network)])
            node = await lab.session(lab.host(DHT_NODE), dht_bootstrap=(), lsd=False)
            node.dht.start()
            content = torrent(private=private, node=(DHT_NODE, node.port))
            info_hash = content.metainfo.info_hash
            await announced(lab, node, info_hash)
            tracker = WebServer(ok(bencode.encode({b"interval": 60, b"peers": pack_address((PEER, PORT))})))
            await lab.nursery.start(tracker.serve, lab.host(TRACKER), TRACKER, 80)
            peer = TrackersPeer(content)
            lab.nursery.start_soon(peer.run, lab, info_hash)
            us = lab.host(US)
            session = await lab.session(us, dht_bootstrap=(f"{DHT_NODE}:{node.port}",))
            wire = next(wire for wire in network if wire._ip == US)
            magnet = Magnet(
                content.metainfo.info_hashes, trackers=(f"http://{TRACKER}/announce",), peers=((BY_MAGNET, PORT),)
            )
            found = await session.add(magnet if by == "magnet" else content.metainfo, directory=lab.place())
            stranger = Wire(BY_LSD, network)
            network.remove(stranger)  # it only speaks
            lab.nursery.start_soon(tell_for_ever, stranger, info_hash)
            await found.wait_metadata()
            await trio.sleep(1)
            before = len(tap.sent), len(wire.sent), len(us.dialled), len(peer.heard), len(peer.handshakes)  # type: ignore[attr-defined]  # simulated
            if by == "magnet":  # that it is private nobody could know
                assert {BY_DHT, BY_LSD, BY_PEX, BY_MAGNET} <= {ip for ip, _ in lab.dialled(us)}
            else:
                before = (0,) * 5
            await trio.sleep(LONG)
            assert found.error is None
            dialled = {ip for ip, _ in lab.dialled(us)[before[2] :]}
            datagrams = [sent for sent in tap.sent[before[0] :] if sent[0][0] == US]
            heard = [said for said in peer.heard[before[3] :] if said.id == EXTENDED]
            tables = [said.payload for said in heard if said.payload[0] == 0]
            spoke_pex = any(said.payload[0] == UT_PEX for said in heard)
            spoke_port = any(said.id == PORT_MESSAGE for said in peer.heard[before[3] :])
            dht_bits = [handshake[27] & 1 for handshake in peer.handshakes[before[4] :]]
            assert len(tracker.requests) > 3 and tables and dht_bits
            if private:
                assert dialled == {TRACKER, PEER}
                assert wire.sent[before[1] :] == []
                assert not any(info_hash in data for _, _, data in datagrams)
                assert by == "magnet" or not datagrams  # the node that the magnet started looks after its table
                assert not any(b"ut_pex" in table for table in tables) and not any(dht_bits)
                assert not (spoke_pex or spoke_port)
            else:
                assert dialled >= {TRACKER, PEER, BY_DHT, BY_LSD, BY_PEX}
                assert any(info_hash in data and to[0] == DHT_NODE for _, to, data in datagrams) and wire.sent
                assert all(b"ut_pex" in table for table in tables) and all(dht_bits)
                assert spoke_port

    play(tmp_path=tmp_path)
