"""A connection whose handshakes are done, before a torrent has taken it in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from btor.swarm.extensions import Extensions
from btor.wire.handshake import Features

if TYPE_CHECKING:
    from btor.engine.transport import Address, Transport
    from btor.swarm.early import EarlyMessages


@dataclass(slots=True, kw_only=True)
class Connection:
    """``address``: where it was dialled, or where an incoming one comes from. ``features``: what both sides promised.

    Of one that waited for the metadata: ``early`` is what it said meanwhile, ``extensions`` what was settled,
    ``unsent`` the rest of a message of ours.
    """

    transport: Transport
    peer_id: bytes
    address: Address
    incoming: bool
    features: Features
    early: EarlyMessages | None = None
    extensions: Extensions = field(default_factory=Extensions)
    unsent: bytes = b""
