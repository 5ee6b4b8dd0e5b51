"""The open pieces of a torrent: their running SHA-1, fed from the receive buffer as blocks arrive.

What arrives in order is hashed where it lies. What arrives early is copied and waits, within one bound for the whole
session; a piece that does not get a place is read back from disk when it is complete. Memory does not grow with the
piece length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from btor import limits
from btor.metainfo.geometry import Geometry


class EarlyBytes:
    """How many bytes wait out of order, for all torrents of a session. ``limit`` in bytes."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int = limits.OUT_OF_ORDER) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> bool:
        """Reserve ``size`` bytes; False when they do not fit."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        """Free ``size`` reserved bytes."""
        self.used -= size


class _OpenPiece:
    __slots__ = ("early", "next", "sha1")

    def __init__(self) -> None:
        self.sha1 = hashlib.sha1(usedforsecurity=False)
        self.next = 0  # all bytes before are hashed
        self.early: dict[int, bytes] = {}


class OpenPieces:
    """The running hashes of one torrent. ``early`` is the bound that its session shares; alone it has its own."""

    __slots__ = ("_early", "_geometry", "_lost", "_open")

    def __init__(self, geometry: Geometry, early: EarlyBytes | None = None) -> None:
        self._geometry = geometry
        self._early = early if early is not None else EarlyBytes()
        self._open: dict[int, _OpenPiece] = {}
        self._lost: set[int] = set()  # open pieces that must be read back

    def __len__(self) -> int:
        return len(self._open) + len(self._lost)

    def feed(self, piece: int, begin: int, views: Sequence[memoryview]) -> None:
        """Content of ``piece`` from byte ``begin`` on arrived: ``views`` one after the other, each byte for the first
        time. The views are not kept."""
        if piece in self._lost:
            return
        open_piece = self._open.get(piece)
        if open_piece is None:
            open_piece = self._open[piece] = _OpenPiece()
        if begin == open_piece.next:
            update = open_piece.sha1.update
            for view in views:
                update(view)
                begin += len(view)
            open_piece.next = begin
            if open_piece.early:
                self._drain(open_piece)
        elif begin > open_piece.next and begin not in open_piece.early:
            self._hold(piece, open_piece, begin, views)
        else:  # bytes seen before: what they hold now is on disk, the hash is of what came first
            self._lose(piece)

    def digest(self, piece: int) -> bytes | None:
        """The SHA-1 of ``piece``, which is complete, and forget it. None: it must be read back."""
        self._lost.discard(piece)
        open_piece = self._open.pop(piece, None)
        if open_piece is None:
            return None
        self._free(open_piece)
        if open_piece.next != self._geometry.piece_size(piece):
            return None
        return open_piece.sha1.digest()

    def drop(self, piece: int) -> None:
        """Forget ``piece``."""
        self._lost.discard(piece)
        open_piece = self._open.pop(piece, None)
        if open_piece is not None:
            self._free(open_piece)

    def clear(self) -> None:
        """Forget all pieces, so that the session's bound is free again."""
        for piece in list(self._open):
            self.drop(piece)
        self._lost.clear()

    def _hold(self, piece: int, open_piece: _OpenPiece, begin: int, views: Sequence[memoryview]) -> None:
        if self._early.take(sum(map(len, views))):
            open_piece.early[begin] = b"".join(views)
        else:
            self._lose(piece)

    def _drain(self, open_piece: _OpenPiece) -> None:
        while (data := open_piece.early.pop(open_piece.next, None)) is not None:
            self._early.give_back(len(data))
            open_piece.sha1.update(data)
            open_piece.next += len(data)

    def _lose(self, piece: int) -> None:
        self._free(self._open.pop(piece))
        self._lost.add(piece)

    def _free(self, open_piece: _OpenPiece) -> None:
        self._early.give_back(sum(map(len, open_piece.early.values())))
        open_piece.early.clear()
