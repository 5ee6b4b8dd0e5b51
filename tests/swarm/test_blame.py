"""Who is convicted, and who never is."""

from __future__ import annotations

import random

import pytest

from btor import limits
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.geometry import Geometry
from btor.swarm.blame import Blame, differing
from btor.swarm.picker import Picker
from btor.swarm.source import Source

BLOCKS = 4
GOOD = [b"%020d" % block for block in range(BLOCKS)]


def blame_of(pieces: int = 8, blocks: int = BLOCKS) -> Blame:
    return Blame(Geometry(pieces * blocks * limits.BLOCK, blocks * limits.BLOCK))


def with_lies(*blocks: int, lie: bytes = b"lie") -> list[bytes]:
    return [lie.ljust(20, b"!") if block in blocks else digest for block, digest in enumerate(GOOD)]


def test_a_single_sender_of_a_failed_piece_is_convicted_at_once() -> None:
    blame = blame_of()
    blame.on_blocks(7, 0, 0, 2)
    blame.on_blocks(7, 0, 2, 2)
    assert blame.contributors(0) == [7]
    assert not blame.needs_digests(0, passed=False)
    assert blame.on_failed(0, None) == [7]
    assert blame.contributors(0) == []
    assert not blame.needs_digests(0, passed=True)


def test_nobody_is_convicted_for_a_piece_that_is_not_all_his() -> None:
    blame = blame_of()
    blame.on_blocks(7, 0, 0, 3)  # the other block was there before
    assert not blame.needs_digests(0, passed=False)
    assert blame.on_failed(0, None) == []


def test_nobody_sent_it() -> None:
    blame = blame_of()
    assert blame.on_failed(0, GOOD) == []
    assert not blame.needs_digests(0, passed=True)
    assert blame.on_verified(0, None) == []


def test_of_several_senders_those_who_lied_are_convicted_when_the_piece_passes() -> None:
    blame = blame_of()
    for key in range(4):
        blame.on_blocks(key, 0, key, 1)
    assert blame.needs_digests(0, passed=False)
    assert blame.contributors(0) == [0, 1, 2, 3]
    assert blame.on_failed(0, with_lies(1, 3)) == []
    assert blame.contributors(0) == []
    blame.on_blocks(9, 0, 0, 4)
    assert blame.needs_digests(0, passed=True)
    assert blame.on_verified(0, GOOD) == [1, 3]
    assert not blame.needs_digests(0, passed=True)


def test_a_sender_of_two_different_blocks_is_convicted_before_the_piece_passes() -> None:
    blame = blame_of()
    blame.on_blocks(1, 0, 0, 2)
    blame.on_blocks(2, 0, 2, 2)
    assert blame.on_failed(0, with_lies(0)) == []
    blame.on_blocks(1, 0, 0, 2)
    blame.on_blocks(2, 0, 2, 2)
    assert blame.on_failed(0, with_lies(0, lie=b"another")) == [1]
    assert blame.on_verified(0, GOOD) == [1]  # and again, once


def test_a_sender_of_the_same_block_twice_is_not() -> None:
    blame = blame_of()
    for lie in (b"one", b"two"):
        blame.on_blocks(1, 0, 0, 2)
        blame.on_blocks(2, 0, 2, 2)
        assert blame.on_failed(0, with_lies(2, lie=lie)) == ([2] if lie == b"two" else [])


def test_a_restart_voids_the_record_of_the_open_piece_only() -> None:
    blame = blame_of()
    blame.on_blocks(1, 0, 0, 2)
    blame.on_blocks(2, 0, 2, 2)
    blame.on_failed(0, with_lies(0))
    blame.on_blocks(3, 0, 0, 1)
    blame.on_restarted(0)
    blame.on_restarted(5)
    assert blame.contributors(0) == []
    blame.on_blocks(4, 0, 0, 4)
    assert blame.on_failed(0, None) == [4]
    blame.on_blocks(5, 0, 0, 4)
    assert blame.on_verified(0, GOOD) == [1]


def test_failed_pieces_are_remembered_up_to_the_bound() -> None:
    blame = blame_of(pieces=limits.BLAMED_PIECES + 1)
    for piece in range(limits.BLAMED_PIECES + 1):
        blame.on_blocks(1, piece, 0, 2)
        blame.on_blocks(2, piece, 2, 2)
        if piece == limits.BLAMED_PIECES:
            assert blame.needs_digests(0, passed=True)
        assert blame.on_failed(piece, with_lies(0)) == []
    assert not blame.needs_digests(0, passed=True)
    assert blame.on_verified(0, None) == []
    assert all(blame.needs_digests(piece, passed=True) for piece in range(1, limits.BLAMED_PIECES + 1))


def test_digests_are_remembered_up_to_the_bound() -> None:
    blocks = limits.BLAMED_BYTES // 20 // 4
    blame = blame_of(pieces=5, blocks=blocks)
    digests = [bytes(20)] * blocks
    for piece in range(5):
        blame.on_blocks(1, piece, 0, 1)
        blame.on_blocks(2, piece, 1, blocks - 1)
        assert all(blame.needs_digests(earlier, passed=True) for earlier in range(piece))
        blame.on_failed(piece, digests)
    assert not blame.needs_digests(0, passed=True)
    assert blame.needs_digests(1, passed=True)
    blame.on_verified(1, digests)
    blame.on_blocks(1, 0, 0, 1)
    blame.on_blocks(2, 0, 1, blocks - 1)
    blame.on_failed(0, digests)
    assert blame.needs_digests(2, passed=True)


