"""Who a peer is: one connection for each address, bars that hold in all torrents, other swarms of private torrents."""

from __future__ import annotations

import pytest
import trio

from btor.engine.events import PeerChange
from btor.limits import BLOCK, TRACKER_INTERVAL_MIN
from tests.engine.support import Lab, next_event, sample, scenario, until
from tests.simulated.scripted_peer import ScriptedPeer

CONTENT = sample(20 * 2 * BLOCK)
OTHER = sample(10 * 2 * BLOCK, name="other", seed=9)
ALL = range(CONTENT.pieces)


@scenario()
@pytest.mark.parametrize("ip", ["10.9.9.9", "127.0.0.1"])
async def test_P8_a_dial_is_no_second_connection(lab: Lab, ip: str) -> None:
    """It came to us while we dialled it; on loopback it may be another one."""
    caller = await lab.listen(lab.host(ip))
    leecher = await lab.leech(CONTENT, caller.address)
    dialled = await caller._listener.accept()
    incoming = await lab.join(leecher, lab.world.hosts[ip], has=ALL)
    await until(lambda: leecher.status().peers == 1)
    outgoing = ScriptedPeer(dialled, peer_id=lab.peer_id())
    await outgoing.handshake(leecher.info_hash)
    await trio.sleep(1)
    assert leecher.status().peers == (2 if ip == "127.0.0.1" else 1)
    if ip != "127.0.0.1":
        await outgoing.wait_closed()
        await incoming.have(1)
        await trio.sleep(1)
        assert leecher.status().peers == 1


@scenario()
async def test_a_bar_ends_the_connections_of_all_torrents(lab: Lab) -> None:
    session = await lab.session()
    first = await session.add(CONTENT.metainfo, directory=lab.place())
    second = await session.add(OTHER.metainfo, directory=lab.place())
    host = lab.host()
    bad = await lab.join(first, host, has=ALL)
    same = await lab.join(second, host, has=range(OTHER.pieces))
    await lab.join(second, has=[0])
    await until(lambda: second.status().peers == 2)
    assert first.transfer is not None
    lab.nursery.start_soon(bad.wait_closed)
    first.transfer.ban(next(iter(first.transfer.peers)), "lied")
    ended = await next_event(second, PeerChange, lambda event: event.change == "disconnected")
    assert (ended.address.split(":")[0], ended.reason) == (lab.ip_of(host), "lied")
    await same.wait_closed()
    await until(lambda: not first.status().peers)
    assert second.status().peers == 1


@scenario()
async def test_nobody_of_the_swarm_of_another_tracker_is_dialled(lab: Lab) -> None:
    """BEP 27: after the change, neither who was connected, nor who was being dialled, nor who is only known."""
    old, slow, new = [await lab.listen(lab.host(ip)) for ip in ("10.5.0.1", "10.5.1.1", "10.5.2.1")]
    leecher = await lab.leech(CONTENT)
    await until(lambda: leecher.transfer is not None and leecher.transfer.active)
    leecher.on_tracker_peers("http://one/", [old.address, slow.address], "10.5.5.5")
    connected = await old.accept(CONTENT, has=[])
    dialled = await slow._listener.accept()
    came = await lab.join(leecher, has=[])
    await until(lambda: leecher.status().peers == 2)
    leecher.on_tracker_switch("http://two/")
    leecher.on_tracker_peers("http://two/", [new.address], "10.5.5.6")
    for peer in (connected, came):
        await peer.wait_closed()
    late = ScriptedPeer(dialled, peer_id=lab.peer_id())
    await late.handshake(leecher.info_hash)
    await late.wait_closed()
    await new.accept(CONTENT, has=[])
    await trio.sleep(100)
    assert leecher.status().peers == 1
    assert sorted(set(lab.dialled(leecher.session.network))) == [old.address, slow.address, new.address]
    assert len(lab.dialled(leecher.session.network)) == 3


@scenario()
async def test_a_peer_that_stays_is_company(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    leecher = await lab.leech(CONTENT)
    met: list[float] = []
    monkeypatch.setattr(leecher.tiers, "on_company", lambda: met.append(trio.current_time()))
    await trio.sleep(100)
    passer_by = await lab.join(leecher, has=[])
    await trio.sleep(TRACKER_INTERVAL_MIN - 2)
    passer_by.transport.close()
    await trio.sleep(100)
    assert met == []
    came = trio.current_time()
    await lab.join(leecher, has=[])
    await trio.sleep(TRACKER_INTERVAL_MIN + 2)
    assert len(met) in (2, 3)
    assert met[0] - came >= TRACKER_INTERVAL_MIN
