"""Targets: what lies in the state directory, which a damaged disk or another program may have written."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from btor.engine import dht_state
from btor.engine.dht_state import DhtState
from btor.storage import claims, resume
from tests.fuzz.harness import target

FOLDER = tempfile.TemporaryDirectory(prefix="btor-fuzz-")


@target("resume_record", resume.decode, resume.FileStats, without=("of", "__setitem__"))
def fuzz_resume_record(data: bytes) -> None:
    """A body is sealed first, so that what stands behind the seal is read too; a whole record is taken as it is."""
    if not data.startswith(resume.MAGIC):
        data = resume.MAGIC + hashlib.sha256(resume.MAGIC + data).digest() + data
    found = resume.decode(data)
    if found is None:
        return
    stats = [found.files[index] for index in range(len(found.files))]
    assert len(stats) == len(found.files) and found.files == resume.FileStats(found.files.to_bytes())
    assert 0 <= len(found.have) <= found.have.size
    if found.have.size and b"\0" not in bytes(found.top):
        again = resume.decode(resume.encode(found))
        assert again is not None and again.have == found.have and again.files == found.files
        assert again.banned == found.banned and again.finished == found.finished


@target("claims", claims._decode)
def fuzz_claims(data: bytes) -> None:
    for claim in claims._decode(data):
        assert claim.way_to(claim) in (((), ()), None)
        assert "\x1b" not in claim.torrent and "\n" not in claim.torrent


@target("dht_state", DhtState.read, DhtState.addresses)
def fuzz_dht_state(data: bytes) -> None:
    folder = Path(FOLDER.name)
    path = Path(dht_state._path(folder))
    path.write_bytes(data)
    found = DhtState.read(folder)
    for ipv6 in (False, True):
        assert len(found.addresses(ipv6)) <= 300
    assert all(len(node_id) == 20 for node_id in found.ids.values())
