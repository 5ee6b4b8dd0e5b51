"""URLs of trackers and of torrent files: read strictly, and the rules on where a request may go.

A URL comes from a torrent that anybody may have made, or from a redirect, so it must not be a way into the machine or
the network that btor runs in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from btor import limits
from btor.errors import UsageError
from btor.wire.address import HOST_NAME, canonical, format_address, is_ip, parse_host_port, reach

DEFAULT_PORTS: Final = {"http": 80, "https": 443, "udp": 0}  # a UDP tracker has no default port
ANNOUNCE_PATH: Final = "/announce"
ANNOUNCE_KEYS: Final = frozenset(
    {"info_hash", "peer_id", "port", "uploaded", "downloaded", "left", "event", "key", "numwant", "compact"}
)
# Addresses at which clouds tell a machine its secrets; 169.254/16 and fe80::/10 are refused whole.
METADATA_SERVICES: Final = frozenset({"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"})

_LABEL: Final = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.IGNORECASE)
_SAFE: Final = re.compile(r"[!-~]*")  # printable ASCII without the space


def is_host_name(text: str) -> bool:
    """Whether ``text`` can be a host name: ASCII only, and not something that a resolver reads as a number."""
    if len(text) > HOST_NAME or not _NAME.fullmatch(text):
        return False
    # inet_aton reads "127.1" and "0x7f000001" as addresses: a name's last label is not a number
    last = text.rstrip(".").rpartition(".")[2].lower()
    return not (last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last))


@dataclass(frozen=True, slots=True)
class Url:
    """A URL in parts. ``host`` is a lower-case name or a canonical IP address; ``target`` path and query as given.

    ``userinfo`` is (user, password), decoded, or None.
    """

    scheme: str
    host: str
    port: int
    target: str
    userinfo: tuple[str, str] | None = None

    @classmethod
    def parse(cls, text: str) -> Url:
        """Read an absolute http, https or udp URL; a fragment is dropped. UsageError says what is wrong."""
        if len(text) > limits.URL_LENGTH:
            raise UsageError("the URL is too long")
        if not _SAFE.fullmatch(text):
            raise UsageError("the URL holds spaces, control or non-ASCII characters")
        try:
            parts = urlsplit(text)
        except ValueError as error:
            raise UsageError(f"not a URL: {error}") from error
        if parts.scheme not in DEFAULT_PORTS:
            raise UsageError("the URL is not http, https or udp")
        userinfo, at, place = parts.netloc.rpartition("@")
        host, port = _host_and_port(place, DEFAULT_PORTS[parts.scheme])
        credentials = None
        if at:
            user, _, password = userinfo.partition(":")
            credentials = unquote(user), unquote(password)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        if parts.scheme != "udp" and not target.startswith("/"):
            target = f"/{target}"
        return cls(parts.scheme, host, port, target, credentials)

    def join(self, location: str) -> Url:
        """Where a redirect to ``location`` leads. Credentials stay only within the origin. UsageError."""
        if len(location) > limits.URL_LENGTH or not _SAFE.fullmatch(location):
            raise UsageError("the redirect is not a URL")
        try:
            joined = urljoin(f"{self.scheme}://{format_address((self.host, self.port))}{self.target}", location)
        except ValueError as error:
            raise UsageError(f"the redirect is not a URL: {error}") from error
        url = Url.parse(joined)
        same = url.origin == self.origin and url.userinfo is None
        return Url(url.scheme, url.host, url.port, url.target, self.userinfo if same else url.userinfo)

    def with_target(self, target: str) -> Url:
        """Another path and query at the same place."""
        return replace(self, target=target)

    @property
    def origin(self) -> tuple[str, str, int]:
        """(scheme, host, port): what credentials belong to."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """``host`` or ``host:port`` as the Host header has it."""
        place = format_address((self.host, self.port))
        return place.rpartition(":")[0] if self.port == DEFAULT_PORTS[self.scheme] else place

    @property
    def path(self) -> str:
        """The path alone."""
        return self.target.partition("?")[0]

    def __str__(self) -> str:
        """The URL without credentials, fit to be shown and to be requested."""
        return f"{self.scheme}://{self.authority}{self.target}"


def _host_and_port(place: str, default: int) -> tuple[str, int]:
    if "%" in place:
        raise UsageError("the URL's host is escaped or has a zone")
    place = place.removesuffix(":")
    host, colon, digits = place.rpartition(":")
    if not colon or not digits.isdigit():
        if not default:
            raise UsageError("the URL has no port")
        place = f"{place}:{default}"
    host, port = parse_host_port(place)
    if is_ip(host):
        return canonical(host), port
    if not is_host_name(host):
        raise UsageError("the URL has no valid host")
    return host.lower(), port


def carries_announce_keys(url: Url) -> bool:
    """Whether the query already says what an announce says: such a URL is made to forge requests, not to announce."""
    query = url.target.partition("?")[2]
    return any(unquote(pair.partition("=")[0]).strip().lower() in ANNOUNCE_KEYS for pair in re.split("[&;]", query))


def refusal(url: Url, ip: str, *, tracker: bool, reached_global: bool) -> str | None:
    """Why a request for ``url`` may not go to ``ip``, the address its host stands for; None when it may.

    ``tracker``: the URL is a torrent's, so a local service may only be asked for ``/announce…``; else the user gave
    it. ``reached_global``: a request before a redirect went to the internet, which must not lead into a private
    network.
    """
    where = reach(ip)
    if where == "never" or ip in METADATA_SERVICES:
        return f"{ip} is no address for a request"
    if where == "global":
        return None
    if reached_global:
        return f"a redirect from the internet into a {where} network"
    if tracker and url.scheme != "udp" and not url.path.startswith((ANNOUNCE_PATH, "/scrape")):
        return f"a tracker at a {where} address is only asked for {ANNOUNCE_PATH}"
    return None
