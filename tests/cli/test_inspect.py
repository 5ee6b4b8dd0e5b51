"""`info`, `magnet` and `verify`: what they print, and that nothing in a torrent can steer a terminal."""

from __future__ import annotations

import json
import re
import shutil
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from btor import bencode
from btor.cli.inspect import binary_size, date
from tests.cli.running import CONTENT, PROJECT, TORRENTS, Here, torrent_bytes
from tools import _btor
from tools._processes import free_port

STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
HOSTILE = ["a\x1b[2J", "\u202egnp.exe", "x\x07\x9b1m", "\u2066\u2069", "a\nb\r\tc", "\x00", "\u200b", "\ufeff", "é\x85"]
HOSTILE_CASES = json.loads((PROJECT / "tests" / "data" / "hostile.json").read_text("utf-8"))
MANY = TORRENTS / "many-files.torrent"
MANY_HASH = "eb789e1bf64fbb520fb5851e3aec5daba573c4e2"


def put(folder: Path, data: bytes) -> Path:
    path = folder / "x.torrent"
    path.write_bytes(data)
    return path


def test_info_for_people(btor: Here) -> None:
    ended = btor("info", MANY)
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "name         Vårt album – 写真"
    assert lines[1] == f"info hash    {MANY_HASH}"
    assert "size         2.49 MB (2,492,378 bytes) in 10 files" in lines
    assert "pieces       77 of 32 KiB" in lines
    assert " 8    900 KB  Vårt album – 写真/photos/naïve café.txt" in lines
    assert lines[-1].startswith(f"magnet       magnet:?xt=urn:btih:{MANY_HASH}&dn=")


def test_info_for_programs(btor: Here, tmp_path: Path) -> None:
    outer: dict[bytes, bencode.Value] = {
        b"announce": b"http://one.example/announce",
        b"announce-list": [
            [b"http://one.example/announce", b"udp://two.example:80/announce"],
            [b"http://three.example/a"],
        ],
        b"url-list": [b"http://seed.example/x"],
        b"comment": "größe".encode(),
        b"created by": b"hand",
        b"creation date": 1_700_000_000,
    }
    path = put(tmp_path, torrent_bytes([([b"a", b"b.txt"], 20_000), ([b"c"], 0)], outer=outer, private=1))
    ended = btor("info", "--json", path)
    assert ended.status == 0
    said = json.loads(ended.out)
    assert re.fullmatch("[0-9a-f]{40}", said.pop("info_hash"))
    assert said.pop("magnet").startswith("magnet:?xt=urn:btih:")
    assert said == {
        "name": "x",
        "total_bytes": 20_000,
        "piece_length": 16_384,
        "pieces": 2,
        "private": True,
        "trackers": [["http://one.example/announce", "udp://two.example:80/announce"], ["http://three.example/a"]],
        "web_seeds": ["http://seed.example/x/"],
        "files": [
            {"path": "x/a/b.txt", "length": 20_000, "pad": False, "number": 1},
            {"path": "x/c", "length": 0, "pad": False, "number": 2},
        ],
        "comment": "größe",
        "created_by": "hand",
        "created": 1_700_000_000,
        "source": None,
        "version": "v1",
    }
    text = btor("info", path).out
    assert "private      yes\n" in text
    assert "created      2023-11-14 22:13:20 UTC\n" in text
    assert "tracker      http://one.example/announce udp://two.example:80/announce\n" in text


def test_info_lists_twenty_files(btor: Here, tmp_path: Path) -> None:
    path = put(tmp_path, torrent_bytes([([b"%03d" % number], 1) for number in range(25)]))
    text = btor("info", path).out
    assert text.count("  x/0") == 20
    assert "\n… 5 more (--files)\n" in text
    text = btor("info", "--files", path).out
    assert text.count("  x/0") == 25
    assert "more" not in text
    assert len(json.loads(btor("info", "--json", path).out)["files"]) == 25


