"""The kinds of values that options take, and what each option becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from btor.cli import options
from btor.errors import UsageError
from btor.settings import DHT_ROUTERS


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512),
        ("500K", 500_000),
        ("500k", 500_000),
        ("5M", 5_000_000),
        ("1.5MB", 1_500_000),
        ("2G", 2_000_000_000),
        ("256KiB", 262_144),
        ("1MiB", 1_048_576),
        ("1 mib", 1_048_576),
        ("1Mi", 1_048_576),
        ("0", 0),
        ("3B", 3),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert options.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "-1", "1X", "1iB", "1e6", "0x10", "1,5M", "٣", "1" * 16, "1.5.2M", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is needed"):
        options.parse_size(text)


@pytest.mark.parametrize(("text", "rate"), [("500K", 500_000), ("5MB/s", 5_000_000), ("1MiB/s", 1_048_576), ("1", 1)])
def test_rates(text: str, rate: int) -> None:
    assert options.parse_rate(text) == rate


@pytest.mark.parametrize("text", ["0", "0K", "fast", "/s", "-5K"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is needed"):
        options.parse_rate(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("1d", 86_400), ("90", 90), ("0.5s", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert options.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "s", "m", "-3s", "1y", "1m2h", "10 m", "1e3"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is needed"):
        options.parse_duration(text)


@given(st.integers(0, 10**12))
def test_plain_numbers_are_bytes(number: int) -> None:
    assert options.parse_size(str(number)) == number


@given(st.text(max_size=12))
def test_no_text_raises_anything_else(text: str) -> None:
    for parse in (options.parse_size, options.parse_rate, options.parse_duration, options.parse_bind):
        try:
            assert parse(text)
        except ValueError:
            pass
        except AssertionError:
            assert parse(text) == 0


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("65535", 65_535)])
def test_ports(text: str, number: int) -> None:
    assert options.PORT.convert(text, None, None) == number


@pytest.mark.parametrize("text", ["65536", "-1", "", "1.0", "0x10", "٣", "9" * 5000])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(click.BadParameter, match="a whole number from 0 to 65535"):
        options.PORT.convert(text, None, None)


def test_ratios() -> None:
    assert options.parse_ratio("1.5") == 1.5
    assert options.parse_ratio("0") == 0.0
    for text in ("-1", "nan", "inf", "1e3", "", "1.", "٣"):
        with pytest.raises(ValueError, match="number"):
            options.parse_ratio(text)


def test_addresses() -> None:
    assert options.parse_host_port("127.0.0.1:0") == ("127.0.0.1", 0)
    assert options.parse_host_port("[::1]:6969") == ("::1", 6969)
    assert options.parse_peer(" [::1]:6881 ") == "[::1]:6881"
    assert options.parse_peer("seeder.example:6881") == "seeder.example:6881"
    assert options.parse_bind("[::1]") == "::1"
    for text in ("127.0.0.1", "127.0.0.1:0", "::1:6881", "[::1:6881", "h:70000", "h:x", ":1", "a b:1"):
        with pytest.raises(UsageError):
            options.parse_peer(text)
    for text in ("localhost", "", "1.2.3"):
        with pytest.raises(ValueError, match="IP address"):
            options.parse_bind(text)


@click.command()
@options.network_options
@options.voice_options
def _command(**values: Any) -> None:
    voice = options.Voice.taken_from(values)
    network = options.NetworkOptions.taken_from(values)
    assert not values, f"left over: {values}"
    click.echo(repr((voice, network, network.settings())))
    _command.seen = (voice, network)  # type: ignore[attr-defined]  # a pocket for the tests


def parsed(arguments: list[str]) -> tuple[options.Voice, options.NetworkOptions]:
    result = CliRunner().invoke(_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    seen: tuple[options.Voice, options.NetworkOptions] = _command.seen  # type: ignore[attr-defined]  # as above
    return seen


def test_every_shared_option_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BTOR_STATE_DIR", raising=False)
    arguments = "--peer 127.0.0.1:1 --peer [::1]:2 -p 0 --bind 127.0.0.1 --bind ::1 --no-trackers --no-dht --no-pex"
    arguments += " --dht-bootstrap 127.0.0.1:5 --dht-bootstrap [::1]:6 --dht-port 7"
    arguments += " --no-lsd --max-download 500K --max-upload 1MiB --max-peers 7 --upload-slots 0 --recheck -vv"
    voice, network = parsed([*arguments.split(), "--state-dir", str(tmp_path)])
    assert voice == options.Voice(verbosity=2)
    assert network.peers == ("127.0.0.1:1", "[::1]:2")
    assert network.recheck
    settings = network.settings()
    assert (settings.port, settings.bind, settings.trackers) == (0, ("127.0.0.1", "::1"), False)
    assert (settings.max_download, settings.max_upload) == (500_000, 1_048_576)
    assert (settings.max_peers, settings.upload_slots) == (7, 0)
    assert (settings.dht, settings.dht_bootstrap, settings.dht_port) == (False, ("127.0.0.1:5", "[::1]:6"), 7)
    assert (settings.state_dir, settings.state_dir_required) == (tmp_path, True)


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BTOR_STATE_DIR", raising=False)
    monkeypatch.delenv("BTOR_DHT_BOOTSTRAP", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    voice, network = parsed([])
    assert voice == options.Voice()
    settings = network.settings()
    assert settings.port is None
    assert settings.trackers
    assert (settings.dht, settings.dht_bootstrap, settings.dht_port) == (True, DHT_ROUTERS, None)
    assert settings.max_download is None
    assert not settings.state_dir_required
    assert settings.state_dir is not None
    assert settings.state_dir.name == "btor"


def test_nodes_to_begin_with_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BTOR_DHT_BOOTSTRAP", "127.0.0.1:5 [::1]:6")
    assert parsed([])[1].settings().dht_bootstrap == ("127.0.0.1:5", "[::1]:6")
    assert parsed(["--dht-bootstrap", "127.0.0.1:7"])[1].settings().dht_bootstrap == ("127.0.0.1:7",)


def test_the_state_directory_of_the_environment_counts_as_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BTOR_STATE_DIR", str(tmp_path / "state"))
    settings = parsed([])[1].settings()
    assert (settings.state_dir, settings.state_dir_required) == (tmp_path / "state", True)


@pytest.mark.parametrize(
    "arguments",
    ["--peer x", "-p 65536", "-p -1", "--bind localhost", "--max-download 0", "--max-peers 0", "--upload-slots -1"],
)
def test_bad_values_are_usage_errors(arguments: str) -> None:
    result = CliRunner().invoke(_command, arguments.split())
    assert result.exit_code == 2
