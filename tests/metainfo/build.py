"""Small torrents for tests, right until the test changes them."""

from __future__ import annotations

from typing import Any

from btor.bencode import Value, encode
from btor.metainfo.torrent_file import Metainfo, parse_torrent

ABSENT = object()  # in place of a value: the key is left out


def entry(*path: bytes, length: Any = 1, **more: Any) -> dict[bytes, Value]:
    """One of ``files``. Names of further keys are as in the torrent, with a space for each underscore."""
    return changed({b"length": length, b"path": list(path)}, more)


def changed(table: dict[bytes, Value], changes: dict[str, Any]) -> dict[bytes, Value]:
    """``table`` with ``changes``; names are as in the torrent, with a space for each underscore."""
    table = table | {key.replace("_", " ").encode(): value for key, value in changes.items()}
    return {key: value for key, value in table.items() if value is not ABSENT}


def info(**changes: Any) -> dict[bytes, Value]:
    """An info dictionary of one file of 20,000 bytes. With ``files`` given there is no ``length``.

    ``pieces`` has the right length for what the files say, unless it is given.
    """
    table: dict[bytes, Value] = {b"name": b"name", b"piece length": 16384}
    if "files" not in changes:
        table[b"length"] = 20_000
    table = changed(table, changes)
    if "pieces" not in changes:
        files = changes.get("files", [table])
        total = sum(file.get(b"length", 0) for file in files if b"l" not in file.get(b"attr", b""))
        table[b"pieces"] = b"p" * 20 * -(-total // max(changes.get("piece_length", 16384), 1))
    return table


def torrent(info_value: Value | None = None, **outer: Any) -> bytes:
    """A torrent file of ``info_value``, or of ``info()``."""
    return encode(changed({b"info": info() if info_value is None else info_value}, outer))


def parsed(**changes: Any) -> Metainfo:
    """What ``info(**changes)`` is read as."""
    return parse_torrent(torrent(info(**changes)))


def paths(*entries: dict[bytes, Value]) -> list[str]:
    """The paths below the torrent's name that ``entries`` get, padding left out."""
    return ["/".join(file.path[1:]) for file in parsed(files=list(entries)).files if not file.pad]
