"""The commands of the bench: btor as it is installed, and every other client at its fastest documented settings."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools._btor import state
from tools._measure import Usage, measure
from tools._processes import Process
from tools.bench.contest import OURS, Contender
from tools.bench.workshop import Payload, Workshop

INSTALLED = Path(sys.executable).with_name("btor")
BTOR = [str(INSTALLED)] if INSTALLED.exists() else [sys.executable, "-m", "btor"]
ALONE = ["--no-dht", "--no-lsd"]  # nobody outside the bench is asked for peers
LIBTORRENT = [sys.executable, "-m", "tools.bench.libtorrent_jobs"]
START = 30.0

BTOR_SETTINGS = f"the installed command, defaults, {' '.join(ALONE)}"
LIBTORRENT_SETTINGS = "tick_interval 100, TCP only, no encryption, no DHT or LSD, no polling, quick exit"
ARIA2_SETTINGS = "--file-allocation=none, no DHT, LPD or PEX, nothing printed; peer from an HTTP tracker"
TRANSMISSION_SETTINGS = (
    "transmission-cli, no DHT, LPD, PEX or uTP, no preallocation; the seeder dials it, its finish script interrupts it"
)


def lacks(program: str) -> str:
    """Why that program cannot take part; empty when it can."""
    return "" if shutil.which(program) else f"skipped: {program} is not installed"


def lacks_module(name: str) -> str:
    return "" if importlib.util.find_spec(name) else f"skipped: the Python package {name} is not installed"


def dialling(peers: Sequence[str]) -> list[str]:
    return [part for peer in peers for part in ("--peer", peer)]


def btor_get(torrent: Path, folder: Path, peers: Sequence[str] = (), port: int = 0) -> list[str]:
    command = [*BTOR, "download", str(torrent), "--directory", str(folder), "--port", str(port), *ALONE]
    return command + dialling(peers)


def libtorrent_get(torrent: Path, folder: Path, peers: Sequence[str], port: int = 0) -> list[str]:
    return [*LIBTORRENT, "get", str(torrent), str(folder), "--exit", "--port", str(port), *dialling(peers)]


def aria2_get(torrent: Path, folder: Path) -> list[str]:
    return [
        *("aria2c", "--no-conf=true", "--quiet=true", "--seed-time=0", "--file-allocation=none"),
        *("--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false"),
        *("--disable-ipv6=true", f"--dir={folder}", str(torrent)),
    ]


def transmission_get(torrent: Path, folder: Path, home: Path, port: int) -> list[str]:
    """It listens on ``port``. Its own way to tell that it is done is a script, which ends it."""
    home.mkdir(parents=True)
    settings = {
        "bind-address-ipv4": "127.0.0.1",
        "bind-address-ipv6": "::1",
        "dht-enabled": False,
        "lpd-enabled": False,
        "pex-enabled": False,
        "utp-enabled": False,
        "encryption": 0,
        "preallocation": 0,
        "port-forwarding-enabled": False,
        "peer-port-random-on-start": False,
    }
    (home / "settings.json").write_text(json.dumps(settings))
    done = home / "done.sh"
    done.write_text("#!/bin/sh\nexec kill -INT $PPID\n")
    done.chmod(0o755)
    command = ["transmission-cli", "--config-dir", str(home), "--download-dir", str(folder), "--port", str(port)]
    return [*command, "--no-portmap", "--encryption-tolerated", "--finish", str(done), str(torrent)]


@contextmanager
def libtorrent_seed(payload: Payload, workshop: Workshop, peers: Sequence[str] = ()) -> Iterator[tuple[Process, int]]:
    """Its process and port, ready."""
    command = [*LIBTORRENT, "seed", str(payload.torrent), str(payload.folder), *dialling(peers)]
    with Process(command, workshop.log("libtorrent-seeder")) as process:
        yield process, process.wait_event("listening", START)["port"]


def btor_seed_command(payload: Payload, options: Sequence[str] = ()) -> list[str]:
    """It tells its port in JSON."""
    return [*BTOR, "seed", str(payload.torrent), str(payload.content), "--json", "--port", "0", *ALONE, *options]


@contextmanager
def btor_seed(payload: Payload, workshop: Workshop) -> Iterator[tuple[Process, int]]:
    """Its process and port, ready: the content is hashed by then."""
    log = workshop.log("btor-seeder")
    command = btor_seed_command(payload)
    with Process(command, log, env=state(log)) as process:
        yield process, process.wait_event("seeding", START + payload.timeout)["port"]


def run_btor(workshop: Workshop, command: Sequence[str], timeout: float) -> Usage:
    """Run one btor command that knows of no run before it."""
    log = workshop.log("btor")
    return measure(command, log, timeout=timeout, env=state(log))


def btor(run: Callable[[], Usage], settings: str = BTOR_SETTINGS) -> Contender:
    return Contender(OURS, settings, run)


def libtorrent(run: Callable[[], Usage], settings: str = LIBTORRENT_SETTINGS) -> Contender:
    return Contender("libtorrent", settings, run, lacks_module("libtorrent"))


def versions() -> dict[str, str]:
    """What is compared, by name; only what is there."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("btor", "trio", "libtorrent", "torf"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    for program, option in (("aria2c", "--version"), ("transmission-cli", "--version"), ("mktorrent", "-h")):
        if shutil.which(program):
            with os.popen(f"{program} {option} 2>&1") as output:
                found[program] = next((word for word in output.read().split() if word[:1].isdigit()), "?")
    return found