def test_twenty_files_are_not_more(btor: Here, tmp_path: Path) -> None:
    assert "more" not in btor("info", put(tmp_path, torrent_bytes([([b"%d" % n], 1) for n in range(20)]))).out


def test_a_thousand_trackers_are_not_a_thousand_lines(btor: Here, tmp_path: Path) -> None:
    tiers: list[bencode.Value] = [[b"http://%d.example/announce" % number] for number in range(1000)]
    path = put(tmp_path, torrent_bytes(outer={b"announce-list": tiers}))
    text = btor("info", path).out
    assert text.count("tracker ") == 21
    assert "… 980 more (--json)" in text
    assert len(json.loads(btor("info", "--json", path).out)["trackers"]) == 1000


def test_info_of_a_magnet(btor: Here) -> None:
    uri = "magnet:?xt=urn:btih:" + "ab" * 20 + "&dn=some%20name&xl=1000&tr=http%3A%2F%2Ft.example%2Fannounce"
    said = json.loads(btor("info", "--offline", "--json", uri).out)
    assert said["info_hash"] == "ab" * 20
    assert said["name"] == "some name"
    assert said["total_bytes"] == 1000
    assert said["trackers"] == [["http://t.example/announce"]]
    assert said["pieces"] is None
    text = btor("info", "--offline", uri).out
    assert "name         some name\n" in text
    assert "size         1.00 KB, as the magnet says\n" in text
    assert btor("info", "--offline", "ab" * 20).out.startswith("info hash    " + "ab" * 20)


ALONE = ["--bind", "127.0.0.1", "--port", "0", "--no-dht", "--no-lsd"]


def test_info_gets_the_metadata_of_a_magnet_from_peers(btor: Here, tmp_path: Path) -> None:
    state = ["--state-dir", str(tmp_path / "state")]
    with _btor.seed(MANY, CONTENT, tmp_path / "seed", options=["--bind", "127.0.0.1"]) as seeder:
        uri = f"magnet:?xt=urn:btih:{MANY_HASH}&tr=http%3A%2F%2F127.0.0.1%3A9%2Fannounce&x.pe={seeder.address}"
        ended = btor("info", "--json", *ALONE, *state, "--save", tmp_path / "kept.torrent", uri)
    assert ended.status == 0, ended.err
    said = json.loads(ended.out)
    known = json.loads(btor("info", "--json", MANY).out)
    for key in ("info_hash", "name", "total_bytes", "pieces", "files", "private"):
        assert said[key] == known[key]
    assert said["trackers"] == [["http://127.0.0.1:9/announce"]]
    assert json.loads(btor("info", "--json", tmp_path / "kept.torrent").out) == said
    again = btor("info", *ALONE, *state, "--timeout", "5s", MANY_HASH)  # it is kept for the next run
    assert again.out.splitlines()[1] == f"info hash    {MANY_HASH}"


def test_info_says_what_it_tried(btor: Here, tmp_path: Path) -> None:
    port = free_port()
    uri = "magnet:?xt=urn:btih:" + "ab" * 20 + f"&tr=http%3A%2F%2F127.0.0.1%3A{port}%2Fannounce&x.pe=127.0.0.1:{port}"
    bootstrap = ["--dht-bootstrap", f"127.0.0.1:{port}"]
    network = ["--bind", "127.0.0.1", "--port", "0", "--no-lsd", *bootstrap, "--state-dir", str(tmp_path)]
    ended = btor("info", "--timeout", "2s", *network, uri)
    assert ended.status == 5
    tried = r"no metadata within 0:02: trackers 0/1 \(announce: .*\), DHT of 0 nodes, 0 peers, "
    assert re.search(tried + "(1 known, none reached|connecting to 1)$", ended.last_error)


