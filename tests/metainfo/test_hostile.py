"""Hostile torrents: each must end as the corpus says, or as docs/differences.md says."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from btor.errors import MetainfoError, UnsupportedError
from btor.metainfo.paths import fold
from btor.metainfo.torrent_file import Metainfo, parse_torrent
from tests.metainfo.differences import listed

CASES: dict[str, dict[str, Any]] = {
    case["case"]: case for case in json.loads((Path(__file__).parents[1] / "data" / "hostile.json").read_text("utf-8"))
}


def load(case: dict[str, Any]) -> Metainfo:
    return parse_torrent(b64decode(case["data_b64"]))


def outcome(case: dict[str, Any]) -> str:
    try:
        load(case)
    except UnsupportedError:
        return "unsupported"
    except MetainfoError:
        return "reject"
    return "accept"


def is_v2(case: dict[str, Any]) -> bool:
    return "info_hash_v2" in case and "info_hash_v1" not in case


def keeps_the_invariants(metainfo: Metainfo) -> None:
    """No path leaves the folder, none holds a control character, no two are equal."""
    keys = set()
    for file in metainfo.files:
        assert file.path[0] == metainfo.name
        for element in file.path:
            assert element not in ("", ".", "..")
            assert not {"/", "\\"} & set(element)
            assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in element)
            assert len(element.encode()) <= 255
        key = tuple(map(fold, file.path))
        if not file.pad:
            assert key not in keys
            keys.add(key)
    assert not {key[:depth] for key in keys for depth in range(1, len(key))} & keys


@pytest.mark.parametrize("name", CASES)
def test_hostile_torrents(name: str) -> None:
    case = CASES[name]
    got = outcome(case)
    if got == "unsupported":
        assert is_v2(case)
        assert "accept" in (case["outcome"], *case.get("also_ok", ()))
        return
    assert got in (case["outcome"], *case.get("also_ok", ()))
    if got == "accept":
        metainfo = load(case)
        assert metainfo.info_hash.hex() == case.get("info_hash_v1", metainfo.info_hash.hex())
        assert metainfo.info_hash.hex() != case.get("wrong_info_hash")
        keeps_the_invariants(metainfo)


def verdict_differs(case: dict[str, Any]) -> bool:
    return outcome(case) not in (case["outcome"], "unsupported")


def paths_differ(case: dict[str, Any]) -> bool:
    if outcome(case) != "accept" or verdict_differs(case):
        return False
    return ["/".join(file.path) for file in load(case).files if not file.pad] != case.get("safe_paths")


def lists_differ(case: dict[str, Any]) -> bool:
    if outcome(case) != "accept":
        return False
    metainfo = load(case)
    trackers = sum(map(len, metainfo.trackers))
    read = {"lt_num_trackers": trackers, "lt_web_seeds": list(metainfo.web_seeds), "lt_private": metainfo.private}
    return any(key in case and case[key] != value for key, value in read.items())


@pytest.mark.parametrize(
    ("section", "differs"), [("Verdicts", verdict_differs), ("Paths", paths_differ), ("Lists", lists_differ)]
)
def test_the_page_lists_exactly_the_differences(section: str, differs: Callable[[dict[str, Any]], bool]) -> None:
    assert {name for name in listed(section) if not name.endswith(".torrent")} == {
        name for name, case in CASES.items() if differs(case)
    }
