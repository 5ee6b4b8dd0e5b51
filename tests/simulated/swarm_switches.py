"""Switches for simulated swarms: each takes one mechanism away from all sessions, and nothing else."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from unittest import mock

from btor import limits
from btor.engine import choking
from btor.swarm.availability import Availability
from btor.swarm.choker import Choker
from btor.swarm.picker import Picker


@contextlib.contextmanager
def rarest_first_off() -> Iterator[None]:
    """New pieces are taken at random, however many have them."""

    def ranked(_self: Availability, pieces: int, _enough: int, *, common_first: bool = False) -> list[int]:
        return [pieces]

    with mock.patch.object(Availability, "ranked", ranked):
        yield


class Unoptimistic(Choker):
    """All slots go by rank, as many as there were."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.slots += self.optimistic_slots
        self.optimistic_slots = 0


@contextlib.contextmanager
def optimistic_unchoke_off() -> Iterator[None]:
    """Nobody gets a slot but for what it gave."""
    with mock.patch.object(choking, "Choker", Unoptimistic):
        yield


@contextlib.contextmanager
def snubbing_off() -> Iterator[None]:
    """Nobody is ever snubbed, however long it is silent."""
    with mock.patch.object(limits, "SNUB_AFTER", math.inf):
        yield


@contextlib.contextmanager
def endgame_off() -> Iterator[None]:
    """No block is asked of a second peer while the first still owes it."""
    with mock.patch.object(Picker, "in_endgame", property(lambda _self: False)):
        yield
