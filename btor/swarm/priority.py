"""Which peers suit each other (BEP 40): both ends of a pair compute the same number, so a swarm stays connected."""

from __future__ import annotations

from btor.wire.address import Address, pack_ip
from btor.wire.crc32c import crc32c

_KEPT = {4: 2, 16: 6}  # bytes of an address that always count, by its length
_MASK = 0x55


def peer_priority(one: Address, other: Address) -> int:
    """The priority of a pair, 0 … 2³²−1, higher being better; for comparison inside one swarm. BEP 40.

    ValueError: they are not of one address family.
    """
    low, high = sorted((pack_ip(one[0]), pack_ip(other[0])))
    if len(low) != len(high):
        raise ValueError("a pair of different address families")
    if low == high:
        return crc32c(b"".join(port.to_bytes(2) for port in sorted((one[1], other[1]))))
    common = next(at for at in range(len(low)) if low[at] != high[at])
    kept = max(_KEPT[len(low)], common + 1)
    return crc32c(b"".join(ip[:kept] + bytes(byte & _MASK for byte in ip[kept:]) for ip in (low, high)))
