"""Reading the query of an HTTP announce or scrape (BEP 3, 7, 21, 23, 48). What is malformed ends in PeerError."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from btor import limits
from btor.errors import PeerError
from btor.wire.address import PORT_MAX
from btor.wire.tracker_http import AnnounceEvent, AnnounceRequest
from btor.wire.tracker_udp import SCRAPE_HASHES

ID_LENGTH: Final = 20  # of an info-hash, of a peer id
COUNTER_MAX: Final = 2**64 - 1
LEFT_UNKNOWN: Final = 1  # who does not say what is left is no seed

_EVENTS: Final[dict[bytes, AnnounceEvent]] = {
    b"": "",
    b"empty": "",
    b"started": "started",
    b"completed": "completed",
    b"stopped": "stopped",
    b"paused": "",  # BEP 21: a partial seed, still a peer; what is left tells it from a seed
}
_KNOWN: Final = frozenset(b"info_hash peer_id port uploaded downloaded left event numwant compact no_peer_id".split())


class HttpAnnounce(NamedTuple):
    """An announce and the form of the reply it asks for."""

    request: AnnounceRequest
    compact: bool
    peer_ids: bool


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """(path, query) of a request target; the absolute form that proxies send is taken too."""
    if target[:7].lower() == b"http://":
        target = b"/" + target[7:].partition(b"/")[2]
    path, _, query = target.partition(b"?")
    return path, query


def read_announce(query: bytes) -> HttpAnnounce:
    """The announce that ``query`` is. ``ip``, ``ipv4`` and ``ipv6`` are ignored: a peer is where it comes from."""
    found: dict[bytes, bytes] = {}
    for name, value in _pairs(query):
        if name not in _KNOWN:
            continue
        if name in found:
            raise PeerError(f"{name.decode('ascii')} twice")
        found[name] = value
    port = _number(found, b"port", None, PORT_MAX)
    if port == 0:
        raise PeerError("port 0 is nobody's")
    event = found.get(b"event", b"")
    if event not in _EVENTS:
        raise PeerError("unknown event")
    request = AnnounceRequest(
        info_hash=_id(found, b"info_hash"),
        peer_id=_id(found, b"peer_id"),
        port=port,
        uploaded=_number(found, b"uploaded", 0, COUNTER_MAX),
        downloaded=_number(found, b"downloaded", 0, COUNTER_MAX),
        left=_number(found, b"left", LEFT_UNKNOWN, COUNTER_MAX),
        event=_EVENTS[event],
        numwant=-1 if found.get(b"numwant", b"").startswith(b"-") else _number(found, b"numwant", -1, COUNTER_MAX),
    )
    return HttpAnnounce(request, found.get(b"compact") == b"1", found.get(b"no_peer_id") != b"1")


def read_scrape(query: bytes) -> list[bytes]:
    """The info-hashes of a scrape, each once, at most as many as one over UDP can hold. One must be named."""
    hashes = [value for name, value in _pairs(query) if name == b"info_hash"]
    if not hashes:
        raise PeerError("a scrape names its torrents by info_hash")
    if any(len(info_hash) != ID_LENGTH for info_hash in hashes):
        raise PeerError("info_hash is not 20 bytes")
    return list(dict.fromkeys(hashes))[:SCRAPE_HASHES]


def _pairs(query: bytes) -> list[tuple[bytes, bytes]]:
    """Names and values. A plus sign is itself: values are binary, percent-encoded, not those of a web form."""
    parts = (part.partition(b"=") for part in query.split(b"&"))
    return [(unquote_to_bytes(name), unquote_to_bytes(value)) for name, _, value in parts if name]


def _id(found: dict[bytes, bytes], name: bytes) -> bytes:
    if name not in found:
        raise PeerError(f"{name.decode('ascii')} is missing")
    if len(found[name]) != ID_LENGTH:
        raise PeerError(f"{name.decode('ascii')} is not {ID_LENGTH} bytes")
    return found[name]


def _number(found: dict[bytes, bytes], name: bytes, default: int | None, most: int) -> int:
    text = found.get(name)
    if text is None and default is not None:
        return default
    label = name.decode("ascii")
    if text is None:
        raise PeerError(f"{label} is missing")
    if not text.isdigit() or len(text) > limits.INTEGER_CHARACTERS or int(text) > most:
        raise PeerError(f"{label} is not a number up to {most}")
    return int(text)
