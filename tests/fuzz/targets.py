"""The fuzz targets: each thing in btor that reads what somebody else wrote. Importing this registers all of them."""

from __future__ import annotations

from tests.fuzz import services, state, torrents, wire
from tests.fuzz.harness import CORPORA, TARGETS

__all__ = ["CORPORA", "TARGETS", "services", "state", "torrents", "wire"]
