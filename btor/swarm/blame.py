"""Who sent a bad block. Nobody is barred on suspicion: only who sent bytes that are proven wrong.

A piece that fails its hash and was sent by one peer convicts that peer. If several had a part in it, the SHA-1 of each
block is remembered with its sender until the piece passes; then those whose block differs from the good one lied, and
the others are cleared.

Peers are known by the picker's keys, unique per connection: a key may be named after its peer has left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from btor import limits
from btor.metainfo.geometry import Geometry

DIGEST: Final = 20  # bytes of a SHA-1


class Attempt:
    """A failed piece: which blocks (mask) each key sent, and the SHA-1 of each block, one after the other."""

    __slots__ = ("digests", "senders")

    def __init__(self, senders: dict[int, int], digests: bytes) -> None:
        self.senders = senders
        self.digests = digests

    def liars(self, good: bytes) -> list[int]:
        """The keys that sent a block which is not the ``good`` one."""
        wrong = differing(self.digests, good)
        return [key for key, mask in self.senders.items() if mask & wrong]


def differing(first: bytes, second: bytes) -> int:
    """A mask of the blocks whose digests differ; both sequences are of one piece."""
    mask = 0
    for start in range(0, len(first), DIGEST):
        if first[start : start + DIGEST] != second[start : start + DIGEST]:
            mask |= 1 << start // DIGEST
    return mask


class Blame:
    """The blame of one torrent."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._senders: dict[int, dict[int, int]] = {}  # open piece → key → mask of the blocks it sent
        self._failed: dict[int, list[Attempt]] = {}  # failed piece → what was sent; the oldest piece first
        self._failed_bytes = 0

    def on_blocks(self, key: int, piece: int, first: int, count: int) -> None:
        """``key`` sent these blocks of ``piece``, and they were new (``Picker.on_blocks``) and are kept."""
        mask = ((1 << count) - 1) << first
        senders = self._senders.get(piece)
        if senders is None:
            self._senders[piece] = {key: mask}
        else:
            senders[key] = senders.get(key, 0) | mask

    def on_restarted(self, piece: int) -> None:
        """``piece`` began anew before it was complete (``Picker.take_restarts``): what was sent of it is void."""
        self._senders.pop(piece, None)

    def contributors(self, piece: int) -> list[int]:
        """The keys that sent blocks of ``piece``, which is open or has its verdict due."""
        return list(self._senders.get(piece, ()))

    def needs_digests(self, piece: int, *, passed: bool) -> bool:
        """Whether the verdict on ``piece`` must come with the SHA-1 of each of its blocks. Ask before telling it."""
        return piece in self._failed if passed else len(self._senders.get(piece, ())) > 1

    def on_failed(self, piece: int, digests: Sequence[bytes] | None) -> list[int]:
        """``piece`` failed its hash; the keys to ban. The record of who sent it is closed: ask ``contributors`` first.

        ``digests``: SHA-1 of each block as it was written, in order, where ``needs_digests`` says so, else None.
        """
        senders = self._senders.pop(piece, {})
        sent = 0
        for mask in senders.values():
            sent |= mask
        if len(senders) == 1 and sent == self._geometry.all_blocks(piece):
            return list(senders)
        if not senders or digests is None:
            return []
        attempt = Attempt(senders, b"".join(digests))
        earlier = self._failed.get(piece, [])
        liars = self._contradicting(earlier, attempt)
        self._remember(piece, attempt)
        return liars

    @staticmethod
    def _contradicting(earlier: list[Attempt], latest: Attempt) -> list[int]:
        """The keys that sent a block twice, and not the same both times."""
        liars: dict[int, None] = {}
        for attempt in earlier:
            wrong = differing(attempt.digests, latest.digests)
            for key, mask in attempt.senders.items():
                if mask & latest.senders.get(key, 0) & wrong:
                    liars[key] = None
        return list(liars)

    def _remember(self, piece: int, attempt: Attempt) -> None:
        self._failed.setdefault(piece, []).append(attempt)
        self._failed_bytes += len(attempt.digests)
        while len(self._failed) > limits.BLAMED_PIECES or self._failed_bytes > limits.BLAMED_BYTES:
            self._forget_attempts(next(iter(self._failed)))

    def _forget_attempts(self, piece: int) -> list[Attempt]:
        attempts = self._failed.pop(piece, [])
        self._failed_bytes -= sum(len(attempt.digests) for attempt in attempts)
        return attempts

    def on_verified(self, piece: int, digests: Sequence[bytes] | None) -> list[int]:
        """``piece`` passed its hash; the keys to ban, each once. ``digests`` as ``needs_digests`` says, else None."""
        self._senders.pop(piece, None)
        attempts = self._forget_attempts(piece)
        if digests is None:
            return []
        good = b"".join(digests)
        return list(dict.fromkeys(key for attempt in attempts for key in attempt.liars(good)))
