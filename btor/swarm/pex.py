"""Peer exchange (BEP 11): what one peer was told of others, and how often it may tell us."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from btor.errors import PeerError
from btor.limits import PEX_MESSAGES, PEX_PERIOD, PEX_SENT
from btor.wire.address import Address
from btor.wire.extension import PexMessage


class PexTeller:
    """What one peer was told. Who was added is dropped later, and nobody stands twice in a message."""

    __slots__ = ("_due", "_told")

    def __init__(self) -> None:
        self._told: dict[Address, None] = {}
        self._due = 0.0

    def is_due(self, now: float) -> bool:
        """Whether the peer may be told something."""
        return now >= self._due

    def take(self, connected: Mapping[Address, int], now: float) -> PexMessage | None:
        """What to tell now: how ``connected`` (peers with their flags) differs from what was told. None: nothing.

        A message is sent at most every PEX_PERIOD; while there is nothing to tell it stays due. What does not fit into
        one is left for the next.
        """
        if now < self._due:
            return None
        added = [(address, flags) for address, flags in connected.items() if address not in self._told][:PEX_SENT]
        dropped = [address for address in self._told if address not in connected][:PEX_SENT]
        if not (added or dropped):
            return None
        for address in dropped:
            del self._told[address]
        for address, _ in added:
            self._told[address] = None
        self._due = now + PEX_PERIOD
        return PexMessage(tuple(added), tuple(dropped))


class PexPace:
    """How often one peer tells us of others."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=PEX_MESSAGES)

    def on_message(self, now: float) -> None:
        """A message came. PeerError: it is one too many in PEX_PERIOD."""
        if len(self._times) == PEX_MESSAGES and now - self._times[0] < PEX_PERIOD:
            raise PeerError("peer exchange too often")
        self._times.append(now)
