"""How one torrent is to be treated, as said when it is added."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from btor.metainfo.selection import Selection
from btor.settings import check_rates


@dataclass(frozen=True, slots=True)
class AddOptions:
    """What ``Session.add`` was told; the meaning is said there. ``place`` is the content itself, or its folder."""

    place: Path
    place_is_content: bool
    overwrite: bool
    recheck: bool
    seed_only: bool
    partial: bool
    trackers_enabled: bool
    sync: bool
    wait_for_space: bool
    selection: Selection | None
    max_download: int | None
    max_upload: int | None
    metadata_only: bool

    def __post_init__(self) -> None:
        check_rates(max_download=self.max_download, max_upload=self.max_upload)
