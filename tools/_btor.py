"""The commands of btor as processes, for tools and tests: what each is called with, and when it is ready."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools._processes import BTOR, Process, free_port

START = 30.0  # seconds within which a command must be ready


@dataclass(frozen=True)
class Tracker:
    """The embedded tracker, running."""

    process: Process
    http: str
    udp: str


@contextmanager
def tracker(
    log: Path, *, interval: int = 2, prefix: Sequence[str] = (), address: str = "127.0.0.1"
) -> Iterator[Tracker]:
    """``btor tracker`` on one free port for HTTP and UDP."""
    port = free_port() if address == "127.0.0.1" else 6969
    where = f"{address}:{port}"
    command = [*prefix, *BTOR, "tracker", "--http", where, "--udp", where, "--interval", str(interval), "--json"]
    with Process(command, log) as process:
        process.wait_event("listening", START)
        yield Tracker(process, f"http://{where}/announce", f"udp://{where}/announce")


@dataclass(frozen=True)
class Seeder:
    """``btor seed``, ready to be dialled at ``port``."""

    process: Process
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def uploaded(self) -> int:
        """Bytes of payload, as it last said."""
        return max((line["uploaded"] for line in self.process.events() if "uploaded" in line), default=0)


@contextmanager
def seed(
    torrent: Path,
    content: Path,
    log: Path,
    *,
    peers: Sequence[str] = (),
    options: Sequence[str] = (),
    prefix: Sequence[str] = (),
) -> Iterator[Seeder]:
    """``btor seed``; ``content``: the content itself or its folder. Its state folder is beside the log."""
    command = [*prefix, *BTOR, "seed", str(torrent), str(content), "--json", "--port", "0", *_no_dht(options), *options]
    for peer in peers:
        command += ["--peer", peer]
    with Process(command, log, env=state(log)) as process:
        port = process.wait_event("seeding", START)["port"]
        yield Seeder(process, port)


def download_command(
    torrent: Path | str, folder: Path, *, peers: Sequence[str] = (), options: Sequence[str] = ()
) -> list[str]:
    """``btor download`` of one torrent into ``folder``, telling what it does in JSON lines."""
    command = [*BTOR, "download", str(torrent), "--directory", str(folder), "--json", "--port", "0"]
    command += [*_no_dht(options), *options]
    for peer in peers:
        command += ["--peer", peer]
    return command


def download(
    torrent: Path | str,
    folder: Path,
    log: Path,
    *,
    peers: Sequence[str] = (),
    options: Sequence[str] = (),
    prefix: Sequence[str] = (),
) -> Process:
    """The process of ``download_command``, started. Its state folder is beside the log."""
    return Process([*prefix, *download_command(torrent, folder, peers=peers, options=options)], log, env=state(log))


def _no_dht(options: Sequence[str]) -> list[str]:
    """Nothing may leave the machine: no DHT, unless ``options`` say where it begins."""
    return [] if "--dht-bootstrap" in options else ["--no-dht"]


def state(log: Path) -> dict[str, str]:
    """The environment that keeps the resume records of one process apart, and says nothing to the local network."""
    return {
        "BTOR_STATE_DIR": str(log.with_name(log.name + ".state")),
        "BTOR_NO_LSD": os.environ.get("BTOR_NO_LSD", "1"),
    }
