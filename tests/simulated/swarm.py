"""Whole swarms on the simulated network: real sessions, a plan for each peer, and figures of how it went.

A ``Plan`` says what a peer is like: its uplink, when it comes and goes, whether it gives. ``play`` runs all of them on
a virtual clock; each becomes a ``Life``. The same plans and seed give the same lives, so a mechanism can be switched
off (``swarm_switches``) while everything else stays.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from unittest import mock

import trio

from btor.engine.events import Checked
from btor.engine.session import Session, open_session
from btor.engine.torrent import Torrent
from btor.engine.transfer import Transfer
from btor.engine.transport import Address
from btor.limits import BLOCK
from btor.metainfo.torrent_file import Metainfo
from btor.settings import Settings
from btor.swarm.choker import Candidate, Choker, Key
from tests.simulated import network
from tests.simulated.network import Host, World
from tests.simulated.schedule import simulate
from tests.storage.torrents import random_bytes, torrent

NEVER: Final = math.inf
LOOK: Final = 0.5  # s between two looks at how far everybody is
STEP: Final = 0.005  # s, of the world's clockwork: below every latency here
ANNOUNCE: Final = 15.0  # s between two times that a peer is told of others
NOTHING: Final = 1e-9  # bytes/s: a limit under which no byte ever goes

Manner = Literal["gives", "chokes", "silent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One peer. ``up`` in bytes/s; ``latency`` one way, its part; times in seconds of the virtual clock.

    ``leaves``: it goes then, complete or not. ``lingers``: it goes that long after it is complete. ``leaves_after``: it
    goes when it has sent so many copies of the content. ``manner``: a peer that "chokes" never lets anybody ask, one
    that is "silent" lets them ask and sends no block from ``silent_from`` on. ``slots``: regular upload slots, beside
    the optimistic one. ``kind`` is for the figures.
    """

    kind: str
    up: float
    latency: float = 0.02
    seeds: bool = False
    joins: float = 0.0
    leaves: float = NEVER
    lingers: float = NEVER
    leaves_after: float = NEVER
    manner: Manner = "gives"
    silent_from: float = 0.0
    slots: int = 3


@dataclass(slots=True)
class Life:
    """What became of a plan. ``shares``: (time, share of the pieces had), a look each ``LOOK`` seconds."""

    plan: Plan
    host: Host
    finished: float = NEVER
    left: float = NEVER
    shares: list[tuple[float, float]] = field(default_factory=list)
    transfer: Transfer | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def seconds(self) -> float:
        """From coming to completion."""
        return self.finished - self.plan.joins

    @property
    def sent(self) -> int:
        """Bytes of blocks."""
        return 0 if self.transfer is None else self.transfer.uploaded

    @property
    def received(self) -> int:
        """Bytes of blocks, useless ones included."""
        return 0 if self.transfer is None else self.transfer.downloaded

    @property
    def wasted(self) -> int:
        """Bytes of blocks that were there already or no longer wanted."""
        return 0 if self.transfer is None else self.transfer.wasted

    def reached(self, share: float) -> float:
        """When it had this share of the pieces, NEVER if it did not."""
        return next((time for time, had in self.shares if had >= share), self.finished)

    def share_at(self, time: float) -> float:
        """What it had at ``time`` (the last look before)."""
        return max((had for when, had in self.shares if when <= time), default=0.0)


class Niggard(Choker):
    """A choker that never lets anybody ask."""

    def rechoke(self, candidates: Iterable[Candidate], now: float, rng: random.Random) -> set[Key]:
        return set()

    def admit(self, peer: Candidate, now: float) -> bool:
        return False


