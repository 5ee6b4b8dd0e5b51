"""Web servers for tests, over any Network: the real one or a simulated one."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from btor.engine.http_backend import TransportStream
from btor.engine.transport import Network, Transport
from tests.simulated.network import World

TLS_FILES = Path(__file__).parents[1] / "data" / "tls"

Respond = Callable[[str, trio.abc.Stream], Awaitable[None]]


def ok(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """A whole answer. ``length``: what Content-Length says, if not the truth; -1 leaves it out."""
    lines = [f"HTTP/1.1 {status}", *headers]
    if length != -1:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def moved(location: str, status: str = "302 Found") -> bytes:
    """A redirect."""
    return ok(b"", f"Location: {location}", status=status)


@dataclass
class WebServer:
    """Answers every request with ``answer``: bytes, or a function of the request that writes to the stream itself.

    One request a connection, which is then closed. ``requests``: the heads of all that came.
    """

    answer: bytes | Respond
    tls: bool = False
    requests: list[str] = field(default_factory=list)

    async def serve(
        self, network: Network, host: str, port: int, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen; started with the port."""
        listener = await network.listen(host, port)
        task_status.started(listener.port)
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    nursery.start_soon(self._talk, await listener.accept())
        finally:
            listener.close()

    async def _talk(self, transport: Transport) -> None:
        stream: trio.abc.Stream = TransportStream(transport)
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(TLS_FILES / "server.pem")
            stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                data = await stream.receive_some()
                if not data:
                    return
                head += data
            request = head.decode("latin-1")
            self.requests.append(request)
            if isinstance(self.answer, bytes):
                await stream.send_all(self.answer)
            else:
                await self.answer(request, stream)
        except trio.BrokenResourceError:
            pass  # the client gave up
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream) if self.tls else await stream.aclose()


@asynccontextmanager
async def simulated(**settings: float) -> AsyncIterator[tuple[World, trio.Nursery]]:
    """A running simulated world, and a nursery for its servers."""
    world = World(**settings)  # type: ignore[arg-type]  # names and numbers as World has them
    async with trio.open_nursery() as nursery:
        await nursery.start(world.run)
        yield world, nursery
        nursery.cancel_scope.cancel()
