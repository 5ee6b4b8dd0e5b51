"""Connection ids of a UDP tracker (BEP 15): proof that a sender gets what is sent to its address. Nothing is kept."""

from __future__ import annotations

from hashlib import blake2b
from hmac import compare_digest

from btor import limits
from btor.wire.address import pack_ip

SECRET = 32  # bytes
_TIME_BYTES = 2
_PROOF_BYTES = 6
_TIME_RANGE = 1 << 8 * _TIME_BYTES  # seconds, 18 hours


class ConnectionIds:
    """Makes and checks ids: 16 bits of the time of issue, then 48 bits of a keyed hash of that time and the address.

    The whole time goes into the hash, so each second has a secret of its own and an id does not come back to life when
    the 16 bits come round. An id is good for any port of its address: clients share it between their sockets.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def issue(self, ip: str, now: float) -> int:
        """The id for a sender at ``ip``."""
        issued = int(now)
        return int.from_bytes((issued % _TIME_RANGE).to_bytes(_TIME_BYTES) + self._proof(ip, issued))

    def is_valid(self, connection_id: int, ip: str, now: float) -> bool:
        """Whether the id was issued to ``ip`` at most UDP_TRACKER_ID_LIFE ago."""
        claimed = connection_id.to_bytes(_TIME_BYTES + _PROOF_BYTES)
        age = (int(now) - int.from_bytes(claimed[:_TIME_BYTES])) % _TIME_RANGE
        issued = int(now) - age
        return (
            age <= limits.UDP_TRACKER_ID_LIFE
            and issued >= 0
            and compare_digest(claimed[_TIME_BYTES:], self._proof(ip, issued))
        )

    def _proof(self, ip: str, issued: int) -> bytes:
        return blake2b(pack_ip(ip) + issued.to_bytes(8), key=self._secret, digest_size=_PROOF_BYTES).digest()
