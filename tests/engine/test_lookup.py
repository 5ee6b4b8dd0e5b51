"""Names to addresses."""

from __future__ import annotations

import socket

import pytest

from btor.engine.lookup import is_ipv6, local_address, look_up
from btor.engine.transport import TcpNetwork
from btor.errors import NetworkError
from btor.wire.address import Address


class Names(TcpNetwork):
    """A network in which every name has these addresses, or none."""

    def __init__(self, outcome: list[Address] | Exception) -> None:
        self.outcome = outcome

    async def resolve(self, host: str, port: int) -> list[Address]:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return [(ip, port) for ip, _ in self.outcome]


@pytest.mark.parametrize(
    ("host", "known", "addresses"),
    [
        ("1.2.3.4", [], [("1.2.3.4", 80)]),
        ("2001:DB8::1", [], [("2001:db8::1", 80)]),
        ("::ffff:1.2.3.4", [], [("1.2.3.4", 80)]),
        ("t.example", [("2001:db8::1", 0), ("1.2.3.4", 0)], [("2001:db8::1", 80), ("1.2.3.4", 80)]),
        ("t.example", [("::ffff:1.2.3.4", 0), ("1.2.3.4", 0)], [("1.2.3.4", 80)]),
        ("t.example", [], []),
    ],
)
async def test_look_up(host: str, known: list[Address], addresses: list[Address]) -> None:
    assert await look_up(Names(known), host, 80) == addresses


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "cannot be looked up: Name or service"),
        (OSError("odd"), "cannot be looked up: odd"),
        (UnicodeError("label too long"), "is no name"),
    ],
)
async def test_no_address(error: Exception, reason: str) -> None:
    with pytest.raises(NetworkError, match=reason):
        await look_up(Names(error), "t.example", 80)


def test_local_addresses() -> None:
    assert is_ipv6(("::1", 80))
    assert not is_ipv6(("127.0.0.1", 80))
    assert local_address(["1.1.1.1", "::1", "1.1.1.2"], ("8.8.8.8", 80)) == "1.1.1.1"
    assert local_address(["1.1.1.1", "::1"], ("2600::1", 80)) == "::1"
    assert local_address(["1.1.1.1"], ("2600::1", 80)) is None
    assert local_address([], ("8.8.8.8", 80)) is None
