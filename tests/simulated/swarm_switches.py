"""Switches for simulated swarms: each takes one mechanism away from all sessions, and nothing else."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Literal
from unittest import mock

from btor import limits
from btor.engine import choking
from btor.swarm.availability import Availability
from btor.swarm.choker import Choker
from btor.swarm.picker import Picker


@contextlib.contextmanager
def rarest_first_off(order: Literal["random", "ascending"]) -> Iterator[None]:
    """New pieces are taken in this order, however many have them."""
    real = Availability.ranked

    def ranked(self: Availability, pieces: int, enough: int, window: Any = None, *, common_first: bool = False) -> Any:
        nobody = Availability(self.size)  # has nothing: all pieces are equally rare
        if order == "random":
            return real(nobody, pieces, enough)
        classes: list[Any] = []
        while pieces and len(classes) < enough:
            lowest = 1 << pieces.bit_length() - 1
            pieces ^= lowest
            classes += real(nobody, lowest, 1)
        return classes

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
