"""Threads at work on something that must not be closed, or given to others, under their hands."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from btor.errors import StorageError


class Users:
    """A thread works inside ``with users:``. One that is stuck cannot be stopped, but what it works on waits for it.

    Entering after `when_gone` is refused with StorageError. ``path``: what this is about.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._inside = 0
        self._then: Callable[[], None] | None = None

    def when_gone(self, then: Callable[[], None]) -> None:
        """Call ``then`` as soon as nobody is inside: now, or in the thread that leaves last."""
        with self._lock:
            self._then = then
            waits = self._inside > 0
        if not waits:
            then()

    def __enter__(self) -> None:
        with self._lock:
            if self._then is not None:
                raise StorageError("use", self._path, "it is being closed")
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            then = None if self._inside else self._then
        if then is not None:
            then()
