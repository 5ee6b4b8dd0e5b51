"""`btor swarm`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from btor.cli.options import FILE, PROCESSES, RATE, Voice, voice_options


@click.command()
@click.argument("torrent", type=FILE)
@click.argument("path", type=FILE)
@click.option("--leechers", type=PROCESSES, default="2", show_default=True, metavar="N")
@click.option("--seeders", type=PROCESSES, default="1", show_default=True, metavar="N")
@click.option(
    "--max-download",
    "rates",
    type=RATE,
    multiple=True,
    metavar="RATE",
    help="Of each leecher; given several times: of the first, the second and so on, the last also of the rest.",
)
@click.option(
    "--trackerless", is_flag=True, help="No tracker: a DHT node, and leechers that have nothing but a magnet link."
)
@click.option("--keep", is_flag=True, help="Keep what the leechers downloaded, and the logs; say where.")
@voice_options
def swarm(torrent: Path, path: Path, **values: Any) -> int:
    """Run a whole swarm on this machine: a tracker, seeders and leechers, each a process of its own, on loopback.

    With --trackerless they find each other by the DHT alone.

    It ends when every leecher has everything, compares SHA-256 sums of what they have with the original, and fails if
    any process died. PATH is the content of TORRENT, or the folder that holds it.
    """
    voice = Voice.taken_from(values)

    from btor.cli.lines import reporter_for
    from btor.cli.local_swarm import Plan, run

    plan = Plan(
        torrent=torrent,
        path=path,
        leechers=values["leechers"],
        seeders=values["seeders"],
        rates=values["rates"],
        trackerless=values["trackerless"],
        keep=values["keep"],
    )
    return run(plan, voice, reporter_for(voice))
