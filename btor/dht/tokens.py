"""Tokens: who announces must have asked from the same address before (BEP 5)."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

from btor.limits import DHT_TOKEN_ROTATION

if TYPE_CHECKING:
    import random

TOKEN: Final = 8  # bytes
SECRET: Final = 16


class Tokens:
    """Makes and checks the tokens of one node, bound to the asker's IP and the info-hash, good for 5 to 10 minutes."""

    def __init__(self, rng: random.Random, now: float) -> None:
        self._rng = rng
        self._secret = self._before = rng.randbytes(SECRET)
        self._rotation = now + DHT_TOKEN_ROTATION

    def make(self, ip: bytes, info_hash: bytes, now: float) -> bytes:
        """A token for the node at ``ip`` (packed)."""
        if now >= self._rotation:
            self._rotate(now)
        return sha256(self._secret + ip + info_hash).digest()[:TOKEN]

    def is_good(self, token: bytes, ip: bytes, info_hash: bytes, now: float) -> bool:
        """Whether ``token`` was made for ``ip`` and ``info_hash`` not long ago."""
        if token == self.make(ip, info_hash, now):
            return True
        return token == sha256(self._before + ip + info_hash).digest()[:TOKEN]

    def _rotate(self, now: float) -> None:
        fresh = self._rng.randbytes(SECRET)
        # after a long rest neither of the old ones counts any more
        self._before = self._secret if now < self._rotation + DHT_TOKEN_ROTATION else fresh
        self._secret = fresh
        self._rotation = now + DHT_TOKEN_ROTATION
