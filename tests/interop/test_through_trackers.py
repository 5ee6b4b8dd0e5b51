"""Clients and btor find each other through a tracker, over HTTP and over UDP, with no other hint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.interop.clients import CLIENTS
from tests.interop.conftest import Album, installed
from tests.interop.opentracker import opentracker
from tools import _btor

TRANSFER = 90.0
DIALLING = ("libtorrent", "aria2", "rtorrent")  # transmission dials no loopback peer: see test_network_namespace


@contextmanager
def announce_url(name: str, album: Album, where: Path) -> Iterator[str]:
    """The tracker of this name, running, ready for the torrent of ``album``: its announce URL."""
    kind, scheme = name.split()
    if kind == "btor":
        with _btor.tracker(where / "tracker") as tracker:
            yield tracker.http if scheme == "http" else tracker.udp
    else:
        with opentracker([bytes.fromhex(album.info_hash)]) as running:
            yield running.http_url if scheme == "http" else running.udp_url


TRACKERS = pytest.mark.parametrize("tracker", ["btor http", "btor udp", "opentracker http", "opentracker udp"])


@TRACKERS
@pytest.mark.parametrize("name", DIALLING)
def test_both_ways(name: str, tracker: str, album: Album, tmp_path: Path) -> None:
    """btor seeds, the client downloads; then the client alone seeds and a second btor downloads."""
    client = installed(name)
    with announce_url(tracker, album, tmp_path) as url:
        torrent = album.with_trackers(tmp_path / "album.torrent", url)
        with (
            _btor.seed(torrent, album.content, tmp_path / "btor-seed") as seeder,
            client.leech(torrent, tmp_path / "leech") as peer,
        ):
            seeder.process.wait_event("tracker", ok=True)
            peer.wait_complete(TRANSFER)
            assert album.differences(peer.folder) == []
        with (
            client.seed(torrent, album.content, tmp_path / "seed"),
            _btor.download(torrent, tmp_path / "here", tmp_path / "btor") as btor,
        ):
            btor.check(TRANSFER)
            assert album.differences(tmp_path / "here") == []


@TRACKERS
def test_one_swarm(tracker: str, album: Album, tmp_path: Path) -> None:
    """One `btor seed`; every client that dials and two btors download at once."""
    with ExitStack() as stack:
        url = stack.enter_context(announce_url(tracker, album, tmp_path))
        torrent = album.with_trackers(tmp_path / "album.torrent", url)
        stack.enter_context(_btor.seed(torrent, album.content, tmp_path / "btor-seed"))
        peers = [
            stack.enter_context(CLIENTS[name].leech(torrent, tmp_path / name))
            for name in DIALLING
            if CLIENTS[name].installed()
        ]
        btors = [
            stack.enter_context(_btor.download(torrent, tmp_path / f"here{number}", tmp_path / f"btor{number}"))
            for number in range(2)
        ]
        for number, btor in enumerate(btors):
            btor.check(TRANSFER)
            assert album.differences(tmp_path / f"here{number}") == []
        for peer in peers:
            peer.wait_complete(TRANSFER)
            assert album.differences(peer.folder) == []
