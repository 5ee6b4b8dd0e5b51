"""The torrent file that a magnet's metadata makes, with what the magnet itself says of trackers and web seeds."""

from __future__ import annotations

from btor import bencode
from btor.metainfo.magnet import Magnet


def torrent_of(info: bytes, magnet: Magnet) -> bytes:
    """A torrent file with ``info`` byte for byte, the trackers of ``magnet``, each a tier of its own, its web seeds."""
    parts = [b"d"]
    if magnet.trackers:
        tiers = bencode.encode([[url.encode()] for url in magnet.trackers])
        parts += [b"8:announce", bencode.encode(magnet.trackers[0].encode()), b"13:announce-list", tiers]
    parts += [b"4:info", info]
    if magnet.web_seeds:
        parts += [b"8:url-list", bencode.encode([url.encode() for url in magnet.web_seeds])]
    return b"".join([*parts, b"e"])
