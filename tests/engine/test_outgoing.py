"""Connections that a session opens: within the budget, repeated later and later, given up; and their handshake."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio

from btor.engine.dial import initiate, read_exactly, send_all
from btor.engine.torrent import Torrent
from btor.errors import PeerError
from btor.limits import (
    BLOCK,
    CONNECT_TIMEOUT,
    DIAL_FAILURES,
    DIAL_RETRY,
    DIAL_RETRY_USER_MAX,
    DIALS_PER_NETWORK,
    DIALS_PER_SECOND,
    HALF_OPEN,
    HANDSHAKE_TIMEOUT,
)
from btor.wire.handshake import Features
from tests.engine.support import Lab, sample, scenario
from tests.simulated.network import Host
from tests.simulated.scripted_peer import ScriptedPeer

CONTENT = sample(10 * 2 * BLOCK)
PEER = ("40.0.0.1", 6881)


async def idle(lab: Lab, **settings: Any) -> tuple[Torrent, Host]:
    """A torrent without peers, and its host."""
    host = lab.host("30.0.0.1")
    assert isinstance(host, Host)
    found = await lab.leech(CONTENT, network=host, **settings)
    await trio.sleep(1)
    return found, host


def tell(found: Torrent, *addresses: tuple[str, int], source: str = "tracker", from_ip: str | None = None) -> None:
    """A source names peers."""
    assert found.transfer is not None
    found.transfer.add_peers(addresses, source, from_ip)


def times(host: Host, since: float = 0.0) -> list[float]:
    return [when - since for when, _ in host.dialled]


@scenario()
async def test_a_peer_is_dialled_at_once(lab: Lab) -> None:
    found, host = await idle(lab)
    began = trio.current_time()
    tell(found, PEER)
    await trio.sleep(0.1)
    assert lab.dialled(host) == [PEER]
    assert times(host, began) == pytest.approx([0], abs=0.01)


@scenario()
async def test_a_peer_that_is_not_there_is_given_up(lab: Lab) -> None:
    lab.world.host(PEER[0])
    found, host = await idle(lab)
    began = trio.current_time()
    tell(found, PEER)
    await trio.sleep(20 * DIAL_RETRY)
    expected = [0.0]
    for fails in range(1, DIAL_FAILURES):
        expected.append(expected[-1] + (fails + 1) * DIAL_RETRY)
    assert times(host, began) == pytest.approx(expected, abs=5)


@scenario()
async def test_a_peer_that_the_user_named_is_never_given_up(lab: Lab) -> None:
    lab.world.host(PEER[0])
    found, host = await idle(lab)
    tell(found, PEER, source="user")
    await trio.sleep(600)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times(host))]
    assert gaps[0] < 3
    assert max(gaps) <= DIAL_RETRY_USER_MAX + 2
    assert 15 < len(gaps) < 30


@scenario()
async def test_one_that_comes_later_is_found(lab: Lab) -> None:
    found, _ = await idle(lab)
    other = lab.host(PEER[0])
    tell(found, PEER, source="user")
    await trio.sleep(100)
    seeder = await lab.seed(CONTENT, other, port=PEER[1])
    await found.wait_complete()
    assert seeder.status().uploaded == len(CONTENT.content)


@scenario()
async def test_a_connection_that_hangs_is_given_up(lab: Lab) -> None:
    lab.world.host(PEER[0]).silent = True
    found, _ = await idle(lab)
    tell(found, PEER)
    assert found.transfer is not None
    await trio.sleep(CONNECT_TIMEOUT - 1)
    assert (found.transfer.dialling, found.session.dial_budget.half_open) == (1, 1)
    await trio.sleep(2)
    assert (found.transfer.dialling, found.session.dial_budget.half_open) == (0, 0)


@scenario()
async def test_a_handshake_that_is_never_answered(lab: Lab) -> None:
    found, _ = await idle(lab)
    caller = await lab.listen(lab.host(PEER[0]))
    tell(found, caller.address)
    peer = ScriptedPeer(await caller._listener.accept())
    assert found.transfer is not None
    await trio.sleep(0.1)
    assert found.session.dial_budget.half_open == 0
    await trio.sleep(HANDSHAKE_TIMEOUT - 1)
    assert found.transfer.dialling == 1
    await trio.sleep(2)
    assert found.transfer.dialling == 0
    await peer._take(68)
    await peer.wait_closed()


@scenario()
async def test_P4_half_open_connections_are_bounded(lab: Lab) -> None:
    found, host = await idle(lab)
    most = 0
    tell(found, *((f"41.{number}.0.1", 6881) for number in range(250)))  # nobody is there: each dial hangs
    for _ in range(140):
        await trio.sleep(0.1)
        most = max(most, found.session.dial_budget.half_open)
    assert most == HALF_OPEN
    dialled = times(host)
    for first in dialled:
        assert sum(first <= when < first + 0.99 for when in dialled) <= DIALS_PER_SECOND


@scenario()
async def test_one_network_is_not_flooded(lab: Lab) -> None:
    lab.world.host(*(f"40.0.0.{number}" for number in range(1, 101)))
    found, host = await idle(lab)
    tell(found, *((f"40.0.0.{number}", 6881) for number in range(1, 101)))
    await trio.sleep(300)
    dialled = times(host)
    assert len(dialled) >= 80
    for first in dialled:
        assert sum(first <= when < first + 59 for when in dialled) <= DIALS_PER_NETWORK


@scenario()
@pytest.mark.parametrize(("public", "at_once"), [(False, 50), (True, DIALS_PER_NETWORK)])
async def test_on_loopback_there_is_no_such_bound(lab: Lab, public: bool, at_once: int) -> None:
    host = lab.world.host("127.0.0.1")
    found = await lab.leech(CONTENT, network=host, loopback_is_public=public)
    lab.world.host(*(f"127.0.9.{number}" for number in range(1, 51)))
    await trio.sleep(1)
    tell(found, *((f"127.0.9.{number}", 6881) for number in range(1, 51)), from_ip="127.0.0.1")
    await trio.sleep(3)
    assert len(set(lab.dialled(host))) == at_once


@scenario()
async def test_torrents_take_turns(lab: Lab) -> None:
    host = lab.world.host("30.0.0.1")
    session = await lab.session(host)
    contents = [sample(BLOCK, name=f"t{number}", seed=number) for number in range(3)]
    found = [await session.add(content.metainfo, directory=lab.place()) for content in contents]
    await trio.sleep(1)
    for number, torrent in enumerate(found):
        tell(torrent, *((f"4{number}.{peer}.0.1", 6881) for peer in range(200)))
    await trio.sleep(3.5)
    by_torrent = [sum(ip.startswith(f"4{number}.") for ip, _ in lab.dialled(host)) for number in range(3)]
    assert sum(by_torrent) == HALF_OPEN
    assert max(by_torrent) - min(by_torrent) <= 2


@scenario()
async def test_no_more_than_the_peers_that_are_wanted(lab: Lab) -> None:
    found, host = await idle(lab, max_peers=5)
    tell(found, *((f"41.{number}.0.1", 6881) for number in range(50)))
    await trio.sleep(5)
    assert len(lab.dialled(host)) == 5


@scenario()
async def test_a_paused_torrent_does_not_dial(lab: Lab) -> None:
    found, host = await idle(lab)
    await found.pause()
    await trio.sleep(1)
    tell(found, PEER)
    await trio.sleep(60)
    assert lab.dialled(host) == []
    await found.resume()
    await trio.sleep(2)
    assert lab.dialled(host) == [PEER]


@scenario()
async def test_a_dial_that_ends_after_its_torrent_is_closed(lab: Lab) -> None:
    found, _ = await idle(lab)
    caller = await lab.listen(lab.host(PEER[0]))
    tell(found, caller.address)
    peer = ScriptedPeer(await caller._listener.accept(), peer_id=lab.peer_id())
    await found.remove()
    await peer.handshake(found.info_hash)
    await peer.wait_closed()
    assert found.session.container.failures == 0


@scenario()
@pytest.mark.parametrize("source_ip", [None, "50.0.0.1"])
async def test_P11_no_private_addresses_from_the_internet(lab: Lab, source_ip: str | None) -> None:
    found, host = await idle(lab)
    private = ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.1", "224.0.0.1", "255.255.255.255"]
    tell(found, *((ip, 6881) for ip in private), from_ip=source_ip)
    tell(found, ("40.0.0.1", 22), ("40.0.0.2", 0), from_ip=source_ip)
    await trio.sleep(10)
    assert lab.dialled(host) == []


# --- the handshake ----------------------------------------------------------------------------------------------------


class Line:
    """A transport that hands out and takes a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data = data
        self.step = step
        self.sent = b""
        self._blocked = False

    async def wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()

    def recv_into(self, views: Any) -> int:
        self._blocked = not self._blocked
        if self._blocked:
            raise BlockingIOError
        count = min(self.step, len(self.data), len(views[0]))
        views[0][:count] = self.data[:count]
        self.data = self.data[count:]
        return count

    def send(self, views: Any) -> int:
        self._blocked = not self._blocked
        if self._blocked:
            raise BlockingIOError
        self.sent += bytes(views[0][: self.step])
        return len(views[0][: self.step])


