"""The network is gone and comes back, the machine sleeps, clocks jump: sessions go on by themselves."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections import Counter
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from btor import bencode
from btor.engine.events import PeerChange
from btor.engine.torrent import Torrent
from btor.limits import BLOCK, CONNECT_TIMEOUT, CUT_OFF, CUT_OFF_PROBE, DEAD_PEER, SUSPENDED, TRACKER_STARTS
from btor.metainfo.torrent_file import parse_torrent
from btor.storage import system
from btor.wire.tracker_http import AnnounceReply
from tests.engine.support import Lab, Sample, sample, scenario, until
from tests.engine.test_announce import Torrent as Announced
from tests.engine.test_announce import Trackers, session, torrent
from tests.simulated.network import Host
from tests.storage.torrents import random_bytes
from tests.storage.torrents import torrent as make_torrent

CONTENT = sample(100 * 2 * BLOCK)
TRACKER = "8.8.8.1"
HOURS = 2 * 3600.0
URL = f"http://{TRACKER}/announce"


def tracked(length: int = 100 * 2 * BLOCK) -> Sample:
    """A torrent that names the tracker."""
    content = random_bytes(length, 1)
    info = bencode.decode(make_torrent(content=content, piece_length=2 * BLOCK).info, depth=5, tokens=100)
    data = bencode.encode({b"announce": URL.encode(), b"info": info})
    return Sample(parse_torrent(data), content)


TRACKED = tracked()


class Interface:
    """The network of a host, which can go away. ``how``: what connecting does then."""

    def __init__(self, host: Host, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = host
        self.up = True
        self.how = how
        self.tries = 0
        self._connect: Any = host.connect
        self._resolve: Any = host.resolve
        monkeypatch.setattr(host, "connect", self.connect)
        monkeypatch.setattr(host, "resolve", self.resolve)

    def go(self) -> None:
        self.up = False
        for end in list(self.host.ends):
            end.break_connection()

    async def connect(self, *args: Any, **options: Any) -> Any:
        if self.up:
            return await self._connect(*args, **options)
        self.tries += 1
        if self.how == "silence":
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    async def resolve(self, *args: Any) -> Any:
        if self.up:
            return await self._resolve(*args)
        await trio.sleep(1)
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


async def swarm(lab: Lab, sample: Sample, host: Host, count: int = 5, up: float = 20_000) -> Torrent:
    """A torrent that a tracker told of some slow seeders, and that has begun."""
    found = await lab.leech(sample, network=host)
    await until(lambda: found.transfer is not None)
    assert found.transfer is not None
    addresses = []
    for number in range(count):
        caller = await lab.serving(sample, up=up, ip=f"40.0.{number}.1")
        addresses.append(caller)
    found.transfer.add_peers(addresses, "tracker", None)
    await until(lambda: found.status().peers == count)
    await until(lambda: found.status().have_pieces > 0)
    return found


def public_host(lab: Lab) -> Host:
    host = lab.host("30.0.0.1")
    assert isinstance(host, Host)
    return host


def banned(found: Torrent) -> bool:
    return bool(found.session.bans._barred)


# --- the interface is gone and comes back ----------------------------------------------------------------------------


@scenario(limit=3 * HOURS)
@pytest.mark.parametrize("how", ["refused", "silence"])
@pytest.mark.parametrize("away", [5.0, 60.0, 600.0, 3600.0])
async def test_F11_the_network_is_gone_for_a_while(
    lab: Lab, how: str, away: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a minute the torrent goes on with the peers that it had, however long it was."""
    host = public_host(lab)
    interface = Interface(host, how, monkeypatch)
    found = await swarm(lab, CONTENT, host)
    interface.go()
    await trio.sleep(away)
    assert found.status().peers == 0
    assert not found.complete
    began, dials = trio.current_time(), interface.tries
    interface.up = True
    await until(lambda: found.status().peers == 5, step=0.5)
    assert trio.current_time() - began < 60
    assert dials < 30 + away / CUT_OFF_PROBE  # meanwhile it did not knock without end
    await found.wait_complete()
    assert not banned(found)
    assert CONTENT.is_at(found.keeper.content.top)


