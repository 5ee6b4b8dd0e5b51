"""Running one command line, and the way every one of them ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import CodeType

from btor import __version__
from btor.cli import output
from btor.errors import BtorError


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit status. A bug in btor passes through as the exception that it is."""
    output.prepare_streams()
    try:
        try:
            return _run(argv)
        except BtorError as error:
            from btor.cli import ending

            json = "--json" in (argv[: argv.index("--")] if "--" in argv else argv)
            return ending.end_with(error, json=json)
    except output.ReaderGoneError:
        return output.leave_quietly()


def _run(argv: Sequence[str]) -> int:
    """Raises BtorError, ReaderGoneError."""
    if list(argv) == ["--version"]:  # asked by scripts all the time: worth not importing click for
        output.answer(f"btor {__version__}")
        return 0
    import click

    from btor.cli import ending
    from btor.cli.group import cli

    stdout = sys.stdout
    try:
        status = cli.main(args=list(argv), prog_name="btor", standalone_mode=False, obj=argv)
    except click.ClickException as error:
        raise ending.from_click(error) from error
    except SystemExit as error:  # from shell completion
        if sys.stdout is not stdout:  # click met a closed pipe, and has put a wrapper there
            sys.stdout = stdout
            raise output.ReaderGoneError from error
        return error.code if isinstance(error.code, int) else 0
    except OSError as error:
        if _innermost(error) is click.echo.__code__ and (failure := output.failed(stdout, error)) is not None:
            raise failure from error  # click prints its help by itself
        raise
    ending.flush()
    return status if isinstance(status, int) else 0


def _innermost(error: Exception) -> CodeType | None:
    """The code that raised ``error``."""
    code, trace = None, error.__traceback__
    while trace is not None:
        code, trace = trace.tb_frame.f_code, trace.tb_next
    return code
