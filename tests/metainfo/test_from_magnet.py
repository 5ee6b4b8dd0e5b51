"""The torrent file of a magnet's metadata."""

from __future__ import annotations

import hashlib

import pytest

from btor.errors import MetainfoError
from btor.metainfo.from_magnet import metainfo_of, torrent_of
from btor.metainfo.info_hashes import InfoHashes
from btor.metainfo.magnet import Magnet
from btor.metainfo.torrent_file import parse_torrent

INFO = b"d6:lengthi5e4:name1:a12:piece lengthi16384e6:pieces20:" + bytes(20) + b"e"


def test_it_is_a_torrent_with_what_the_magnet_says() -> None:
    hashes = InfoHashes(hashlib.sha1(INFO).digest(), None)
    magnet = Magnet(hashes, trackers=("http://a/announce", "udp://b:1/"), web_seeds=("http://c/d",))
    found = parse_torrent(torrent_of(INFO, magnet))
    assert found.info == INFO and found.info_hash == magnet.info_hash == hashes.v1
    assert found.trackers == (("http://a/announce",), ("udp://b:1/",))
    assert found.web_seeds == ("http://c/d",)


def test_a_bare_one() -> None:
    magnet = Magnet(InfoHashes(None, bytes(range(32))))
    assert torrent_of(INFO, magnet) == b"d4:info" + INFO + b"e"
    assert magnet.info_hash == bytes(range(20))


@pytest.mark.parametrize("v1", [hashlib.sha1(INFO).digest(), None])
def test_it_says_the_same_without_the_detour_over_a_file(v1: bytes | None) -> None:
    magnet = Magnet(InfoHashes(v1, None), trackers=("http://a/announce",), web_seeds=("http://c/d",))
    assert metainfo_of(INFO, magnet) == parse_torrent(torrent_of(INFO, magnet))


@pytest.mark.parametrize("info", [b"i5e", b"d", INFO + b"x", b"de"])
def test_metadata_that_is_none(info: bytes) -> None:
    with pytest.raises(MetainfoError):
        metainfo_of(info, Magnet(InfoHashes(hashlib.sha1(info).digest(), None)))
