"""What a session can be told, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from btor.errors import UsageError
from btor.settings import Settings

GOOD: list[dict[str, Any]] = [
    {"port": 0, "dht_port": 65_535},
    {"max_download": 1, "max_upload": None},
    {"max_peers": 1, "upload_slots": 0},
    {"bind": ("127.0.0.1", "::1")},
]
BAD: list[tuple[str, Any]] = [
    ("port", 65_536),
    ("port", -1),
    ("dht_port", 70_000),
    ("max_download", 0),
    ("max_upload", -1),
    ("max_peers", 0),
    ("upload_slots", -1),
    ("bind", ("127.0.0.1", "foo")),
]


@pytest.mark.parametrize("values", GOOD)
def test_what_can_be(values: dict[str, Any]) -> None:
    settings = Settings(**values)
    assert all(getattr(settings, name) == value for name, value in values.items())


@pytest.mark.parametrize(("name", "value"), BAD)
def test_what_cannot_be(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name}: "):
        Settings(**{name: value})
