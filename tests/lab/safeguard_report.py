"""SafeGuard proved on the lab: canaries as real look-ups, every check, a signed report of the day.

Everything goes through the command line, as an operator's and an auditor's would.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from safeguard import leaves
from safeguard.names import CHECKS
from tests.lab.appliance import COMMAND, ROOT, Appliance
from tests.lab.crowd import HOMES_V4, HOMES_V6, LINE, Clock, Crowd
from tests.lab.netns import LabError, Namespace
from tests.lab.topology import DELEGATED_V6, PUBLIC_V4, RESOLVER_V4, RESOLVER_V6

SUFFIX: Final = "casino.test"
"""Blocked with every name below it."""
COUNT: Final = 4
SOURCES: Final = 2
"""Households that look canaries up and do nothing else, of each family; the crowd has none of
their addresses."""
NOBODY_V4: Final = [str(PUBLIC_V4[n]) for n in (0xE9B7, 0xD69D, 0xDBE5, 0xCDF3)]
NOBODY_V6: Final = [str(DELEGATED_V6[n << 64 | 0x4711]) for n in (0xB7E9, 0xA6D3, 0xD5CB, 0xE3AD)]
"""Households of the access prefixes that there are not. Bytes that nothing else has: a packed IPv4
address is short."""
_SPARE: Final = 0xE00
LIMIT_S: Final = 300.0
ARRIVED_S: Final = 120.0

Say = Callable[[str], None]
_Run = tuple[Callable[[Sequence[str]], str], str, list[str], tuple[str, ...]]
"""How to execute a command where the look-ups come from, resolver, addresses, further options."""


@contextlib.contextmanager
def kept(spool: Path, folder: Path) -> Iterator[Path]:
    """A folder of copies of batches that wait to be sent: what goes over the wire, inside TLS; and
    of those that were refused."""
    folder.mkdir(parents=True, exist_ok=True)
    stopping = threading.Event()

    def keep() -> None:
        while not stopping.wait(0.02):
            for path in (*spool.glob("*.batch"), *spool.glob("dead/*.batch")):
                # Gone already, or kept already.
                with contextlib.suppress(FileNotFoundError, FileExistsError):
                    os.link(path, folder / path.name)

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield folder
    finally:
        stopping.set()
        thread.join()


def look_up_canaries(crowd: Crowd, edge: Namespace, output: Path, turn: int = 0) -> None:
    """Blocked names that nobody else uses: from households that do nothing else, and told to
    households that there are not, others in each of two turns."""
    mine = slice(SOURCES * turn, SOURCES * (turn + 1))
    runs = (
        (crowd.run, RESOLVER_V4, [str(HOMES_V4[-2 - n]) for n in range(SOURCES)], ()),
        (crowd.run, RESOLVER_V6, [str(HOMES_V6[_SPARE + n << 64]) for n in range(SOURCES)], ()),
        (_runner(edge), RESOLVER_V4, NOBODY_V4[mine], ("--through", LINE.interface)),
        (_runner(edge), RESOLVER_V6, NOBODY_V6[mine], ("--through", LINE.interface)),
    )
    found: dict[str, list[str]] = {"names": [], "addresses": [], "unmetered": []}
    with ThreadPoolExecutor(len(runs)) as pool:
        parts = [output.with_suffix(f".{n}.json") for n in range(len(runs))]
        for part in pool.map(_look_up, runs, parts):
            for kind, values in part.items():
                found[kind] += values
    output.write_text(json.dumps(found))


def _look_up(run: _Run, output: Path) -> dict[str, list[str]]:
    execute, resolver, sources, more = run
    words = ["safeguard", "canary", resolver, SUFFIX, "--output", str(output), *more]
    words += ["--count", str(COUNT), *(w for each in sources for w in ("--source", each))]
    execute([*COMMAND, *words])
    found: dict[str, list[str]] = json.loads(output.read_text())
    return found


def _runner(namespace: Namespace) -> Callable[[Sequence[str]], str]:
    return lambda argv: namespace.run(*argv)


def prove(
    appliance: Appliance,
    folder: Path,
    canaries: Path,
    end_us: int,
    *,
    wire: Sequence[Path] = (),
    log: Path | None = None,
    only: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """`safeguard prove` on the appliance and the live collector; the checks by name.

    end_us: of the last day to look at, which must have arrived. Writes `folder`/safeguard-proof.
    """
    assert appliance.collector is not None
    proof = folder / "safeguard-proof.json"
    words = [
        "safeguard", "prove", "--config", str(appliance.config), "--json",
        "--collector-config", str(appliance.collector_config), "--canaries", str(canaries),
        "--pid", str(appliance.collector.pid), "--period", _period(end_us),
        "--metrics", f"127.0.0.1:{appliance.collector_metrics_port}",
        "--metrics", f"127.0.0.1:{appliance.metrics_port}",
        "--key-file", str(folder / "safeguard.key"), "--output", str(proof),
    ]  # fmt: skip
    for name in ("collector.log", "appliance.log"):
        words += ["--log-file", str(appliance.folder / name)]
    words += [word for each in wire for word in ("--wire", str(each))]
    words += ["--log", str(log)] if log else []
    words += [word for each in only for word in ("--only", each)]
    done = _run(words, accept=(0, 1))
    checks = json.loads(done.stdout)["document"]["checks"]
    failed = any(each["outcome"] == "failed" for each in checks)
    if failed != bool(done.returncode):
        raise LabError(f"safeguard prove: exit code {done.returncode}")
    return {each["name"]: each for each in checks}


def report(appliance: Appliance, folder: Path, end_us: int, log: Path | None = None) -> Any:
    """The signed report of the days until `end_us`, and a page; verified with its key and log."""
    path, key = folder / "safeguard-report.json", folder / "safeguard.key"
    _run([
        "safeguard", "report", "--config", str(appliance.config), "--period", _period(end_us),
        "--key-file", str(key), "--output", str(path), "--html", str(path.with_suffix(".html")),
    ])  # fmt: skip
    vkey = _run(["safeguard", "key", "--key-file", str(key)]).stdout.strip()
    words = ["safeguard", "verify", str(path), "--key", vkey, "--json"]
    words += ["--log", str(log)] if log else []
    return json.loads(_run(words, accept=(0, 1)).stdout)


def tell(appliance: Appliance, end_us: int, log: Path, say: Say) -> dict[str, Any]:
    """The demo's part: the report, verified with the audit log, and again with one bit flipped."""
    verdict = report(appliance, appliance.folder, end_us, log)
    path = appliance.folder / "safeguard-report.json"
    say(f"signed report: {path.name}, {path.with_suffix('.html').name}")
    say(f"tallyhold safeguard verify: {'good' if verdict['good'] else verdict['findings']}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    spoilt = path.with_suffix(".flipped")
    spoilt.write_bytes(data)
    found = bool(_run(["safeguard", "verify", str(spoilt)], accept=(0, 1)).returncode)
    spoilt.unlink()
    say(f"with one bit flipped: exit code {int(found)}")
    return {"verified": verdict["good"] and found, "findings": verdict["findings"]}


def proof(appliance: Appliance, crowd: Crowd, clock: Clock, log: Path, say: Say) -> dict[str, Any]:
    """The demo's part on the running router: canaries on a day, and once it is over the proof; each
    check has to be made. log: the audit log's folder."""
    canaries = appliance.folder / "canaries.json"
    with kept(appliance.folder / "spool", appliance.folder / "wire") as wire:
        look_up_canaries(crowd, appliance.lab.edge, canaries)
        over = next_day(clock.day_s)
        wait_for_day(appliance, int(over * 1e6), clock)
        wait_for_leaves(appliance, int(over * 1e6), log)
        checks = prove(appliance, appliance.folder, canaries, int(over * 1e6), wire=[wire], log=log)
    for name, each in checks.items():
        if each["outcome"] != "passed":
            say(f"{name}: {each['outcome']}: {'; '.join(each['found']) or each['did']}")
    passed = [name for name, each in checks.items() if each["outcome"] == "passed"]
    failed = [name for name, each in checks.items() if each["outcome"] == "failed"]
    say(f"passed: {', '.join(passed)}")
    ok = len(passed) == len(CHECKS)
    return {"ok": ok, "passed": passed, "failed": failed, "end_us": int(over * 1e6)}


def wait_for_day(appliance: Appliance, end_us: int, clock: Clock) -> None:
    """Return once the day that ends then has arrived whole; LabError where it does not."""
    deadline = time.monotonic() + ARRIVED_S
    words = ("safeguard", "ledger", "--period", _period(end_us))
    start_us = end_us - clock.day_s * 10**6
    while time.monotonic() < deadline:
        days = appliance.ask(*words)["days"]
        told = [day["releases"] + day["silent"] for day in days if day["start"] == start_us]
        if told and told[0] >= clock.hours + 2:
            return
        time.sleep(0.3)
    raise LabError("SafeGuard's day did not arrive")


def wait_for_leaves(appliance: Appliance, end_us: int, log: Path) -> None:
    """Return once the audit log has every release until then; LabError where it does not."""
    deadline = time.monotonic() + ARRIVED_S
    days = appliance.ask("safeguard", "ledger", "--period", _period(end_us))["days"]
    told = sum(day["releases"] + day["silent"] for day in days)
    while sum(leaf["start"] < end_us for leaf in leaves.windows(log)[0].values()) < told:
        if time.monotonic() > deadline:
            raise LabError("the audit log has not every release")
        time.sleep(0.2)


def next_day(day_s: int, after: float = 0.0) -> float:
    """When the next of SafeGuard's days begins, Unix time."""
    return float((int(after or time.time()) // day_s + 1) * day_s)


def _period(end_us: int) -> str:
    """The hours up to a time; the days before the collector began are empty."""
    end = dt.datetime.fromtimestamp(end_us / 1e6, dt.UTC)
    return f"{(end - dt.timedelta(hours=2)).isoformat()}/{end.isoformat()}"


def _run(words: Sequence[str], accept: Sequence[int] = (0,)) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, check=False, cwd=ROOT, timeout=LIMIT_S
    )
    if done.returncode not in accept:
        raise LabError(f"tallyhold {' '.join(words[:2])}: {done.stderr.strip()[-800:]}")
    return done
