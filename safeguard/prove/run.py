"""A description of what is there in, every check of the proof out, as a document to sign.

Each check that can be made is made; one whose parts were not given is "not checked" and says what
to give. A check that cannot be finished has failed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aggregator.store.errors import StoreError
from collector.metrics import GAUGES, Metrics
from collector.track.safeguard.domain import SafeguardConfig
from retention.audit.canonical import CanonicalError
from retention.audit.log import LogError
from safeguard import leaves
from safeguard.document import PROOF, VERSION, Document
from safeguard.ledger import DAY_US
from safeguard.model import Release
from safeguard.names import CHECKS
from safeguard.prove import canaries as canary
from safeguard.prove import components, sent, surface, tables
from safeguard.prove.canaries import Canaries
from safeguard.stored import Reader, StoredError, releases

PASSED: Final = "passed"
FAILED: Final = "failed"
NOT_CHECKED: Final = "not checked"
MAX_TEXT: Final = 400
MAX_FOUND: Final = 20
_COLLECTOR: Final = "tallyhold_collector_"
_EXPECTED: Final = (StoreError, StoredError, LogError, CanonicalError, OSError, ValueError)


@dataclass(frozen=True)
class Site:
    """What there is to look at; whatever is None or empty is not looked at.

    client, database, span, budget_micro, day_us: the tables, and the period to look at. log: the
    audit log. collector: as it is configured; pool: households of its prefixes. pages: metrics
    pages by name. words: categories, regions and targets. wire: captures and batches on their way.
    """

    client: Reader | None = None
    database: str = "tallyhold"
    span: tuple[int, int] = (0, 0)
    budget_micro: int = 1_000_000
    day_us: int = DAY_US
    log: Path | None = None
    collector: SafeguardConfig | None = None
    pool: int = 1
    pages: Mapping[str, str] = field(default_factory=dict)
    words: Sequence[str] = ()
    logs: Sequence[Path] = ()
    spool: Path | None = None
    databases: Sequence[Path] = ()
    wire: Sequence[Path] = ()
    pid: int | None = None
    canaries: Canaries | None = None


class Missing(Exception):
    """Something that a check needs was not given; the text names the option."""


Check = tuple[str, Callable[[Site], list[str]]]
"""What it does, and the check."""


def _tables(site: Site) -> Reader:
    if site.client is None:
        raise Missing("the tables: --config")
    return site.client


def _releases(site: Site) -> list[Release]:
    found = releases(_tables(site), *site.span)
    if not found:
        raise Missing("a release in the period: --period")
    return found


def _canaries(site: Site, what: object, option: str) -> Canaries:
    if not what:
        raise Missing(f"where to look: {option}")
    if site.canaries is None:
        raise Missing("what to look for: --canaries")
    return site.canaries


def _times(site: Site) -> list[str]:
    found = tables.times(_tables(site), site.span, site.day_us)
    return found + sent.times(sent.read(site.wire))


def _domain(site: Site) -> list[str]:
    batches = sent.read(site.wire)
    found = tables.domain(_releases(site)) + sent.loose(batches)
    return found + tables.domain(sent.released(batches))


def _caps(site: Site) -> list[str]:
    started_us = surface.started_us(site.pages)
    found = components.caps(site.collector)
    if started_us is None:
        return found
    return found + sent.after_start(sent.read(site.wire), started_us, site.day_us)


def _keys(site: Site) -> list[str]:
    known = site.canaries.keys if site.canaries else ()
    found = components.key_rotation()
    return found + canary.keys(site.pid, known) if known and site.pid else found


def _ledger(site: Site) -> list[str]:
    found = _releases(site)
    if site.log is None:
        raise Missing("the audit log: --log")
    told, twice = leaves.windows(site.log)
    return tables.logged(found, told, twice, site.span)


def _metrics(site: Site) -> list[str]:
    if not site.pages:
        raise Missing("metrics pages: --metrics")
    found = surface.metrics(site.pages, site.words)
    known = {family.name for family in Metrics("127.0.0.1", 0).collect()}
    known |= {f"{_COLLECTOR}{name}" for name in GAUGES}
    for page in site.pages.values():
        if f"\n{_COLLECTOR}" in page:
            found += surface.unknown_series(page, known)
    return found


def _logs(site: Site) -> list[str]:
    if not site.logs:
        raise Missing("log files: --log-file")
    found = surface.logs(site.logs, site.words)
    if site.canaries is not None:
        found += canary.files(site.logs, site.canaries)
    return found


def _spool(site: Site) -> list[str]:
    if site.spool is None:
        raise Missing("the spool: --collector-config")
    found = surface.spool(site.spool)
    if site.canaries is not None:
        found += canary.files([site.spool], site.canaries)
    return found


def _database(site: Site) -> list[str]:
    known = _canaries(site, site.databases, "--config")
    found = canary.stored(site.databases, known)
    return found + (canary.columns(site.client, site.database, known) if site.client else [])


def _memory(site: Site) -> list[str]:
    known = _canaries(site, site.pid, "--pid")
    assert site.pid is not None
    return canary.memory(site.pid, known) + canary.dumpable(site.pid)


def _noise(site: Site) -> list[str]:
    return components.noise(components.scales(site.collector, site.pool))


RUN: Final[dict[str, Check]] = {
    "schema": (
        "columns of every table, and of what collectors send, against the contract",
        lambda site: tables.schema(_tables(site), site.database),
    ),
    "times": (
        "times of every row in the period, and in batches on their way",
        _times,
    ),
    "domain": (
        "cells of every release in the period and on its way, and its mechanism's id by them",
        _domain,
    ),
    "charges": (
        "charges of every release, sums of days against the budget, windows told twice",
        lambda site: tables.charges(_releases(site), site.budget_micro, site.day_us),
    ),
    "ledger": ("every release of the period against the leaves of the audit log", _ledger),
    "metrics": ("series and labels of the metrics pages", _metrics),
    "logs": ("log lines for categories, block pages and canaries", _logs),
    "spool": ("state, journal and batches: kinds, SafeGuard's own part, canaries", _spool),
    "database": ("files of the database and columns of the tables for canaries", _database),
    "memory": ("memory of the live collector for canaries; its limit on cores", _memory),
    "wire": (
        "captures and batches on their way to the aggregator for canaries",
        lambda site: canary.files(site.wire, _canaries(site, site.wire, "--wire")),
    ),
    "key-rotation": (
        "three days of the installed code; memory of the live collector for keys that are given",
        _keys,
    ),
    "caps": (
        f"{components.ROUNDS} pairs of streams that differ in one household, with restarts; batches"
        " on their way for days that began before the live collector",
        _caps,
    ),
    "zeros": ("a day without blocks, and one full of them", lambda site: components.zeros()),
    "resend": (
        "a window asked for twice; a batch read over restarts; batches on their way for releases"
        " that are told otherwise again",
        lambda site: components.resend() + sent.told_again(sent.read(site.wire)),
    ),
    "noise": (
        f"{components.DRAWS} counts at each scale in use and at three others, for three true"
        " counts: chi-square and a lower bound on ε",
        _noise,
    ),
}


def prove(
    site: Site,
    made_us: int,
    version: str,
    only: Sequence[str] = (),
    progress: Callable[[str], None] = lambda name: None,
) -> Document:
    """Every check, or only some; raises nothing for what is found."""
    checks = []
    for name in only or CHECKS:
        progress(name)
        did, check = RUN[name]
        found: list[str] = []
        try:
            found = check(site)
            outcome = FAILED if found else PASSED
        except Missing as missing:
            outcome, did = NOT_CHECKED, f"not given: {missing}"
        except _EXPECTED as error:
            outcome, found = FAILED, [f"could not be finished: {error}"]
        texts = [_text(each) for each in found[:MAX_FOUND]]
        checks.append({"name": name, "outcome": outcome, "did": _text(did), "found": texts})
    return {"kind": PROOF, "v": VERSION, "made": made_us, "version": version, "checks": checks}


def _text(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", " ", text)[:MAX_TEXT]
