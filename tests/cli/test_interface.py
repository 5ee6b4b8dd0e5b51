"""docs/interface.md names everything there is, and nothing else."""

from __future__ import annotations

import dataclasses
import re

import click

from btor import errors
from btor.cli.group import cli
from btor.cli.output import READER_GONE_STATUS
from btor.engine import events
from btor.errors import BtorError
from tests.cli.running import PROJECT

DOCUMENT = (PROJECT / "docs" / "interface.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """The text below a heading, up to the next one of any level."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", DOCUMENT, re.DOTALL | re.MULTILINE)
    assert match is not None, heading
    return match[1]


def test_every_option_is_described() -> None:
    described = set(re.findall(r"`(-{1,2}[a-z][a-z-]*)\b", DOCUMENT)) | set(re.findall(r", `(-{1,2}[a-z-]+)", DOCUMENT))
    context = click.Context(cli)
    known = {"--help", "--version", "-h"}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        known |= {option for parameter in command.params for option in parameter.opts if option.startswith("-")}
    assert described - {"-vv"} <= known
    assert known - described <= {"--help", "--version", "-h", "--verbose"}


def test_every_event_is_described_with_its_fields() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section("JSON"), re.MULTILINE))
    for kind in events.Event.__subclasses__():
        assert kind.event in table, kind
        named = set(re.findall(r"`(\w+)`", table[kind.event]))
        fields = {field.name.rstrip("_") for field in dataclasses.fields(kind)} - {"time", "info_hash"}
        assert fields <= named, kind


def test_every_exit_status_is_described() -> None:
    table = section("Exit status")
    family = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, BtorError)]
    statuses = {error.exit_status for error in family}
    for status in statuses | {0, 129, 130, 143, READER_GONE_STATUS}:
        assert re.search(rf"^\| .*\b{status}\b.* \|", table, re.MULTILINE), status
