"""Incoming connections before they have said who they are: how long, how many, and who goes when there are too many."""

from __future__ import annotations

import pytest
import trio

from btor.limits import BLOCK, HANDSHAKE_TIMEOUT, PENDING_HANDSHAKES, PENDING_PER_NETWORK
from btor.wire.handshake import encode_handshake
from tests.engine.support import BITFIELD, Lab, sample, scenario
from tests.simulated.scripted_peer import ScriptedPeer

CONTENT = sample(20 * 2 * BLOCK)


async def is_open(peer: ScriptedPeer) -> bool:
    """Whether the session keeps the connection for the next moment, in which nothing is said."""
    with trio.move_on_after(0.5):
        await peer.wait_closed()
        return False
    return True


@scenario()
async def test_P4_the_handshake_has_an_absolute_deadline(lab: Lab) -> None:
    """One byte now and then does not prolong it."""
    seeder = await lab.seed(CONTENT)
    peer = await lab.call(seeder.session)
    handshake = encode_handshake(seeder.info_hash, lab.peer_id(), bytes(8))
    began = trio.current_time()

    async def drip() -> None:
        for byte in handshake:
            await peer.raw(bytes([byte]))
            await trio.sleep(HANDSHAKE_TIMEOUT / 20)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        await peer.wait_closed()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began == pytest.approx(HANDSHAKE_TIMEOUT, abs=0.2)
    assert seeder.status().peers == 0


@scenario()
async def test_P4_a_handshake_just_in_time(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    peer = await lab.call(seeder.session)
    await trio.sleep(HANDSHAKE_TIMEOUT - 0.2)
    await peer.handshake(seeder.info_hash)
    assert (await peer.receive()).id == BITFIELD
    assert seeder.status().peers == 1


@scenario()
async def test_P4_the_oldest_of_too_many_goes(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    silent = [
        await lab.call(seeder.session, lab.world.host(f"20.{number >> 8}.{number & 255}.1", latency=0.0001))
        for number in range(PENDING_HANDSHAKES)
    ]
    await trio.sleep(0.1)
    assert await is_open(silent[0])  # as many as there may be
    newcomer = await lab.call(seeder.session)
    began = trio.current_time()
    await newcomer.handshake(seeder.info_hash)
    assert (await newcomer.receive()).id == BITFIELD
    assert trio.current_time() - began < 1
    await silent[0].wait_closed()
    assert trio.current_time() - began < 1
    await silent[1].handshake(seeder.info_hash)
    assert (await silent[1].receive()).id == BITFIELD


@scenario()
async def test_P4_no_network_takes_all_places(lab: Lab) -> None:
    seeder = await lab.seed(CONTENT)
    near = [lab.host(f"20.1.1.{number + 1}") for number in range(PENDING_PER_NETWORK + 1)]
    silent = [await lab.call(seeder.session, host) for host in near[:PENDING_PER_NETWORK]]
    one_more = await lab.call(seeder.session, near[-1])
    await one_more.wait_closed()
    assert await is_open(silent[0])
    assert await is_open(await lab.call(seeder.session, lab.host("20.1.2.1")))
    silent[0].transport.close()
    await trio.sleep(0.1)
    assert await is_open(await lab.call(seeder.session, near[-1]))


@scenario()
@pytest.mark.parametrize("public", [False, True])
async def test_P4_on_loopback_only_if_it_is_public(lab: Lab, public: bool) -> None:
    seeder = await lab.seed(CONTENT, lab.host("127.0.0.1"), loopback_is_public=public)
    host = lab.host("127.0.0.2")
    silent = [await lab.call(seeder.session, host) for _ in range(PENDING_PER_NETWORK + 1)]
    await trio.sleep(0.1)
    assert [await is_open(peer) for peer in silent[-2:]] == [True, not public]