HANDSHAKE = b"\x13BitTorrent protocol" + bytes(8) + b"h" * 20 + b"p" * 20


@pytest.mark.parametrize("step", [1, 7, 19, 20, 48, 68, 1000])
async def test_initiate(step: int) -> None:
    line: Any = Line(HANDSHAKE + b"more", step)
    answer = await initiate(line, b"h" * 20, b"o" * 20, Features())
    assert answer.peer_id == b"p" * 20
    assert line.sent == HANDSHAKE[:48] + b"o" * 20
    assert line.data == b"more"  # what follows is not the handshake's


@pytest.mark.parametrize("step", [1, 68])
async def test_another_torrent(step: int) -> None:
    line: Any = Line(HANDSHAKE, step)
    with pytest.raises(PeerError):
        await initiate(line, b"x" * 20, b"o" * 20, Features())


@pytest.mark.parametrize("count", [0, 1, 20, 67])
async def test_an_end_during_the_handshake(count: int) -> None:
    line: Any = Line(HANDSHAKE[:count], 10)
    with pytest.raises(PeerError, match="closed"):
        await read_exactly(line, 68)


@pytest.mark.parametrize(("data", "read"), [(b"HTTP/1.1 400", 1), (b"\x13BitTorrent protocoX", 20)])
async def test_another_protocol_is_noticed_at_once(data: bytes, read: int) -> None:
    line: Any = Line(data + bytes(100), 1)
    with pytest.raises(PeerError):
        await read_exactly(line, 68)
    assert len(data) + 100 - len(line.data) == read


async def test_send_all() -> None:
    line: Any = Line(b"", 3)
    await send_all(line, bytes(range(100)))
    assert line.sent == bytes(range(100))
