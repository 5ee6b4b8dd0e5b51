"""Every client downloads from `btor seed`, and `btor download` downloads from every client: 65 MiB in eight files."""

from __future__ import annotations

from pathlib import Path

from tests.interop.clients import Client
from tests.interop.conftest import Album
from tools import _btor

TRANSFER = 90.0  # seconds within which 65 MiB must be there; transmission speeds up slowly


def test_it_downloads_from_btor(client: Client, album: Album, tmp_path: Path) -> None:
    with (
        client.leech(album.torrent, tmp_path) as peer,
        _btor.seed(album.torrent, album.content, tmp_path / "btor-seed", peers=[peer.address]) as seeder,
    ):
        peer.wait_complete(TRANSFER)
        # transmission 3.00 does not create files of no length
        assert album.differences(peer.folder, empty_files=client.name != "transmission") == []
        assert seeder.process.end() in (0, 143)
        assert seeder.uploaded() >= sum(file.stat().st_size for file in album.content.rglob("*") if file.is_file())


def test_btor_downloads_from_it(client: Client, album: Album, tmp_path: Path) -> None:
    with (
        client.seed(album.torrent, album.content, tmp_path / "seed") as peer,
        _btor.download(album.torrent, tmp_path / "here", tmp_path / "btor", peers=[peer.address]) as btor,
    ):
        btor.check(TRANSFER)
        complete = btor.wait_event("complete")
        assert complete["hash_failures"] == 0
    assert album.differences(tmp_path / "here") == []
