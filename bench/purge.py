"""`python -m bench.purge`: our purge of a partition beside ALTER TABLE … DELETE of the same rows.

A month of usage rows, 0.1 % of them held by subscriber, is destroyed in two ways on the bundled
engine, as its user `keeper`: by the product's own select, preserve and drop, and on an identical
partition (hard links to the same parts) by a mutation that keeps the held subscribers' rows. What
counts is the server's CPU time, user and system, read from /proc/<pid>/stat around each.

In ours are: counting the held rows as evidence, counting and selecting again for the purge, the
copy with its fingerprints on both sides, the second look into the vault, and the drop: the calls
that `destruction.steps` makes. Left out of both are making the rows, merging them into one part,
the register, the audit log and the physical verification, which reads no row. Our client's own CPU
time, for matching and digests, is shown and is not in the ratio; the other way needs none.
The mutation is given its leanest form: one column in its condition, held subscribers as literals,
nothing verified before or after, and its old part, which the engine unlinks later, is not waited
for; our drop unlinks at once. Ours costs about half a second whatever the size, so a small
partition says little.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from aggregator.store.blocks import constant
from aggregator.store.bundled import Engine, EngineConfig
from aggregator.store.client import MAX_BLOCK_ROWS, Client
from aggregator.store.migrate import Migrator
from aggregator.store.schema import RECORD_TABLES
from bench import report
from retention.model import Approval, Hold, Kind, Place, ScopeItem, State
from retention.policy.partitions import span
from retention.vault.engine import EngineVault
from retention.vault.port import Approved

ROWS: Final = 20_000_000
PLACE: Final = Place("usage", 202611)
HOLDS: Final = 10
_SUBSCRIBERS: Final = 10_000
"""Ten of them are held: 0.1 % of the rows, as each has as many."""
_WINDOW_US: Final = 300_000_000
_TICK: Final = os.sysconf("SC_CLK_TCK")
_IDLE_S: Final = 3.0
_COPY: Final = "usage_mutated"


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one step: the server's CPU, our own CPU, and by the clock."""

    server_s: float
    client_s: float
    wall_s: float


