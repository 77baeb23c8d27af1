"""`tallyhold safeguard prove` and `canary`: the running system in, a signed proof out."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from aggregator import config as configuration
from aggregator.asking import fail, load, now_us
from aggregator.outfile import whole_file
from aggregator.queries.arithmetic import PeriodError, parse_period
from aggregator.reader import reader
from aggregator.store.errors import StoreError
from collector import config as collectors
from collector.wire.releases import MICRO
from retention import config as retentions
from safeguard import document as documents
from safeguard import keys, present
from safeguard.ledger import DAY_US
from safeguard.names import CHECKS
from safeguard.prove import lookups, site
from safeguard.prove.canaries import Canaries, CanaryError
from safeguard.prove.run import FAILED, Site
from safeguard.prove.run import prove as run_checks


def _names(given: list[str]) -> list[str]:
    for name in given:
        if name not in CHECKS:
            raise typer.BadParameter(f"{name}: one of {', '.join(CHECKS)}")
    return given


def prove(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", envvar="TALLYHOLD_CONFIG", help="The appliance's TOML."),
    ] = None,
    collector_config: Annotated[
        Path | None, typer.Option(help="The collector's TOML, where it runs here.")
    ] = None,
    period: Annotated[str, typer.Option("--period", "-p", help="Days to look at; UTC.")] = "",
    log: Annotated[
        Path | None, typer.Option(help="The audit log's folder.", file_okay=False)
    ] = None,
    log_file: Annotated[
        list[Path] | None, typer.Option(help="A log file of a service; repeatable.", exists=True)
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="HOST:PORT of a metrics page; repeatable.")
    ] = None,
    wire: Annotated[
        list[Path] | None, typer.Option(help="Captures or batches; repeatable.", exists=True)
    ] = None,
    canaries: Annotated[
        Path | None, typer.Option(help="What `safeguard canary` wrote.", exists=True)
    ] = None,
    pid: Annotated[int | None, typer.Option(help="The collector, if not found by itself.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(callback=lambda given: _names(given or []), help="A check.")
    ] = None,
    key_file: Annotated[
        Path, typer.Option(help="The key that signs.", dir_okay=False)
    ] = keys.DEFAULT_KEY,
    output: Annotated[
        Path | None, typer.Option(help="Write the signed proof there.", dir_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the signed proof.")] = False,
) -> None:
    """Check, on the system that runs, that SafeGuard keeps its promise; exits 1 where it does not.

    The installed code is driven through days of its own; tables, files, pages and the collector's
    memory are looked at where they are given. As root, for the memory.

    Example: tallyhold safeguard prove -c aggregator.toml --collector-config collector.toml
    """
    with ExitStack() as stack:
        stack.enter_context(_plainly())
        made = _site(stack, config, collector_config, period, log, metrics, pid)
        given = Site(
            **made,
            logs=tuple(log_file or ()),
            wire=tuple(wire or ()),
            canaries=Canaries.read(canaries) if canaries else None,
        )
        console = Console(stderr=True)
        with console.status("") as status:
            document = run_checks(
                given, now_us(), version("tallyhold"), only or (), lambda name: status.update(name)
            )
        data = documents.seal(document, keys.signer(key_file)).decode()
        if output is not None:
            with whole_file(output) as file:
                file.write(data)
    if as_json:
        sys.stdout.write(data)
    else:
        present.print_checks(Console(), document["checks"])
    failed = [each["name"] for each in document["checks"] if each["outcome"] == FAILED]
    raise typer.Exit(1 if failed else 0)


def canary(
    resolver: Annotated[str, typer.Argument(help="Address of the line's resolver.")],
    suffix: Annotated[str, typer.Argument(help="A name under which the resolver blocks all.")],
    output: Annotated[Path, typer.Option(help="Where to write what was used.", dir_okay=False)],
    count: Annotated[int, typer.Option(min=1, max=lookups.MAX_COUNT, help="Look-ups.")] = 20,
    source: Annotated[
        list[str] | None, typer.Option(help="An address to ask from; repeatable.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The resolver's port.")] = 53,
    through: Annotated[
        str | None,
        typer.Option(
            help="On the router: the access interface to tell made-up households through."
        ),
    ] = None,
) -> None:
    """Look up blocked names that nobody uses, on a line that is there for it.

    Its addresses must be used for nothing else. What was used is to be searched for afterwards,
    once the day is over, with `safeguard prove --canaries`.

    With --through, as root on the router, the answers go to households that there are not, at each
    --source of the access prefixes. Nothing meters them, so `prove` searches the collector's memory
    for their packed addresses too.

    Example: tallyhold safeguard canary 192.0.2.53 canary.example --output canaries.json
    """
    if through and not source:
        raise typer.BadParameter("--through needs --source: addresses that nobody has")
    with _plainly():
        if through:
            found = lookups.tell(resolver, suffix, count, source or (), through, port)
        else:
            found = lookups.look_up(resolver, suffix, count, source or (), port)
        lookups.write(found, output)
    used = len(found["addresses"]) + len(found.get("unmetered", ()))
    typer.echo(f"{len(found['names'])} names from {used} addresses: {output}")


def _site(
    stack: ExitStack,
    config: Path | None,
    collector_config: Path | None,
    period: str,
    log: Path | None,
    metrics: list[str] | None,
    pid: int | None,
) -> dict[str, Any]:
    """What the configurations name."""
    made: dict[str, Any] = {"log": log, "pid": pid}
    addresses = list(metrics or ())
    if config is not None:
        settings = load(config)
        client = stack.enter_context(_reader(settings))
        made |= {
            "client": client,
            "database": settings.engine.database,
            "span": _span(period),
            "budget_micro": round(settings.safeguard.daily_budget * MICRO),
            "day_us": settings.safeguard.day_s * MICRO,
        }
        if settings.engine.kind == "bundled":
            made["databases"] = (settings.engine.data,)
        addresses += [] if metrics else [settings.metrics.listen]
        if settings.retention is not None:
            retained = retentions.load(settings.retention.config)
            made["log"] = log or retained.log_folder
            addresses += [] if metrics else [retained.metrics.listen]
    if collector_config is not None:
        collected = collectors.load(collector_config)
        made["collector"], made["pool"] = site.counted(collected)
        made["words"] = tuple(site.words(collected))
        made["spool"] = collected.spool.folder
        made["pid"] = pid or site.process(collector_config)
        addresses += [] if metrics else [collected.metrics.listen]
    made["pages"] = {address: site.page(address) for address in addresses}
    return made


@contextmanager
def _reader(settings: configuration.Config) -> Iterator[Any]:
    client = reader(settings)
    try:
        yield client
    finally:
        client.close()


def _span(period: str) -> tuple[int, int]:
    """A period, or the last eight days and today."""
    if period:
        span = parse_period(period)
        return span.start_us, span.end_us
    today = time.time_ns() // 1000 // DAY_US
    return (today - 8) * DAY_US, (today + 1) * DAY_US


_WRONG = (PeriodError, collectors.ConfigError, CanaryError)
_FAILED = (
    StoreError, site.SiteError, documents.DocumentError, keys.KeyFileError, lookups.LookupFailed,
)  # fmt: skip


@contextmanager
def _plainly() -> Iterator[None]:
    """What goes wrong, in words."""
    try:
        yield
    except _WRONG as error:
        fail(str(error), code=2)
    except _FAILED as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'the network'}: {error.strerror or error}")
