"""Which foreign URLs and addresses are well-formed enough to be kept. Whom btor then connects to is decided later."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import quote, urlsplit

from btor.limits import URL_LENGTH

TRACKER_SCHEMES = frozenset({"http", "https", "udp"})
WEB_SEED_SCHEMES = frozenset({"http", "https"})

_PRINTABLE = re.compile(r"[!-~]+").fullmatch
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]").search
_URL_CHARACTERS = "%:/?#[]@!$&'()*+,;=~"
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?").fullmatch
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):([0-9]{1,5})").fullmatch


def tracker_url(raw: bytes) -> str | None:
    """The URL of a tracker without white space around it; None when it is malformed or not http, https or udp."""
    text = raw.strip().decode("ascii", "replace")
    return text if _host(text, TRACKER_SCHEMES) else None


def web_seed_url(raw: bytes, *, folder: bool) -> str | None:
    """The URL of a web seed (BEP 19) without white space around it; None when it is malformed or not http or https.

    What a URL may not hold is percent-encoded. With ``folder`` (a torrent of several files) it ends in a slash. Hosts
    of 169.254.0.0/16, where clouds keep their credentials, are refused as well.
    """
    raw = raw.strip()
    if len(raw) > URL_LENGTH or _CONTROL(raw):
        return None
    text = quote(raw, safe=_URL_CHARACTERS)
    host = _host(text, WEB_SEED_SCHEMES)
    if not host or _is_link_local(host):
        return None
    return text + "/" if folder and not text.endswith("/") else text


def host_port(text: str) -> tuple[str, int] | None:
    """(host, port) of ``host:port`` or ``[v6]:port``; None when it is neither. The host may be a name."""
    match = _HOST_PORT(text)
    if match is None:
        return None
    return checked_host_port(match[1] or match[2], int(match[3]), v6=match[1] is not None)


def checked_host_port(host: str, port: int, *, v6: bool | None = None) -> tuple[str, int] | None:
    """(host, port) when both can be; None otherwise. ``v6`` says whether the host must or must not be a v6 address."""
    is_v6 = ":" in host
    if not 0 < port < 65536 or not _is_host(host) or (v6 is not None and v6 != is_v6):
        return None
    return (str(IPv6Address(host)) if is_v6 else host), port


def _host(url: str, schemes: frozenset[str]) -> str | None:
    """The host of a well-formed URL of one of ``schemes``."""
    if len(url) > URL_LENGTH or not _PRINTABLE(url):
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in schemes or host is None or not _is_host(host) or port == 0:
        return None
    return host


def _is_host(host: str) -> bool:
    if ":" not in host:
        return _HOST_NAME(host) is not None
    try:
        return IPv6Address(host).scope_id is None
    except AddressValueError:
        return False


def _is_link_local(host: str) -> bool:
    try:
        address = IPv6Address(host).ipv4_mapped if ":" in host else IPv4Address(host)
    except AddressValueError:
        return False
    return address is not None and address.is_link_local
