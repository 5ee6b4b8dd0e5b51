"""The UDP tracker protocol (BEP 15) with its options (BEP 41), as client and as tracker. Integers are big-endian.

A client's decoders are handed a packet whose transaction id somebody already matched (``transaction_of_reply``), with
its sender; they raise TrackerError. A tracker's decoders raise PeerError. Extra bytes at the end are ignored.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from btor import limits
from btor.errors import PeerError, TrackerError
from btor.metainfo.paths import display
from btor.wire.address import COMPACT4, COMPACT6, pack_compact, unpack_compact
from btor.wire.tracker_http import AnnounceEvent, AnnounceReply, AnnounceRequest, ScrapeEntry

CONNECT: Final = 0
ANNOUNCE: Final = 1
SCRAPE: Final = 2
ERROR: Final = 3
PROTOCOL_ID: Final = 0x417_2710_1980
SCRAPE_HASHES: Final = 74  # of one request, BEP 15

_EVENTS: Final[tuple[AnnounceEvent, ...]] = ("", "completed", "started", "stopped")
_END, _NOP, _URL_DATA = 0, 1, 2  # option types, BEP 41
_CHUNK: Final = 255  # bytes of one option
_COUNTER_MAX: Final = 2**64 - 1

_REQUEST_HEAD: Final = struct.Struct(">QII")  # connection id or protocol id, action, transaction
_REPLY_HEAD: Final = struct.Struct(">II")  # action, transaction
_CONNECT_REPLY: Final = struct.Struct(">IIQ")
_ANNOUNCE_REQUEST: Final = struct.Struct(">QII20s20sQQQI4sIiH")
_ANNOUNCE_REPLY: Final = struct.Struct(">IIiii")
_SCRAPE_ENTRY: Final = struct.Struct(">iii")
_INFO_HASH: Final = 20


class RequestHead(NamedTuple):
    """The first 16 bytes of every request. ``connection_id`` is PROTOCOL_ID in a connect request."""

    connection_id: int
    action: int
    transaction: int


# --- as client -----------------------------------------------------------------------------------------------


def encode_connect(transaction: int) -> bytes:
    """The request for a connection id."""
    return _REQUEST_HEAD.pack(PROTOCOL_ID, CONNECT, transaction)


def encode_announce(connection_id: int, transaction: int, request: AnnounceRequest, url: str = "") -> bytes:
    """An announce. Path and query of ``url``, the tracker's, go along where there are any (BEP 41)."""
    return _ANNOUNCE_REQUEST.pack(
        connection_id,
        ANNOUNCE,
        transaction,
        request.info_hash,
        request.peer_id,
        min(request.downloaded, _COUNTER_MAX),
        min(request.left, _COUNTER_MAX),
        min(request.uploaded, _COUNTER_MAX),
        _EVENTS.index(request.event) if request.event in _EVENTS else 0,
        bytes(4),  # the tracker takes the address that the packet came from
        request.key,
        request.numwant,
        request.port,
    ) + _url_options(url)


def encode_scrape(connection_id: int, transaction: int, info_hashes: Sequence[bytes]) -> bytes:
    """The question how many peers each of at most SCRAPE_HASHES torrents has."""
    return _REQUEST_HEAD.pack(connection_id, SCRAPE, transaction) + b"".join(info_hashes[:SCRAPE_HASHES])


def transaction_of_reply(packet: bytes) -> int | None:
    """The transaction id of what may be a reply of a tracker; None for a packet that is none."""
    if len(packet) < _REPLY_HEAD.size or len(packet) > limits.UDP_TRACKER_PACKET:
        return None
    action, transaction = _REPLY_HEAD.unpack_from(packet)
    return transaction if action <= ERROR else None


def decode_connect(packet: bytes, transaction: int, url: str) -> int:
    """The connection id. TrackerError names ``url``."""
    _check_reply(packet, CONNECT, transaction, _CONNECT_REPLY.size, url)
    return int(_CONNECT_REPLY.unpack_from(packet)[2])


