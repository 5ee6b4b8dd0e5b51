"""Targets: bencoding, torrents, magnets, names and URLs."""

from __future__ import annotations

from btor import bencode, limits
from btor.errors import BencodeError, BtorError, MetainfoError, UsageError
from btor.metainfo import file_list, file_tree, links, magnet, merkle, paths, raw_file, urls
from btor.metainfo.from_magnet import torrent_of
from btor.metainfo.info_hashes import InfoHashes
from btor.metainfo.magnet import Magnet
from btor.metainfo.torrent_file import Metainfo, parse_torrent
from btor.wire import address, url
from btor.wire.address import COMPACT4, COMPACT6
from btor.wire.url import Url
from tests.fuzz.harness import target

DEPTH = limits.TORRENT_DEPTH
TOKENS = 2_000  # few, so that a short input can have too many


@target("bencode", bencode.decode, bencode.decode_prefix, bencode.decode_with_spans, without=("encode", "encode_dict"))
def fuzz_bencode(data: bytes) -> None:
    if data[:1] == b"d":
        try:
            table, spans, inner = bencode.decode_with_spans(
                data, depth=DEPTH, tokens=TOKENS, size=16 * limits.KIB, inside=b"info"
            )
        except BencodeError:
            pass
        else:
            assert table.keys() == spans.keys()
            for key, (start, end) in spans.items():
                assert bencode.decode(data[start:end], depth=DEPTH, tokens=TOKENS) == table[key]
            info = table.get(b"info")
            assert inner.keys() == (info.keys() if isinstance(info, dict) else set())
            for key, (start, end) in inner.items():
                assert isinstance(info, dict)
                assert bencode.decode(data[start:end], depth=DEPTH, tokens=TOKENS) == info[key]
    value, end = bencode.decode_prefix(data, depth=DEPTH, tokens=TOKENS)
    for same in (data[:end], memoryview(data)[:end], bencode.encode(value)):
        assert bencode.decode(same, depth=DEPTH, tokens=TOKENS) == value
    if end == len(data):
        bencode.decode(data, depth=DEPTH, tokens=TOKENS, strict_order=True)
        assert bencode.encode(value) == data  # strict bencoding has one form
    else:
        bencode.decode(data, depth=DEPTH, tokens=TOKENS, size=limits.KIB)


def _check_torrent(found: Metainfo) -> None:
    seen = set()
    offset = 0
    for file in found.files:
        assert file.offset == offset
        offset += file.length
        assert file.path[0] == found.name
        for element in file.path:
            assert element not in ("", ".", "..") and not set(element) & set("/\\\0\x1b\n\u202e")
            assert len(element.encode()) <= limits.PATH_ELEMENT + len(".500")
        if not file.pad:
            seen.add("/".join(map(paths.fold, file.path)))
    assert offset == found.total_length == found.geometry.total_length
    assert len(seen) == sum(not file.pad for file in found.files)
    pieces = b"".join(map(found.piece_hash, range(found.geometry.piece_count)))
    assert len(pieces) == 20 * found.geometry.piece_count
    assert b":" + pieces in found.info
    assert Magnet.parse(found.magnet()).info_hash == found.info_hash


@target(
    "metainfo",
    parse_torrent,
    file_list.read_file_list,
    file_list.place_files,
    file_tree.read_file_tree,
    links.Links,
    merkle.layer_root,
    raw_file.read_length,
    without=("magnet", "info_hash"),
)
def fuzz_metainfo(data: bytes) -> None:
    found = parse_torrent(data)
    _check_torrent(found)
    assert parse_torrent(data) == found
    assert found.info in data


@target("metadata_whole", torrent_of)
def fuzz_metadata_whole(data: bytes) -> None:
    """An info dictionary from peers, and the magnet (the first line) that asked for it."""
    line, _, info = data.partition(b"\n")
    try:
        asked = Magnet.parse(line.decode("utf-8", "replace"))
    except MetainfoError:
        asked = Magnet(InfoHashes(bytes(20), None))
    made = torrent_of(info, asked)
    found = parse_torrent(made)
    if found.info == info:
        assert sum(found.trackers, ()) == asked.trackers
        _check_torrent(found)


@target("magnet", magnet.Magnet.parse, magnet.Magnet.uri)
def fuzz_magnet(data: bytes) -> None:
    found = Magnet.parse(data.decode("utf-8", "surrogateescape"))
    assert len(found.info_hash) == 20
    assert max(map(len, (found.trackers, found.web_seeds, found.peers, found.nodes))) <= limits.MAGNET_REPEATS
    made = found.uri()
    assert len(made) <= limits.MAGNET_LENGTH
    again = Magnet.parse(made)
    assert again.info_hashes == found.info_hashes
    if len(data) < limits.KIB:  # nothing had to be left out
        assert again == found


