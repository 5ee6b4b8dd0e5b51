"""Foreign names made safe: to write files under, and to show to people.

The same torrent gets the same names on every system and in every run, so what is safe is decided for all systems at
once: a name that is harmless on Linux but not on Windows or macOS is changed everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple
from unicodedata import normalize

from btor.errors import MetainfoError
from btor.limits import DISPLAY_CHARACTERS, DUPLICATE_NAMES, FOLDER_COUNT, PATH_ELEMENT, PATH_LENGTH

_LOOKED_AT = 16  # times the limit: a longer text is not walked through for what may be shown of its end
_EXTENSION = 16  # bytes; what follows the last dot of a longer name is no extension
_PLAIN = re.compile(rb"[ -.0-\[\]-~]{1,%d}" % PATH_ELEMENT).fullmatch  # printable ASCII but / and \
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9]|clock\$) *(?:\.|\Z)", re.IGNORECASE).match


def _characters(*ranges: tuple[int, int]) -> Iterable[int]:
    return (code for first, last in ranges for code in range(first, last + 1))


_CONTROLS = tuple(_characters((0x00, 0x1F), (0x7F, 0x9F)))
_ESCAPED_BYTES = tuple(_characters((0xDC80, 0xDCFF)))  # what surrogateescape makes of bytes that are not UTF-8
_INVISIBLE = tuple(
    _characters(
        (0x61C, 0x61C), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x2064), (0x2066, 0x2069), (0xFEFF, 0xFEFF)
    )
)
_IN_NAMES: dict[int, str | None] = {
    **dict.fromkeys((*_CONTROLS, *_ESCAPED_BYTES), "_"),
    **dict.fromkeys((0, ord("/"), ord("\\"), *_INVISIBLE)),
}
_SHOWN_AS_UNKNOWN = (*_CONTROLS, 0x2028, 0x2029, *_characters((0xD800, 0xDFFF)))
_NOT_SHOWN = (*_INVISIBLE, *_characters((0xAD, 0xAD), (0x180E, 0x180E), (0x2065, 0x2065), (0x206A, 0x206F)))
_NOT_SHOWN += tuple(_characters((0xFFF9, 0xFFFB), (0xE0000, 0xE007F)))
_ON_SCREEN: dict[int, str | None] = {**dict.fromkeys(_SHOWN_AS_UNKNOWN, "\ufffd"), **dict.fromkeys(_NOT_SHOWN)}


def display(text: str | bytes, limit: int = DISPLAY_CHARACTERS) -> str:
    """``text`` as it may be shown on a terminal, in a log line or a page: one line of at most ``limit`` characters.

    Control characters, line separators and what is not UTF-8 become U+FFFD; characters that are invisible or change
    the direction of writing are left out. What is too long ends in "…".
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    shown = text[: _LOOKED_AT * limit].translate(_ON_SCREEN)
    if len(shown) <= limit and len(text) <= _LOOKED_AT * limit:
        return shown
    return shown[: limit - 1] + "…"


def safe_element(raw: bytes) -> str:
    """One element of a path, safe on every system: neither empty nor over 240 bytes, nor anything but a plain name.

    Slashes and NUL are taken out, controls and bytes that are not UTF-8 become "_", names that lead elsewhere ("..")
    are "_", device names of Windows get a "_" before them, and long names are cut before their extension.
    """
    if _PLAIN(raw):
        text = raw.decode("ascii")
    else:
        text = raw.decode("utf-8", "surrogateescape").translate(_IN_NAMES)
    if text in ("", ".", ".."):
        return "_"
    if _RESERVED(text):
        text = "_" + text
    return _shorten(text) if len(text) * 4 > PATH_ELEMENT else text


def safe_name(raw: bytes, fallback: str) -> str:
    """The name of a torrent as ``safe_element`` has it; ``fallback`` where nothing is left of it, or only dots."""
    text = raw.decode("utf-8", "surrogateescape").translate(_IN_NAMES)
    return fallback if text in ("", ".", "..") else safe_element(raw)


def fold(text: str) -> str:
    """What two names share that some file system takes for one: letter case and normal form do not count."""
    if text.isascii():
        return text.lower()
    return normalize("NFD", normalize("NFD", text).casefold())


