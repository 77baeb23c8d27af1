"""`python -m bench.purge`: our purge of a partition beside ALTER TABLE … DELETE of the same rows.

A day of visits, all columns and a few hundred bytes a row before compression, 0.1 % of them held by
ten orders on two subscribers each, is destroyed in two ways on the bundled engine, as its user
`keeper`: by the product's own steps, and on an identical partition (hard links to the same parts)
by a mutation that keeps the rows the orders are about. Then the same with orders on addresses,
which the table is not sorted by, so that candidates take one scan of the address column. What
counts is the server's CPU time, user and system, read from /proc/<pid>/stat around each.

In ours are the calls that `destruction.steps` makes, in its order: the count, evidence with the
selection, the copy with its fingerprints on both sides, the second look into the vault, the second
count, and the drop. Left out of both are making the rows, merging them into one part, the register,
the audit log and the physical verification, which reads no row. Our client's own CPU time, for
matching and digests, is shown and is not in the ratio; the other way needs none. The mutation
verifies nothing before or after, and its old part, which the engine unlinks later, is not waited
for; our drop unlinks at once.
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
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from aggregator.store.blocks import constant
from aggregator.store.bundled import Engine, EngineConfig
from aggregator.store.client import MAX_BLOCK_ROWS, Client
from aggregator.store.migrate import Migrator
from aggregator.store.schema import RECORD_TABLES
from bench import report
from collector.wire.addr import pack
from retention.model import Approval, Hold, Kind, Place, ScopeItem, State
from retention.policy.partitions import span
from retention.vault.engine import EngineVault
from retention.vault.port import Approved

ROWS: Final = 20_000_000
PLACE: Final = Place("visit", 20261122)
WANTED: Final = 10.0
"""Times as cheap as the mutation, for what the table is sorted by."""
VISITS_A_LINE: Final = 1000
HOLDS: Final = 10
HELD_SHARE: Final = 1000
"""One line in so many is held."""
HOSTS: Final = 50_000
SERVERS: Final = 20_000
BLOCKS_A_DAY: Final = 288
_TICK: Final = os.sysconf("SC_CLK_TCK")
_IDLE_S: Final = 3.0
_COPY: Final = "visit_mutated"
_KEPT: Final = "visit_kept"

By: TypeAlias = Literal["subscriber", "address"]
Values: TypeAlias = np.ndarray[Any, Any]


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


def subscriber(line: int) -> str:
    """Opaque reference of a line."""
    return f"sub-{line:08d}"


def address(line: int) -> str:
    """The public address of a line."""
    return f"100.{64 + line // 65536}.{line // 256 % 256}.{line % 256}"


def held_lines(rows: int) -> list[int]:
    """The lines that are held, spread over all."""
    lines = rows // VISITS_A_LINE
    return list(range(HELD_SHARE // 2, lines, HELD_SHARE))


def blocks(rows: int, seed: int = 1) -> Iterator[dict[str, Values]]:
    """A day's visits as ingest writes them: all lines in each five minutes, one after another.

    Hosts are drawn by Zipf's law from names of 12 to 60 characters, bytes are log-normal.
    """
    random = np.random.default_rng(seed)
    lines = rows // VISITS_A_LINE
    names = np.array([subscriber(n).encode() for n in range(lines)], dtype=object)
    addresses = np.array([np.void(pack(address(n))) for n in range(lines)], dtype="V16")
    hosts = np.array([_host(random, n).encode() for n in range(HOSTS)], dtype=object)
    servers = np.frombuffer(random.bytes(16 * SERVERS), "V16")
    start, end = span(PLACE)
    for first in range(0, rows, MAX_BLOCK_ROWS):
        count = min(rows, first + MAX_BLOCK_ROWS) - first
        line = np.arange(first, first + count) % lines
        host = np.minimum(random.zipf(1.3, count) - 1, HOSTS - 1)
        at = start + (end - start) * first // rows + random.integers(0, 300_000_000, count)
        yield _block(random, np.minimum(at, end - 1)) | {
            "subscriber": names[line],
            "address": addresses[line],
            "host": hosts[host],
            "server": servers[host % SERVERS],
        }


def _host(random: np.random.Generator, number: int) -> str:
    labels = ("www", "cdn", "api", "static.assets", "edge-chat", "video-lhr3-1.xx")
    middle = "".join(chr(97 + int(each)) for each in random.integers(0, 26, 4 + number % 20))
    return f"{labels[number % len(labels)]}.{middle}.example"


def _block(random: np.random.Generator, starts: Values) -> dict[str, Values]:
    """All columns but those that `blocks` gives."""
    rows = len(starts)
    lasted = random.integers(1_000, 600_000_000, rows)
    made: dict[str, Values] = {}
    for name, kind in RECORD_TABLES["visit"].columns:
        if name == "batch":
            made[name] = constant(random.bytes(16), rows)
        elif kind == "FixedString(16)":
            made[name] = np.frombuffer(random.bytes(16 * rows), "V16")
        elif kind == "String":
            text = {"reason": b"", "evidence": b"tls-sni"}.get(name, b"edge-router-1")
            made[name] = constant(text, rows)
        elif name.endswith("_us"):
            made[name] = starts + (0 if name in ("start_us", "first_us") else lasted)
        elif name.endswith("_bytes"):
            made[name] = random.lognormal(9, 2, rows).astype(np.uint64)
        else:
            most = {"prefix_len": 128, "server_port": 443, "protocol": 6, "schema_version": 1}
            width = np.dtype(kind.lower())
            value = random.integers(1, 4, rows) if name == "connections" else most.get(name, 0)
            made[name] = np.full(rows, value).astype(width)
    return made


def holds(rows: int, by: By) -> list[Hold]:
    """Ten orders, each on a tenth of the held lines, for the whole day."""
    who = Approval("bench", "legal-requester", 0)
    lines = held_lines(rows)
    return [
        Hold(
            id=f"H-2026-{number:04d}",
            matter="bench",
            basis="court-order",
            authority="bench",
            reference="bench",
            order_sha256="",
            served_us=0,
            requested=who,
            scope=tuple(_item(line, by) for line in lines[number::HOLDS]),
            state=State.PRESERVED,
        )
        for number in range(min(HOLDS, len(lines)))
    ]


def _item(line: int, by: By) -> ScopeItem:
    kind, value = Kind.SUBSCRIBER, subscriber(line)
    if by == "address":
        kind, value = Kind.ADDRESS, f"{address(line)}/32"
    return ScopeItem(kind, value, *span(PLACE), ("visit",))


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
            wanted=WANTED if each["by"] == "subscriber" and each["rows"] >= ROWS else None,
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
