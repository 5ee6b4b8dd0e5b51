"""What a program or a person means by a source: a torrent file, its content, a magnet, an info-hash."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Final

from btor import limits
from btor.engine.background import in_thread
from btor.errors import MetainfoError, UnsupportedError
from btor.metainfo.from_magnet import metainfo_of
from btor.metainfo.info_hashes import V2_ONLY
from btor.metainfo.magnet import Magnet
from btor.metainfo.torrent_file import Metainfo, parse_torrent
from btor.storage import metadata
from btor.storage.load import load_metainfo
from btor.storage.state import StateError

_log = logging.getLogger(__name__)

LARGE_TORRENT: Final = limits.MIB  # a larger file is parsed in a thread


def is_magnet(source: str) -> bool:
    """Whether ``source`` is a magnet URI, or an info-hash that is not a file's name."""
    if source[:7].lower() == "magnet:":
        return True
    return re.fullmatch("[0-9a-fA-F]{40}", source) is not None and not os.path.exists(source)


async def identify(
    source: str | Path | Metainfo | Magnet, state_dir: Path | None
) -> tuple[Metainfo, None] | tuple[Metainfo | None, Magnet]:
    """What ``source`` is, at least one of the two. The metadata of a magnet is there if an earlier run has kept it.

    MetainfoError, StorageError.
    """
    if isinstance(source, str) and is_magnet(source):
        source = Magnet.parse(source)
    if isinstance(source, Magnet):
        if source.info_hashes.v1 is None:
            raise UnsupportedError(V2_ONLY)
        return None if state_dir is None else await in_thread(_kept, source, state_dir), source
    return source if isinstance(source, Metainfo) else await _load(Path(source)), None


def _kept(magnet: Magnet, state_dir: Path) -> Metainfo | None:
    """The metadata that an earlier run has kept, with the trackers and web seeds of this magnet."""
    try:
        data = metadata.load(state_dir, magnet.info_hash)
        found = None if data is None else parse_torrent(data)
    except (StateError, MetainfoError) as error:
        _log.warning("the metadata of an earlier run cannot be used: %s", error)
        return None
    if found is None or found.info_hash != magnet.info_hash:
        return None
    return metainfo_of(found.info, magnet)


async def _load(path: Path) -> Metainfo:
    # a large file takes a while to parse: in a thread, which a small one is not worth
    try:
        large = os.path.getsize(path) > LARGE_TORRENT  # noqa: ASYNC240  # one stat
    except OSError:
        large = False  # load_metainfo says what is wrong
    return await in_thread(load_metainfo, path) if large else load_metainfo(path)
