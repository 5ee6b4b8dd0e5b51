"""Torrent files (BEP 3, 12, 19, 27, 47; hybrids of BEP 52 by their v1 half)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from itertools import islice

from btor import limits
from btor.bencode import Value, decode, decode_with_spans
from btor.errors import BencodeError, MetainfoError, UnsupportedError
from btor.metainfo.file_list import FileEntry as FileEntry
from btor.metainfo.file_list import place_files, read_file_list
from btor.metainfo.file_tree import TreeFile, check_agreement, check_piece_layers, check_piece_length, read_file_tree
from btor.metainfo.geometry import Geometry
from btor.metainfo.info_hashes import InfoHashes as InfoHashes
from btor.metainfo.magnet import Magnet
from btor.metainfo.paths import safe_name
from btor.metainfo.raw_file import RawFile, differing, read_attributes, read_length
from btor.metainfo.urls import checked_host_port, tracker_url, web_seed_url

_HASH = 20


@dataclass(frozen=True, slots=True)
class Metainfo:
    """What a torrent file says, checked.

    ``name`` and the paths of ``files`` are safe to write under; ``files`` are in the order of the content, padding
    included. ``hashes_at``: where in ``info`` the SHA-1s of the pieces begin, 20 bytes each; a copy would double what a
    large torrent takes. ``trackers``: tiers of http, https and udp URLs (BEP 12). ``nodes``: (host, port) of DHT nodes
    (BEP 5). ``creation_date``: Unix seconds, any 64-bit number. ``comment``, ``created_by``, ``encoding`` and
    ``source`` are as foreign as they come: show them by ``display``. ``info``: the bytes that the info-hashes are of.
    ``version``: "v1" or "hybrid". ``raw_name``: the name as the torrent writes it, where that is another that a file
    can have.
    """

    info_hashes: InfoHashes
    name: str
    geometry: Geometry
    hashes_at: int
    files: tuple[FileEntry, ...] = field(repr=False)
    single_file: bool
    private: bool
    trackers: tuple[tuple[str, ...], ...]
    web_seeds: tuple[str, ...]
    nodes: tuple[tuple[str, int], ...]
    comment: str | None
    created_by: str | None
    creation_date: int | None
    encoding: str | None
    source: str | None
    info: bytes = field(repr=False)
    version: str
    raw_name: bytes | None = None

    @property
    def total_length(self) -> int:
        """Bytes of the content, padding included."""
        return self.geometry.total_length

    @property
    def info_hash(self) -> bytes:
        """The v1 info-hash, 20 bytes."""
        return sha1(self.info, usedforsecurity=False).digest() if self.info_hashes.v1 is None else self.info_hashes.v1

    def piece_hash(self, piece: int) -> bytes:
        """The SHA-1 that ``piece`` must have."""
        at = self.hashes_at + piece * _HASH
        return self.info[at : at + _HASH]

    def magnet(self) -> str:
        """The magnet URI (BEP 9) with the name, the trackers and the web seeds, as many as such a URI may have."""
        return Magnet(
            info_hashes=self.info_hashes,
            name=self.name,
            trackers=tuple(url for tier in self.trackers for url in tier),
            web_seeds=self.web_seeds,
        ).uri()


def parse_torrent(data: bytes) -> Metainfo:
    """The torrent whose file is ``data``; bytes behind its dictionary are ignored.

    MetainfoError: it is invalid, the error names the key. UnsupportedError: it is valid and has only a v2 half.
    """
    try:
        outer, spans, info_spans = decode_with_spans(
            data,
            depth=limits.TORRENT_DEPTH,
            tokens=limits.TORRENT_TOKENS,
            size=limits.TORRENT_FILE_SIZE,
            inside=b"info",
        )
    except BencodeError as error:
        raise MetainfoError("", f"not a torrent: {error}") from error
    info = outer.get(b"info")
    if not isinstance(info, dict):
        raise MetainfoError("info", "must be a dictionary")
    start, end = spans[b"info"]
    _, end_of_hashes = info_spans.get(b"pieces", (start, start))
    return _read(outer, info, data[start:end], end_of_hashes - start)


def parse_info(raw_info: bytes, outer: dict[bytes, Value], v1: bytes | None = None) -> Metainfo:
    """The torrent whose info dictionary is ``raw_info``; ``outer``: what else its file would say.

    ``v1``: the SHA-1 of ``raw_info`` where that is known. Errors as ``parse_torrent``.
    """
    try:
        info, spans, _ = decode_with_spans(raw_info, depth=limits.TORRENT_DEPTH - 1, tokens=limits.TORRENT_TOKENS)
    except BencodeError as error:
        raise MetainfoError("info", str(error)) from error
    if max((end for _, end in spans.values()), default=1) + 1 != len(raw_info):
        raise MetainfoError("info", "bytes behind it")
    _, end_of_hashes = spans.get(b"pieces", (0, 0))
    return _read(outer, info, raw_info, end_of_hashes, v1)


def _read(
    outer: dict[bytes, Value],
    info: dict[bytes, Value],
    raw_info: bytes,
    end_of_hashes: int,
    v1: bytes | None = None,
) -> Metainfo:
    raw_name = info.get(b"name.utf-8", info.get(b"name"))
    if not isinstance(raw_name, bytes):
        raise MetainfoError("name", "must be a string")
    piece_length = info.get(b"piece length")
    if not isinstance(piece_length, int) or not 1 <= piece_length <= limits.PIECE_LENGTH_V1:
        raise MetainfoError("piece length", f"must be an integer, 1 to {limits.PIECE_LENGTH_V1}")
    tree = _read_v2(outer, info, raw_info, piece_length)
    if tree is not None and b"pieces" not in info:
        raise UnsupportedError("v2-only torrents are not supported yet")
    single_file, raw_files = _read_v1(info, raw_name)
    if tree is not None:
        check_agreement(raw_files, tree, piece_length)
    geometry = _read_geometry(info, sum(raw.length for raw in raw_files), piece_length)
    v1 = v1 or sha1(raw_info, usedforsecurity=False).digest()
    name = safe_name(raw_name, v1.hex())
    raw_names = differing((raw_name,), (name,))
    created = outer.get(b"creation date")
    return Metainfo(
        info_hashes=InfoHashes(v1, None if tree is None else sha256(raw_info).digest()),
        name=name,
        geometry=geometry,
        hashes_at=end_of_hashes - geometry.piece_count * _HASH,
        files=_single(name, raw_files[0]) if single_file else place_files(name, raw_files),
        single_file=single_file,
        private=info.get(b"private", 0) != 0,
        trackers=_read_trackers(outer),
        web_seeds=_read_web_seeds(outer.get(b"url-list"), folder=not single_file),
        nodes=_read_nodes(outer.get(b"nodes")),
        comment=_text(outer, b"comment"),
        created_by=_text(outer, b"created by"),
        creation_date=created if isinstance(created, int) else None,
        encoding=_text(outer, b"encoding"),
        source=_text(info, b"source"),
        info=raw_info,
        version="v1" if tree is None else "hybrid",
        raw_name=None if raw_names is None else raw_names[0],
    )


def _read_v2(
    outer: dict[bytes, Value], info: dict[bytes, Value], raw_info: bytes, piece_length: int
) -> list[TreeFile] | None:
    """The files of the v2 half, checked; None where there is none."""
    version = info.get(b"meta version", 1)
    if version == 1 and b"file tree" not in info:
        return None
    if isinstance(version, int) and version > 2:
        raise UnsupportedError(f"meta version {version} is not supported")
    if version != 2:
        raise MetainfoError("meta version", "must be 2 for a file tree")
    try:
        decode(raw_info, depth=limits.TORRENT_DEPTH, tokens=limits.TORRENT_TOKENS, strict_order=True)
    except BencodeError as error:
        raise MetainfoError("info", f"a v2 torrent must be sorted: {error}") from error
    check_piece_length(piece_length)
    tree = read_file_tree(info.get(b"file tree"), piece_length)
    check_piece_layers(outer.get(b"piece layers"), tree, piece_length)
    return tree


def _read_v1(info: dict[bytes, Value], raw_name: bytes) -> tuple[bool, list[RawFile]]:
    """Whether it is a torrent of one file without a folder, and its files."""
    if b"files" not in info:
        executable = b"x" in read_attributes(info)
        return True, [RawFile((raw_name,), read_length(info.get(b"length")), executable=executable)]
    if b"length" in info:
        raise MetainfoError("files", "there is a length as well")
    return False, read_file_list(info[b"files"])


def _single(name: str, raw: RawFile) -> tuple[FileEntry, ...]:
    return (FileEntry(path=(name,), length=raw.length, offset=0, executable=raw.executable),)


def _read_geometry(info: dict[bytes, Value], total: int, piece_length: int) -> Geometry:
    if not 0 < total <= limits.TOTAL_LENGTH:
        raise MetainfoError("length", f"the content has {total} bytes, not 1 to {limits.TOTAL_LENGTH}")
    geometry = Geometry(total, piece_length)
    if geometry.piece_count > limits.PIECE_COUNT:
        raise MetainfoError("pieces", f"more than {limits.PIECE_COUNT}")
    pieces = info.get(b"pieces")
    if not isinstance(pieces, bytes):
        raise MetainfoError("pieces", "must be a string")
    if len(pieces) != geometry.piece_count * _HASH:
        raise MetainfoError(
            "pieces", f"{len(pieces)} bytes, but there are {geometry.piece_count} pieces of {_HASH} each"
        )
    return geometry


def _read_trackers(outer: dict[bytes, Value]) -> tuple[tuple[str, ...], ...]:
    """Tiers of trackers, each tracker once. ``announce`` counts only where ``announce-list`` names none (BEP 12)."""
    seen: set[str] = set()
    for tiers in (outer.get(b"announce-list"), [[outer.get(b"announce", 0)]]):
        if isinstance(tiers, list):
            kept = tuple(filter(None, (tuple(_fresh_trackers(tier, seen)) for tier in tiers)))
            if kept:
                return kept
    return ()


def _fresh_trackers(tier: Value, seen: set[str]) -> Iterator[str]:
    for raw in tier if isinstance(tier, list) else ():
        url = tracker_url(raw) if isinstance(raw, bytes) else None
        if url is not None and url not in seen and len(seen) < limits.TRACKERS:
            seen.add(url)
            yield url


def _read_web_seeds(urls: Value | None, *, folder: bool) -> tuple[str, ...]:
    """The web seeds of BEP 19, each once: a string or a list of strings."""
    raw_urls = urls if isinstance(urls, list) else [urls]
    seeds = (web_seed_url(raw, folder=folder) for raw in raw_urls if isinstance(raw, bytes))
    return tuple(islice(dict.fromkeys(filter(None, seeds)), limits.WEB_SEEDS))


def _read_nodes(nodes: Value | None) -> tuple[tuple[str, int], ...]:
    """DHT nodes (BEP 5): pairs of a host and a port."""
    found = []
    for node in nodes if isinstance(nodes, list) else ():
        if isinstance(node, list) and len(node) == 2 and isinstance(node[0], bytes) and isinstance(node[1], int):
            found.append(checked_host_port(node[0].decode("ascii", "replace"), node[1]))
    return tuple(islice(dict.fromkeys(filter(None, found)), limits.DHT_NODES))


def _text(table: dict[bytes, Value], key: bytes) -> str | None:
    """The string under ``key``, by preference that of its sibling in UTF-8; what is not UTF-8 becomes U+FFFD."""
    value = table.get(key + b".utf-8", table.get(key))
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else None
