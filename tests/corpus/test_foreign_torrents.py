"""The torrents of other projects, which stay outside this one: in ``../shared/corpus`` beside the repository.

Where that folder is missing the tests are skipped and say so; under CI they fail.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from btor.errors import MetainfoError, UnsupportedError
from btor.metainfo.magnet import Magnet
from btor.metainfo.torrent_file import Metainfo, parse_torrent
from tests.metainfo.differences import listed
from tests.metainfo.test_hostile import keeps_the_invariants

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
MISSING = f"the foreign torrents are not at {CORPUS}"

pytestmark = pytest.mark.corpus


def manifest() -> dict[str, dict[str, Any]]:
    """What is known of each torrent, by file name. Empty where the corpus is missing."""
    page = CORPUS / "manifest.json"
    rows: dict[str, dict[str, Any]] = json.loads(page.read_text("utf-8")) if page.is_file() else {}
    return rows


MANIFEST = manifest()


@pytest.fixture(autouse=True)
def corpus() -> None:
    if not MANIFEST:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)


def load(name: str) -> Metainfo:
    return parse_torrent((CORPUS / "torrents" / name).read_bytes())


def outcome(name: str) -> str:
    try:
        load(name)
    except UnsupportedError:
        return "unsupported"
    except MetainfoError:
        return "reject"
    return "accept"


def test_every_torrent_has_its_verdict() -> None:
    differ = set()
    for name, known in MANIFEST.items():
        expected = "unsupported" if (known["version"], known["verdict"]) == ("v2", "accept") else known["verdict"]
        if outcome(name) != expected:
            assert "note" in known
            differ.add(name)
    assert differ == {name for name in listed("Verdicts") if name.endswith(".torrent")}


ACCEPTED = [name for name, known in MANIFEST.items() if known["verdict"] == "accept" and known["version"] != "v2"]


@pytest.mark.parametrize("name", ACCEPTED or ["none"])
def test_what_is_read(name: str) -> None:
    known = MANIFEST[name]
    metainfo = load(name)
    keeps_the_invariants(metainfo)
    assert metainfo.version == known["version"]
    assert metainfo.info_hash.hex() == known["info_hash_v1"]
    assert (metainfo.info_hashes.v2 and metainfo.info_hashes.v2.hex()) == known["info_hash_v2"]
    assert metainfo.geometry.piece_length == known["piece_length"]
    assert metainfo.geometry.piece_count == known["num_pieces"]
    assert metainfo.total_length == known["total_size"]
    assert sum(file.length for file in metainfo.files if not file.pad) == known["payload_size"]
    assert metainfo.private is known["private"]
    assert [list(tier) for tier in metainfo.trackers] == known["trackers"]
    assert list(metainfo.web_seeds) == known["web_seeds"]
    assert metainfo.creation_date == known.get("creation_date")
    assert metainfo.created_by == known.get("created_by")
    assert metainfo.comment == known.get("comment")
    assert [(file.length, file.pad, file.executable, file.symlink is not None) for file in metainfo.files] == [
        (file["length"], file["pad"], file.get("executable", False), file["symlink"]) for file in known["files"]
    ]
    assert Magnet.parse(metainfo.magnet()).info_hashes == metainfo.info_hashes


def test_paths_and_targets_differ_only_where_the_page_says_so() -> None:
    differ = set()
    for name in ACCEPTED:
        for file, known in zip(load(name).files, MANIFEST[name]["files"], strict=True):
            target = None if file.symlink is None else "/".join(file.symlink)
            if ("/".join(file.path), target) != (known["path"], known.get("target")):
                assert "note" in MANIFEST[name] or known["pad"]
                differ.add(name)
    assert differ == {name for name in listed("Paths") if name.endswith(".torrent")}
