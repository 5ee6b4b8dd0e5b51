"""Connections that come to a session and have not said who they are: how long, how many, and what goes wrong."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
import trio

from btor.engine.listener import ACCEPT_PAUSE, Porter
from btor.engine.session import Session
from btor.engine.transport import Transport
from btor.limits import BLOCK, HANDSHAKE_TIMEOUT, PENDING_HANDSHAKES, PENDING_PER_NETWORK
from tests.engine.support import Lab, sample, scenario
from tests.simulated.network import Host
from tests.simulated.scripted_peer import BITFIELD, DisconnectedError

CONTENT = sample(10 * 2 * BLOCK)


@pytest.fixture
def porters(monkeypatch: pytest.MonkeyPatch) -> list[Porter]:
    """The porters of the sessions, as they are made."""
    made: list[Porter] = []
    init = Porter.__init__

    def note(porter: Porter, session: Session) -> None:
        made.append(porter)
        init(porter, session)

    monkeypatch.setattr(Porter, "__init__", note)
    return made


async def is_closed(transport: Transport) -> bool:
    """Whether the other side has closed by now."""
    await trio.sleep(0.1)
    try:
        return transport.recv_into([memoryview(bytearray(1))]) == 0
    except BlockingIOError:
        return False
    except OSError:
        return True


async def silent(lab: Lab, session: Session, count: int, ip: Callable[[int], str]) -> list[Transport]:
    """Connections that say nothing, one after the other, each from an address of its own."""
    hosts = [lab.world.host(ip(number), latency=0.001) for number in range(count)]
    return [await host.connect(lab.address(session)) for host in hosts]


@scenario()
@pytest.mark.parametrize("said", [b"", b"\x13BitTorrent protocol", b"\x13BitTorrent protocol" + bytes(8)])
async def test_a_handshake_takes_no_longer_than_it_may(lab: Lab, said: bytes, porters: list[Porter]) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await lab.call(seeder.session)
    began = trio.current_time()
    await peer.raw(said)
    await peer.transport.wait_readable()
    assert trio.current_time() - began == pytest.approx(HANDSHAKE_TIMEOUT, abs=0.2)
    assert await is_closed(peer.transport)
    assert not porters[0]._pending
    assert not porters[0]._networks


@scenario()
async def test_P4_slowloris(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await lab.call(seeder.session)
    began = trio.current_time()
    with pytest.raises(DisconnectedError):
        for byte in b"\x13BitTorrent protocol" + bytes(8) + seeder.info_hash + bytes(20):
            await peer.raw(bytes([byte]))
            await trio.sleep(0.5)
    assert trio.current_time() - began < HANDSHAKE_TIMEOUT + 1


@scenario()
async def test_slow_but_in_time(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await lab.call(seeder.session)
    for byte in b"\x13BitTorrent protocol" + bytes(8) + seeder.info_hash + b"-XX0000-abcdefghijkl":
        await peer.raw(bytes([byte]))
        await trio.sleep(HANDSHAKE_TIMEOUT / 80)
    await peer._take(68)
    assert (await peer.receive()).id == BITFIELD


@scenario()
async def test_the_oldest_gives_way_when_there_are_too_many(lab: Lab, porters: list[Porter]) -> None:
    seeder = await lab.seed(CONTENT)
    found = await silent(lab, seeder.session, PENDING_HANDSHAKES, lambda number: f"20.{number}.0.1")
    assert len(porters[0]._pending) == PENDING_HANDSHAKES
    assert not await is_closed(found[0])
    one_more = await lab.call(seeder.session, lab.world.host("21.0.0.1"))
    assert await is_closed(found[0])
    assert not await is_closed(found[1])
    assert len(porters[0]._pending) == PENDING_HANDSHAKES
    await one_more.handshake(seeder.info_hash)


@scenario()
async def test_P4_an_honest_peer_comes_through_a_flood(lab: Lab, porters: list[Porter]) -> None:
    seeder = await lab.seed(CONTENT)
    address = lab.address(seeder.session)

    async def flood(network: int) -> None:
        for number in range(200):
            host = lab.world.host(f"20.{network}.{number}.1")
            for _ in range(3):
                lab.nursery.start_soon(host.connect, address)
            await trio.sleep(0.01)

    for network in range(5):
        lab.nursery.start_soon(flood, network)
    await trio.sleep(0.5)
    for number in range(5):
        began = trio.current_time()
        peer = await lab.join(seeder, lab.world.host(f"21.{number}.0.1"))
        await peer.receive()
        assert trio.current_time() - began < 1
        assert len(porters[0]._pending) <= PENDING_HANDSHAKES


@scenario()
async def test_one_network_has_only_a_share(lab: Lab, porters: list[Porter]) -> None:
    seeder = await lab.seed(CONTENT)
    found = await silent(lab, seeder.session, PENDING_PER_NETWORK + 3, lambda number: f"20.0.0.{number + 1}")
    assert [await is_closed(transport) for transport in found] == [False] * PENDING_PER_NETWORK + [True] * 3
    assert len(porters[0]._pending) == PENDING_PER_NETWORK
    await (await lab.join(seeder, lab.world.host("20.0.1.1"))).receive()  # others are not concerned
    await trio.sleep(HANDSHAKE_TIMEOUT)
    await (await lab.join(seeder, lab.world.host("20.0.0.99"))).receive()  # nor is it later
    assert not porters[0]._networks


@scenario()
async def test_a_network_of_version_6(lab: Lab) -> None:
    session = await lab.session(lab.host("2001:db8::1"))
    found = await silent(lab, session, PENDING_PER_NETWORK + 1, lambda number: f"2001:db8:0:1::{number + 1:x}")
    assert [await is_closed(transport) for transport in found].count(True) == 1


@scenario()
@pytest.mark.parametrize(("public", "closed"), [(False, 0), (True, 3)])
async def test_on_loopback_there_are_no_networks(lab: Lab, public: bool, closed: int) -> None:
    seeder = await lab.seed(CONTENT, lab.host("127.0.0.1"), loopback_is_public=public)
    found = await silent(lab, seeder.session, PENDING_PER_NETWORK + 3, lambda number: f"127.0.9.{number + 1}")
    assert [await is_closed(transport) for transport in found].count(True) == closed


@scenario()
async def test_those_that_said_their_handshake_do_not_count(lab: Lab, porters: list[Porter]) -> None:
    seeder = await lab.seed(CONTENT)
    for number in range(2 * PENDING_PER_NETWORK):
        await (await lab.join(seeder, lab.world.host(f"20.0.0.{number + 1}"))).receive()
    assert seeder.status().peers == 2 * PENDING_PER_NETWORK
    assert not porters[0]._pending
    assert not porters[0]._networks


@scenario()
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED])
async def test_an_accept_that_fails(lab: Lab, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again, after a pause where there is no descriptor left."""
    host: Any = lab.host()
    attempts: list[float] = []
    listen = host.listen

    async def listen_badly(ip: str, port: int) -> Any:
        listener = await listen(ip, port)
        accept = listener.accept

        async def fail_at_first() -> Any:
            await trio.lowlevel.checkpoint()
            attempts.append(trio.current_time())
            if len(attempts) <= 5:
                raise OSError(code, "no")
            return await accept()

        monkeypatch.setattr(listener, "accept", fail_at_first)
        return listener

    monkeypatch.setattr(host, "listen", listen_badly)
    seeder = await lab.seed(CONTENT, host)
    await trio.sleep(1)
    await (await lab.join(seeder)).receive()
    took = attempts[5] - attempts[0]
    assert took == pytest.approx(0 if code == errno.ECONNABORTED else 5 * ACCEPT_PAUSE, abs=0.01)


@scenario()
async def test_a_connection_to_a_torrent_that_is_paused(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    await seeder.pause()
    await trio.sleep(1)
    peer = await lab.call(seeder.session)
    with pytest.raises(DisconnectedError):
        await peer.handshake(seeder.info_hash)


@scenario()
async def test_a_connection_that_breaks_during_the_handshake(lab: Lab, porters: list[Porter]) -> None:
    seeder = await lab.seed(CONTENT)
    host = lab.host()
    assert isinstance(host, Host)
    peer = await lab.call(seeder.session, host)
    await peer.raw(b"\x13BitTorrent protocol" + bytes(8) + seeder.info_hash)
    await trio.sleep(1)
    for end in list(host.ends):
        end.abort()
    await trio.sleep(1)
    assert not porters[0]._pending
    await (await lab.join(seeder)).receive()
