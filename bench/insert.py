"""`python -m bench.insert`: our columnar insert beside clickhouse-client's Native insert.

Both put the same million usage rows into the same engine in one run, in turns, so that a busy
machine slows both. What counts is the client's own CPU time (user and system) and the wall time;
Theirs is Debian's clickhouse-client reading a file of
the Native format, the leanest way into ClickHouse that exists; making that file is not counted.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from aggregator.store.blocks import constant
from aggregator.store.bundled import Engine, EngineConfig
from aggregator.store.client import MAX_BLOCK_ROWS, Client
from aggregator.store.migrate import load, statements
from aggregator.store.schema import RECORD_TABLES
from bench import report

ROWS: Final = 1_000_000
_START_US: Final = 1_795_348_800_000_000


@dataclass(frozen=True, slots=True)
class Cost:
    """Client CPU and wall seconds of one million rows."""

    cpu_s: float
    wall_s: float


def columns(rows: int, seed: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    """Usage as the pipeline hands it over: integers, object arrays of bytes, constants."""
    random = np.random.default_rng(seed)
    made: dict[str, np.ndarray[Any, Any]] = {}
    for name, kind in RECORD_TABLES["usage"].columns:
        if name == "batch":
            made[name] = constant(random.bytes(16), rows)
        elif kind == "FixedString(16)":
            made[name] = np.frombuffer(random.bytes(16 * rows), "V16")
        elif name in ("collector", "boot"):
            made[name] = constant(b"edge-router-1", rows)
        elif name == "reason":  # mostly certain, at times without a binding
            made[name] = _objects([b"" if i % 50 else b"no-binding" for i in range(rows)])
        elif kind == "String":
            made[name] = _objects([b"value-%d" % (i % 5000) for i in range(rows)])
        elif name.endswith("_us"):
            made[name] = _START_US + np.arange(rows) // 1000 * 1000
        else:
            width = np.dtype(kind.lower())
            made[name] = random.integers(0, 100, rows).astype(width)
    return made


def _objects(values: list[bytes]) -> np.ndarray[Any, Any]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def cost_of(work: Callable[[], None], who: int) -> Cost:
    """Seconds of `work`, with the CPU of this process or of its finished children."""
    before, started = resource.getrusage(who), time.perf_counter()
    work()
    wall, after = time.perf_counter() - started, resource.getrusage(who)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(cpu, wall)


def insert_blocks(client: Client, data: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Ours: one insert for each block."""
    rows = len(next(iter(data.values())))
    for start in range(0, rows, MAX_BLOCK_ROWS):
        block = {name: values[start : start + MAX_BLOCK_ROWS] for name, values in data.items()}
        client.insert("usage", block)


def native_client(engine: Engine) -> tuple[list[str], dict[str, str]]:
    """Debian's client; its password comes through the environment's configuration file."""
    binary = shutil.which("clickhouse-client")
    if binary is None:
        raise SystemExit("install Debian's clickhouse-client")
    endpoint = engine.endpoint("writer")
    settings = engine.config.data / "bench-client.xml"
    settings.touch(mode=0o600)
    settings.write_text(
        f"<config><host>{endpoint.host}</host><port>{endpoint.port}</port>"
        f"<user>{endpoint.user}</user><password>{endpoint.password}</password></config>"
    )
    return [binary, "--config-file", str(settings), "--database", endpoint.database], {
        "PATH": os.defpath,
        "HOME": str(engine.config.data),
    }


def make_table(client: Client, keeper: Client) -> None:
    """The usage table under its own name, but without codecs: the old client cannot read them."""
    client.outside("CREATE DATABASE IF NOT EXISTS tallyhold")
    plain = statements(load()[0].text, (18, 16), "tallyhold")
    (create,) = (text for text in plain if text.startswith("CREATE TABLE IF NOT EXISTS usage "))
    keeper.execute(create)


def run(rounds: int, rows: int) -> dict[str, Any]:
    """Both ways in turns; the medians and the ratios."""
    with tempfile.TemporaryDirectory(prefix="tallyhold-bench-") as folder:
        engine = Engine(EngineConfig(Path(folder) / "engine"))
        engine.start()
        client, keeper = Client(engine.endpoint()), Client(engine.endpoint("keeper"))
        try:
            make_table(client, keeper)
            return _measure(engine, client, keeper, Path(folder) / "rows.native", rounds, rows)
        finally:
            client.close()
            keeper.close()
            engine.stop()


def _measure(
    engine: Engine, client: Client, keeper: Client, file: Path, rounds: int, rows: int
) -> dict[str, Any]:
    data = columns(rows)
    names = ", ".join(data)
    command, environment = native_client(engine)
    insert_blocks(client, data)
    with file.open("wb") as out:
        subprocess.run(
            [*command, "--query", f"SELECT {names} FROM usage FORMAT Native"],
            stdout=out,
            env=environment,
            check=True,
        )

    def theirs() -> None:
        with file.open("rb") as source:
            subprocess.run(
                [*command, "--query", f"INSERT INTO usage ({names}) FORMAT Native"],
                stdin=source,
                env=environment,
                check=True,
            )

    costs: dict[str, list[Cost]] = {"columnar": [], "native": []}
    for _ in range(rounds):
        for name, work, who in (
            ("columnar", lambda: insert_blocks(client, data), resource.RUSAGE_SELF),
            ("native", theirs, resource.RUSAGE_CHILDREN),
        ):
            keeper.execute("TRUNCATE TABLE usage")
            costs[name].append(cost_of(work, who))
            stored = keeper.query_columns("SELECT count() AS n FROM usage")["n"][0]
            if stored != rows:
                raise SystemExit(f"{name} stored {stored} of {rows} rows")
    medians = {
        name: Cost(
            statistics.median(cost.cpu_s for cost in all_of),
            statistics.median(cost.wall_s for cost in all_of),
        )
        for name, all_of in costs.items()
    }
    return {
        "engine": ".".join(map(str, client.capabilities().version)),
        "rows": rows,
        "columns": len(data),
        "seconds": {name: asdict(cost) for name, cost in medians.items()},
    }


def figures(result: Mapping[str, Any]) -> list[report.Figure]:
    """Client CPU and wall time of a million rows."""
    ours, theirs = result["seconds"]["columnar"], result["seconds"]["native"]
    return [
        report.Figure(
            name=f"insert.usage-{kind}",
            ours=ours[f"{kind}_s"] / result["rows"] * 1e6,
            peer=theirs[f"{kind}_s"] / result["rows"] * 1e6,
            unit=f"us {what} a row",
            peer_is="clickhouse-client (Debian), FORMAT Native",
            includes=f"{result['rows']:,} rows of {result['columns']} columns, to the engine's "
            f"answer; ClickHouse {result['engine']}",
            leaves_out="making the columns and making the file; "
            + ("the engine's own CPU" if kind == "cpu" else "nothing of the time"),
        )
        for kind, what in (("cpu", "client CPU"), ("wall", "wall time"))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=ROWS)
    given = parser.parse_args()
    return report.finish(figures(run(given.rounds, given.rows)))


if __name__ == "__main__":
    raise SystemExit(main())
