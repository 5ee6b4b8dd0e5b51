"""Where the log goes: what a person must know to standard error, more with ``-v``, all of it to ``--log-file``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from btor.cli.options import Voice
from btor.errors import StorageError
from btor.metainfo.paths import display

LINE_CHARACTERS = 1_000


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

    def emit(self, record: logging.LogRecord) -> None:
        self._say(self.format(record))


@contextmanager
def logging_to(say: Callable[[str], None], voice: Voice) -> Iterator[None]:
    """Send btor's log where ``voice`` says while the context lasts. StorageError when the file cannot be opened."""
    log = logging.getLogger("btor")
    handlers: list[logging.Handler] = [_Said(say)]
    level = {0: logging.ERROR, 1: logging.INFO}.get(voice.verbosity, logging.DEBUG)
    handlers[0].setLevel(logging.ERROR if voice.quiet else level)
    detailed = "%(levelname)s %(name)s: %(message)s"
    handlers[0].setFormatter(OneLineFormatter(detailed if voice.verbosity else "btor: %(message)s"))
    if voice.log_file is not None:
        try:
            handlers.append(logging.FileHandler(voice.log_file, encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise StorageError.from_os_error("open", str(voice.log_file), error) from error
        handlers[1].setLevel(min(level, logging.INFO))
        handlers[1].setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before = (log.level, log.propagate)
    log.setLevel(min(handler.level for handler in handlers))
    log.propagate = False
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        log.setLevel(before[0])
        log.propagate = before[1]
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
