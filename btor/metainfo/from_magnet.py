"""The torrent that a magnet's metadata makes, with what the magnet itself says of trackers and web seeds."""

from __future__ import annotations

from btor import bencode
from btor.bencode import Value
from btor.metainfo.magnet import Magnet
from btor.metainfo.torrent_file import Metainfo, parse_info


def metainfo_of(info: bytes, magnet: Magnet) -> Metainfo:
    """The torrent whose info dictionary is ``info``, which has the hashes of ``magnet``. MetainfoError."""
    return parse_info(info, _said(magnet), magnet.info_hashes.v1)


def torrent_of(info: bytes, magnet: Magnet) -> bytes:
    """Its file: ``info`` byte for byte, the trackers of ``magnet``, each a tier of its own, its web seeds."""
    values = {key: bencode.encode(value) for key, value in _said(magnet).items()} | {b"info": info}
    return b"".join([b"d", *(bencode.encode(key) + value for key, value in sorted(values.items())), b"e"])


def _said(magnet: Magnet) -> dict[bytes, Value]:
    """What the magnet says, as keys of a torrent file."""
    said: dict[bytes, Value] = {}
    if magnet.trackers:
        said[b"announce"] = magnet.trackers[0].encode()
        said[b"announce-list"] = [[url.encode()] for url in magnet.trackers]
    if magnet.web_seeds:
        said[b"url-list"] = [url.encode() for url in magnet.web_seeds]
    return said
