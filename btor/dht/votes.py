"""Which address we have, by what other nodes say they see (BEP 42)."""

from __future__ import annotations

from collections import Counter

from btor.dht.contact import Contact
from btor.limits import DHT_VOTES, DHT_VOTES_NEEDED


class Votes:
    """One vote for each network of voters. ``address``: the packed IP that most agree on; None before that."""

    def __init__(self) -> None:
        self.address: bytes | None = None
        self._votes: dict[bytes, bytes] = {}  # by the voter's network
        self._counts: Counter[bytes] = Counter()  # the same by address

    def add(self, voter: Contact, ip: bytes) -> bool:
        """``voter`` sees us at ``ip`` (packed); whether ``address`` is another one now.

        Nodes on loopback do not count: they see what nobody else sees. It takes DHT_VOTES_NEEDED networks and two
        thirds of all.
        """
        if voter.is_loopback:
            return False
        known = self._votes.get(voter.network)
        if known == ip:
            return False
        if known is not None:
            self._withdraw(voter.network)
        elif len(self._votes) >= DHT_VOTES:
            self._withdraw(next(iter(self._votes)))
        self._votes[voter.network] = ip
        self._counts[ip] += 1
        votes = self._counts[ip]  # no other has more of all than before
        if ip == self.address or votes < DHT_VOTES_NEEDED or 3 * votes < 2 * len(self._votes):
            return False
        self.address = ip
        return True

    def _withdraw(self, network: bytes) -> None:
        ip = self._votes.pop(network)
        self._counts[ip] -= 1
        if not self._counts[ip]:
            del self._counts[ip]
