"""`btor dht`: its four commands against each other on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from btor.cli.group import cli
from tests.cli.running import child
from tools._processes import BTOR, Process, free_port

HASH = "0123456789abcdef0123456789abcdef01234567"
LOCAL = ["--bind", "127.0.0.1"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    command = [*BTOR, "dht", "node", "--dht-port", str(port), *LOCAL, "--json"]
    with Process(command, tmp_path_factory.mktemp("node") / "node") as process:
        assert process.wait_event("listening")["addresses"] == [f"127.0.0.1:{port}"]
        yield f"127.0.0.1:{port}"
        table = process.wait_event("table")
        assert table["address"] == f"127.0.0.1:{port}"


def test_ping(node: str) -> None:
    ended = child(["dht", "ping", node, *LOCAL])
    assert ended.status == 0
    assert ended.out.split()[0] == node
    answer = json.loads(child(["dht", "ping", node, *LOCAL, "--json"]).out)
    assert answer["address"] == node
    assert answer["id"] == ended.out.split()[1]
    assert answer["we"].startswith("127.0.0.1:")


def test_lookup_that_finds_nodes_but_no_peers(node: str) -> None:
    ended = child(["dht", "lookup", HASH, "--dht-bootstrap", node, *LOCAL])
    assert (ended.status, ended.out) == (0, "")
    assert "0 peers; 1 of 1 nodes answered" in ended.err
    answer = json.loads(child(["dht", "lookup", HASH, "--dht-bootstrap", node, *LOCAL, "--json"]).out)
    assert (answer["info_hash"], answer["peers"], answer["answered"]) == (HASH, [], 1)
    assert [found["address"] for found in answer["nodes"]] == [node]


def test_scrape_of_a_torrent_that_nobody_has(node: str) -> None:
    ended = child(["dht", "scrape", f"magnet:?xt=urn:btih:{HASH}", "--dht-bootstrap", node, *LOCAL])
    assert (ended.status, ended.out) == (0, "about 0 seeds, 0 other peers\n")
    answer = json.loads(child(["dht", "scrape", HASH, "--dht-bootstrap", node, *LOCAL, "--json"]).out)
    assert (answer["seeds"], answer["peers"]) == (0, 0)


def test_nobody_there() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    ended = child(["dht", "lookup", HASH, "--dht-bootstrap", nowhere, *LOCAL])
    assert ended.status == 5
    assert ended.err == "btor: no DHT node answered, of 1 asked\n"


@pytest.mark.parametrize(
    ("where", "why"),
    [
        (["--dht-bootstrap", "no.such.invalid:1"], "the name no.such.invalid cannot be looked up: "),
        (["--dht-bootstrap", "[::1]:9"], "::1: no local address of that family"),
        ([], "none is known, and --dht-bootstrap names none"),
    ],
)
def test_nowhere_to_begin(where: list[str], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BTOR_DHT_BOOTSTRAP")  # bound to loopback, it asks no public node either
    ended = child(["dht", "lookup", HASH, *where, *LOCAL, "--json"])
    assert ended.status == 5
    assert f"no DHT node to ask: {why}" in json.loads(ended.out)["message"]
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("command", ["lookup", "scrape"])
def test_no_info_hash(command: str) -> None:
    ended = child(["dht", command, "0123"])
    assert ended.status == 3
    assert ended.err.startswith("btor: 0123: xt: ")


def test_a_port_that_is_taken(node: str) -> None:
    ended = child(["dht", "node", "--dht-port", node.rpartition(":")[2], *LOCAL])
    assert ended.status == 5
    assert "cannot listen on UDP port" in ended.err


@pytest.mark.parametrize("command", ["lookup", "scrape", "ping", "node"])
def test_each_has_help(command: str) -> None:
    help_text = CliRunner().invoke(cli, ["dht", command, "--help"]).output
    for option in ("--json", "--dht-port", "--bind", "--dht-bootstrap"):
        assert option in help_text


def test_a_session_seeds_and_a_lookup_finds_it(node: str, tmp_path: Path) -> None:
    sample = Path(__file__).parents[2] / "torrents"
    command = [*BTOR, "seed", str(sample / "many-files.torrent"), str(sample / "content"), "--no-trackers", "-p", "0"]
    command += [*LOCAL, "--state-dir", str(tmp_path), "--dht-bootstrap", node, "--json"]
    info_hash = json.loads(child(["info", str(sample / "many-files.torrent"), "--json"]).out)["info_hash"]
    with Process(command, tmp_path / "seed") as process:
        port = process.wait_event("seeding")["port"]
        found: list[str] = []
        for _ in range(50):
            found = json.loads(child(["dht", "lookup", info_hash, "--dht-bootstrap", node, *LOCAL, "--json"]).out)[
                "peers"
            ]
            if found:
                break
        assert found == [f"127.0.0.1:{port}"]
