"""`python -m bench.insert`: our columnar insert beside clickhouse-client's Native insert.

Both put the same million usage rows into the same engine in one run, in turns, so that a busy
machine slows both. What counts is the client's own CPU time (user and system) and the wall time;
the figure is the ratio, ours over theirs. Theirs is Debian's clickhouse-client reading a file of
the Native format, the leanest way into ClickHouse that exists; making that file is not counted.
"""

from __future__ import annotations

import argparse
import json
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
    ours, other = medians["columnar"], medians["native"]
    return {
        "bench": "insert",
        "engine": ".".join(map(str, client.capabilities().version)),
        "rows": rows,
        "columns": len(data),
        "rounds": rounds,
        "seconds": {name: asdict(cost) for name, cost in medians.items()},
        "ratio": {"cpu": ours.cpu_s / other.cpu_s, "wall": ours.wall_s / other.wall_s},
    }


def table(result: Mapping[str, Any]) -> str:
    """The result for people."""
    lines = [f"{'way':<10} {'client CPU s':>13} {'wall s':>8} {'rows/s':>11}"]
    for name, cost in result["seconds"].items():
        rate = result["rows"] / cost["wall_s"]
        lines.append(f"{name:<10} {cost['cpu_s']:>13.3f} {cost['wall_s']:>8.3f} {rate:>11,.0f}")
    ratio = result["ratio"]
    lines.append(f"{'ratio':<10} {ratio['cpu']:>13.2f} {ratio['wall']:>8.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    given = parser.parse_args()
    result = run(given.rounds, given.rows)
    if not given.json:
        print(table(result))  # noqa: T201 -- a command's output
    print(json.dumps(result, sort_keys=True))  # noqa: T201 -- a command's output


if __name__ == "__main__":
    main()
