"""What every fuzz target shares: what may come out of one, how much an input may cost, and which lines it must reach.

Nothing here knows atheris: the suite replays the committed corpora through the same ``check`` without it.
"""

from __future__ import annotations

import inspect
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType

from btor.errors import BtorError

CORPORA = Path(__file__).parent / "corpus"
SECONDS = 1.0  # of CPU time, an input
MEMORY = 64 * 1024 * 1024  # bytes beyond what the process has, an input
COVERED = 0.95  # of the lines of what a target reads with, from its committed corpus
PAGE = resource.getpagesize()

Run = Callable[[bytes], None]


class OverBoundError(Exception):
    """An input took more than SECONDS."""


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that reads foreign bytes.

    ``run`` reads an input and asserts what holds of the result. ``reads``: the functions and classes it is about. All
    that they lead to in their own modules counts as the decoder, but for the functions named in ``without``.
    """

    name: str
    run: Run
    reads: tuple[object, ...]
    without: frozenset[str]

    @property
    def corpus(self) -> list[Path]:
        """The committed inputs."""
        return sorted((CORPORA / self.name).glob("*"))


TARGETS: dict[str, Target] = {}


def target(name: str, *reads: object, without: Sequence[str] = ()) -> Callable[[Run], Run]:
    """Register a function as a target."""

    def register(run: Run) -> Run:
        TARGETS[name] = Target(name, run, reads, frozenset(without))
        return run

    return register


def check(one: Target, data: bytes) -> None:
    """Give ``data`` to the target. Whatever comes out is a finding: only the BtorError family stays inside.

    OverBoundError after a second of CPU time, MemoryError above 64 MiB.
    """
    with _bounds():
        try:
            one.run(data)
        except BtorError:
            pass


@contextmanager
def _bounds() -> Iterator[None]:
    """A second of CPU time and 64 MiB more than the process has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", "rb") as file:
        size = int(file.read().split()[0]) * PAGE
    before = signal.signal(signal.SIGVTALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _out_of_time(signum: int, frame: FrameType | None) -> None:
    raise OverBoundError(f"more than {SECONDS} s")


# --- which lines are the decoder ---------------------------------------------------------------------------------


def decoder_lines(one: Target) -> dict[str, set[int]]:
    """The executable lines, by file, of what the target reads with.

    A function leads to every function and method of these modules whose name it uses. That takes in too much rather
    than too little.
    """
    known: dict[str, list[CodeType]] = {}
    modules = {sys.modules[getattr(thing, "__module__", "")] for thing in one.reads}
    for module in modules:
        for code in _functions_of(module):
            known.setdefault(code.co_name, []).append(code)
    waiting = [code for thing in one.reads for code in _codes_of(thing)]
    lines: dict[str, set[int]] = {}
    seen: set[CodeType] = set()
    while waiting:
        code = waiting.pop()
        if code in seen or code.co_name in one.without:
            continue
        seen.add(code)
        found = {line for _, _, line in code.co_lines() if line is not None} - {code.co_firstlineno}
        lines.setdefault(code.co_filename, set()).update(found)
        waiting += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
        waiting += [other for name in code.co_names for other in known.get(name, ())]
    return lines


def _functions_of(module: ModuleType) -> Iterator[CodeType]:
    for thing in vars(module).values():
        if getattr(thing, "__module__", None) == module.__name__:
            yield from _codes_of(thing, module.__file__)


def _codes_of(thing: object, file: str | None = None) -> Iterator[CodeType]:
    """The code of a function, or of the methods of a class, that stands in ``file``."""
    if isinstance(thing, type):
        for member in vars(thing).values():
            yield from _codes_of(member, inspect.getsourcefile(thing))
        return
    if isinstance(thing, property):
        thing = thing.fget
    function = inspect.unwrap(getattr(thing, "__func__", thing))  # type: ignore[arg-type]  # is looked at below
    if isinstance(function, FunctionType) and file in (None, function.__code__.co_filename):
        yield function.__code__
