"""What is said to an HTTP tracker and by it: announce and scrape, both directions (BEP 3, 7, 21, 23, 24, 31, 48).

The same two dataclasses serve UDP trackers, whose packets are in ``tracker_udp``. Hostile replies end in TrackerError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple
from urllib.parse import quote

from btor import bencode, limits
from btor.errors import BencodeError, TrackerError
from btor.metainfo.paths import display
from btor.wire.address import (
    COMPACT4,
    COMPACT6,
    PORT_MAX,
    Address,
    canonical,
    is_ip,
    pack_compact,
    pack_ip,
    unpack_compact,
    unpack_ip,
)
from btor.wire.url import is_host_name

AnnounceEvent = Literal["", "started", "completed", "stopped", "paused"]  # the last: BEP 21, over HTTP only

INT64_MAX: Final = 2**63 - 1
MINUTE: Final = 60.0
ANNOUNCE_WORD: Final = "announce"
SCRAPE_WORD: Final = "scrape"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnounceRequest:
    """One announce. Counters in bytes since ``started``; ``key`` is 32 bits, the same for all address families.

    ``numwant`` -1 leaves the number of peers to the tracker; ``tracker_id`` is the tracker's own last ``tracker id``.
    """

    info_hash: bytes
    peer_id: bytes
    port: int
    uploaded: int
    downloaded: int
    left: int
    event: AnnounceEvent = ""
    key: int = 0
    numwant: int = -1
    tracker_id: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnounceReply:
    """What a tracker answered. ``interval`` and ``min_interval`` in s, as said: not clamped to anything yet.

    ``peers`` holds IP addresses, ``peer_names`` (host name, port) pairs that have to be looked up (list form only).
    ``seeders``, ``leechers`` and ``downloaded`` (finished downloads) are None where the tracker is silent.
    ``warning`` is fit for display.
    """

    interval: int = int(limits.TRACKER_INTERVAL_DEFAULT)
    min_interval: int | None = None
    seeders: int | None = None
    leechers: int | None = None
    downloaded: int | None = None
    tracker_id: bytes | None = None
    peers: list[Address] = field(default_factory=list)
    peer_names: list[tuple[str, int]] = field(default_factory=list)
    external_ip: str | None = None
    warning: str = ""


class ScrapeEntry(NamedTuple):
    """The figures of one torrent; None where the tracker is silent. ``downloaded`` counts finished downloads."""

    seeders: int | None
    leechers: int | None
    downloaded: int | None


class ScrapeReply(NamedTuple):
    """Figures by info-hash, and the least time in s between scrapes if the tracker named one."""

    files: dict[bytes, ScrapeEntry]
    min_interval: int | None


# --- requests ------------------------------------------------------------------------------------------------------


def announce_url(url: str, request: AnnounceRequest) -> str:
    """The URL to GET for an announce to the tracker at ``url`` (BEP 3, 7, 23). A path and query alone will do."""
    parameters: list[tuple[str, str | int | bytes]] = [
        ("info_hash", request.info_hash),
        ("peer_id", request.peer_id),
        ("port", request.port),
        ("uploaded", request.uploaded),
        ("downloaded", request.downloaded),
        ("left", request.left),
        ("compact", 1),
        ("no_peer_id", 1),
        ("key", f"{request.key:08x}"),
    ]
    if request.numwant >= 0:
        parameters.append(("numwant", request.numwant))
    if request.event:
        parameters.append(("event", request.event))
    if request.tracker_id is not None:
        parameters.append(("trackerid", request.tracker_id))
    return _with_query(url, parameters)


def scrape_url(url: str, info_hashes: Iterable[bytes]) -> str | None:
    """The URL to GET for a scrape of the tracker that announces at ``url``; None where BEP 48 allows none.

    It allows it when the last component of the path begins with ``announce``.
    """
    path, mark, query = url.partition("#")[0].partition("?")
    head, slash, last = path.rpartition("/")
    if not slash or not last.startswith(ANNOUNCE_WORD):
        return None
    scrape = f"{head}/{SCRAPE_WORD}{last.removeprefix(ANNOUNCE_WORD)}{mark}{query}"
    return _with_query(scrape, [("info_hash", info_hash) for info_hash in info_hashes])


def _with_query(url: str, parameters: Sequence[tuple[str, str | int | bytes]]) -> str:
    """``url`` without its fragment, the parameters appended to its query; every byte but unreserved ones escaped."""
    url = url.partition("#")[0]
    joint = "?" if "?" not in url else "" if url.endswith(("?", "&")) else "&"
    pairs = (
        f"{name}={quote(value if isinstance(value, bytes) else str(value), safe='')}" for name, value in parameters
    )
    return f"{url}{joint}{'&'.join(pairs)}"


# --- replies, as read by the client --------------------------------------------------------------------------------


def decode_announce(body: bytes, url: str) -> AnnounceReply:
    """The reply to an announce to ``url``. Bytes after the dictionary are ignored: some trackers end with a new line.

    TrackerError: the tracker refused (``failure reason``, with BEP 31 ``retry in``), or the reply is malformed.
    """
    reply = _dictionary(body, url)
    _raise_failure(reply, url)
    peers: list[Address] = []
    names: list[tuple[str, int]] = []
    given = reply.get(b"peers", b"")
    if isinstance(given, bytes):
        peers = _compact(given, COMPACT4, "peers", url)
    elif isinstance(given, list):
        peers, names = _listed(given[: limits.TRACKER_PEERS_PARSED])
    else:
        raise TrackerError(url, "peers is neither a string nor a list")
    given6 = reply.get(b"peers6", b"")
    if not isinstance(given6, bytes):
        raise TrackerError(url, "peers6 is not a string")
    peers += _compact(given6, COMPACT6, "peers6", url)
    interval = reply.get(b"interval")
    min_interval = reply.get(b"min interval")
    tracker_id = reply.get(b"tracker id")
    return AnnounceReply(
        interval=interval if isinstance(interval, int) else int(limits.TRACKER_INTERVAL_DEFAULT),
        min_interval=min_interval if isinstance(min_interval, int) else None,
        seeders=_count(reply.get(b"complete")),
        leechers=_count(reply.get(b"incomplete")),
        downloaded=_count(reply.get(b"downloaded")),
        tracker_id=tracker_id if isinstance(tracker_id, bytes) and len(tracker_id) <= limits.TRACKER_ID else None,
        peers=peers[: limits.TRACKER_PEERS_PARSED - len(names)],
        peer_names=names,
        external_ip=_external(reply.get(b"external ip")),
        warning=_text(reply.get(b"warning message")),
    )


def decode_scrape(body: bytes, url: str) -> ScrapeReply:
    """The reply to a scrape (BEP 48); entries that make no sense are left out.

    TrackerError: the tracker refused, or the reply is malformed.
    """
    reply = _dictionary(body, url)
    _raise_failure(reply, url)
    given = reply.get(b"files")
    if not isinstance(given, dict):
        raise TrackerError(url, "the scrape reply has no files")
    files = {
        info_hash: ScrapeEntry(
            _count(entry.get(b"complete")), _count(entry.get(b"incomplete")), _count(entry.get(b"downloaded"))
        )
        for info_hash, entry in given.items()
        if len(info_hash) == 20 and isinstance(entry, dict)
    }
    flags = reply.get(b"flags")
    return ScrapeReply(files, _count(flags.get(b"min_request_interval")) if isinstance(flags, dict) else None)


def _dictionary(body: bytes, url: str) -> dict[bytes, bencode.Value]:
    if len(body) > limits.TRACKER_REPLY:
        raise TrackerError(url, "the reply is too long")
    try:
        value, _ = bencode.decode_prefix(body, depth=limits.MESSAGE_DEPTH, tokens=limits.MESSAGE_TOKENS)
    except BencodeError as error:
        raise TrackerError(url, f"the reply is not a tracker's: {error}") from error
    if not isinstance(value, dict):
        raise TrackerError(url, "the reply is not a tracker's: no dictionary")
    return value


def _raise_failure(reply: Mapping[bytes, bencode.Value], url: str) -> None:
    if b"failure reason" not in reply:
        return
    reason = _text(reply[b"failure reason"]) or "refused without a reason"
    retry = reply.get(b"retry in")
    if retry == b"never":
        raise TrackerError(url, reason, never=True, refused=True)
    if isinstance(retry, bytes) and retry.isdigit() and len(retry) < limits.INTEGER_CHARACTERS:
        retry = int(retry)
    minutes = _count(retry)
    raise TrackerError(url, reason, retry_after=None if minutes is None else minutes * MINUTE, refused=True)


def _compact(data: bytes, size: int, key: str, url: str) -> list[Address]:
    if len(data) % size:
        raise TrackerError(url, f"{key} is {len(data)} bytes long, not a multiple of {size}")
    return unpack_compact(data[: size * limits.TRACKER_PEERS_PARSED], size)


def _listed(entries: Sequence[bencode.Value]) -> tuple[list[Address], list[tuple[str, int]]]:
    """The peers of the list form: those with an IP address, and those with a host name."""
    peers: list[Address] = []
    names: list[tuple[str, int]] = []
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        ip, port = entry.get(b"ip"), entry.get(b"port")
        if not (isinstance(ip, bytes) and isinstance(port, int) and 0 < port <= PORT_MAX and ip.isascii()):
            continue
        host = ip.decode("ascii")
        if is_ip(host):
            peers.append((canonical(host), port))
        elif is_host_name(host):
            names.append((host, port))
    return peers, names


def _count(value: bencode.Value | None) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= INT64_MAX else None


def _external(value: bencode.Value | None) -> str | None:
    return unpack_ip(value) if isinstance(value, bytes) and len(value) in (4, 16) else None


def _text(value: bencode.Value | None) -> str:
    """A foreign text as it may be shown; "" for anything that is no text."""
    return display(value[: limits.TRACKER_MESSAGE]) if isinstance(value, bytes) else ""


# --- replies, as given by a tracker --------------------------------------------------------------------------------


def encode_announce(
    reply: AnnounceReply, *, compact: bool = True, peer_ids: Mapping[Address, bytes] | None = None
) -> bytes:
    """The body of an answer. ``compact`` gives ``peers`` and ``peers6`` (BEP 7, 23), else the list form of BEP 3.

    ``peer_ids`` adds the peer ids to the list form.
    """
    body: dict[bytes, bencode.Value] = {b"interval": reply.interval}
    optional: tuple[tuple[bytes, int | bytes | None], ...] = (
        (b"min interval", reply.min_interval),
        (b"complete", reply.seeders),
        (b"incomplete", reply.leechers),
        (b"downloaded", reply.downloaded),
        (b"tracker id", reply.tracker_id),
        (b"external ip", pack_ip(reply.external_ip) if reply.external_ip else None),
        (b"warning message", reply.warning.encode() if reply.warning else None),
    )
    body.update((key, value) for key, value in optional if value is not None)
    if compact:
        body[b"peers"] = pack_compact(reply.peers, COMPACT4)
        peers6 = pack_compact(reply.peers, COMPACT6)
        if peers6:
            body[b"peers6"] = peers6
    else:
        ids = peer_ids or {}
        listed: list[bencode.Value] = []
        for address in [*reply.peers, *reply.peer_names]:
            entry: dict[bytes, bencode.Value] = {b"ip": address[0].encode("ascii"), b"port": address[1]}
            if address in ids:
                entry[b"peer id"] = ids[address]
            listed.append(entry)
        body[b"peers"] = listed
    return bencode.encode(body)


def encode_failure(reason: str, *, retry_in: int | None = None) -> bytes:
    """The body of a refusal; ``retry_in`` in minutes (BEP 31)."""
    body: dict[bytes, bencode.Value] = {b"failure reason": reason.encode()}
    if retry_in is not None:
        body[b"retry in"] = retry_in
    return bencode.encode(body)


def encode_scrape(files: Mapping[bytes, ScrapeEntry], *, min_interval: int | None = None) -> bytes:
    """The body of an answer to a scrape; ``min_interval`` in s."""
    entries: dict[bytes, bencode.Value] = {}
    for info_hash, figures in files.items():
        named = ((b"complete", figures.seeders), (b"incomplete", figures.leechers), (b"downloaded", figures.downloaded))
        entries[info_hash] = {key: value for key, value in named if value is not None}
    body: dict[bytes, bencode.Value] = {b"files": entries}
    if min_interval is not None:
        body[b"flags"] = {b"min_request_interval": min_interval}
    return bencode.encode(body)
