"""The ``file tree`` and the ``piece layers`` of a v2 torrent (BEP 52), and whether a hybrid's two halves agree.

btor does not yet download by them; it refuses what contradicts itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from btor.bencode import Value
from btor.errors import MetainfoError
from btor.limits import BLOCK, FILE_COUNT, PATH_DEPTH, PIECE_COUNT, PIECE_LENGTH_V1, TOTAL_LENGTH, V2_PIECE_LENGTH_MIN
from btor.metainfo.merkle import HASH, layer_root
from btor.metainfo.raw_file import RawFile, read_attributes, read_elements, read_length


class TreeFile(NamedTuple):
    """A file of the tree: ``path`` below the torrent's name; ``root`` is None for a link and for an empty file."""

    path: tuple[bytes, ...]
    length: int
    root: bytes | None
    link: bool


def check_piece_length(piece_length: int) -> None:
    """MetainfoError unless ``piece_length`` is a power of two from 16 KiB on."""
    if piece_length & (piece_length - 1) or not V2_PIECE_LENGTH_MIN <= piece_length <= PIECE_LENGTH_V1:
        raise MetainfoError("piece length", f"{piece_length} is not a power of two from {V2_PIECE_LENGTH_MIN} on")


def read_file_tree(tree: Value | None, piece_length: int) -> list[TreeFile]:
    """The files of the tree, in its order. MetainfoError."""
    if not isinstance(tree, dict):
        raise MetainfoError("file tree", "must be a dictionary")
    files = []
    for path, node in _leaves(tree):
        files.append(_read_leaf(path, node))
        if len(files) > FILE_COUNT:
            raise MetainfoError("file tree", f"more than {FILE_COUNT} files")
    if not 0 < sum(file.length for file in files) <= TOTAL_LENGTH:
        raise MetainfoError("file tree", f"the content is empty or above {TOTAL_LENGTH} bytes")
    if sum(_pieces(file.length, piece_length) for file in files) > PIECE_COUNT:
        raise MetainfoError("file tree", f"more than {PIECE_COUNT} pieces")
    return files


def _leaves(tree: dict[bytes, Value]) -> Iterator[tuple[tuple[bytes, ...], Value]]:
    """The path and the properties of each file. The nesting is bounded by that of the bencoding."""
    open_folders: list[tuple[tuple[bytes, ...], Iterator[tuple[bytes, Value]]]] = [((), iter(tree.items()))]
    while open_folders:
        folder, entries = open_folders[-1]
        entry = next(entries, None)
        if entry is None:
            open_folders.pop()
            continue
        name, node = entry
        path = (*folder, name)
        if name == b"" or not isinstance(node, dict) or len(path) > PATH_DEPTH:
            raise MetainfoError("file tree", "an entry is neither a file nor a folder, or too deep")
        if b"" not in node:
            open_folders.append((path, iter(node.items())))
        elif len(node) > 1:
            raise MetainfoError("file tree", "a file has siblings")
        else:
            yield path, node[b""]


def _read_leaf(path: tuple[bytes, ...], node: Value) -> TreeFile:
    if not isinstance(node, dict):
        raise MetainfoError("file tree", "a file must be a dictionary")
    attributes = read_attributes(node)
    if b"p" in attributes:
        raise MetainfoError("file tree", "a file of padding")
    if b"l" in attributes and b"symlink path" in node:
        read_elements(node[b"symlink path"], "symlink path")
        return TreeFile(path, 0, None, True)
    length = read_length(node.get(b"length"))
    if length == 0:
        return TreeFile(path, 0, None, False)
    root = node.get(b"pieces root")
    if not isinstance(root, bytes) or len(root) != HASH or root == bytes(HASH):
        raise MetainfoError("pieces root", f"must be {HASH} bytes and not all zero")
    return TreeFile(path, length, root, False)


def check_piece_layers(layers: Value | None, files: Sequence[TreeFile], piece_length: int) -> None:
    """MetainfoError unless each layer is that of a file of several pieces, of the right length, and hashes to its root.

    Layers may be missing: they can be had from peers.
    """
    if layers is None:
        return
    if not isinstance(layers, dict):
        raise MetainfoError("piece layers", "must be a dictionary")
    pieces = {file.root: _pieces(file.length, piece_length) for file in files}
    for root, layer in layers.items():
        if pieces.get(root, 0) < 2:
            raise MetainfoError("piece layers", "a root that no file of several pieces has")
        if not isinstance(layer, bytes) or len(layer) != pieces[root] * HASH:
            raise MetainfoError("piece layers", "a layer of the wrong length")
        if layer_root(layer, piece_length // BLOCK) != root:
            raise MetainfoError("piece layers", "a layer that does not hash to its root")


def check_agreement(listed: Sequence[RawFile], tree: Sequence[TreeFile], piece_length: int) -> None:
    """MetainfoError unless the v1 list of a hybrid describes the files of the tree, in order, each at a piece's start.

    The last file may lack its padding.
    """
    offset = due = 0
    unseen = iter(tree)
    for raw in listed:
        if not raw.pad:
            file = next(unseen, None)
            if file is None or (raw.path, raw.length, raw.target is not None) != (file.path, file.length, file.link):
                raise MetainfoError("files", "the v1 and the v2 list differ")
            if raw.length and offset != due:
                raise MetainfoError("files", "a file of a hybrid torrent does not begin with a piece")
            due += _pieces(raw.length, piece_length) * piece_length
        offset += raw.length
    if next(unseen, None) is not None or offset > due:
        raise MetainfoError("files", "the v1 and the v2 list differ")


def _pieces(length: int, piece_length: int) -> int:
    return -(-length // piece_length)
