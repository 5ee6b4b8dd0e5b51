"""For the whole suite: a state folder and a DHT of its own, calm Hypothesis, and a list of the interop tests run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Two busy cores stretch any single example; the suite bounds its time as a whole.
hypothesis.settings.register_profile("suite", deadline=None, print_blob=True)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Commands that tests start keep their resume records here, never in the home of who runs the tests."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BTOR_STATE_DIR", str(folder))
        patch.setenv("BTOR_DHT_BOOTSTRAP", "127.0.0.1:9")  # where nobody is: tests ask no public node
        patch.setenv("BTOR_NO_LSD", "1")  # and nobody on the network
        patch.setenv("XDG_STATE_HOME", str(folder / "home"))  # where running torrents say what they write to
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
        yield folder


LONG = ("tests/simulated/test_swarm.py", "tests/tools/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first: begun last, one worker would still be at it when all others have ended."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


class InteropReport:
    """Writes the ids of the interop tests that ran, passed or failed, one a line, to ``$BTOR_INTEROP_REPORT``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ran: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and not report.skipped and report.nodeid.startswith("tests/interop/"):
            self.ran.add(report.nodeid.rpartition("@")[0] or report.nodeid)  # xdist adds @ and the group

    def pytest_sessionfinish(self) -> None:
        self.path.write_text("".join(f"{test}\n" for test in sorted(self.ran)), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    path = os.environ.get("BTOR_INTEROP_REPORT")
    if path and not hasattr(config, "workerinput"):  # under xdist the reports of all workers reach the first process
        config.pluginmanager.register(InteropReport(Path(path)))
