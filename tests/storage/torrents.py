"""Torrents with their content, for the tests of this folder."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from btor import bencode
from btor.metainfo.torrent_file import Metainfo, parse_torrent
from btor.storage.files import Content
from btor.storage.pool import FilePool

File = tuple[str, int]
"""A path below the torrent's folder and a length; a path of "" is padding."""


def random_bytes(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def stream(files: Sequence[File], seed: int = 1) -> bytes:
    """Random content of ``files``, with zeros for padding."""
    return b"".join(random_bytes(length, seed + i) if path else bytes(length) for i, (path, length) in enumerate(files))


def torrent(
    files: Sequence[File] | None = None, *, content: bytes, piece_length: int = 16384, name: str = "content"
) -> Metainfo:
    """The torrent of ``content`` laid over ``files`` (None: one file)."""
    pieces = (content[at : at + piece_length] for at in range(0, len(content), piece_length))
    info: dict[bytes, bencode.Value] = {
        b"name": name.encode(),
        b"piece length": piece_length,
        b"pieces": b"".join(hashlib.sha1(piece).digest() for piece in pieces),
    }
    if files is None:
        info[b"length"] = len(content)
    else:
        info[b"files"] = [_file(index, path, length) for index, (path, length) in enumerate(files)]
    return parse_torrent(bencode.encode({b"info": info}))


def _file(index: int, path: str, length: int) -> dict[bytes, bencode.Value]:
    if not path:
        return {b"attr": b"p", b"length": length, b"path": [b".pad", str(index).encode()]}
    return {b"length": length, b"path": [part.encode() for part in path.split("/")]}


def open_content(
    metainfo: Metainfo, top: Path, pool: FilePool | None = None, *, writable: bool = True, follow_links: bool = False
) -> Content:
    return Content(metainfo, top, FilePool() if pool is None else pool, writable=writable, follow_links=follow_links)


def put(content: Content, data: bytes, start: int = 0, end: int | None = None) -> None:
    """Write ``data[start:end]`` in blocks, as they come from a peer."""
    end = len(data) if end is None else end
    views = [memoryview(data)[at : min(at + 16384, end)] for at in range(start, end, 16384)]
    content.write(start, views, end - start)


def get(content: Content, start: int, length: int) -> bytes:
    buffer = bytearray(length)
    assert content.read_into(start, [memoryview(buffer)])
    return bytes(buffer)


def good_pieces(metainfo: Metainfo, top: Path) -> set[int]:
    """An independent look at the disk: the pieces whose bytes are right, read with nothing of btor's storage."""
    data = bytearray()
    for entry in metainfo.files:
        path = os.path.join(top, *entry.path[1:])
        there = Path(path).read_bytes()[: entry.length] if os.path.isfile(path) and not entry.pad else b""
        data += there + (bytes(entry.length) if entry.pad else b"\xff" * (entry.length - len(there)))
    size = metainfo.geometry.piece_length
    return {
        piece
        for piece in range(metainfo.geometry.piece_count)
        if hashlib.sha1(data[piece * size : (piece + 1) * size]).digest() == metainfo.piece_hash(piece)
    }


def record_writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """From now on, (number of views, position) of each vectored write."""
    calls: list[tuple[int, int]] = []
    real = os.pwritev

    def pwritev(fd: int, views: Sequence[memoryview], position: int) -> int:
        calls.append((len(views), position))
        return real(fd, views, position)

    monkeypatch.setattr(os, "pwritev", pwritev)
    return calls
