"""Options that several commands share, and the kinds of values they take."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import click

from btor import limits
from btor.errors import UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from btor.settings import Settings

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_BINARY_UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([kmgt]?)(i?)b?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s?)?", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes of ``512``, ``500K``, ``1.5MB`` (powers of 1000), ``256KiB``, ``1MiB`` (of 1024). Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise ValueError("a size such as 500K, 5M, 256KiB or 1MiB is needed")
    units = _BINARY_UNITS if match[3] else _UNITS
    return round(float(match[1]) * units[match[2].lower()])


def parse_rate(text: str) -> int:
    """Bytes a second of a size as ``parse_size`` takes it, ``/s`` allowed. Raises ValueError, also for 0."""
    try:
        rate = parse_size(re.sub(r"/s$", "", text.strip()))
    except ValueError as error:
        raise ValueError("a rate such as 500K, 5M or 1MiB (bytes a second) is needed") from error
    if rate < 1:
        raise ValueError("a rate of at least 1 byte a second is needed; leave the option out for no limit")
    return rate


def parse_duration(text: str) -> float:
    """Seconds of ``30s``, ``10m``, ``2h``, ``1h30m``, ``1d`` or plain ``90``. Raises ValueError, also for 0."""
    match = _DURATION.fullmatch(text.strip())
    if match is not None:
        days, hours, minutes, seconds = (float(group or 0) for group in match.groups())
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if total > 0:
            return total
    raise ValueError("a time such as 30s, 10m or 2h is needed")


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers from ``least`` to ``most``; it raises ValueError."""

    def parse(text: str) -> int:
        if re.fullmatch(r"\d{1,9}", text, re.ASCII) and least <= int(text) <= most:
            return int(text)
        raise ValueError(f"a whole number from {least} to {most} is needed")

    return parse


def parse_ratio(text: str) -> float:
    """A plain decimal number, not negative. Raises ValueError."""
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        return float(text)
    raise ValueError("a number such as 1.5 is needed")


class Parsed(click.ParamType[T], Generic[T]):
    """A value that a function of this module parses; what it says of a bad one becomes a usage error."""

    def __init__(self, name: str, parse: Callable[[str], T]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """The parsed value; click calls it with defaults that are parsed already, too."""
        if not isinstance(value, str):
            parsed: T = value
            return parsed
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)
        except UsageError as error:
            self.fail(str(error), param, ctx)


