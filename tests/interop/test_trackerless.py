"""Magnets, peer exchange and local discovery beside libtorrent and transmission, with no tracker anywhere."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import bencodepy
import libtorrent as lt
import pytest

from tests.interop.conftest import Album, installed
from tests.interop.test_network_namespace import Host, hosts, ip, transmission, wait_seeding
from tools import _btor
from tools._libtorrent import QUIET
from tools._processes import BTOR, Process, free_port, run
from tools.metadata_time import torrent_of_zeros

__all__ = ["hosts"]  # a fixture

TRANSFER = 90.0
PAST = 3.0  # s after which nobody says anything by itself any more
LOCAL = ["--bind", "127.0.0.1"]


def magnet(album: Album, *more: str) -> str:
    return "&".join([f"magnet:?xt=urn:btih:{album.info_hash}", *more])


@contextmanager
def libtorrent(host: str, **settings: Any) -> Iterator[lt.session]:
    session = lt.session(cast("Any", {**QUIET, "alert_mask": 0, "listen_interfaces": f"{host}:0", **settings}))
    try:
        yield session
    finally:
        session.pause()


def wait_for(what: str, condition: Callable[[], bool], limit: float = TRANSFER) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def add_magnet(session: lt.session, uri: str, folder: Path) -> lt.torrent_handle:
    parameters = lt.parse_magnet_uri(uri)
    parameters.save_path = str(folder)
    return session.add_torrent(parameters)


@pytest.mark.parametrize("name", ["libtorrent", "transmission"])
def test_metadata_from_it(name: str, album: Album, tmp_path: Path) -> None:
    client = installed(name)
    with client.seed(album.torrent, album.content, tmp_path / "seed") as peer:
        uri = magnet(album, f"x.pe={peer.address}")
        with _btor.download(uri, tmp_path / "here", tmp_path / "btor", options=LOCAL) as btor:
            btor.check(TRANSFER)
            assert btor.wait_event("metadata")["pieces"] > 0
    assert album.differences(tmp_path / "here") == []


def test_metadata_for_libtorrent(album: Album, tmp_path: Path) -> None:
    with (
        _btor.seed(album.torrent, album.content, tmp_path / "seed", options=LOCAL) as seeder,
        libtorrent("127.0.0.1") as session,
    ):
        handle = add_magnet(session, magnet(album), tmp_path / "there")
        handle.connect_peer(("127.0.0.1", seeder.port))
        wait_for("libtorrent is complete", lambda: handle.status().is_seeding)
        # it says so before everything is in the files
        wait_for("it is on the disk", lambda: album.differences(tmp_path / "there") == [])


def test_metadata_for_aria2(album: Album, tmp_path: Path) -> None:
    installed("aria2")
    port, folder = free_port(), tmp_path / "there"
    quiet = ["--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false"]
    places = [f"--listen-port={port}", f"--dir={folder}", "--interface=127.0.0.1", "--seed-time=0"]
    with (
        Process(["aria2c", "--no-conf", *quiet, *places, magnet(album)], tmp_path / "aria2") as aria2,
        _btor.seed(album.torrent, album.content, tmp_path / "seed", peers=[f"127.0.0.1:{port}"], options=LOCAL),
    ):
        aria2.check(TRANSFER)
    assert album.differences(folder) == []


def test_libtorrent_tells_of_a_third(album: Album, tmp_path: Path) -> None:
    """A seeds, libtorrent knows A, we know libtorrent: we come to know A by peer exchange."""
    with (
        _btor.seed(album.torrent, album.content, tmp_path / "seed", options=LOCAL) as seeder,
        libtorrent("127.0.0.1") as session,
    ):
        handle = add_magnet(session, magnet(album), tmp_path / "there")
        handle.connect_peer(("127.0.0.1", seeder.port))
        wait_for("libtorrent has the metadata", lambda: handle.status().has_metadata)
        handle.set_download_limit(200_000)  # so that it stays with the seeder
        peers = [f"127.0.0.1:{session.listen_port()}"]
        slow = [*LOCAL, "--max-download", "200K"]
        with _btor.download(magnet(album), tmp_path / "here", tmp_path / "btor", peers=peers, options=slow) as btor:
            wait_for("we have met the seeder", lambda: seeder.address in met(btor), 2 * TRANSFER)


def met(process: Process) -> set[str]:
    """The addresses of all peers that it has told of."""
    return {event["address"] for event in process.events() if event["event"] == "peer"}


def test_we_tell_libtorrent_of_a_third(album: Album, tmp_path: Path) -> None:
    with (
        _btor.seed(album.torrent, album.content, tmp_path / "seed", options=[*LOCAL, "--max-upload", "2M"]) as seeder,
        _btor.download(
            album.torrent,
            tmp_path / "middle",
            tmp_path / "btor",
            peers=[seeder.address],
            options=[*LOCAL, "--max-download", "1M", "--seed"],
        ) as middle,
        libtorrent("127.0.0.1") as session,
    ):
        port = middle.wait_event("started")["port"]
        handle = add_magnet(session, magnet(album), tmp_path / "there")
        handle.connect_peer(("127.0.0.1", port))
        wait_for(
            "libtorrent is connected with the seeder",
            lambda: any(peer.ip == ("127.0.0.1", seeder.port) for peer in handle.get_peer_info()),
        )


def test_local_discovery(hosts: tuple[Host, Host], album: Album, tmp_path: Path) -> None:
    """Two hosts with a cable between them, told of nobody: btor finds btor by multicast."""
    here, there = hosts
    route = ["route", "add", "224.0.0.0/4", "dev", "cable"]
    for host in hosts:
        subprocess.run(["ip", "-n", host.name, *route], check=True, capture_output=True, timeout=20)
    loud = {"BTOR_NO_LSD": ""}
    seed = [*there.prefix, "env", "BTOR_NO_LSD="]
    with _btor.seed(album.torrent, album.content, tmp_path / "seed", prefix=seed):
        prefix = [*here.prefix, "env", *(f"{key}={value}" for key, value in loud.items())]
        with _btor.download(magnet(album), tmp_path / "here", tmp_path / "btor", prefix=prefix) as btor:
            btor.check(TRANSFER)
    assert album.differences(tmp_path / "here") == []


@pytest.mark.parametrize("seeder", ["libtorrent", "btor"])
def test_local_discovery_with_libtorrent(seeder: str, hosts: tuple[Host, Host], album: Album, tmp_path: Path) -> None:
    """Who comes second tells the local network of itself, and the first one, whose own word is past, dials it."""
    here, there = hosts
    for host in hosts:
        ip("-n", host.name, "route", "add", "224.0.0.0/4", "dev", "cable")
    loud = [*here.prefix, "env", "BTOR_NO_LSD="]
    folder = tmp_path / "copy"
    other = [*there.prefix, sys.executable, "-m", "tools.libtorrent_peer", "--lsd", "--address", there.address]
    if seeder == "libtorrent":
        with Process([*other, "seed", str(album.torrent), str(album.content)], tmp_path / "libtorrent"):
            time.sleep(PAST)
            with _btor.download(magnet(album), folder, tmp_path / "btor", prefix=loud) as btor:
                btor.check(TRANSFER)
                assert ways(btor, there.address) == {"incoming"}
    else:
        with _btor.seed(album.torrent, album.content, tmp_path / "btor", prefix=loud) as btor_seeder:
            time.sleep(PAST)
            with Process(
                [*other, "get", str(album.torrent), str(folder), "--exit"], tmp_path / "libtorrent"
            ) as process:
                process.wait_event("complete", TRANSFER)
                assert ways(btor_seeder.process, there.address) == {"outgoing"}
    assert album.differences(folder) == []


def ways(process: Process, host: str) -> set[str]:
    """Who dialled, in the connections of this process with a host."""
    return {
        event["reason"]
        for event in process.events()
        if event["event"] == "peer" and event["change"] == "connected" and event["address"].startswith(f"{host}:")
    }


def test_local_discovery_over_ipv6_alone(hosts: tuple[Host, Host], album: Album, tmp_path: Path) -> None:
    here, there = hosts
    for number, host in enumerate(hosts, 1):
        ip("-n", host.name, "address", "flush", "dev", "cable", "scope", "global")
        ip("-n", host.name, "address", "add", f"fd00:77::{number}/64", "dev", "cable", "nodad")
    with _btor.seed(album.torrent, album.content, tmp_path / "seed", prefix=[*there.prefix, "env", "BTOR_NO_LSD="]):
        loud = [*here.prefix, "env", "BTOR_NO_LSD="]
        with _btor.download(magnet(album), tmp_path / "here", tmp_path / "btor", prefix=loud) as btor:
            btor.check(TRANSFER)
            assert all(address.startswith("[fd00:77::2]:") for address in met(btor))
    assert album.differences(tmp_path / "here") == []


def test_metadata_for_transmission_on_another_host(hosts: tuple[Host, Host], album: Album, tmp_path: Path) -> None:
    """It has a magnet link, and dials btor, whose tracker alone it is told of."""
    here, there = hosts
    with _btor.tracker(tmp_path / "tracker", prefix=here.prefix, address=here.address) as tracker:
        torrent = album.with_trackers(tmp_path / "album.torrent", tracker.http)
        uri = magnet(album, f"tr={quote(tracker.http, safe='')}")
        home = tmp_path / "home"
        with (
            _btor.seed(torrent, album.content, tmp_path / "btor", prefix=here.prefix),
            transmission(uri, tmp_path / "there", home, there),
        ):
            info = bencodepy.encode(bencodepy.decode(album.data)[b"info"])

            def kept() -> bool:
                """Its own file of the torrent holds the metadata as soon as it has it."""
                return any(info in path.read_bytes() for path in home.glob("torrents/*.torrent"))

            wait_for("transmission has the metadata", kept)


def large(folder: Path) -> tuple[Path, str]:
    """A torrent with 5 MiB of metadata."""
    return torrent_of_zeros(folder, 262_144)


def test_5_mib_of_metadata_from_libtorrent(tmp_path: Path) -> None:
    torrent, info_hash = large(tmp_path)
    with installed("libtorrent").seed(torrent, tmp_path / "content", tmp_path / "seed") as peer:
        kept = tmp_path / "kept.torrent"
        uri = f"magnet:?xt=urn:btih:{info_hash}&x.pe={peer.address}"
        done = run([*BTOR, "info", uri, "--save", kept, "--no-dht", "--no-lsd", *LOCAL, "--state-dir", tmp_path])
    assert (done.returncode, done.stderr) == (0, "")
    assert kept.read_bytes() == torrent.read_bytes()


def test_5_mib_of_metadata_for_libtorrent(tmp_path: Path) -> None:
    """Over plain TCP from the first dial on: libtorrent tries uTP and encryption before, which take it 5 s."""
    torrent, info_hash = large(tmp_path)
    with (
        _btor.seed(torrent, tmp_path / "content", tmp_path / "seed", options=[*LOCAL, "--partial"]) as seeder,
        libtorrent("127.0.0.1") as session,
    ):
        handle = add_magnet(session, f"magnet:?xt=urn:btih:{info_hash}&x.pe={seeder.address}", tmp_path / "there")
        wait_for("libtorrent has the metadata", lambda: handle.status().has_metadata)
        found = handle.torrent_file()
    assert found is not None
    assert b"d4:info" + found.info_section() + b"e" == torrent.read_bytes()


def test_metadata_from_transmission_on_another_host(hosts: tuple[Host, Host], album: Album, tmp_path: Path) -> None:
    here, there = hosts
    with transmission(album.torrent, album.content, tmp_path / "home", there) as process:
        wait_seeding(process)
        uri = magnet(album, f"x.pe={there.address}:51413")
        with _btor.download(uri, tmp_path / "here", tmp_path / "btor", prefix=here.prefix) as btor:
            btor.check(TRANSFER)
    assert album.differences(tmp_path / "here") == []
