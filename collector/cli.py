"""`tallyhold collector`: meter a router, check it and its configuration, replay captures."""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from collector import config as configuration
from collector import memory

if TYPE_CHECKING:
    from collector.replay import ReplayConfig
    from collector.track.ports import Ports

app = typer.Typer(no_args_is_help=True)

ConfigPath = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="TALLYHOLD_COLLECTOR_CONFIG", help="TOML file to use."),
]
_Linger = Annotated[
    int, typer.Option("--linger", min=0, max=864_000, help="Seconds to let pass after the end.")
]
_Files = Annotated[
    list[Path],
    typer.Argument(help="pcap or pcapng files, merged by time.", exists=True, dir_okay=False),
]
_Observations = Annotated[
    bool, typer.Option("--observations", help="One line for each observed host.")
]
_Window = Annotated[int, typer.Option("--window", min=1, help="Seconds of a window.")]
_LinesFile = Annotated[
    Path | None,
    typer.Option("--lines", help="CSV of line and subscriber.", exists=True, dir_okay=False),
]
_Access = Annotated[
    list[str] | None,
    typer.Option("--access", help="Prefix of subscribers; repeatable. Default: any address."),
]
_Trusted = Annotated[
    list[str] | None,
    typer.Option(
        "--trusted", help="Prefix of SIP peers whose P-Asserted-Identity counts; repeatable."
    ),
]
_Region = Annotated[
    str, typer.Option("--region", metavar="CC", help="Country whose numbering plan is dialled.")
]
_PortList = Annotated[str, typer.Option(metavar="PORT,...", help="Ports, separated by commas.")]
_REPLAYED = ("binding", "session", "usage", "mapping", "visit", "call", "gap")


@app.callback()
def group() -> None:
    """Meter a router: run a collector, check the router and the configuration, replay captures.

    Example: tallyhold collector run --config /etc/tallyhold/collector.toml
    """


@app.command()
def run(
    config: ConfigPath = configuration.DEFAULT_PATH,
    replace_table: Annotated[
        bool,
        typer.Option(
            "--replace-table",
            help="Read the counters of a table that counts something else, then replace it.",
        ),
    ] = False,
) -> None:
    """Meter until SIGTERM or Ctrl-C, which close and spool the open window first.

    Needs CAP_NET_ADMIN and CAP_NET_RAW, not root. Ends with 1 where it cannot start or go on, and
    with 2 where the configuration cannot be used; started again it loses nothing it had.

    Example: tallyhold collector run --config collector.toml
    """
    settings = _load(config)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    from collector.journal import JournalError
    from collector.keeper import RestartNeeded
    from collector.service import Collector
    from collector.spool import SpoolError

    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        collector.wake()

    collector = Collector(settings, replace_table=replace_table)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        collector.start()
    except (OSError, SpoolError, JournalError, RestartNeeded, ValueError) as error:
        _fail(_words(error))
    # What is there now stays to the end: no collection needs to look at it again.
    gc.collect()
    gc.freeze()
    memory.settle()
    try:
        collector.run(lambda: stopping)
    except (OSError, RestartNeeded) as error:
        _fail(_words(error))
    finally:
        collector.stop()
    # Everything is on disk and closed. To take the interpreter and its libraries apart, object by
    # object, is 17 ms of work for memory that the kernel takes back as a whole.
    logging.shutdown()
    os._exit(0)


