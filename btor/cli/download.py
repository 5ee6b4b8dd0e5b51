"""`btor download`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from btor.cli.options import (
    DIRECTORY,
    DURATION,
    FILE,
    FILES,
    GLOB,
    RATIO,
    SOURCE,
    NetworkOptions,
    Voice,
    network_options,
    voice_options,
)
from btor.cli.sources import refusal
from btor.errors import UsageError

if TYPE_CHECKING:
    from btor.metainfo.selection import Ranges, Selection


def linked(output: Path) -> str:
    """Where the content goes when the person names ``output``, who may have made a link of it."""
    return os.path.realpath(output) if output.is_symlink() else str(output)


def selection(numbers: Ranges, include: tuple[str, ...], exclude: tuple[str, ...]) -> Selection | None:
    """What the options name, if they name anything."""
    if not (numbers or include or exclude):
        return None
    from btor.metainfo.selection import Selection

    return Selection(numbers, include, exclude)


@click.command()
@click.argument("sources", type=SOURCE, nargs=-1, required=True, metavar="SOURCE...")
@click.option("-d", "--directory", type=DIRECTORY, metavar="DIR", help="Where the content goes. [default: here]")
@click.option("-o", "--output", type=FILE, metavar="PATH", help="The content's own place and name (one SOURCE).")
@click.option(
    "--files", type=FILES, metavar="1,3-5", help="Only these, as `btor info --files` numbers them (one SOURCE)."
)
@click.option("--include", type=GLOB, multiple=True, metavar="GLOB", help="Only files of such names; repeatable.")
@click.option("--exclude", type=GLOB, multiple=True, metavar="GLOB", help="No files of such names; repeatable.")
@click.option("--overwrite", is_flag=True, help="Replace a file in the way that holds nothing of the torrent.")
@click.option("--sync", is_flag=True, help="End only when the content is durable on disk.")
@click.option("--wait-for-space", is_flag=True, help="When the disk is full, wait instead of ending.")
@click.option("--timeout", type=DURATION, metavar="T", help="Give up when nothing comes for that long: 30s, 10m, 2h.")
@click.option("--seed", is_flag=True, help="Go on seeding when complete.")
@click.option("--seed-ratio", type=RATIO, metavar="R", help="Seed until R times the size was sent, in all runs.")
@click.option("--seed-time", type=DURATION, metavar="T", help="Seed for that long.")
@network_options
@voice_options
def download(sources: tuple[str, ...], **values: Any) -> int:
    """Download torrents; end when everything is there and verified.

    SOURCE is a .torrent file, an http(s) URL of one, a magnet URI or a 40-digit info-hash. The same command again goes
    on where the last one stopped.
    """
    voice = Voice.taken_from(values)
    network = NetworkOptions.taken_from(values)
    directory, output = values["directory"], values["output"]
    if directory is not None and output is not None:
        raise UsageError("download: -d and -o exclude each other: -o is the whole path of the content")
    if output is not None and len(sources) > 1:
        raise UsageError("download: -o names one torrent's content, but there is more than one SOURCE")
    if values["files"] and len(sources) > 1:
        raise UsageError("download: --files numbers the files of one torrent, but there is more than one SOURCE")

    from btor.cli.lines import reporter_for
    from btor.cli.transfer import Goal, Job, Transfer
    from btor.engine.session import open_session

    jobs = [
        Job(
            source=source,
            refused=refusal(source),
            directory=str(directory or "."),
            output=None if output is None else linked(output),
            overwrite=values["overwrite"],
            recheck=network.recheck,
            peers=network.peers,
            trackers_enabled=network.trackers,
            sync=values["sync"],
            wait_for_space=values["wait_for_space"],
            selection=selection(values["files"] or (), values["include"], values["exclude"]),
        )
        for source in sources
    ]
    goal = Goal(
        seed=values["seed"] or values["seed_ratio"] is not None or values["seed_time"] is not None,
        ratio=values["seed_ratio"],
        seed_seconds=values["seed_time"],
        timeout=values["timeout"],
    )
    return Transfer(jobs, goal, network.settings(), voice, reporter_for(voice), open_session).run()
