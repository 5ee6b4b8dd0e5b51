"""Row j: from the start of a command to the first REQUEST that its only peer sees, found through an HTTP tracker."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tools._btor import state
from tools._measure import PeakMemory, Usage, cpu_seconds
from tools._payload import info_hash, piece_count, with_trackers
from tools._processes import Process, ProcessFailedError
from tools.bench import contenders as who
from tools.bench.contest import Contender
from tools.bench.http_tracker import tracker_of
from tools.bench.workshop import MIB, Payload, Workshop

PROTOCOL = b"\x13BitTorrent protocol"
UNCHOKE, INTERESTED, BITFIELD, REQUEST = 1, 2, 5, 6
PATIENCE = 30.0  # s


class Watcher:
    """A peer that says it has everything and notes when it is first asked for a block. It never gives one."""

    def __init__(self, payload: Payload) -> None:
        torrent = payload.torrent.read_bytes()
        self.info_hash = bytes.fromhex(info_hash(torrent))
        self.pieces = piece_count(torrent)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port: int = self.listener.getsockname()[1]
        self.asked = threading.Event()
        self.asked_at = 0.0

    def serve(self) -> None:
        """Talk to one peer after the other until the listener is closed."""
        with suppress(OSError):
            while True:
                link, _ = self.listener.accept()
                with link, suppress(OSError, EOFError):
                    link.settimeout(PATIENCE)
                    self._talk(link)

    def _talk(self, link: socket.socket) -> None:
        stream = link.makefile("rb")
        if _exactly(stream, 68)[:20] != PROTOCOL:  # an encrypted handshake: it will come again without
            return
        link.sendall(PROTOCOL + bytes(8) + self.info_hash + b"-XX0000-watches-only")
        bits = bytearray(b"\xff" * (self.pieces // 8))
        if self.pieces % 8:
            bits.append(0xFF << 8 - self.pieces % 8 & 0xFF)
        link.sendall(struct.pack(">IB", 1 + len(bits), BITFIELD) + bits)
        while True:
            (length,) = struct.unpack(">I", _exactly(stream, 4))
            message = _exactly(stream, length)
            if message[:1] == bytes([INTERESTED]):
                link.sendall(struct.pack(">IB", 1, UNCHOKE))
            elif message[:1] == bytes([REQUEST]):
                self.asked_at = time.monotonic()
                self.asked.set()
                return


def _exactly(stream: object, count: int) -> bytes:
    data: bytes = stream.read(count)  # type: ignore[attr-defined]  # what socket.makefile gives
    if len(data) < count:
        raise EOFError
    return data


def once(workshop: Workshop, payload: Payload, name: str) -> Usage:
    """What it cost until then; the command is ended afterwards."""
    watcher = Watcher(payload)
    thread = threading.Thread(target=watcher.serve, daemon=True)
    thread.start()
    log = workshop.log(name)
    try:
        with tracker_of(watcher.port) as url, workshop.folder() as folder:
            torrent = folder / "announced.torrent"
            torrent.write_bytes(with_trackers(payload.torrent.read_bytes(), [url]))
            command = who.btor_get(torrent, folder) if name == "btor" else who.aria2_get(torrent, folder)
            begun = time.monotonic()
            with Process(command, log, env=state(log)) as process:
                memory = PeakMemory([process.pid])
                memory.start()
                asked = watcher.asked.wait(PATIENCE)
                cpu = cpu_seconds(process.pid)
                peak = memory.stop()
                if not asked:
                    raise ProcessFailedError(f"{name} asked for nothing within {PATIENCE:.0f} s\n{process.tail()}")
            return Usage(watcher.asked_at - begun, cpu, peak)
    finally:
        watcher.listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        watcher.listener.close()
        thread.join(PATIENCE)


@contextmanager
def first_requests(workshop: Workshop) -> Iterator[list[Contender]]:
    payload = workshop.single(64, MIB)
    yield [
        who.btor(lambda: once(workshop, payload, "btor"), who.BTOR_SETTINGS + "; peer from an HTTP tracker"),
        Contender("aria2", who.ARIA2_SETTINGS, lambda: once(workshop, payload, "aria2"), who.lacks("aria2c")),
    ]
