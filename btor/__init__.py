"""btor: a BitTorrent client on trio. Public names are resolved on first use, so that importing btor stays cheap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from btor.engine.session import Session as Session
    from btor.engine.session import open_session as open_session
    from btor.engine.torrent import Torrent as Torrent
    from btor.errors import BtorError as BtorError
    from btor.errors import IncompleteError as IncompleteError
    from btor.errors import MetainfoError as MetainfoError
    from btor.errors import NetworkError as NetworkError
    from btor.errors import StorageError as StorageError
    from btor.errors import TrackerError as TrackerError
    from btor.errors import UnsupportedError as UnsupportedError
    from btor.errors import UsageError as UsageError
    from btor.metainfo.magnet import Magnet as Magnet
    from btor.metainfo.selection import Selection as Selection
    from btor.metainfo.torrent_file import Metainfo as Metainfo
    from btor.settings import Settings as Settings
    from btor.storage.create import create_torrent as create_torrent
    from btor.storage.load import load_metainfo as load_metainfo
    from btor.storage.verify import verify as verify

__version__ = "0.1.0"

_HOMES = {
    "Session": "engine.session",
    "open_session": "engine.session",
    "Torrent": "engine.torrent",
    "BtorError": "errors",
    "IncompleteError": "errors",
    "MetainfoError": "errors",
    "NetworkError": "errors",
    "StorageError": "errors",
    "TrackerError": "errors",
    "UnsupportedError": "errors",
    "UsageError": "errors",
    "Magnet": "metainfo.magnet",
    "Selection": "metainfo.selection",
    "Metainfo": "metainfo.torrent_file",
    "Settings": "settings",
    "create_torrent": "storage.create",
    "load_metainfo": "storage.load",
    "verify": "storage.verify",
}

__all__ = list(_HOMES)  # a list of strings, made from the table above


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'btor' has no attribute {name!r}")
    value = getattr(import_module(f"btor.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
