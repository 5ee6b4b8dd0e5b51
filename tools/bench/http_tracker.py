"""An HTTP tracker that knows one peer, in a thread: what it costs is nobody's whom the bench measures."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def tracker_of(port: int) -> Iterator[str]:
    """The announce URL of a tracker that tells everybody of the peer at 127.0.0.1:``port``."""
    peer = socket.inet_aton("127.0.0.1") + struct.pack(">H", port)
    answer = b"d8:intervali1800e5:peers%d:%se" % (len(peer), peer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):  # who says that it stops does not wait for the answer
                self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))

        def log_message(self, *arguments: object) -> None:
            """Nothing: the bench prints tables."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/announce"
        finally:
            server.shutdown()
            thread.join()
