"""Magnet URIs (BEP 9, 53)."""

from __future__ import annotations

import re
from base64 import b32decode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar
from urllib.parse import quote, unquote, unquote_plus, unquote_to_bytes

from btor.errors import MetainfoError
from btor.limits import MAGNET_FILE_INDEX, MAGNET_LENGTH, MAGNET_REPEATS, TOTAL_LENGTH
from btor.metainfo.info_hashes import InfoHashes
from btor.metainfo.urls import host_port, tracker_url, web_seed_url

_Kept = TypeVar("_Kept", str, tuple[str, int])

_SCHEME = "magnet:?"
_BTIH = "urn:btih:"
_BTMH = "urn:btmh:"  # as long
_HEX_40 = re.compile(r"[0-9A-Fa-f]{40}").fullmatch
_MULTIHASH = re.compile(r"1220[0-9A-Fa-f]{64}").fullmatch  # SHA-256: code 0x12, 0x20 bytes
_BASE32 = re.compile(r"[A-Za-z2-7]{32}").fullmatch
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})").search
_NUMBERED = re.compile(r"(xt|tr)\.[0-9]+").fullmatch
_RANGE = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?").fullmatch
_NUMBER = re.compile(r"[0-9]{1,15}").fullmatch


@dataclass(frozen=True, slots=True)
class Magnet:
    """What a magnet URI says.

    ``name`` is foreign: show it by ``display``. ``peers`` and ``nodes`` (of the DHT): (host, port), the host may be a
    name. ``length``: bytes, a hint. ``select``: (first, last) indexes of the files wanted, ascending and apart; None
    for all.
    """

    info_hashes: InfoHashes
    name: str | None = None
    trackers: tuple[str, ...] = ()
    web_seeds: tuple[str, ...] = ()
    peers: tuple[tuple[str, int], ...] = ()
    nodes: tuple[tuple[str, int], ...] = ()
    length: int | None = None
    select: tuple[tuple[int, int], ...] | None = None

    @property
    def info_hash(self) -> bytes:
        """20 bytes: the v1 info-hash, or what stands for it in handshakes where there is none."""
        v1, v2 = self.info_hashes
        return v1 if v1 is not None else (v2 or b"")[:20]

    @classmethod
    def parse(cls, uri: str) -> Magnet:
        """The magnet of ``uri``, which may also be the 40 hexadecimal digits of a v1 info-hash alone.

        Trackers, web seeds and peers that are malformed, and those beyond the first 100 of each, are left out.
        MetainfoError: it is no magnet URI, longer than 64 KiB, or has no valid info-hash.
        """
        if _HEX_40(uri):
            return cls(InfoHashes(bytes.fromhex(uri), None))
        if len(uri) > MAGNET_LENGTH:
            raise MetainfoError("magnet", f"longer than {MAGNET_LENGTH} characters")
        if uri[: len(_SCHEME)].lower() != _SCHEME:
            raise MetainfoError("magnet", f"does not begin with {_SCHEME}")
        uri = uri.encode("utf-8", "replace").decode()  # an argument of a command may hold half of a surrogate pair
        values: dict[str, list[str]] = {}
        for parameter in uri[len(_SCHEME) :].split("&"):
            key, _, value = parameter.partition("=")
            key = key.lower()
            values.setdefault(key[:2] if _NUMBERED(key) else key, []).append(value)
        trackers = (tracker_url(unquote_to_bytes(value)) for value in values.get("tr", ()))
        web_seeds = (web_seed_url(unquote_to_bytes(value), folder=False) for value in values.get("ws", ()))
        return cls(
            info_hashes=_read_topics(values.get("xt", ())),
            name=next((unquote_plus(name) for name in values.get("dn", ()) if name), None),
            trackers=_first(trackers),
            web_seeds=_first(web_seeds),
            peers=_first(host_port(unquote(value)) for value in values.get("x.pe", ())),
            nodes=_first(host_port(unquote(value)) for value in values.get("dht", ())),
            length=next(
                (int(size) for size in values.get("xl", ()) if _NUMBER(size) and int(size) <= TOTAL_LENGTH), None
            ),
            select=_merge(_read_ranges(values.get("so", ()))) or None,
        )

    def uri(self) -> str:
        """The magnet URI, without what would make it longer than 64 KiB and what is beyond 100 of its kind."""
        topics = []
        if self.info_hashes.v1 is not None:
            topics.append(f"xt={_BTIH}{self.info_hashes.v1.hex()}")
        if self.info_hashes.v2 is not None:
            topics.append(f"xt={_BTMH}1220{self.info_hashes.v2.hex()}")
        made = _SCHEME + "&".join(topics)
        for parameter in self._hints():
            if len(made) + 1 + len(parameter) <= MAGNET_LENGTH:
                made += "&" + parameter
        return made

    def _hints(self) -> Iterator[str]:
        """Every parameter that is not a topic."""
        if self.name:
            yield f"dn={quote(self.name, safe='')}"
        if self.length is not None:
            yield f"xl={self.length}"
        for key, urls in (("tr", self.trackers), ("ws", self.web_seeds)):
            for url in urls[:MAGNET_REPEATS]:
                yield f"{key}={quote(url, safe='')}"
        for key, addresses in (("x.pe", self.peers), ("dht", self.nodes)):
            for host, port in addresses[:MAGNET_REPEATS]:
                yield f"{key}=[{host}]:{port}" if ":" in host else f"{key}={host}:{port}"
        if self.select is not None:
            yield "so=" + ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in self.select)


