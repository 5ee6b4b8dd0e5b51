"""One operation of the disk fails, in a whole transfer on the simulated network; what must hold then."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

import trio

from btor.errors import StorageError
from btor.limits import BLOCK
from tests.engine.support import Lab, sample
from tests.simulated.schedule import simulate
from tests.storage.torrents import good_pieces

PIECES: Final = 64
CONTENT = sample(PIECES * BLOCK - 100, piece_length=BLOCK)
UP: Final = 200_000  # bytes/s: slow enough for a checkpoint in the middle
SHORT: Final = 0  # in the place of an errno: half of it is written, and no error
CODES: Final = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.EINTR, SHORT)
CALLS: Final = (
    *("open", "pwritev", "preadv", "fsync", "replace", "link", "unlink", "ftruncate"),
    *("mkdir", "fstat", "stat", "lstat", "close", "listdir", "lseek"),
)


class Fault:
    """The ``at``-th operation fails with ``code``, if it is about a file below ``root``."""

    def __init__(self, root: Path, at: int, code: int) -> None:
        self.root = str(root)
        self.at = at
        self.code = code
        self.count = 0
        self.fired = ""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Count, and fail once."""
        traps: dict[str, Any] = {name: self._trapped(name, getattr(os, name)) for name in CALLS}
        with mock.patch.multiple(os, **traps):
            yield

    def _trapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if not self._is_ours(args[0], options.get("dir_fd")):
                return real(*args, **options)
            self.count += 1
            if self.count != self.at:
                return real(*args, **options)
            if self.code == SHORT:
                return self._short(name, real, args, options)
            self.fired = name
            if name == "close":
                real(*args)  # the descriptor is gone, whatever the system says
            raise OSError(self.code, os.strerror(self.code))

        return call

    def _short(self, name: str, real: Callable[..., Any], args: Sequence[Any], options: dict[str, Any]) -> Any:
        if name != "pwritev":
            return real(*args, **options)
        self.fired = name
        fd, views, position = args
        first = next(view for view in views if len(view))
        return real(fd, [first[: max(1, len(first) // 2)]], position)

    def _is_ours(self, what: Any, folder: int | None) -> bool:
        try:
            if isinstance(what, int) or folder is not None:
                return os.readlink(f"/proc/self/fd/{what if folder is None else folder}").startswith(self.root)
        except OSError:
            return False
        return os.fspath(what).startswith(self.root) if isinstance(what, str | os.PathLike) else False


async def _run(lab: Lab, root: Path, fault: Fault) -> set[int]:
    """One run under ``fault``, which may end with an error of the disk; the pieces that it believes."""
    address = await lab.serving(CONTENT, up=UP)
    async with lab.open(state_dir=root / "state") as session:
        with fault.installed():
            found = await session.add(CONTENT.metainfo, directory=root / "here", peers=[address])
            try:
                await found.wait_complete()
                await found.remove()
            except StorageError as error:
                if error.errno != fault.code:
                    raise
        have = found.transfer.have if found.transfer is not None else found.keeper.have
        return set(have)


def transfer(root: Path, at: int, code: int, *, seed: int = 1) -> Fault:
    """A transfer whose ``at``-th operation fails, and one after it that must complete. AssertionError."""
    fault = Fault(root, at, code)
    top = root / "here" / "content"

    async def both(lab: Lab) -> None:
        with trio.fail_after(600):  # virtual
            believed = await _run(lab, root, fault)
            good = good_pieces(CONTENT.metainfo, top) if top.exists() else set()
            assert believed <= good, f"believed and not on disk: {sorted(believed - good)}"
            await _run(lab, root, Fault(root, -1, code))
        assert CONTENT.is_at(top)

    descriptors = len(os.listdir("/proc/self/fd"))
    lab = Lab(root, seed=seed)
    simulate(lambda: lab.run(both), seed=seed)
    assert len(os.listdir("/proc/self/fd")) == descriptors, "a descriptor is left open"
    return fault
