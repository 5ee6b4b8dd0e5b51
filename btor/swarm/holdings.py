"""What each source has, and so which of them is worth asking.

Sources that have everything hold no bitfield and are counted once. Whether a source is interesting is known from one
piece of its that we lack, its witness; another is looked for only when we have got that one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from btor.errors import PeerError
from btor.metainfo.bitfield import Bitfield
from btor.metainfo.geometry import Geometry
from btor.swarm.availability import Availability
from btor.swarm.choices import Choices
from btor.swarm.source import Source

if TYPE_CHECKING:
    import random


class Holdings:
    """The sources of one torrent, by key, and our own pieces.

    ``have`` belongs to this object from now on: others read it. ``rng`` decides among equals. ``wanted``: the pieces
    that are to be had, None for all; ``missing`` counts those that are not.
    """

    def __init__(self, geometry: Geometry, have: Bitfield, rng: random.Random, wanted: Bitfield | None = None) -> None:
        self.geometry = geometry
        self.have = have
        self.wanted = Bitfield.full(geometry.piece_count) if wanted is None else wanted
        self._wanted = self.wanted.to_int()
        missing = self._wanted ^ (self._wanted & have.to_int())
        self.missing = missing.bit_count()
        self.sources: dict[int, Source] = {}
        self._rng = rng
        self._availability = Availability(geometry.piece_count)
        self._choices = Choices(geometry, missing, self._availability, rng)

    def add_source(self, key: int) -> Source:
        """A new source, which has nothing yet and chokes us. ``key`` is unique over all sources there ever were."""
        source = Source(key, self._availability.length)
        self.sources[key] = source
        return source

    def _forget(self, source: Source) -> None:
        self._uncount(source)
        del self.sources[source.key]

    def _uncount(self, source: Source) -> None:
        if source.complete:
            self._availability.seeds -= 1
        elif source.have_count:
            self._availability.remove(int.from_bytes(source.bits, "big"))

    def on_bitfield(self, source: Source, bitfield: Bitfield) -> None:
        """The source has exactly these pieces. ``bitfield`` is of the torrent's size and is copied."""
        self._uncount(source)
        source.have_count = bitfield.count
        source.complete = bitfield.complete
        source.witness = None
        self._choices.forget(source)
        if source.complete:
            source.bits = bytearray()
            self._availability.seeds += 1
        else:
            source.bits = bytearray(bitfield.to_wire())
            self._availability.add(bitfield.to_int())

    def on_have(self, source: Source, piece: int) -> bool:
        """The source has ``piece``; whether that is news. PeerError: there is no such piece."""
        if not 0 <= piece < self.geometry.piece_count:
            raise PeerError(f"have of piece {piece} of {self.geometry.piece_count}")
        if source.has(piece):
            return False
        source.bits[piece >> 3] |= 0x80 >> (piece & 7)
        source.have_count += 1
        self._availability.add_one(piece)
        if source.have_count == self.geometry.piece_count:
            self.on_have_all(source)
            return True
        self._choices.on_have(source, piece)
        if source.witness == -1 and piece not in self.have and piece in self.wanted:
            source.witness = piece
        return True

    def _lose(self, source: Source, piece: int) -> None:
        """The source has ``piece`` no longer, if it ever had."""
        count = self.geometry.piece_count
        pieces = Bitfield.full(count) if source.complete else Bitfield.from_wire(source.bits, count)
        if pieces.discard(piece):
            self.on_bitfield(source, pieces)

    def on_suggest(self, source: Source, piece: int, now: float) -> None:
        """The source would like to send ``piece`` (BEP 6): if it has it, that is what it begins next."""
        if source.has(piece):
            self._choices.put_first(source, piece, now)

    def on_have_all(self, source: Source) -> None:
        """The source has every piece."""
        self.on_bitfield(source, Bitfield.full(self.geometry.piece_count))

    def is_interesting(self, source: Source) -> bool:
        """Whether the source has a piece that we lack and want."""
        have = self.have
        if source.complete:
            return self.missing > 0
        if source.witness is None or (source.witness >= 0 and source.witness in have):
            pieces = int.from_bytes(source.bits, "big") & self._wanted
            pieces ^= pieces & have.to_int()
            source.witness = self._choices.any_of(pieces) if pieces else -1
        return source.witness >= 0

    @property
    def missing_bytes(self) -> int:
        """Bytes of the pieces that are missing."""
        geometry, last = self.geometry, self.geometry.piece_count - 1
        short = last in self.wanted and last not in self.have
        return self.missing * geometry.piece_length - short * (geometry.piece_length - geometry.last_piece_length)

    @property
    def seeds(self) -> int:
        """How many sources have every piece."""
        return self._availability.seeds

    def availability(self, piece: int) -> int:
        """How many sources have ``piece``."""
        return self._availability.count(piece)
