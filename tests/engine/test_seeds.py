"""Peers that are complete have nothing for each other: they leave each other alone, and find each other when needed."""

from __future__ import annotations

import pytest
import trio

from btor.engine.torrent import Torrent
from btor.limits import BLOCK, SEEDS_APART
from tests.engine.support import Lab, sample, scenario
from tests.simulated.network import Host

CONTENT = sample(10 * 2 * BLOCK)
LONG = 2.5 * SEEDS_APART
PORTS = (7001, 7002)
PLACES = {"public": ("30.0.0.1", "30.0.1.1"), "loopback": ("127.0.0.1", "127.0.0.2")}


async def two(lab: Lab, ips: tuple[str, str], *, complete: bool) -> tuple[Torrent, Torrent]:
    """Two torrents that were told of each other; the first is complete, the second perhaps."""
    addresses = list(zip(ips, PORTS, strict=True))
    found = []
    for number, (ip, port) in enumerate(addresses):
        session = await lab.session(lab.host(ip), port=port)
        whole = complete or not number
        place = CONTENT.write(lab.place() / "content") if whole else lab.place() / "content"
        place.parent.mkdir(exist_ok=True)
        peers = [addresses[1 - number]]
        found.append(await session.add(CONTENT.metainfo, output=place, seed_only=whole, peers=peers))
    return found[0], found[1]


def dials(found: Torrent, since: float = 0.0) -> list[float]:
    host = found.session.network
    assert isinstance(host, Host)
    return [when - since for when, _ in host.dialled if when >= since]


@scenario()
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("complete", [True, False])
async def test_seeds_that_were_named_to_each_other_seldom_dial(lab: Lab, where: str, complete: bool) -> None:
    """Whether they were complete from the beginning, or one became so from the other."""
    pair = await two(lab, PLACES[where], complete=complete)
    for found in pair:
        await found.wait_complete()
    await trio.sleep(30)
    began = trio.current_time()
    await trio.sleep(LONG)
    for found in pair:
        assert 1 <= len(dials(found, began)) <= 3
        assert found.status().peers == 0


@scenario()
async def test_a_seed_that_lost_its_content_is_served_at_once(lab: Lab) -> None:
    """It comes back at its old address, and dials."""
    ips = PLACES["public"]
    seeder, other = await two(lab, ips, complete=True)
    await trio.sleep(100)
    await other.remove()
    again = await other.session.add(CONTENT.metainfo, directory=lab.place(), peers=[(ips[0], PORTS[0])])
    with trio.fail_after(15):
        await again.wait_complete()
    assert seeder.complete


@scenario()
async def test_a_named_peer_that_knows_nobody_is_found_again(lab: Lab) -> None:
    """It waits for who was told of it."""
    seeder, other = await two(lab, PLACES["public"], complete=True)
    await trio.sleep(100)
    await other.remove()
    again = await other.session.add(CONTENT.metainfo, directory=lab.place())
    with trio.fail_after(SEEDS_APART):
        await again.wait_complete()
    assert seeder.complete


@scenario()
async def test_a_seed_of_a_tracker_is_given_up(lab: Lab) -> None:
    """After three connections in vain, whoever made them, and never again."""
    seeder = await lab.seed(CONTENT, lab.host("30.0.0.1"))
    other = await lab.seed(CONTENT, lab.host("30.0.1.1"))
    assert seeder.transfer is not None
    seeder.transfer.add_peers([lab.address(other.session)], "tracker", None)
    await trio.sleep(LONG)
    assert 1 <= len(dials(seeder)) <= 3
    assert dials(seeder, trio.current_time() - LONG / 2) == []
