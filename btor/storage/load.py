"""Reading a torrent file from disk."""

from __future__ import annotations

import os

from btor import limits
from btor.errors import MetainfoError, StorageError
from btor.metainfo.torrent_file import Metainfo, parse_torrent


def load_metainfo(path: str | os.PathLike[str]) -> Metainfo:
    """The torrent in the file ``path``. StorageError: it cannot be read. MetainfoError: it is no torrent."""
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            data = file.read(limits.TORRENT_FILE_SIZE + 1)
    except OSError as error:
        raise StorageError.from_os_error("read", name, error) from error
    if len(data) > limits.TORRENT_FILE_SIZE:
        raise MetainfoError("", f"a torrent file of more than {limits.TORRENT_FILE_SIZE} bytes")
    return parse_torrent(data)
