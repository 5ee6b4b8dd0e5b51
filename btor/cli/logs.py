"""Where the log goes: what a person must know to standard error, more with ``-v``; all of it to ``--log-file``.

The file holds what was asked, what happened and how it ended as well, whatever the reporter shows of that.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from btor import __version__
from btor.cli import ending, output, words
from btor.cli.lines import Names, notice
from btor.cli.options import Voice
from btor.engine.events import Event, Progress
from btor.errors import BtorError, StorageError
from btor.metainfo.paths import display

LINE_CHARACTERS = 1_000
HAPPENINGS = "btor.cli"  # the logger of what the person is told anyway
PROGRESS_PERIOD = 60.0  # s

_log = logging.getLogger(HAPPENINGS)


class OneLineFormatter(logging.Formatter):
    """Escapes whatever a foreign text smuggles in; only a traceback may have more lines than one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text that is safe on a terminal."""
        lines = super().format(record).splitlines() if record.exc_info else [super().format(record)]
        return "\n".join(display(line, limit=LINE_CHARACTERS) for line in lines)


class _Said(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say
        self.addFilter(lambda record: record.name != HAPPENINGS)

    def emit(self, record: logging.LogRecord) -> None:
        self._say(self.format(record))


class _LogFile(logging.FileHandler):
    """A log whose disk may fill up: that is said once, and ends nothing but the log."""

    _lost = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class names it so
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._lost:
            self._lost = True
            output.tell(f"btor: {StorageError.from_os_error('write', self.baseFilename, error)}: the log has gaps")

    def close(self) -> None:
        with suppress(OSError):  # what could not be written before
            super().close()


class EventLog:
    """Happenings as the log file has them: what ``-v`` or ``-vv`` tells, and now and then the progress."""

    def __init__(self) -> None:
        self._names = Names()
        self._progress: dict[str | None, float] = {}

    def on_event(self, event: Event) -> None:
        """Log it, if anybody keeps a log."""
        if not _log.isEnabledFor(logging.INFO):
            return
        if isinstance(event, Progress):
            if event.time - self._progress.get(event.info_hash, 0.0) >= PROGRESS_PERIOD:
                self._progress[event.info_hash] = event.time
                _log.info("%s", words.progress_line(self._names.of(event), event))
        elif self._names.learn(event):
            name = self._names.of(event)
            usual = notice(event, name, 1)
            if text := usual or notice(event, name, 2):
                _log.log(logging.INFO if usual else logging.DEBUG, "%s", text)


@contextmanager
def _handled(handler: logging.Handler) -> Iterator[None]:
    """Let ``handler`` have btor's log, and nobody above it, while the context lasts."""
    log = logging.getLogger("btor")
    before = (log.level, log.propagate)
    log.addHandler(handler)
    log.setLevel(min(one.level for one in log.handlers))
    log.propagate = False
    try:
        yield
    finally:
        log.setLevel(before[0])
        log.propagate = before[1]
        log.removeHandler(handler)
        handler.close()


@contextmanager
def logging_to(say: Callable[[str], None], voice: Voice) -> Iterator[None]:
    """Say of btor's log what ``voice`` asks for, while the context lasts."""
    handler = _Said(say)
    level = {0: logging.ERROR, 1: logging.INFO}.get(voice.verbosity, logging.DEBUG)
    handler.setLevel(logging.ERROR if voice.quiet else level)
    handler.setFormatter(
        OneLineFormatter("%(levelname)s %(name)s: %(message)s" if voice.verbosity else "btor: %(message)s")
    )
    with _handled(handler):
        yield


def run_logged(run: Callable[[], int], path: Path, verbosity: int, argv: Sequence[str]) -> int:
    """``run`` a command with a log appended to ``path``. StorageError when the file cannot be opened."""
    try:
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise StorageError.from_os_error("open", str(path), error) from error
    handler.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    with _handled(handler):
        _log.info("version %s: btor %s", __version__, shlex.join(argv))
        try:
            status = run()
        except BtorError as error:
            _log.error("%s", ending.message(error))
            raise
        _log.info("ended with %d", status)
    return status
