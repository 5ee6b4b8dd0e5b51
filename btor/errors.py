"""The error family of btor: the type says who is to blame, the fields carry the data.

Anything that is not a ``BtorError`` is a bug in btor.
"""

from __future__ import annotations

from typing import ClassVar


class BtorError(Exception):
    """Base of everything btor raises on purpose.

    ``exit_status`` is what a command ends with; ``kind`` is the stable word used in JSON.
    """

    exit_status: ClassVar[int] = 1
    kind: ClassVar[str] = "error"


class UsageError(BtorError):
    """The person or the calling program asked for something that makes no sense."""

    exit_status = 2
    kind = "usage"


class BencodeError(BtorError):
    """Bytes that are not strict bencoding, or that are over a bound. ``offset`` counts from the first byte."""

    exit_status = 3
    kind = "metainfo"

    def __init__(self, reason: str, offset: int = 0) -> None:
        super().__init__(f"{reason} at byte {offset}")
        self.reason = reason
        self.offset = offset


class MetainfoError(BtorError):
    """The torrent or magnet is invalid. ``field`` names the offending key, ``reason`` says why."""

    exit_status = 3
    kind = "metainfo"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class UnsupportedError(MetainfoError):
    """Valid, but btor does not do it yet."""

    kind = "unsupported"

    def __init__(self, reason: str) -> None:
        super().__init__("", reason)


class PeerError(BtorError):
    """A peer broke the protocol: the connection ends."""

    kind = "peer"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TrackerError(BtorError):
    """A tracker failed or refused. ``retry_after`` (s, or None): what BEP 31 asked for; ``never``: do not come back.

    ``refused``: it answered and said no, as opposed to no usable answer. ``unsent``: it was not even asked, for its
    name could not be looked up.
    """

    exit_status = 5
    kind = "tracker"

    def __init__(
        self,
        url: str,
        reason: str,
        *,
        retry_after: float | None = None,
        never: bool = False,
        refused: bool = False,
        unsent: bool = False,
    ) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason
        self.retry_after = retry_after
        self.never = never
        self.refused = refused
        self.unsent = unsent


class NetworkError(BtorError):
    """Nothing can be had from the network: no such URL, no peers, no progress before the time limit."""

    exit_status = 5
    kind = "network"


class StorageError(BtorError):
    """The disk said no. ``operation``: a verb (``open``, ``write`` …). ``path``: the file. ``errno``: as in OSError."""

    exit_status = 4
    kind = "storage"

    def __init__(self, operation: str, path: str, reason: str, errno: int | None = None) -> None:
        super().__init__(f"{operation} {path}: {reason}")
        self.operation = operation
        self.path = path
        self.reason = reason
        self.errno = errno

    @classmethod
    def from_os_error(cls, operation: str, path: str, error: OSError) -> StorageError:
        """The StorageError for an OSError of the system call behind ``operation``."""
        return cls(operation, path, error.strerror or str(error), error.errno)


class IncompleteError(BtorError):
    """``verify`` or ``seed`` found missing or bad pieces."""

    exit_status = 6
    kind = "incomplete"
