"""opentracker, the tracker of the large swarms, on loopback for the time of a test."""

from __future__ import annotations

import shutil
import socket
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools._processes import Process, free_port, wait_until

PROGRAM = "opentracker"
START = 10.0  # s


@dataclass(frozen=True)
class OpenTracker:
    """A running opentracker; HTTP and UDP have the same port."""

    process: Process
    port: int

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/announce"

    @property
    def udp_url(self) -> str:
        return f"udp://127.0.0.1:{self.port}/announce"


@contextmanager
def opentracker(info_hashes: Sequence[bytes]) -> Iterator[OpenTracker]:
    """Run opentracker for the torrents of these v1 info-hashes; a skip of the test where it is not installed.

    Debian builds it with a whitelist: it serves no other torrent. Started by root it changes its root folder to the one
    of the whitelist and becomes nobody, so that folder is one that everybody may read.
    """
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed")
    with tempfile.TemporaryDirectory(prefix="opentracker-") as name, tempfile.TemporaryDirectory() as logs:
        folder = Path(name)
        folder.chmod(0o755)
        whitelist = folder / "whitelist"
        whitelist.write_text("".join(f"{info_hash.hex()}\n" for info_hash in info_hashes))
        whitelist.chmod(0o644)
        port = free_port()
        command = [PROGRAM, "-i", "127.0.0.1", "-p", f"{port}", "-P", f"{port}", "-d", name, "-w", whitelist.name]
        with Process(command, Path(logs) / PROGRAM, cwd=folder) as process:
            wait_until("opentracker listening", lambda: _accepts(port) or not process.running, START)
            if not process.running:
                pytest.fail(f"opentracker did not start\n{process.tail()}")
            # the list is read by a thread of its own, which may come after the first questions
            wait_until(
                "opentracker knows its list", lambda: all(_serves(port, wanted) for wanted in info_hashes), START
            )
            yield OpenTracker(process, port)


def _serves(port: int, info_hash: bytes) -> bool:
    query = "".join(f"%{byte:02x}" for byte in info_hash)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    query += "&peer_id=-XX0000-000000000000&port=1&uploaded=0&downloaded=0&left=0&event=stopped"
    with opener.open(f"http://127.0.0.1:{port}/announce?info_hash={query}", timeout=START) as reply:
        return b"not authorized" not in reply.read()


def _accepts(port: int) -> bool:
    with socket.socket() as link:
        return link.connect_ex(("127.0.0.1", port)) == 0
