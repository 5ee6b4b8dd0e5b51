"""The house rules that a machine can see: imports run downwards only, files stay small, nothing is caught broadly.

The rules are data here and the checks are functions over a folder, so that the same checks can be shown to fail on a
folder with planted breaches.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

BTOR = Path(__file__).parent.parent / "btor"
GROUND = {"bencode", "errors", "limits", "settings"}
PURE = {"metainfo", "wire", "swarm", "dht"}

# What each folder may import of btor: names of folders, "ground", or one module as "folder.module".
MAY_IMPORT: dict[str, set[str]] = {
    "ground": {"ground"},
    "metainfo": {"ground", "metainfo"},
    "wire": {"ground", "metainfo", "wire"},
    "swarm": {"ground", "metainfo", "wire", "swarm"},
    "dht": {"ground", "metainfo", "wire", "dht"},
    "storage": {"ground", "metainfo", "storage"},
    "engine": {"ground", "metainfo", "wire", "swarm", "dht", "storage", "engine"},
    "tracker": {"ground", "metainfo", "wire", "tracker", "engine.udp", "engine.transport", "engine.contain"},
    "cli": set(),  # everything
    "root": set(),  # btor/__main__.py, likewise; btor/__init__.py resolves names on first use and imports nothing
}
IMPURE_MODULES = {"trio", "socket", "select", "selectors", "time", "random", "secrets", "os", "threading", "asyncio"}
LIBRARIES_OF: dict[str, set[str]] = {  # third-party libraries, and no others
    "ground": {"bencodepy"},
    "metainfo": set(),
    "wire": set(),
    "swarm": set(),
    "dht": set(),
    "storage": set(),
    "engine": {"trio", "outcome", "httpx2", "httpcore2", "h11", "truststore"},
    "tracker": {"trio", "h11"},
    "cli": {"trio", "click", "rich", "platformdirs"},
    "root": set(),
}
FILE_LINES = 550  # "about 500": one idea a file
FUNCTION_LINES = 60  # "about 50", docstring not counted
LONG_FUNCTIONS = {"bencode.py: _scan"}  # one loop over the tokens: a call for each would double its time
MAY_CATCH_ALL = {"engine/contain.py"}
MAY_OPEN_FILES = {"storage", "cli"}
FILE_CALLS = {"read_bytes", "read_text", "write_bytes", "write_text"}


@dataclass(frozen=True)
class Import:
    """One imported module: its dotted name, and the line."""

    module: str
    line: int


def folder_of(path: str) -> str:
    """The row of the table that the file ``path`` (relative to btor/, with slashes) belongs to."""
    if "/" in path:
        return path.split("/")[0]
    return "ground" if path.removesuffix(".py") in GROUND else "root"


def files_of(root: Path) -> dict[str, ast.Module]:
    """Every Python file below ``root``, parsed, by its relative path with slashes."""
    return {
        path.relative_to(root).as_posix(): ast.parse(path.read_text(encoding="utf-8"), str(path))
        for path in sorted(root.rglob("*.py"))
    }


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def imports_of(path: str, tree: ast.Module, modules: set[str]) -> list[Import]:
    """Everything the file imports anywhere, lazily or not, except under ``if TYPE_CHECKING``.

    ``modules``: the dotted names that exist below btor, so that ``from btor import limits`` is told from a lazy name.
    """
    package = ["btor", *path.split("/")[:-1]]
    found: list[Import] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and is_type_checking(node.test):
            for branch in node.orelse:
                visit(branch)
            return
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.append(Import(inner if inner in modules or source == "btor" else source, node.lineno))
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                target = node.args[0] if node.args else None
                literal = target.value if isinstance(target, ast.Constant) else "?"
                found.append(Import(str(literal), node.lineno))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def allowed(folder: str, module: str) -> bool:
    """Whether ``folder`` may import ``module`` (dotted name of anything)."""
    top, *rest = module.split(".")
    if top == "?":  # by a name that is computed: nobody can check it, so only those that may import everything
        return folder in ("cli", "root")
    if top == "btor":
        if folder in ("cli", "root"):
            return True
        if not rest:
            return False
        if len(rest) == 1 and rest[0] in GROUND:
            return "ground" in MAY_IMPORT[folder]
        return rest[0] in MAY_IMPORT[folder] or ".".join(rest[:2]) in MAY_IMPORT[folder]
    if folder in PURE and top in IMPURE_MODULES:
        return False
    return top in sys.stdlib_module_names or top in LIBRARIES_OF[folder]


def upward_imports(root: Path) -> Iterator[str]:
    """One line per import that runs up, per module a folder must not use, per library that is not its."""
    files = files_of(root)
    modules = {"btor." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files}
    modules |= {f"btor.{path.split('/')[0]}" for path in files if "/" in path}
    for path, tree in files.items():
        if path == "__init__.py":
            continue
        folder = folder_of(path)
        if folder not in MAY_IMPORT:
            yield f"{path}: {folder} is in no row of the table"
            continue
        for item in imports_of(path, tree, modules):
            if not allowed(folder, item.module):
                yield f"{path}:{item.line}: {folder} imports {item.module}"


def names_caught(handler: ast.ExceptHandler) -> Iterator[str]:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    for kind in kinds:
        if kind is None:
            yield "everything"
        elif isinstance(kind, ast.Name):
            yield kind.id
        elif isinstance(kind, ast.Attribute):
            yield kind.attr


def broad_excepts(root: Path) -> Iterator[str]:
    """One line per handler of everything outside the one file that may have them."""
    for path, tree in files_of(root).items():
        if path in MAY_CATCH_ALL:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                for name in names_caught(node):
                    if name in ("everything", "Exception", "BaseException"):
                        yield f"{path}:{node.lineno}: catches {name}"


def function_length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body without the docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or node.lineno) - body[0].lineno + 1 if body else 0


def large_rooms(root: Path) -> Iterator[str]:
    """One line per file or function that has outgrown one idea."""
    for path, tree in files_of(root).items():
        lines = len((root / path).read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES:
            yield f"{path}: {lines} lines"
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or f"{path}: {node.name}" in LONG_FUNCTIONS:
                continue
            if function_length(node) > FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {function_length(node)} lines"


def files_opened(root: Path) -> Iterator[str]:
    """One line per call that opens a file outside the folders that may."""
    for path, tree in files_of(root).items():
        if folder_of(path) in MAY_OPEN_FILES:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            call = node.func
            if isinstance(call, ast.Name) and call.id == "open":
                yield f"{path}:{node.lineno}: open()"
            elif isinstance(call, ast.Attribute) and (
                call.attr in FILE_CALLS
                or (call.attr == "open" and isinstance(call.value, ast.Name) and call.value.id in ("os", "io"))
            ):
                yield f"{path}:{node.lineno}: .{call.attr}()"


def test_imports_run_downwards() -> None:
    assert list(upward_imports(BTOR)) == []


def test_only_contain_catches_everything() -> None:
    assert list(broad_excepts(BTOR)) == []


def test_only_storage_opens_files() -> None:
    assert list(files_opened(BTOR)) == []


def test_rooms_are_small() -> None:
    assert list(large_rooms(BTOR)) == []


def test_the_package_imports_nothing_before_it_is_asked() -> None:
    tree = ast.parse((BTOR / "__init__.py").read_text(encoding="utf-8"))
    imported = imports_of("__init__.py", tree, set())
    assert {item.module for item in imported} <= {"__future__", "importlib", "typing", "?"}
    code = "import btor, sys; print(*[name for name in sys.modules if name.startswith('btor.')])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == ""


def test_every_public_name_resolves() -> None:
    code = "import btor; [getattr(btor, name) for name in btor.__all__]; print('ok')"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert answer.stdout.strip() == "ok", answer.stderr


PLANTED = {
    "wire to swarm": ("wire/a.py", "from btor.swarm.picker import Picker\n", 1),
    "relative": ("wire/a.py", "from ..swarm import picker\n", 1),
    "lazy": ("metainfo/a.py", "def f():\n    from btor.storage import files\n    return files\n", 1),
    "by name": ("swarm/a.py", "import importlib\nx = importlib.import_module('btor.engine.peer')\n", 1),
    "dynamic": ("swarm/a.py", "import importlib\nx = importlib.import_module(name)\n", 1),
    "clock": ("swarm/a.py", "import time\n", 1),
    "chance": ("swarm/a.py", "from random import Random\n", 1),
    "system": ("metainfo/a.py", "import os.path\n", 1),
    "trio below": ("storage/a.py", "import trio\n", 1),
    "storage to wire": ("storage/a.py", "from btor.wire import messages\n", 1),
    "engine to cli": ("engine/a.py", "import btor.cli.main\n", 1),
    "tracker to the engine": ("tracker/a.py", "from btor.engine.session import Session\n", 1),
    "lazy name": ("engine/a.py", "from btor import Settings\n", 1),
    "library": ("wire/a.py", "import h11\n", 1),
    "rich outside": ("engine/a.py", "import rich.table\n", 1),
    "new folder": ("helpers/a.py", "import json\n", 1),
    "ground": ("errors.py", "from btor.metainfo import paths\n", 1),
    "else branch": (
        "wire/a.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import trio\nelse:\n    import time\n",
        1,
    ),
    "as a type": ("swarm/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import random\n", 0),
    "ground floor": ("wire/a.py", "from btor import limits\nfrom btor.errors import PeerError\n", 0),
    "downwards": ("engine/a.py", "import trio\nfrom btor.swarm.picker import Picker\nfrom . import peer\n", 0),
    "tracker to the hub": ("tracker/a.py", "from btor.engine.udp import UdpHub\nimport h11\n", 0),
}


@pytest.mark.parametrize(("path", "source", "breaches"), PLANTED.values(), ids=PLANTED.keys())
def test_planted_imports_are_found(tmp_path: Path, path: str, source: str, breaches: int) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(source)
    assert len(list(upward_imports(tmp_path))) == breaches


@pytest.mark.parametrize(
    ("clause", "breaches"),
    [
        ("except:", 1),
        ("except Exception:", 1),
        ("except (ValueError, BaseException):", 1),
        ("except* Exception:", 1),
        ("except builtins.Exception as error:", 1),
        ("except (OSError, ValueError):", 0),
    ],
)
def test_planted_handlers_are_found(tmp_path: Path, clause: str, breaches: int) -> None:
    (tmp_path / "engine").mkdir()
    source = f"try:\n    pass\n{clause}\n    pass\n"
    (tmp_path / "engine/peer.py").write_text(source)
    (tmp_path / "engine/contain.py").write_text(source)
    assert len(list(broad_excepts(tmp_path))) == breaches


@pytest.mark.parametrize("call", ["open(name)", "os.open(name, 0)", "path.read_bytes()"])
def test_planted_openings_are_found(tmp_path: Path, call: str) -> None:
    for folder in ("engine", "storage"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text(f"x = {call}\n")
    assert len(list(files_opened(tmp_path))) == 1


def test_planted_large_rooms_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n" * FILE_LINES)
    (tmp_path / "b.py").write_text("def f():\n" + '    """Short."""\n' + "    x = 1\n" * FUNCTION_LINES)
    assert list(large_rooms(tmp_path)) == []
    (tmp_path / "a.py").write_text("x = 1\n" * (FILE_LINES + 1))
    (tmp_path / "b.py").write_text("def f():\n" + "    x = 1\n" * (FUNCTION_LINES + 1))
    assert len(list(large_rooms(tmp_path))) == 2