@scenario()
async def test_F11_probes_are_few_and_go_round(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    host = public_host(lab)
    interface = Interface(host, "refused", monkeypatch)
    found = await swarm(lab, CONTENT, host)
    tried: list[tuple[float, str]] = []
    connect = interface.connect

    async def note(address: Any, **options: Any) -> Any:
        tried.append((trio.current_time(), address[0]))
        return await connect(address, **options)

    monkeypatch.setattr(host, "connect", note)
    interface.go()
    await trio.sleep(1200)  # by now all have been given up
    tried.clear()
    await trio.sleep(10 * CUT_OFF_PROBE)
    assert found.status().peers == 0
    times = [when for when, _ in tried]
    assert len(tried) == 10
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= CUT_OFF_PROBE
    assert set(Counter(ip for _, ip in tried).values()) == {2}


@scenario()
async def test_F11_trackers_are_asked_again_too(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a tracker is all there is: what failed while nobody could be reached is no reason to wait."""
    host = public_host(lab)
    interface = Interface(host, "refused", monkeypatch)
    trackers = Trackers(lab.world, lab.nursery)
    await trackers.http(TRACKER, AnnounceReply(interval=300))
    lab.world.names["tracker.example"] = [TRACKER]
    found = await swarm(lab, TRACKED, host)
    assert len(trackers.said) == 1
    interface.go()
    await trio.sleep(1300)  # in the middle of a long rest
    began = trio.current_time()
    interface.up = True
    await until(lambda: found.status().peers > 0, step=0.5)
    await until(lambda: len(trackers.said) > 1, step=0.5)
    assert trio.current_time() - began < 60


@scenario()
async def test_F11_a_tracker_whose_name_cannot_be_looked_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started without a network: the tracker's name is asked for every minute, and then it goes on."""
    host = public_host(lab)
    interface = Interface(host, "refused", monkeypatch)
    interface.up = False
    trackers = Trackers(lab.world, lab.nursery)
    await trackers.http(TRACKER, AnnounceReply(interval=300))
    info = bencode.decode(TRACKED.metainfo.info, depth=5, tokens=100)
    data = bencode.encode({b"announce": b"http://tracker.example/announce", b"info": info})
    lab.world.names["tracker.example"] = [TRACKER]
    found = await lab.leech(Sample(parse_torrent(data), TRACKED.content), network=host)
    await trio.sleep(2000)
    assert not trackers.said
    interface.up = True
    began = trio.current_time()
    await until(lambda: bool(trackers.said), step=0.5)
    assert trio.current_time() - began < 70
    assert found.error is None


@scenario()
async def test_a_lonely_torrent_does_not_knock_where_nobody_ever_answered(lab: Lab) -> None:
    """Visitors come and go; addresses that never answered are not tried again for that."""
    host = public_host(lab)
    found = await lab.leech(CONTENT, network=host)
    await until(lambda: found.transfer is not None)
    assert found.transfer is not None
    found.transfer.add_peers([(f"40.1.{number}.1", 6881) for number in range(20)], "tracker", None)
    await trio.sleep(1800)
    dials = len(host.dialled)
    for _ in range(5):
        peer = await lab.join(found)
        peer.transport.close()
        await trio.sleep(2 * CUT_OFF)
    assert len(host.dialled) == dials


# --- suspended -------------------------------------------------------------------------------------------------------


class Sleeper:
    """The machine's sleep. ``counted``: whether the monotonic clock goes on meanwhile, as on some systems."""

    def __init__(self, counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counted = counted
        self.asleep = 1000.0
        monkeypatch.setattr(system, "time_asleep", lambda: self.asleep)

    def sleep(self, seconds: float) -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        if self.counted:
            clock.jump(seconds)
        else:
            self.asleep += seconds


def lose(host: Host) -> None:
    """Everybody else has given these connections up, and says nothing any more."""
    for end in list(host.ends):
        assert end._outgoing is not None and end._incoming is not None
        end._outgoing.break_off()
        end._incoming.break_off()


@scenario(limit=10 * HOURS)
@pytest.mark.parametrize("counted", [False, True])
async def test_F10_a_suspended_laptop(lab: Lab, counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers that are gone are noticed at once, the tracker is asked once within 30 s, nobody is barred."""
    sleeper = Sleeper(counted, monkeypatch)
    host = public_host(lab)
    trackers = Trackers(lab.world, lab.nursery)
    await trackers.http(TRACKER, AnnounceReply(interval=1_800))
    found = await swarm(lab, TRACKED, host)
    await trio.sleep(1)
    heard = found.events()
    lose(host)
    await trio.sleep(1)  # what was on its way has arrived
    woke = len(trackers.said)
    sleeper.sleep(HOURS)
    began = trio.current_time()
    await trio.sleep(5)
    lost = [event async for event in _so_far(heard) if isinstance(event, PeerChange) and event.change == "disconnected"]
    assert len(lost) == 5
    await until(lambda: found.status().peers == 5, step=0.5)
    assert trio.current_time() - began < 60
    await trio.sleep(max(0.0, began + 30 - trio.current_time()))
    assert len(trackers.said) == woke + 1
    await found.wait_complete()
    assert not banned(found)
    assert TRACKED.is_at(found.keeper.content.top)


async def _so_far(events: Any) -> Any:
    """The events that are there already."""
    while events._queue:
        yield await events.__anext__()


@scenario()
@pytest.mark.parametrize("counted", [False, True])
async def test_F10_a_short_sleep_loses_nobody(lab: Lab, counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = Sleeper(counted, monkeypatch)
    host = public_host(lab)
    found = await swarm(lab, CONTENT, host, up=4_000)
    heard = found.events()
    for seconds in (SUSPENDED - 1, SUSPENDED + 1, DEAD_PEER - 10):
        sleeper.sleep(seconds)
        await trio.sleep(20)
    lost = [event async for event in _so_far(heard) if isinstance(event, PeerChange) and event.change == "disconnected"]
    assert not lost


@scenario(limit=10 * HOURS)
async def test_F10_whoever_spoke_meanwhile_is_kept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process was stopped, not the machine: what peers said waits in the sockets, and is read first."""
    sleeper = Sleeper(True, monkeypatch)
    host = public_host(lab)
    found = await lab.leech(CONTENT, network=host)
    talkers = [await lab.join(found) for _ in range(3)]
    mute = await lab.join(found)
    await trio.sleep(1)
    for peer in talkers:
        await peer.keep_alive()
    sleeper.sleep(HOURS)
    await trio.sleep(5)
    assert found.status().peers == 3
    await mute.wait_closed()
    assert not banned(found)


async def test_F10_announces_of_many_torrents_do_not_come_in_a_burst(autojump_clock: MockClock) -> None:
    async with session() as (announcer, trackers):
        trackers.udp(TRACKER)
        many: list[Announced] = []
        for number in range(4 * TRACKER_STARTS):
            one = torrent([f"udp://{TRACKER}:6969/announce"])
            one.info_hash = number.to_bytes(20, "big")
            many.append(one)
            announcer.add(one)
        await trio.sleep(60)
        assert len(trackers.said) == len(many)
        for sleep in (HOURS, 0.0):
            trackers.said.clear()
            autojump_clock.jump(sleep)
            announcer.on_time_missed(0.0 if sleep else HOURS)
            began = trio.current_time()
            await trio.sleep(30)
            assert len(trackers.said) == len(many)
            seconds = Counter(int(when - began) for when, _, _ in trackers.said)
            assert max(seconds.values()) <= TRACKER_STARTS * 1.1  # the network shifts them a little
            tenths = Counter(int(10 * (when - began)) for when, _, _ in trackers.said)
            assert max(tenths.values()) <= TRACKER_STARTS / 10 * 3
            await trio.sleep(100)


def test_the_time_asleep_is_that_of_the_system() -> None:
    assert system.time_asleep() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic(), abs=0.01)


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "HAS_SLEEP_CLOCK", False)
    assert system.time_asleep() == 0.0


# --- the wall clock --------------------------------------------------------------------------------------------------


@scenario()
@pytest.mark.parametrize("years", [-10, 10])
async def test_F10_the_wall_clock_is_set(lab: Lab, years: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is lost, nothing is asked for that, and it goes on."""
    host = public_host(lab)
    trackers = Trackers(lab.world, lab.nursery)
    await trackers.http(TRACKER, AnnounceReply(interval=1_800))
    found = await swarm(lab, TRACKED, host)
    heard = found.events()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + years * 365 * 86_400)
    announced = len(trackers.said)
    await found.wait_complete()
    await trio.sleep(5)
    changes = [event async for event in _so_far(heard) if isinstance(event, PeerChange)]
    assert all(event.reason == "both are complete" for event in changes)
    assert [event for _, _, event in trackers.said[announced:]] == ["completed"]
    assert not banned(found)


def test_bounds() -> None:
    """They fit together: a probe that hangs is over before the next but one."""
    assert CONNECT_TIMEOUT < CUT_OFF_PROBE < CUT_OFF < SUSPENDED < DEAD_PEER
