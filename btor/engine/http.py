"""The guarded HTTP client, for trackers and for torrent files on the web.

What it reads comes from anybody: every length, time and address is bounded, redirects are followed one by one, and
nothing is kept between requests (no cookies, no connections). Importing it costs about 25 ms: engine modules do so
when the first HTTP request is due.
"""

from __future__ import annotations

import base64
import ssl
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from os import environ as os_environ
from typing import Final

import httpcore2
import trio

from btor import limits
from btor.engine.http_backend import GuardedBackend, HttpError
from btor.engine.lookup import is_ipv6
from btor.engine.proxies import proxy_for
from btor.engine.transport import Network
from btor.errors import NetworkError, UsageError
from btor.metainfo.paths import display
from btor.settings import VERSION
from btor.wire.address import Address, is_ip, reach
from btor.wire.url import DEFAULT_PORTS, Url, refusal

USER_AGENT: Final = f"btor/{VERSION}".encode()
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
GZIP: Final = frozenset({"gzip", "x-gzip"})
INFLATE_STEP: Final = 64 * 1024
RETRY_AFTER_DIGITS: Final = 9


@dataclass(frozen=True, slots=True)
class HttpReply:
    """The body of a good answer and the IP address it came from (None: from a proxy)."""

    body: bytes
    ip: str | None


class HttpClient:
    """Requests of one session. ``bind``: local addresses to use, empty for any. ``environ`` names the proxies."""

    def __init__(self, network: Network, *, bind: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> None:
        self._network = network
        self._bind = bind
        self._environ = os_environ if environ is None else environ
        self._tls: ssl.SSLContext | None = None

    async def fetch(self, url: str, *, limit: int = limits.TORRENT_FILE_SIZE) -> bytes:
        """The body at a URL that the user gave. NetworkError names it; UsageError when it is no http(s) URL."""
        parsed = Url.parse(url)
        if parsed.scheme == "udp":
            raise UsageError("the URL is not http or https")
        try:
            reply = await self.get(parsed, limit=limit, tracker=False, total=limits.TORRENT_URL_TOTAL)
        except HttpError as error:
            raise NetworkError(f"{parsed}: {display(error.reason)}") from error
        return reply.body

    def proxy_for(self, url: Url) -> Url | None:
        """The proxy that requests to ``url`` go through. HttpError when it is of a kind that cannot be used."""
        try:
            return proxy_for(url, self._environ)
        except UsageError as error:
            raise HttpError(str(error)) from error

    async def get(
        self,
        url: Url,
        *,
        limit: int = limits.TRACKER_REPLY,
        tracker: bool = True,
        total: float = limits.TRACKER_TOTAL,
        addresses: Sequence[Address] = (),
    ) -> HttpReply:
        """GET ``url``, following redirects. HttpError, its reason not yet fit for display.

        ``limit`` bounds the body before and after inflating, ``total`` the time for everything. ``tracker``: the URL
        is a torrent's. ``addresses``: those of the host, if known; redirects keep to their family where they can.
        """
        reached_global = False
        ipv6 = is_ipv6(addresses[0]) if addresses else None
        try:
            with trio.fail_after(total):
                for _ in range(limits.TRACKER_REDIRECTS + 1):
                    hop = _Hop(self, url, tracker=tracker, reached_global=reached_global)
                    answer = await hop.run(limit, addresses, ipv6)
                    if isinstance(answer, HttpReply):
                        return answer
                    reached_global = hop.reached_global
                    url, addresses = _redirected(url, answer, tracker=tracker), ()
        except trio.TooSlowError as error:
            raise HttpError(f"not done within {total:.0f} s") from error
        raise HttpError(f"more than {limits.TRACKER_REDIRECTS} redirects")

    def backend(
        self, check: Callable[[str], str | None], addresses: Sequence[Address], ipv6: bool | None
    ) -> GuardedBackend:
        """The network for one request."""
        return GuardedBackend(self._network, check, bind=self._bind, addresses=addresses, ipv6=ipv6)

    def tls(self) -> ssl.SSLContext:
        """Verifies against the certificates of the system (or SSL_CERT_FILE, SSL_CERT_DIR); never anything less."""
        if self._tls is None:
            self._tls = httpcore2.default_ssl_context()
        return self._tls


class _Hop:
    """One request, without redirects."""

    def __init__(self, client: HttpClient, url: Url, *, tracker: bool, reached_global: bool) -> None:
        self._client = client
        self._url = url
        self._tracker = tracker
        self.reached_global = reached_global

    async def run(self, limit: int, addresses: Sequence[Address], ipv6: bool | None) -> HttpReply | str:
        """The answer, or the Location of a redirect. HttpError."""
        url = self._url
        proxy = self._client.proxy_for(url)
        if proxy is None:
            backend = self._client.backend(self._check, addresses, ipv6)
        else:
            backend = self._client.backend(_anywhere, (), None)
            if is_ip(url.host) and (reason := self._check(url.host)):
                raise HttpError(reason)
        try:
            async with (
                httpcore2.AsyncConnectionPool(
                    ssl_context=self._client.tls() if url.scheme == "https" else None,
                    proxy=None if proxy is None else self._proxy(proxy),
                    network_backend=backend,
                ) as pool,
                pool.stream("GET", _raw(url, url.target), headers=_headers(url)) as response,
            ):
                backend.allowance.body_begins(limit)
                # a proxy looks names up itself: what it reaches counts as the internet
                self.reached_global = self.reached_global or proxy is not None or reach(backend.ip) == "global"
                headers = {name.lower(): value for name, value in response.headers}
                if response.status in REDIRECTS:
                    return headers.get(b"location", b"").decode("latin-1")
                _check_status(response, headers)
                return HttpReply(await _read_body(response, headers, limit), None if proxy else backend.ip)
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError) as error:
            raise HttpError(str(error) or type(error).__name__) from error

    def _check(self, ip: str) -> str | None:
        return refusal(self._url, ip, tracker=self._tracker, reached_global=self.reached_global)

    def _proxy(self, proxy: Url) -> httpcore2.Proxy:
        return httpcore2.Proxy(
            _raw(proxy, "/"),
            auth=None if proxy.userinfo is None else (proxy.userinfo[0].encode(), proxy.userinfo[1].encode()),
            ssl_context=self._client.tls() if proxy.scheme == "https" else None,
        )


