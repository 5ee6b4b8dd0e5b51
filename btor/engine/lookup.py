"""Names to addresses, for trackers and the web."""

from __future__ import annotations

from collections.abc import Sequence

from btor.engine.transport import Network
from btor.errors import NetworkError
from btor.wire.address import Address, canonical, is_ip


async def look_up(network: Network, host: str, port: int) -> list[Address]:
    """The addresses of ``host``, a name or an IP address, in the order to try. NetworkError."""
    if is_ip(host):
        return [(canonical(host), port)]
    try:
        found = await network.resolve(host, port)
    except OSError as error:
        raise NetworkError(f"the name {host} cannot be looked up: {error.strerror or error}") from error
    except UnicodeError as error:  # of the system's name encoding, for names that no server can have
        raise NetworkError(f"{host} is no name") from error
    return list(dict.fromkeys((canonical(ip), port) for ip, _ in found))


def is_ipv6(address: Address) -> bool:
    """The family of an address."""
    return ":" in address[0]


def local_address(bind: Sequence[str], remote: Address) -> str | None:
    """The address of ``bind`` to reach ``remote`` from; None where there is none of its family."""
    return next((ip for ip in bind if (":" in ip) == is_ipv6(remote)), None)
