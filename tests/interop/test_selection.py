"""Some files of a torrent, from a libtorrent that has all; then what is there to a libtorrent that wants all."""

from __future__ import annotations

from pathlib import Path

import pytest

from btor.metainfo.selection import pieces_of_files
from btor.metainfo.torrent_file import parse_torrent
from tests.interop.clients import Libtorrent
from tests.interop.conftest import Album
from tools import _btor, _payload
from tools._processes import wait_until

TRANSFER = 60.0  # s


@pytest.mark.parametrize("by_magnet", [False, True], ids=["numbers", "magnet"])
def test_a_part_from_libtorrent_and_on_to_libtorrent(album: Album, tmp_path: Path, by_magnet: bool) -> None:
    metainfo = parse_torrent(album.data)
    files = {1, 3}
    pieces = pieces_of_files(metainfo, files)
    amount = sum(map(metainfo.geometry.piece_size, pieces))
    source, options = album.torrent.as_posix(), ["--files", "2,4"]
    if by_magnet:
        source, options = f"magnet:?xt=urn:btih:{album.info_hash}&so=1,3", []
    for name in ("seed", "leech"):
        (tmp_path / name).mkdir()
    with (
        Libtorrent().seed(album.torrent, album.content, tmp_path / "seed") as full,
        _btor.download(
            source, tmp_path / "here", tmp_path / "btor", peers=[full.address], options=[*options, "--seed"]
        ) as btor,
    ):
        complete = btor.wait_event("complete", TRANSFER)
        assert complete["hash_failures"] == 0
        assert complete["downloaded"] == amount
        found = _payload.sha256_sums(tmp_path / "here" / album.name)
        paths = {"/".join(metainfo.files[index].path[1:]) for index in files}
        assert {path: found.get(path) for path in paths} == {path: album.sums[path] for path in paths}
        assert found.keys() - paths == {f".btor-{album.info_hash}.parts"}
        address = f"127.0.0.1:{btor.wait_event('seeding')['port']}"
        with Libtorrent().leech(album.torrent, tmp_path / "leech", peers=[address]) as leecher:

            def done() -> int:
                return max(int(line["done"]) for line in leecher.process.events() if line["event"] == "status")

            wait_until("libtorrent has what btor has", lambda: done() >= amount, TRANSFER)
            assert done() == amount
            assert not leecher.complete()
        assert btor.end() in (0, 143)
