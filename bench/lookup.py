"""`python -m bench.lookup`: look-ups over ten times as many bindings and mappings: are they flat?

Two bundled engines hold the same ten days of two networks, one ten times as large as the other: 10
and 100 million rows, half bindings and half mappings, and a session for each binding. An address
changes hands every hour; a public address has 64 port blocks an hour or, in the other half of the
network, 64 ports with a flow each. Rows are made by the engines themselves (INSERT SELECT FROM
numbers) and merged into one part a day, as a day that is over has been.

Questions are asked of both in turns, each three times, of which the cheapest counts. Measured is
the CPU time, ours and the engine's, of one look-up with what it reads in the caches; `ratio` is
small over large: 1 is flat, and 1 / 1.3 is wanted. The time by the clock, which says little on a
busy machine, is printed beside it.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aggregator.queries.answering import Answering
from aggregator.queries.who import Rules
from aggregator.store.bundled import Engine, EngineConfig
from aggregator.store.client import Client
from aggregator.store.migrate import Migrator
from aggregator.store.schema import RECORD_TABLES
from bench import report

DAYS: Final = 10
DAY_US: Final = 86_400_000_000
HOUR_US: Final = 3_600_000_000
FIRST_DAY: Final = 20_780
"""2026-11-23, in days since 1970."""
QUESTIONS: Final = 200
ROUNDS: Final = 3
FLAT: Final = 1 / 1.3
PORTS: Final = 1000
BLOCKS: Final = 64


@dataclass(frozen=True, slots=True)
class Network:
    """`hosts` inside addresses, each with a binding, a session and a mapping in every hour."""

    hosts: int

    @property
    def rows(self) -> int:
        return self.hosts * 24 * DAYS * 2

    def question(self, draw: random.Random) -> tuple[str, int | None, int | None, int]:
        """Address, port, protocol and time of a question that has one certain answer."""
        host = draw.randrange(self.hosts)
        at = FIRST_DAY * DAY_US + draw.randrange(1, DAYS * 24) * HOUR_US
        at += draw.randrange(10, 50) * 60_000_000
        if draw.random() < 0.3:
            return f"10.{host >> 16}.{host >> 8 & 255}.{host & 255}", None, None, at
        public, port = host // BLOCKS, 1024 + host % BLOCKS * PORTS
        return f"198.{18 + (public >> 16)}.{public >> 8 & 255}.{public & 255}", port, 6, at


# n counts the rows of one day: host-major, so that a host's hours follow one another.
_COMMON: Final = {
    "record_id": "toFixedString(unhex(leftPad(hex(n + {day} * 100000000), 32, '0')), 16)",
    "observed_us": "begin + 3600000000",
    "collector": "'edge-1'",
    "boot": "'boot-1'",
    "batch": "toFixedString('batch', 16)",
    "schema_version": "1",
    "session_id": "toFixedString(unhex(leftPad(hex(n + {day} * 100000000), 32, '5')), 16)",
    "subscriber": "concat('sub-', leftPad(toString((host * 7919 + hour) % {hosts}), 8, '0'))",
}
_INSIDE: Final = (
    "toFixedString(unhex(concat('00000000000000000000FFFF', leftPad(hex(167772160 + host), 8, '0')"
    ")), 16)"
)
_PUBLIC: Final = (
    "toFixedString(unhex(concat('00000000000000000000FFFF',"
    " leftPad(hex(3323068416 + intDiv(host, 64)), 8, '0'))), 16)"
)
_IS_FLOW: Final = "intDiv(host, 64) % 2"
_VALUES: Final[dict[str, dict[str, str]]] = {
    "binding": {
        "address": _INSIDE,
        "prefix_len": "128",
        "valid_from_us": "begin",
        "valid_to_us": "begin + 3590000000",
        "certainty": "'certain'",
        "source": "'accounting'",
    },
    "session": {
        "nas": "'bras-1'",
        "acct_session_id": "hex(n)",
        "line": "concat('ge-0/0/', toString(host % 48))",
        "start_us": "begin",
        "start_source": "'stated'",
        "slice_start_us": "begin",
        "slice_end_us": "begin + 3590000000",
        "end_min_us": "begin + 3590000000",
        "end_max_us": "begin + 3590000000",
        "end_reason": "'stated'",
    },
    "mapping": {
        "start_us": "begin + 1000000",
        "end_us": "begin + 3580000000",
        "inside_address": _INSIDE,
        "public_address": _PUBLIC,
        "protocol": "6",
        "port_first": "1024 + host % 64 * 1000",
        "port_last": f"if({_IS_FLOW}, 1024 + host % 64 * 1000, 2023 + host % 64 * 1000)",
        "kind": f"if({_IS_FLOW}, 'flow', 'block')",
    },
}


def fill(client: Client, network: Network) -> None:
    """Make the rows of every day, merge each day, and say that all was delivered."""
    Migrator(client, lambda: 1).run()
    for table in _VALUES:
        for day in range(FIRST_DAY, FIRST_DAY + DAYS):
            client.execute(statement(table, network, day))
    end = (FIRST_DAY + DAYS + 1) * DAY_US
    text = {"collector": "edge-1", "epoch": "e", "sha256": "", "verdict": "accept"}
    numbers = {"sequence": 1, "rows": 1, "window_start_us": end - DAY_US, "window_end_us": end}
    ledger: dict[str, list[Any]] = {
        **{name: [value] for name, value in text.items()},
        **{name: [value] for name, value in numbers.items()},
        "batch": [b"batch".ljust(16, b"\0")],
        "received_us": [end],
        "lag_us": [0],
    }
    client.insert("ingest_ledger", ledger)


def statement(table: str, network: Network, day: int) -> str:
    """The INSERT of one table and day."""
    values = {**_COMMON, **_VALUES[table]}
    names = [name for name, _ in RECORD_TABLES[table].columns if name in values]
    chosen = ", ".join(f"{values[name]} AS {name}" for name in names)
    chosen = chosen.replace("{day}", str(day)).replace("{hosts}", str(network.hosts))
    return (
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {chosen} FROM"
        f" (SELECT number AS n, intDiv(number, 24) AS host, number % 24 AS hour,"
        f"  toInt64({day * DAY_US} + (number % 24) * {HOUR_US}) AS begin"
        f"  FROM numbers({network.hosts * 24}))"
    )


def merged(keeper: Client) -> None:
    """Each day of each table as one part."""
    for table in _VALUES:
        keeper.execute(f"OPTIMIZE TABLE {table} FINAL")


@dataclass(frozen=True, slots=True)
class Asked:
    """A network and what answers about it; `pid` is its engine's."""

    network: Network
    answering: Answering
    pid: int

    def cost(self, question: tuple[str, int | None, int | None, int]) -> tuple[float, float]:
        """Milliseconds of CPU, ours and the engine's, and by the clock, of one certain answer."""
        address, port, protocol, at = question
        cpu, wall = self._cpu(), time.perf_counter()
        found = self.answering.who(address, port, protocol, at, 2_000_000)
        wall = time.perf_counter() - wall
        cpu = self._cpu() - cpu
        assert found.plain["grade"] == "CERTAIN", found.plain
        return cpu * 1000, wall * 1000

    def _cpu(self) -> float:
        """Seconds of this process and of all threads of the engine's, in nanoseconds' steps.

        clock_getcpuclockid(3) of another process is (~pid << 3) | 2 on Linux.
        """
        return time.process_time() + time.clock_gettime((~self.pid << 3) | 2)


