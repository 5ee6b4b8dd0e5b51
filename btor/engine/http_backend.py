"""The network below httpcore2: our own, so that the address is checked where the connection is made.

Imported with ``http``, and so only when the first HTTP request is made.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import httpcore2
import trio

from btor import limits
from btor.engine.lookup import is_ipv6, local_address, look_up
from btor.engine.transport import Network, Transport
from btor.errors import NetworkError
from btor.wire.address import Address

STAGGER: Final = 0.25  # before the next address of a name is tried beside the first
RECEIVE: Final = 16 * 1024


class HttpError(NetworkError):
    """An HTTP request failed. ``retry_after`` (s): when the server wants to be asked again, or None."""

    def __init__(self, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class TransportStream(trio.abc.Stream):
    """A Transport as trio's streams go, for TLS to run over."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        buffer = bytearray(min(max_bytes or RECEIVE, RECEIVE))
        while True:
            try:
                return bytes(buffer[: self._transport.recv_into([memoryview(buffer)])])
            except BlockingIOError:
                await self._transport.wait_readable()
            except OSError as error:
                raise trio.BrokenResourceError(error.strerror or str(error)) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        left = memoryview(data)
        while left:
            try:
                left = left[self._transport.send([left]) :]
            except BlockingIOError:
                await self._transport.wait_writable()
            except OSError as error:
                raise trio.BrokenResourceError(error.strerror or str(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        await self._transport.wait_writable()

    async def aclose(self) -> None:
        self._transport.close()
        await trio.lowlevel.checkpoint()


class Allowance:
    """How many bytes one answer may still take, framing and headers included; over it the request fails."""

    def __init__(self) -> None:
        self.left = limits.TRACKER_HEADERS
        self.reason = f"the headers of the answer are longer than {limits.TRACKER_HEADERS} bytes"

    def body_begins(self, limit: int) -> None:
        """The headers are through; the body may have ``limit`` bytes, and about as many go for chunk headers."""
        self.left = 2 * limit + limits.TRACKER_HEADERS
        self.reason = "the answer does not end"


class GuardedStream(httpcore2.AsyncNetworkStream):
    """A connection of one request, which reads no more than its allowance. HttpError."""

    def __init__(self, stream: trio.abc.Stream, allowance: Allowance, silence: float) -> None:
        self._stream = stream
        self._allowance = allowance
        self._silence = silence

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._allowance.left <= 0:
            raise HttpError(self._allowance.reason)
        try:
            with trio.fail_after(self._silence):
                data = await self._stream.receive_some(min(max_bytes, self._allowance.left))
        except trio.TooSlowError as error:
            raise HttpError(f"no answer for {self._silence:.0f} s") from error
        except trio.BrokenResourceError as error:
            raise HttpError(f"the connection broke: {error.__cause__ or error}") from error
        self._allowance.left -= len(data)
        return bytes(data)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            with trio.fail_after(self._silence):
                await self._stream.send_all(buffer)
        except trio.TooSlowError as error:
            raise HttpError(f"nothing taken for {self._silence:.0f} s") from error
        except trio.BrokenResourceError:
            pass  # an answer may have been sent before the request was read whole; reading tells

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> GuardedStream:
        stream = trio.SSLStream(self._stream, ssl_context, server_hostname=server_hostname, https_compatible=True)
        secured = False
        try:
            with trio.fail_after(limits.TRACKER_CONNECT):
                await stream.do_handshake()
            secured = True
        except trio.TooSlowError as error:
            raise HttpError(f"no TLS within {limits.TRACKER_CONNECT:.0f} s") from error
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise HttpError(f"the certificate is not accepted: {cause.verify_message}") from error
            raise HttpError(f"no TLS: {cause or error}") from error
        finally:
            if not secured:
                await trio.aclose_forcefully(self._stream)
        return GuardedStream(stream, self._allowance, self._silence)

    def get_extra_info(self, info: str) -> Any:
        return None


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Looks names up, checks each address, and connects to one that passed. One for each request.

    ``check(ip)`` says why an address may not be had, or None. ``addresses`` are those of the host where they are
    known already; else ``ipv6`` names the family to prefer, if any. ``ip`` is the one that the connection went to.
    """

    def __init__(
        self,
        network: Network,
        check: Callable[[str], str | None],
        *,
        bind: Sequence[str] = (),
        addresses: Sequence[Address] = (),
        ipv6: bool | None = None,
        silence: float = limits.TRACKER_TOTAL,
    ) -> None:
        self._network = network
        self._check = check
        self._bind = bind
        self._addresses = addresses
        self._ipv6 = ipv6
        self._silence = silence
        self.allowance = Allowance()
        self.ip = ""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> GuardedStream:
        try:
            with trio.fail_after(limits.TRACKER_CONNECT):
                addresses = self._addresses or await look_up(self._network, host, port)
                preferred = [one for one in addresses if self._ipv6 in (None, is_ipv6(one))]
                transport = await self._connect(preferred or addresses)
        except trio.TooSlowError as error:
            raise HttpError(f"no connection within {limits.TRACKER_CONNECT:.0f} s") from error
        except NetworkError as error:
            raise HttpError(str(error)) from error
        self.ip = transport.remote[0]
        return GuardedStream(TransportStream(transport), self.allowance, self._silence)

    async def _connect(self, addresses: Sequence[Address]) -> Transport:
        """To the first address that answers, each tried a little later than the one before. HttpError."""
        allowed = []
        reason = "the name has no address"
        for address in addresses:
            refusal = self._check(address[0])
            if refusal is None:
                local = local_address(self._bind, address)
                if local is None and self._bind:
                    refusal = "no local address of that family"
                else:
                    allowed.append((address, local))
            reason = refusal or reason
        if not allowed:
            raise HttpError(reason)
        return await _connect_first(self._network, allowed)


async def _connect_first(network: Network, places: Sequence[tuple[Address, str | None]]) -> Transport:
    won: list[Transport] = []
    reasons: list[str] = []

    async def attempt(address: Address, local: str | None, ended: trio.Event) -> None:
        try:
            transport = await network.connect(address, local=local)
        except OSError as error:
            # trio's own text names the address as Python would write it
            reasons.append(os.strerror(error.errno) if error.errno else str(error))
            ended.set()
            return
        if won:
            transport.close()
        won.append(transport)
        nursery.cancel_scope.cancel()

    handed_over = False
    try:
        async with trio.open_nursery() as nursery:
            for address, local in places:
                ended = trio.Event()
                nursery.start_soon(attempt, address, local, ended)
                with trio.move_on_after(STAGGER):
                    await ended.wait()
        if not won:
            raise HttpError(f"no connection: {reasons[0]}")
        handed_over = True
        return won[0]
    finally:
        if won and not handed_over:
            won[0].close()
