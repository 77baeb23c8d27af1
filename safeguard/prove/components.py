"""The installed collector's SafeGuard in, what it does wrong out: driven through days of its own.

Each check makes its own trackers and runs the code that runs on routers; nothing here reads what
that code keeps to itself. An empty list is a check that passed.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Final

from collector.spool import Spool, SpoolConfig
from collector.track.safeguard import release as releasing
from collector.track.safeguard.audit import PROBES, Mechanism, audit
from collector.track.safeguard.calendar import DAY_NS, HOUR_NS
from collector.track.safeguard.domain import Marginal, SafeguardConfig, marginals
from collector.track.safeguard.laplace import DiscreteLaplace
from collector.track.safeguard.tracker import Randomness, SafeGuard
from collector.wire.releases import CATEGORY_HOUR, KEPT_DAY, MARGINALS, RELEASED
from safeguard.prove import driving
from safeguard.prove.driving import ACCESS, HOUSEHOLDS, MIDNIGHT, STEP_NS, Row

DRAWS: Final = 60_000
"""Values of each scale and count: enough for each fault that is known, in seconds."""
ROUNDS: Final = 60
MAX_FOUND: Final = 5
_CELLS: Final = 4096
"""Counts that are released at once while noise is audited."""


def key_rotation() -> list[str]:
    """Days in which the same households come again: a key for each, overwritten in the end."""
    keys: list[bytes] = []
    buffers: list[bytearray] = []

    def fill(buffer: bytearray) -> None:
        driving.fill(buffer)
        keys.append(bytes(buffer))
        buffers.append(buffer)

    made = SafeGuard(driving.config(), ACCESS, 64, Randomness(os.urandom, fill))
    days, held = 3, set()
    now = MIDNIGHT - STEP_NS
    made.advance(now)
    for at, household, category in driving.every_hour(days):
        while now < at:
            now = min(now + STEP_NS, at)
            made.advance(now)
        made.blocked(driving.event(household, category))
        if buffers:
            held.add(bytes(buffers[-1]))
    found = []
    if len(held) != days or held != set(keys):
        found.append(f"{len(held)} keys were in use on {days} days")
    made.wipe()
    if any(any(buffer) for buffer in buffers):
        found.append("a key is not overwritten when its day is over")
    return found


def zeros() -> list[str]:
    """A day in which nobody met a block, and one in which everybody did: the same rows."""
    config = driving.config()
    quiet, loud = (
        driving.days(config, stream) for stream in ([], list(driving.every_hour(1, HOUSEHOLDS)))
    )
    found = []
    for name in ("block_count", "safeguard_ledger"):
        if driving.shape(quiet[name]) != driving.shape(loud[name]):
            found.append(f"{name}: {len(quiet[name])} rows of a quiet day, {len(loud[name])} else")
    for marginal in marginals(config, 1):
        cells = [
            (row["start_ns"], row["region"], row["category"])
            for row in quiet["block_count"]
            if row["marginal"] == marginal.name
        ]
        windows = 24 if marginal.name == CATEGORY_HOUR else 1
        if not len(cells) == len(set(cells)) == windows * len(marginal.cells):
            found.append(f"{marginal.name}: not every cell of a day in which nobody met a block")
    return found


def resend(folder: Path | None = None) -> list[str]:
    """A window is told once, and what waits in the spool stays the same bytes over restarts."""
    found = []
    made, end = driving.started(driving.config()), MIDNIGHT + HOUR_NS + STEP_NS
    for now in range(MIDNIGHT + STEP_NS, end, STEP_NS):
        made.advance(now)
    taken, again = made.take(0, 1, end), made.take(0, 1, end + 1)
    if not taken or again:
        found.append("a window that was told is told again when it is asked for again")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        seen = set()
        for attempt in range(3):
            spool = Spool(SpoolConfig(Path(name) / "spool", "prove"), "prove")
            spool.start()
            if attempt == 0:
                bounds = {"window_start_ns": MIDNIGHT, "window_end_ns": end, "created_ns": end}
                spool.commit(**bounds, columns=taken)
            for _ in range(2):
                waiting = spool.oldest()
                seen.add(waiting[1].read_bytes() if waiting else b"")
            spool.stop()
        if len(seen) != 1 or b"" in seen:
            found.append("a batch that is sent again is not the same bytes")
    return found


def caps(config: SafeguardConfig | None = None, rounds: int = ROUNDS, seed: int = 0) -> list[str]:
    """Streams with and without one household, through restarts and days; what differs is within
    the ledger's claim. seed: 0 for another one each time."""
    source = random.Random(seed or int.from_bytes(os.urandom(8), "big"))
    base = driving.config(config)
    found: list[str] = []
    for n in range(rounds):
        drawn = {name: min(base.l0[name], 1 + source.randrange(4)) for name in MARGINALS}
        made = replace(base, l0=(drawn | {KEPT_DAY: 1}) if n else dict(base.l0))
        # The first rounds restart in the middle of a day, with a household that is always there.
        restarts = [MIDNIGHT + DAY_NS // 2] if n < 3 else []
        restarts += [MIDNIGHT + source.randrange(2 * DAY_NS) for _ in range(source.randrange(2))]
        rest = driving.some(source)
        mine = driving.some(source, 0) if n % 3 == 2 else list(driving.every_hour(2))
        with_it, without = (
            driving.days(made, sorted(stream), restarts, 2) for stream in ([*rest, *mine], rest)
        )
        found += _compare(made, with_it, without)
    return found[:MAX_FOUND]


def noise(scales: Sequence[Fraction], draws: int = DRAWS) -> list[str]:
    """The released counts against the exact law, at the scales in use and at some others."""
    return [
        f"{each.check} at scale {float(each.scale):g}, count {each.count}: {each.figure:.3g}, not"
        f" {each.limit:.3g}"
        for each in audit(_releasing, sorted({*scales, *PROBES}), draws)
    ]


def scales(config: SafeguardConfig | None, pool: int = 1) -> list[Fraction]:
    """The scales of a configuration's marginals."""
    return [each.scale for each in marginals(config or driving.config(), pool)]


def _releasing(scale: Fraction) -> Mechanism:
    """Counts through the code that makes rows of them, with the kernel's random bytes."""
    law = DiscreteLaplace(scale)
    window = (MIDNIGHT, MIDNIGHT + HOUR_NS)

    def mechanism(count: int, draws: int) -> list[int]:
        found: list[int] = []
        while len(found) < draws:
            many = min(_CELLS, draws - len(found))
            cells = tuple(("", str(n)) for n in range(many))
            marginal = Marginal(CATEGORY_HOUR, 1, 1, scale, 1, 1, bytes(16), cells)
            counts = [count] * many
            made = releasing.released(
                "prove", marginal, window, counts, law, os.urandom, epsilon_micro=1
            )
            found += [row["count"] for row in made["block_count"]]
        return found

    return mechanism


def _compare(
    config: SafeguardConfig, one: Mapping[str, list[Row]], other: Mapping[str, list[Row]]
) -> list[str]:
    """What one household changed, against what the ledger says that it can."""
    found = []
    counts, told = [], []
    for taken in (one, other):
        key = ("marginal", "start_ns", "region", "category")
        counts.append({tuple(row[k] for k in key): row["count"] for row in taken["block_count"]})
        told.append(driving.shape(taken["safeguard_ledger"]))
    if told[0] != told[1] or counts[0].keys() != counts[1].keys():
        found.append("which windows and cells are told depends on one household")
    changed: dict[tuple[str, int], int] = defaultdict(int)
    for cell in counts[0].keys() & counts[1].keys():
        changed[str(cell[0]), cell[1] // DAY_NS] += abs(counts[0][cell] - counts[1][cell])
    claims: dict[str, int] = {}
    spent: dict[int, int] = defaultdict(int)
    for row in one["safeguard_ledger"]:
        spent[row["start_ns"] // DAY_NS] += row["epsilon_micro"]
        if row["outcome"] == RELEASED:
            claims[row["marginal"]] = row["l0"]
    for (marginal, _), change in changed.items():
        if change > claims.get(marginal, 0):
            found.append(f"{marginal}: one household changed {change}, not {claims.get(marginal)}")
    budget = config.budget_micro
    return found + [f"a day cost {cost}, not {budget}" for cost in spent.values() if cost > budget]