def decode_announce(packet: bytes, transaction: int, url: str, *, ipv6: bool) -> AnnounceReply:
    """The answer to an announce; ``ipv6``: it came over IPv6, so its peers are IPv6. TrackerError names ``url``."""
    _check_reply(packet, ANNOUNCE, transaction, _ANNOUNCE_REPLY.size, url)
    _, _, interval, leechers, seeders = _ANNOUNCE_REPLY.unpack_from(packet)
    size = COMPACT6 if ipv6 else COMPACT4
    count = min((len(packet) - _ANNOUNCE_REPLY.size) // size, limits.TRACKER_PEERS_PARSED)
    peers = unpack_compact(packet[_ANNOUNCE_REPLY.size : _ANNOUNCE_REPLY.size + count * size], size)
    return AnnounceReply(
        interval=interval,
        leechers=_known(leechers),
        seeders=_known(seeders),
        peers=peers,
    )


def decode_scrape(packet: bytes, transaction: int, url: str, info_hashes: Sequence[bytes]) -> dict[bytes, ScrapeEntry]:
    """The answer to a scrape of ``info_hashes``, which may be shorter than the question. TrackerError names ``url``."""
    _check_reply(packet, SCRAPE, transaction, _REPLY_HEAD.size, url)
    count = min((len(packet) - _REPLY_HEAD.size) // _SCRAPE_ENTRY.size, len(info_hashes))
    entries = {}
    for index in range(count):
        seeders, downloaded, leechers = _SCRAPE_ENTRY.unpack_from(packet, _REPLY_HEAD.size + index * _SCRAPE_ENTRY.size)
        entries[info_hashes[index]] = ScrapeEntry(_known(seeders), _known(leechers), _known(downloaded))
    return entries


def _known(count: int) -> int | None:
    return count if count >= 0 else None  # some trackers say -1 for what they do not know


def _check_reply(packet: bytes, action: int, transaction: int, size: int, url: str) -> None:
    if len(packet) < _REPLY_HEAD.size:
        raise TrackerError(url, f"reply of {len(packet)} bytes")
    got_action, got_transaction = _REPLY_HEAD.unpack_from(packet)
    if got_transaction != transaction:
        raise TrackerError(url, "reply to another request")
    if got_action == ERROR:
        text = packet[_REPLY_HEAD.size :][: limits.TRACKER_MESSAGE].rstrip(b"\0")  # some do end it
        raise TrackerError(url, display(text) or "refused without a reason", refused=True)
    if got_action != action:
        raise TrackerError(url, f"reply of kind {got_action} to a request of kind {action}")
    if len(packet) < size:
        raise TrackerError(url, f"reply of {len(packet)} bytes, at least {size} expected")


def _url_options(url: str) -> bytes:
    parts = urlsplit(url)
    data = (parts.path + (f"?{parts.query}" if parts.query else "")).encode()
    chunks = (data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK))
    return b"".join(bytes((_URL_DATA, len(chunk))) + chunk for chunk in chunks)


# --- as tracker ----------------------------------------------------------------------------------------------


def decode_head(packet: bytes) -> RequestHead | None:
    """The head of a request; None for a packet that deserves no answer."""
    if len(packet) < _REQUEST_HEAD.size:
        return None
    head = RequestHead._make(_REQUEST_HEAD.unpack_from(packet))
    if head.action == CONNECT:
        return head if head.connection_id == PROTOCOL_ID else None
    return head if head.action in (ANNOUNCE, SCRAPE) else None


def decode_announce_request(packet: bytes) -> tuple[AnnounceRequest, bytes]:
    """An announce and its URL data (BEP 41), b"" where there is none. PeerError."""
    if len(packet) < _ANNOUNCE_REQUEST.size:
        raise PeerError("announce cut short")
    fields = _ANNOUNCE_REQUEST.unpack_from(packet)
    _, _, _, info_hash, peer_id, downloaded, left, uploaded, event, _, key, numwant, port = fields
    if event >= len(_EVENTS):
        raise PeerError("unknown event")
    if port == 0:
        raise PeerError("port 0 is nobody's")
    request = AnnounceRequest(
        info_hash=info_hash,
        peer_id=peer_id,
        port=port,
        uploaded=uploaded,
        downloaded=downloaded,
        left=left,
        event=_EVENTS[event],
        key=key,
        numwant=numwant,
    )
    return request, b"".join(_read_url_data(packet[_ANNOUNCE_REQUEST.size :]))


def decode_scrape_request(packet: bytes) -> list[bytes]:
    """The info-hashes asked for, at most SCRAPE_HASHES. PeerError when there is not one."""
    hashes = packet[_REQUEST_HEAD.size :]
    count = min(len(hashes) // _INFO_HASH, SCRAPE_HASHES)
    if count == 0:
        raise PeerError("scrape without an info-hash")
    return [hashes[start : start + _INFO_HASH] for start in range(0, count * _INFO_HASH, _INFO_HASH)]


def encode_connect_reply(transaction: int, connection_id: int) -> bytes:
    """The connection id, 16 bytes as in the request."""
    return _CONNECT_REPLY.pack(CONNECT, transaction, connection_id)


def encode_announce_reply(transaction: int, reply: AnnounceReply, *, ipv6: bool) -> bytes:
    """The answer to an announce; of its peers only those of the family that the request came over go along."""
    head = _ANNOUNCE_REPLY.pack(ANNOUNCE, transaction, reply.interval, reply.leechers or 0, reply.seeders or 0)
    return head + pack_compact(reply.peers, COMPACT6 if ipv6 else COMPACT4)


def encode_scrape_reply(transaction: int, entries: Sequence[ScrapeEntry]) -> bytes:
    """The answer to a scrape, in the order of the question."""
    counts = (_SCRAPE_ENTRY.pack(entry.seeders or 0, entry.downloaded or 0, entry.leechers or 0) for entry in entries)
    return _REPLY_HEAD.pack(SCRAPE, transaction) + b"".join(counts)


def encode_error(transaction: int, message: str) -> bytes:
    """A refusal, its text cut to what is kept of one."""
    return _REPLY_HEAD.pack(ERROR, transaction) + message.encode()[: limits.TRACKER_MESSAGE]


def _read_url_data(options: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(options) and options[at] != _END:
        kind = options[at]
        if kind == _NOP:
            at += 1
            continue
        if at + 1 >= len(options) or at + 2 + options[at + 1] > len(options):
            raise PeerError("option cut short")
        end = at + 2 + options[at + 1]
        if kind == _URL_DATA:
            yield options[at + 2 : end]
        at = end
