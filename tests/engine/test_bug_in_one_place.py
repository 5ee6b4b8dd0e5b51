"""F12: an exception at every await of the tasks of one peer, one at a time, ends that peer and nothing else.

The coroutines of the engine are compiled anew with a trap around each ``await`` and ``async with``. A first run of a
fixed transfer in virtual time notes which of them the tasks of one peer, the victim, come by, and how often; then each
is run again with what nobody expects raised there, before the await or after it.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import inspect
import logging
import os
import pkgutil
import struct
import textwrap
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FunctionType, TracebackType
from typing import Any, Final, Literal

import pytest
import trio

import btor.engine
from btor.engine.dial import Dialler
from btor.engine.events import PeerChange
from btor.engine.listener import Porter
from btor.engine.peer import Peer
from btor.engine.session import Session
from btor.engine.torrent import Torrent
from btor.engine.transfer import Transfer
from btor.limits import BLOCK, HANDSHAKE_TIMEOUT
from btor.storage.files import Content
from btor.wire.address import format_address
from tests.engine.support import Lab, sample, until
from tests.simulated.network import Host
from tests.simulated.schedule import simulate
from tests.simulated.scripted_peer import HAVE, INTERESTED, REQUEST, UNCHOKE, DisconnectedError, ScriptedPeer
from tests.simulated.stream import SimulatedTransport

CONTENT = sample(8 * 2 * BLOCK)
OURS, VICTIM = "30.0.0.1", "40.0.0.1"
SEEDER, LEECHER = "40.0.1.1", "40.0.2.1"
LIMIT = 300.0  # virtual seconds

Site = tuple[str, int, str]  # function, line, and whether before or after
Role = Literal["dialled", "dials"]


class UnexpectedError(Exception):
    """What nobody expects."""


# --- traps around every await ----------------------------------------------------------------------------------------


class Traps:
    """Which awaits the victim's tasks came by; ``site`` and ``occurrence`` say where to raise."""

    def __init__(self, site: Site | None = None, occurrence: int = 0) -> None:
        self.site = site
        self.occurrence = occurrence
        self.passed: Counter[Site] = Counter()
        self.sprung = False
        self.tasks: set[trio.lowlevel.Task] = set()
        self.left: list[str] = []  # tasks of the session at the end

    def step(self, function: str, line: int, when: str) -> None:
        site = (function, line, when)
        if not self._is_victim():
            return
        self.passed[site] += 1
        if site == self.site and self.passed[site] == self.occurrence:
            self.sprung = True
            raise UnexpectedError(site)

    def _is_victim(self) -> bool:
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        while task is not None and task not in self.tasks:
            task = None if task.parent_nursery is None else task.parent_nursery.parent_task
        return task is not None

    async def around(self, function: str, line: int, awaitable: Awaitable[Any]) -> Any:
        try:
            self.step(function, line, "before")
        except UnexpectedError:
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            raise
        result = await awaitable
        try:
            self.step(function, line, "after")
        except UnexpectedError:
            if hasattr(result, "close"):  # an await that raises hands nothing over
                result.close()
            raise
        return result

    def context(self, function: str, line: int, manager: Any) -> Any:
        return TrappedContext(self, function, line, manager)


class TrappedContext:
    """An asynchronous context manager with a trap before it is entered and one after it is left."""

    def __init__(self, traps: Traps, function: str, line: int, manager: Any) -> None:
        self.traps = traps
        self.place = (function, line)
        self.manager = manager

    async def __aenter__(self) -> Any:
        self.traps.step(*self.place, "before")
        return await self.manager.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> Any:
        silenced = await self.manager.__aexit__(kind, error, where)
        if error is None:
            self.traps.step(*self.place, "after")
        return silenced


