"""When torrents announce themselves to the DHT."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from btor import limits
from btor.dht.lookup import Lookup
from btor.engine.dht import Answer
from btor.engine.dht_announce import DhtAnnouncer
from btor.wire.address import Address
from btor.wire.krpc import Reply
from tests.dht.build import contact


class Torrent:
    """What the announcer sees of one."""

    def __init__(self) -> None:
        self.info_hash = b"h" * 20
        self.port = 6881
        self.is_seed = False
        self.is_alone = False
        self.peers: list[Address] = []

    def on_dht_peers(self, peers: list[Address], node_ip: str) -> None:
        self.peers += peers


class FakeDht:
    """Answers searches with one node at ``ip``, or none; ``times``: when it was asked, ``told``: what it announced."""

    def __init__(self) -> None:
        self.nodes: list[Any] = [None]
        self.ip: str | None = "5.6.7.8"
        self.takes = 1.0
        self.times: list[float] = []
        self.told: list[tuple[int, bool]] = []
        self.started = False
        self.broken = False

    def start(self) -> None:
        self.started = True

    async def search(self, target: bytes, on_peers: Any) -> list[Answer]:
        self.times.append(trio.current_time())
        await trio.sleep(self.takes)
        if self.broken:
            raise RuntimeError("a bug")
        on_peers([("9.9.9.9", 1)], "5.6.7.8")
        lookup = Lookup(target, own=0)
        if self.ip is not None:
            one = contact(self.ip)
            lookup.add([one])
            lookup.take()
            lookup.on_reply(one, one, Reply(b"", one.id, token=b"t"), [])
        return [Answer(None, lookup)]  # type: ignore[arg-type]  # nobody looks at the node

    def announce(self, answers: list[Answer], port: int, *, seed: bool) -> int:
        self.told.append((port, seed))
        return 1


class Setup:
    """An announcer over a fake DHT, with one torrent."""

    def __init__(self, **options: Any) -> None:
        self.dht = FakeDht()
        self.torrent = Torrent()
        self.announcer = DhtAnnouncer(self.dht, **options)  # type: ignore[arg-type]  # in place of a Dht

    async def run(self, seconds: float) -> list[float]:
        """Let it go that long from now; when it searched."""
        begun = trio.current_time()
        with trio.move_on_after(seconds):
            await self.announcer.run()
        return [when - begun for when in self.dht.times]


async def test_every_15_minutes(autojump_clock: MockClock) -> None:
    setup = Setup()
    setup.announcer.add(setup.torrent)
    assert setup.dht.started
    times = await setup.run(3600)
    gaps = [later - before for before, later in pairwise(times)]
    assert times[0] == 0
    assert all(limits.DHT_ANNOUNCE <= gap <= limits.DHT_ANNOUNCE + 70 for gap in gaps)
    assert len(times) == 4
    assert setup.dht.told == [(6881, False)] * 4
    assert setup.torrent.peers == [("9.9.9.9", 1)] * 4


async def test_sooner_while_it_has_no_peer(autojump_clock: MockClock) -> None:
    setup = Setup()
    setup.torrent.is_alone = setup.torrent.is_seed = True
    setup.announcer.add(setup.torrent)
    times = await setup.run(400)
    assert times == [pytest.approx(61 * number) for number in range(7)]
    assert setup.dht.told[0] == (6881, True)


async def test_soon_on_loopback(autojump_clock: MockClock) -> None:
    for public, count in ((False, 10), (True, 4)):
        setup = Setup(loopback_is_public=public)
        setup.dht.ip = "127.0.0.1"
        setup.torrent.is_alone = True
        setup.announcer.add(setup.torrent)
        assert len(await setup.run(60)) == count


async def test_less_and_less_often_where_nobody_answers(autojump_clock: MockClock) -> None:
    setup = Setup()
    setup.dht.ip = None
    setup.torrent.is_alone = True
    setup.announcer.add(setup.torrent)
    times = await setup.run(7200)
    gaps = [later - before - 1 for before, later in pairwise(times)]
    assert gaps[:4] == [pytest.approx(limits.DHT_ANNOUNCE_RETRY * 2**number) for number in range(4)]
    assert max(gaps) == limits.DHT_ANNOUNCE


async def test_no_port_no_announce(autojump_clock: MockClock) -> None:
    setup = Setup()
    setup.torrent.port = 0
    setup.announcer.add(setup.torrent)
    await setup.run(100)
    assert setup.torrent.peers
    assert setup.dht.told == []


async def test_one_that_was_removed(autojump_clock: MockClock) -> None:
    setup = Setup()
    setup.announcer.remove(setup.torrent)
    setup.announcer.add(setup.torrent)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.announcer.run)
        await trio.sleep(0.5)  # in the middle of its search
        setup.announcer.remove(setup.torrent)
        await trio.sleep(2000)
        assert (len(setup.dht.times), setup.dht.told) == (1, [])
        setup.announcer.add(setup.torrent)
        await trio.sleep(2)
        assert len(setup.dht.told) == 1
        setup.announcer.remove(setup.torrent)
        await trio.sleep(2000)
        assert len(setup.dht.told) == 1
        nursery.cancel_scope.cancel()


async def test_without_nodes_nothing_starts(autojump_clock: MockClock) -> None:
    setup = Setup()
    setup.dht.nodes = []
    setup.announcer.add(setup.torrent)
    assert await setup.run(100) == []
    assert not setup.dht.started


async def test_a_bug_in_one_search_is_not_the_last(autojump_clock: MockClock) -> None:
    setup = Setup()
    setup.dht.broken = True
    setup.torrent.is_alone = True
    setup.announcer.add(setup.torrent)
    assert len(await setup.run(200)) == 4
