"""Fixtures of the command line's tests."""

from __future__ import annotations

import pytest

from tests.cli.running import Here


@pytest.fixture
def btor(capfd: pytest.CaptureFixture[str]) -> Here:
    """Call it with a command line."""
    return Here(capfd)
