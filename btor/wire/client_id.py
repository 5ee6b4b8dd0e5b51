"""Which client a peer id names (BEP 20). For people to read: nothing may depend on it, for anybody can say anything."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

UNKNOWN: Final = "unknown"

_AZUREUS: Final = re.compile(rb"-([A-Za-z~]{2})([0-9A-Za-z]{4})-")
_MAINLINE: Final = re.compile(rb"([MQ])(\d{1,2})-(\d{1,2})-(\d{1,2})-")
_ARIA2: Final = re.compile(rb"A2-(\d{1,2})-(\d{1,2})-(\d{1,2})-")
_SHADOW: Final = re.compile(rb"([AOQRSTU])([0-9A-Za-z.]{3,5})-{2}")
_TIXATI: Final = re.compile(rb"TIX(\d\d)(\d\d)")

_SHADOW_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz."

_AZUREUS_NAMES: Final[dict[str, str]] = {
    "AG": "Ares",
    "AR": "Arctic",
    "AT": "Artemis",
    "AX": "BitPump",
    "AZ": "Vuze",
    "BB": "BitBuddy",
    "BC": "BitComet",
    "BF": "Bitflu",
    "BG": "BTG",
    "BI": "BiglyBT",
    "BO": "btor",
    "BR": "BitRocket",
    "BS": "BTSlave",
    "BT": "BitTorrent",
    "BX": "BitTorrent X",
    "CD": "Enhanced CTorrent",
    "CT": "CTorrent",
    "DE": "Deluge",
    "DP": "Propagate",
    "EB": "EBit",
    "ES": "electric sheep",
    "FC": "FileCroc",
    "FD": "Free Download Manager",
    "FT": "FoxTorrent",
    "FW": "FrostWire",
    "FX": "Freebox",
    "GS": "GSTorrent",
    "GT": "anacrolix/torrent",
    "HL": "Halite",
    "HN": "Hydranode",
    "KG": "KGet",
    "KT": "KTorrent",
    "LP": "Lphant",
    "LT": "libtorrent",
    "LW": "LimeWire",
    "MG": "MediaGet",
    "MO": "MonoTorrent",
    "MP": "MooPolice",
    "MR": "Miro",
    "NX": "Net Transport",
    "PD": "Pando",
    "PI": "PicoTorrent",
    "QD": "QQDownload",
    "QT": "Qt Torrent example",
    "RT": "Retriever",
    "SB": "Swiftbit",
    "SD": "Xunlei",
    "SS": "SwarmScope",
    "ST": "SymTorrent",
    "SZ": "Shareaza",
    "TL": "Tribler",
    "TN": "TorrentDotNET",
    "TR": "Transmission",
    "TS": "Torrentstorm",
    "TT": "TuoTu",
    "UL": "uLeecher!",
    "UM": "µTorrent for Mac",
    "UT": "µTorrent",
    "UW": "µTorrent Web",
    "VG": "Vagaa",
    "WD": "WebTorrent Desktop",
    "WT": "BitLet",
    "WW": "WebTorrent",
    "XL": "Xunlei",
    "XT": "XanTorrent",
    "ZT": "ZipTorrent",
    "lt": "rTorrent",
    "qB": "qBittorrent",
    "rQ": "rqbit",
    "st": "SharkTorrent",
}
_SHADOW_NAMES: Final[dict[str, str]] = {
    "A": "ABC",
    "O": "Osprey Permaseed",
    "Q": "BTQueue",
    "R": "Tribler",
    "S": "Shadow's client",
    "T": "BitTornado",
    "U": "UPnP NAT BitTorrent",
}
_TRANSMISSION: Final = "TR"
_TRANSMISSION_THREE_PARTS: Final = "4"  # up to major version 3 the minor version has two digits: 2.94
_RELEASE_LETTERS: Final = frozenset("BDWXZs")  # beta, development, web, nightly, stable: not part of a number when last


def client_name(peer_id: bytes) -> str:
    """Name and version of the client, such as ``qBittorrent 4.6.7``, or ``unknown``. Safe to show as it is."""
    if match := _AZUREUS.match(peer_id):
        return _azureus(match[1].decode("ascii"), match[2].decode("ascii"))
    if match := _ARIA2.match(peer_id):
        return "aria2 " + _dotted(int(part) for part in match.groups())
    if match := _MAINLINE.match(peer_id):
        name = "BitTorrent" if match[1] == b"M" else "Queen Bee"
        return f"{name} " + _dotted(int(part) for part in match.groups()[1:])
    if match := _TIXATI.match(peer_id):
        return f"Tixati {int(match[1])}.{match[2].decode('ascii')}"
    if match := _SHADOW.match(peer_id):
        return _shadow(match[1].decode("ascii"), match[2].decode("ascii"))
    return UNKNOWN


def _azureus(code: str, version: str) -> str:
    name = _AZUREUS_NAMES.get(code, code)
    if code == _TRANSMISSION and version[0] < _TRANSMISSION_THREE_PARTS:
        return f"{name} {version[0]}.{version[1:3]}"
    if version[3] in _RELEASE_LETTERS:
        version = version[:3]
    numbers = [int(character, 36) for character in version]
    while len(numbers) > 3 and numbers[-1] == 0:
        numbers.pop()
    return f"{name} {_dotted(numbers)}"


def _shadow(code: str, version: str) -> str:
    return f"{_SHADOW_NAMES[code]} {_dotted(_SHADOW_DIGITS.index(character) for character in version)}"


def _dotted(numbers: Iterable[int]) -> str:
    return ".".join(map(str, numbers))