def _read_topics(values: Iterable[str]) -> InfoHashes:
    """The info-hashes among the topics; those of other networks are ignored."""
    v1: set[bytes] = set()
    v2: set[bytes] = set()
    for value in values:
        if _BAD_ESCAPE(value):
            raise MetainfoError("xt", "invalid percent escape")
        topic = unquote(value)
        kind, text = topic[: len(_BTIH)].lower(), topic[len(_BTIH) :]
        if kind == _BTIH:
            v1.add(_read_v1(text))
        elif kind == _BTMH:
            v2.add(_read_v2(text))
    if not v1 and not v2:
        raise MetainfoError("xt", "no info-hash (urn:btih or urn:btmh)")
    if len(v1) > 1 or len(v2) > 1:
        raise MetainfoError("xt", "several info-hashes")
    return InfoHashes(next(iter(v1), None), next(iter(v2), None))


def _read_v1(text: str) -> bytes:
    if _HEX_40(text):
        return bytes.fromhex(text)
    if _BASE32(text):
        return b32decode(text.upper())
    raise MetainfoError("xt", "a v1 info-hash must be 40 hexadecimal or 32 base32 digits")


def _read_v2(text: str) -> bytes:
    if _MULTIHASH(text):
        return bytes.fromhex(text[4:])
    raise MetainfoError("xt", "a v2 info-hash must be 1220 and 64 hexadecimal digits")


def _first(found: Iterable[_Kept | None]) -> tuple[_Kept, ...]:
    """What is not None, each once, the first 100."""
    return tuple(islice(dict.fromkeys(kept for kept in found if kept is not None), MAGNET_REPEATS))


def _read_ranges(values: Iterable[str]) -> Iterator[tuple[int, int]]:
    """The (first, last) of each valid item of ``so`` (BEP 53). A range may end beyond the last index that can be."""
    for value in values:
        for item in unquote(value).split(","):
            match = _RANGE(item)
            if match is None:
                continue
            first = int(match[1])
            last = min(int(match[2]), MAGNET_FILE_INDEX) if match[2] else first
            if first <= last <= MAGNET_FILE_INDEX:
                yield first, last


def _merge(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """``ranges`` ascending, those that overlap or touch made one."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)
