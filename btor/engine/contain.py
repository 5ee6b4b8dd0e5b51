"""The one place with a broad ``except``: a bug in one child ends that child, loudly, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

_log = logging.getLogger(__name__)


class Container:
    """Runs children whose unexpected exceptions must not reach their siblings.

    ``failures`` counts them. ``strict`` (tests) re-raises instead. Cancellation always passes through.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.failures = 0

    async def run(self, what: str, child: Callable[..., Awaitable[Any]], *args: Any) -> BaseException | None:
        """Await ``child(*args)``; log an unexpected exception with its traceback, return it and go on."""
        bug = None
        try:
            await child(*args)
        except* Exception as group:
            self._note(what, group)
            if self.strict:
                raise
            bug = group
        return bug

    def call(self, what: str, function: Callable[..., object], *args: Any) -> None:
        """Call ``function(*args)``, which does not wait, with the same protection."""
        try:
            function(*args)
        except Exception as error:
            self._note(what, error)
            if self.strict:
                raise

    def _note(self, what: str, error: BaseException) -> None:
        self.failures += 1
        _log.error("unexpected error in %s, which ends", what, exc_info=error)


def first_of(group: BaseExceptionGroup[Any], kind: type[Any]) -> Any:
    """The first leaf of ``kind`` in an exception group."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return first_of(error, kind)
        if isinstance(error, kind):
            return error
    raise AssertionError("an empty exception group")
