"""Peers that offer, send, lie, refuse, stall and leave in any order: what becomes of the metadata (BEP 9)."""

from __future__ import annotations

import hashlib
import sys

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, rule

from btor.errors import PeerError
from btor.limits import METADATA_ASKED, METADATA_ATTEMPTS, METADATA_PIECE, METADATA_REST, METADATA_STALL
from btor.metainfo.info_hashes import InfoHashes
from btor.swarm.metadata import MetadataFetch
from tests.machine import Bug, Machine, explore, finds, named
from tests.storage.torrents import random_bytes

PIECES = 10
INFO = random_bytes((PIECES - 1) * METADATA_PIECE + 100)
HASHES = InfoHashes(hashlib.sha1(INFO).digest(), None)
WRONG_SIZES = [len(INFO) - 1, METADATA_PIECE, len(INFO) + METADATA_PIECE]


def piece_of(size: int, piece: int, right: bool) -> bytes:
    """What a peer sends that claims ``size`` bytes."""
    data = (INFO + bytes(METADATA_PIECE * 2))[piece * METADATA_PIECE : min(size, (piece + 1) * METADATA_PIECE)]
    return data if right else bytes([data[0] ^ 0xFF]) + data[1:]


class MetadataMachine(Machine):
    """The model: what each peer claims, what it was asked, and who has ever sent a wrong byte."""

    peers = Bundle("peers")

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.keys = 0
        self.renew()

    def renew(self) -> None:
        self.fetch = MetadataFetch(HASHES)
        self.claims: dict[int, int | None] = {}
        self.asked: dict[int, dict[int, float]] = {}
        self.resting: dict[int, float] = {}
        self.liars: set[int] = set()  # who has sent a wrong byte, or claims a wrong size
        self.guilty: set[int] = set()

    @rule(target=peers, size=st.sampled_from([len(INFO), len(INFO), len(INFO), None, *WRONG_SIZES]))
    def offer(self, size: int | None) -> int:
        self.keys += 1
        self.say(self.keys, size)
        return self.keys

    def say(self, key: int, size: int | None) -> None:
        self.fetch.on_offer(key, size)
        if self.claims.get(key) != size:
            self.asked[key] = {}
        self.claims[key] = size
        self.asked.setdefault(key, {})
        if size not in (len(INFO), None):
            self.liars.add(key)
        self.settle()

    @rule(key=peers, size=st.sampled_from([len(INFO), None, *WRONG_SIZES]))
    def change_of_mind(self, key: int, size: int | None) -> None:
        if key in self.claims:
            self.say(key, size)

    @rule(key=consumes(peers))
    def leave(self, key: int) -> None:
        self.fetch.on_gone(key)
        self.claims.pop(key, None)
        self.asked.pop(key, None)
        self.resting.pop(key, None)
        self.settle()

    @rule(seconds=st.sampled_from([0.1, 1.1, METADATA_STALL, METADATA_REST]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.ask()

    @rule()
    def ask(self) -> None:
        for key, when in self.asked.items():  # who stalls rests
            if when and self.now - max(self.heard(key), min(when.values())) >= METADATA_STALL:
                self.rest(key)
        for key, piece in self.fetch.take_requests(self.now):
            size = self.claims[key]
            assert size is not None
            assert 0 <= piece < -(-size // METADATA_PIECE)
            assert piece not in self.asked[key]
            assert self.now >= self.resting.get(key, 0.0)
            assert key not in self.guilty
            self.asked[key][piece] = self.now
            assert len(self.asked[key]) <= METADATA_ASKED
        self.settle()

    def heard(self, key: int) -> float:
        return self.fetch._peers[key].heard

    def rest(self, key: int) -> None:
        self.asked[key].clear()
        self.resting[key] = self.now + METADATA_REST

    @rule(key=peers, which=st.integers(0, 9), right=st.sampled_from([True, True, True, False]), count=st.integers(1, 9))
    def send(self, key: int, which: int, right: bool, count: int) -> None:
        """Answers to what it was asked, in any order."""
        for _ in range(count):
            size = self.claims.get(key)
            if not self.asked.get(key) or size is None:
                return
            pieces = sorted(self.asked[key])
            piece = pieces[which % len(pieces)]
            del self.asked[key][piece]
            if not right:
                self.liars.add(key)
            self.fetch.on_data(key, piece, size, piece_of(size, piece, right), self.now)
            self.resting.pop(key, None)
            self.settle()
            self.drop_void()
        self.ask()

    def drop_void(self) -> None:
        """A whole that was wrong is thrown away, and with it what was asked for it."""
        for key, when in self.asked.items():
            for piece in when.keys() - self.fetch._peers[key].asked.keys():
                del when[piece]

    @rule(key=peers, piece=st.integers(0, 30), right=st.booleans())
    def send_unasked(self, key: int, piece: int, right: bool) -> None:
        """It is ignored, unless it is a late answer."""
        size = self.claims.get(key)
        if size is None or piece in self.asked[key] or piece in self.fetch._peers[key].late:
            return
        before = self.fetch.progress
        self.fetch.on_data(key, piece, size, piece_of(len(INFO), 0, right), self.now)
        assert self.fetch.progress == before
        self.settle()

    @rule(key=peers, cut=st.booleans())
    def send_misfit(self, key: int, cut: bool) -> None:
        """A wrong total, or a piece that is too short, is the peer's fault at once."""
        size = self.claims.get(key)
        if size is None or not self.asked[key]:
            return
        piece = min(self.asked[key])
        data = piece_of(size, piece, True)
        with pytest.raises(PeerError):
            self.fetch.on_data(key, piece, size if cut else size + 1, data[:-1] if cut else data, self.now)
        self.leave(key)  # as the engine does

    @rule(key=peers, which=st.integers(0, 9))
    def reject(self, key: int, which: int) -> None:
        if not self.asked.get(key):
            return
        pieces = sorted(self.asked[key])
        self.fetch.on_reject(key, pieces[which % len(pieces)], self.now)
        self.rest(key)
        self.ask()

    @rule()
    def begin_again(self) -> None:
        """A new torrent, once this one has its metadata."""
        if self.fetch.result is not None:
            sizes = dict(self.claims)
            self.renew()
            for key, size in sizes.items():
                self.say(key, size)

    def settle(self) -> None:
        fetch = self.fetch
        guilty = set(fetch.take_guilty())
        assert guilty <= self.liars  # nobody else is ever barred
        for key in guilty:
            self.guilty.add(key)
            if key in self.claims:
                self.leave(key)
        if fetch.result is not None:
            assert fetch.result == INFO
            assert not fetch.take_requests(self.now)
            for when in self.asked.values():
                when.clear()
            return
        assert len(fetch._attempts) <= METADATA_ATTEMPTS
        for attempt in fetch._attempts:
            every = set(range(-(-attempt.size // METADATA_PIECE)))
            parts = [set(attempt.pieces), set(attempt.free), set(attempt.asked)]
            assert set().union(*parts) == every  # no piece is lost
            assert sum(map(len, parts)) == len(every)
            for piece in attempt.asked:  # and what is asked somebody owes
                assert any(piece in peer.asked and attempt.takes(key, peer) for key, peer in fetch._peers.items()), (
                    "asked of nobody"
                )
        assert fetch.offers == sum(size is not None for size in self.claims.values())
        had, wanted = fetch.progress
        assert 0 <= had <= wanted

    def teardown(self) -> None:
        """Whatever the others do, one honest peer that answers is enough."""
        if not hasattr(self, "fetch") or sys.exc_info()[0] is not None:
            return
        honest = self.keys = self.keys + 1
        self.say(honest, len(INFO))
        for _ in range(200):
            if self.fetch.result is not None:
                return
            self.now += 1.0
            self.ask()
            for _ in range(len(self.asked.get(honest, ()))):
                self.send(honest, 0, True, 1)
        assert self.fetch.result is not None


def test_any_order_of_events() -> None:
    explore(MetadataMachine)


BUGS = [
    Bug(
        "who sends a wrong whole alone is not found out",
        MetadataFetch,
        "_judge",
        "if len(attempt.senders) == 1:",
        "if attempt.senders:",
    ),
    Bug("a piece whose peer left is asked of nobody", MetadataFetch, "_free", "attempt.free[piece] = None", "pass"),
    Bug("any whole will do", MetadataFetch, "_judge", "if attempt.matches():", "if True:"),
]


@named(BUGS)
def test_planted_bugs_are_found(bug: Bug) -> None:
    finds(MetadataMachine, bug)
