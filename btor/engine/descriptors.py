"""How a session shares out the descriptors that its process may have."""

from __future__ import annotations

from typing import Final, NamedTuple

from btor import limits

FILES_PART: Final = 4  # files get one part in so many: a file that was closed is opened again, a peer that left is gone
PENDING_PART: Final = 4  # and connections that have not said who they are, of what is left


class Shares(NamedTuple):
    """The most of each at a time: files of torrents that stay open, connections before their handshake, and after."""

    files: int
    pending: int
    peers: int


def share_out(descriptors: int) -> Shares:
    """The shares of a process that may have so many descriptors.

    ``limits.DESCRIPTORS_RESERVED`` stay free for all else, or half where there are very few.
    """
    spare = max(descriptors - limits.DESCRIPTORS_RESERVED, descriptors // 2)
    files = min(limits.OPEN_FILES, spare // FILES_PART)
    pending = min(limits.PENDING_HANDSHAKES, (spare - files) // PENDING_PART)
    return Shares(files, pending, spare - files - pending)
