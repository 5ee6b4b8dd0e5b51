"""What a session can be told. Immutable; the command line and embedding programs make one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from btor import limits

DEFAULT_PORT = 6881
VERSION = "0.1.0"
PEER_ID_PREFIX = b"-BO0100-"  # Azureus style (BEP 20); BO is in no list
DHT_ROUTERS = ("dht.transmissionbt.com:6881", "router.bittorrent.com:6881", "dht.libtorrent.org:25401")
DHT_VERSION = b"BO\x01\x00"  # what our DHT messages carry as `v`
CLIENT_NAME = f"btor {VERSION}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one session.

    ``port``: None tries 6881, then the next ten, then any; 0 lets the system choose. ``bind``: local addresses, empty
    for all. Rates are bytes a second, None for no limit. ``upload_slots`` 0 unchokes everybody. ``state_dir`` None
    keeps no resume records. ``dht_bootstrap``: HOST:PORT of DHT nodes to begin with; the public routers are left alone
    by a session bound to loopback. ``dht_port``: None for the number of ``port``.
    ``strict`` re-raises what ``contain`` would swallow (tests).
    ``pex``: peers are exchanged with peers. ``lsd``: they are looked for on the local network; never so by a session
    that is bound to loopback.
    ``loopback_is_public`` applies the limits on peers by address to loopback as well (tests).
    """

    port: int | None = None
    bind: tuple[str, ...] = ()
    max_download: int | None = None
    max_upload: int | None = None
    max_peers: int = 200
    upload_slots: int = limits.UPLOAD_SLOTS
    trackers: bool = True
    dht: bool = True
    dht_bootstrap: tuple[str, ...] = DHT_ROUTERS
    dht_port: int | None = None
    pex: bool = True
    lsd: bool = True
    state_dir: Path | None = None
    state_dir_required: bool = False
    hashers: int | None = None
    strict: bool = False
    loopback_is_public: bool = False
