"""Addresses: texts, compact bytes, reach, dialling rules."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.errors import UsageError
from btor.wire.address import (
    COMPACT4,
    COMPACT6,
    Address,
    canonical,
    dialable,
    format_address,
    is_ip,
    network_of,
    pack_address,
    pack_compact,
    pack_ip,
    parse_host_port,
    reach,
    unpack_compact,
    unpack_ip,
)

ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).filter(lambda ip: isinstance(ip, IPv6Address) and ip.ipv4_mapped is None).map(str)
ports = st.integers(1, 65_535)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::FFFF:7f00:1", "127.0.0.1"),
        ("2001:DB8:0:0::5", "2001:db8::5"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::1"),
    ],
)
def test_canonical(text: str, expected: str) -> None:
    assert canonical(text) == expected


@pytest.mark.parametrize("text", ["", "localhost", "1.2.3", "01.2.3.4", "1.2.3.4:5", "[::1]", "::1::2"])
def test_canonical_refuses_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear"):
        canonical(text)
    assert not is_ip(text)


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("8.8.8.8", "global"),
        ("1.0.0.0", "global"),
        ("223.255.255.255", "global"),
        ("127.0.0.0", "loopback"),
        ("127.255.255.255", "loopback"),
        ("126.255.255.255", "global"),
        ("128.0.0.0", "global"),
        ("9.255.255.255", "global"),
        ("10.0.0.0", "private"),
        ("10.255.255.255", "private"),
        ("11.0.0.0", "global"),
        ("172.15.255.255", "global"),
        ("172.16.0.0", "private"),
        ("172.31.255.255", "private"),
        ("172.32.0.0", "global"),
        ("192.167.255.255", "global"),
        ("192.168.0.0", "private"),
        ("192.168.255.255", "private"),
        ("192.169.0.0", "global"),
        ("100.63.255.255", "global"),
        ("100.64.0.0", "private"),
        ("100.127.255.255", "private"),
        ("100.128.0.0", "global"),
        ("192.0.0.1", "private"),
        ("198.18.0.1", "private"),
        ("198.20.0.0", "global"),
        ("0.0.0.0", "never"),
        ("0.255.255.255", "never"),
        ("169.254.0.0", "never"),
        ("169.254.169.254", "never"),
        ("169.255.0.0", "global"),
        ("224.0.0.0", "never"),
        ("239.255.255.255", "never"),
        ("240.0.0.1", "never"),
        ("255.255.255.255", "never"),
        ("::", "never"),
        ("::1", "loopback"),
        ("::2", "never"),
        ("::127.0.0.1", "never"),
        ("::ffff:8.8.8.8", "never"),
        ("::ffff:127.0.0.1", "never"),
        ("64:ff9b::8.8.8.8", "global"),
        ("64:ff9b::127.0.0.1", "never"),
        ("64:ff9b::10.0.0.1", "never"),
        ("64:ff9b:1::1", "private"),
        ("2002:808:808::1", "global"),
        ("2002:7f00:1::1", "never"),
        ("2002:a9fe:a9fe::1", "never"),
        ("100::1", "never"),
        ("2001:db8::1", "global"),
        ("2606:4700::1111", "global"),
        ("fbff::1", "global"),
        ("fc00::1", "private"),
        ("fdff::1", "private"),
        ("fe80::1", "never"),
        ("febf::1", "never"),
        ("fec0::1", "private"),
        ("feff::1", "private"),
        ("ff02::1", "never"),
    ],
)
def test_P11_reach(ip: str, expected: str) -> None:
    assert reach(ip) == expected


def test_reach_refuses_a_name() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        reach("localhost")


GLOBAL, PRIVATE, LOOPBACK = ("8.8.8.8", 6881), ("192.168.1.2", 6881), ("127.0.0.1", 6881)


@pytest.mark.parametrize(
    ("address", "source_ip", "user", "expected"),
    [
        (GLOBAL, None, False, True),
        (GLOBAL, "1.1.1.1", False, True),
        (GLOBAL, "127.0.0.1", False, True),
        (GLOBAL, "169.254.1.1", False, True),
        (PRIVATE, None, False, False),
        (PRIVATE, "1.1.1.1", False, False),
        (PRIVATE, "10.9.8.7", False, True),
        (PRIVATE, "fd00::1", False, True),
        (PRIVATE, "127.0.0.1", False, True),
        (PRIVATE, None, True, True),
        (LOOPBACK, None, False, False),
        (LOOPBACK, "1.1.1.1", False, False),
        (LOOPBACK, "192.168.1.1", False, False),
        (LOOPBACK, "127.0.0.1", False, True),
        (LOOPBACK, "::1", False, True),
        (LOOPBACK, "::ffff:127.0.0.1", False, False),
        (LOOPBACK, None, True, True),
        (("::1", 6881), "127.0.0.1", False, True),
        (("::1", 6881), "2001:db8::1", False, False),
        (("fd00::1", 6881), "10.0.0.1", False, True),
        (("fd00::1", 6881), None, False, False),
        (("0.0.0.0", 6881), "127.0.0.1", False, False),
        (("0.0.0.0", 6881), None, True, False),
        (("::ffff:8.8.8.8", 6881), None, True, False),
        (("224.0.0.1", 6881), "127.0.0.1", True, False),
        (("169.254.169.254", 80), "127.0.0.1", True, False),
        (("8.8.8.8", 0), None, True, False),
        (("8.8.8.8", 65_535), None, False, True),
        (("8.8.8.8", 65_536), None, True, False),
        (("8.8.8.8", -1), None, True, False),
        (("8.8.8.8", 1_023), None, False, False),
        (("8.8.8.8", 1_023), None, True, True),
        (("8.8.8.8", 1_024), None, False, True),
        (("8.8.8.8", 25), "127.0.0.1", False, False),
        (("8.8.8.8", 80), None, False, True),
        (("8.8.8.8", 443), None, False, True),
    ],
)
def test_P11_dialable(address: Address, source_ip: str | None, user: bool, expected: bool) -> None:
    assert dialable(address, source_ip=source_ip, user=user) is expected


@given(st.ip_addresses().map(str), st.integers(-1, 65_536), st.none() | st.ip_addresses().map(str))
def test_nobody_on_the_internet_points_inward(ip: str, port: int, source_ip: str | None) -> None:
    if dialable((ip, port), source_ip=source_ip, user=False):
        where = reach(ip)
        assert where != "never"
        if where != "global":
            assert source_ip is not None
            assert reach(source_ip) in {"loopback", where}


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("1.2.3.4", "1.2.3.0/24"),
        ("127.0.200.255", "127.0.200.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_network_of(ip: str, expected: str) -> None:
    assert network_of(ip) == expected


@given(ipv4 | ipv6, st.integers(0, 255))
def test_network_of_holds_its_neighbours(ip: str, last: int) -> None:
    neighbour = bytearray(pack_ip(ip))
    neighbour[-1] = last
    assert network_of(str(ip_address(bytes(neighbour)))) == network_of(ip)


@given(ipv4 | ipv6)
def test_ip_bytes_round_trip(ip: str) -> None:
    assert unpack_ip(pack_ip(ip)) == ip


def test_ip_bytes_of_a_mapped_address_and_of_a_wrong_length() -> None:
    assert unpack_ip(bytes(10) + b"\xff\xff\x01\x02\x03\x04") == "1.2.3.4"
    for length in (0, 3, 5, 15, 17):
        with pytest.raises(ValueError):
            unpack_ip(bytes(length))


# BEP 7 and BEP 23: examples, and strings computed from their tables
@pytest.mark.parametrize(
    ("data", "size", "peers"),
    [
        (b"iiiipp", COMPACT4, [("105.105.105.105", 28784)]),
        (b"iiiiiiiiiiiiiiiipp", COMPACT6, [("6969:6969:6969:6969:6969:6969:6969:6969", 28784)]),
        (bytes.fromhex("7f0000011ae1fffffffeffff"), COMPACT4, [("127.0.0.1", 6881), ("255.255.255.254", 65535)]),
        (bytes.fromhex("20010db8000000000000000000000005c8d5"), COMPACT6, [("2001:db8::5", 51413)]),
        (b"", COMPACT4, []),
        (b"", COMPACT6, []),
        (bytes.fromhex("010203040000010203040001"), COMPACT4, [("1.2.3.4", 1)]),
        (bytes(10) + b"\xff\xff\x01\x02\x03\x04\x1a\xe1", COMPACT6, []),
        (bytes(15) + b"\x01\x00\x00", COMPACT6, []),
    ],
)
def test_unpack_compact(data: bytes, size: int, peers: list[Address]) -> None:
    assert unpack_compact(data, size) == peers
    assert unpack_compact(memoryview(data), size) == peers
    assert unpack_compact(bytearray(data), size) == peers


@pytest.mark.parametrize("size", [COMPACT4, COMPACT6])
def test_compact_of_odd_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        unpack_compact(bytes.fromhex("7f0000011ae1ff"), size)
    for extra in range(1, size):
        with pytest.raises(ValueError, match="not a multiple"):
            unpack_compact(b"\x01" * (size + extra), size)


@given(st.lists(st.tuples(ipv4 | ipv6, ports)))
def test_compact_round_trip(peers: list[Address]) -> None:
    for size, version in ((COMPACT4, IPv4Address), (COMPACT6, IPv6Address)):
        mine = [peer for peer in peers if isinstance(ip_address(peer[0]), version)]
        assert unpack_compact(pack_compact(peers, size), size) == mine


def test_pack_address_bounds() -> None:
    assert pack_address(("1.2.3.4", 0)) == b"\x01\x02\x03\x04\x00\x00"
    assert pack_address(("1.2.3.4", 65_535)) == b"\x01\x02\x03\x04\xff\xff"
    for address in (("1.2.3.4", -1), ("1.2.3.4", 65_536), ("localhost", 1)):
        with pytest.raises(ValueError):
            pack_address(address)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:6881", ("127.0.0.1", 6881)),
        ("[::1]:6881", ("::1", 6881)),
        ("[2001:DB8::0:5]:1", ("2001:db8::5", 1)),
        ("[::ffff:1.2.3.4]:65535", ("1.2.3.4", 65535)),
        ("tracker.example.org:080", ("tracker.example.org", 80)),
        ("a" * 253 + ":1", ("a" * 253, 1)),
    ],
)
def test_parse_host_port(text: str, expected: tuple[str, int]) -> None:
    assert parse_host_port(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "HOST:PORT"),
        ("localhost", "HOST:PORT"),
        (":6881", "HOST:PORT"),
        ("::1:6881", "brackets"),
        ("[::1:6881", "not closed"),
        ("[::1]6881", "not closed"),
        ("[::1]:", "the port"),
        ("[1.2.3.4]:6881", "IPv6"),
        ("[localhost]:6881", "IPv6"),
        ("1.2.3.4:", "the port"),
        ("1.2.3.4:65536", "the port"),
        ("1.2.3.4:-1", "the port"),
        ("1.2.3.4:+1", "the port"),
        ("1.2.3.4:1_0", "the port"),
        ("1.2.3.4:٣", "the port"),
        ("1.2.3.4:000001", "the port"),
        ("1.2.3.4:0", "nobody"),
        ("1.2.3.4:00", "nobody"),
        ("a b:1", "host name"),
        ("a\x1b[0m:1", "host name"),
        ("user@host:1", "host name"),
        ("host/path:1", "host name"),
        ("a" * 254 + ":1", "host name"),
    ],
)
def test_parse_host_port_refuses(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_host_port(text)


def test_port_0_only_where_the_system_chooses() -> None:
    assert parse_host_port("127.0.0.1:0", any_port=True) == ("127.0.0.1", 0)
    assert parse_host_port("[::1]:0", any_port=True) == ("::1", 0)


@given(ipv4 | ipv6 | st.just("example.org"), ports)
def test_host_port_round_trip(host: str, port: int) -> None:
    assert parse_host_port(format_address((host, port))) == (host, port)


@given(st.text())
def test_parse_host_port_only_raises_usage_errors(text: str) -> None:
    try:
        host, port = parse_host_port(text, any_port=True)
    except UsageError as error:
        assert "\x1b" not in str(error)
    else:
        assert host
        assert 0 <= port <= 65_535
