"""The sample torrents in torrents/: made again byte for byte, and each one for the trap that it is there for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from btor.metainfo.torrent_file import Metainfo, parse_torrent
from btor.storage.verify import verify
from tools import make_torrents

TORRENTS = Path(__file__).parent.parent / "torrents"
CONTENT = TORRENTS / "content"
HASHES = {  # as an independent client prints them
    "short-last-piece": "ea400613e4b489b8b970cf10df650cd1f7cedcb8",
    "many-files": "eb789e1bf64fbb520fb5851e3aec5daba573c4e2",
    "one-small-piece": "1f64663bdbf01630031185dc5d1ee573ccd4aedd",
    "many-pieces": "07d77b99f95f04781b6cda440a6ddd0388cc158c",
    "odd-piece-length": "66f0341f1e4677e119955eaa86eeda546c6ba689",
}


def load(stem: str) -> Metainfo:
    """The torrent, with what holds for every sample checked: its hash, and that the content beside it is all good."""
    metainfo = parse_torrent((TORRENTS / f"{stem}.torrent").read_bytes())
    assert metainfo.info_hash.hex() == HASHES[stem]
    assert metainfo.version == "v1"
    assert metainfo.trackers == ()
    assert not metainfo.private
    result = verify(metainfo, CONTENT, processes=1)
    assert result.complete
    assert [status for _, status in result.files] == ["ok"] * len(metainfo.files)
    return metainfo


def test_they_are_made_again_byte_for_byte(tmp_path: Path) -> None:
    written = make_torrents.write(tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in written}
    kept = {path.relative_to(TORRENTS): path.read_bytes() for path in TORRENTS.rglob("*") if path.is_file()}
    kept.pop(Path("README.md"))
    assert made.keys() == kept.keys()
    assert [path for path in made if made[path] != kept[path]] == []
    assert sum(map(len, kept.values())) <= 8 * 1024 * 1024


@pytest.mark.parametrize("stem", HASHES)
def test_libtorrent_agrees(stem: str) -> None:
    libtorrent = pytest.importorskip("libtorrent")
    theirs = libtorrent.torrent_info(str(TORRENTS / f"{stem}.torrent"))
    assert str(theirs.info_hash()) == HASHES[stem]
    ours = parse_torrent((TORRENTS / f"{stem}.torrent").read_bytes())
    assert theirs.num_pieces() == ours.geometry.piece_count
    assert theirs.total_size() == ours.total_length
    files = theirs.layout()
    assert [files.file_path(index) for index in range(files.num_files())] == [
        "/".join(file.path) for file in ours.files
    ]


def test_one_file_with_a_short_last_piece() -> None:
    metainfo = load("short-last-piece")
    geometry = metainfo.geometry
    assert metainfo.single_file
    assert (geometry.total_length, geometry.piece_length, geometry.piece_count) == (1_500_007, 65_536, 23)
    assert geometry.last_piece_length == 58_215
    assert geometry.block_size(22, geometry.block_count(22) - 1) == 58_215 - 3 * 16_384


def test_many_files_that_share_pieces() -> None:
    metainfo = load("many-files")
    assert not metainfo.single_file
    assert metainfo.name == "Vårt album – 写真"
    assert [("/".join(file.path[1:]), file.length) for file in metainfo.files] == [
        ("README.txt", 2_345),
        ("empty.txt", 0),
        ("disque/Ça commence.txt", 250_000),
        ("disque/日本語のファイル.bin", 700_001),
        ("disque/тишина/пусто.dat", 0),
        ("disque/тишина/звук.bin", 31),
        ("deep/er/and/deeper/still.txt", 40_000),
        ("photos/naïve café.txt", 900_000),
        ("photos/one.bin", 1),
        ("photos/😀.bin", 600_000),
    ]
    ends = [file.offset + file.length for file in metainfo.files[:-1]]
    assert all(end % metainfo.geometry.piece_length for end in ends), "every border of two files lies inside a piece"


def test_one_piece_smaller_than_a_block() -> None:
    metainfo = load("one-small-piece")
    geometry = metainfo.geometry
    assert (geometry.piece_count, geometry.block_count(0), geometry.block_size(0, 0)) == (1, 1, 1_234)
    assert metainfo.piece_hash(0) == hashlib.sha1((CONTENT / "one-small-piece.txt").read_bytes()).digest()


def test_many_pieces_each_smaller_than_a_block() -> None:
    geometry = load("many-pieces").geometry
    assert (geometry.piece_count, geometry.piece_length, geometry.blocks_per_piece) == (1_954, 1_024, 1)


def test_a_piece_length_that_is_no_multiple_of_a_block() -> None:
    geometry = load("odd-piece-length").geometry
    assert (geometry.piece_length, geometry.blocks_per_piece) == (40_000, 3)
    assert [geometry.block_size(0, block) for block in range(3)] == [16_384, 16_384, 7_232]


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    content = bytearray((CONTENT / "odd-piece-length.bin").read_bytes())
    content[40_000 * 7 + 39_999] ^= 1
    (tmp_path / "odd-piece-length.bin").write_bytes(content)
    metainfo = parse_torrent((TORRENTS / "odd-piece-length.torrent").read_bytes())
    result = verify(metainfo, tmp_path, processes=1)
    assert not result.complete
    assert list(result.have.missing()) == [7]
