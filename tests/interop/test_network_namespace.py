"""Two hosts with a cable between them: what loopback cannot show, such as transmission dialling by itself."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import bencodepy
import pytest

from tests.interop.conftest import Album
from tools import _btor
from tools._processes import Process, ProcessFailedError, wait_until

NUMBERS = itertools.count()
TRANSFER = 90.0


@dataclass(frozen=True)
class Host:
    """A network namespace with one address."""

    name: str
    address: str

    @property
    def prefix(self) -> list[str]:
        """What a command begins with to run on this host."""
        return ["ip", "netns", "exec", self.name]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two namespaces joined by a veth pair."""
    tag = f"{os.getpid() % 100_000}-{next(NUMBERS)}"
    here, there = Host(f"btor{tag}a", "10.77.0.1"), Host(f"btor{tag}b", "10.77.0.2")
    try:
        ip("netns", "add", here.name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces need root and iproute2: {error}")
    try:
        ip("netns", "add", there.name)
        ip("link", "add", "cable", "netns", here.name, "type", "veth", "peer", "name", "cable", "netns", there.name)
        for host in (here, there):
            for link in ("lo", "cable"):
                ip("-n", host.name, "link", "set", link, "up")
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
        yield here, there
    finally:
        for host in (here, there):
            subprocess.run(["ip", "netns", "del", host.name], check=False, capture_output=True, timeout=20)


def transmission(torrent: Path | str, folder: Path, home: Path, host: Host, *, nodes: Sequence[str] = ()) -> Process:
    """transmission-cli on ``host``: downloads what is missing in ``folder`` and seeds.

    ``nodes``: HOST:PORT of DHT nodes that it knows; it has no DHT without.
    """
    if subprocess.run(["which", "transmission-cli"], capture_output=True, check=False).returncode != 0:
        pytest.skip("transmission-cli is not installed")
    home.mkdir()
    folder.mkdir(exist_ok=True)
    known = b"".join(socket.inet_aton(ip) + int(port).to_bytes(2) for ip, port in (node.split(":") for node in nodes))
    (home / "dht.dat").write_bytes(bencodepy.encode({b"id": os.urandom(20), b"nodes": known}))
    quiet = {
        "dht-enabled": bool(nodes),
        "lpd-enabled": False,
        "utp-enabled": False,
        "pex-enabled": False,
        "encryption": 0,
    }
    (home / "settings.json").write_text(json.dumps(quiet))
    command = ["transmission-cli", "--config-dir", str(home), "--download-dir", str(folder), "--no-portmap"]
    return Process([*host.prefix, *command, "--port", "51413", str(torrent)], home / "transmission")


def wait_seeding(process: Process) -> None:
    def seeding() -> bool:
        if not process.running:
            raise ProcessFailedError(process.tail())
        return "Seeding" in process.output()

    wait_until("transmission has everything", seeding, TRANSFER)


def test_transmission_dials_btor(hosts: tuple[Host, Host], album: Album, tmp_path: Path) -> None:
    here, there = hosts
    with _btor.tracker(tmp_path / "tracker", prefix=here.prefix, address=here.address) as tracker:
        torrent = album.with_trackers(tmp_path / "album.torrent", tracker.http)
        seeder = _btor.seed(torrent, album.content, tmp_path / "btor", prefix=here.prefix)
        with seeder, transmission(torrent, tmp_path / "there", tmp_path / "home", there) as process:
            wait_seeding(process)
            assert album.differences(tmp_path / "there", empty_files=False) == []


def test_btor_finds_transmission(hosts: tuple[Host, Host], album: Album, tmp_path: Path) -> None:
    here, there = hosts
    with _btor.tracker(tmp_path / "tracker", prefix=here.prefix, address=here.address) as tracker:
        torrent = album.with_trackers(tmp_path / "album.torrent", tracker.http)
        with transmission(torrent, album.content, tmp_path / "home", there) as process:
            wait_seeding(process)
            with _btor.download(torrent, tmp_path / "here", tmp_path / "btor", prefix=here.prefix) as btor:
                btor.check(TRANSFER)
    assert album.differences(tmp_path / "here") == []
