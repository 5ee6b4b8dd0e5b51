"""What a person may name a torrent by: a file, a URL, a magnet URI, an info-hash."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from btor import limits
from btor.cli import words
from btor.errors import BtorError, NetworkError, UnsupportedError
from btor.metainfo.info_hashes import V2_ONLY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from btor.metainfo.torrent_file import Metainfo
    from btor.settings import Settings

LARGE_TORRENT = limits.MIB  # bytes; a larger file is parsed in a thread


def is_url(source: str) -> bool:
    """Whether a torrent has to be fetched before it can be read."""
    return source.lower().startswith(("http://", "https://"))


def is_magnet(source: str) -> bool:
    """Whether SOURCE is a magnet URI, or an info-hash that is not a file's name."""
    if source[:7].lower() == "magnet:":
        return True
    return re.fullmatch("[0-9a-fA-F]{40}", source) is not None and not Path(source).exists()


def refusal(source: str) -> BtorError | None:
    """What speaks against downloading from SOURCE as it stands: a magnet that is wrong, or that btor cannot yet."""
    if not is_magnet(source):
        return None
    from btor.metainfo.magnet import Magnet

    try:
        found = Magnet.parse(source)
    except BtorError as error:
        return error
    return UnsupportedError(V2_ONLY) if found.info_hashes.v1 is None else None


async def fetch_metadata(source: str, settings: Settings, peers: Sequence[str], timeout: float) -> Metainfo:
    """Get the metadata of a magnet from peers, within ``timeout`` seconds. Raises NetworkError, MetainfoError."""
    import trio

    from btor.engine.session import open_session

    async with open_session(settings) as session:
        torrent = await session.add(source, peers=peers, metadata_only=True)
        with trio.move_on_after(timeout):
            return await torrent.wait_metadata()
        raise NetworkError(f"no metadata within {words.duration(timeout)}: {torrent.status().reason}")


async def fetch_torrent(url: str, bind: tuple[str, ...] = ()) -> Metainfo:
    """Get a torrent from the web. Raises NetworkError, MetainfoError, UsageError."""
    import trio

    from btor.engine.http import HttpClient
    from btor.engine.transport import TcpNetwork
    from btor.metainfo.torrent_file import parse_torrent

    data = await HttpClient(TcpNetwork(), bind=bind).fetch(url, limit=limits.TORRENT_FILE_SIZE)
    if len(data) > LARGE_TORRENT:
        return await trio.to_thread.run_sync(parse_torrent, data, abandon_on_cancel=True)
    return parse_torrent(data)