@app.command("check-config")
def check_config(
    config: ConfigPath = configuration.DEFAULT_PATH,
    dump: Annotated[bool, typer.Option("--dump", help="Print the effective settings.")] = False,
) -> None:
    """Report every problem of the configuration at once, or print what it comes to.

    Example: tallyhold collector check-config --config collector.toml --dump
    """
    settings = _load(config)
    if dump:
        json.dump(configuration.dump(settings), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        typer.echo(f"{config}: no problem found")


@app.command()
def doctor(
    config: ConfigPath = configuration.DEFAULT_PATH,
    as_json: Annotated[bool, typer.Option("--json", help="Findings as JSON lines.")] = False,
    measure_s: Annotated[
        float,
        typer.Option(
            "--measure",
            min=0,
            max=3600,
            metavar="SECONDS",
            help="Compare metered bytes with those of the interfaces over that time.",
        ),
    ] = 0.0,
) -> None:
    """Say what on this router makes figures inexact, what that does to them, and what mends it.

    Reads only; changes nothing. Run it in the router's network namespace as the collector's user,
    or as root to see everything. Exit code 0: nothing to mend; 1: figures are inexact or at risk;
    2: figures are wrong, a collector cannot work, or the configuration cannot be used.

    Example: tallyhold collector doctor --config collector.toml
    Example: tallyhold collector doctor --measure 10 --json
    """
    settings = _load(config)
    from collector.doctor.examine import examine
    from collector.doctor.findings import exit_code
    from collector.doctor.gather import gather
    from collector.doctor.show import lines, table

    findings = examine(gather(settings, measure_s), settings)
    for line in lines(findings) if as_json else table(findings):
        typer.echo(line)
    raise typer.Exit(exit_code(findings))


@app.command()
def replay(
    files: _Files,
    observations: _Observations = False,
    records: Annotated[
        str,
        typer.Option("--records", metavar="CLASS,...", help=f"Records of {', '.join(_REPLAYED)}."),
    ] = "",
    out_format: Annotated[
        Literal["jsonl"], typer.Option("--format", help="Lines of JSON; the only format.")
    ] = "jsonl",
    access: _Access = None,
    trusted: _Trusted = None,
    region: _Region = "GB",
    window_s: _Window = 300,
    linger_s: _Linger = 0,
    sip_ports: _PortList = "5060,5061",
    dns_ports: _PortList = "53",
    tls_ports: _PortList = "443",
    http_ports: _PortList = "80",
    quic_ports: _PortList = "443",
    radius_ports: _PortList = "1812,1813,3799",
    export_ports: _PortList = "2055,4739,9995",
    lines: _LinesFile = None,
) -> None:
    """Run captures through the code that meters live traffic, and print what it sees.

    The same files give the same bytes; usage and mappings are those of NetFlow and IPFIX in them.
    Exit code 1 where a file is damaged, after what precedes the damage.

    Example: tallyhold collector replay edge.pcap --observations
    Example: tallyhold collector replay a.pcap b.pcap --records call,session --sip-ports 5060,5080
    Example: tallyhold collector replay voice.pcap --records call --trusted 192.0.2.0/24 --region GB
    """
    if observations == bool(records):
        _fail("say what to print: either --observations or --records CLASS,...", code=2)
    classes = [each.strip() for each in records.split(",") if each.strip()]
    if set(classes) - set(_REPLAYED):
        _fail(f"--records: choose from {', '.join(_REPLAYED)}", code=2)
    from collector.capture.replay import CaptureFileError
    from collector.lines import read_lines
    from collector.replay import EVERYTHING, ReplayConfig, prefix_of

    try:
        lists = (dns_ports, tls_ports, http_ports, quic_ports, radius_ports, sip_ports)
        ports = _ports_of(*lists, export_ports)
        prefixes = tuple(map(prefix_of, access)) if access else EVERYTHING
        peers = tuple(map(prefix_of, trusted or ()))
        known = read_lines(lines) if lines else {}
        if not re.fullmatch("[A-Z]{2}", region):
            raise ValueError("--region: two capital letters, such as GB")
    except ValueError as error:
        _fail(str(error), code=2)
    config = ReplayConfig(
        ports=ports,
        access=prefixes,
        trusted=peers,
        region=region,
        window_s=window_s,
        linger_s=linger_s,
        lines=known,
    )
    try:
        for line in _lines(files, classes, config):
            sys.stdout.write(json.dumps(line) + "\n")
    except CaptureFileError as error:
        sys.stdout.flush()
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}")


def _lines(files: list[Path], classes: list[str], config: ReplayConfig) -> Iterator[dict[str, Any]]:
    """Records of these classes, or observations where there are none."""
    from collector import replay as replaying
    from collector.capture.replay import frames

    if not classes:
        yield from replaying.observations(frames(files), config)
    for name, row in replaying.records(frames(files), classes, config) if classes else ():
        yield {"class": name, **row}


def _ports_of(
    dns: str, tls: str, http: str, quic: str, radius: str, sip: str, exports: str
) -> Ports:
    """The ports of a replay; raises ValueError for what is no list of them."""
    from collector.track.ports import Ports

    lists = {"dns": dns, "tls": tls, "http": http, "quic": quic, "radius": radius, "sip": sip}
    lists["exports"] = exports
    return Ports(**{name: _ports(text) for name, text in lists.items()})


def _ports(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(",") if each.strip())


def _load(path: Path) -> configuration.Config:
    """The configuration, with which a collector can start; the process ends with 2 otherwise."""
    from collector import build

    try:
        settings = configuration.load(path)
        problems = build.problems(settings)
        if problems:
            raise configuration.ConfigError(path, problems)
    except configuration.ConfigError as error:
        _fail(str(error), code=2)
    return settings


def _words(error: Exception) -> str:
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)


def _fail(message: str, code: int = 1) -> NoReturn:
    typer.echo(f"tallyhold collector: {message}", err=True)
    raise typer.Exit(code)
