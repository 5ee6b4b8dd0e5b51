"""The session's choker at work: shows `swarm.choker` the peers of all torrents and carries out what it decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import trio

from btor.limits import CHOKE_ROUND
from btor.swarm.choker import Candidate, Choker

if TYPE_CHECKING:
    import random

    from btor.engine.peer import Peer


class Choking:
    """Rounds of ten seconds, and free slots given at once in between."""

    def __init__(self, slots: int, peers: Callable[[], Iterable[Peer]], rng: random.Random) -> None:
        self.choker = Choker(slots)
        self._peers = peers
        self._rng = rng

    async def run(self) -> None:
        """For ever."""
        while True:
            await trio.sleep(CHOKE_ROUND)
            self.round(trio.current_time())

    def round(self, now: float) -> None:
        """Choke and unchoke by what happened since the last round."""
        peers = list(self._peers())
        unchoked = self.choker.rechoke([self._candidate(peer) for peer in peers], now, self._rng)
        for peer in peers:
            if peer.key not in unchoked:
                peer.choke(now)
        for peer in peers:
            if peer.key in unchoked:
                peer.unchoke(now)
            peer.received_round = peer.sent_round = 0

    def on_interested(self, peer: Peer, now: float) -> None:
        """A peer wants something: it gets a free slot at once, or that of one that wants nothing."""
        if not peer.am_choking or self._admit(peer, now):
            return
        idle = next((other for other in self._peers() if not (other.am_choking or other.peer_interested)), None)
        if idle is not None:
            idle.choke(now)
            self.choker.forget(idle.key)
            self._admit(peer, now)

    def _admit(self, peer: Peer, now: float) -> bool:
        admitted = self.choker.admit(self._candidate(peer), now)
        if admitted:
            peer.unchoke(now)
        return admitted

    def on_not_interested(self, peer: Peer, now: float) -> None:
        """A peer wants nothing more: if others wait for its slot, they get it."""
        if not peer.am_choking and self._waiting():
            peer.choke(now)
            self.choker.forget(peer.key)
            self._fill_slots(now)

    def forget(self, peer: Peer, now: float) -> None:
        """A peer is gone, and perhaps a slot free."""
        self.choker.forget(peer.key)
        if not peer.am_choking:
            self._fill_slots(now)

    def _fill_slots(self, now: float) -> None:
        """Those that wait longest come first."""
        for waiting in sorted(self._waiting(), key=lambda peer: peer.interested_since):
            if not self._admit(waiting, now):
                return

    def _waiting(self) -> list[Peer]:
        return [peer for peer in self._peers() if peer.peer_interested and peer.am_choking and peer.transfer.active]

    def _candidate(self, peer: Peer) -> Candidate:
        return Candidate(
            key=peer.key,
            interested=peer.peer_interested,
            unchoked=not peer.am_choking,
            received=peer.received_round,
            sent=peer.sent_round,
            sent_since_unchoke=peer.sent_since_unchoke,
            unchoked_at=peer.unchoked_at,
            waiting_since=max(peer.interested_since, peer.choked_at),
            connected_at=peer.connected_at,
            piece_length=peer.transfer.geometry.piece_length,
            seeding=peer.transfer.upload_only,
            snubbed=peer.queue.snubbed,
        )