def test_differing_blocks() -> None:
    assert differing(b"".join(GOOD), b"".join(GOOD)) == 0
    assert differing(b"".join(GOOD), b"".join(with_lies(0, 3))) == 0b1001


class Swarm:
    """A picker and a blame fed by honest peers and liars, as an engine would do it."""

    def __init__(self, seed: int, honest: int, liars: int, *, pieces: int, room: int, reconnect: bool = False) -> None:
        self.rng = random.Random(seed)
        self.geometry = Geometry(pieces * BLOCKS * limits.BLOCK, BLOCKS * limits.BLOCK)
        self.picker = Picker(self.geometry, Bitfield(pieces), self.rng)
        self.blame = Blame(self.geometry)
        self.lying = {who: self.rng.choice([0.1, 0.5, 1.0]) for who in range(honest, honest + liars)}
        self.honest = range(honest)
        self.room = room
        self.reconnect = reconnect
        self.written: dict[tuple[int, int], bytes] = {}
        self.who: dict[int, int] = {}  # key → peer, for keys of the past too
        self.sources: dict[int, Source] = {}
        self.banned: set[int] = set()
        self.guilty: set[int] = set()  # had a lie in a piece that failed
        self.wasted = 0
        for peer in range(honest + liars):
            self.join(peer)

    def join(self, peer: int) -> None:
        key = len(self.who)
        self.who[key] = peer
        self.sources[peer] = source = self.picker.add_source(key)
        source.choked = False
        self.picker.on_have_all(source)

    def leave(self, peer: int) -> None:
        source = self.sources.pop(peer)
        self.picker.remove_source(source)

    def ban(self, keys: list[int]) -> None:
        for key in keys:
            peer = self.who[key]
            self.banned.add(peer)
            if peer in self.sources:
                self.leave(peer)

    def run(self) -> None:
        now = 0.0
        while not self.picker.have.complete:
            now += 0.1
            assert now < 1000, "stuck"
            peer = self.rng.choice(list(self.sources))
            source = self.sources[peer]
            chance = self.rng.random()
            if chance < 0.01:
                self.picker.on_choked(source)
            elif chance < 0.02 and self.reconnect:
                self.leave(peer)
                self.join(peer)
                continue
            else:
                source.choked = False
            self.picker.take(source, self.room - source.outstanding_count, now)
            for piece in self.picker.take_restarts():
                self.blame.on_restarted(piece)
            for piece, mask in list(source.outstanding.items())[:2]:
                for block in range(BLOCKS):
                    if mask >> block & 1 and not source.choked and peer not in self.banned:
                        self.deliver(peer, source, piece, block)

    def deliver(self, peer: int, source: Source, piece: int, block: int) -> None:
        _, new, complete = self.picker.on_blocks(source, piece, block, 1)
        if new:
            self.blame.on_blocks(source.key, piece, block, 1)
            lies = self.rng.random() < self.lying.get(peer, 0.0)
            self.written[piece, block] = (b"lie%d" % peer).ljust(20, b"!") if lies else GOOD[block]
        if complete:
            self.verdict(piece)

    def verdict(self, piece: int) -> None:
        digests = [self.written[piece, block] for block in range(BLOCKS)]
        contributors = self.blame.contributors(piece)
        passed = digests == GOOD
        given = digests if self.blame.needs_digests(piece, passed=passed) else None
        if passed:
            self.picker.on_verified(piece)
            self.ban(self.blame.on_verified(piece, given))
            return
        self.wasted += 1
        self.guilty |= {int(digest[3:].rstrip(b"!")) for digest in digests if digest.startswith(b"lie")}
        banned = self.blame.on_failed(piece, given)
        self.picker.on_failed(piece, contributors)
        self.ban(banned)


@pytest.mark.parametrize("reconnect", [False, True], ids=["staying", "coming back under new keys"])
def test_P6_no_honest_peer_is_banned_and_every_liar_is(reconnect: bool) -> None:
    for seed in range(500):
        rng = random.Random(seed)
        swarm = Swarm(
            seed,
            honest=rng.randint(1, 4),
            liars=rng.randint(1, 4),
            pieces=rng.randint(2, 8),
            room=rng.choice([1, 3, 8]),
            reconnect=reconnect,
        )
        swarm.run()
        assert not swarm.banned & set(swarm.honest), f"seed {seed}"
        assert swarm.banned == swarm.guilty, f"seed {seed}"


@pytest.mark.parametrize("seed", range(5))
def test_P6_twenty_honest_finish_among_eighty_hostile(seed: int) -> None:
    swarm = Swarm(seed, honest=20, liars=80, pieces=150, room=6)
    swarm.lying = dict.fromkeys(swarm.lying, 1.0)
    swarm.run()
    assert not swarm.banned & set(swarm.honest)
    assert swarm.wasted <= 2 * 80
    swarm.picker.check_invariants()
