"""Who may ask us for blocks: one choker for the whole session (BEP 3, with the seeding order of libtorrent).

Every round the interested peers are ranked and the best get the slots. Beside these, one slot in five is optimistic:
it goes to a peer drawn by lot, for 30 s, so that newcomers and snubbed peers can show what they are worth. Between
rounds an arriving peer gets a slot that stands empty.

Rank: priority of the torrent; bytes received from the peer in the last round, while we lack pieces; then, as a
seed, the peers that have not had their quota (20 pieces and 60 s), of these the ones we are sending to, the fastest
first, then those that wait longest. Snubbed peers are not ranked: only the optimistic slot is open to them.

Invariant: no key is both in ``_regular`` and ``_optimistic``; neither holds more than its slots.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from btor.limits import (
    CHOKE_FLIP_GUARD,
    NEWCOMER,
    NEWCOMER_WEIGHT,
    OPTIMISTIC_PERIOD,
    SEED_QUOTA_PIECES,
    SEED_QUOTA_SECONDS,
    SLOTS_PER_OPTIMISTIC,
    UPLOAD_SLOTS,
)

if TYPE_CHECKING:
    import random

Key = Hashable

JITTER: Final = 0.5  # seconds: rounds are never exactly 10 s apart, and a guard of 10 s must not become one of 20 s


@dataclass(slots=True, kw_only=True)
class Candidate:
    """One connected peer as the choker sees it. Times are monotonic seconds, amounts payload bytes.

    ``seeding``: our torrent is complete. ``waiting_since``: when it last became both interested and choked.
    ``unchoked_at`` and ``sent_since_unchoke`` count only while ``unchoked``.
    """

    key: Key
    interested: bool
    unchoked: bool
    received: int  # from it in the last round
    sent: int  # to it in the last round
    sent_since_unchoke: int
    unchoked_at: float
    waiting_since: float
    connected_at: float
    piece_length: int
    seeding: bool = False
    snubbed: bool = False
    priority: int = 0


class Choker:
    """The slots of a session. ``slots`` regular ones (0: everybody who is interested has one)."""

    def __init__(self, slots: int = UPLOAD_SLOTS) -> None:
        self.slots = slots
        self.optimistic_slots = max(1, slots // SLOTS_PER_OPTIMISTIC)
        self._regular: set[Key] = set()
        self._optimistic: dict[Key, float] = {}  # and when it was drawn
        self._choked_at: dict[Key, float] = {}  # by the last rounds, until the flip guard ends

    def rechoke(self, candidates: Iterable[Candidate], now: float, rng: random.Random) -> set[Key]:
        """One round, each 10 s: the keys that are unchoked from now on; all others are choked."""
        everybody = list(candidates)
        wanting = [peer for peer in everybody if peer.interested]
        if not self.slots:
            return {peer.key for peer in wanting}
        self._expire_guard(now)
        open_to = [peer for peer in wanting if peer.key not in self._choked_at]
        self._choose_regular(open_to, now, rng)
        self._choose_optimistic(open_to, now, rng)
        unchoked = self._regular | self._optimistic.keys()
        for peer in everybody:
            if peer.unchoked and peer.key not in unchoked:
                self._choked_at[peer.key] = now
        return unchoked

    def admit(self, peer: Candidate, now: float) -> bool:
        """Between rounds: whether a peer that has just become interested is unchoked at once, into an empty slot."""
        if not peer.interested:
            return False
        if not self.slots or peer.key in self._regular or peer.key in self._optimistic:
            return True
        self._expire_guard(now)
        if peer.key in self._choked_at:
            return False
        if len(self._regular) < self.slots and not peer.snubbed:
            self._regular.add(peer.key)
            return True
        if len(self._optimistic) < self.optimistic_slots:
            self._optimistic[peer.key] = now
            return True
        return False

    def forget(self, key: Key) -> None:
        """The peer is gone; its slot is free."""
        self._regular.discard(key)
        self._optimistic.pop(key, None)
        self._choked_at.pop(key, None)

    def check_invariants(self) -> None:
        """AssertionError when the slots are out of order (tests)."""
        assert not self._regular & self._optimistic.keys()
        assert len(self._regular) <= self.slots
        assert len(self._optimistic) <= self.optimistic_slots

    def _expire_guard(self, now: float) -> None:
        for key in [key for key, at in self._choked_at.items() if now - at >= CHOKE_FLIP_GUARD - JITTER]:
            del self._choked_at[key]

    def _choose_regular(self, open_to: list[Candidate], now: float, rng: random.Random) -> None:
        """The ranked peers. One that has just been unchoked keeps its slot: TCP needs seconds to show its speed."""
        ranked = sorted(
            (peer for peer in open_to if not peer.snubbed),
            key=lambda peer: (not self._guarded(peer, now), *_rank(peer, now), rng.random()),
        )
        self._regular = {peer.key for peer in ranked[: self.slots]}

    def _guarded(self, peer: Candidate, now: float) -> bool:
        return peer.unchoked and peer.key in self._regular and now - peer.unchoked_at < CHOKE_FLIP_GUARD - JITTER

    def _choose_optimistic(self, open_to: list[Candidate], now: float, rng: random.Random) -> None:
        """Keep who was drawn less than a period ago; draw for the other slots, newcomers being likelier."""
        rest = [peer for peer in open_to if peer.key not in self._regular]
        present = {peer.key for peer in rest}
        held = {key: at for key, at in self._optimistic.items() if key in present}
        kept = {key: at for key, at in held.items() if now - at < OPTIMISTIC_PERIOD - JITTER}
        # who had a turn comes again only when nobody else wants it
        fresh = [peer for peer in rest if peer.key not in held]
        had_turn = [peer for peer in rest if peer.key in held and peer.key not in kept]
        for drawn_from in (fresh, had_turn):
            while drawn_from and len(kept) < self.optimistic_slots:
                weights = [NEWCOMER_WEIGHT if now - peer.connected_at < NEWCOMER else 1 for peer in drawn_from]
                (index,) = rng.choices(range(len(drawn_from)), weights)
                kept[drawn_from.pop(index).key] = now
        self._optimistic = kept


def _rank(peer: Candidate, now: float) -> tuple[int, int, bool, int, float]:
    """Smaller is better."""
    # a choked peer counts as idle: what it got before its choke must not buy it the next slot
    sent = peer.sent if peer.unchoked else 0
    return (
        -peer.priority,
        0 if peer.seeding else -peer.received,
        _had_quota(peer, now),
        -sent,
        peer.unchoked_at if peer.unchoked else peer.waiting_since,
    )


def _had_quota(peer: Candidate, now: float) -> bool:
    return (
        peer.unchoked
        and peer.sent_since_unchoke >= SEED_QUOTA_PIECES * peer.piece_length
        and now - peer.unchoked_at >= SEED_QUOTA_SECONDS
    )
