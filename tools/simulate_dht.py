"""A whole DHT of btor nodes in one process: does a lookup find a peer that announced, and at what price?

One virtual hour: nodes join, some announce, half of them are replaced, and all the time nodes look for what others
announced, some of them newcomers. Then sybils crowd around a target, answer correctly, and name only each other.
Prints the figures and the seed, and ends with 1 where too few lookups succeed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from btor.dht.lookup import Lookup
from tools._dht_world import SimulatedNode, Sybil, Weather, World

MINUTE = 60.0
FOUND = 0.99  # of the lookups, at least
FOUND_AMONG_SYBILS = 0.95
SYBIL_QUESTIONS = 10  # with which each makes itself known, half of them to the neighbourhood of the target
NEIGHBOURHOOD = 64  # nodes
PROGRESS = 5 * MINUTE


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How large, and how long. Times in virtual seconds."""

    nodes: int = 10_000
    seed: int = 1
    codec: bool = False
    torrents: int = 200
    lookups: int = 2_020  # some nodes leave before theirs has ended
    join: float = 10 * MINUTE  # in which the nodes join
    hour: float = 60 * MINUTE
    churn: tuple[float, float] = (20 * MINUTE, 40 * MINUTE)  # when half of them are replaced
    newcomers: float = 0.25  # of the lookups, from nodes that joined after the churn
    announce_every: float = 15 * MINUTE
    sybil_share: float = 0.30
    sybil_targets: int = 8
    sybil_lookups: int = 25  # of each target
    sybil_bits: tuple[int, int] = (12, 40)  # that they share with the target


@dataclass
class Outcome:
    """What came of the lookups."""

    lookups: int = 0
    found: int = 0
    newcomers: int = 0
    newcomers_found: int = 0
    among_sybils: int = 0
    among_sybils_found: int = 0
    hops: Counter[int] = field(default_factory=Counter)
    asked: list[int] = field(default_factory=list)
    asked_among_sybils: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    table_sizes: list[int] = field(default_factory=list)
    messages: int = 0
    cpu: float = 0.0  # s, of the hour
    wall: float = 0.0

    @property
    def share(self) -> float:
        return self.found / max(self.lookups, 1)

    @property
    def share_of_newcomers(self) -> float:
        return self.newcomers_found / max(self.newcomers, 1)

    @property
    def share_among_sybils(self) -> float:
        return self.among_sybils_found / max(self.among_sybils, 1)


