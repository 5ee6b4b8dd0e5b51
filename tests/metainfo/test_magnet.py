"""Magnet URIs: the vectors both ways, the bounds of T13, and what is left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import limits
from btor.errors import MetainfoError
from btor.metainfo.info_hashes import InfoHashes
from btor.metainfo.magnet import Magnet

DATA = Path(__file__).parents[1] / "data"
HASH = "cd" * 20
XT = f"magnet:?xt=urn:btih:{HASH}"
BARE = Magnet(InfoHashes(bytes.fromhex(HASH), None))


def vectors(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((DATA / f"magnet_{name}.json").read_text("utf-8"))
    return rows


def indexes(magnet: Magnet) -> list[int]:
    return [index for first, last in magnet.select or () for index in range(first, last + 1)]


def hexadecimal(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


@pytest.mark.parametrize("vector", vectors("parse"), ids=lambda vector: str(vector["case"]))
def test_parse_vectors(vector: dict[str, Any]) -> None:
    if vector["outcome"] == "reject":
        with pytest.raises(MetainfoError):
            Magnet.parse(vector["uri"])
        return
    magnet = Magnet.parse(vector["uri"])
    found = {
        "info_hash_v1": hexadecimal(magnet.info_hashes.v1),
        "info_hash_v2": hexadecimal(magnet.info_hashes.v2),
        "name": magnet.name,
        "trackers": list(magnet.trackers),
        "tiers": list(range(len(magnet.trackers))),
        "web_seeds": list(magnet.web_seeds),
        "peers": [list(peer) for peer in magnet.peers],
        "dht_nodes": [list(node) for node in magnet.nodes],
        "select_only": indexes(magnet),
    }
    assert {key: found[key] for key in vector["expected"]} == vector["expected"]
    assert Magnet.parse(magnet.uri()) == magnet


@pytest.mark.parametrize("vector", vectors("base32"), ids=lambda vector: str(vector["base32"]))
def test_base32_vectors(vector: dict[str, Any]) -> None:
    assert Magnet.parse(f"magnet:?xt=urn:btih:{vector['base32']}") == Magnet.parse(vector["hex"])


@pytest.mark.parametrize("vector", vectors("make"), ids=lambda vector: str(vector["uri"])[-40:])
def test_make_vectors(vector: dict[str, Any]) -> None:
    v1, v2 = (vector.get(key) and bytes.fromhex(vector[key]) for key in ("info_hash_v1", "info_hash_v2"))
    select = None
    if len(vector.get("selected", ())) < vector.get("num_files", 0):
        select = Magnet.parse(f"{XT}&so={','.join(map(str, vector['selected']))}").select
    peers = tuple((host, port) for host, port in vector.get("peers", ()))
    assert Magnet(InfoHashes(v1, v2), peers=peers, select=select).uri() == vector["uri"]


def test_everything_at_once() -> None:
    magnet = Magnet(
        InfoHashes(b"1" * 20, b"2" * 32),
        name="å&=+ %20",
        trackers=("http://t.example/a?b=c&d=+", "udp://t.example:1"),
        web_seeds=("http://w.example/a%20b",),
        peers=(("::1", 5), ("host.example", 6)),
        nodes=(("10.0.0.1", 7),),
        length=5,
        select=((0, 0), (2, 4)),
    )
    assert magnet.uri() == (
        f"magnet:?xt=urn:btih:{'31' * 20}&xt=urn:btmh:1220{'32' * 32}&dn=%C3%A5%26%3D%2B%20%2520&xl=5"
        "&tr=http%3A%2F%2Ft.example%2Fa%3Fb%3Dc%26d%3D%2B&tr=udp%3A%2F%2Ft.example%3A1&ws=http%3A%2F%2Fw.example%2Fa%2520b"
        "&x.pe=[::1]:5&x.pe=host.example:6&dht=10.0.0.1:7&so=0,2-4"
    )
    assert Magnet.parse(magnet.uri()) == magnet


def test_an_info_hash_alone() -> None:
    assert Magnet.parse(HASH) == Magnet.parse(HASH.upper()) == Magnet.parse(XT) == BARE
    for text in (HASH[1:], HASH + "c", HASH + "\n", " " + HASH, "z" * 40, "", "MFRGCYTBMJQWEYLCMFRGCYTBMJQWEYLC"):
        with pytest.raises(MetainfoError):
            Magnet.parse(text)


@pytest.mark.parametrize(
    "topic",
    [
        "urn:btih:" + "c" * 39,
        "urn:btih:" + "c" * 41,
        "urn:btih:" + "g" * 40,
        "urn:btih:" + "1" * 32,
        "urn:btih:" + "a" * 31,
        "urn:btih:" + "é" * 32,
        "urn:btih:" + "c" * 40 + "%0a",
        "urn:btih:" + "c" * 39 + "%6",
        "urn:btih:",
        "urn:btmh:1220" + "c" * 63,
        "urn:btmh:1220" + "c" * 65,
        "urn:btmh:1120" + "c" * 64,
        "urn:sha1:" + "A" * 32,
        "urn:İtih:" + "c" * 40,
        "",
    ],
)
def test_bad_topics(topic: str) -> None:
    with pytest.raises(MetainfoError, match="xt"):
        Magnet.parse(f"magnet:?xt={topic}")


def test_topics() -> None:
    assert Magnet.parse(f"MAGNET:?xt.1=URN:BTIH:{HASH}&xt=urn:btih:{HASH.upper()}&xt=urn:sha1:x") == BARE
    for other in (f"urn:btih:{'ab' * 20}", f"urn:btmh:1220{'ab' * 32}&xt=urn:btmh:1220{'cd' * 32}"):
        with pytest.raises(MetainfoError, match="several"):
            Magnet.parse(f"{XT}&xt={other}")


@pytest.mark.parametrize(
    "uri", ["magnet:", "magnet", "http://x/?xt=urn:btih:" + HASH, "magnet:xt=urn:btih:" + HASH, "\ud800"]
)
def test_what_is_no_magnet(uri: str) -> None:
    with pytest.raises(MetainfoError, match="magnet"):
        Magnet.parse(uri)


def test_T13_length() -> None:
    uri = f"{XT}&x=".ljust(limits.MAGNET_LENGTH, "y")
    assert Magnet.parse(uri) == BARE
    with pytest.raises(MetainfoError, match="longer"):
        Magnet.parse(uri + "y")


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("tr", "udp://t{}", "trackers"),
        ("ws", "http://w{}/", "web_seeds"),
        ("x.pe", "h:{}", "peers"),
        ("dht", "h:{}", "nodes"),
    ],
)
def test_T13_repeats(key: str, value: str, field: str) -> None:
    values = [value.format(number) for number in range(1, limits.MAGNET_REPEATS + 2)]
    magnet = Magnet.parse("&".join([XT, *(f"{key}=" for _ in range(9)), *(f"{key}={text}" for text in values)]))
    kept = getattr(magnet, field)
    assert len(kept) == limits.MAGNET_REPEATS
    assert Magnet.parse(magnet.uri()) == magnet
    more: dict[str, Any] = {field: (*kept, kept[0])}
    assert replace(BARE, **more).uri() == magnet.uri()


def test_T13_left_out() -> None:
    junk = (
        "&tr=file:///etc/passwd&tr=javascript:1&ws=http://169.254.169.254/&ws=udp://x/&x.pe=x&x.pe=[::1]&dht=:1&zz&=&"
    )
    assert Magnet.parse(XT + junk) == BARE


@pytest.mark.parametrize(
    ("so", "select"),
    [
        ("0-4294967295", ((0, 2**20),)),
        (f"{2**20}", ((2**20, 2**20),)),
        (f"{2**20 + 1}", None),
        (f"{2**20 + 1}-{2**20 + 5}", None),
        ("5-9999999999", ((5, 2**20),)),
        ("5-99999999999", None),
        ("1,1,1", ((1, 1),)),
        ("3,1,2", ((1, 3),)),
        ("4-6,1-9", ((1, 9),)),
        ("1%2C3", ((1, 1), (3, 3))),
        ("1-2-3", None),
        ("+1", None),
        ("٣", None),
        (" 1", None),
        ("-", None),
    ],
)
def test_T13_file_selection_is_never_spelt_out(so: str, select: Any) -> None:
    assert Magnet.parse(f"{XT}&so={so}").select == select


@pytest.mark.parametrize(
    ("xl", "length"),
    [("5", 5), ("0", 0), (str(2**48 - 1), 2**48 - 1), (str(2**48), None), ("9" * 16, None), ("-1", None), ("", None)],
)
def test_length(xl: str, length: int | None) -> None:
    assert Magnet.parse(f"{XT}&xl={xl}").length == length


def test_names() -> None:
    assert Magnet.parse(f"{XT}&dn=&dn=a+b%2B&dn=c").name == "a b+"
    assert Magnet.parse(f"{XT}&dn=%ff%zz").name == "�%zz"
    assert Magnet.parse(f"{XT}&dn=a\ud800").name == "a?"
    assert Magnet.parse(f"{XT}&tr=http://t.example/a+b").trackers == ("http://t.example/a+b",)


def test_a_made_uri_is_never_too_long() -> None:
    urls = tuple(f"http://t.example/{number}".ljust(1_000, "x") for number in range(100))
    magnet = Magnet(BARE.info_hashes, name="å" * 12_000, trackers=urls, length=5)
    assert magnet.uri().startswith(f"{XT}&xl=5&tr=")
    assert limits.MAGNET_LENGTH - 1_100 < len(magnet.uri()) <= limits.MAGNET_LENGTH
    assert Magnet.parse(magnet.uri()).trackers == urls[: len(Magnet.parse(magnet.uri()).trackers)]


@given(st.text("&=%.:?-,0123456789abcdefghijklmnopqrstuvwxyz[]+~é\ud800", max_size=80), st.booleans())
def test_nothing_else_escapes(text: str, with_hash: bool) -> None:
    try:
        magnet = Magnet.parse(f"{XT}&{text}" if with_hash else f"magnet:?{text}")
    except MetainfoError:
        return
    assert Magnet.parse(magnet.uri()) == magnet
