"""Which files are wanted, by number, by name, by magnet, and which pieces that takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.errors import MetainfoError, UsageError
from btor.metainfo.selection import Ranges, Selection, parse_numbers, pieces_of_files, wanted_files
from btor.metainfo.torrent_file import Metainfo
from tests.storage.torrents import File, stream, torrent

FILES: list[File] = [("a.txt", 10), ("", 6), ("music/b.flac", 20), ("music/extra/c.flac", 0), ("", 12), ("d.flac", 30)]


def album() -> Metainfo:
    return torrent(FILES, content=stream(FILES), piece_length=16, name="album")


def single() -> Metainfo:
    return torrent(content=bytes(40), piece_length=16, name="one.iso")


@pytest.mark.parametrize(
    ("text", "ranges"),
    [("1", ((1, 1),)), ("1,3-5", ((1, 1), (3, 5))), ("7-7, 2", ((7, 7), (2, 2))), ("0", ((0, 0),))],
)
def test_numbers(text: str, ranges: Ranges) -> None:
    assert parse_numbers(text) == ranges


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "a", "1-", "-1", "3-2", "1-2-3", "1.5", "١", "1" * 10]
)  # a digit that is not ASCII
def test_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="such as 1,3-5"):
        parse_numbers(text)


@pytest.mark.parametrize(
    ("selection", "files"),
    [
        (Selection(((1, 1),)), {0}),
        (Selection(((2, 4),)), {2, 3, 5}),  # padding has no number
        (Selection(((1, 1), (4, 4))), {0, 5}),
        (Selection(include=("*.flac",)), {2, 3, 5}),
        (Selection(include=("c.flac", "a.*")), {0, 3}),
        (Selection(include=("music/*",)), {2, 3}),
        (Selection(include=("music/*.flac",)), {2, 3}),
        (Selection(exclude=("music/*",)), {0, 5}),
        (Selection(((1, 1),), include=("d.flac",)), {0, 5}),
        (Selection(((1, 4),), exclude=("[cd].flac",)), {0, 2}),
        (Selection(include=("*.flac",), exclude=("*/extra/*",)), {2, 5}),
    ],
)
def test_what_is_named_is_wanted(selection: Selection, files: set[int]) -> None:
    assert selection.files(album()) == files


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(((4, 5),)), "there is no file 5: album has 4 files"),
        (Selection(((0, 2),)), "there is no file 0: album has 4 files"),
        (Selection(include=("*.FLAC",)), "*.FLAC: no file has such a name"),
        (Selection(include=("*.flac", "extra")), "extra: no file has such a name"),
        (Selection(include=(".pad/*",)), ".pad/*: no file has such a name"),
        (Selection(((1, 1),), exclude=("z",)), "z: no file has such a name"),
        (Selection(exclude=("*",)), "no file of album is left to download"),
    ],
)
def test_what_names_nothing_is_wrong(selection: Selection, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        selection.files(album())
    assert str(caught.value) == message


def test_a_single_file() -> None:
    assert Selection(((1, 1),)).files(single()) == {0}
    assert Selection(include=("*.iso",)).files(single()) == {0}
    assert Selection(include=("one.is[o/]",)).files(single()) == {0}  # a glob with "/": the name is the whole path
    with pytest.raises(UsageError, match=r"there is no file 2: one\.iso has 1 file$"):
        Selection(((2, 2),)).files(single())


@pytest.mark.parametrize(
    ("select", "files"),
    [
        (((0, 0),), {0}),
        (((2, 3),), {2, 3}),
        (((1, 2), (5, 2**20)), {2, 5}),  # entries of padding count, and are not files
    ],
)
def test_a_magnet_counts_from_0(select: Ranges, files: set[int]) -> None:
    assert set(wanted_files(album(), None, select) or ()) == files


@pytest.mark.parametrize("select", [((6, 9),), ((1, 1), (4, 4))])
def test_a_magnet_that_names_nothing(select: Ranges) -> None:
    with pytest.raises(MetainfoError, match="so: names no file"):
        wanted_files(album(), None, select)


def test_the_person_comes_before_the_magnet() -> None:
    assert wanted_files(album(), Selection(((1, 1),)), ((2, 2),)) == frozenset({0})


def test_all_files_are_no_selection() -> None:
    assert wanted_files(album(), None, None) is None
    assert wanted_files(album(), Selection(((1, 4),)), None) is None
    assert wanted_files(album(), None, ((0, 5),)) is None
    assert wanted_files(single(), Selection(((1, 1),)), None) is None


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(1, 40), st.data())
def test_pieces_of_files(lengths: list[int], piece_length: int, data: st.DataObject) -> None:
    if not sum(lengths):
        lengths[0] = 1
    files: list[File] = [(f"f{index}", length) for index, length in enumerate(lengths)]
    metainfo = torrent(files, content=stream(files), piece_length=piece_length)
    wanted = data.draw(st.sets(st.integers(0, len(lengths) - 1)))
    owners = [index for index, length in enumerate(lengths) for _ in range(length)]
    expected = {at // piece_length for at, index in enumerate(owners) if index in wanted}
    assert set(pieces_of_files(metainfo, wanted)) == expected
