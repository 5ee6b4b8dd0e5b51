"""The documents tell the truth where a machine can see it: their links, and the commands of the README."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from btor.cli.group import cli

PROJECT = Path(__file__).parent.parent
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("torrents/*.md")])


def commands() -> dict[str, click.Command]:
    context = click.Context(cli)
    found = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def anchors(document: Path) -> set[str]:
    """The headings of a document as links name them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            there = document.parent / path if path else document
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


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
