"""Torrent files: each key right, wrong, missing and at its bounds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from hashlib import sha1, sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import limits
from btor.bencode import Value, decode, encode
from btor.errors import MetainfoError, UnsupportedError
from btor.metainfo.geometry import Geometry
from btor.metainfo.magnet import Magnet
from btor.metainfo.merkle import layer_root
from btor.metainfo.torrent_file import FileEntry, InfoHashes, Metainfo, parse_torrent
from tests.metainfo.build import ABSENT, entry, info, parsed, paths, torrent

TREE: Value = {b"name": {b"": {b"length": 20_000, b"pieces root": b"r" * 32}}}


def refused(data: bytes) -> MetainfoError:
    with pytest.raises(MetainfoError) as caught:
        parse_torrent(data)
    return caught.value


def refused_info(**changes: Any) -> MetainfoError:
    return refused(torrent(info(**changes)))


def test_one_file() -> None:
    raw_info = encode(info(source=b"src"))
    data = torrent(
        info(source=b"src"),
        announce=b"http://t.example/a",
        comment="é".encode(),
        created_by=b"btor",
        creation_date=5,
        encoding=b"UTF-8",
        nodes=[[b"host", 1]],
        **{"url-list": b"http://w.example/f"},
    )
    assert parse_torrent(data) == Metainfo(
        info_hashes=InfoHashes(sha1(raw_info).digest(), None),
        name="name",
        geometry=Geometry(20_000, 16384),
        hashes_at=raw_info.index(b"p" * 40),
        files=(FileEntry(("name",), 20_000, 0),),
        single_file=True,
        private=False,
        trackers=(("http://t.example/a",),),
        web_seeds=("http://w.example/f",),
        nodes=(("host", 1),),
        comment="é",
        created_by="btor",
        creation_date=5,
        encoding="UTF-8",
        source="src",
        info=raw_info,
        version="v1",
    )


def test_several_files() -> None:
    metainfo = parsed(files=[entry(b"d", b"a", length=5), entry(b"p", attr=b"p", length=3), entry(b"b", attr=b"x")])
    assert not metainfo.single_file
    assert metainfo.total_length == 9
    assert metainfo.files == (
        FileEntry(("name", "d", "a"), 5, 0),
        FileEntry(("name", "p"), 3, 5, pad=True),
        FileEntry(("name", "b"), 1, 8, executable=True),
    )


def test_hashes_and_pieces() -> None:
    metainfo = parsed(pieces=b"a" * 20 + b"b" * 20)
    assert metainfo.info_hash == sha1(metainfo.info).digest()
    assert metainfo.piece_hash(0) == b"a" * 20
    assert metainfo.piece_hash(1) == b"b" * 20


def test_a_huge_torrent_does_not_fill_a_screen() -> None:
    assert len(repr(parsed(length=100 * 16384))) < 1_000


def test_the_hash_is_that_of_the_bytes_as_they_are() -> None:
    raw = encode(info())
    unsorted = b"d4:name4:name6:lengthi20000e12:piece lengthi16384e6:pieces40:" + b"p" * 40 + b"e"
    assert len(unsorted) == len(raw)
    for data in (b"d4:info" + unsorted + b"e", b"d4:zzzzi1e4:info" + unsorted + b"8:announce0:e"):
        metainfo = parse_torrent(data)
        assert metainfo.info == unsorted
        assert metainfo.info_hash == sha1(unsorted).digest() != sha1(raw).digest()


@pytest.mark.parametrize("tail", [b"\n", b"\r\n", b"\0", b"garbage", b"d4:infodee"])
def test_bytes_behind_the_torrent_are_ignored(tail: bytes) -> None:
    assert parse_torrent(torrent() + tail) == parse_torrent(torrent())


@pytest.mark.parametrize("data", [b"", b"\n", b"le", b"i1e", b"4:info", b"\xef\xbb\xbfde", b"<html>", b"d4:info", b"d"])
def test_what_is_no_torrent(data: bytes) -> None:
    assert "not a torrent" in str(refused(data))


def test_T3_duplicate_keys() -> None:
    raw = encode(info())
    assert "duplicate" in str(refused(b"d4:info" + raw + b"4:info" + raw + b"e"))
    assert "duplicate" in str(refused(b"d4:info" + raw[:-1] + b"4:name1:xee"))


@pytest.mark.parametrize("value", [ABSENT, [], b"x", 1])
def test_info_must_be_a_dictionary(value: Any) -> None:
    table = {} if value is ABSENT else {b"info": value}
    assert refused(encode(table)).field == "info"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ABSENT}, "name"),
        ({"name": 5}, "name"),
        ({"name": [b"a"]}, "name"),
        ({"name.utf-8": 5}, "name"),
        ({"piece_length": ABSENT, "pieces": b""}, "piece length"),
        ({"piece_length": b"16384", "pieces": b""}, "piece length"),
        ({"piece_length": [16384], "pieces": b""}, "piece length"),
        ({"piece_length": 0}, "piece length"),
        ({"piece_length": -16384}, "piece length"),
        ({"piece_length": limits.PIECE_LENGTH_V1 + 1}, "piece length"),
        ({"pieces": ABSENT}, "pieces"),
        ({"pieces": 40}, "pieces"),
        ({"pieces": [b"p" * 20, b"p" * 20]}, "pieces"),
        ({"pieces": b""}, "pieces"),
        ({"pieces": b"p" * 39}, "pieces"),
        ({"pieces": b"p" * 20}, "pieces"),
        ({"pieces": b"p" * 60}, "pieces"),
        ({"length": ABSENT, "pieces": b"p" * 40}, "length"),
        ({"length": b"1", "pieces": b"p" * 40}, "length"),
        ({"length": -1}, "length"),
        ({"length": 0}, "length"),
        ({"length": limits.TOTAL_LENGTH + 1, "pieces": b""}, "length"),
        ({"files": [], "pieces": b""}, "files"),
        ({"files": [entry(b"a")], "length": 1}, "files"),
        ({"files": [entry(b"a", length=0), entry(b"b", length=0)]}, "length"),
        ({"files": [entry(b"a", length=limits.TOTAL_LENGTH), entry(b"b")], "pieces": b""}, "length"),
        ({"files": [entry(b"a"), entry(b"b", length=-1)]}, "files[1] length"),
    ],
)
def test_bad_info(changes: dict[str, Any], field: str) -> None:
    error = refused_info(**changes)
    assert error.field == field
    assert field in str(error)


def test_T5_piece_lengths() -> None:
    assert parsed(piece_length=1, length=5).geometry.piece_count == 5
    assert parsed(piece_length=limits.PIECE_LENGTH_V1).geometry.piece_length == limits.PIECE_LENGTH_V1


def test_T4_piece_count() -> None:
    assert parsed(piece_length=1, length=limits.PIECE_COUNT).geometry.piece_count == limits.PIECE_COUNT
    assert refused_info(piece_length=1, length=limits.PIECE_COUNT + 1).field == "pieces"


def test_T6_total_length() -> None:
    half = limits.TOTAL_LENGTH // 2
    files = [entry(b"a", length=half), entry(b"b", length=half)]
    assert parsed(files=files, piece_length=2**28).total_length == 2 * half
    assert refused_info(files=[*files, entry(b"c", length=2)], piece_length=2**28).field == "length"


def test_T4_file_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TORRENT_FILE_SIZE", len(torrent()))
    parse_torrent(torrent())
    assert "longer than" in str(refused(torrent() + b"\n"))


def test_T1_depth_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    nested: Value = []
    for _ in range(97):
        nested = [nested]
    assert parsed(x=nested)
    assert "too deep" in str(refused_info(x=[nested]))
    tokens = 11  # the outer dictionary, info twice, and four keys with their values
    monkeypatch.setattr(limits, "TORRENT_TOKENS", tokens)
    parse_torrent(torrent())
    monkeypatch.setattr(limits, "TORRENT_TOKENS", tokens - 1)
    assert "tokens" in str(refused(torrent()))


@pytest.mark.parametrize(
    ("raw", "name"),
    [(b"a/b", "ab"), (b"CON", "_CON"), (b"\xff", "_"), (b"\x1b[31mred\n", "_[31mred_"), (b"foobar ", "foobar ")],
)
def test_names(raw: bytes, name: str) -> None:
    metainfo = parsed(name=raw)
    assert metainfo.name == name
    assert metainfo.files[0].path == (name,)
    assert parsed(name=raw, files=[entry(b"f")]).files[0].path == (name, "f")


@pytest.mark.parametrize("raw", [b"", b".", b"..", b"/", b"\0\\"])
def test_a_name_of_which_nothing_is_left_is_the_info_hash(raw: bytes) -> None:
    for metainfo in (parsed(name=raw), parsed(name=raw, files=[entry(b"f")])):
        assert metainfo.name == metainfo.files[0].path[0] == metainfo.info_hash.hex()


def test_names_in_utf_8_come_first() -> None:
    metainfo = parsed(
        **{"name": b"\xff", "name.utf-8": "é".encode(), "files": [entry(b"\xff", **{"path.utf-8": ["ü".encode()]})]}
    )
    assert metainfo.files[0].path == ("é", "ü")
    assert parse_torrent(torrent(**{"comment": b"\xff", "comment.utf-8": "é".encode()})).comment == "é"


def test_paths_are_made_unique() -> None:
    assert paths(entry(b"a"), entry(b"A"), entry(b"a", b"b")) == ["a.1", "A.2", "a/b"]


@pytest.mark.parametrize(
    ("value", "private"), [(ABSENT, False), (0, False), (1, True), (2, True), (b"1", True), ([], True)]
)
def test_private(value: Any, private: bool) -> None:
    assert parsed(private=value).private is private


@pytest.mark.parametrize("value", [1, [b"a"], {}])
def test_texts_of_another_type_are_left_out(value: Any) -> None:
    metainfo = parse_torrent(torrent(info(source=value), comment=value, created_by=value, encoding=value))
    assert (metainfo.comment, metainfo.created_by, metainfo.encoding, metainfo.source) == (None, None, None, None)


def test_texts_that_are_not_utf_8() -> None:
    assert parse_torrent(torrent(comment=b"\xff\xfe")).comment == "��"
    assert parse_torrent(torrent(encoding=b"zlib_codec")).encoding == "zlib_codec"


@pytest.mark.parametrize(("value", "date"), [(2**62, 2**62), (-(2**62), -(2**62)), (0, 0), (b"5", None), ([5], None)])
def test_creation_date(value: Any, date: int | None) -> None:
    assert parse_torrent(torrent(creation_date=value)).creation_date == date


A, B, C = (f"http://{name}.example/x" for name in "abc")


@pytest.mark.parametrize(
    ("announce", "tiers", "kept"),
    [
        (A, ABSENT, ((A,),)),
        (ABSENT, ABSENT, ()),
        (f" {A}\n", ABSENT, ((A,),)),
        ("t.example", ABSENT, ()),
        (A, [[B], [C]], ((B,), (C,))),
        (A, [[B, C]], ((B, C),)),
        (A, [[A, B], [A, C], [B]], ((A, B), (C,))),
        (A, [], ((A,),)),
        (A, [[]], ((A,),)),
        (A, [["ftp://x.example/"]], ((A,),)),
        (A, b"x", ((A,),)),
        (A, 5, ((A,),)),
        (A, [[B, 5, [C], {}], C, 7, [["deep"]]], ((B,),)),
        (ABSENT, [["udp://t.example:1", "wss://x.example"]], (("udp://t.example:1",),)),
    ],
)
def test_trackers(announce: Any, tiers: Any, kept: Any) -> None:
    def encoded(value: Any) -> Any:
        if isinstance(value, list):
            return [encoded(inner) for inner in value]
        return value.encode() if isinstance(value, str) else value

    outer = {"announce": encoded(announce), "announce-list": encoded(tiers)}
    assert parse_torrent(torrent(**outer)).trackers == kept


@pytest.mark.parametrize("one_tier", [True, False])
def test_T4_trackers(one_tier: bool) -> None:
    urls = [b"http://t%d.example/" % number for number in range(limits.TRACKERS + 1)]
    outer: dict[str, Any] = {"announce-list": [urls] if one_tier else [[url] for url in urls]}
    kept = [url for tier in parse_torrent(torrent(**outer)).trackers for url in tier]
    assert kept == [url.decode() for url in urls[:-1]]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (A.encode(), (A,)),
        ([A.encode(), B.encode(), A.encode()], (A, B)),
        ([A.encode(), 5, [B.encode()], {b"x": 1}, b""], (A,)),
        (b"", ()),
        (7, ()),
        ({b"a": A.encode()}, ()),
    ],
)
def test_web_seeds(value: Any, kept: tuple[str, ...]) -> None:
    assert parse_torrent(torrent(**{"url-list": value})).web_seeds == kept
    folders = parse_torrent(torrent(info(files=[entry(b"f")]), **{"url-list": value})).web_seeds
    assert folders == tuple(f"{url}/" for url in kept)


def test_T4_web_seeds() -> None:
    urls = [b"http://w%d.example/" % number for number in range(limits.WEB_SEEDS + 1)]
    outer: dict[str, Any] = {"url-list": urls}
    assert parse_torrent(torrent(**outer)).web_seeds == tuple(url.decode() for url in urls[:-1])


def test_nodes() -> None:
    good: list[Value] = [[b"host.example", 1], [b"1.2.3.4", 65535], [b"::1", 5], [b"host.example", 1]]
    bad: list[Value] = [[b"host", 0], [b"host"], [b"host", b"1"], [1, 1], [b"\xff", 1], b"x", [b"a", 1, 2]]
    kept = (("host.example", 1), ("1.2.3.4", 65535), ("::1", 5))
    assert parse_torrent(torrent(nodes=[*bad, *good])).nodes == kept
    assert parse_torrent(torrent(nodes=b"x")).nodes == ()
    many: list[Value] = [[b"host", port] for port in range(1, limits.DHT_NODES + 2)]
    assert len(parse_torrent(torrent(nodes=many)).nodes) == limits.DHT_NODES


def v2(**changes: Any) -> dict[bytes, Value]:
    """An info of a v2 torrent; a hybrid when ``pieces`` and ``length`` are given."""
    defaults = {"length": ABSENT, "pieces": ABSENT, "file_tree": TREE, "meta_version": 2}
    return info(**{**defaults, **changes})


def hybrid(**changes: Any) -> dict[bytes, Value]:
    return v2(**{"length": 20_000, "pieces": b"p" * 40, **changes})


def test_hybrids() -> None:
    metainfo = parse_torrent(torrent(hybrid(), piece_layers={}))
    assert metainfo.version == "hybrid"
    assert metainfo.info_hashes == (sha1(metainfo.info).digest(), sha256(metainfo.info).digest())
    assert metainfo.magnet() == (
        f"magnet:?xt=urn:btih:{metainfo.info_hash.hex()}&xt=urn:btmh:1220{sha256(metainfo.info).hexdigest()}&dn=name"
    )


def test_piece_layers_of_hybrids() -> None:
    layer = b"1" * 32 + b"2" * 32
    root = layer_root(layer, 1)
    data = hybrid(file_tree={b"name": {b"": {b"length": 20_000, b"pieces root": root}}})
    assert parse_torrent(torrent(data, piece_layers={root: layer})).version == "hybrid"
    assert refused(torrent(data, piece_layers={root: layer[::-1]})).field == "piece layers"
    assert refused(torrent(data, piece_layers=[])).field == "piece layers"


def test_hybrids_of_several_files() -> None:
    tree = {name: {b"": {b"length": 5, b"pieces root": b"r" * 32}} for name in (b"a", b"b")}
    pad = entry(b".pad", b"16379", attr=b"p", length=16379)
    files = [entry(b"a", length=5), pad, entry(b"b", length=5)]
    changes = {"file_tree": tree, "length": ABSENT}
    assert parse_torrent(torrent(hybrid(**changes, files=files))).total_length == 16389
    assert refused(torrent(hybrid(**changes, files=files[::2], pieces=b"p" * 20))).field == "files"


def test_v2_only() -> None:
    with pytest.raises(UnsupportedError, match="v2-only torrents are not supported yet"):
        parse_torrent(torrent(v2()))
    with pytest.raises(UnsupportedError, match="v2-only"):
        parse_torrent(torrent(v2(length=5)))


@pytest.mark.parametrize("make", [v2, hybrid])
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"meta_version": b"2"}, "meta version"),
        ({"meta_version": ABSENT}, "meta version"),
        ({"meta_version": 1}, "meta version"),
        ({"meta_version": 0, "file_tree": ABSENT}, "meta version"),
        ({"file_tree": ABSENT}, "file tree"),
        ({"file_tree": {}}, "file tree"),
        ({"piece_length": 20_000}, "piece length"),
        ({"piece_length": 8192}, "piece length"),
    ],
)
def test_bad_v2(make: Any, changes: dict[str, Any], field: str) -> None:
    error = refused(torrent(make(**changes)))
    assert not isinstance(error, UnsupportedError)
    assert error.field == field


def test_later_versions() -> None:
    with pytest.raises(UnsupportedError, match="meta version 3"):
        parse_torrent(torrent(v2(meta_version=3)))
    assert parsed(meta_version=1).version == "v1"


def test_hybrids_that_differ() -> None:
    assert refused(torrent(hybrid(length=20_001))).field == "files"
    assert refused(torrent(hybrid(name=b"other"))).field == "files"


def test_T3_v2_must_be_sorted() -> None:
    raw = b"d" + b"".join(encode(key) + encode(value) for key, value in sorted(hybrid().items(), reverse=True)) + b"e"
    assert "unsorted" in str(refused(b"d4:info" + raw + b"e"))
    assert parse_torrent(b"d8:zzzzzzzzi1e4:info" + encode(hybrid()) + b"e").version == "hybrid"


def test_magnet() -> None:
    data = torrent(announce=b"http://t.example/a?b=c&d", **{"url-list": b"http://w.example/f f"})
    metainfo = parse_torrent(data)
    assert metainfo.magnet() == (
        f"magnet:?xt=urn:btih:{metainfo.info_hash.hex()}&dn=name&tr=http%3A%2F%2Ft.example%2Fa%3Fb%3Dc%26d"
        "&ws=http%3A%2F%2Fw.example%2Ff%2520f"
    )
    again = Magnet.parse(metainfo.magnet())
    assert (again.info_hashes, again.name) == (metainfo.info_hashes, "name")
    assert again.trackers == metainfo.trackers[0]
    assert again.web_seeds == metainfo.web_seeds


VALUES: st.SearchStrategy[Value] = st.recursive(
    st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([0, 1, 2, b"", b"a", b"..", b"l", b"p", b"x" * 20, b"http://a/b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([b"", b"a", b"length", b"path", b"attr", b"symlink path"]), inner, max_size=4)
    ),
    max_leaves=12,
)
INFO_KEYS = ["name", "name.utf-8", "piece_length", "pieces", "length", "files", "private", "source", "file_tree"]
OUTER_KEYS = ["announce", "announce-list", "url-list", "nodes", "comment", "creation_date", "piece_layers", "encoding"]


@given(
    st.dictionaries(st.sampled_from([*INFO_KEYS, "meta_version"]), VALUES, max_size=4),
    st.dictionaries(st.sampled_from(OUTER_KEYS), VALUES, max_size=4),
    st.booleans(),
)
def test_values_of_any_type_anywhere(changes: dict[str, Any], outer: dict[str, Any], v2_too: bool) -> None:
    changes = {"pieces": b"p" * 40, "length": 20_000, **changes}
    try:
        metainfo = parse_torrent(torrent(hybrid(**changes) if v2_too else info(**changes), **outer))
    except MetainfoError as error:
        assert len(str(error)) < 1_000
    else:
        assert sum(file.length for file in metainfo.files) == metainfo.total_length
        assert decode(metainfo.info, depth=100, tokens=10_000)
        assert Magnet.parse(metainfo.magnet()).info_hashes == metainfo.info_hashes


@given(st.data())
def test_damaged_torrents(data: st.DataObject) -> None:
    good = torrent(hybrid(), announce=b"http://t.example/", piece_layers={})
    at = data.draw(st.integers(0, len(good)))
    damaged = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(st.integers(0, 3)) :]
    try:
        parse_torrent(damaged)
    except MetainfoError:
        pass


def test_T4_a_torrent_of_300_000_files() -> None:
    names = ((b"folder %d" % (number // 1000), b"file %d.jpg" % number) for number in range(300_000))
    entries = [b"d6:lengthi1e4:pathl%d:%s%d:%see" % (len(a), a, len(b), b) for a, b in names]
    data = torrent(info(files=[], pieces=b"p" * 20 * 19)).replace(b"5:filesle", b"5:filesl%se" % b"".join(entries))
    del entries
    assert len(data) > 14_000_000
    start = time.process_time()
    metainfo = parse_torrent(data)
    assert time.process_time() - start < (10 if sys.gettrace() is None else 60)  # about 2, or 8 under coverage
    assert len(metainfo.files) == 300_000
    assert metainfo.files[-1].path == ("name", "folder 299", "file 299999.jpg")


def test_imports_are_quick() -> None:
    """What ``btor info`` and ``btor magnet`` need comes without trio, HTTP and the terminal library."""
    code = (
        "import sys, time; start = time.perf_counter(); import btor.metainfo.torrent_file\n"
        "print(time.perf_counter() - start); print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    seconds, modules = done.stdout.splitlines()
    assert float(seconds) < 1  # about 0.03
    assert not {"trio", "httpx2", "rich", "click", "asyncio", "socket"} & set(modules.split())
