"""The pieces that a peer may have while it is choked (BEP 6): they hang on its network, which is hard to change."""

from __future__ import annotations

import hashlib

from btor.limits import ALLOWED_FAST
from btor.wire.address import pack_ip


def allowed_fast_set(ip: str, info_hash: bytes, piece_count: int, size: int = ALLOWED_FAST) -> list[int]:
    """The canonical set of ``size`` pieces for a peer at ``ip``, in the order of BEP 6; all pieces if there are fewer.

    Empty for an IPv6 address, for which BEP 6 defines none.
    """
    packed = pack_ip(ip)
    if len(packed) != 4:
        return []
    if size >= piece_count:
        return list(range(piece_count))
    found: dict[int, None] = {}
    seed = packed[:3] + b"\0" + info_hash
    while True:
        seed = hashlib.sha1(seed, usedforsecurity=False).digest()
        for start in range(0, len(seed), 4):
            found[int.from_bytes(seed[start : start + 4]) % piece_count] = None
            if len(found) == size:
                return list(found)
