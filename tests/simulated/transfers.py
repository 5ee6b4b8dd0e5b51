"""Whole transfers on the simulated network: a case says what the content is, who is found how, and what goes wrong.

A case has a seeder, two leechers that find the others by a UDP tracker or by the DHT, and with ``corruption`` a peer
that spoils what it sends. It is played in virtual time, the same way for the same case. ``play`` fails if the content
is not there in the end, byte for byte, if somebody honest is barred, and if a fault of the case did not happen.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal
from unittest import mock

import trio

from btor.engine.dht import Dht
from btor.engine.events import Checked
from btor.engine.session import Session, open_session
from btor.engine.torrent import Torrent
from btor.engine.transfer import Transfer
from btor.engine.udp import UdpHub, serve
from btor.limits import BLOCK
from btor.metainfo.magnet import Magnet
from btor.metainfo.torrent_file import Metainfo
from btor.settings import Settings
from btor.tracker.tracker import Tracker
from btor.wire.address import Address
from tests.engine.support import Sample, folder_sample, next_event, sample, until
from tests.simulated import network
from tests.simulated.network import Host, World
from tests.simulated.schedule import simulate
from tests.simulated.scripted_peer import DisconnectedError, ScriptedPeer

FoundBy = Literal["tracker", "dht"]
Fault = Literal["breaks", "partition", "move", "half-open", "overtaking", "repeats"]

FAULTS: Final[tuple[Fault, ...]] = ("breaks", "partition", "move", "half-open", "overtaking", "repeats")
OF_DATAGRAMS: Final = frozenset({"overtaking", "repeats"})
TRACKER: Final[Address] = ("20.0.0.1", 6969)
ROUTER: Final[Address] = ("20.0.1.1", 6881)
SEEDER, LIAR, MOVED = "20.1.0.1", "20.2.0.1", "20.9.0.1"
LEECHERS: Final = ("20.3.0.1", "20.4.0.1")
PORT: Final = 6881
BYSTANDERS: Final = 1  # node of the DHT that has no torrent
STEP: Final = 0.01  # s, of the world's clockwork: below every latency here
SECONDS: Final = 2.0  # that the seeder takes for one copy
LIMIT: Final = 7_200.0  # virtual seconds: a lost datagram costs minutes, a lost connection three
APART: Final = 8.0  # s that a partition lasts
LIFE: Final = 1.0  # s, the mean of a connection that breaks
BREAKS: Final = 2  # connections that break, or a few more
JITTER: Final = 0.5  # s, of datagrams that overtake each other
RESTART_AT: Final = 0.3  # of the pieces
LOOK: Final = 0.05  # s between two looks at how far a leecher is
IDLE: Final = 0.2  # likewise while it has no connection: minutes, where datagrams were lost
FIRST_DATAGRAMS: Final = 8  # one of so many is surely lost, or repeated: a case of 1 % must not pass without


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One transfer. Lengths in bytes; ``loss``: the share of the datagrams that never arrive."""

    seed: int
    piece_length: int
    pieces: int = 20
    many_files: bool = False
    corruption: bool = False
    restart: bool = False
    magnet: bool = False
    found_by: FoundBy = "tracker"
    loss: float = 0.0
    faults: frozenset[Fault] = frozenset()
    latency: float = 0.02

    @property
    def name(self) -> str:
        """For a person, and the id of a test."""
        parts = [f"{self.pieces}x{self.piece_length // 1024}K", "files" if self.many_files else "file"]
        parts += [word for word in ("corruption", "restart", "magnet") if getattr(self, word)]
        parts += [self.found_by, f"{self.loss:.0%}", *sorted(self.faults), f"seed{self.seed}"]
        return "-".join(parts)

    def content(self) -> Sample:
        """What is transferred: the last piece is shorter; of many files some are tiny and one is padding."""
        length = self.pieces * self.piece_length - self.piece_length // 3
        if not self.many_files:
            return sample(length, piece_length=self.piece_length, seed=self.seed)
        sizes = [1, self.piece_length + 1, 3 * self.piece_length - 7, length // 4]
        names = [(f"d{index}/f", size) for index, size in enumerate(sizes)]
        pad = -sum(sizes) % self.piece_length
        rest = length - sum(sizes) - pad
        return folder_sample([*names, ("", pad), ("empty", 0), ("rest", rest)], piece_length=self.piece_length)


@dataclass(slots=True)
class Leecher:
    """A peer that wants the content."""

    host: Host
    place: Path
    complete: trio.Event = field(default_factory=trio.Event)
    session: Session | None = None
    found: Torrent | None = None

    @property
    def transfer(self) -> Transfer | None:
        """Its exchange, once there is one that runs."""
        transfer = self.found.transfer if self.found is not None else None
        return transfer if transfer is not None and transfer.active else None

    @property
    def share(self) -> float:
        """Of the pieces, how many it has."""
        transfer = self.transfer
        return 0.0 if transfer is None else transfer.have.count / transfer.have.size


@dataclass(slots=True)
class Play:
    """A case at play, and what happened in it."""

    case: Case
    folder: Path
    happened: set[str] = field(default_factory=set)
    spoiled: int = 0
    failures: int = 0  # pieces that did not match
    ended: float = 0.0
    content: Sample = field(init=False)
    world: World = field(init=False)
    rng: random.Random = field(init=False)
    leechers: list[Leecher] = field(init=False)

    def __post_init__(self) -> None:
        case = self.case
        self.content = case.content()
        self.rng = random.Random(case.name)
        self.world = World(
            case.seed,
            datagram_loss=case.loss,
            datagram_repeats=0.1 if "repeats" in case.faults else 0.0,
            datagram_jitter=JITTER if "overtaking" in case.faults else 0.0,
            connection_life=LIFE if "breaks" in case.faults else None,
        )
        self.world.schedule.step = STEP
        self.world.surely = self.rng.randrange(FIRST_DATAGRAMS)
        rate = len(self.content.content) / SECONDS
        self.leechers = [Leecher(self.host(ip, up=rate), self.folder / f"leecher {ip}") for ip in LEECHERS]

    def host(self, ip: str, up: float | None = None) -> Host:
        """A machine on the internet."""
        return self.world.host(ip, up=up, latency=self.case.latency, udp=True)

    async def run(self) -> None:
        """Play it to the end."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.world.run)
            if self.case.found_by == "tracker":
                nursery.start_soon(self.track)
            else:
                for number in range(1 + BYSTANDERS):
                    await self.be_node(nursery, number)
            rate = len(self.content.content) / SECONDS
            await nursery.start(self.seed, self.host(SEEDER, up=rate))
            async with trio.open_nursery() as leeching:
                for leecher in self.leechers:
                    leeching.start_soon(self.leech, leecher)
                for fault in sorted(self.case.faults - OF_DATAGRAMS):
                    leeching.start_soon(getattr(self, f"do_{fault.replace('-', '_')}"))
                if self.case.corruption:
                    nursery.start_soon(self.lie)
                for leecher in self.leechers:
                    await leecher.complete.wait()
                self.ended = trio.current_time()
                self.look()
                leeching.cancel_scope.cancel()
            nursery.cancel_scope.cancel()

    @staticmethod
    async def reaches(leecher: Leecher, share: float) -> None:
        """Wait until ``leecher`` has more than that share of the pieces."""
        while leecher.share <= share:  # noqa: ASYNC110  # it has no event
            await trio.sleep(LOOK if leecher.host.ends else IDLE)

    # -- who is there ---------------------------------------------------------------------------------------------

    def settings(self, **more: Any) -> Settings:
        """Of every session."""
        bootstrap = (f"{ROUTER[0]}:{ROUTER[1]}",)
        by_dht = self.case.found_by == "dht"
        return Settings(strict=True, hashers=0, port=PORT, dht=by_dht, dht_bootstrap=bootstrap, lsd=False, **more)

    def source(self, *, magnet: bool) -> Metainfo | Magnet:
        """What a session is given."""
        metainfo = self.content.metainfo
        trackers = (f"udp://{TRACKER[0]}:{TRACKER[1]}/announce",) if self.case.found_by == "tracker" else ()
        if magnet:
            return Magnet(metainfo.info_hashes, trackers=trackers)
        return replace(metainfo, trackers=(trackers,) if trackers else ())

    async def track(self) -> None:
        """A UDP tracker."""
        tracker = Tracker(random.Random(1), bytes(32), trio.current_time(), interval=60.0)
        sock = self.host(TRACKER[0]).open_udp(*TRACKER)

        def answer(packet: bytes, sender: Address) -> None:
            reply = tracker.answer_udp(packet, sender, trio.current_time())
            if reply is not None:
                sock.sendto(reply, sender)

        await serve(sock, answer)

    async def be_node(self, nursery: trio.Nursery, number: int) -> None:
        """A node of the DHT that others can begin with."""
        host = self.host(f"20.0.{1 + number}.1")
        sockets = host.open_udp_sockets((), PORT)
        begin = [] if not number else [f"{ROUTER[0]}:{ROUTER[1]}"]
        dht = Dht(sockets, host, rng=random.Random(f"{number} {self.case.seed}"), bootstrap=begin)
        hub = UdpHub(sockets)
        hub.on_dht = dht.on_datagram
        await nursery.start(hub.run)
        nursery.start_soon(dht.run)
        dht.start()

    async def seed(self, host: Host, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Has everything and gives it."""
        top = self.content.write(self.folder / "seeder" / self.content.metainfo.name)
        async with open_session(self.settings(), network=host, rng=random.Random(self.case.seed)) as session:
            await session.add(self.source(magnet=False), output=top, seed_only=True)
            task_status.started()
            await trio.sleep_forever()

    async def leech(self, leecher: Leecher) -> None:
        """Wants everything; the first one stops on the way and begins again, if that is so."""
        if leecher is self.leechers[0] and self.case.restart:
            async with self.life(leecher):
                await self.reaches(leecher, RESTART_AT)
        async with self.life(leecher) as found:
            if leecher is self.leechers[0] and self.case.restart:
                checked = await next_event(found, Checked)
                if 0 < checked.have_pieces < self.content.pieces:
                    self.happened.add("restart")
            await found.wait_complete()
            leecher.complete.set()
            await trio.sleep_forever()

    @asynccontextmanager
    async def life(self, leecher: Leecher) -> AsyncIterator[Torrent]:
        """A session of a leecher, with the torrent in it."""
        ip = leecher.host.ips[0]
        settings = self.settings(state_dir=self.folder / f"state {ip}")
        rng = random.Random(f"{ip} {self.case.seed}")
        async with open_session(settings, network=leecher.host, rng=rng) as session:
            leecher.session = session
            leecher.found = await session.add(self.source(magnet=self.case.magnet), directory=leecher.place)
            try:
                yield leecher.found
            finally:
                if leecher.found.transfer is not None:
                    self.failures += leecher.found.transfer.hash_failures

    async def lie(self) -> None:
        """Calls the first leecher again and again, has everything, and spoils a block in three."""
        host = self.host(LIAR)
        target = self.leechers[0]

        def spoil(piece: int, begin: int) -> bool:
            spoils = (piece + begin // BLOCK) % 3 == 0
            self.spoiled += spoils
            return spoils

        while True:
            await until(lambda: target.transfer is not None, step=IDLE)
            try:
                transport = await host.connect((target.host.ips[0], PORT))
                peer = ScriptedPeer(transport)
                await peer.handshake(self.content.metainfo.info_hash)
                await peer.bitfield(range(self.content.pieces), self.content.pieces)
                await peer.serve(self.content.content, self.case.piece_length, spoil=spoil)
                transport.close()
            except (OSError, DisconnectedError):
                pass
            await trio.sleep(LOOK)

    # -- what goes wrong ------------------------------------------------------------------------------------------

    async def do_breaks(self) -> None:
        """Connections break, until some have."""
        await until(lambda: self.world.broken >= BREAKS, step=LIFE)
        self.world.connection_life = None

    async def do_partition(self) -> None:
        """The second leecher is on an island for a while."""
        target = self.leechers[1]
        await self.reaches(target, 0.1)
        self.world.partition([target.host])
        await trio.sleep(APART)
        if self.world.held:
            self.happened.add("partition")
        self.world.heal()

    async def do_move(self) -> None:
        """The second leecher has another address from one moment to the next."""
        target = self.leechers[1]
        await self.reaches(target, 0.15)
        if target.host.ends and not target.complete.is_set():
            self.happened.add("move")
        target.host.move(MOVED)

    async def do_half_open(self) -> None:
        """The first leecher's connections are gone, and the others do not know."""
        target = self.leechers[0]
        await self.reaches(target, 0.1)
        if target.host.ends and not target.complete.is_set():
            self.happened.add("half-open")
        target.host.vanish()

    # -- what came of it ------------------------------------------------------------------------------------------

    def look(self) -> None:
        """AssertionError unless everything is there, nobody honest is barred, and every fault has happened."""
        case, world = self.case, self.world
        for leecher in self.leechers:
            assert leecher.found is not None and leecher.session is not None
            assert self.content.is_at(leecher.found.keeper.content.top)
            for host in world.hosts.values():
                barred = leecher.session.bans.bars((host.ips[0], PORT))
                assert not barred or host.ips[0] == LIAR, f"{host.ips[0]} is barred"
            transfer = leecher.found.transfer
            assert transfer is not None
            transfer.picker.check_invariants()
            self.failures += transfer.hash_failures
        counted = {
            "corruption": self.spoiled and self.failures,
            "loss": world.lost,
            "repeats": world.repeated,
            "overtaking": world.overtaken,
            "breaks": world.broken,
        }
        self.happened |= {name for name, count in counted.items() if count}
        named = {name for name in ("corruption", "restart") if getattr(case, name)} | set(case.faults)
        if case.loss:
            named.add("loss")
        missing = named - self.happened
        assert not missing, f"did not happen: {', '.join(sorted(missing))}"


def play(case: Case, folder: Path) -> Play:
    """Play ``case``. AssertionError, trio.TooSlowError."""
    made = Play(case, folder)
    # a block is as fine as this needs; and what a sync makes sure of no simulation can take away
    try:
        with mock.patch.object(network, "CHUNK_MIN", BLOCK), mock.patch.object(os, "fsync"):
            simulate(made.run, seed=case.seed, limit=LIMIT)
    except BaseExceptionGroup as group:
        failed: BaseException = group
        while isinstance(failed, BaseExceptionGroup) and len(failed.exceptions) == 1:
            failed = failed.exceptions[0]  # easier to read
        raise failed from None
    return made
