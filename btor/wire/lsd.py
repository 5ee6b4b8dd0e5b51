"""Local service discovery (BEP 14): a datagram to a multicast group says who has which torrents."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from btor.limits import LSD_DATAGRAM, LSD_HASHES
from btor.wire.address import PORT_MAX, format_address

LSD_PORT: Final = 6771
GROUP4: Final = "239.192.152.143"
GROUP6: Final = "ff15::efc0:988f"

_FIRST_LINE: Final = re.compile(r"BT-SEARCH \* HTTP/1\.[01]").fullmatch
_HASH: Final = re.compile(r"[0-9A-Fa-f]{40}").fullmatch
_PORT: Final = re.compile(r"[0-9]{1,5}").fullmatch


class LocalAnnounce(NamedTuple):
    """``port``: where the sender accepts peers. ``info_hashes``: 20 bytes each. ``cookie``: tells one's own apart."""

    port: int
    info_hashes: tuple[bytes, ...]
    cookie: str = ""


def encode_local(said: LocalAnnounce, group: str) -> bytes:
    """The datagram to ``group``. At most LSD_HASHES torrents fit into one."""
    lines = ["BT-SEARCH * HTTP/1.1", f"Host: {format_address((group, LSD_PORT))}", f"Port: {said.port}"]
    lines += [f"Infohash: {info_hash.hex()}" for info_hash in said.info_hashes[:LSD_HASHES]]
    lines += [f"cookie: {said.cookie}", "", "", ""]
    return "\r\n".join(lines).encode("ascii")


def decode_local(datagram: bytes) -> LocalAnnounce | None:
    """Read a datagram; None for what is no announce. Unknown headers and hashes that are none are passed over."""
    if len(datagram) > LSD_DATAGRAM or not datagram.isascii():
        return None
    first, *lines = datagram.decode("ascii").split("\r\n")
    if not _FIRST_LINE(first):
        return None
    port, cookie = 0, ""
    hashes: dict[bytes, None] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        if name == "port" and _PORT(value):
            port = int(value)
        elif name == "infohash" and _HASH(value) and len(hashes) < LSD_HASHES:
            hashes[bytes.fromhex(value)] = None
        elif name == "cookie":
            cookie = value
    if not 0 < port <= PORT_MAX or not hashes:
        return None
    return LocalAnnounce(port, tuple(hashes), cookie)
