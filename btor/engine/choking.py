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
        """A peer wants something: it gets a free slot at once."""
        if peer.am_choking and self.choker.admit(self._candidate(peer), now):
            peer.unchoke(now)

    def on_slot_free(self, now: float) -> None:
        """A peer that held a slot wants nothing more: let the one that waits longest try for it."""
        waiting = [peer for peer in self._peers() if peer.peer_interested and peer.am_choking]
        for peer in sorted(waiting, key=lambda peer: peer.interested_since):
            self.on_interested(peer, now)

    def forget(self, peer: Peer, now: float) -> None:
        """A peer is gone."""
        self.choker.forget(peer.key)
        if not peer.am_choking:
            self.on_slot_free(now)

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
            seeding=peer.transfer.complete,
            snubbed=peer.queue.snubbed,
        )