@target("path_names", paths.safe_element, paths.safe_name, paths.unique_paths, paths.display)
def fuzz_path_names(data: bytes) -> None:
    raw = [tuple(line.split(b"/")) for line in data.split(b"\n")]
    root = paths.safe_name(raw[0][0], "f" * 40)
    assert paths.safe_name(root.encode(), "") == root
    shown = paths.display(data)
    assert len(shown) <= limits.DISPLAY_CHARACTERS and (shown.isprintable() or not shown.isascii())
    assert not set(shown) & set("\x1b\n\r\0\x7f\u202e\u2028")
    for path in raw:
        for element in path:
            safe = paths.safe_element(element)
            assert safe not in ("", ".", "..") and len(safe.encode()) <= limits.PATH_ELEMENT
            assert not set(safe) & set("/\\\0\x1b\n\u202e") and safe.isprintable() | (not safe.isascii())
    made = paths.unique_paths(root, raw)
    folded = ["/".join(map(paths.fold, path)) for path in made]
    assert len(set(folded)) == len(folded)
    folders = {
        whole[: at + 1] for whole in (tuple(map(paths.fold, path)) for path in made) for at in range(len(whole) - 1)
    }
    assert not folders & {tuple(map(paths.fold, path)) for path in made}


@target("torrent_urls", urls.tracker_url, urls.web_seed_url, urls.host_port)
def fuzz_torrent_urls(data: bytes) -> None:
    tracker = urls.tracker_url(data)
    assert tracker is None or tracker.encode("ascii") == data.strip()
    for folder in (False, True):
        seed = urls.web_seed_url(data, folder=folder)
        if seed is not None:
            assert seed.isascii() and seed.isprintable() and (seed.endswith("/") or not folder)
            assert urls.web_seed_url(seed.encode(), folder=folder) is not None or len(seed) > limits.URL_LENGTH
    place = urls.host_port(data.decode("utf-8", "replace"))
    if place is not None:
        host, port = place
        assert urls.host_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") == place


@target("url", Url, url.carries_announce_keys, url.refusal, url.is_host_name)
def fuzz_url(data: bytes) -> None:
    """A URL, and behind a line's end where a redirect leads."""
    text, _, location = data.decode("latin-1").partition("\n")
    url.is_host_name(text)
    found = Url.parse(text)
    assert found.scheme in url.DEFAULT_PORTS and 0 < found.port < 65_536 and found.host
    again = Url.parse(str(found))
    assert again == found.with_target(again.target) or found.userinfo is not None
    assert again.origin == found.origin and again.path == found.path
    url.carries_announce_keys(found)
    for ip in (found.host, "93.184.216.34", "127.0.0.1", "10.0.0.1", "169.254.169.254"):
        if address.is_ip(ip):
            first = url.refusal(found, ip, tracker=False, reached_global=False)
            assert first is None or url.refusal(found, ip, tracker=True, reached_global=True) is not None
            url.refusal(found, ip, tracker=True, reached_global=False)
    try:
        leads = found.join(location)
    except UsageError:
        return
    assert leads.origin == found.origin or leads.userinfo is None or found.userinfo != leads.userinfo or "@" in location


@target(
    "compact_addresses",
    address.unpack_compact,
    address.unpack_ip,
    address.reach,
    address.dialable,
    address.network_of,
    address.pack_compact,
)
def fuzz_compact_addresses(data: bytes) -> None:
    size = COMPACT6 if data[:1] == b"6" else COMPACT4
    whole = data[1 : 1 + (len(data) - 1) // size * size]
    found = address.unpack_compact(memoryview(whole), size)
    assert address.unpack_compact(address.pack_compact(found, size), size) == found
    for one in found:
        assert address.canonical(one[0]) == one[0] and 0 < one[1] <= address.PORT_MAX
        assert address.unpack_ip(address.pack_ip(one[0])) == one[0]
        where = address.reach(one[0])
        address.network_of(one[0])
        assert address.dialable(one, source_ip=None, user=True) is (where != "never")
        for source in (None, "127.0.0.1", "10.1.1.1", "8.8.8.8"):
            if address.dialable(one, source_ip=source, user=False):
                assert where == "global" or source in ("127.0.0.1", "10.1.1.1")
    try:
        address.unpack_compact(data, size)
    except ValueError:
        assert len(data) % size


@target("address_text", address.parse_host_port, address.is_ip, address.canonical)
def fuzz_address_text(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    if address.is_ip(text):
        plain = address.canonical(text)
        assert address.canonical(plain) == plain and "%" not in plain
        address.reach(plain)
    try:
        place = address.parse_host_port(text, any_port=False)
    except BtorError:
        place = address.parse_host_port(text, any_port=True)
        assert place[1] == 0
    assert address.parse_host_port(address.format_address(place), any_port=True) == place
