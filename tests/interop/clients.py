"""The clients that we did not write, each in its own process on free loopback ports, ended by its own id.

Every class has ``seed(torrent, content, where)`` and ``leech(torrent, where)``: context managers that give a ``Peer``.
``content`` is the folder that holds the torrent's file or folder; ``where`` an empty folder for the client's own use.
None of them looks for peers by itself: a test connects two ends, or names a tracker in the torrent.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import urllib.error
import urllib.request
import xmlrpc.client
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools._payload import with_trackers
from tools._processes import PROJECT, Process, ProcessFailedError, free_port, wait_until

START = 30.0  # seconds within which a client must be up, its content checked


@dataclass
class Peer:
    """A running client: where it listens, what it downloads into, and how to ask whether it has everything."""

    process: Process
    port: int
    folder: Path
    complete: Callable[[], bool]
    host: str = "127.0.0.1"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def wait_complete(self, timeout: float) -> None:
        def done() -> bool:
            if self.complete():
                return True
            if not self.process.running:
                raise ProcessFailedError(f"ended before it was complete\n{self.process.tail()}")
            return False

        try:
            wait_until(f"{self.process.name} complete", done, timeout)
        except ProcessFailedError as error:
            raise ProcessFailedError(f"{error}\n{self.process.tail()}") from None


class Client(ABC):
    """One kind of client. ``program`` None: always there."""

    name: str
    program: str | None = None

    def installed(self) -> bool:
        return self.program is None or shutil.which(self.program) is not None

    @abstractmethod
    def seed(self, torrent: Path, content: Path, where: Path) -> Any:
        """A context manager: a Peer that has all of the torrent and is ready to be dialled."""

    @abstractmethod
    def leech(self, torrent: Path, where: Path, peers: Sequence[str] = ()) -> Any:
        """A context manager: a Peer that has nothing yet and is ready to be dialled. It dials ``peers`` if it can."""


class Libtorrent(Client):
    name = "libtorrent"

    @contextmanager
    def seed(self, torrent: Path, content: Path, where: Path) -> Iterator[Peer]:
        with self._run("seed", torrent, content, where, ()) as peer:
            yield peer

    @contextmanager
    def leech(self, torrent: Path, where: Path, peers: Sequence[str] = ()) -> Iterator[Peer]:
        with self._run("get", torrent, where / "content", where, peers) as peer:
            yield peer

    @contextmanager
    def _run(self, mode: str, torrent: Path, folder: Path, where: Path, peers: Sequence[str]) -> Iterator[Peer]:
        command = [sys.executable, "-m", "tools.libtorrent_peer", mode, str(torrent), str(folder)]
        for peer in peers:
            command += ["--peer", peer]
        with Process(command, where / "libtorrent", cwd=PROJECT) as process:
            port = process.wait_event("listening", START)["port"]
            yield Peer(process, port, folder, lambda: any(line["event"] == "complete" for line in process.events()))


class Aria2(Client):
    name = "aria2"
    program = "aria2c"

    @contextmanager
    def seed(self, torrent: Path, content: Path, where: Path) -> Iterator[Peer]:
        with self._run(torrent, content, where, ["--seed-ratio=0.0", "--bt-seed-unverified=true"]) as peer:
            yield peer

    @contextmanager
    def leech(self, torrent: Path, where: Path, peers: Sequence[str] = ()) -> Iterator[Peer]:
        with self._run(torrent, where / "content", where, ["--seed-time=0"]) as peer:
            yield peer

    @contextmanager
    def _run(self, torrent: Path, folder: Path, where: Path, options: list[str]) -> Iterator[Peer]:
        port, dht_port = free_port(), free_port()
        command = [
            "aria2c",
            "--no-conf=true",
            "--enable-dht=true",  # or it refuses UDP trackers; it knows no node to start from
            f"--dht-listen-port={dht_port}",
            f"--dht-file-path={where / 'dht.dat'}",
            "--enable-dht6=false",
            "--bt-enable-lpd=false",
            "--enable-peer-exchange=false",
            "--disable-ipv6=true",
            "--file-allocation=none",
            "--summary-interval=1",
            "--console-log-level=notice",
            "--bt-tracker-interval=2",
            f"--listen-port={port}",
            f"--dir={folder}",
            *options,
            str(torrent),
        ]
        with Process(command, where / "aria2") as process:
            wait_until("aria2 listening", lambda: _accepts(port) or not process.running, START)
            yield Peer(process, port, folder, lambda: process.popen.poll() == 0)


class Transmission(Client):
    """transmission-daemon 3.00. It never dials 127.0.0.0/8, so the other end must dial it."""

    name = "transmission"
    program = "transmission-daemon"

    @contextmanager
    def seed(self, torrent: Path, content: Path, where: Path) -> Iterator[Peer]:
        with self._run(torrent, content, where) as peer:
            wait_until("transmission checked its content", peer.complete, START)
            yield peer

    @contextmanager
    def leech(self, torrent: Path, where: Path, peers: Sequence[str] = ()) -> Iterator[Peer]:
        with self._run(torrent, where / "content", where) as peer:
            yield peer

    @contextmanager
    def _run(self, torrent: Path, folder: Path, where: Path) -> Iterator[Peer]:
        port, control = free_port(), free_port()
        home = where / "transmission-home"
        home.mkdir(parents=True)
        folder.mkdir(parents=True, exist_ok=True)
        (home / "settings.json").write_text(json.dumps(self._settings(port, control, folder)))
        command = ["transmission-daemon", "--foreground", "--config-dir", str(home)]
        with Process(command, where / "transmission") as process:
            rpc = _TransmissionRpc(control)
            wait_until("transmission answers", rpc.answers, START)
            rpc.call("torrent-add", {"filename": str(torrent), "download-dir": str(folder), "paused": False})
            wait_until("transmission listening", lambda: _accepts(port), START)

            def complete() -> bool:
                fields = {"fields": ["percentDone", "status", "recheckProgress"]}
                (state,) = rpc.call("torrent-get", fields)["torrents"]
                return bool(state["percentDone"] == 1 and state["status"] == 6)  # 6: seeding

            yield Peer(process, port, folder, complete)

    @staticmethod
    def _settings(port: int, control: int, folder: Path) -> dict[str, Any]:
        return {
            "bind-address-ipv4": "127.0.0.1",
            "bind-address-ipv6": "::1",
            "dht-enabled": False,
            "lpd-enabled": False,
            "pex-enabled": False,
            "utp-enabled": False,
            "encryption": 0,
            "port-forwarding-enabled": False,
            "peer-port": port,
            "peer-port-random-on-start": False,
            "rpc-bind-address": "127.0.0.1",
            "rpc-port": control,
            "rpc-whitelist-enabled": False,
            "download-dir": str(folder),
            "preallocation": 0,
        }


class _TransmissionRpc:
    """Just enough of transmission's JSON RPC."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/transmission/rpc"
        self.token = ""
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps({"method": method, "arguments": arguments}).encode()
        for _ in range(2):
            request = urllib.request.Request(self.url, body, {"X-Transmission-Session-Id": self.token})
            try:
                with self.opener.open(request, timeout=10) as reply:
                    answer = json.load(reply)
            except urllib.error.HTTPError as error:
                with error:
                    self.token = error.headers.get("X-Transmission-Session-Id", "")
                continue
            if answer["result"] != "success":
                raise ProcessFailedError(f"transmission refused {method}: {answer['result']}")
            found: dict[str, Any] = answer["arguments"]
            return found
        raise ProcessFailedError(f"transmission does not take its own token for {method}")

    def answers(self) -> bool:
        try:
            self.call("session-get", {"fields": ["version"]})
        except OSError:
            return False
        return True