def unique_paths(root: str, raw_paths: Sequence[tuple[bytes, ...]]) -> list[tuple[str, ...]]:
    """Safe paths below ``root``, none equal to another or to a folder of another, in the order of ``raw_paths``.

    The first of equal paths keeps its name, the others get ".1", ".2" … before the extension; so does a file that has
    the name of a folder. Linear in the number of elements. MetainfoError: a path is too long, too many are equal, or
    there are too many folders.
    """
    folders = _Folders(root)
    homes = [folders.enter(raw) for raw in raw_paths]
    names = [safe_element(raw[-1]) for raw in raw_paths]
    keys = [f"{home.number}/{fold(name)}" for home, name in zip(homes, names, strict=True)]
    wanted = set(keys)
    if len(wanted) < len(keys) or not wanted.isdisjoint(folders.by_key):
        _rename(names, keys, folders.by_key)
    paths = []
    for home, name in zip(homes, names, strict=True):
        if len(name) * 4 > home.room and len(name.encode()) > home.room:
            raise MetainfoError("path", f"longer than {PATH_LENGTH} bytes")
        paths.append((*home.path, name))
    return paths


class _Folder(NamedTuple):
    """``path``: safe. ``room``: bytes left for a name in it. Keys are folders' numbers and folded names in them."""

    number: int
    path: tuple[str, ...]
    room: int


class _Folders:
    """The folders of a torrent, numbered so that the keys of what is in them stay short."""

    def __init__(self, root: str) -> None:
        self.by_key: dict[str, int] = {}
        self._root = root
        self._known: dict[tuple[bytes, ...], _Folder] = {}

    def enter(self, raw: tuple[bytes, ...]) -> _Folder:
        """The folder of the file ``raw``. MetainfoError: one too many."""
        known = self._known.get(raw[:-1])
        if known is None:
            known = self._known[raw[:-1]] = self._add(raw[:-1])
        return known

    def _add(self, raw: tuple[bytes, ...]) -> _Folder:
        path = (self._root, *map(safe_element, raw))
        number = 0
        for element in path[1:]:
            number = self.by_key.setdefault(f"{number}/{fold(element)}", len(self.by_key) + 1)
        if len(self.by_key) > FOLDER_COUNT:
            raise MetainfoError("path", f"more than {FOLDER_COUNT} folders")
        return _Folder(number, path, PATH_LENGTH - len("/".join(path).encode()) - 1)


def _rename(names: list[str], keys: list[str], folder_keys: Collection[str]) -> None:
    """Change in place those of ``names`` whose key an earlier file or a folder has, to what nothing else wants."""
    unavailable = {*keys, *folder_keys}
    first = set(folder_keys)
    counts: dict[str, int] = {}
    numbers: dict[str, int] = {}
    for index, key in enumerate(keys):
        if key not in first:
            first.add(key)
            continue
        counts[key] = counts.get(key, 0) + 1
        if counts[key] >= DUPLICATE_NAMES:
            raise MetainfoError("path", f"more than {DUPLICATE_NAMES} files are called {display(names[index])}")
        folder = key[: key.index("/") + 1]
        name, candidate = names[index], key
        while candidate in unavailable:
            numbers[key] = numbers.get(key, 0) + 1
            names[index] = _numbered(name, numbers[key])
            candidate = folder + fold(names[index])
        unavailable.add(candidate)


def _numbered(name: str, number: int) -> str:
    """``name`` with ".number" before its extension."""
    dot = name.rfind(".")
    return f"{name[:dot]}.{number}{name[dot:]}" if dot > 0 else f"{name}.{number}"


def _shorten(text: str) -> str:
    """``text`` in at most 240 bytes of UTF-8, cut between characters and before its extension."""
    encoded = text.encode()
    if len(encoded) <= PATH_ELEMENT:
        return text
    dot = text.rfind(".")
    extension = text[dot:].encode() if dot > 0 else b""
    if len(extension) > _EXTENSION:
        extension = b""
    return (encoded[: PATH_ELEMENT - len(extension)]).decode("utf-8", "ignore") + extension.decode()
