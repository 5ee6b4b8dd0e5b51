"""What a session can be told. Immutable; the command line and embedding programs make one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from btor import limits
from btor.errors import UsageError

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

    def __post_init__(self) -> None:
        """UsageError: a value that cannot be."""
        for name, port in (("port", self.port), ("dht_port", self.dht_port)):
            if port is not None and not 0 <= port <= limits.PORT_MAX:
                raise UsageError(f"{name}: {port} is no port (0 to {limits.PORT_MAX})")
        check_rates(max_download=self.max_download, max_upload=self.max_upload)
        for name, value, least in (("max_peers", self.max_peers, 1), ("upload_slots", self.upload_slots, 0)):
            if value < least:
                raise UsageError(f"{name}: {value} is less than {least}")
        for address in self.bind:
            from ipaddress import ip_address  # later: btor --version reads this file, too

            try:
                ip_address(address)
            except ValueError:
                raise UsageError(f"bind: {address!r} is no IP address") from None


def check_rates(**rates: int | None) -> None:
    """UsageError unless each of these limits is None or at least a byte a second."""
    for name, rate in rates.items():
        if rate is not None and rate < 1:
            raise UsageError(f"{name}: {rate} is less than a byte a second (None: no limit)")