def test_what_goes_with_magnets_alone(btor: Here) -> None:
    for options in (["--offline"], ["--save", "x.torrent"]):
        ended = btor("info", *options, MANY)
        assert (ended.status, ended.last_error) == (2, f"btor: {options[0]} is for magnet URIs and info-hashes")
    ended = btor("info", "--offline", "--save", "x.torrent", "ab" * 20)
    assert (ended.status, ended.last_error) == (2, "btor: --save and --offline exclude each other")


def test_magnet_is_nothing_else(btor: Here) -> None:
    ended = btor("magnet", TORRENTS / "one-small-piece.torrent")
    assert re.fullmatch(r"magnet:\?xt=urn:btih:[0-9a-f]{40}&dn=one-small-piece\.txt\n", ended.out)
    said = json.loads(btor("magnet", "--json", TORRENTS / "one-small-piece.torrent").out)
    assert said["magnet"] == ended.out.strip()


def test_invalid_torrents(btor: Here, tmp_path: Path) -> None:
    for data in (b"", b"d", b"l" * 100_000, b"i1e", torrent_bytes(piece_length=0), torrent_bytes(name=7)):
        path = put(tmp_path, data)
        commands: list[list[str | Path]] = [["info", path], ["magnet", path], ["verify", path, tmp_path]]
        commands.append(["info", "--json", path])
        for command in commands:
            ended = btor(*command)
            assert ended.status == 3, data[:20]
            assert ended.last_error.startswith(f"btor: {path}: ")


def test_v2_only_is_unsupported(btor: Here, tmp_path: Path) -> None:
    root: dict[bytes, bencode.Value] = {b"length": 1, b"pieces root": b"\1" * 32}
    info: dict[bytes, bencode.Value] = {b"file tree": {b"x": {b"": root}}, b"meta version": 2, b"name": b"x"}
    info[b"piece length"] = 16_384
    ended = btor("info", put(tmp_path, bencode.encode({b"info": info, b"piece layers": {}})))
    assert ended.status == 3
    assert "v2-only torrents are not supported yet" in ended.last_error


def nothing_steers(*texts: str) -> None:
    for text in texts:
        found = STEERING.search(text)
        assert found is None, f"{found!r} in {text!r}"


def strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.items() for text in strings(list(item))]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


_hostile = st.lists(st.sampled_from([*HOSTILE, "a", "/", "..", "日本"]), max_size=5).map("".join)
_bytes = st.one_of(_hostile.map(str.encode), st.binary(max_size=12))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=_bytes, paths=st.lists(_bytes, min_size=1, max_size=4), text=_bytes, url=_bytes)
def test_nothing_in_a_torrent_steers_a_terminal(
    btor: Here, tmp_path: Path, name: bytes, paths: list[bytes], text: bytes, url: bytes
) -> None:
    outer: dict[bytes, bencode.Value] = {
        b"comment": text,
        b"created by": text,
        b"announce": b"http://x.example/" + url,
        b"announce-list": [[b"udp://x.example:1/" + url, url]],
        b"url-list": [b"http://x.example/" + url],
    }
    path = put(tmp_path, torrent_bytes([([path], 1) for path in paths], outer=outer, name=name, source=text))
    commands: list[list[str | Path]] = [["info", "--files", path], ["magnet", path], ["verify", path, tmp_path]]
    commands.append(["info", "--json", path])
    for command in commands:
        ended = btor(*command)
        nothing_steers(ended.out, ended.err)
        if "--json" in command and ended.status == 0:
            nothing_steers(*strings(json.loads(ended.out)))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda tail: b"d4:info" + tail)))
def test_no_bytes_are_a_bug(btor: Here, tmp_path: Path, data: bytes) -> None:
    ended = btor("info", put(tmp_path, data))
    assert ended.status == 3
    nothing_steers(ended.err)
    assert ended.err.count("\n") == 1


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=30))
def test_no_magnet_steers_a_terminal(btor: Here, text: str) -> None:
    ended = btor("info", "--offline", "magnet:?xt=urn:btih:" + "ab" * 20 + f"&dn={text}&tr={text}")
    nothing_steers(ended.out, ended.err)


