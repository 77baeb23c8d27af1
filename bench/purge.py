"""`python -m bench.purge`: our purge of a partition beside ALTER TABLE … DELETE of the same rows.

A day of visits, all columns and a few hundred bytes a row before compression, 0.1 % of them held by
ten orders on two subscribers each, is destroyed in two ways on the bundled engine, as its user
`keeper`: by the product's own steps, and on an identical partition (hard links to the same parts)
by a mutation that keeps the rows the orders are about. Then the same with orders on addresses,
which the table is not sorted by, so that candidates take one scan of the address column. What
counts is the server's CPU time, user and system, read from its CPU clock around each.

In ours are the calls that `destruction.steps` makes, in its order: the count, evidence with the
selection, the copy with its fingerprints on both sides, the look into the vault for the roots that
evidence has, the second count, and the drop. Left out of both are making the rows, merging them
into one part, the register, the audit log and the physical verification, which reads no row. Our
client's own CPU time, for matching, digests and writing the copy out, is shown and is not in the
ratio; the other way needs none. The mutation verifies nothing before or after, and its old part,
which the engine unlinks later, is not waited for; our drop unlinks at once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from aggregator.store.bundled import Engine, EngineConfig
from aggregator.store.client import Client
from aggregator.store.migrate import Migrator
from bench import report
from bench.purge_day import (
    HELD_SHARE,
    PLACE,
    VISITS_A_LINE,
    By,
    address,
    blocks,
    held_lines,
    holds,
    subscriber,
)
from bench.server_cpu import Cost, measured, server_cpu
from collector.wire.addr import pack
from retention.model import Place
from retention.policy.partitions import span
from retention.vault.engine import EngineVault
from retention.vault.port import Approved

ROWS: Final = 20_000_000
WANTED: Final = 10.0
"""Times as cheap as the mutation."""
_IDLE_S: Final = 3.0
_COPY: Final = "visit_mutated"
_KEPT: Final = "visit_kept"


class Bench:
    """One engine, its tables, and the two ways."""

    def __init__(self, engine: Engine, keeper: Client, writer: Client) -> None:
        self._engine, self._keeper, self._writer = engine, keeper, writer
        self._vault = EngineVault([[keeper]])

    def fill(self, rows: int) -> None:
        """Put the partition there, in one part, and an identical one beside it."""
        self._keeper.execute("TRUNCATE TABLE visit")
        for block in blocks(rows):
            self._writer.insert("visit", block)
        self._long(f"OPTIMIZE TABLE visit PARTITION {PLACE.number} FINAL")
        for table in (_KEPT, _COPY):
            self._keeper.execute(f"DROP TABLE IF EXISTS {table}")
            self._keeper.execute(f"CREATE TABLE {table} AS visit")
        self._clone("visit", _KEPT, rows)

    def again(self, rows: int) -> None:
        """Empty the vault, and bring both partitions back from the one that is kept."""
        self._keeper.execute("TRUNCATE TABLE tallyhold_vault.vault_visit")
        for table in ("visit", _COPY):
            self._keeper.execute(f"TRUNCATE TABLE {table}")
            self._clone(_KEPT, table, rows)
        self._quiet()

    def _clone(self, table: str, to: str, rows: int) -> None:
        self._keeper.execute(f"ALTER TABLE {to} ATTACH PARTITION {PLACE.number} FROM {table}")
        if (found := self.count(to)) != rows:
            raise SystemExit(f"{to} has {found} rows of {rows}")

    def idle(self) -> float:
        """Server CPU seconds in a second in which nothing is asked of it."""
        before = server_cpu(self._pid)
        time.sleep(_IDLE_S)
        return (server_cpu(self._pid) - before) / _IDLE_S

    def purge(self, rows: int, by: By) -> dict[str, Cost]:
        """Ours, step by step."""
        vault, all_of, costs = self._vault, holds(rows, by), dict[str, Cost]()

        def salt(hold: str, place: Place) -> bytes:
            return f"{hold}|{place.name}".encode()

        def select(*stores: Any) -> Any:
            return vault.select(PLACE, stores, all_of, salt)

        costs["count"], before = self._cost(lambda: vault.count(PLACE, "live"))
        costs["select"], chosen = self._cost(lambda: select("live", "vault"))
        costs["preserve"], _ = self._cost(lambda: vault.preserve(chosen))

        def verify() -> bool:
            kept = select("vault")
            same = {(e.hold, e.rows, e.root) for e in kept.held} == {
                (e.hold, e.rows, e.root) for e in chosen.held
            }
            return same and vault.count(PLACE, "live") == before

        costs["verify"], good = self._cost(verify)
        approved = Approved("P-2026-000001", PLACE, "live", 1)  # the bench stands for the plan
        costs["drop"], _ = self._cost(lambda: vault.drop(approved))
        left, kept = vault.count(PLACE, "live"), vault.count(PLACE, "vault")
        wanted = len(held_lines(rows)) * VISITS_A_LINE
        if not (good and chosen.is_live) or (before, left, kept) != (rows, 0, wanted):
            raise SystemExit(f"{before} rows, {left} left, {kept} kept, selection {chosen.rows}")
        return costs

    def mutate(self, rows: int, by: By) -> Cost:
        """Theirs: rewrite the partition with the rows that the orders are about, and no others."""
        start, end = span(PLACE)
        lines = held_lines(rows)
        if by == "subscriber":
            named = f"subscriber IN ({', '.join(repr(subscriber(n)) for n in lines)})"
        else:
            values = ", ".join(f"unhex('{pack(address(n)).hex()}')" for n in lines)
            named = f"address IN ({values}) AND prefix_len = 128"
        held = f"{named} AND start_us < {end} AND greatest(start_us + 1, end_us) > {start}"
        sql = f"ALTER TABLE {_COPY} DELETE WHERE NOT ({held})"
        cost, _ = self._cost(lambda: self._long(sql))
        left = self.count(_COPY)
        if left != len(lines) * VISITS_A_LINE:
            raise SystemExit(f"the mutation left {left} rows")
        return cost

    def count(self, table: str) -> int:
        """Rows of a table."""
        return int(self._keeper.query_columns(f"SELECT count() AS n FROM {table}")["n"][0])

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
        return measured(self._pid, work)

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
    """Both ways for each size, by what the table is sorted by and by what it is not."""
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
                for by in _BOTH:
                    bench.again(rows)
                    idle = bench.idle()
                    steps = bench.purge(rows, by)
                    found.append(_summary(rows, by, steps, bench.mutate(rows, by), idle))
            version = ".".join(map(str, keeper.capabilities().version))
        finally:
            keeper.close()
            writer.close()
            engine.stop()
    return {"engine": version, "runs": found}


_BOTH: Final[tuple[By, ...]] = ("subscriber", "address")


def _summary(
    rows: int, by: By, steps: Mapping[str, Cost], theirs: Cost, idle: float
) -> dict[str, Any]:
    server = sum(cost.server_s for cost in steps.values())
    return {
        "rows": rows,
        "by": by,
        "held_rows": len(held_lines(rows)) * VISITS_A_LINE,
        "steps": {name: asdict(cost) for name, cost in steps.items()},
        "alter_delete": asdict(theirs),
        "server_s": server,
        "idle_server_s_per_s": idle,
        "share": server / theirs.server_s,
    }


def table(result: Mapping[str, Any]) -> str:
    """The result for people."""
    lines = []
    for each in result["runs"]:
        lines.append(f"{each['rows']:,} rows, {each['held_rows']:,} held by {each['by']}")
        lines.append(f"  {'step':<14} {'server CPU s':>13} {'own CPU s':>10} {'wall s':>8}")
        for name, cost in [*each["steps"].items(), ("ALTER DELETE", each["alter_delete"])]:
            lines.append(
                f"  {name:<14} {cost['server_s']:>13.2f} {cost['client_s']:>10.2f}"
                f" {cost['wall_s']:>8.2f}"
            )
        lines.append(
            f"  ours: {each['server_s']:.2f} s, {each['share']:.1%} of the mutation;"
            f" idle: {each['idle_server_s_per_s']:.3f} server CPU s each second"
        )
    for by in _BOTH:
        first, *_, last = [each for each in result["runs"] if each["by"] == by] * 2
        more = (last["rows"] - first["rows"]) / 1e6
        if more > 0:
            ours = (last["server_s"] - first["server_s"]) / more
            theirs = last["alter_delete"]["server_s"] - first["alter_delete"]["server_s"]
            lines.append(
                f"each further million rows, 0.1 % held by {by}: ours {ours:.3f} s,"
                f" the mutation {theirs / more:.3f} s"
            )
    return "\n".join(lines)


def figures(result: Mapping[str, Any]) -> list[report.Figure]:
    """The server's CPU of both ways, for each size and kind of order."""
    return [
        report.Figure(
            name=f"purge.visit-{each['by']}-{each['rows']}",
            ours=each["server_s"],
            peer=each["alter_delete"]["server_s"],
            unit="s server CPU a partition",
            peer_is=f"ALTER TABLE DELETE, ClickHouse {result['engine']}",
            includes=f"{each['rows']:,} rows, {each['held_rows']:,} held by {each['by']}: counts, "
            "evidence and selection, copy with fingerprints, second look into the vault, drop",
            leaves_out="our client's CPU (shown above), the register, the audit log, physical "
            "verification; the mutation verifies nothing",
            wanted=WANTED if each["rows"] >= ROWS else None,
        )
        for each in result["runs"]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, default=ROWS, help="rows of the partition; a quarter of it runs first"
    )
    parser.add_argument("--once", action="store_true", help="only this size, no smaller one before")
    given = parser.parse_args()
    if given.rows < 4 * VISITS_A_LINE * HELD_SHARE:
        parser.error(f"fewer than {4 * VISITS_A_LINE * HELD_SHARE} rows say nothing")
    result = run([given.rows] if given.once else [given.rows // 4, given.rows])
    print(table(result))  # noqa: T201 -- a command's output
    return report.finish(figures(result))


if __name__ == "__main__":
    raise SystemExit(main())