def server_cpu(pid: int) -> float:
    """User and system seconds of a process and all its threads so far (proc(5), fields 14, 15)."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def blocks(rows: int, seed: int = 1) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Usage of a month as ingest writes it: all subscribers in each window, window after window."""
    random = np.random.default_rng(seed)
    start, end = span(PLACE)
    windows = -(-rows // _SUBSCRIBERS)
    step = max(1, (end - start) // _WINDOW_US // windows) * _WINDOW_US
    names = np.array([subscriber(n).encode() for n in range(_SUBSCRIBERS)], dtype=object)
    for first in range(0, rows, MAX_BLOCK_ROWS):
        at = np.arange(first, min(rows, first + MAX_BLOCK_ROWS))
        starts = start + np.minimum(at // _SUBSCRIBERS * step, end - start - _WINDOW_US)
        yield _block(random, starts, names[at % _SUBSCRIBERS])


def subscriber(number: int) -> str:
    """Opaque reference of one of the subscribers."""
    return f"sub-{number:08d}"


def _block(
    random: np.random.Generator,
    starts: np.ndarray[Any, Any],
    subscribers: np.ndarray[Any, Any],
) -> dict[str, np.ndarray[Any, Any]]:
    rows = len(starts)
    made: dict[str, np.ndarray[Any, Any]] = {}
    for name, kind in RECORD_TABLES["usage"].columns:
        if name == "batch":
            made[name] = constant(random.bytes(16), rows)
        elif kind == "FixedString(16)":
            made[name] = np.frombuffer(random.bytes(16 * rows), "V16")
        elif name == "subscriber":
            made[name] = subscribers
        elif kind == "String":
            made[name] = constant(b"" if name == "reason" else b"edge-router-1", rows)
        elif name.endswith("_us"):
            made[name] = starts + (0 if name == "start_us" else _WINDOW_US)
        else:
            width = np.dtype(kind.lower())
            most = {"flags": 1, "prefix_len": 129, "schema_version": 2}.get(name, 10**9)
            made[name] = random.integers(0, min(most, np.iinfo(width).max), rows).astype(width)
    return made


def holds() -> list[Hold]:
    """Ten holds on one subscriber each, for the whole month."""
    by = Approval("bench", "legal-requester", 0)
    return [
        Hold(
            id=f"H-2026-{number:04d}",
            matter="bench",
            basis="court-order",
            authority="bench",
            reference="bench",
            order_sha256="",
            served_us=0,
            requested=by,
            scope=(ScopeItem(Kind.SUBSCRIBER, _held(number), *span(PLACE), ("usage",)),),
            state=State.PRESERVED,
        )
        for number in range(HOLDS)
    ]


def _held(number: int) -> str:
    return subscriber(number * (_SUBSCRIBERS // HOLDS))


class Bench:
    """One engine, its tables, and the two ways."""

    def __init__(self, engine: Engine, keeper: Client, writer: Client) -> None:
        self._engine, self._keeper, self._writer = engine, keeper, writer
        self._vault = EngineVault([[keeper]])

    def fill(self, rows: int) -> None:
        """Put the partition there, in one part, and an identical one beside it."""
        self._keeper.execute("TRUNCATE TABLE usage")
        self._keeper.execute(f"DROP TABLE IF EXISTS {_COPY}")
        for block in blocks(rows):
            self._writer.insert("usage", block)
        self._long(f"OPTIMIZE TABLE usage PARTITION {PLACE.number} FINAL")
        self._keeper.execute(f"CREATE TABLE {_COPY} AS usage")
        self._keeper.execute(f"ALTER TABLE {_COPY} ATTACH PARTITION {PLACE.number} FROM usage")
        for table in ("usage", _COPY):
            if (found := self.count(table)) != rows:
                raise SystemExit(f"{table} has {found} rows of {rows}")
        self._quiet()

    def idle(self) -> float:
        """Server CPU seconds in a second in which nothing is asked of it."""
        before = server_cpu(self._pid)
        time.sleep(_IDLE_S)
        return (server_cpu(self._pid) - before) / _IDLE_S

    def purge(self, rows: int) -> dict[str, Cost]:
        """Ours, step by step."""
        vault, all_of, costs = self._vault, holds(), dict[str, Cost]()

        def salt(hold: str, place: Place) -> bytes:
            return f"{hold}|{place.name}".encode()

        def select(*stores: Any) -> Any:
            return vault.select(PLACE, stores, all_of, salt)

        costs["evidence"], _ = self._cost(lambda: select("live", "vault"))
        costs["count"], before = self._cost(lambda: vault.count(PLACE, "live"))
        costs["select"], chosen = self._cost(lambda: select("live"))
        costs["preserve"], _ = self._cost(lambda: vault.preserve(chosen))

        def verify() -> bool:
            kept = select("vault")
            same = {(e.hold, e.rows, e.root) for e in kept.held} == {
                (e.hold, e.rows, e.root) for e in chosen.held
            }
            return same and vault.preserved(chosen) and vault.count(PLACE, "live") == before

        costs["verify"], good = self._cost(verify)
        approved = Approved("P-2026-000001", PLACE, "live", 1)  # the bench stands for the plan
        costs["drop"], _ = self._cost(lambda: vault.drop(approved))
        left, kept = vault.count(PLACE, "live"), vault.count(PLACE, "vault")
        if not good or (before, left, kept) != (rows, 0, chosen.rows) or not chosen.rows:
            raise SystemExit(f"{before} rows, {left} left, {kept} kept, selection {chosen.rows}")
        return costs

    def mutate(self, rows: int) -> Cost:
        """Theirs: rewrite the partition with the held subscribers' rows only."""
        kept = ", ".join(f"'{_held(number)}'" for number in range(HOLDS))
        sql = f"ALTER TABLE {_COPY} DELETE WHERE subscriber NOT IN ({kept})"
        cost, _ = self._cost(lambda: self._long(sql))
        left = self.count(_COPY)
        if left != HOLDS * -(-rows // _SUBSCRIBERS):
            raise SystemExit(f"the mutation left {left} rows")
        return cost

    def count(self, table: str) -> int:
        """Rows of a table."""
        return int(self._keeper.query_columns(f"SELECT count() AS n FROM {table}")["n"][0])

    def clear(self) -> None:
        """Empty the vault for the next size."""
        self._keeper.execute("TRUNCATE TABLE tallyhold_vault.vault_usage")

    def prepare(self) -> None:
        """Make the tables."""
        Migrator(self._writer, time.time_ns).run()
        self._vault.prepare()

    @property
    def _pid(self) -> int:
        pid = self._engine.pid
        if pid is None:
            raise SystemExit("the engine died")
        return pid

    def _cost(self, work: Callable[[], Any]) -> tuple[Cost, Any]:
        own, server = resource.getrusage(resource.RUSAGE_SELF), server_cpu(self._pid)
        started = time.perf_counter()
        result = work()
        wall = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_SELF)
        client = after.ru_utime + after.ru_stime - own.ru_utime - own.ru_stime
        return Cost(server_cpu(self._pid) - server, client, wall), result

    def _long(self, sql: str) -> None:
        """Run a statement that works in the background to its end."""
        self._keeper.query_columns(sql, None, {"mutations_sync": 2, "optimize_throw_if_noop": 1})

    def _quiet(self) -> None:
        """Wait until no merge runs; what is left to do in the background shows as `idle`."""
        for _ in range(600):
            busy = self._keeper.query_columns("SELECT count() AS n FROM system.merges")
            if not busy["n"][0]:
                return
            time.sleep(0.2)
        raise SystemExit("merges did not end within two minutes")


def run(sizes: Sequence[int]) -> dict[str, Any]:
    """Both ways for each size."""
    with tempfile.TemporaryDirectory(prefix="tallyhold-bench-") as folder:
        engine = Engine(EngineConfig(Path(folder) / "engine"))
        engine.start()
        keeper, writer = Client(engine.endpoint("keeper")), Client(engine.endpoint())
        try:
            bench = Bench(engine, keeper, writer)
            bench.prepare()
            found = []
            for rows in sizes:
                bench.fill(rows)
                idle = bench.idle()
                steps = bench.purge(rows)
                found.append(_summary(rows, steps, bench.mutate(rows), idle))
                bench.clear()
            version = ".".join(map(str, keeper.capabilities().version))
        finally:
            keeper.close()
            writer.close()
            engine.stop()
    return {"engine": version, "sizes": found}


def _summary(rows: int, steps: Mapping[str, Cost], theirs: Cost, idle: float) -> dict[str, Any]:
    server = sum(cost.server_s for cost in steps.values())
    core = sum(steps[name].server_s for name in ("select", "preserve", "drop"))
    return {
        "rows": rows,
        "held_rows": HOLDS * -(-rows // _SUBSCRIBERS),
        "steps": {name: asdict(cost) for name, cost in steps.items()},
        "alter_delete": asdict(theirs),
        "server_s": server,
        "idle_server_s_per_s": idle,
        "ratio": {
            "all_steps": server / theirs.server_s,
            "select_preserve_drop": core / theirs.server_s,
        },
    }


def table(result: Mapping[str, Any]) -> str:
    """The result for people."""
    lines = []
    for each in result["sizes"]:
        lines.append(f"{each['rows']:,} rows, {each['held_rows']:,} held")
        lines.append(f"  {'step':<14} {'server CPU s':>13} {'own CPU s':>10} {'wall s':>8}")
        for name, cost in [*each["steps"].items(), ("ALTER DELETE", each["alter_delete"])]:
            lines.append(
                f"  {name:<14} {cost['server_s']:>13.2f} {cost['client_s']:>10.2f}"
                f" {cost['wall_s']:>8.2f}"
            )
        ratio = each["ratio"]
        lines.append(
            f"  ours, all steps: {each['server_s']:.2f} s, {ratio['all_steps']:.1%} of the"
            f" mutation; select, preserve and drop alone: {ratio['select_preserve_drop']:.1%}"
        )
        lines.append(f"  idle: {each['idle_server_s_per_s']:.3f} server CPU s each second")
    first, last = result["sizes"][0], result["sizes"][-1]
    if last is not first:
        more = (last["rows"] - first["rows"]) / 1e6
        grown = (last["server_s"] - first["server_s"]) / more
        theirs = last["alter_delete"]["server_s"] - first["alter_delete"]["server_s"]
        lines.append(
            f"each further million rows, 0.1 % held: ours {grown:.3f} s,"
            f" the mutation {theirs / more:.3f} s"
        )
    return "\n".join(lines)


def figures(result: Mapping[str, Any]) -> list[report.Figure]:
    """The server's CPU of both ways, for each size."""
    return [
        report.Figure(
            name=f"purge.usage-{each['rows']}",
            ours=each["server_s"],
            peer=each["alter_delete"]["server_s"],
            unit="s server CPU a partition",
            peer_is=f"ALTER TABLE DELETE, ClickHouse {result['engine']}",
            includes=f"{each['rows']:,} rows, {each['held_rows']:,} held: evidence, selection, "
            "copy with fingerprints on both sides, second look into the vault, drop",
            leaves_out="our client's CPU (shown above), the register, the audit log, physical "
            "verification; the mutation verifies nothing",
        )
        for each in result["sizes"]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, default=ROWS, help="rows of the partition; half of it runs first"
    )
    parser.add_argument("--once", action="store_true", help="only this size, not half of it too")
    given = parser.parse_args()
    result = run([given.rows] if given.once else [given.rows // 2, given.rows])
    print(table(result))  # noqa: T201 -- a command's output
    return report.finish(figures(result))


if __name__ == "__main__":
    raise SystemExit(main())
