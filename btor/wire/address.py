"""IP addresses and ports: their texts, their compact bytes (BEP 7, 23), and which of them may be dialled."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, Literal

from btor.errors import UsageError
from btor.limits import PORT_MAX as PORT_MAX

Address = tuple[str, int]
"""(IP text in canonical form, port)."""

Reach = Literal["global", "private", "loopback", "never"]

COMPACT4: Final = 6  # bytes of one compact IPv4 peer: address and port (BEP 23)
COMPACT6: Final = 18  # bytes of one compact IPv6 peer (BEP 7)
PRIVILEGED_PORTS: Final = 1_024  # below it live services that a swarm must not be pointed at
OPEN_PRIVILEGED_PORTS: Final = frozenset({80, 443})
HOST_NAME: Final = 253  # characters, RFC 1035

_REACH4: Final[tuple[tuple[IPv4Network, Reach], ...]] = (
    (IPv4Network("127.0.0.0/8"), "loopback"),
    (IPv4Network("10.0.0.0/8"), "private"),
    (IPv4Network("172.16.0.0/12"), "private"),
    (IPv4Network("192.168.0.0/16"), "private"),
    (IPv4Network("100.64.0.0/10"), "private"),  # carrier-grade NAT
    (IPv4Network("192.0.0.0/24"), "private"),  # protocol assignments
    (IPv4Network("198.18.0.0/15"), "private"),  # benchmarks
    (IPv4Network("0.0.0.0/8"), "never"),
    (IPv4Network("169.254.0.0/16"), "never"),  # link-local; the metadata services of clouds
    (IPv4Network("224.0.0.0/3"), "never"),  # multicast, reserved, broadcast
)
_REACH6: Final[tuple[tuple[IPv6Network, Reach], ...]] = (
    (IPv6Network("::1/128"), "loopback"),
    (IPv6Network("fc00::/7"), "private"),  # unique local
    (IPv6Network("fec0::/10"), "private"),  # site-local, deprecated
    (IPv6Network("64:ff9b:1::/48"), "private"),  # NAT64 of one network
    (IPv6Network("::/96"), "never"),  # unspecified and IPv4-compatible
    (IPv6Network("::ffff:0:0/96"), "never"),  # IPv4-mapped: would slip past the rules for IPv4
    (IPv6Network("100::/64"), "never"),  # discard
    (IPv6Network("fe80::/10"), "never"),  # link-local
    (IPv6Network("ff00::/8"), "never"),  # multicast
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_6TO4: Final = IPv6Network("2002::/16")


def canonical(ip: str) -> str:
    """The one text of an IP address: shortest form, no zone, an IPv4-mapped address as the IPv4 address it is.

    Meant for what a socket reports. ValueError for anything but an IP address.
    """
    parsed = ip_address(ip.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)


def is_ip(host: str) -> bool:
    """Whether ``host`` is an IP address, not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def reach(ip: str) -> Reach:
    """Where an address leads: to the internet, a private network, this machine, or nowhere that a peer can be.

    ValueError for anything but an IP address.
    """
    parsed = ip_address(ip)
    return _reach4(parsed) if isinstance(parsed, IPv4Address) else _reach6(parsed)


def _reach4(ip: IPv4Address) -> Reach:
    for network, verdict in _REACH4:
        if ip in network:
            return verdict
    return "global"


def _reach6(ip: IPv6Address) -> Reach:
    for network, verdict in _REACH6:
        if ip in network:
            return verdict
    embedded = None
    if ip in _NAT64:
        embedded = IPv4Address(int(ip) & 0xFFFF_FFFF)
    elif ip in _6TO4:
        embedded = ip.sixtofour
    if embedded is not None and _reach4(embedded) != "global":
        return "never"  # a translator must not be the way round the rules for IPv4
    return "global"