@pytest.mark.parametrize("case", HOSTILE_CASES, ids=lambda case: case["case"])
def test_hostile_torrents_steer_no_terminal(btor: Here, tmp_path: Path, case: dict[str, str]) -> None:
    path = put(tmp_path, b64decode(case["data_b64"]))
    statuses = set()
    commands: list[list[str | Path]] = [["info", path], ["info", "--files", path], ["magnet", path]]
    commands += [["info", "--json", path], ["verify", path, tmp_path]]
    for command in commands:
        ended = btor(*command)
        nothing_steers(ended.out, ended.err)
        if "--json" in command:
            nothing_steers(*strings(json.loads(ended.out)))
        statuses.add(ended.status)
    assert statuses in ({3}, {0, 6})


def test_dates_that_no_calendar_has() -> None:
    assert date(None) == ""
    assert date(0) == "1970-01-01 00:00:00 UTC"
    assert date(253_402_300_799) == "9999-12-31 23:59:59 UTC"
    assert date(253_402_300_800) == "253402300800"
    assert date(-1) == "-1"


def test_piece_lengths() -> None:
    assert binary_size(1024 * 1024) == "1 MiB"
    assert binary_size(262_144) == "256 KiB"
    assert binary_size(40_000) == "40,000 bytes"


def test_verify_complete(btor: Here) -> None:
    ended = btor("verify", MANY, CONTENT)
    assert (ended.status, ended.out, ended.err) == (0, "Vårt album – 写真: complete, 77 of 77 pieces good\n", "")
    said = json.loads(btor("verify", "--json", MANY, CONTENT / "Vårt album – 写真").out)
    assert said["info_hash"] == MANY_HASH
    assert (said["complete"], said["have_pieces"], said["pieces"], said["bad_pieces"]) == (True, 77, 77, [])
    assert {file["status"] for file in said["files"]} == {"ok"}
    assert len(said["files"]) == 10


def test_verify_names_what_is_wrong(btor: Here, tmp_path: Path) -> None:
    copy = tmp_path / "other name"
    shutil.copytree(CONTENT / "Vårt album – 写真", copy)
    (copy / "empty.txt").unlink()
    (copy / "README.txt").write_bytes(b"short")
    cafe = copy / "photos" / "naïve café.txt"
    cafe.write_bytes(b"\0" + cafe.read_bytes()[1:])
    ended = btor("verify", MANY, copy)
    assert ended.status == 6
    lines = ended.out.splitlines()
    assert "missing  Vårt album – 写真/empty.txt" in lines
    assert "short    Vårt album – 写真/README.txt" in lines
    assert "bad      Vårt album – 写真/photos/naïve café.txt" in lines
    assert "incomplete" in lines[-1]
    assert re.fullmatch("btor: Vårt album – 写真: [2-4] pieces missing or bad, [3-5] files affected", ended.last_error)
    said = json.loads(btor("verify", "--json", MANY, copy).out)
    assert not said["complete"]
    assert said["have_pieces"] + len(said["bad_pieces"]) == said["pieces"]


def test_verify_of_nothing(btor: Here, tmp_path: Path) -> None:
    ended = btor("verify", MANY, tmp_path / "nowhere")
    assert ended.status == 4
    assert str(tmp_path / "nowhere") in ended.last_error


def test_info_of_a_url(btor: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = MANY.read_bytes() if self.path == "/x.torrent" else b""
            self.send_response(200 if data else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            assert json.loads(btor("info", "--json", f"{url}/x.torrent").out)["info_hash"] == MANY_HASH
            ended = btor("info", f"{url}/none.torrent")
            assert ended.status == 5
            assert ended.last_error.startswith(f"btor: {url}/none.torrent: ")
        finally:
            server.shutdown()
            thread.join()
