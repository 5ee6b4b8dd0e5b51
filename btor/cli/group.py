"""The group of commands: a subcommand is imported when it is used."""

from __future__ import annotations

from importlib import import_module

import click

from btor import __version__
from btor.cli import output

_COMMANDS = {  # in the order of --help: name -> (module and attribute, what it does)
    "download": ("btor.cli.download:download", "Download torrents; end when all is there and verified."),
    "seed": ("btor.cli.seed:seed", "Give content that is complete to others."),
    "create": ("btor.cli.create:create", "Make a .torrent of a file or folder."),
    "info": ("btor.cli.inspect:info", "Show name, sizes, files, trackers, hashes, magnet."),
    "magnet": ("btor.cli.inspect:magnet", "Print the magnet URI, nothing else."),
    "verify": ("btor.cli.inspect:verify", "Hash what is there against the torrent."),
    "tracker": ("btor.cli.tracker:tracker", "Run an embedded HTTP and UDP tracker."),
    "dht": ("btor.cli.dht:dht", "Ask the DHT, or run a node of it."),
    "swarm": ("btor.cli.swarm:swarm", "Run a whole local swarm of processes and verify all of it."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of ``--help``."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now, or None."""
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, written without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, but a bare ``btor`` is an error of one line after the help."""
        if not args and not ctx.resilient_parsing:  # which is a shell that asks how to go on
            output.tell(ctx.get_help())
            raise click.UsageError("no command given", ctx)
        return super().parse_args(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, message="btor %(version)s")
def cli() -> None:
    """Download, seed, create and inspect torrents."""