class TrapSetter(ast.NodeTransformer):
    """Puts the calls of the traps into a function."""

    def __init__(self, function: str, first_line: int) -> None:
        self.function = function
        self.first_line = first_line

    def _call(self, method: str, line: int, inner: ast.expr) -> ast.Call:
        traps = ast.Attribute(ast.Name("_traps_", ast.Load()), method, ast.Load())
        return ast.Call(traps, [ast.Constant(self.function), ast.Constant(self.first_line - 1 + line), inner], [])

    def visit_Await(self, node: ast.Await) -> ast.AST:
        self.generic_visit(node)
        return ast.copy_location(ast.Await(self._call("around", node.lineno, node.value)), node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        self.generic_visit(node)
        for item in node.items:
            item.context_expr = self._call("context", node.lineno, item.context_expr)
        return node


def trapped(function: FunctionType) -> FunctionType | None:
    """The same function with traps; None where there is nothing to trap, or it is not a plain coroutine function."""
    if not inspect.iscoroutinefunction(function) or function.__code__.co_freevars:
        return None
    lines, first = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    [definition] = tree.body
    if not isinstance(definition, ast.AsyncFunctionDef) or definition.decorator_list:
        return None
    TrapSetter(function.__qualname__, first).visit(definition)
    future = ast.parse("from __future__ import annotations").body
    module = ast.fix_missing_locations(ast.Module([*future, definition], []))
    ast.increment_lineno(definition, first - 1)
    made: dict[str, Any] = {}
    exec(compile(module, function.__code__.co_filename, "exec"), function.__globals__, made)  # our own source
    result: FunctionType = made[function.__name__]
    result.__defaults__, result.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return result


@functools.lru_cache
def all_trapped() -> list[tuple[Any, str, FunctionType]]:
    """(owner, name, function with traps) of every coroutine function in the engine."""
    modules = [
        importlib.import_module(f"btor.engine.{info.name}") for info in pkgutil.iter_modules(btor.engine.__path__)
    ]
    classes = {one for module in modules for one in vars(module).values() if inspect.isclass(one)}
    made: dict[FunctionType, FunctionType | None] = {}
    found = []
    for owner in (*modules, *classes):
        for name, value in list(vars(owner).items()):
            if isinstance(value, FunctionType) and value.__module__.startswith("btor.engine."):
                if value not in made:
                    made[value] = trapped(value)
                if (function := made[value]) is not None:
                    found.append((owner, name, function))
    return found


def mark(
    patch: pytest.MonkeyPatch, traps: Traps, owner: Any, name: str, parties: Callable[..., tuple[Session, str]]
) -> None:
    """The task that runs ``owner.name`` is the victim's, if it is ours with the victim: by its arguments."""
    real = getattr(owner, name)

    async def call(*args: Any) -> Any:
        task = trio.lowlevel.current_task()
        session, ip = parties(*args)
        if ip == VICTIM and OURS in session.network.ips:  # type: ignore[attr-defined]  # a simulated host
            traps.tasks.add(task)
        try:
            return await real(*args)
        finally:
            traps.tasks.discard(task)

    patch.setattr(owner, name, call)


def set_traps(patch: pytest.MonkeyPatch, traps: Traps) -> None:
    for owner, name, function in all_trapped():
        patch.setattr(owner, name, function)
    patch.setattr(builtins, "_traps_", traps, raising=False)
    mark(patch, traps, Transfer, "_serve", lambda exchange, peer: (exchange.session, peer.address[0]))
    mark(patch, traps, Dialler, "_dial", lambda dialler, _, address: (dialler._session, address[0]))
    mark(patch, traps, Porter, "_greet", lambda porter, transport, *_: (porter._session, transport.remote[0]))


# --- the fixed transfer ----------------------------------------------------------------------------------------------


async def give_and_take(peer: ScriptedPeer) -> None:
    """A seeder that also asks for what it is told of, so that all that a peer does is done."""
    length = CONTENT.metainfo.geometry.piece_length
    asked = 0
    try:
        await peer.send(INTERESTED)
        while True:
            said = await peer.receive()
            if said.id == INTERESTED:
                await peer.send(UNCHOKE)
            elif said.id == REQUEST:
                piece, begin, size = struct.unpack(">III", said.payload)
                await peer.block(piece, begin, CONTENT.content[piece * length + begin :][:size])
            if said.id in (UNCHOKE, HAVE):
                for heard in [one for one in peer.heard if one.id == HAVE][asked:]:
                    asked += 1
                    await peer.request(int.from_bytes(heard.payload, "big"), 0)
    except DisconnectedError:
        return


async def play_victim(lab: Lab, found: Torrent, role: Role, host: Any) -> None:
    """As often as the connection ends, there is another one."""
    caller = await lab.listen(host) if role == "dialled" else None
    if caller is not None:
        assert found.transfer is not None
        found.transfer.add_peers([caller.address], "tracker")
    while True:
        try:
            if caller is not None:
                peer = await caller.accept(CONTENT, after=0.1)
            else:
                peer = await lab.join(found, host)
            await peer.bitfield(range(CONTENT.pieces - 4), CONTENT.pieces)
            await give_and_take(peer)
        except DisconnectedError:
            await trio.sleep(0.5)


class Siblings:
    """What must not happen to them is noted."""

    def __init__(self, found: Torrent) -> None:
        self.lost: list[PeerChange] = []
        self.events = found.events()

    async def watch(self) -> None:
        async for event in self.events:
            if isinstance(event, PeerChange) and event.change != "connected" and VICTIM not in event.address:
                self.lost.append(event)


async def transfer(lab: Lab, traps: Traps, role: Role, strict: bool) -> None:
    """The victim, a seeder and a leecher; the one in the middle has a limit, a small socket and a cold disk."""
    lab.world.send_buffer = BLOCK
    host = lab.host(OURS, up=400_000)
    assert isinstance(host, Host)
    with trio.fail_after(LIMIT):
        async with lab.open(host, strict=strict, max_upload=300_000) as session, trio.open_nursery() as nursery:
            found = await session.add(CONTENT.metainfo, directory=lab.place())
            await until(lambda: found.transfer is not None and found.transfer.active)
            assert found.transfer is not None
            siblings = Siblings(found)
            nursery.start_soon(siblings.watch)
            nursery.start_soon(play_victim, lab, found, role, lab.host(VICTIM, up=200_000))
            seeder = await lab.serving(CONTENT, up=40_000, ip=SEEDER)
            found.transfer.add_peers([seeder], "tracker")
            async with lab.open(lab.host(LEECHER)) as other:
                last = await other.add(CONTENT.metainfo, directory=lab.place(), peers=[lab.address(session)])
                await found.wait_complete()
                lost = [event for event in siblings.lost if event.address == format_address(seeder)]
                assert [event.reason for event in lost] in ([], ["both are complete"])
                await last.wait_complete()
                assert CONTENT.is_at(last.keeper.content.top)
            assert CONTENT.is_at(found.keeper.content.top)
            assert found.error is None and found.bug is None
            traps.left = await tasks_at_rest(found, host)
            assert session.container.failures == traps.sprung
            nursery.cancel_scope.cancel()
    assert not host.ends, "connections are left"
    assert not host.listeners, "ports are left"


async def tasks_at_rest(found: Torrent, host: Host) -> list[str]:
    """Which tasks the session has when the torrent has left the swarm; all that a peer had is given back by then."""
    session, transfer = found.session, found.transfer
    assert transfer is not None
    await found.pause()
    await until(lambda: not transfer.dialling, step=0.1)
    await trio.sleep(HANDSHAKE_TIMEOUT + 1)  # whoever came after that has been refused
    assert not (transfer.peers or transfer.picker.sources)
    assert not host.ends, "connections are left"
    assert session.dial_budget.half_open == session.disk.queued == 0
    transfer.picker.check_invariants()
    transfer.book.check_invariants()
    return sorted(task.name for nursery in (session._inner, session._outer) for task in tasks_of(nursery))


def tasks_of(nursery: trio.Nursery) -> Iterator[trio.lowlevel.Task]:
    for task in nursery.child_tasks:
        yield task
        for inner in task.child_nurseries:
            yield from tasks_of(inner)


def run(folder: Path, role: Role, site: Site | None = None, occurrence: int = 0, *, strict: bool = False) -> Traps:
    """One transfer; the traps afterwards."""
    traps = Traps(site, occurrence)
    cold = Content.read_into

    def read_into(content: Content, offset: int, views: Any, *, cached_only: bool = False) -> bool:
        return False if cached_only else cold(content, offset, views)

    with pytest.MonkeyPatch.context() as patch:
        set_traps(patch, traps)
        patch.setattr(Content, "read_into", read_into)
        lab = Lab(folder)

        async def main() -> None:
            await lab.run(lambda lab: transfer(lab, traps, role, strict))

        simulate(main, limit=2 * LIMIT)
    return traps


def runs(passed: Counter[Site]) -> Iterator[tuple[Site, int]]:
    """Where to raise: at the first time that a place is passed, at one in the middle, at the last."""
    for site, times in sorted(passed.items()):
        for occurrence in sorted({1, (1 + times) // 2, times}):
            yield site, occurrence


# --- the tests -------------------------------------------------------------------------------------------------------

HANDSHAKES: Final = {  # what a connection begins with, by who dials; what follows is the same
    "dialled": {"_dial", "initiate", "read_exactly"},
    "dials": {"_greet", "accept", "read_exactly"},
}
LATER: Final = {"_serve", "run", "_read", "_write", "warm", "allowance"}


def name_of(site: Site) -> str:
    """The function, without its class."""
    return site[0].rpartition(".")[2]


@pytest.mark.parametrize("role", HANDSHAKES)
def test_F12_a_bug_in_one_peer(tmp_path: Path, role: Role, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "btor")  # the tracebacks of so many bugs
    record = run(tmp_path / "record", role)
    assert not record.sprung
    functions = {name_of(site) for site in record.passed}
    assert functions >= HANDSHAKES[role] | LATER, "the transfer does not do all that a peer does"
    tried = functions if role == "dialled" else HANDSHAKES[role]
    descriptors = set(os.listdir("/proc/self/fd"))
    for number, (site, occurrence) in enumerate(runs(record.passed)):
        if name_of(site) not in tried:
            continue
        try:
            traps = run(tmp_path / str(number), role, site, occurrence)
        except BaseException as error:
            error.add_note(f"with an exception at {site}, time {occurrence}")
            raise
        assert traps.sprung, (site, occurrence)
        assert traps.left == record.left, (site, occurrence)
    assert set(os.listdir("/proc/self/fd")) <= descriptors


def first_read(folder: Path) -> Site:
    return next(site for site in run(folder, "dialled").passed if name_of(site) == "_read")


def test_F12_a_bug_that_is_not_contained_is_noticed(tmp_path: Path) -> None:
    site = first_read(tmp_path / "record")
    with pytest.raises(UnexpectedError):
        run(tmp_path / "bare", "dialled", site, 1, strict=True)


def test_F12_a_sibling_that_ends_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = first_read(tmp_path / "record")
    gone = Transfer._gone

    def all_gone(exchange: Transfer, peer: Peer) -> None:
        gone(exchange, peer)
        exchange.close_peers("one has gone")

    monkeypatch.setattr(Transfer, "_gone", all_gone)
    with pytest.raises(AssertionError, match="one has gone"):
        run(tmp_path / "broken", "dialled", site, 3)


def test_F12_what_is_left_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedTransport, "close", lambda _: None)
    with pytest.raises(AssertionError, match="connections are left"):
        run(tmp_path / "record", "dialled")
