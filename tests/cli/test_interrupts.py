"""Signals at every moment of a command's life. Each case is a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from btor.cli.interrupts import ECHO, GRACE
from btor.limits import SHUTDOWN
from tests.cli.running import PROJECT, TORRENTS

LAST_STEP = 11
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

# Runs btor's main() and sends this process a signal when a certain module is looked for.
AT_IMPORT = """
import os, signal, sys
module, number, *arguments = sys.argv[1:]
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), int(number))
sys.argv[1:] = arguments
from btor.__main__ import main
sys.meta_path.insert(0, Finder)
main()
"""

# A transfer on a session that takes its time to close. It says when it is running and when it has closed.
SLOW_TO_CLOSE = """
import sys, time
import trio
from btor.cli import interrupts
from btor.cli.lines import Quiet
from btor.cli.options import Voice
from btor.cli.transfer import Goal, Job, Transfer
from btor.settings import Settings
from tests.cli.fakes import FakeSession
closing, grace = float(sys.argv[1]), float(sys.argv[2])
interrupts.GRACE = grace
async def runs(torrent):
    print("running", flush=True)
    {body}
session = FakeSession({{"a.torrent": runs}})
session.closing_takes = closing
status = Transfer([Job(source="a.torrent")], Goal(), Settings(), Voice(), Quiet(), session.open).run()
print("closed", flush=True)
sys.exit(status)
"""
WAITING = SLOW_TO_CLOSE.format(body="await trio.sleep_forever()")
STUCK = SLOW_TO_CLOSE.format(
    body="import hashlib; hashlib.pbkdf2_hmac('sha512', b'', b'', 2_000_000_000)"
)  # for minutes


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def started(script: str, *arguments: str) -> subprocess.Popen[str]:
    """The process, once it says that it is running."""
    process = python(script, *arguments)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("btor.cli.main", signal.SIGINT),
        ("click", signal.SIGINT),
        ("click", signal.SIGTERM),
        ("click", signal.SIGHUP),
        ("btor.cli.download", signal.SIGINT),
        ("trio", signal.SIGINT),
        ("btor.engine.session", signal.SIGINT),
    ],
)
def test_during_imports(module: str, number: int, tmp_path: Path) -> None:
    torrent = TORRENTS / "one-small-piece.torrent"
    arguments = ["download", str(torrent), "-d", str(tmp_path), "--no-trackers", "-p", "0", "--bind", "127.0.0.1"]
    process = python(AT_IMPORT, module, str(int(number)), *arguments)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (128 + number, "", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_ends_it_in_order(number: int) -> None:
    process = started(WAITING, "0.3", "30")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (128 + number, "closed\n")
    assert err == "btor: interrupted: the same command goes on from here\n"


def test_the_second_signal_ends_it_at_once() -> None:
    process = started(WAITING, "60", "30")
    process.send_signal(signal.SIGINT)
    time.sleep(2 * ECHO)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert (process.returncode, out, err) == (143, "", "")


def test_an_echo_of_the_first_signal_is_not_a_second() -> None:
    process = started(WAITING, "1", "30")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "closed\n")


def test_an_end_that_takes_too_long_is_cut_short() -> None:
    assert SHUTDOWN < GRACE < 6
    process = started(WAITING, "60", "0.5")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert 0.4 < time.monotonic() - began < 10
    assert (process.returncode, out, err) == (130, "", "")


def test_a_loop_that_is_stuck_in_the_kernel_does_not_keep_it_alive() -> None:
    process = started(STUCK, "0", "0.5")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_process_that_ignores_hang_ups_goes_on_doing_so() -> None:
    ignoring = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{WAITING}"
    process = started(ignoring, "0", "30")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    process.communicate()


def test_after_the_work_a_signal_changes_nothing() -> None:
    script = """
import atexit, os, signal, sys
from btor.__main__ import main
atexit.register(os.kill, os.getpid(), signal.SIGINT)
sys.argv = ["btor", "--version"]
main()
"""
    process = python(script)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out.startswith("btor ")


def test_importing_main_installs_nothing() -> None:
    script = """
import signal
before = [signal.getsignal(number) for number in (2, 15, 1)]
import btor.__main__
assert [signal.getsignal(number) for number in (2, 15, 1)] == before
"""
    process = python(script)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


def test_at_any_moment(tmp_path: Path) -> None:
    """Spread over a real download that waits for peers: from the first line of ours to the wait itself."""
    torrent = TORRENTS / "one-small-piece.torrent"
    command = [
        sys.executable,
        "-m",
        "btor",
        "download",
        str(torrent),
        "-d",
        str(tmp_path),
        "--state-dir",
        str(tmp_path),
    ]
    command += ["--no-trackers", "-p", "0", "--bind", "127.0.0.1"]
    for step in range(LAST_STEP + 1):
        process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(0.08 + step * 0.05)
        while step == LAST_STEP and not os.listdir(tmp_path) and process.poll() is None:
            time.sleep(0.01)  # the last one has come as far as it gets
        began = time.monotonic()
        process.terminate()  # unlike SIGINT, this has no handler of Python's before ours
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - began < 6
        assert process.returncode in (143, -signal.SIGTERM), step
        assert out == ""
        assert err in ("", "btor: interrupted: the same command goes on from here\n"), step
