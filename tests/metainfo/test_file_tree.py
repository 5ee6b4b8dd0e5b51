"""The v2 half of torrents: what contradicts itself is refused, alone and in a hybrid."""

from __future__ import annotations

from hashlib import sha256

import pytest

from btor import limits
from btor.bencode import Value
from btor.errors import MetainfoError
from btor.metainfo.file_tree import TreeFile, check_agreement, check_piece_layers, check_piece_length, read_file_tree
from btor.metainfo.merkle import layer_root
from btor.metainfo.raw_file import RawFile

ROOT = b"r" * 32
PIECE = 16384


def leaf(length: int = 1, **more: Value) -> dict[bytes, Value]:
    table: dict[bytes, Value] = {b"length": length, b"pieces root": ROOT}
    return {b"": table | {key.replace("_", " ").encode(): value for key, value in more.items()}}


def refused(tree: Value | None) -> str:
    with pytest.raises(MetainfoError) as caught:
        read_file_tree(tree, PIECE)
    return str(caught.value)


@pytest.mark.parametrize("piece_length", [16384, 32768, 2**28])
def test_piece_lengths(piece_length: int) -> None:
    check_piece_length(piece_length)


@pytest.mark.parametrize("piece_length", [1, 8192, 16383, 20_000, 2**29, 2**31 - 1])
def test_bad_piece_lengths(piece_length: int) -> None:
    with pytest.raises(MetainfoError, match="piece length"):
        check_piece_length(piece_length)


def test_files_in_the_order_of_the_tree() -> None:
    tree: dict[bytes, Value] = {
        b"a": {b"b": leaf(5), b"c": {b"d": leaf(0)}},
        b"e": leaf(7, attr=b"x"),
        b"empty folder": {},
        b"l": {b"": {b"attr": b"l", b"symlink path": [b"e"]}},
    }
    assert read_file_tree(tree, PIECE) == [
        TreeFile((b"a", b"b"), 5, ROOT, False),
        TreeFile((b"a", b"c", b"d"), 0, None, False),
        TreeFile((b"e",), 7, ROOT, False),
        TreeFile((b"l",), 0, None, True),
    ]


@pytest.mark.parametrize("tree", [None, [], b"", 1])
def test_the_tree_must_be_a_dictionary(tree: Value | None) -> None:
    assert "must be a dictionary" in refused(tree)


@pytest.mark.parametrize(
    "tree",
    [
        {b"a": 1},
        {b"a": []},
        {b"": leaf()[b""]},
        {b"a": {b"length": 1, b"pieces root": ROOT}},
        {b"a": {b"": 1}},
        {b"a": {**leaf(), b"b": leaf()}},
        {b"a": {b"": {b"length": -1}}},
        {b"a": {b"": {b"length": b"1"}}},
        {b"a": {b"": {b"length": 1}}},
        {b"a": leaf(pieces_root=b"r" * 31)},
        {b"a": leaf(pieces_root=b"r" * 33)},
        {b"a": leaf(pieces_root=1)},
        {b"a": leaf(pieces_root=bytes(32))},
        {b"a": leaf(attr=b"p")},
        {b"a": {b"": {b"length": 5, b"attr": b"l"}}},
        {b"a": leaf(attr=b"l", symlink_path=b"b")},
        {b"a": leaf(attr=b"l", symlink_path=[])},
        {b"a": leaf(0)},
        {},
        {b"a": leaf(limits.TOTAL_LENGTH + 1)},
        {b"a": leaf(limits.TOTAL_LENGTH), b"b": leaf()},
    ],
)
def test_bad_trees(tree: Value) -> None:
    assert refused(tree)


def nested(depth: int) -> dict[bytes, Value]:
    tree = leaf()
    for _ in range(depth):
        tree = {b"d": tree}
    return tree


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(read_file_tree(nested(limits.PATH_DEPTH), PIECE)[0].path) == limits.PATH_DEPTH
    assert "too deep" in refused(nested(limits.PATH_DEPTH + 1))
    most = limits.PIECE_COUNT * PIECE
    assert read_file_tree({b"a": leaf(most)}, PIECE)
    assert "pieces" in refused({b"a": leaf(most), b"b": leaf(1)})
    monkeypatch.setattr("btor.metainfo.file_tree.FILE_COUNT", 1)
    assert read_file_tree({b"a": leaf()}, PIECE)
    assert "more than 1 files" in refused({b"a": leaf(), b"b": leaf()})


