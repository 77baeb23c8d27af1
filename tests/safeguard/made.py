"""Releases as routers make them and as the tables give them back; reports of them, signed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retention.audit.checkpoint import LOG, Signer
from safeguard import figures
from safeguard.document import seal
from safeguard.model import Release
from safeguard.verify import Verdict, verify
from tests.aggregator.ingest.guarded import day_of_releases
from tests.collector.track.safeguard.guarding import DAY, MIDNIGHT

SIGNER: Final = Signer("test/safeguard", LOG, Ed25519PrivateKey.from_private_bytes(b"s" * 32))
START_US: Final = MIDNIGHT // 1000
DAY_US: Final = DAY // 1000
BUDGET: Final = 1_000_000


def releases(days: int = 1, *collectors: str, **changes: Any) -> list[Release]:
    """Whole days of routers, with nobody counted: all of it is noise."""
    found = []
    for collector in collectors or ("edge-1",):
        for n in range(days):
            seed = f"{collector}{n}".encode()
            columns = day_of_releases(MIDNIGHT + n * DAY, collector=collector, seed=seed, **changes)
            found += of_columns(columns, collector)
    return sorted(found, key=lambda each: (each.end_us, -each.start_us, each.marginal))


def of_columns(columns: Mapping[str, Mapping[str, Any]], collector: str) -> list[Release]:
    """A batch's columns as the tables would give them back."""
    counts: dict[bytes, dict[tuple[str, str], int]] = {}
    for row in _rows(columns.get("block_count", {})):
        counts.setdefault(row["release"], {})[row["region"], row["category"]] = row["count"]
    made = []
    for row in _rows(columns["safeguard_ledger"]):
        same = ("release", "mechanism", "marginal", "l0", "routers", "epsilon_micro", "restarts")
        made.append(
            Release(
                collector=collector,
                start_us=row["start_ns"] // 1000,
                end_us=row["end_ns"] // 1000,
                scale=Fraction(row["scale_num"], row["scale_den"]),
                rows=row["rows"],
                outcome=row["outcome"],
                counts=counts.get(row["release"], {}),
                **{name: row[name] for name in same},
            )
        )
    return made


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    values = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]


def terms(days: int = 1, **changes: Any) -> figures.Terms:
    fields = {
        "made_us": START_US + days * DAY_US, "start_us": START_US,
        "end_us": START_US + days * DAY_US, "budget_micro": BUDGET,
    }  # fmt: skip
    return figures.Terms(**{**fields, **changes})


def report(found: list[Release], days: int = 1) -> dict[str, Any]:
    """A report as its reader has it: it went through JSON."""
    made: dict[str, Any] = json.loads(json.dumps(figures.report(found, terms(days))))
    return made


def judged(document: dict[str, Any], spoil: Callable[[Any], None] | None = None) -> Verdict:
    """The verdict on a document that is rightly signed, after it was spoilt."""
    if spoil is not None:
        spoil(document)
    return verify(seal(document, SIGNER), SIGNER.key)
