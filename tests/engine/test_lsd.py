"""Local discovery of a session, over sockets that lead from one session to the other and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from btor.engine import lsd
from btor.engine.lsd import LocalDiscovery, open_multicast_sockets
from btor.limits import BLOCK, LSD_GAP, LSD_PERIOD
from btor.metainfo.torrent_file import parse_torrent
from btor.wire.address import Address
from btor.wire.lsd import GROUP4, LSD_PORT, LocalAnnounce, decode_local, encode_local
from tests.engine.support import Lab, Sample, sample, scenario, until

CONTENT = sample(6 * 2 * BLOCK)


class Wire:
    """One end of a network of two on which everybody hears everything, himself included."""

    def __init__(self, ip: str, others: list[Wire]) -> None:
        self.local: Address = (GROUP4, LSD_PORT)
        self.sent: list[bytes] = []
        self._ip = ip
        self._all = others
        self._send, self._receive = trio.open_memory_channel[tuple[bytes, Address]](100)
        self._next: tuple[bytes, Address] | None = None
        others.append(self)

    async def wait_readable(self) -> None:
        self._next = await self._receive.receive()

    def recvfrom(self) -> tuple[bytes, Address]:
        if self._next is None:
            raise BlockingIOError
        got, self._next = self._next, None
        return got

    def sendto(self, data: bytes, address: Address) -> None:
        assert address == self.local
        self.sent.append(data)
        for other in self._all:
            other.put(data, self._ip)

    def put(self, data: bytes, ip: str) -> None:
        self._send.send_nowait((data, (ip, LSD_PORT)))

    def close(self) -> None:
        self._receive.close()


def private() -> Sample:
    info = CONTENT.metainfo.info[:-1] + b"7:privatei1ee"
    return Sample(parse_torrent(b"d4:info" + info + b"e"), CONTENT.content)


def on(lab: Lab, found: Any, network: list[Wire]) -> Wire:
    """Let the session of this torrent speak on the network."""
    wire = Wire(lab.ip_of(found.session.network), network)
    lab.nursery.start_soon(LocalDiscovery(found.session, [wire]).run)
    return wire


@scenario()
async def test_two_find_each_other(lab: Lab) -> None:
    network: list[Wire] = []
    seeder = await lab.seed(CONTENT)
    said = on(lab, seeder, network)
    leecher = await lab.leech(CONTENT)
    on(lab, leecher, network)
    await leecher.wait_complete()
    found = decode_local(said.sent[0])
    assert found is not None
    assert (found.port, found.info_hashes) == (seeder.session.port, (CONTENT.metainfo.info_hash,))
    before = len(said.sent)
    await trio.sleep(2 * LSD_PERIOD + LSD_GAP)
    assert before + 1 <= len(said.sent) <= before + 3


@scenario()
async def test_private_torrents_are_not_told_of_nor_found(lab: Lab) -> None:
    network: list[Wire] = []
    content = private()
    seeder = await lab.seed(content)
    leecher: Any = await lab.leech(content)
    wires = [on(lab, seeder, network), on(lab, leecher, network)]
    stranger = Wire("10.9.9.9", network)
    stranger.sendto(encode_local(LocalAnnounce(5, (content.metainfo.info_hash,)), GROUP4), (GROUP4, LSD_PORT))
    await trio.sleep(2 * LSD_PERIOD)
    assert [wire.sent for wire in wires] == [[], []]
    assert len(leecher.transfer.book) == 0


@scenario()
async def test_L1_noise_and_floods(lab: Lab) -> None:
    network: list[Wire] = []
    leecher: Any = await lab.leech(CONTENT)
    on(lab, leecher, network)
    await until(lambda: leecher.transfer is not None and leecher.transfer.active)
    stranger = Wire("10.9.9.9", network)
    stranger.put(b"", "")
    for port in range(7_000, 7_010):
        stranger.sendto(encode_local(LocalAnnounce(port, (CONTENT.metainfo.info_hash,)), GROUP4), stranger.local)
    stranger.sendto(b"\xff" * 100, stranger.local)
    stranger.sendto(encode_local(LocalAnnounce(1, (bytes(20),)), GROUP4), stranger.local)
    await trio.sleep(1)
    assert {address[1] for address in lab.dialled(leecher.session.network)} <= {7_000}


@pytest.mark.parametrize(
    ("bind", "groups"), [(("127.0.0.1",), 0), (("::1", "127.0.0.2"), 0), (("10.0.0.1",), 1), ((), 2)]
)
def test_where_it_listens(bind: Sequence[str], groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never on loopback alone; of each family where the system has it. No socket is opened here."""
    asked: list[tuple[str, Any]] = []

    class Socket:
        def __init__(self, group: str, interface: Any) -> None:
            asked.append((group, interface))
            if ":" in group and interface[0] == "bad":
                raise OSError("no such thing")

    monkeypatch.setattr(lsd, "MulticastSocket", Socket)
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (2, "bad"), (3, "good")])
    assert len(open_multicast_sockets(bind)) == groups
    assert ("lo", 1) not in [interface for _, interface in asked]
