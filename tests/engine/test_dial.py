"""Outgoing connections: how long they may take, that nothing of them is left behind, and how there is room for more."""

from __future__ import annotations

import pytest
import trio

from btor.limits import BLOCK, CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT, TURNOVER_FULL, TURNOVER_PERIOD, TURNOVER_SHARE
from tests.engine.support import Lab, sample, scenario, until
from tests.simulated.scripted_peer import DisconnectedError, ScriptedPeer

CONTENT = sample(20 * 2 * BLOCK)


@scenario()
async def test_a_connection_that_never_opens(lab: Lab) -> None:
    silent = lab.world.host("10.9.9.9")
    silent.silent = True
    leecher = await lab.leech(CONTENT, ("10.9.9.9", 7_000))
    await until(lambda: bool(lab.dialled(leecher.session.network)))
    began = trio.current_time()
    assert leecher.transfer is not None
    await trio.sleep(CONNECT_TIMEOUT - 0.2)
    assert (leecher.transfer.dialling, leecher.session.dial_budget.half_open) == (1, 1)
    await until(lambda: leecher.transfer is not None and not leecher.transfer.dialling)
    assert trio.current_time() - began == pytest.approx(CONNECT_TIMEOUT, abs=0.1)
    assert leecher.session.dial_budget.half_open == 0


@scenario()
async def test_one_that_is_dialled_and_says_nothing(lab: Lab) -> None:
    caller = await lab.listen()
    leecher = await lab.leech(CONTENT, caller.address)
    transport = await caller._listener.accept()
    began = trio.current_time()
    await ScriptedPeer(transport).wait_closed()
    assert trio.current_time() - began == pytest.approx(HANDSHAKE_TIMEOUT, abs=0.2)
    assert leecher.transfer is not None
    assert leecher.transfer.dialling == 0


@scenario()
async def test_a_session_that_ends_while_it_dials_leaves_no_connection(lab: Lab) -> None:
    caller = await lab.listen()
    async with lab.open() as session:
        await session.add(CONTENT.metainfo, directory=lab.place(), peers=[caller.address])
        transport = await caller._listener.accept()
        began = trio.current_time()
    await ScriptedPeer(transport).wait_closed()
    assert trio.current_time() - began < 1


@scenario()
@pytest.mark.parametrize("full", [False, True])
async def test_P5_when_nearly_full_those_who_bring_least_make_room(lab: Lab, full: bool) -> None:
    most = 50
    count = int(TURNOVER_FULL * most) - (not full)
    seeder = await lab.seed(CONTENT, max_peers=most)
    peers = [await lab.join(seeder, has=[]) for _ in range(count)]
    await trio.sleep(1)  # what they have has come
    assert seeder.transfer is not None
    before = list(seeder.transfer.peers.values())
    for peer in before[2:]:
        peer.received_total += 1_000

    async def keep_alive() -> None:
        while True:
            for peer in peers:
                try:
                    await peer.keep_alive()
                except DisconnectedError:
                    pass
            await trio.sleep(50)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_alive)
        await trio.sleep(TURNOVER_PERIOD + 5)
        nursery.cancel_scope.cancel()
    left = list(seeder.transfer.peers.values())
    assert len(left) == (count - max(1, int(TURNOVER_SHARE * count)) if full else count)
    assert set(before) - set(left) <= set(before[:2])