def _by_the_shell(incomplete: str, kind: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem  # costs 10 ms, which only a shell that asks should pay

    return [CompletionItem(incomplete, type=kind)]


class Place(click.ParamType[Path]):
    """A path, which the shell completes. ``completed``: what it offers, ``file`` (folders, too) or ``dir``."""

    name = "path"

    def __init__(self, completed: str = "file") -> None:
        self._completed = completed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; an empty one would quietly be the current folder."""
        if isinstance(value, str) and not value:
            self.fail("empty: a path is needed", param, ctx)
        return Path(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leave it to the shell."""
        return _by_the_shell(incomplete, self._completed)


class Source(click.ParamType[str]):
    """A torrent, by a file or else: text as given, completed as a file."""

    name = "source"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text."""
        if not value:
            self.fail("empty: a torrent is needed", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leave it to the shell."""
        return _by_the_shell(incomplete, "file")


def parse_bind(text: str) -> str:
    """A local IP address in canonical form. Raises ValueError."""
    import ipaddress

    try:
        return str(ipaddress.ip_address(text.strip().strip("[]")))
    except ValueError as error:
        raise ValueError("an IP address of this machine is needed") from error


def parse_host_port(text: str) -> tuple[str, int]:
    """(host, port) to listen on, of ``host:port`` or ``[v6]:port``; 0 lets the system choose. Raises UsageError."""
    from btor.wire import address

    return address.parse_host_port(text.strip(), any_port=True)


def parse_peer(text: str) -> str:
    """``HOST:PORT`` as given, once it is known to be one with a port other than 0. Raises UsageError."""
    from btor.wire import address

    address.parse_host_port(text.strip())
    return text.strip()


def parse_files(text: str) -> tuple[tuple[int, int], ...]:
    """The (first, last) of each item of ``1,3-5``. Raises ValueError."""
    from btor.metainfo.selection import parse_numbers

    return parse_numbers(text)


def parse_glob(text: str) -> str:
    """A pattern of file names. Raises ValueError."""
    if not text:
        raise ValueError("a pattern such as *.flac is needed")
    return text


FILES = Parsed("numbers", parse_files)
GLOB = Parsed("glob", parse_glob)
SIZE = Parsed("size", parse_size)
RATE = Parsed("rate", parse_rate)
DURATION = Parsed("time", parse_duration)
HOST_PORT = Parsed("host:port", parse_host_port)
BIND_ADDRESS = Parsed("address", parse_bind)
PEER = Parsed("host:port", parse_peer)
RATIO = Parsed("ratio", parse_ratio)
PORT = Parsed("port", whole_number(0, limits.PORT_MAX))
PEERS = Parsed("number", whole_number(1, 100_000))
SLOTS = Parsed("number", whole_number(0, 100_000))
PROCESSES = Parsed("number", whole_number(1, 100))
FILE = Place()
DIRECTORY = Place("dir")
SOURCE = Source()


@dataclass(frozen=True, slots=True)
class Voice:
    """How much a command says, and where."""

    json: bool = False
    quiet: bool = False
    verbosity: int = 0
    log_file: Path | None = None

    @classmethod
    def taken_from(cls, values: dict[str, Any]) -> Voice:
        """Take the values of ``voice_options`` out of those of a command."""
        return cls(values.pop("json"), values.pop("quiet"), values.pop("verbose"), values.pop("log_file"))


def _apply(command: Command, *decorators: Callable[[Command], Command]) -> Command:
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def voice_options(command: Command) -> Command:
    """``--json``, ``-q``, ``-v``, ``--log-file``: of every command. Keeps the log file, too."""

    @wraps(command)
    def logged(**values: Any) -> int:
        run: Callable[[], int] = partial(command, **values)
        if values["log_file"] is None:
            return run()
        from btor.cli.logs import run_logged

        argv = click.get_current_context().find_root().obj or ()
        return run_logged(run, values["log_file"], values["verbose"], argv)

    return _apply(
        cast("Command", logged),
        click.option("--json", is_flag=True, help="JSON on standard output, nothing else there."),
        click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
        click.option("-v", "--verbose", count=True, help="Say more; -vv: most."),
        click.option("--log-file", type=FILE, metavar="F", help="Append the log to F."),
    )


def network_options(command: Command) -> Command:
    """What ``download`` and ``seed`` share."""
    return _apply(
        command,
        click.option(
            "--peer", "peers", type=PEER, multiple=True, metavar="HOST:PORT", help="Connect to this peer too."
        ),
        click.option("-p", "--port", type=PORT, metavar="N", help="Listen here; 0: anywhere. [default: 6881 or near]"),
        bind_option,
        click.option("--no-trackers", is_flag=True, help="Ask no tracker."),
        click.option("--no-dht", is_flag=True, help="Leave the DHT out."),
        dht_bootstrap_option,
        click.option("--dht-port", type=PORT, metavar="N", help="UDP port of the DHT. [default: that of --port]"),
        click.option("--no-pex", is_flag=True, help="Exchange no peers with peers."),
        click.option(
            "--no-lsd",
            is_flag=True,
            envvar="BTOR_NO_LSD",
            help="Look for no peers on the local network. [$BTOR_NO_LSD]",
        ),
        click.option("--max-download", type=RATE, metavar="RATE", help="Bytes a second: 500K, 5M, 1MiB."),
        click.option("--max-upload", type=RATE, metavar="RATE", help="Likewise."),
        click.option("--max-peers", type=PEERS, default="200", show_default=True, metavar="N", help="Of each torrent."),
        click.option(
            "--upload-slots",
            type=SLOTS,
            default=str(limits.UPLOAD_SLOTS),
            show_default=True,
            metavar="N",
            help="Peers served at a time, of all torrents; 0: all.",
        ),
        click.option("--recheck", is_flag=True, help="Distrust the resume record, hash everything."),
        click.option(
            "--state-dir",
            type=DIRECTORY,
            metavar="DIR",
            envvar="BTOR_STATE_DIR",
            help="Where the resume records are. [default: $BTOR_STATE_DIR, or where this system keeps such]",
        ),
    )


def dht_bootstrap_option(command: Command) -> Command:
    """``--dht-bootstrap``, of everything that has a DHT node."""
    return click.option(
        "--dht-bootstrap",
        type=PEER,
        multiple=True,
        metavar="HOST:PORT",
        envvar="BTOR_DHT_BOOTSTRAP",
        help="Enter the DHT here. [default: $BTOR_DHT_BOOTSTRAP, or public routers]",
    )(command)


def bind_option(command: Command) -> Command:
    """``--bind``, of everything that listens."""
    return click.option(
        "--bind",
        type=BIND_ADDRESS,
        multiple=True,
        metavar="ADDRESS",
        help="Use this local address only.",
    )(command)


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """The values of ``network_options``."""

    peers: tuple[str, ...]
    port: int | None
    bind: tuple[str, ...]
    trackers: bool
    dht: bool
    dht_bootstrap: tuple[str, ...]
    dht_port: int | None
    pex: bool
    lsd: bool
    max_download: int | None
    max_upload: int | None
    max_peers: int
    upload_slots: int
    recheck: bool
    state_dir: Path | None

    @classmethod
    def taken_from(cls, values: dict[str, Any]) -> NetworkOptions:
        """Take the values of ``network_options`` out of those of a command."""
        return cls(
            peers=values.pop("peers"),
            port=values.pop("port"),
            bind=values.pop("bind"),
            trackers=not values.pop("no_trackers"),
            dht=not values.pop("no_dht"),
            dht_bootstrap=values.pop("dht_bootstrap"),
            dht_port=values.pop("dht_port"),
            pex=not values.pop("no_pex"),
            lsd=not values.pop("no_lsd"),
            max_download=values.pop("max_download"),
            max_upload=values.pop("max_upload"),
            max_peers=values.pop("max_peers"),
            upload_slots=values.pop("upload_slots"),
            recheck=values.pop("recheck"),
            state_dir=values.pop("state_dir"),
        )

    def settings(self) -> Settings:
        """The session that was asked for."""
        from btor.settings import DHT_ROUTERS, Settings

        return Settings(
            port=self.port,
            bind=self.bind,
            max_download=self.max_download,
            max_upload=self.max_upload,
            max_peers=self.max_peers,
            upload_slots=self.upload_slots,
            trackers=self.trackers,
            dht=self.dht,
            dht_bootstrap=self.dht_bootstrap or DHT_ROUTERS,
            dht_port=self.dht_port,
            pex=self.pex,
            lsd=self.lsd,
            state_dir=self.state_dir or default_state_dir(),
            state_dir_required=self.state_dir is not None,
        )


def default_state_dir() -> Path:
    """Where this system keeps the state of programs, for btor."""
    from platformdirs import user_state_dir

    return Path(user_state_dir("btor", appauthor=False))
