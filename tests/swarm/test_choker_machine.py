"""Peers that come, go, want, give and fall silent in any order: who has a slot, against plain rules (BEP 3)."""

from __future__ import annotations

import random

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, rule

from btor.limits import CHOKE_FLIP_GUARD, CHOKE_ROUND, OPTIMISTIC_PERIOD, SEED_QUOTA_PIECES, SEED_QUOTA_SECONDS
from btor.swarm import choker as module
from btor.swarm.choker import JITTER, Candidate, Choker, Key
from tests.machine import Bug, Machine, explore, finds, named

PIECE = 1_000


class ChokerMachine(Machine):
    """The model: the peers, who of them is unchoked, when a round last took a slot, and when a lot was drawn."""

    peers = Bundle("peers")

    @initialize(slots=st.sampled_from([0, 1, 1, 2, 2, 3, 5]), seed=st.integers(0, 9))
    def begin(self, slots: int, seed: int) -> None:
        self.choker = Choker(slots)
        self.rng = random.Random(seed)
        self.now = 0.0
        self.keys = 0
        self.present: dict[Key, Candidate] = {}
        self.lost: dict[Key, float] = {}  # who lost a slot in a round, and when
        self.drawn: dict[Key, float] = {}  # who got an optimistic slot, and when

    @rule(
        target=peers,
        interested=st.booleans(),
        snubbed=st.booleans(),
        seeding=st.booleans(),
        priority=st.integers(0, 1),
    )
    def join(self, interested: bool, snubbed: bool, seeding: bool, priority: int) -> int:
        self.keys += 1
        self.present[self.keys] = Candidate(
            key=self.keys,
            interested=interested,
            unchoked=False,
            received=0,
            sent=0,
            sent_since_unchoke=0,
            unchoked_at=self.now,
            waiting_since=self.now,
            connected_at=self.now,
            piece_length=PIECE,
            seeding=seeding,
            snubbed=snubbed,
            priority=priority,
        )
        return self.keys

    @rule(key=consumes(peers))
    def leave(self, key: int) -> None:
        self.choker.forget(key)
        del self.present[key]
        self.lost.pop(key, None)
        self.drawn.pop(key, None)
        self.settle()

    @rule(key=peers, received=st.integers(0, 3), sent=st.sampled_from([0, 1, SEED_QUOTA_PIECES]))
    def traffic(self, key: int, received: int, sent: int) -> None:
        peer = self.present[key]
        peer.received += received * PIECE
        if peer.unchoked:
            peer.sent += sent * PIECE
            peer.sent_since_unchoke += sent * PIECE

    @rule(key=peers, snubbed=st.booleans(), seeding=st.booleans())
    def change(self, key: int, snubbed: bool, seeding: bool) -> None:
        self.present[key].snubbed, self.present[key].seeding = snubbed, seeding

    @rule(key=peers)
    def lose_interest(self, key: int) -> None:
        self.present[key].interested = False

    @rule(key=peers)
    def want(self, key: int) -> None:
        """It becomes interested, and a slot that stands empty is its own at once."""
        peer = self.present[key]
        if peer.interested:
            return
        peer.interested, peer.waiting_since = True, self.now
        had = peer.unchoked
        empty = len(self.choker._regular) < self.choker.slots and not peer.snubbed
        empty |= len(self.choker._optimistic) < self.choker.optimistic_slots
        admitted = self.choker.admit(peer, self.now)
        if not self.choker.slots or had:
            assert admitted
        else:
            assert admitted == (empty and not self.is_barred(key))
        if admitted and not had:
            self.unchoke(peer)
        self.settle()

    @rule(seconds=st.sampled_from([0.01, 1.0, CHOKE_FLIP_GUARD - JITTER, CHOKE_ROUND, 61.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(rounds=st.integers(1, 4), seed=st.integers(0, 99))
    def busy_rounds(self, rounds: int, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(rounds):
            self.now += CHOKE_ROUND
            for key in self.present:
                self.traffic(key, rng.randrange(4), rng.randrange(SEED_QUOTA_PIECES))
            self.round()

    @rule()
    def round(self) -> None:
        before = {key for key, peer in self.present.items() if peer.unchoked}
        regular = set(self.choker._regular)
        barred = {key for key in self.present if self.is_barred(key)}
        unchoked = self.choker.rechoke(list(self.present.values()), self.now, self.rng)
        wanting = {key for key, peer in self.present.items() if peer.interested}
        assert unchoked <= wanting
        if self.choker.slots:
            self.check_round(wanting - barred, unchoked, before, regular)
        else:
            assert unchoked == wanting
        for key, peer in self.present.items():
            if peer.unchoked and key not in unchoked:
                peer.unchoked, peer.waiting_since = False, self.now
                self.lost[key] = self.now
            elif key in unchoked and not peer.unchoked:
                self.unchoke(peer)
            peer.received = peer.sent = 0
        self.settle()

    def check_round(self, wanting: set[Key], unchoked: set[Key], before: set[Key], regular: set[Key]) -> None:
        """``wanting``: who is interested and has not just lost a slot."""
        choker, present = self.choker, self.present
        assert unchoked <= wanting
        lots = unchoked - choker._regular
        left = wanting - unchoked
        # no slot stands empty while somebody waits who may have it
        assert len(choker._regular) == min(choker.slots, sum(not present[key].snubbed for key in wanting))
        assert len(lots) == min(choker.optimistic_slots, len(wanting - choker._regular))
        assert not any(present[key].snubbed for key in choker._regular)
        safe = {
            key
            for key in regular & before & wanting
            if self.now - present[key].unchoked_at < CHOKE_FLIP_GUARD - JITTER and not present[key].snubbed
        }
        assert safe <= choker._regular
        for key, since in self.drawn.items():
            if key in before & wanting and self.now - since < OPTIMISTIC_PERIOD - JITTER:
                assert key in unchoked
        for key in choker._regular - safe:
            for other in left:
                if not present[other].snubbed:
                    assert self.worth(key) >= self.worth(other)

    def worth(self, key: Key) -> tuple[int, int, bool, int]:
        peer = self.present[key]
        quota = (
            peer.unchoked
            and peer.sent_since_unchoke >= SEED_QUOTA_PIECES * PIECE
            and self.now - peer.unchoked_at >= SEED_QUOTA_SECONDS
        )
        sent = peer.sent if peer.unchoked else 0
        return (peer.priority, 0 if peer.seeding else peer.received, not quota, sent)

    def unchoke(self, peer: Candidate) -> None:
        peer.unchoked, peer.unchoked_at, peer.sent_since_unchoke, peer.sent = True, self.now, 0, 0

    def is_barred(self, key: Key) -> bool:
        return self.now - self.lost.get(key, -1e9) < CHOKE_FLIP_GUARD - JITTER

    def settle(self) -> None:
        choker = self.choker
        choker.check_invariants()
        if choker.slots:
            held = choker._regular | choker._optimistic.keys()
            assert held == {key for key, peer in self.present.items() if peer.unchoked}
        for key in list(self.drawn):
            if key not in choker._optimistic:
                del self.drawn[key]
        for key in choker._optimistic:
            self.drawn.setdefault(key, self.now)


def test_any_order_of_events() -> None:
    explore(ChokerMachine)


BUGS = [
    Bug("a snubbed peer has a regular slot", Choker, "_choose_regular", "if not peer.snubbed", "if True"),
    Bug("who was choked is unchoked in the next moment", Choker, "rechoke", "self._choked_at[peer.key] = now", "pass"),
    Bug("the slot of a peer that left is never free", Choker, "forget", "self._optimistic.pop(key, None)", "pass"),
    Bug("bytes given do not count", module, "_rank", "0 if peer.seeding else -peer.received", "0"),
]


@named(BUGS)
def test_planted_bugs_are_found(bug: Bug) -> None:
    finds(ChokerMachine, bug)
