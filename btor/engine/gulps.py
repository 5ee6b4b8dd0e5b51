"""How much to receive at once: much from one fast peer, little from each of many, so that nobody waits long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from btor.limits import GULP_MAX, GULP_MIN, GULP_TURN

if TYPE_CHECKING:
    from btor.engine.peer import Peer


class Gulps:
    """Shares out what is received in one turn of the loop among the peers that had something to read in the last one.

    Turns are not timed: one is over when a peer comes for the second time. By the clock, a turn that takes long would
    seem to be several with few peers each, their gulps would grow, and the next turn take longer still.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._counted = 0
        self._size = GULP_MAX

    def size(self) -> int:
        """Bytes to receive at most."""
        return self._size

    def on_gulp(self, peer: Peer) -> None:
        """``peer`` received something."""
        if peer.gulp_turn == self._turn:
            self._size = GULP_MAX if self._counted == 1 else max(GULP_TURN // self._counted, GULP_MIN)
            self._turn += 1
            self._counted = 0
        peer.gulp_turn = self._turn
        self._counted += 1
