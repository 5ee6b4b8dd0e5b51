"""One place that blocks can be asked of: a peer, later a web seed, as the picker sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from btor import limits

if TYPE_CHECKING:
    from btor.swarm.partials import OpenPiece


class Source:
    """What one source has, and what was asked of it. Made by ``Picker.add_source``.

    The engine sets ``choked`` (they choke us; true at first), ``snubbed`` (no block for long), ``rate`` (bytes/s
    received from it) and ``latency`` (s that it takes to answer while idle). Everything else is kept by the picker;
    the engine may read ``key``, ``complete`` (it has every piece), ``have_count`` (pieces it has), ``on_parole``,
    ``outstanding`` (piece → mask of the blocks asked of it and not answered) and ``outstanding_count`` (blocks there).
    """

    __slots__ = (
        "avoid",
        "bits",
        "choices",
        "choices_until",
        "choked",
        "complete",
        "dry",
        "forgiven",
        "have_count",
        "key",
        "latency",
        "on_parole",
        "outstanding",
        "outstanding_count",
        "own",
        "rate",
        "retry_at",
        "snubbed",
        "witness",
    )

    def __init__(self, key: int, bitfield_length: int) -> None:
        self.key = key
        self.choked = True
        self.snubbed = False
        self.rate = 0.0
        self.latency = 1.0  # long, until it is known
        self.on_parole = False  # it had a part in a piece that failed: it fills pieces alone until one passes
        self.complete = False
        self.have_count = 0
        self.outstanding: dict[int, int] = {}
        self.outstanding_count = 0
        self.bits = bytearray(bitfield_length)  # the pieces it has, in wire order; empty once complete
        self.own: dict[int, OpenPiece] = {}  # pieces kept for it that still have free blocks
        self.choices: list[int] = []  # pieces to open next, the last one first
        self.choices_until = 0.0
        self.dry = -1  # see Choices: nothing beyond ``choices`` can be opened
        self.witness: int | None = None  # a piece of its that we lacked; -1: none; None: not looked for
        self.forgiven: dict[int, int] = {}  # blocks no longer asked whose answer may still come
        self.avoid: dict[int, int] = {}  # blocks that timed out or were rejected: not asked again at once
        self.retry_at = 0.0

    def has(self, piece: int) -> bool:
        """Whether the source has ``piece`` (0 … piece_count-1)."""
        return self.complete or bool(self.bits[piece >> 3] & (0x80 >> (piece & 7)))

    def ask(self, piece: int, mask: int, count: int) -> None:
        """Note that the ``count`` blocks in ``mask`` are now asked of it. None of them was outstanding here."""
        self.outstanding[piece] = self.outstanding.get(piece, 0) | mask
        self.outstanding_count += count

    def drop(self, piece: int, mask: int) -> None:
        """The blocks in ``mask``, all outstanding here, are no longer; a late answer is forgiven."""
        left = self.outstanding[piece] ^ mask
        if left:
            self.outstanding[piece] = left
        else:
            del self.outstanding[piece]
        self.outstanding_count -= mask.bit_count()
        forgiven = self.forgiven
        forgiven[piece] = forgiven.pop(piece, 0) | mask  # to the young end
        if len(forgiven) > limits.FORGIVEN_PIECES:
            del forgiven[next(iter(forgiven))]

    def pardon(self, piece: int, mask: int) -> int:
        """Of the blocks in ``mask`` those whose late answer is forgiven; each is forgiven once."""
        known = self.forgiven.get(piece, 0)
        late = known & mask
        if late:
            if known == late:
                del self.forgiven[piece]
            else:
                self.forgiven[piece] = known ^ late
        return late

    def shun(self, piece: int, mask: int) -> None:
        """Do not ask the blocks in ``mask`` of it again at once."""
        self.avoid[piece] = self.avoid.pop(piece, 0) | mask
        if len(self.avoid) > limits.FORGIVEN_PIECES:
            del self.avoid[next(iter(self.avoid))]

    def __repr__(self) -> str:
        return f"<Source {self.key}: has {self.have_count}, asked {self.outstanding_count}>"
