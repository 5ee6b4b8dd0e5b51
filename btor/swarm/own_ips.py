"""Which addresses we have, by what peers say they see (``yourip``, BEP 10)."""

from __future__ import annotations

from collections import Counter

from btor.limits import OWN_IP_VOTES, OWN_IP_VOTES_NEEDED
from btor.wire.address import network_of, reach


class OwnIps:
    """One vote for each network of peers. Only of use for choices that may be wrong, such as whom to dial first."""

    def __init__(self) -> None:
        self._votes: dict[tuple[bool, str], str] = {}  # (IPv6?, network) → IP

    def on_vote(self, voter: str, ip: str) -> None:
        """A peer at ``voter`` sees us at ``ip``. Only what could be seen from the internet counts."""
        if reach(ip) != "global" or reach(voter) != "global":
            return
        key = (":" in ip, network_of(voter))
        self._votes.pop(key, None)
        self._votes[key] = ip
        if len(self._votes) > OWN_IP_VOTES:
            del self._votes[next(iter(self._votes))]

    def of_family(self, ip: str) -> str | None:
        """Our own address of the family of ``ip`` that most agree on; None while too few do."""
        votes = Counter(seen for (v6, _), seen in self._votes.items() if v6 == (":" in ip))
        leader, count = max(votes.items(), key=lambda item: item[1], default=("", 0))
        return leader if count >= OWN_IP_VOTES_NEEDED else None