class Swarm:
    """The plans at play, and afterwards the figures.

    ``neighbours``: how many of those present a newcomer is told of. ``max_peers``: connections that each takes at most.
    ``limit``: the virtual second in which it ends if those that should complete have not.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        folder: Path,
        *,
        seed: int,
        size: int,
        piece_length: int,
        neighbours: int = 10,
        max_peers: int = 200,
        limit: float = 600.0,
    ) -> None:
        self.seed = seed
        self.size = size
        self.limit = limit
        self.ended = NEVER
        self.spread_at = NEVER  # when those that leech and give had every piece together
        self.spread_sent = NEVER  # copies that the seeders had sent by then
        self._neighbours = neighbours
        self._max_peers = max_peers
        self._folder = folder
        self._content = random_bytes(size, seed)
        self._metainfo: Metainfo = torrent(content=self._content, piece_length=piece_length)
        self._rng = random.Random(f"neighbours {seed}")
        self._present: dict[Address, None] = {}
        self._world = World(seed)
        self._world.schedule.step = STEP
        self.lives = [
            Life(plan, self._world.host(f"20.{number >> 8}.{number & 255}.1", up=plan.up, latency=plan.latency))
            for number, plan in enumerate(plans)
        ]

    # -- figures ----------------------------------------------------------------------------------------------------

    def of(self, *kinds: str) -> list[Life]:
        """The lives of these kinds."""
        return [life for life in self.lives if life.plan.kind in kinds]

    @property
    def loyal(self) -> list[Life]:
        """Those that want the content, give, and do not leave before they have it."""
        plans = [(life, life.plan) for life in self.lives]
        return [life for life, plan in plans if plan.manner == "gives" and plan.leaves == NEVER and not plan.seeds]

    @property
    def ideal(self) -> float:
        """Seconds that the swarm takes at least: a copy from the seeder, and what all want over what all can send."""
        staying = [life.plan for life in self.lives if life.plan.leaves == NEVER]
        want = float(sum(not plan.seeds for plan in staying) * self.size)
        give = 0.0
        for plan in staying:
            if plan.leaves_after < NEVER:
                want -= plan.leaves_after * self.size
            elif plan.manner == "gives":
                give += plan.up
        return max(self.size / sum(life.plan.up for life in self.of("seeder")), want / give)

    @property
    def copies(self) -> float:
        """Copies of the content that the peers of kind "seeder" have sent."""
        return sum(life.sent for life in self.of("seeder")) / self.size

    @property
    def waste(self) -> float:
        """The share of all blocks received that were of no use."""
        return sum(life.wasted for life in self.lives) / max(1, sum(life.received for life in self.lives))

    @property
    def fairness(self) -> float:
        """Between 0 and 1: what the worst served of the loyal got for its uplink, over what the median of them got.

        Got is counted in pieces each second, until it is complete or the swarm ends.
        """
        served = [
            life.share_at(self.ended) / (min(life.finished, self.ended) - life.plan.joins) / life.plan.up
            for life in self.loyal
        ]
        return min(served) / statistics.median(served)

    def tail(self, share: float) -> float:
        """Seconds from this share of the pieces to all of them, or to the end: nine in ten of the loyal take less."""
        took = [min(life.finished, self.ended) - min(life.reached(share), self.ended) for life in self.loyal]
        return sorted(took)[int(0.9 * len(took))]

    def is_intact(self, life: Life) -> bool:
        """Whether what it has on disk is the content."""
        return self._place(life).read_bytes() == self._content

    def _place(self, life: Life) -> Path:
        return self._folder / life.host.ips[0]

    # -- the play ---------------------------------------------------------------------------------------------------

    def play(self, until: Callable[[Swarm], bool] | None = None) -> Swarm:
        """Run until everybody who stays and gives is complete (or as ``until`` says), or the limit."""

        async def main() -> None:
            await self._play(until or Swarm._all_complete)

        # a block is as fine as these swarms need; smaller chunks only cost real time
        with mock.patch.object(network, "CHUNK_MIN", BLOCK):
            simulate(main, seed=self.seed, limit=2 * self.limit)
        return self

    def _all_complete(self) -> bool:
        return all(life.finished < NEVER for life in self.loyal)

    async def _play(self, until: Callable[[Swarm], bool]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._world.run)
            async with trio.open_nursery() as peers:
                for life in self.lives:
                    peers.start_soon(self._live, life)
                while trio.current_time() < self.limit and not until(self):
                    await trio.sleep(LOOK)
                    self._look(trio.current_time())
                self.ended = trio.current_time()
                peers.cancel_scope.cancel()
            nursery.cancel_scope.cancel()

    async def _live(self, life: Life) -> None:
        plan = life.plan
        await trio.sleep_until(plan.joins)
        settings = Settings(strict=True, hashers=0, upload_slots=plan.slots, max_peers=self._max_peers)
        address: Address | None = None
        try:
            life.scope.deadline = plan.leaves
            with life.scope:
                rng = random.Random(f"{life.host.ips[0]} {self.seed}")
                async with open_session(settings, network=life.host, rng=rng) as session:
                    address = (life.host.ips[0], session.port)
                    self._present[address] = None
                    await self._exchange(session, life)
        finally:
            life.left = trio.current_time()
            if address is not None:
                del self._present[address]

    async def _exchange(self, session: Session, life: Life) -> None:
        plan = life.plan
        place = self._place(life)
        if plan.seeds:
            place.write_bytes(self._content)
        if plan.manner == "chokes":
            session.choking.choker = Niggard(plan.slots)
        found = await session.add(self._metainfo, output=place, seed_only=plan.seeds)
        life.transfer = await checked(found)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._announce, found, life)
            if plan.manner == "silent":
                nursery.start_soon(_fall_silent, session, plan.silent_from)
            await found.wait_complete()
            life.finished = trio.current_time()
            await trio.sleep(plan.lingers)
            nursery.cancel_scope.cancel()

    async def _announce(self, found: Torrent, life: Life) -> None:
        """Do what a tracker does: name some of those present, now and then."""
        assert life.transfer is not None
        while True:
            others = [address for address in self._present if address[0] not in life.host.ips]
            missing = self._neighbours - len(life.transfer.peers)
            if missing > 0:
                named = self._rng.sample(others, min(missing, len(others)))
                found.on_tracker_peers("the simulation", named, None)
            await trio.sleep(ANNOUNCE)

    def _look(self, now: float) -> None:
        together = 0
        pieces = self._metainfo.geometry.piece_count
        for life in self.lives:
            if life.transfer is None or life.left < NEVER:
                continue
            have = life.transfer.have
            life.shares.append((now, have.count / pieces))
            if not life.plan.seeds and life.plan.manner == "gives":
                together |= have.to_int()
            if life.sent >= life.plan.leaves_after * self.size:
                life.scope.cancel()
        if self.spread_at == NEVER and together.bit_count() == pieces:
            self.spread_at = now
            self.spread_sent = self.copies


async def checked(found: Torrent) -> Transfer:
    """The exchange of a torrent, as soon as it is known what is on disk."""
    events = found.events()
    async for event in events:
        if isinstance(event, Checked):
            break
    events.close()
    assert found.transfer is not None
    return found.transfer


async def _fall_silent(session: Session, when: float) -> None:
    await trio.sleep_until(when)
    session.upload.rate = NOTHING
