"""What handshakes of the extension protocol add up to."""

from __future__ import annotations

import pytest

from btor.swarm.extensions import Extensions
from btor.wire.extension import ExtensionHandshake


def test_nothing_is_settled_before_a_handshake() -> None:
    extensions = Extensions()
    assert not extensions.heard and not extensions.takes("ut_pex") and not extensions.upload_only
    with pytest.raises(KeyError):
        extensions.message("ut_pex", b"de")
    extensions.on_handshake(ExtensionHandshake())
    assert extensions.heard and extensions.port is None


def test_a_later_handshake_adds_changes_and_switches_off() -> None:
    extensions = Extensions()
    extensions.on_handshake(
        ExtensionHandshake(
            ids={"ut_pex": 1, "ut_metadata": 2},
            port=6881,
            client="a",
            reqq=10,
            metadata_size=5,
            upload_only=True,
            complete_ago=3,
        )
    )
    assert extensions.message("ut_metadata", b"xy") == b"\0\0\0\4\x14\2xy"
    extensions.on_handshake(ExtensionHandshake(ids={"ut_pex": 0, "ut_metadata": 9, "lt_donthave": 0}))
    assert not extensions.takes("ut_pex")
    assert extensions.message("ut_metadata", b"") == b"\0\0\0\2\x14\x09"
    found = (extensions.port, extensions.client, extensions.reqq, extensions.metadata_size, extensions.complete_ago)
    assert found == (6881, "a", 10, 5, 3)
    assert extensions.upload_only
    extensions.on_handshake(
        ExtensionHandshake(port=1, client="b", reqq=2, metadata_size=3, upload_only=False, complete_ago=-1)
    )
    found = (extensions.port, extensions.client, extensions.reqq, extensions.metadata_size, extensions.complete_ago)
    assert found == (1, "b", 2, 3, -1)
    assert not extensions.upload_only
