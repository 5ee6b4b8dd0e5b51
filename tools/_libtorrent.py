"""Settings of libtorrent sessions that are compared with btor."""

from __future__ import annotations

from typing import Any, Final

import libtorrent as lt

QUIET: Final[dict[str, Any]] = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "in_enc_policy": int(lt.enc_policy.disabled),
    "out_enc_policy": int(lt.enc_policy.disabled),
    "allow_multiple_connections_per_ip": True,
}
"""Plain TCP, and no way to find peers but those it is told of."""