def layered(pieces: int, leaves_each: int = 1) -> tuple[TreeFile, bytes]:
    """A file of that many pieces and its layer."""
    layer = b"".join(sha256(b"%d" % piece).digest() for piece in range(pieces))
    root = layer_root(layer, leaves_each)
    return TreeFile((b"f",), pieces * PIECE * leaves_each - 5, root, False), layer


@pytest.mark.parametrize("leaves_each", [1, 4])
def test_piece_layers(leaves_each: int) -> None:
    files, layers = zip(*(layered(pieces, leaves_each) for pieces in (2, 3, 5)), strict=True)
    by_root: dict[bytes, Value] = {file.root or b"": layer for file, layer in zip(files, layers, strict=True)}
    check_piece_layers(by_root, files, PIECE * leaves_each)
    check_piece_layers({}, files, PIECE * leaves_each)
    check_piece_layers(None, files, PIECE * leaves_each)


def test_bad_piece_layers() -> None:
    file, layer = layered(3)
    assert file.root is not None
    single, single_layer = layered(1)
    assert single.root is not None
    bad: list[Value] = [
        [],
        1,
        {ROOT: layer},
        {file.root[:31]: layer},
        {file.root: 1},
        {file.root: layer[:-1]},
        {file.root: layer[:-32]},
        {file.root: layer + layer[:32]},
        {file.root: layer[32:] + layer[:32]},
        {single.root: single_layer},
    ]
    for layers in bad:
        with pytest.raises(MetainfoError, match="piece layers"):
            check_piece_layers(layers, [file, single], PIECE)


def raw(name: bytes, length: int) -> RawFile:
    return RawFile((name,), length)


def pad(length: int) -> RawFile:
    return RawFile((b".pad", b"%d" % length), length, pad=True)


TREE = [
    TreeFile((b"a",), 100, ROOT, False),
    TreeFile((b"b",), 0, None, False),
    TreeFile((b"c",), PIECE, ROOT, False),
    TreeFile((b"d",), 7, ROOT, False),
]
REST = [raw(b"c", PIECE), raw(b"d", 7)]


@pytest.mark.parametrize(
    "listed",
    [
        [raw(b"a", 100), raw(b"b", 0), pad(PIECE - 100), *REST],
        [raw(b"a", 100), pad(PIECE - 100), raw(b"b", 0), *REST],
        [raw(b"a", 100), pad(PIECE - 101), pad(1), raw(b"b", 0), *REST],
        [raw(b"a", 100), raw(b"b", 0), pad(PIECE - 100), *REST, pad(PIECE - 7)],
    ],
)
def test_halves_that_agree(listed: list[RawFile]) -> None:
    check_agreement(listed, TREE, PIECE)


@pytest.mark.parametrize(
    "listed",
    [
        [raw(b"a", 100), raw(b"b", 0), *REST],
        [raw(b"a", 100), raw(b"b", 0), pad(PIECE - 101), *REST],
        [raw(b"a", 100), raw(b"b", 0), pad(2 * PIECE - 100), *REST],
        [pad(PIECE), raw(b"a", 100), raw(b"b", 0), pad(PIECE - 100), *REST],
        [raw(b"a", 100), raw(b"b", 0), pad(PIECE - 100), *REST, pad(PIECE - 6)],
        [raw(b"a", 100), raw(b"b", 0), pad(PIECE - 100), REST[0]],
        [raw(b"a", 100), raw(b"b", 0), pad(PIECE - 100), *REST, raw(b"e", 0)],
        [raw(b"a", 100), pad(PIECE - 100), *REST],
        [raw(b"A", 100), raw(b"b", 0), pad(PIECE - 100), *REST],
        [raw(b"a", 101), raw(b"b", 0), pad(PIECE - 101), *REST],
        [raw(b"b", 0), raw(b"a", 100), pad(PIECE - 100), *REST],
        [raw(b"a", 100), RawFile((b"b",), 0, target=(b"a",)), pad(PIECE - 100), *REST],
    ],
)
def test_halves_that_differ(listed: list[RawFile]) -> None:
    with pytest.raises(MetainfoError, match="files"):
        check_agreement(listed, TREE, PIECE)
