"""What ties SafeGuard's rows to the ledger entry they come with: shared by who makes and checks.

A release is the rows of one marginal and one window (`block_count`) with the entry that accounts
for them (`safeguard_ledger`), in one batch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from fractions import Fraction
from math import ceil
from typing import Final

from collector.wire.records import SAFEGUARD_LEDGER, record_id

CATEGORY_HOUR: Final = "category-hour"
REGION_CATEGORY_DAY: Final = "region-category-day"
KEPT_DAY: Final = "kept-day"
MARGINALS: Final = (CATEGORY_HOUR, REGION_CATEGORY_DAY, KEPT_DAY)
"""What is released, in the order of the rows. category-hour: households with a blocked look-up of
the category in the hour. region-category-day: the same by day. kept-day: households of the day
that the caps took nothing from, and those that they did."""
KEPT: Final = ("whole", "clipped")
"""Cells of kept-day, in the column `category`. kept-ratio = whole / (whole + clipped)."""
RELEASED: Final = "released"
SILENT: Final = "silent"
OUTCOMES: Final = (RELEASED, SILENT)

MAX_CATEGORIES: Final = 64
"""A resolver's block pages: some tens. A cell of a household's record is two bytes for it."""
MAX_REGIONS: Final = 1024
"""Regions are large enough to publish: a country has some hundreds."""
MAX_PENDING: Final = 31 * 26
"""Releases that may wait for a batch: a month with a full disk. Later ones are never made."""
MICRO: Final = 1_000_000
"""ε is in millionths."""
MECHANISM: Final = "discrete-laplace-1"
UNIT: Final = "household-day"
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9 _-]{0,62}")


def is_name(text: str) -> bool:
    """Whether a category or region may be called so: a word, with no dot and no colon, so that no
    name of a host and no address passes for one."""
    return _NAME.fullmatch(text) is not None


def release_id(
    collector: str, mechanism: bytes, marginal: str, start_ns: int, outcome: str
) -> bytes:
    """Id of the entry of a window, which anybody can make who has the entry: the same window is
    not released again under another one. The collector's name keeps routers apart."""
    return record_id(SAFEGUARD_LEDGER.name, collector, mechanism, marginal, start_ns, outcome)


def mechanism_id(
    marginal: str, l0: int, routers: int, scale: Fraction, cells: Iterable[tuple[str, str]]
) -> bytes:
    """Id of everything that the claim of a release rests on, which anybody can make who has the
    release: BLAKE2b of the canonical JSON. cells: (region, category), in any order."""
    parameters = {
        "cells": sorted(cells),
        "l0": l0,
        "marginal": marginal,
        "mechanism": MECHANISM,
        "routers": routers,
        "scale": [scale.numerator, scale.denominator],
        "unit": UNIT,
    }
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"safeguard").digest()


def charge_micro(l0: int, routers: int, scale: Fraction) -> int:
    """ε of a household-day in millionths, rounded up: l0 cells, on so many routers, under noise of
    that scale. All windows of the day together, as they share the day's caps."""
    return ceil(l0 * routers * MICRO / scale)
