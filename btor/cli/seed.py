"""`btor seed`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from btor.cli.options import FILE, SOURCE, NetworkOptions, Voice, network_options, voice_options


@click.command()
@click.argument("torrent", type=SOURCE)
@click.argument("path", type=FILE)
@click.option("--partial", is_flag=True, help="Seed what is there of incomplete content.")
@network_options
@voice_options
def seed(torrent: str, path: Path, **values: Any) -> int:
    """Give content that is there to others, until Ctrl-C.

    TORRENT is a .torrent file; PATH the content itself under any name, or the folder that holds it. Nothing is written
    there.
    """
    voice = Voice.taken_from(values)
    network = NetworkOptions.taken_from(values)

    from btor.cli.lines import reporter_for
    from btor.cli.transfer import Goal, Job, Transfer
    from btor.engine.session import open_session

    job = Job(
        source=torrent,
        output=str(path),
        recheck=network.recheck,
        seed_only=True,
        partial=values["partial"],
        peers=network.peers,
        trackers_enabled=network.trackers,
    )
    return Transfer([job], Goal(seed=True), network.settings(), voice, reporter_for(voice), open_session).run()
