"""A file as a torrent writes it, before its names are made safe."""

from __future__ import annotations

from typing import NamedTuple

from btor.bencode import Value
from btor.errors import MetainfoError
from btor.limits import PATH_DEPTH, TOTAL_LENGTH

_NO_NAMES = (b"", b".", b"..")


class RawFile(NamedTuple):
    """One entry: ``path`` and, for a link, its ``target`` are elements below the torrent's name; ``length`` in bytes.

    ``pad`` and ``executable`` as in BEP 47. A link has length 0 whatever the torrent says.
    """

    path: tuple[bytes, ...]
    length: int
    pad: bool = False
    executable: bool = False
    target: tuple[bytes, ...] | None = None


def differing(raw: tuple[bytes, ...], safe: tuple[str, ...]) -> tuple[bytes, ...] | None:
    """The elements ``raw`` where a file could have that path and ``safe`` is another one; else None."""
    if all(element == name.encode() for element, name in zip(raw, safe, strict=True)):
        return None
    return None if any(element in _NO_NAMES or b"/" in element or b"\0" in element for element in raw) else raw


def read_attributes(entry: dict[bytes, Value]) -> bytes:
    """The letters under ``attr`` (BEP 47), none where there are none."""
    attributes = entry.get(b"attr")
    return attributes if isinstance(attributes, bytes) else b""


def read_length(value: Value | None) -> int:
    """A length in bytes, 0 … 2^48 - 1. MetainfoError for all else."""
    if not isinstance(value, int):
        raise MetainfoError("length", "must be an integer")
    if not 0 <= value <= TOTAL_LENGTH:
        raise MetainfoError("length", f"{value} is negative or above {TOTAL_LENGTH}")
    return value


def read_elements(value: Value | None, field: str) -> tuple[bytes, ...]:
    """The elements of a path. MetainfoError names ``field``: no list of at least one and at most 100 strings."""
    if not isinstance(value, list) or not value:
        raise MetainfoError(field, "must be a list of at least one string")
    if len(value) > PATH_DEPTH:
        raise MetainfoError(field, f"more than {PATH_DEPTH} elements")
    elements = []
    for element in value:
        if not isinstance(element, bytes):
            raise MetainfoError(field, "an element that is not a string")
        elements.append(element)
    return tuple(elements)
