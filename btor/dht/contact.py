"""Node ids, and the nodes that carry them (BEP 5, 32, 42)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from btor.wire.address import Address, Reach, pack_address, reach, unpack_compact
from btor.wire.crc32c import crc32c
from btor.wire.krpc import ID

if TYPE_CHECKING:
    import random

BITS: Final = 160
CONTACTS_REMEMBERED: Final = 16_384  # made of the same bytes again and again; about 7 MB if ever that many are met
ADDRESSES_REMEMBERED: Final = 4_096

_MASK4: Final = bytes.fromhex("030f3fff")
_MASK6: Final = bytes.fromhex("0103070f1f3f7fff")
_LOOPBACK6: Final = bytes(15) + b"\x01"


class Contact:
    """One node at one address. Never changes, may be shared, and equals what has the same bytes.

    ``compact``: its entry in `nodes`, 26 or 38 bytes; ``id``: 20 bytes, ``number`` the same as an integer; ``host``:
    what counts as one node, the packed IP, on loopback with the port; ``network``: the first bytes of its /24 or /64.
    """

    __slots__ = ("_fits", "_reach", "address", "compact", "host", "id", "is_loopback", "network", "number")

    def __init__(self, compact: bytes) -> None:
        self.compact = compact
        self.id = compact[:ID]
        self.number = int.from_bytes(self.id)
        ip = compact[ID:-2]
        if len(ip) == 4:
            self.address: Address = (f"{ip[0]}.{ip[1]}.{ip[2]}.{ip[3]}", compact[24] << 8 | compact[25])
            self.network = ip[:3]
            self.is_loopback = ip[0] == 127
        else:
            # an IPv4-mapped address or port 0 is nobody's: `reach` then says so
            found = unpack_compact(compact[ID:], 18)
            self.address = found[0] if found else ("::", 0)
            self.network = ip[:8]
            self.is_loopback = ip == _LOOPBACK6
        self.host = compact[ID:] if self.is_loopback else ip
        self._fits: bool | None = None
        self._reach: Reach | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Contact) and self.compact == other.compact

    def __hash__(self) -> int:
        return hash(self.compact)

    def __repr__(self) -> str:
        return f"<Contact {self.id.hex()[:8]} at {self.address[0]} port {self.address[1]}>"

    @property
    def fits(self) -> bool:
        """Whether the id is one that a node of this address may have (BEP 42)."""
        if self._fits is None:
            self._fits = id_fits(self.id, self.compact[ID:-2])
        return self._fits

    @property
    def reach(self) -> Reach:
        """Where the address leads; ``never`` also for port 0."""
        if self._reach is None:
            self._reach = reach(self.address[0]) if self.address[1] else "never"
        return self._reach

    def may_be_named_by(self, teller: Contact) -> bool:
        """Whether ``teller`` may have us ask this node: one on the internet cannot point us into a private network."""
        where = self.reach
        if where == "global":
            return True
        return where != "never" and teller.reach in ("loopback", where)


@lru_cache(CONTACTS_REMEMBERED)
def contact_of(compact: bytes) -> Contact:
    """The node of one entry of `nodes` or `nodes6`."""
    return Contact(compact)


def contacts_in(nodes: bytes, size: int) -> list[Contact]:
    """The nodes of `nodes` (``size`` 26) or `nodes6` (38), whose length is a multiple of it."""
    return [contact_of(nodes[at : at + size]) for at in range(0, len(nodes), size)]


@lru_cache(ADDRESSES_REMEMBERED)
def compact_address(address: Address) -> bytes:
    """6 or 18 bytes of an address as a socket reports it."""
    return pack_address(address)


def contact_at(node_id: bytes, address: Address) -> Contact:
    """The node that has this id at this address."""
    return contact_of(node_id + compact_address(address))


def make_id(ip: bytes | None, rng: random.Random) -> bytes:
    """A new id for a node whose external address is ``ip`` (packed), at random as far as BEP 42 lets it be."""
    if ip is None or is_exempt(ip):
        return rng.randbytes(ID)
    last = rng.randrange(256)
    prefix = _prefix(ip, last & 7)
    return (
        bytes([prefix >> 24, prefix >> 16 & 0xFF, prefix >> 8 & 0xF8 | rng.randrange(8)])
        + rng.randbytes(ID - 4)
        + bytes([last])
    )


def id_fits(node_id: bytes, ip: bytes) -> bool:
    """Whether a node at ``ip`` (packed) may call itself that (BEP 42)."""
    if is_exempt(ip):
        return True
    prefix = _prefix(ip, node_id[-1] & 7)
    return int.from_bytes(node_id[:3]) ^ prefix >> 8 < 8  # all but the last three of 24 bits


def is_exempt(ip: bytes) -> bool:
    """Whether any id will do there: networks without an address of their own on the internet."""
    if len(ip) == 4:
        first, second = ip[0], ip[1]
        return (
            first in (10, 127)
            or (first == 172 and 16 <= second < 32)
            or (first == 192 and second == 168)
            or (first == 169 and second == 254)
        )
    return ip == _LOOPBACK6 or ip[0] & 0xFE == 0xFC or (ip[0] == 0xFE and ip[1] & 0xC0 == 0x80)


def _prefix(ip: bytes, salt: int) -> int:
    masked = bytearray(a & b for a, b in zip(ip, _MASK4 if len(ip) == 4 else _MASK6, strict=False))
    masked[0] |= salt << 5
    return crc32c(bytes(masked))
