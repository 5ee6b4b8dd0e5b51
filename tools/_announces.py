"""A tracker that only takes note: who announced when, by HTTP and by UDP (BEP 15). In a thread, told of no peers."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

INTERVAL = 1_800
CONNECT, ANNOUNCE = 0, 1


class Announces:
    """``seen``: (monotonic time, "http" or "udp", info-hash) of each announce."""

    def __init__(self, http: str, udp: str) -> None:
        self.http = http
        self.udp = udp
        self.seen: list[tuple[float, str, bytes]] = []

    def note(self, kind: str, info_hash: bytes) -> None:
        self.seen.append((time.monotonic(), kind, info_hash))

    def reached(self, kind: str) -> dict[bytes, float]:
        """When each torrent was first announced by ``kind``."""
        first: dict[bytes, float] = {}
        for when, how, info_hash in list(self.seen):
            if how == kind:
                first.setdefault(info_hash, when)
        return first

    def most_in_a_second(self) -> int:
        """How many came at most within any second."""
        times = [when for when, _, _ in self.seen]
        most = oldest = 0
        for number, when in enumerate(times):
            while times[oldest] < when - 1:
                oldest += 1
            most = max(most, number - oldest + 1)
        return most


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024  # whoever comes in a burst is counted, and not refused
    daemon_threads = True


def _answer_udp(sock: socket.socket, announces: Announces) -> None:
    """Until the socket is closed."""
    while True:
        try:
            packet, sender = sock.recvfrom(2048)
        except OSError:
            return
        if len(packet) < 16:
            continue
        action, transaction = struct.unpack_from(">II", packet, 8)
        if action == CONNECT:
            sock.sendto(struct.pack(">IIQ", CONNECT, transaction, 1), sender)
        elif action == ANNOUNCE and len(packet) >= 98:
            announces.note("udp", packet[16:36])
            sock.sendto(struct.pack(">IIIII", ANNOUNCE, transaction, INTERVAL, 0, 1), sender)


@contextmanager
def taking_note() -> Iterator[Announces]:
    """The tracker, on ports of 127.0.0.1 that the system chooses."""
    body = b"d8:completei1e10:incompletei0e8:intervali%de5:peers0:e" % INTERVAL

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query, encoding="latin-1")
            announces.note("http", query["info_hash"][0].encode("latin-1"))
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    with _Server(("127.0.0.1", 0), Handler) as server, socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024 * 1024)
        sock.bind(("127.0.0.1", 0))
        announces = Announces(
            f"http://127.0.0.1:{server.server_port}/announce", f"udp://127.0.0.1:{sock.getsockname()[1]}/announce"
        )
        threads = [
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True),
            threading.Thread(target=_answer_udp, args=(sock, announces), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield announces
        finally:
            server.shutdown()
