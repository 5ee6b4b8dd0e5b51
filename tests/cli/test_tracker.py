"""`btor tracker` as a process: what it says, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from btor.cli.main import run
from btor.cli.options import Voice
from btor.cli.tracker import _tell
from btor.tracker.server import Bound

COMMAND = [sys.executable, "-m", "btor", "tracker"]
ANYWHERE = ["--http", "127.0.0.1:0", "--udp", "127.0.0.1:0"]
TIMEOUT = 30.0


@contextmanager
def started(*options: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def stream(of: IO[str] | None) -> IO[str]:
    assert of is not None
    return of


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_serves_until_a_signal(number: signal.Signals, status: int) -> None:
    with started(*ANYWHERE, "--json", "--interval", "90s") as process:
        line = json.loads(stream(process.stdout).readline())
        assert line["event"] == "listening"
        assert abs(line["time"] - time.time()) < TIMEOUT
        assert line["tracker"] == {"http": line["http"], "udp": line["udp"]}
        assert line["http"] == line["udp"]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        query = f"info_hash={'h' * 20}&peer_id={'p' * 20}&port=6881&left=0&compact=1"
        with opener.open(f"http://{line['http']}/announce?{query}", timeout=TIMEOUT) as reply:
            assert b"8:intervali90e" in reply.read()
        begun = time.monotonic()
        process.send_signal(number)
        assert process.wait(TIMEOUT) == status
        assert time.monotonic() - begun < 1.0
        assert stream(process.stdout).read() == ""
        assert stream(process.stderr).read() == ""


def test_ends_at_once_with_connections_open() -> None:
    with started(*ANYWHERE, "--json") as process:
        host, port = json.loads(stream(process.stdout).readline())["http"].split(":")
        with socket.create_connection((host, int(port))) as silent, socket.create_connection((host, int(port))) as half:
            half.sendall(b"GET /sta")
            process.send_signal(signal.SIGTERM)
            assert process.wait(1.0) == 143
            assert silent.recv(1) == b""


def test_plain_line_and_quiet() -> None:
    with started(*ANYWHERE) as process:
        line = stream(process.stderr).readline()
        port = int(line.rsplit(":", 1)[1].partition("/")[0])
        assert line == f"btor: tracker at http://127.0.0.1:{port}/announce and udp://127.0.0.1:{port}/announce\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 130
        assert stream(process.stdout).read() == ""


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    _tell(Bound((("127.0.0.1", 1),), (("127.0.0.1", 2),)), Voice(quiet=True))
    assert capsys.readouterr() == ("", "")


def test_a_pair_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    bound = Bound((("127.0.0.1", 1), ("::1", 1)), (("127.0.0.1", 2),))
    _tell(bound, Voice())
    assert capsys.readouterr().err == (
        "btor: tracker at http://127.0.0.1:1/announce and udp://127.0.0.1:2/announce\n"
        "btor: tracker at http://[::1]:1/announce\n"
    )
    _tell(bound, Voice(json=True))
    assert [json.loads(line)["udp"] for line in capsys.readouterr().out.splitlines()] == ["127.0.0.1:2", None]


def test_bind_takes_the_place_of_the_hosts() -> None:
    with started(
        "--http", "0.0.0.0:0", "--udp", "0.0.0.0:0", "--bind", "127.0.0.1", "--bind", "127.0.0.2", "--json"
    ) as process:
        lines = [json.loads(stream(process.stdout).readline()) for _ in range(2)]
        assert [line["http"].split(":")[0] for line in lines] == ["127.0.0.1", "127.0.0.2"]
        assert [line["udp"].split(":")[0] for line in lines] == ["127.0.0.1", "127.0.0.2"]


@pytest.mark.parametrize("json_lines", [False, True])
def test_address_in_use(json_lines: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        options = ["--http", place, "--udp", "127.0.0.1:0", *(["--json"] if json_lines else [])]
        assert run(["tracker", *options]) == 5
    message = f"cannot listen on {place} (HTTP): Address already in use"
    said = capsys.readouterr()
    assert said.err == f"btor: {message}\n"
    if not json_lines:
        assert said.out == ""
        return
    event = json.loads(said.out)
    assert (event["event"], event["code"], event["kind"], event["message"]) == ("error", 5, "network", message)


@pytest.mark.parametrize(
    "options",
    [
        ["--interval", "0.5s"],
        ["--interval", "25h"],
        ["--interval", "soon"],
        ["--http", "6969"],
        ["--udp", "::1:6969"],
        ["--http", "127.0.0.1:65536"],
        ["--bind", "here"],
        ["extra"],
    ],
)
def test_wrong_usage(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tracker", *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("btor: ")
    assert said.err.count("\n") == 1


def test_a_host_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tracker", "--http", "tracker.invalid:6969"]) == 5
    assert capsys.readouterr().err.startswith("btor: tracker.invalid: ")


def test_interval_bounds() -> None:
    for interval in ("1s", "24h"):
        with started(*ANYWHERE, "--interval", interval, "--json") as process:
            assert json.loads(stream(process.stdout).readline())["event"] == "listening"


def test_a_reader_that_leaves() -> None:
    with started(*ANYWHERE, "--json") as process:
        stream(process.stdout).close()
        assert process.wait(TIMEOUT) == 141
        assert stream(process.stderr).read() == ""


def test_imports_no_trio_before_it_runs() -> None:
    program = "import sys, btor.cli.tracker; sys.exit('trio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=TIMEOUT).returncode == 0
