"""Nodes made up for tests."""

from __future__ import annotations

import random

from btor.dht.contact import Contact, contact_of, make_id
from btor.wire.address import pack_ip

PORT = 6881


def contact(ip: str, node_id: bytes | int | None = None, *, port: int = PORT, seed: int = 1) -> Contact:
    """The node at ``ip``; its id, unless given, fits the address."""
    if isinstance(node_id, int):
        node_id = node_id.to_bytes(20)
    packed = pack_ip(ip)
    return contact_of((node_id or make_id(packed, random.Random(seed))) + packed + port.to_bytes(2))


def global_ip(number: int) -> str:
    """A different address, in a different /24, for each ``number`` up to 65,535."""
    return f"5.{number >> 8 & 255}.{number & 255}.9"


def local(number: int, node_id: bytes | int) -> Contact:
    """A node on loopback, where any id fits and no limit by address holds."""
    return contact("127.0.0.1", node_id, port=1000 + number)
