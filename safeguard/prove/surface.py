"""What can be seen from outside in, what tells of blocks out: metrics, logs, spool and state."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from collector.framing import frames
from collector.track.safeguard.calendar import MAX_DAYS
from collector.track.sessions import EVENTS

_LABELS: Final = frozenset(
    {"fate", "outcome", "state", "role", "reason", "stage", "record_class", "event"}
)
"""All that a series of the collector may be split by; the installed code says which series there
are. A household or a block is among none of them."""
_PREFIX: Final = "tallyhold_collector_"
_OURS: Final = frozenset({"block_count", "safeguard_ledger"})
"""Record classes: rows of them are as many as the public domain has cells, whatever happened."""
_TELLING: Final = re.compile(r"block|safeguard|household|categor|refused_name|rpz|noise", re.I)
_SAMPLE: Final = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})? ")
_LABEL: Final = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')
_STARTED: Final = f"{_PREFIX}start_timestamp_seconds"
_LEDGER_GAUGE: Final = "tallyhold_retention_safeguard_findings"
"""Of the retention service: whether table and log of the ledger agree. Nothing of a count."""

STATE_KEYS: Final = frozenset({"lengths", "floor", "days"})
JOURNALLED: Final = frozenset(
    {*EVENTS, "sip", "split", "split-prefix", "interrupt", "alive", "loss", "rotate"}
)
"""Kinds of the journal's lines: what the control plane says, and counters. None is of a look-up."""
_NAMED: Final = re.compile(r"block|safeguard|household|categor", re.I)
MAX_LINES: Final = 10
MAX_LOG: Final = 256 * 2**20
"""Bytes of a log file that are read, from its end."""
MAX_STATE: Final = 2**30


def metrics(pages: Mapping[str, str], words: Iterable[str]) -> list[str]:
    """Series that tell of blocks, by name or label. words: categories, regions, targets."""
    found = []
    told = [word for word in words if len(word) > 1]
    for page, text in pages.items():
        for line in text.splitlines():
            match = _SAMPLE.match(line)
            if match is None or line.startswith("#"):
                continue
            name, labels = match[1], dict(_LABEL.findall(match[2] or ""))
            series = f"{page}: {name}"
            if _TELLING.search(name) and name != _LEDGER_GAUGE:
                found.append(f"{series} tells of blocks by its name")
            for label, value in labels.items():
                if value in _OURS and label == "record_class":
                    continue
                if _TELLING.search(label) or _TELLING.search(value) or value in told:
                    found.append(f"{series} tells of blocks by its label {label}")
            if name.startswith(_PREFIX):
                found += [f"{series} has a label {each}" for each in labels if each not in _LABELS]
    return sorted(set(found))[:MAX_LINES]


def unknown_series(page: str, installed: Iterable[str]) -> list[str]:
    """Series of a collector's page that the installed code does not make."""
    seen = {match[1] for line in page.splitlines() if (match := _SAMPLE.match(line))}
    known = set(installed)
    return [
        f"{name} is a series that the installed collector does not have"
        for name in sorted(seen)
        if name.startswith(_PREFIX) and name.removesuffix("_total") not in known
    ]


def started_us(pages: Mapping[str, str]) -> int | None:
    """When the collector of the pages started; None where they are of none, or of several."""
    found = re.findall(rf"^{_STARTED} (\S+)$", "\n".join(pages.values()), re.M)
    return round(float(found[0]) * 1e6) if len(found) == 1 else None


def logs(files: Iterable[Path], words: Iterable[str]) -> list[str]:
    """Log lines that tell of a block: a category, a target, or SafeGuard at work on somebody."""
    pattern = re.compile(
        r"(?<![A-Za-z0-9_.-])(" + "|".join(map(re.escape, sorted(words))) + r")(?![A-Za-z0-9_-])"
        if (words := [word for word in words if len(word) > 2])
        else r"(?!)",
        re.I,
    )
    found = []
    for path in files:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - MAX_LOG, 0))
            for line in file:
                if pattern.search(line.decode("utf-8", "replace")):
                    found.append(f"{path.name}: a line names a category or a block page")
                    break
    return found[:MAX_LINES]


def spool(folder: Path) -> list[str]:
    """State and journal of a collector: of SafeGuard public facts only, and no event at all."""
    found = []
    for path in sorted(folder.rglob("state-*.json")):
        state = _json(path)
        guards = list(_sections(state))
        for guard in guards:
            if not _is_public(guard):
                found.append(f"{path.name}: more of SafeGuard than which days were counted")
    for path in sorted(folder.rglob("events-*.log")):
        try:
            kinds = {kind for kind, _, _ in frames(path.read_bytes())}
        except FileNotFoundError:
            continue
        odd = len(kinds - JOURNALLED)
        found += [f"{path.name}: {odd} kinds of events that no collector journals"] if odd else []
    return found[:MAX_LINES]


def _is_public(guard: Any) -> bool:
    """Which days have begun, how many hours of each are told, and starts of the collector."""
    return (
        isinstance(guard, dict)
        and guard.keys() == STATE_KEYS
        and type(guard["floor"]) is int
        and isinstance(guard["lengths"], list)
        and len(guard["lengths"]) == 2
        and all(type(each) is int for each in guard["lengths"])
        and isinstance(guard["days"], list)
        and len(guard["days"]) <= MAX_DAYS
        and all(
            isinstance(day, list) and len(day) == 3 and all(type(each) is int for each in day)
            and 0 <= day[1] <= 24 and 0 <= day[2] < 10**6 and 0 <= day[0] < 10**9
            for day in guard["days"]
        )
    )  # fmt: skip


def _sections(value: Any, depth: int = 0) -> Iterator[Any]:
    """Everything under a key that names SafeGuard, households or tags."""
    if isinstance(value, dict) and depth < 20:
        for key, inner in value.items():
            if _NAMED.search(key):
                yield inner
            else:
                yield from _sections(inner, depth + 1)
    elif isinstance(value, list) and depth < 20:
        for inner in value:
            yield from _sections(inner, depth + 1)


def _json(path: Path) -> Any:
    """A state file's JSON: its last line; the line before it describes it."""
    try:
        data = path.read_bytes()[:MAX_STATE]
    except FileNotFoundError:
        return None
    for line in reversed(data.splitlines()):
        try:
            return json.loads(line[line.index(b"{") :])
        except ValueError:
            continue
    return None
