"""Open pieces, and where those with free blocks are found.

A block that has not arrived is *free* while it is asked of nobody. A piece with free blocks is in exactly one of

- ``shared``: anyone may take them;
- ``reserved``: kept for its owner, one fast source, so that pieces come from one hand where that costs no time;
- ``alone``: its owner fills it alone, and nobody else's block enters it (parole).

and, if it has an owner, in ``owner.own`` as well. Without free blocks it is in none of them, and only a piece that is
filled alone keeps its owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from btor.swarm.source import Source


class Alone:
    """What is known of a piece that one source fills at a time."""

    __slots__ = ("stalled", "suspects", "waiting_since")

    def __init__(self, suspects: set[int]) -> None:
        self.suspects = suspects  # keys of the sources that had a part when it failed; empty: it has not failed
        self.stalled = False  # its owner let go of blocks: another may begin it anew
        self.waiting_since: float | None = None  # when a source was first told to leave it to another


class OpenPiece:
    """A piece between its first request and its verdict. Sets of blocks are masks: bit i is block i."""

    __slots__ = ("alone", "extra", "free", "index", "missing", "owner")

    def __init__(self, index: int, missing: int, free: int) -> None:
        self.index = index
        self.missing = missing  # not arrived
        self.free = free  # of these, asked of nobody
        self.owner: Source | None = None
        self.extra: list[int] | None = None  # endgame: [asked of ≥ 2 sources, asked of ≥ 3, …]
        self.alone: Alone | None = None


class Partials:
    """The three indexes of open pieces with free blocks, by piece."""

    __slots__ = ("alone", "reserved", "shared")

    def __init__(self) -> None:
        self.shared: dict[int, OpenPiece] = {}
        self.reserved: dict[int, OpenPiece] = {}
        self.alone: dict[int, OpenPiece] = {}

    def __iter__(self) -> Iterator[int]:
        return chain(self.shared, self.reserved, self.alone)

    def put(self, open_: OpenPiece) -> None:
        """The piece has free blocks. Again does nothing."""
        piece = open_.index
        if open_.alone is not None:
            self.alone[piece] = open_
        elif open_.owner is not None:
            self.reserved[piece] = open_
        else:
            self.shared[piece] = open_
        if open_.owner is not None:
            open_.owner.own[piece] = open_

    def remove(self, open_: OpenPiece) -> None:
        """The piece, which is in an index, has no free blocks any more."""
        piece = open_.index
        if open_.owner is not None:
            del open_.owner.own[piece]
        if open_.alone is not None:
            del self.alone[piece]
        elif open_.owner is not None:
            open_.owner = None
            del self.reserved[piece]
        else:
            del self.shared[piece]

    def share(self, open_: OpenPiece) -> None:
        """The free blocks of a reserved piece are for anyone."""
        self.remove(open_)
        self.put(open_)
