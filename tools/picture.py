"""Draw a real download as an SVG for the README: picture.py FILE.svg. Needs tmux.

`btor download` runs in a terminal of 80 columns against a seeder and two leechers; its screen is taken when half is
there and when all is, and rich turns both into one picture.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from io import StringIO
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tools import _btor, _payload
from tools.demo import CONTENT, TORRENT

COLUMNS, ROWS = 80, 8
HALF = re.compile(r"\b5\d(\.\d)? %")
NO_FONTS = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "font-family: Fira Code, monospace", "font-family: ui-monospace, Menlo, Consolas, monospace"
)


class Terminal:
    """One command in a tmux of its own."""

    def __init__(self, command: str, socket: Path) -> None:
        self.socket = socket
        size = ["-x", str(COLUMNS), "-y", str(ROWS)]
        self.tmux("-f", "/dev/null", "new-session", "-d", *size, f"{command}; sleep 60")

    def tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self.socket), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout

    def screen(self) -> str:
        """What is on the screen, with its colours as escape sequences."""
        return self.tmux("capture-pane", "-p", "-e").rstrip()

    def end(self) -> None:
        self.tmux("kill-server")


def wait_for(terminal: Terminal, found: re.Pattern[str]) -> str:
    deadline = time.monotonic() + 60
    while not found.search(terminal.screen()):
        if time.monotonic() > deadline:
            raise SystemExit(f"never saw {found.pattern}:\n{terminal.screen()}")
        time.sleep(0.1)
    return terminal.screen()


def run(root: Path) -> list[str]:
    """The screens, in order."""
    with ExitStack() as stack:
        tracker = stack.enter_context(_btor.tracker(root / "tracker"))
        torrent = root / "album.torrent"
        torrent.write_bytes(_payload.with_trackers(TORRENT.read_bytes(), [tracker.udp]))
        stack.enter_context(_btor.seed(torrent, CONTENT, root / "seeder", options=["--max-upload", "900K"]))
        for number in range(2):
            options = ["--seed", "--max-download", "300K"]
            stack.enter_context(_btor.download(torrent, root / f"l{number}", root / f"log{number}", options=options))
        command = f"cd {root} && BTOR_STATE_DIR={root}/state {sys.executable} -m btor download album.torrent"
        terminal = Terminal(f"{command} -d downloads --port 0 --max-download 300K", root / "tmux")
        stack.callback(terminal.end)
        return [wait_for(terminal, HALF), wait_for(terminal, re.compile("complete and verified"))]


def draw(screens: list[str]) -> str:
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print("[bold]$ btor download album.torrent -d downloads")
    for screen in screens:
        console.print(Text.from_ansi(screen))
    return console.export_svg(title="btor download", code_format=NO_FONTS, unique_id="btor")


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="btor-picture-") as scratch:
        svg = draw(run(Path(scratch)))
    Path(sys.argv[1]).write_text(svg, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