def dialable(address: Address, *, source_ip: str | None, user: bool) -> bool:
    """Whether btor may connect to ``address``, which the user named or somebody at ``source_ip`` told us of.

    Global addresses from anyone; private ones from a source on a private network or on this machine; loopback ones
    from a source on this machine. Ports below 1024, but 80 and 443, only from the user. ``source_ip`` None stands for
    a source on the internet.
    """
    ip, port = address
    where = reach(ip)
    if where == "never" or not 0 < port <= PORT_MAX:
        return False
    if user:
        return True
    if port < PRIVILEGED_PORTS and port not in OPEN_PRIVILEGED_PORTS:
        return False
    if where == "global":
        return True
    source = "global" if source_ip is None else reach(source_ip)
    return source == "loopback" or source == where


def network_of(ip: str) -> str:
    """The neighbourhood an address counts with: its /24 (IPv4) or /64 (IPv6), as text."""
    if ":" in ip:
        top = int(IPv6Address(ip.partition("%")[0])) >> 64 << 64
        return f"{IPv6Address(top)}/64"
    return ip.rpartition(".")[0] + ".0/24"


def pack_ip(ip: str) -> bytes:
    """The 4 or 16 bytes of an IP address. ValueError for anything else."""
    return ip_address(ip).packed


def unpack_ip(data: bytes) -> str:
    """The text of 4 or 16 bytes, IPv4-mapped ones as IPv4. ValueError for another length."""
    return canonical(str(ip_address(bytes(data))))


def pack_address(address: Address) -> bytes:
    """The compact form of one peer: 6 bytes (IPv4) or 18 (IPv6). ValueError for a name or a port out of range."""
    ip, port = address
    if not 0 <= port <= PORT_MAX:
        raise ValueError(f"no such port: {port}")
    return ip_address(ip).packed + port.to_bytes(2)


def pack_compact(addresses: Iterable[Address], size: int) -> bytes:
    """The compact forms, joined, of those addresses whose form has ``size`` bytes (COMPACT4 or COMPACT6)."""
    packed = (pack_address(address) for address in addresses)
    return b"".join(one for one in packed if len(one) == size)


def unpack_compact(data: bytes | bytearray | memoryview, size: int) -> list[Address]:
    """The peers of a compact string whose entries have ``size`` bytes (COMPACT4 or COMPACT6), in order.

    Entries nobody can be at are left out: port 0, and IPv4-mapped addresses, which have a form of their own.
    ValueError when the length is no multiple of ``size``.
    """
    if len(data) % size:
        raise ValueError(f"{len(data)} bytes of compact peers, not a multiple of {size}")
    raw = bytes(data)
    peers = []
    for start in range(0, len(raw), size):
        port = raw[start + size - 2] << 8 | raw[start + size - 1]
        if port == 0:
            continue
        if size == COMPACT4:
            peers.append((".".join(map(str, raw[start : start + 4])), port))
            continue
        ip = IPv6Address(raw[start : start + 16])
        if ip.ipv4_mapped is None:
            peers.append((str(ip), port))
    return peers


def parse_host_port(text: str, *, any_port: bool = False) -> tuple[str, int]:
    """(host, port) of ``host:port``, ``1.2.3.4:port`` or ``[v6]:port``; IP addresses come back in canonical form.

    Port 0 is taken only with ``any_port`` (for listening: the system chooses). UsageError says what is wrong.
    """
    host, colon, digits = text.rpartition(":")
    if not colon or not host:
        raise UsageError(f"{text!r}: expected HOST:PORT")
    if host.startswith("["):
        if not host.endswith("]"):
            raise UsageError(f"{text!r}: the bracket around the IPv6 address is not closed")
        try:
            host = str(IPv6Address(host[1:-1]))
        except AddressValueError as error:
            raise UsageError(f"{text!r}: not an IPv6 address") from error
    elif ":" in host:
        raise UsageError(f"{text!r}: an IPv6 address needs brackets, as in [::1]:6881")
    elif len(host) > HOST_NAME or not host.isprintable() or any(character in " /@?#[]" for character in host):
        raise UsageError(f"{text!r}: not a host name")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5) or int(digits) > PORT_MAX:
        raise UsageError(f"{text!r}: the port is a number up to {PORT_MAX}")
    if digits.strip("0") == "" and not any_port:
        raise UsageError(f"{text!r}: port 0 is nobody's")
    return canonical(host) if is_ip(host) else host, int(digits)


def format_address(address: tuple[str, int]) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
