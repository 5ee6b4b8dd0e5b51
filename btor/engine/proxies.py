"""Which proxy the environment asks for, by ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from btor.errors import UsageError
from btor.wire.address import is_ip, reach
from btor.wire.url import Url


def proxy_for(url: Url, environ: Mapping[str, str]) -> Url | None:
    """The proxy for requests to ``url``; None to go there directly, as always on this machine.

    UsageError for a proxy that is not http or https: going round it would betray whom it is to hide.
    """
    if _is_loopback(url.host):
        return None
    text = next(
        (
            environ[name]
            for key in (f"{url.scheme}_proxy", "all_proxy")
            for name in (key, key.upper())
            if environ.get(name)
        ),
        "",
    )
    if not text or _is_exempt(url, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        return None
    try:
        proxy = Url.parse(text if "://" in text else f"http://{text}")
    except UsageError as error:
        raise UsageError(f"the proxy of the environment: {error}") from error
    if proxy.scheme == "udp":
        raise UsageError("the proxy of the environment: not http or https")
    return proxy


def _is_loopback(host: str) -> bool:
    if is_ip(host):
        return reach(host) == "loopback"
    return host.rstrip(".") == "localhost" or host.rstrip(".").endswith(".localhost")


def _is_exempt(url: Url, no_proxy: str) -> bool:
    """Whether ``no_proxy`` names the host: itself, a domain above it, a network it is in, or all (``*``)."""
    for entry in no_proxy.replace(",", " ").split():
        name, colon, port = entry.rpartition(":")
        if colon and port.isdigit() and ":" not in name:
            if int(port) != url.port:
                continue
        else:
            name = entry
        name = name.lower().removeprefix("*").removeprefix(".").strip("[]")
        if entry == "*" or url.host == name or (name and url.host.endswith(f".{name}")):
            return True
        if is_ip(url.host) and _in_network(url.host, name):
            return True
    return False


def _in_network(ip: str, network: str) -> bool:
    try:
        return ip_address(ip) in ip_network(network, strict=False)
    except ValueError:
        return False