class Simulation:
    """One run of a plan."""

    def __init__(self, plan: Plan, weather: Weather | None = None) -> None:
        self.plan = plan
        self.world = World(plan.seed, weather or Weather(), codec=plan.codec)
        self.outcome = Outcome()
        self._rng = self.world.rng
        self._torrents = [self._rng.randbytes(20) for _ in range(plan.torrents)]
        self._announced: dict[bytes, int] = dict.fromkeys(self._torrents, 0)  # announces that reached a node
        self._replaced: list[SimulatedNode] = []

    def run_hour(self) -> None:
        """Joining, announcing, churn and lookups."""
        plan, world = self.plan, self.world
        cpu, wall = time.process_time(), time.monotonic()
        for number in range(plan.nodes):
            world.at(number * plan.join / plan.nodes, world.join)
        for number, torrent in enumerate(self._torrents):
            world.at(plan.join + MINUTE + number * MINUTE / plan.torrents, partial(self._announcer, torrent))
        start, end = plan.churn
        for number in range(plan.nodes // 2):
            world.at(start + (end - start) * number / (plan.nodes // 2), self._replace_one)
        first = plan.join + 4 * MINUTE
        last = plan.hour - MINUTE
        from_newcomers = int(plan.lookups * plan.newcomers)
        for number in range(plan.lookups - from_newcomers):
            when = first + (last - first) * number / (plan.lookups - from_newcomers)
            world.at(when, self._look_up)
        for number in range(from_newcomers):
            when = end + MINUTE + (last - end - MINUTE) * number / max(from_newcomers, 1)
            world.at(when, self._newcomer)
        while world.now < plan.hour:
            world.run(min(world.now + PROGRESS, plan.hour))
            tell(f"{world.now / MINUTE:.0f} virtual minutes: {len(world.nodes)} nodes, {world.messages:,} messages")
        self.outcome.table_sizes = [len(one.node.table) for one in world.nodes]
        self.outcome.messages = world.messages
        self.outcome.cpu = time.process_time() - cpu
        self.outcome.wall = time.monotonic() - wall

    def run_sybils(self) -> None:
        """For each of some targets: sybils come, then the torrent is announced, then nodes look for it."""
        plan, world = self.plan, self.world
        count = int(len(world.nodes) * plan.sybil_share / (1 - plan.sybil_share))
        for number in range(plan.sybil_targets):
            target = self._rng.randbytes(20)
            near = self._neighbourhood(target)
            for sybil in world.add_sybils(count, target, plan.sybil_bits):
                world.at(world.now + self._rng.random() * MINUTE / 4, partial(self._intrude, sybil, target, near))
            world.run(world.now + MINUTE / 2)
            self._announced[target] = 0
            self._announce(self._rng.choice(world.nodes), target)
            world.run(world.now + MINUTE / 3)
            for _ in range(plan.sybil_lookups):
                world.look_up(self._rng.choice(world.nodes), target, self._on_found_among_sybils)
                world.run(world.now + 0.5)
            world.run(world.now + MINUTE / 4)
            tell(f"target {number + 1} of {plan.sybil_targets}: {self.outcome.among_sybils_found} found so far")

    # -- what nodes do ----------------------------------------------------------------------------------------------

    def _announcer(self, torrent: bytes) -> None:
        self._announce(self._rng.choice(self.world.nodes), torrent, again=True)

    def _announce(self, simulated: SimulatedNode, torrent: bytes, *, again: bool = False) -> None:
        def told(count: int) -> None:
            self._announced[torrent] += count

        if not simulated.alive:  # another peer of that torrent
            simulated = self._rng.choice(self.world.nodes)
        self.world.announce(simulated, torrent, told)
        if again:
            when = self.world.now + self.plan.announce_every
            self.world.at(when, lambda: self._announce(simulated, torrent, again=True))

    def _replace_one(self) -> None:
        old = [self._rng.choice(self.world.nodes) for _ in range(8)]
        leaving = min(old, key=lambda one: one.joined)  # rather one of the first than one that has just come
        self.world.leave(leaving)
        self.world.join()

    def _newcomer(self) -> None:
        simulated = self.world.join()
        self.world.at(self.world.now + 20.0, lambda: self._look_up(simulated))

    def _look_up(self, simulated: SimulatedNode | None = None) -> None:
        begun = self.world.now
        torrent = self._rng.choice([one for one in self._torrents if self._announced[one]])

        def ended(one: SimulatedNode, lookup: Lookup) -> None:
            outcome, found = self.outcome, bool(lookup.peers)
            outcome.lookups += 1
            outcome.found += found
            if simulated is not None:
                outcome.newcomers += 1
                outcome.newcomers_found += found
            outcome.hops[lookup.hops] += 1
            outcome.asked.append(lookup.asked)
            outcome.seconds.append(round(self.world.now - begun, 3))

        self.world.look_up(simulated or self._rng.choice(self.world.nodes), torrent, ended)

    def _neighbourhood(self, target: bytes) -> list[SimulatedNode]:
        number = int.from_bytes(target)
        return sorted(self.world.nodes, key=lambda one: int.from_bytes(one.node.id) ^ number)[:NEIGHBOURHOOD]

    def _intrude(self, sybil: Sybil, target: bytes, near: list[SimulatedNode]) -> None:
        """Ask some nodes, so that they come to know of it."""
        from btor.wire.krpc import FIND_NODE, Query, encode_message

        for number in range(SYBIL_QUESTIONS):
            query = Query(number.to_bytes(2), FIND_NODE, sybil.id, target)
            data = encode_message(query) if self.plan.codec else query
            asked = self._rng.choice(near if number % 2 else self.world.nodes)
            self.world.send(data, sybil.address, asked.address)

    def _on_found_among_sybils(self, simulated: SimulatedNode, lookup: Lookup) -> None:
        self.outcome.among_sybils += 1
        self.outcome.among_sybils_found += bool(lookup.peers)
        self.outcome.asked_among_sybils.append(lookup.asked)


def take_huge_pages() -> None:
    """Begin anew with memory in large pages, where the system is Linux with glibc.

    Ten thousand nodes are small objects all over half a gigabyte. With pages of 4 KiB the processor spends most of its
    time on finding out where a page is: a message costs five times as much.
    """
    if sys.platform == "linux" and "PYTHONMALLOC" not in os.environ:
        environment = {**os.environ, "PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        os.execve(sys.executable, [sys.executable, "-m", "tools.simulate_dht", *sys.argv[1:]], environment)


def tell(text: str) -> None:
    """How far it has come: the whole takes a while."""
    print(text, file=sys.stderr, flush=True)


def quantiles(values: list[Any]) -> str:
    """Median, 95th percentile and maximum."""
    ordered = sorted(values) or [0]
    return (
        f"median {ordered[len(ordered) // 2]:.3g}, p95 {ordered[int(len(ordered) * 0.95)]:.3g}, max {ordered[-1]:.3g}"
    )


def report_hour(plan: Plan, outcome: Outcome) -> None:
    """What came of the hour."""
    minutes = plan.hour / MINUTE
    print(f"{plan.nodes} nodes, {minutes:.0f} virtual minutes, seed {plan.seed}")
    print(
        f"  {outcome.messages:,} messages, {outcome.messages / plan.nodes / minutes:.1f} a node and minute;"
        f" {outcome.cpu:.0f} s of CPU, {outcome.wall:.0f} s in all"
    )
    print(f"  routing tables: {quantiles(outcome.table_sizes)} nodes")
    print(f"  lookups: {outcome.found} of {outcome.lookups} found a peer ({outcome.share:.2%})")
    print(f"  of nodes that joined after the churn: {outcome.newcomers_found} of {outcome.newcomers}")
    print(f"  questions of a lookup: {quantiles(outcome.asked)}; seconds: {quantiles(outcome.seconds)}")
    for hops, count in sorted(outcome.hops.items()):
        print(f"  {hops} hops {count:6} {'#' * round(60 * count / max(outcome.hops.values()))}")


def report_sybils(plan: Plan, outcome: Outcome) -> None:
    """What came of the lookups among sybils."""
    print(
        f"  among {plan.sybil_share:.0%} sybils: {outcome.among_sybils_found} of {outcome.among_sybils} found a peer"
        f" ({outcome.share_among_sybils:.2%}); questions: {quantiles(outcome.asked_among_sybils)}"
    )


def plain(value: object) -> object:
    """``value`` with the keys of its dictionaries as text, which is all that JSON has."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def plot(outcome: Outcome, path: Path) -> None:
    """Hops, questions and seconds of the lookups, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (hops, questions, seconds) = pyplot.subplots(1, 3, figsize=(10, 3.2))
    hops.bar(list(outcome.hops), list(outcome.hops.values()))
    hops.set(xlabel="hops to the first peer", ylabel="lookups", xticks=sorted(outcome.hops))
    questions.hist(outcome.asked, bins=range(0, max(outcome.asked) + 2, 2), density=True, label="honest nodes only")
    if outcome.asked_among_sybils:
        questions.hist(outcome.asked_among_sybils, bins=30, density=True, alpha=0.6, label="among sybils")
    questions.set(xlabel="questions of one lookup", yticks=[])
    questions.legend(fontsize="small")
    seconds.hist(outcome.seconds, bins=40)
    seconds.set(xlabel="virtual seconds of one lookup")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--lookups", type=int, default=2_020)
    parser.add_argument("--torrents", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--codec", action="store_true", help="encode and decode every message")
    parser.add_argument("--no-sybils", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw a picture; all figures go to FILE.json")
    arguments = parser.parse_args()
    plan = Plan(
        nodes=arguments.nodes,
        lookups=arguments.lookups,
        torrents=arguments.torrents,
        seed=arguments.seed,
        codec=arguments.codec,
    )
    take_huge_pages()
    simulation = Simulation(plan)
    outcome = simulation.outcome
    gc.disable()  # millions of objects live long, and none of them in a circle
    simulation.run_hour()
    report_hour(plan, outcome)
    sys.stdout.flush()  # the second part takes a while, too
    if not arguments.no_sybils:
        simulation.run_sybils()
        report_sybils(plan, outcome)
    if arguments.plot:
        arguments.plot.with_suffix(".json").write_text(
            json.dumps({"plan": plain(asdict(plan)), "outcome": plain(asdict(outcome))})
        )
        plot(outcome, arguments.plot)
    good = outcome.share >= FOUND and (arguments.no_sybils or outcome.share_among_sybils >= FOUND_AMONG_SYBILS)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
