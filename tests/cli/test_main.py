"""The group of commands: what it imports, what it answers, and how each command line ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from btor import __version__
from btor.cli.group import cli
from btor.cli.main import run
from tests.cli.running import BTOR, CONTENT, PROJECT, TORRENTS, Here, child

COMMANDS = ["download", "seed", "create", "info", "magnet", "verify", "tracker", "swarm"]
HEAVY = ["trio", "httpx2", "httpcore2", "rich", "asyncio", "ssl", "platformdirs", "logging"]

_IMPORTED = """
import os, sys
from btor.cli.main import run
status = run(sys.argv[1:])
heavy = [name for name in {heavy} if name in sys.modules]
sys.stderr.write(",".join(heavy) or "none")
sys.exit(status)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["download", "--help"],
        ["info", str(TORRENTS / "many-files.torrent")],
        ["info", "--json", str(TORRENTS / "many-files.torrent")],
        ["info", "--offline", "magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567"],
        ["magnet", str(TORRENTS / "many-files.torrent")],
        ["verify", str(TORRENTS / "one-small-piece.torrent"), str(CONTENT)],
    ],
    ids=lambda arguments: " ".join(arguments[:2]).replace(str(TORRENTS), ""),
)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED.format(heavy=HEAVY), *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "none")


def test_version(btor: Here) -> None:
    assert btor("--version").out == f"btor {__version__}\n"
    assert btor("--version", "--help").out == f"btor {__version__}\n"  # by click


def test_help_names_every_command(btor: Here) -> None:
    ended = btor("--help")
    assert ended.status == 0
    for command in COMMANDS:
        assert f"\n  {command} " in ended.out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(btor: Here, command: str) -> None:
    ended = btor(command, "--help")
    assert ended.status == 0
    assert ended.out.startswith(f"Usage: btor {command} ")
    for option in ("--json", "--quiet", "--verbose", "--log-file"):
        assert option in ended.out


def test_every_option_of_the_interface_is_there() -> None:
    network = (
        "--peer --port -p --bind --no-trackers --no-dht --no-pex --no-lsd --max-download --max-upload --max-peers"
        " --upload-slots --recheck --state-dir --dht-bootstrap --dht-port"
    )
    expected = {
        "download": f"{network} -d --directory -o --output --overwrite --sync --wait-for-space --timeout --seed"
        " --seed-ratio --seed-time",
        "seed": f"{network} --partial",
        "create": "-o --output --tracker --web-seed --private --source --comment --piece-length --no-date --threads"
        " --force",
        "info": "--files",
        "tracker": "--http --udp --interval --bind",
        "swarm": "--leechers --seeders --max-download --keep",
    }
    for name, options in expected.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(options.split()) <= known, name


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "btor: usage: no command given (see btor --help)"),
        (["frob"], "btor: usage: no such command 'frob' (see btor --help)"),
        (["--frob"], "btor: usage: no such option '--frob' (see btor --help)"),
        (["info"], "btor: info: missing argument 'SOURCE' (see btor info --help)"),
        (["info", "x", "y"], "btor: info: got unexpected extra argument (y) (see btor info --help)"),
        (["download"], "btor: download: missing argument 'SOURCE...' (see btor download --help)"),
        (["download", "x", "-d", "a", "-o", "b"], "btor: download: -d and -o exclude each other"),
        (["download", "x", "y", "-o", "b"], "btor: download: -o names one torrent's content"),
        (["download", "x", "--max-download", "fast"], "btor: download: invalid value for '--max-download'"),
        (["download", "x", "--peer", "nowhere"], "btor: download: invalid value for '--peer'"),
        (["download", "x", "--seed-ratio", "-1"], "btor: download: invalid value for '--seed-ratio'"),
        (["download", "x", "-d", ""], "btor: download: invalid value for '-d' / '--directory': empty"),
        (["download", "x", "-o", ""], "btor: download: invalid value for '-o' / '--output': empty"),
        (["download", ""], "btor: download: invalid value for 'SOURCE...': empty"),
        (["info", ""], "btor: info: invalid value for 'SOURCE': empty"),
        (["verify", "x", ""], "btor: verify: invalid value for 'PATH': empty"),
        (["create", ""], "btor: create: invalid value for 'PATH': empty"),
        (["info", "x", "--log-file", ""], "btor: info: invalid value for '--log-file': empty"),
        (["seed", "x"], "btor: seed: missing argument 'PATH' (see btor seed --help)"),
        (["create", "x", "--piece-length", "big"], "btor: create: invalid value for '--piece-length'"),
        (["swarm", "x", "y", "--leechers", "0"], "btor: swarm: invalid value for '--leechers'"),
    ],
)
def test_wrong_usage_is_2_and_one_line(btor: Here, arguments: list[str], line: str) -> None:
    ended = btor(*arguments)
    assert ended.status == 2
    assert ended.out == ""
    assert ended.last_error.startswith(line)


def test_wrong_usage_with_json_is_an_event_too(btor: Here) -> None:
    ended = btor("info", "--json", "--frob")
    event = json.loads(ended.out)
    assert (event["event"], event["code"], event["kind"]) == ("error", 2, "usage")
    assert ended.err == f"btor: {event['message']}\n"


def test_json_after_a_double_dash_is_a_name(btor: Here) -> None:
    ended = btor("info", "--", "--json")
    assert ended.status == 4
    assert ended.out == ""


def test_an_error_line_stays_one_line(btor: Here, tmp_path: Path) -> None:
    ended = btor("info", tmp_path / "a\nb\x1b[2J\u202e")
    assert ended.status == 4
    assert ended.err.count("\n") == 1
    assert "\x1b" not in ended.err
    assert "\u202e" not in ended.err


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    ended = child(["info", os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")])
    assert ended.status == 4
    assert ended.last_error.startswith("btor: read ")


@pytest.mark.parametrize("arguments", [["--help"], ["info", str(TORRENTS / "many-files.torrent")], ["info", "--help"]])
def test_a_closed_pipe_ends_quietly(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run([*BTOR, *arguments], cwd=PROJECT, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_no_streams_at_all() -> None:
    command = f'exec "$0" -m btor info "{TORRENTS}/many-files.torrent" >&- 2>&-'
    assert subprocess.run(["sh", "-c", command, sys.executable], cwd=PROJECT, check=False).returncode == 0


def test_a_bug_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(source: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("btor.cli.inspect.load", bug)
    with pytest.raises(ZeroDivisionError):
        run(["info", "x.torrent"])


def test_a_bug_ends_with_1_and_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import btor.cli.inspect as inspect\ndef load(source): raise ZeroDivisionError\ninspect.load = load\n"
    )
    ended = child(["info", "x.torrent"], env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}"})
    assert ended.status == 1
    assert ended.err.startswith("Traceback ")
    assert ended.last_error == "ZeroDivisionError"


def test_magnets_of_v2_alone_are_not_supported_yet(btor: Here) -> None:
    ended = btor("download", "magnet:?xt=urn:btmh:1220" + "ab" * 32)
    assert ended.status == 3
    assert "not supported yet" in ended.last_error


def test_a_bad_magnet_is_bad_rather_than_unsupported(btor: Here) -> None:
    ended = btor("download", "magnet:?xt=urn:btih:abc")
    assert ended.status == 3
    assert "not supported" not in ended.err


def test_a_file_named_like_a_hash_is_a_file(btor: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ("ab" * 20)).write_bytes(b"not a torrent")
    ended = btor("info", "ab" * 20)
    assert ended.status == 3
    assert ended.last_error.startswith("btor: " + "ab" * 20 + ": ")
