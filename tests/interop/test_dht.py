"""A net of libtorrent's DHT nodes on loopback: btor finds a seeder in it, and is found. No tracker, no other hint."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.conftest import Album
from tests.interop.test_network_namespace import Host, hosts, ip, transmission
from tools import _btor
from tools._processes import Process, wait_until

__all__ = ["hosts"]  # a fixture

NODES = 30
MANY = 6  # of the eight nodes closest to an info-hash: the seeder itself may be one
START = 40.0
TRANSFER = 90.0


@contextmanager
def libtorrent_net(
    log: Path, *options: str, nodes: int = NODES, prefix: Sequence[str] = ()
) -> Iterator[tuple[Process, list[str]]]:
    """``nodes`` of libtorrent, each at its own loopback address, that know each other: HOST:PORT of each."""
    command = [*prefix, sys.executable, "-m", "tools.libtorrent_dht", "--nodes", str(nodes), *options]
    with Process(command, log) as process:
        yield process, process.wait_event("listening", START)["nodes"]


def entering_at(node: str) -> Sequence[str]:
    """What makes a btor of the DHT alone."""
    return ["--no-trackers", "--no-lsd", "--no-pex", "--dht-bootstrap", node]


def storing(net: Process) -> set[str]:
    """The nodes of the net that were announced a peer."""
    return {event["node"] for event in net.events() if event["event"] == "stored"}


@pytest.fixture
def torrent(album: Album, tmp_path: Path) -> Path:
    return album.with_trackers(tmp_path / "album.torrent")


@pytest.mark.parametrize("source", ["torrent", "magnet"])
def test_btor_finds_a_seeder_that_announced(source: str, album: Album, torrent: Path, tmp_path: Path) -> None:
    """From a node that is neither the seeder nor one that stores the info-hash."""
    wanted = torrent if source == "torrent" else f"magnet:?xt=urn:btih:{album.info_hash}"
    with libtorrent_net(tmp_path / "net", "--torrent", str(torrent), "--seed", str(album.content)) as (net, nodes):
        wait_until("announced", lambda: len(storing(net)) >= MANY, START)
        entrance = next(node for node in nodes if node not in storing(net))
        here = tmp_path / "here"
        with _btor.download(wanted, here, tmp_path / "btor", options=entering_at(entrance)) as btor:
            btor.check(TRANSFER)
        assert album.differences(here) == []
        seeder = net.wait_event("torrent")["address"]
        assert seeder not in nodes
        assert entrance not in {event["node"] for event in net.events() if event.get("peer") == seeder}


def test_btor_is_found(album: Album, torrent: Path, tmp_path: Path) -> None:
    with libtorrent_net(tmp_path / "net") as (net, nodes):
        with _btor.seed(torrent, album.content, tmp_path / "btor", options=entering_at(nodes[20])):
            wait_until("announced", lambda: len(storing(net)) >= MANY, START)
            strangers = [node for node in nodes if node not in storing(net)][:2]
            getter = ["--torrent", str(torrent), "--get", str(tmp_path / "here")]
            for node in strangers:
                getter += ["--node", node]
            with libtorrent_net(tmp_path / "getter", "--first", "127.0.2.1", *getter, nodes=0) as (process, _):
                process.wait_event("complete", TRANSFER)
        assert album.differences(tmp_path / "here") == []


def test_btor_finds_transmission(hosts: tuple[Host, Host], album: Album, torrent: Path, tmp_path: Path) -> None:
    """It takes no DHT node on loopback: it is on another host than the nodes, which have an address each, and btor."""
    here, there = hosts
    first = 10
    for number in range(first, first + NODES):
        ip("-n", here.name, "address", "add", f"10.77.0.{number}/24", "dev", "cable")
    wanted = f"magnet:?xt=urn:btih:{album.info_hash}"
    with (
        libtorrent_net(tmp_path / "net", "--first", f"10.77.0.{first}", prefix=here.prefix) as (net, nodes),
        transmission(torrent, album.content, tmp_path / "home", there, nodes=nodes),
    ):
        wait_until("announced", lambda: len(storing(net)) >= MANY, 3 * START)
        assert {event["peer"] for event in net.events() if event["event"] == "stored"} == {f"{there.address}:51413"}
        entrance = next(node for node in nodes if node not in storing(net))
        options = [*entering_at(entrance), "--bind", here.address]
        folder = tmp_path / "here"
        with _btor.download(wanted, folder, tmp_path / "btor", options=options, prefix=here.prefix) as btor:
            btor.check(TRANSFER)
        assert album.differences(folder) == []
