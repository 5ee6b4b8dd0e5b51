"""The documents tell the truth where a machine can see it: options, events, links, and the commands of the README."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import click
import pytest

from btor.cli.group import cli
from btor.engine import events

PROJECT = Path(__file__).parent.parent
INTERFACE = (PROJECT / "docs" / "interface.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("torrents/*.md")])
SHARED = {"--json", "--quiet", "--verbose", "--log-file", "--help", "-q", "-v", "-h"}


def commands() -> dict[str, click.Command]:
    context = click.Context(cli)
    found = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def options_of(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts if name.startswith("-")} - SHARED


def documented_options() -> dict[str, set[str]]:
    """Command -> the options that the table names for it."""
    found: dict[str, set[str]] = {name: set() for name in commands()}
    for line in INTERFACE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`-"):
            names = set(re.findall(r"`(--?[a-z-]+)`", cells[0])) - SHARED
            for command in found if cells[1] == "all" else cells[1].split(", "):
                found[command] |= names
    return found


def test_the_table_of_options_is_that_of_the_commands() -> None:
    assert documented_options() == {name: options_of(command) for name, command in commands().items()}


@pytest.mark.parametrize("kind", events.Event.__subclasses__(), ids=lambda kind: kind.event)
def test_each_event_is_described_with_its_fields(kind: type[events.Event]) -> None:
    (line,) = (line for line in INTERFACE.splitlines() if line.startswith(f"| `{kind.event}`"))
    described = re.sub(r"\([^)]*\)", "", line.split("|")[2])
    fields = {field.name.rstrip("_") for field in dataclasses.fields(kind)} - {"time", "info_hash"}
    assert set(re.findall(r"`([a-z_]+)`", described)) == fields


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            path = target.partition("#")[0]
            assert not path or (document.parent / path).exists(), target


def readme_commands() -> list[str]:
    """The lines of the README's code blocks that call btor."""
    blocks = re.findall(r"```\n(.*?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("btor ")]


@pytest.mark.parametrize("line", readme_commands())
def test_the_readme_calls_btor_as_it_is(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, name, *arguments = shlex.split(line)
    monkeypatch.chdir(tmp_path)
    for argument in arguments:  # paths that must exist for the command line to be taken
        if argument.endswith(".torrent") or argument.rstrip("/") in ("album", "torrents/content"):
            path = tmp_path / argument
            path.parent.mkdir(parents=True, exist_ok=True)
            if argument.endswith(".torrent"):
                path.touch()
            else:
                path.mkdir()
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "Downloads").mkdir()
    commands()[name].make_context(name, arguments)


def test_every_command_is_in_the_readme() -> None:
    assert {line.split()[1] for line in readme_commands()} == set(commands())
