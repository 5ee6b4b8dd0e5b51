"""Running one command line, and the way every one of them ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from btor import __version__
from btor.cli import output


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit status. A bug in btor passes through as the exception that it is."""
    output.prepare_streams()
    try:
        if list(argv) == ["--version"]:  # asked by scripts all the time: worth not importing click for
            output.answer(f"btor {__version__}")
            return 0
        return _run(argv)
    except output.ReaderGoneError:
        return output.leave_quietly()


def _run(argv: Sequence[str]) -> int:
    import click

    from btor.cli import ending
    from btor.cli.group import cli
    from btor.errors import BtorError

    json = "--json" in (argv[: argv.index("--")] if "--" in argv else argv)
    stdout = sys.stdout
    try:
        status = cli.main(args=list(argv), prog_name="btor", standalone_mode=False)
    except click.ClickException as error:
        return ending.end_with(ending.from_click(error), json=json)
    except BtorError as error:
        return ending.end_with(error, json=json)
    except SystemExit as error:  # from shell completion
        if sys.stdout is not stdout:  # click met a closed pipe, and has put a wrapper there
            sys.stdout = stdout
            return output.leave_quietly()
        return error.code if isinstance(error.code, int) else 0
    ending.flush()
    return status if isinstance(status, int) else 0
