"""The product in the lab: an appliance on the host, a collector on the edge router, and answers.

Everything goes through the command line as an operator would use it. Only the hosts a subscriber
visited are read from the table itself: no billing answer shows them.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from aggregator.config import load
from aggregator.queries import billing
from aggregator.queries.arithmetic import Period, iso, parse_period
from aggregator.queries.late import late_rows
from aggregator.reader import reader
from collector import hygiene
from collector.wire.addr import pack
from tests.lab.crowd import HOMES_V4, HOMES_V6, Clock
from tests.lab.lab import Lab
from tests.lab.netns import LabError, end
from tests.lab.truth import Truth
from tests.ports import free_port

ROOT: Final = Path(__file__).parents[2]
COLLECTOR: Final = "edge-1"
UPLINK_PORT: Final = 9443
METRICS_PORT: Final = 9464
START_TIMEOUT_S: Final = 90.0
COMMAND: Final = (sys.executable, "-m", "tallyhold")


@dataclass(frozen=True, slots=True)
class Answers:
    """What the product says: bills by subscriber, calls, losses, and bytes that nobody got."""

    billed: dict[str, dict[str, Any]]
    completeness: dict[str, float]
    calls: list[dict[str, Any]]
    losses: list[dict[str, Any]]
    unattributed: dict[str, int]
    engine_version: str


class Unaudited:
    """The lab looks its own dummies up."""

    def looked_up(self, what: str, subject: str, reference: str) -> None:
        """Nothing to record: there is no person behind a dummy."""


class Appliance:
    """Engine, aggregator and collector as processes of their own; a context manager.

    `window_s` is the collector's window. `settings` is more TOML for the collector's file. `clock`
    is SafeGuard's, where it is to count, with `epsilon` for a day. `program` is what Python runs as
    the collector.
    """

    def __init__(
        self,
        folder: Path,
        lab: Lab,
        window_s: int = 5,
        settings: str = "",
        clock: Clock | None = None,
        epsilon: float = 1.0,
        program: Sequence[str] = COMMAND[1:],
    ) -> None:
        self.program = program
        self.folder = folder.resolve()
        self.lab = lab
        self.window_s = window_s
        self.settings, self.clock, self.epsilon = settings, clock, epsilon
        self.config = self.folder / "appliance" / "aggregator.toml"
        self.collector_config = self.folder / "collector.toml"
        self.port, self.metrics_port, self.collector_metrics_port = (free_port() for _ in range(3))
        self.aggregator: subprocess.Popen[str] | None = None
        self.collector: subprocess.Popen[str] | None = None
        self._stack = ExitStack()

    @property
    def period(self) -> str:
        """Today, and yesterday where the day began an hour ago or less."""
        now = dt.datetime.now(dt.UTC)
        first = (now - dt.timedelta(hours=1)).date()
        return f"{first}/{now.date() + dt.timedelta(days=1)}"

    def __enter__(self) -> Self:
        try:
            self.init()
            self.start_aggregator()
            self._stack.callback(self.stop_aggregator)
            self.lab.relay(self.lab.edge, UPLINK_PORT, None, self.port)
            self.lab.relay(None, self.collector_metrics_port, self.lab.edge, METRICS_PORT)
            self.start_collector(self.program)
            self._stack.callback(self.stop_collector)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def init(self) -> None:
        """Keys, both configurations and the collector's certificate, through the command line."""
        tallyhold(
            "appliance", "init", str(self.config.parent), "--name", "127.0.0.1",
            "--listen", f"127.0.0.1:{self.port}", "--metrics", f"127.0.0.1:{self.metrics_port}",
        )  # fmt: skip
        # The retention service is run beside it, where a test or the demo wants it.
        text = self.config.read_text()
        start, end_ = text.index("[retention]"), text.index("# Areas for")
        self.config.write_text(text[:start] + text[end_:])
        seen = self.lab.describe()
        with self.config.open("a") as file:
            file.write(f"north = {json.dumps(seen['prefixes_v4'])}\n")
            file.write(f"south = {json.dumps(seen['prefixes_v6'])}\n")
        if self.clock:
            self._guard(self.clock)
        keys = self.folder / "keys"
        config = ("--config", str(self.config))
        tallyhold("appliance", "enrol", COLLECTOR, "--output", str(keys), *config)
        # The crowd has no sessions; prefixes so small have their counters from the start.
        homes = [str(HOMES_V4), str(HOMES_V6)]
        prefixes = [*_strings(seen["prefixes_v4"]), *_strings(seen["prefixes_v6"]), *homes]
        self.collector_config.write_text(
            f"""\
name = "{COLLECTOR}"
[access]
interfaces = ["{seen["access_interfaces"]}"]
prefixes = {json.dumps(prefixes)}
ipv6_prefix_len = {seen["v6_prefix_len"]}
[control]
interfaces = ["{seen["control_interface"]}"]
radius_ports = [{seen["radius_port"]}]
radius_secrets = {{ "{seen["edge_address"]}" = "{seen["radius_secret_file"]}" }}
sip_ports = [{seen["sip_port"]}]
[timing]
window_s = {self.window_s}
dump_s = 2
[spool]
folder = "{self.folder}/spool"
[uplink]
url = "https://127.0.0.1:{UPLINK_PORT}"
ca = "{keys}/ca.pem"
cert = "{keys}/{COLLECTOR}.pem"
key = "{keys}/{COLLECTOR}.key"
[metrics]
listen = "127.0.0.1:{METRICS_PORT}"
{self.settings}"""
        )

    def _guard(self, clock: Clock) -> None:
        """SafeGuard with a short day, in every configuration."""
        self.settings += clock.collector_toml(self.epsilon)
        with self.config.open("a") as file:
            file.write(clock.aggregator_toml(self.epsilon))
        with self.config.with_name("retention.toml").open("a") as file:
            budget = round(self.epsilon * 1e6)
            file.write(f"\n[safeguard]\nbudget_micro = {budget}\nday_s = {clock.day_s}\n")
            file.write("every_s = 0.5\n")

    def start_aggregator(self) -> None:
        """Start the appliance and wait until it is ready."""
        log = (self.folder / "appliance.log").open("ab")
        self.aggregator = subprocess.Popen(
            [*COMMAND, "appliance", "run", "--config", str(self.config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            text=True,
        )
        log.close()
        self._wait_for(
            self.aggregator, lambda: _scrapes(self.metrics_port), self.folder / "appliance.log"
        )

    def stop_aggregator(self) -> None:
        if self.aggregator is not None:
            end(self.aggregator, 30.0)

    def start_collector(self, program: Sequence[str] = COMMAND[1:]) -> None:
        """Start the collector on the edge router and wait until it meters.

        program: what Python runs; a test may plant faults in it.
        """
        path = self.folder / "collector.log"
        with path.open("a") as log:
            self.collector = self.lab.edge_popen(
                [COMMAND[0], *program, "collector", "run", "--config", str(self.collector_config)],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **hygiene.ENVIRONMENT} if self.clock else None,
            )
        mark = "tallyhold_collector_start_timestamp_seconds"
        self._wait_for(self.collector, lambda: _scrapes(self.collector_metrics_port, mark), path)

    def stop_collector(self) -> None:
        if self.collector is not None:
            end(self.collector, 30.0)

    def retire_collector(self) -> None:
        """Take the router out of service: all it had is delivered, and its state goes with it.

        A router that stays in service forgets an ended session by itself within an hour.
        """
        self.stop_collector()
        shutil.rmtree(self.folder / "spool")

    def kill_collector(self) -> None:
        """SIGKILL, as the out-of-memory killer would."""
        assert self.collector is not None
        self.collector.kill()
        self.collector.wait()

    def kill_aggregator(self) -> None:
        """SIGKILL of the aggregator; its engine dies with it."""
        assert self.aggregator is not None
        self.aggregator.kill()
        self.aggregator.wait()

    def kill_engine(self) -> None:
        """SIGKILL of the engine alone, which the aggregator is to start again."""
        assert self.aggregator is not None
        children = Path(f"/proc/{self.aggregator.pid}/task").glob("*/children")
        found = [int(pid) for each in children for pid in each.read_text().split()]
        engines = [
            pid for pid in found
            if b"engine_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]  # fmt: skip
        if len(engines) != 1:
            raise LabError(f"{len(engines)} engines instead of one")
        os.kill(engines[0], signal.SIGKILL)

    def addresses(self) -> list[str]:
        """Where the parts answer."""
        return [
            f"collectors' uplink   https://127.0.0.1:{self.port} (mutual TLS)",
            f"appliance metrics    http://127.0.0.1:{self.metrics_port}/metrics",
            f"collector metrics    http://127.0.0.1:{self.collector_metrics_port}/metrics",
        ]

    def wait_complete(self, end_ns: int, timeout_s: float = 120.0) -> None:
        """Wait until the aggregator has taken the window in which `end_ns` lies."""
        target = end_ns / 1e9 + 2 * self.window_s
        deadline = time.monotonic() + timeout_s
        name = f'tallyhold_aggregator_watermark_seconds{{collector="{COLLECTOR}"}}'
        while time.monotonic() < deadline:
            values = scrape(self.metrics_port)
            if values.get(name, 0.0) >= target:
                return
            time.sleep(0.2)
        raise LabError(f"the day's last window did not arrive in {timeout_s:.0f} s")

    def ask(self, *words: str) -> dict[str, Any]:
        """The JSON answer of `tallyhold WORDS...` against this appliance."""
        done = tallyhold(*words, "--json", "--config", str(self.config))
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def answers(self, truth: Truth) -> Answers:
        """Every subscriber's bill, every call, and every loss the product knows of."""
        period = self.period
        span = parse_period(period)
        client = reader(load(self.config))
        try:
            billed, complete, calls = {}, {}, []
            for person in truth.subscribers:
                now_us = truth.end_ns // 1000
                used = billing.usage(client, person.id, span, now_us, Unaudited())
                called = billing.calls(client, person.id, span, now_us, Unaudited())
                line = billing.sessions(client, person.id, span, now_us, Unaudited())
                billed[person.id] = {
                    "up_bytes": used.totals["up_bytes"],
                    "down_bytes": used.totals["down_bytes"],
                    "connected_s": round(line.connected_us / 1e6, 3),
                    "hosts": hosts(client, person.id, span),
                }
                complete[person.id] = min(
                    each.coverage.completeness for each in (used, called, line)
                )
                calls += [_call(row) for row in called.calls]
            losses = [_loss(row) for row in billing.rows_of(client, _LOSSES, _span(span))]
            version = ".".join(map(str, client.capabilities().version))
            return Answers(billed, complete, calls, losses, _nobodys(client, span), version)
        finally:
            client.close()

    def _wait_for(
        self, process: subprocess.Popen[Any], ready: Callable[[], bool], log: Path
    ) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise LabError(f"{log.name} after a failed start:\n{tail}")
            time.sleep(0.1)


_LOSSES: Final = """
SELECT DISTINCT collector, stage, reason, start_us, end_us, amount, unit, classes, scope
FROM gap WHERE start_us < %(end)s AND end_us >= %(start)s ORDER BY start_us"""
_NOBODY: Final = """
SELECT sum(u.up_bytes) AS up_bytes, sum(u.down_bytes) AS down_bytes, count() AS rows
FROM usage AS u
WHERE subscriber = '' AND start_us >= %(start)s AND start_us < %(end)s
  AND NOT (hex(address) >= %(first4)s AND hex(address) <= %(last4)s)
  AND NOT (hex(address) >= %(first6)s AND hex(address) <= %(last6)s)"""
_CROWD: Final = {
    f"{end}{net.version}": pack(address).hex().upper()
    for net in (HOMES_V4, HOMES_V6)
    for end, address in (("first", net[0]), ("last", net[-1]))
}
"""The crowd's households have no sessions: they are there for SafeGuard alone."""
_HOSTS: Final = """
SELECT DISTINCT host FROM visit
WHERE subscriber = %(subscriber)s AND start_us >= %(start)s AND start_us < %(end)s
ORDER BY host"""


def _nobodys(client: billing.Reader, span: Period) -> dict[str, int]:
    """Bytes and rows that no bill has.

    A window may end between a request for accounting and the packet after it, with neither read
    yet: a row of that packet is stored without a subscriber, and its bill has it all the same.
    """
    found = Counter(next(iter(billing.rows_of(client, _NOBODY, {**_span(span), **_CROWD}))))
    for _, _, row in late_rows(client, "usage", span):
        found.subtract({"rows": 1} | {name: row[name] for name in ("up_bytes", "down_bytes")})
    return dict(found)


def hosts(client: billing.Reader, subscriber: str, span: Period) -> list[str]:
    """Hosts that a subscriber visited in a period."""
    found = client.query_columns(_HOSTS, {**_span(span), "subscriber": subscriber})
    return [str(host) for host in found["host"]]


def tallyhold(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line; LabError with its own words where it fails."""
    done = subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120
    )
    if done.returncode:
        raise LabError(f"tallyhold {' '.join(words[:3])}: {done.stderr.strip()}")
    return done


def scrape(port: int) -> dict[str, float]:
    """Samples of a metrics page by name and labels; empty where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
    except OSError:
        return {}
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if line[:1] not in ("#", ""))
    }


def _scrapes(port: int, name: str = "") -> bool:
    values = scrape(port)
    return name in values if name else bool(values)


def _call(row: billing.Row) -> dict[str, Any]:
    return {
        "a": row["a_raw"],
        "b": row["b_raw"],
        "answered": row["answer_us"] > 0,
        "talk_ms": row["talk_ms"],
        "disposition": row["disposition"],
        "start": iso(row["start_us"]),
    }


def _loss(row: billing.Row) -> dict[str, Any]:
    return {**row, "start_us": iso(row["start_us"]), "end_us": iso(row["end_us"])}


def _span(span: Period) -> dict[str, int]:
    return {"start": span.start_us, "end": span.end_us}


def _strings(values: object) -> Sequence[str]:
    assert isinstance(values, list)
    return values
