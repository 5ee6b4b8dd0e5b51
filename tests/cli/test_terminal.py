"""The live view on a real terminal (tmux): every width, resizing, colours, plain terminals, Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.cli.running import CONTENT, PROJECT, TORRENTS
from tools._btor import Seeder, seed
from tools._processes import BTOR

pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
    pytest.mark.xdist_group("terminal"),
]

MANY = TORRENTS / "many-files.torrent"
NAME = "Vårt album – 写真"
BEGUN = ["README.txt", "disque/Ça commence.txt", "disque/日本語のファイル.bin"]  # more than a third of it
LASTING = "30K"  # a rate at which the rest takes a minute: the download outlasts a test, however loaded the machine is
PATIENCE = 60.0  # s for what should come within one or two


# What stands on the screen before the command runs, and what the shell says when it has ended.
ABOVE = [f"line {number}" for number in range(6)]
SCRIPT = 'trap : INT; for number in 0 1 2 3 4 5; do echo line $number; done; "$@"; echo status $?; cat'


class Terminal:
    """A tmux server of its own with one pane, in which a shell runs one command."""

    def __init__(self, folder: Path, columns: int, env: dict[str, str], command: Sequence[str]) -> None:
        self._tmux = ["tmux", "-u", "-f", "/dev/null", "-S", str(folder / "tmux")]
        cleared = ["LC_ALL", "LC_CTYPE", "LANG", "NO_COLOR", "TERM"]
        settings = [f"{name}={value}" for name, value in env.items()]
        words = ["env", *(f"-u{name}" for name in cleared), *settings, "sh", "-c", SCRIPT, "sh", *command]
        self._run("new-session", "-d", "-x", str(columns), "-y", "24", "-c", str(PROJECT), *words)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._tmux, *arguments],
            env={**os.environ, "LC_ALL": "C.UTF-8"},  # tmux itself speaks UTF-8, whatever the command inside thinks
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=True,
        )
        return done.stdout

    def lines(self, *, colours: bool = False) -> list[str]:
        """What the command has put on the screen and what has scrolled away of it, without empty lines."""
        text = self._run("capture-pane", "-p", "-S", "-100", *(["-e"] if colours else []))
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        assert lines[: len(ABOVE)] == ABOVE[: len(lines)]  # what was there before is never touched
        return lines[len(ABOVE) :]

    def wait(self, what: str, seen: Callable[[list[str]], bool]) -> list[str]:
        """The lines as soon as they are as wanted."""
        deadline = time.monotonic() + PATIENCE
        while not seen(lines := self.lines()):
            assert time.monotonic() < deadline, f"never seen: {what}\n" + "\n".join(lines)
            time.sleep(0.05)
        return lines

    def wait_end(self) -> tuple[list[str], int]:
        """What the command has left on the screen, and its exit status."""
        lines = self.wait("the end", lambda lines: bool(lines) and lines[-1].startswith("status "))
        return lines[:-1], int(lines[-1].removeprefix("status "))

    def resize(self, columns: int) -> None:
        self._run("resize-window", "-x", str(columns))

    def type(self, key: str) -> None:
        self._run("send-keys", key)

    def close(self) -> None:
        self._run("kill-server")


Open = Callable[..., Terminal]


@pytest.fixture(scope="module")
def seeder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeder]:
    with seed(MANY, CONTENT, tmp_path_factory.mktemp("seeder") / "seed", options=["--bind", "127.0.0.1"]) as seeder:
        yield seeder


@pytest.fixture
def download(seeder: Seeder, tmp_path: Path) -> Iterator[Open]:
    """Open a terminal in which the torrent is being downloaded: the rest of it, slowly, or all at a given rate."""
    opened: list[Terminal] = []

    def open_terminal(columns: int, *, rate: str = LASTING, **env: str) -> Terminal:
        if rate == LASTING:
            for part in BEGUN:
                source, target = CONTENT / NAME / part, tmp_path / "content" / NAME / part
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        command = [*BTOR, "download", str(MANY), "-d", str(tmp_path / "content"), "--peer", seeder.address]
        command += ["-p", "0", "--bind", "127.0.0.1", "--state-dir", str(tmp_path / "state"), "--max-download", rate]
        env = {"TERM": "screen-256color", "LANG": "C.UTF-8", **env}
        opened.append(Terminal(tmp_path, columns, env, command))
        return opened[-1]

    yield open_terminal
    for terminal in opened:
        terminal.close()


def moving(lines: list[str]) -> bool:
    """Whether the last line is of a download under way, far enough for its bar to have begun in any width."""
    return bool(lines) and re.match(r" [3-9]\d\.\d % .* [KM]B/s( |$)", lines[-1]) is not None


def without_notice(lines: list[str], columns: int) -> list[str]:
    """The frame alone: ``lines`` without what was said of the content that was there, in as many rows as it took."""
    notice = " of 77 pieces already there by their hashes"
    rows = -(-(len(NAME) + 2 + len(": 29") + len(notice)) // columns)  # two of its characters are two columns wide
    text = "".join(lines[:rows])
    assert text.startswith(NAME), lines
    assert text.endswith(notice), lines
    return lines[rows:]


@pytest.mark.parametrize(
    ("columns", "shown", "hidden"),
    [
        (120, ["eta ", " 1 peer", " of 2.49 MB", "KB/s", "━"], []),
        (60, ["eta ", " 1 peer", "KB/s", "━"], [" of 2.49 MB"]),
        (40, ["KB/s", "━"], ["eta", "peer"]),
    ],
)
def test_widths(download: Open, columns: int, shown: list[str], hidden: list[str]) -> None:
    terminal = download(columns)
    lines = without_notice(terminal.wait("progress", moving), columns)
    assert lines[:-1] == [NAME]  # two lines at every width
    assert len(lines[-1]) < columns
    for text in shown:
        assert text in lines[-1]
    for text in hidden:
        assert text not in lines[-1]
    assert "\x1b[32m━" in "\n".join(terminal.lines(colours=True))


def test_it_follows_the_size_and_leaves_nothing_behind(download: Open) -> None:
    terminal = download(120)
    terminal.wait("progress", moving)
    for columns in (60, 40, 120, 30, 80):
        terminal.resize(columns)

        def fits(lines: list[str], columns: int = columns) -> bool:
            return moving(lines) and ("eta" in lines[-1]) == (columns >= 60) and len(lines[-1]) < columns

        lines = without_notice(terminal.wait(f"a frame of {columns} columns", fits), columns)
        assert lines[:-1] == [NAME], lines


def test_to_the_end(download: Open) -> None:
    terminal = download(80, rate="3M")
    (*earlier, complete, name, figures), status = terminal.wait_end()
    assert status == 0
    assert earlier == []
    assert complete.startswith(f"{NAME}: complete and verified: ")
    assert name == NAME
    assert figures.startswith("100.0 % ")


def test_ctrl_c(download: Open) -> None:
    terminal = download(60)
    terminal.wait("progress", moving)
    terminal.type("C-c")
    lines, status = terminal.wait_end()
    assert status == 130
    name, *_, interrupted = without_notice(lines, 60)  # it may say why it waits just then
    assert name == NAME
    assert interrupted.startswith("btor: interrupted: ")


def test_no_color_and_ascii_where_the_locale_has_no_more(download: Open) -> None:
    terminal = download(80, LANG="C", NO_COLOR="1")
    lines = terminal.wait("progress", moving)[-2:]
    assert not re.search(r"\x1b\[[0-9;]*3[0-8]", "\n".join(terminal.lines(colours=True)))
    assert lines[0] == "V?rt album ? ??"
    assert "#" in lines[1]
    assert "".join(lines).isascii()


def test_a_dumb_terminal_gets_plain_lines(download: Open) -> None:
    terminal = download(120, TERM="dumb", rate="3M")
    (*earlier, line), status = terminal.wait_end()
    assert status == 0
    assert all(text.startswith(f"{NAME}: ") for text in earlier)  # on a slow machine it takes ten seconds
    assert line.startswith(f"{NAME}: complete and verified: ")
