"""How much to receive at once: much from one fast peer, little from each of many, so that nobody waits long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from btor.limits import GULP_MAX, GULP_MIN

if TYPE_CHECKING:
    from btor.engine.peer import Peer

ROUND: Final = 0.02  # s over which readable peers are counted


class Gulps:
    """Counts the peers that had something to read in the last round."""

    def __init__(self) -> None:
        self._round_ends = 0.0
        self._round = 0
        self._counted = 0
        self._size = GULP_MAX

    def size(self) -> int:
        """Bytes to receive at most."""
        return self._size

    def on_gulp(self, peer: Peer, now: float) -> None:
        """``peer`` received something."""
        if now >= self._round_ends:
            self._size = min(max(GULP_MAX // max(1, self._counted), GULP_MIN), GULP_MAX)
            self._round += 1
            self._counted = 0
            self._round_ends = now + ROUND
        if peer.gulp_round != self._round:
            peer.gulp_round = self._round
            self._counted += 1