class Rtorrent(Client):
    """rtorrent 0.9.8 without a terminal, asked over its SCGI socket.

    It keeps one peer of an address. A tracker tells it of itself too, so it has an address of its own here.
    """

    host = "127.0.0.2"
    name = "rtorrent"
    program = "rtorrent"

    @contextmanager
    def seed(self, torrent: Path, content: Path, where: Path) -> Iterator[Peer]:
        with self._run(torrent, content, where) as peer:
            wait_until("rtorrent checked its content", peer.complete, START)
            yield peer

    @contextmanager
    def leech(self, torrent: Path, where: Path, peers: Sequence[str] = ()) -> Iterator[Peer]:
        with self._run(torrent, where / "content", where) as peer:
            yield peer

    @contextmanager
    def _run(self, torrent: Path, folder: Path, where: Path) -> Iterator[Peer]:
        port = free_port(self.host)
        home = where / "rtorrent-home"
        home.mkdir(parents=True)
        folder.mkdir(parents=True, exist_ok=True)
        control = where / "rt.sock"
        (home / "rtorrent.rc").write_text(
            f"system.daemon.set = true\n"
            f"session.path.set = {home}\n"
            f"directory.default.set = {folder}\n"
            f"network.bind_address.set = {self.host}\n"
            f"network.port_range.set = {port}-{port}\n"
            f"network.port_random.set = no\n"
            f"network.scgi.open_local = {control}\n"
            f"dht.mode.set = disable\n"
            f"protocol.pex.set = no\n"
            f"protocol.encryption.set = none\n"
            f"trackers.use_udp.set = yes\n"
            f"pieces.hash.on_completion.set = no\n"
        )
        command = ["rtorrent", "-n", "-o", f"import={home / 'rtorrent.rc'}"]
        with Process(command, where / "rtorrent", env={"HOME": str(home), "TERM": "dumb"}) as process:
            wait_until("rtorrent listening", lambda: control.exists() and _accepts(port, self.host), START)
            named = _with_a_tracker(torrent, home / "named.torrent")
            if _scgi(control, "load.start", "", str(named)) != 0:
                raise ProcessFailedError(f"rtorrent refused {torrent}")

            def complete() -> bool:
                return any(
                    done == 1
                    for (done, hashing) in _scgi(control, "d.multicall2", "", "main", "d.complete=", "d.hashing=")
                    if hashing == 0
                )

            yield Peer(process, port, folder, complete, self.host)


def _with_a_tracker(torrent: Path, copy: Path) -> Path:
    """rtorrent refuses a torrent that names no tracker: then a copy that names one where nobody listens."""
    data = torrent.read_bytes()
    if b"8:announce" in data:
        return torrent
    copy.write_bytes(with_trackers(data, ["http://127.0.0.1:9/announce"]))
    return copy


def _scgi(path: Path, method: str, *arguments: Any) -> Any:
    """One XML-RPC call over an SCGI socket."""
    body = xmlrpc.client.dumps(arguments, method).encode()
    headers = b"CONTENT_LENGTH\0%d\0SCGI\x001\0" % len(body)
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(10)
        link.connect(str(path))
        link.sendall(b"%d:%s,%s" % (len(headers), headers, body))
        reply = b""
        while data := link.recv(65536):
            reply += data
    (value,), _ = xmlrpc.client.loads(reply.partition(b"\r\n\r\n")[2])
    return value


def _accepts(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as link:
        link.settimeout(1)
        return link.connect_ex((host, port)) == 0


CLIENTS: dict[str, Client] = {client.name: client for client in (Libtorrent(), Aria2(), Transmission(), Rtorrent())}
