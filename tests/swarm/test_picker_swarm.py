"""Pickers of many leechers against each other: one seeder must not have to send everything to everybody.

A small world in steps of time: every node sends as many blocks a step as its uplink takes, in turn to those it has
unchoked; a block arrives a step later, and what is verified is announced to all at once.
"""

from __future__ import annotations

import random
from collections import deque

import pytest

from btor.limits import BLOCK, MIB
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.geometry import Geometry
from btor.swarm.picker import Picker
from btor.swarm.requests import RequestQueue
from btor.swarm.source import Source

SLOTS = 8
SEEDER = 0


class Node:
    def __init__(self, name: int, geometry: Geometry, rng: random.Random) -> None:
        self.name = name
        have = Bitfield.full(geometry.piece_count) if name == SEEDER else Bitfield(geometry.piece_count)
        self.picker = Picker(geometry, have, rng)
        self.sources: dict[int, Source] = {}
        self.queues: dict[int, RequestQueue] = {}
        self.uploads: dict[int, deque[tuple[int, int]]] = {}  # whom → blocks to send
        self.unchoked: set[int] = set()
        self.credit = 0.0
        self.sent = 0
        self.doubled = 0

    def meet(self, other: Node) -> None:
        self.sources[other.name] = source = self.picker.add_source(other.name)
        self.queues[other.name] = RequestQueue()
        self.uploads[other.name] = deque()
        if other.name == SEEDER:
            self.picker.on_have_all(source)

    def wants(self, other: int) -> bool:
        return self.picker.is_interesting(self.sources[other])


class World:
    def __init__(self, size: int, piece_length: int, leechers: int, alone: float, seed: int) -> None:
        """``alone``: s that the seeder needs to send all ``size`` bytes once; every uplink is as wide as its."""
        self.rng = random.Random(seed)
        self.size = size
        self.step = alone / 100
        self.rate = size / alone
        geometry = Geometry(size, piece_length)
        self.nodes = [Node(name, geometry, random.Random(self.rng.random())) for name in range(leechers + 1)]
        for node in self.nodes:
            for other in self.nodes:
                if other is not node:
                    node.meet(other)
        self.now = 0.0
        self.wire: deque[tuple[Node, Node, int, int]] = deque()

    def run(self, steps: int) -> None:
        for step in range(steps):
            self.now += self.step
            arriving, self.wire = self.wire, deque()
            if step % 50 == 0:
                self.choke_round()
            for node in self.shuffled(self.nodes):
                self.fill_slots(node)
                self.ask(node)
            for node in self.shuffled(self.nodes):
                self.send(node)
            for block in arriving:
                self.arrive(*block)
            if all(node.picker.have.complete for node in self.nodes):
                return
        raise AssertionError("not finished")

    def shuffled(self, nodes: list[Node]) -> list[Node]:
        return self.rng.sample(nodes, len(nodes))

    def choke_round(self) -> None:
        for node in self.nodes:
            wanting = [other.name for other in self.nodes if other is not node and other.wants(node.name)]
            kept = set(self.rng.sample(wanting, min(SLOTS, len(wanting))))
            for name in node.unchoked - kept:
                other = self.nodes[name]
                other.picker.on_choked(other.sources[node.name])
                other.queues[node.name].on_dropped()
                node.uploads[name].clear()
            node.unchoked &= kept
            for name, queue in node.queues.items():
                node.picker.release(node.sources[name], queue.on_tick(self.now))
                queue.tell(node.sources[name])

    def fill_slots(self, node: Node) -> None:
        for other in self.shuffled(self.nodes):
            if len(node.unchoked) < SLOTS and other is not node and other.wants(node.name):
                node.unchoked.add(other.name)
                other.sources[node.name].choked = False

    def ask(self, node: Node) -> None:
        for name, source in node.sources.items():
            room = node.queues[name].room(self.now, source.outstanding_count)
            runs = node.picker.take(source, room, self.now)
            if runs:
                node.queues[name].on_sent(self.now, runs)
            for piece, first, count in runs:
                self.nodes[name].uploads[node.name].extend((piece, block) for block in range(first, first + count))

    def send(self, node: Node) -> None:
        node.credit = min(node.credit, BLOCK) + self.rate * self.step
        asking = [name for name, queue in node.uploads.items() if queue]
        self.rng.shuffle(asking)
        turn = 0
        while node.credit >= BLOCK and asking:
            name = asking[turn % len(asking)]
            piece, block = node.uploads[name].popleft()
            self.wire.append((node, self.nodes[name], piece, block))
            node.credit -= BLOCK
            node.sent += BLOCK
            if node.uploads[name]:
                turn += 1
            else:
                asking.remove(name)

    def arrive(self, sender: Node, node: Node, piece: int, block: int) -> None:
        source = node.sources[sender.name]
        node.queues[sender.name].on_received(self.now, BLOCK, piece, block, 1)
        requested, new, complete = node.picker.on_blocks(source, piece, block, 1)
        assert requested
        node.doubled += not new
        for other, cancelled, number in node.picker.take_cancels():
            node.queues[other.key].on_dropped([(cancelled, number, 1)])
            uploads = self.nodes[other.key].uploads[node.name]
            if (cancelled, number) in uploads:
                uploads.remove((cancelled, number))
        if complete:
            node.picker.on_verified(piece)
            for other_node in self.nodes:
                if other_node is not node:
                    other_node.picker.on_have(other_node.sources[node.name], piece)


@pytest.mark.parametrize(
    ("size", "piece_length", "alone"),
    [
        (64 * MIB, MIB // 4, 10.0),
        (64 * MIB, MIB // 4, 0.5),
        (32 * MIB, 16 * 1024, 2.0),
        (256 * MIB, MIB, 2.0),
    ],
    ids=["ordinary", "as fast as loopback", "pieces of one block", "large"],
)
def test_twenty_leechers_of_one_seeder_need_less_than_twice_the_content_of_it(
    size: int, piece_length: int, alone: float
) -> None:
    world = World(size, piece_length, 20, alone, seed=4)
    world.run(steps=220)  # 2.2 times what the seeder alone would need for one copy; twenty are made
    assert world.nodes[SEEDER].sent < 2 * size
    assert sum(node.doubled for node in world.nodes) * BLOCK < 0.05 * 20 * size
    for node in world.nodes[:3]:
        node.picker.check_invariants()