def _anywhere(ip: str) -> None:
    """The user's own proxy may be at any address."""


def _raw(url: Url, target: str) -> httpcore2.URL:
    port = None if url.port == DEFAULT_PORTS[url.scheme] else url.port
    return httpcore2.URL(scheme=url.scheme.encode(), host=url.host.encode(), port=port, target=target.encode())


def _headers(url: Url) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"Host", url.authority.encode()),
        (b"User-Agent", USER_AGENT),
        (b"Accept", b"*/*"),
        (b"Accept-Encoding", b"gzip"),
        (b"Connection", b"close"),
    ]
    if url.userinfo is not None:
        headers.append((b"Authorization", b"Basic " + base64.b64encode(":".join(url.userinfo).encode())))
    return headers


def _redirected(url: Url, location: str, *, tracker: bool) -> Url:
    """The URL of a redirect, if it may be followed at all. HttpError."""
    try:
        target = url.join(location)
    except UsageError as error:
        raise HttpError(f"redirected to nowhere: {error}") from error
    if target.scheme == "udp":
        raise HttpError("redirected to another protocol")
    if tracker and url.scheme == "https" and target.scheme == "http":
        raise HttpError("redirected from https to http")
    return target


def _check_status(response: httpcore2.Response, headers: Mapping[bytes, bytes]) -> None:
    if response.status == 200:
        return
    wait = headers.get(b"retry-after", b"").strip()
    seconds = float(wait) if wait.isdigit() and len(wait) <= RETRY_AFTER_DIGITS else None
    phrase = response.extensions.get("reason_phrase", b"").decode("latin-1")
    raise HttpError(f"HTTP status {response.status} {phrase}".rstrip(), retry_after=seconds)


async def _read_body(response: httpcore2.Response, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    """The body, inflated. HttpError as soon as it is certain that it is too long."""
    encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
    if encoding not in GZIP | {"", "identity"}:
        raise HttpError("the answer has an encoding that was not asked for")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length[:20]) > limit:
        raise HttpError(f"the answer is longer than {limit} bytes")
    inflater = Inflater(limit) if encoding in GZIP else None
    body = bytearray()
    async with aclosing(response.aiter_stream()) as chunks:
        async for chunk in chunks:
            if inflater is None:
                body += chunk
            else:
                inflater.feed(chunk)
            if len(body) > limit:
                raise HttpError(f"the answer is longer than {limit} bytes")
    return bytes(body) if inflater is None else inflater.finish()


class Inflater:
    """gzip, undone step by step so that no more than ``limit`` bytes are ever made of it. HttpError."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._fed = 0
        self._out = bytearray()
        self._zlib = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    def feed(self, data: bytes) -> None:
        """Some more of the stream. What follows its end is ignored."""
        self._fed += len(data)
        if self._fed > self._limit:
            raise HttpError(f"the answer is longer than {self._limit} bytes")
        while data and not self._zlib.eof:
            try:
                self._out += self._zlib.decompress(data, INFLATE_STEP)
            except zlib.error as error:
                raise HttpError("the answer is not gzip, as it says") from error
            if len(self._out) > self._limit:
                raise HttpError(f"the answer inflates to more than {self._limit} bytes")
            data = self._zlib.unconsumed_tail

    def finish(self) -> bytes:
        """All of it, once the stream has ended."""
        if not self._zlib.eof:
            raise HttpError("the gzip of the answer is cut short")
        return bytes(self._out)