def measure(both: Sequence[Asked], questions: int) -> list[list[tuple[float, float]]]:
    """For each network the cheapest round of each question, as (CPU, clock), in order of CPU."""
    draw = random.Random(1)
    costs: list[list[tuple[float, float]]] = [[] for _ in both]
    for _ in range(questions):
        asked = [(each, each.network.question(draw)) for each in both]
        rounds = [[each.cost(question) for each, question in asked] for _ in range(ROUNDS)]
        for n, of_one in enumerate(zip(*rounds, strict=True)):
            costs[n].append((min(cpu for cpu, _ in of_one), min(wall for _, wall in of_one)))
    return [sorted(each) for each in costs]


def figures(rows: int, questions: int, folder: Path) -> list[report.Figure]:
    """p50 and p99 of both, as one figure each. A folder that has the rows is not filled again."""
    console = report.console()
    with ExitStack() as stack:
        both: list[Asked] = []
        for name, size in (("small", rows), ("large", rows * 10)):
            network = Network(size // (24 * DAYS * 2))
            is_there = (folder / f"{name}.{network.rows}").exists()
            engine = Engine(EngineConfig(folder / name, memory_ratio=0.2))
            engine.start()
            stack.callback(engine.stop)
            writer, keeper = Client(engine.endpoint()), Client(engine.endpoint("keeper"))
            began = time.monotonic()
            if not is_there:
                fill(writer, network)
                merged(keeper)
                (folder / f"{name}.{network.rows}").touch()
            size_mb = sum(f.stat().st_size for f in (folder / name).rglob("*") if f.is_file()) / 1e6
            console.print(
                f"{name}: {network.rows:,} bindings and mappings, {size_mb:,.0f} MB,"
                f" made in {time.monotonic() - began:.0f} s"
            )
            reader = Client(engine.endpoint("reader"))
            for each in (reader, writer, keeper):
                stack.callback(each.close)
            assert engine.pid is not None
            both.append(Asked(network, Answering(reader, Rules()), engine.pid))
        small, large = measure(both, questions)
    for name, found in (("small", small), ("large", large)):
        walls = sorted(wall for _, wall in found)
        shown = ", ".join(f"p{p} {walls[at(walls, p / 100)]:.1f} ms" for p in (50, 99))
        console.print(f"{name}, by the clock: {shown}")
    return [
        report.Figure(
            f"lookup.p{p}-flat",
            large[at(large, p / 100)][0],
            small[at(small, p / 100)][0],
            "ms",
            f"the same look-ups over {both[0].network.rows:,} rows, ours over ten times as many",
            "CPU of client and engine: seven statements with evidence, losses and arrivals,"
            " grading, JSON",
            "the service, its leaf and TLS; cold disks (each question is asked three times and the"
            " cheapest counts); a longer period (ten days in both)",
            wanted=FLAT,
        )
        for p in (50, 99)
    ]


def at(values: Sequence[object], share: float) -> int:
    """Index of a quantile."""
    return min(len(values) - 1, int(len(values) * share))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the smaller network")
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--folder", type=Path, help="keep the rows here and use them again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tallyhold-lookup-") as temporary:
        folder = given.folder.resolve() if given.folder else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return report.finish(figures(given.rows, given.questions, folder))


if __name__ == "__main__":
    sys.exit(main())
