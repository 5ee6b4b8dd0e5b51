"""How a command ends: every error becomes one line and an exit status, here and nowhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from btor.cli import output
from btor.errors import BtorError, StorageError, UsageError

if TYPE_CHECKING:
    import click

    from btor.engine.events import Failed

LINE_CHARACTERS = 4_000  # of an error line: room for a whole path, never for a flood


def message(error: BtorError, what: str = "") -> str:
    """``<what>: <why>`` on one line that steers no terminal. ``what`` is the thing that was worked on, if it is known.

    A StorageError names its own file.
    """
    from btor.metainfo.paths import display

    text = str(error)
    what = what or next(iter(getattr(error, "__notes__", ())), "")
    if what and not isinstance(error, StorageError) and not text.startswith(f"{what}:"):
        text = f"{what}: {text}"
    return display(text, limit=LINE_CHARACTERS)


@contextmanager
def named(what: str) -> Iterator[None]:
    """Let an error that passes through say what was worked on."""
    try:
        yield
    except BtorError as error:
        error.add_note(what)
        raise


def failed_event(error: BtorError, what: str = "", *, info_hash: str | None = None) -> Failed:
    """The event that ``--json`` prints for an error; its message is the line on standard error, and in the log."""
    import logging

    from btor.engine.events import Failed

    text = message(error, what)
    log = logging.getLogger("btor.cli")
    if log.hasHandlers():  # else Python would print it
        log.error("%s", text)
    return Failed(
        time=round(time.time(), 3), info_hash=info_hash, code=error.exit_status, kind=error.kind, message=text
    )


def say(event: Failed, *, json: bool) -> None:
    """Print an error on standard error, and with ``json`` on standard output as well."""
    if json:
        with suppress(StorageError):  # standard output is full: what is to be said here matters more
            output.answer_json(event.as_json())
    output.tell(f"btor: {event.message}")


def end_with(error: BtorError, what: str = "", *, json: bool = False) -> int:
    """Say what went wrong, as the last line, and return the exit status."""
    say(failed_event(error, what), json=json)
    return error.exit_status


def from_click(error: click.ClickException) -> UsageError:
    """What click found wrong with the command line, as an error of ours."""
    why = error.format_message().rstrip(".")
    why = why[:1].lower() + why[1:]
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "btor"
    command = path.removeprefix("btor").strip() or "usage"
    return UsageError(f"{command}: {why} (see {path} --help)")


def flush() -> None:
    """Hand what is buffered to the system. Raises ReaderGoneError, StorageError."""
    for stream in (sys.stdout, sys.stderr):
        output.write(stream, "")
