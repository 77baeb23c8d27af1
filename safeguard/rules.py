"""A report in, the rules that it breaks out: worked out anew from its own parameters. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

from collector.wire.releases import (
    CATEGORY_HOUR,
    KEPT,
    KEPT_DAY,
    MARGINALS,
    MICRO,
    OUTCOMES,
    REGION_CATEGORY_DAY,
    RELEASED,
    charge_micro,
    is_name,
    mechanism_id,
    release_id,
)
from safeguard.document import (
    PROOF,
    REPORT,
    Document,
    DocumentError,
    Maybe,
    check,
    integer,
    one_of,
    text,
)
from safeguard.laws import half_width, threshold

_TIME: Final = integer(0, 4_102_444_800_000_000)
_ID: Final = text(r"[0-9a-f]{32}")
_COLLECTOR: Final = text(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")
_SHARE: Final = integer(1, MICRO - 1)
_U32: Final = integer(1, 2**32 - 1)

REPORT_SHAPE: Final = {
    "kind": one_of(REPORT),
    "v": integer(1, 1),
    "made": _TIME,
    "start": _TIME,
    "end": _TIME,
    "day": integer(1, 86_400 * MICRO),
    "budget_micro": integer(1, 1000 * MICRO),
    "alpha_micro": _SHARE,
    "shown_micro": _SHARE,
    "mechanisms": lambda value: isinstance(value, dict),
    "ledger": [
        {
            "release": _ID,
            "mechanism": _ID,
            "collector": _COLLECTOR,
            "start": _TIME,
            "end": _TIME,
            "epsilon_micro": integer(),
            "restarts": integer(),
            "rows": integer(),
            "outcome": one_of(*OUTCOMES),
        }
    ],
    "days": [{"collector": _COLLECTOR, "start": _TIME, "epsilon_micro": integer()}],
    "figures": [
        {
            "marginal": one_of(*MARGINALS),
            "start": _TIME,
            "end": _TIME,
            "releases": [_ID],
            "half_width": integer(),
            "threshold": integer(),
            "counts": [Maybe(integer())],
        }
    ],
    "kept": [
        {
            "start": _TIME,
            "end": _TIME,
            "releases": [_ID],
            "ratio_micro": Maybe(integer(0, MICRO)),
            "error_micro": Maybe(integer(0, MICRO)),
        }
    ],
}
MECHANISM_SHAPE: Final = {
    "marginal": one_of(*MARGINALS),
    "l0": _U32,
    "routers": _U32,
    "scale": [_U32],
    "cells": Maybe([[text(r"|[A-Za-z][A-Za-z0-9 _-]{0,62}")]]),
}
PROOF_SHAPE: Final = {
    "kind": one_of(PROOF),
    "v": integer(1, 1),
    "made": _TIME,
    "version": text(r"[0-9A-Za-z.+-]{1,40}"),
    "checks": [
        {
            "name": text(r"[a-z-]{1,40}"),
            "outcome": one_of("passed", "failed", "not checked"),
            "did": text(r".{0,400}"),
            "found": [text(r".{0,400}")],
        }
    ],
}

Found = Iterator[tuple[str, str]]
"""Rule and text."""


def judge(document: Document) -> Found:
    """Every rule that a report of REPORT_SHAPE breaks."""
    odd = [name for name, each in document["mechanisms"].items() if not _is_mechanism(name, each)]
    yield from (("mechanism", f"{name[:32]} is not the id of its parameters") for name in odd)
    ledger = document["ledger"]
    lost = {each["mechanism"] for each in ledger} - document["mechanisms"].keys()
    yield from (("mechanism", f"{name} is not in the report") for name in sorted(lost))
    if odd or lost:
        return  # what follows would be judged by parameters that are none
    yield from _entries(document)
    yield from _charges(document)
    yield from _figures(document)
    yield from _kept(document)


def _is_mechanism(name: str, each: Any) -> bool:
    try:
        check(each, MECHANISM_SHAPE, "mechanism")
    except DocumentError:
        return False
    if len(each["scale"]) != 2 or (Fraction(*each["scale"]).numerator != each["scale"][0]):
        return False
    cells = each["cells"]
    if cells is None:
        return True  # only ever silent: nothing was told under it
    if any(len(cell) != 2 or not _is_cell(each["marginal"], *cell) for cell in cells):
        return False
    if sorted(map(tuple, cells)) != [tuple(cell) for cell in cells] or not cells:
        return False
    scale = Fraction(*each["scale"])
    made = mechanism_id(each["marginal"], each["l0"], each["routers"], scale, map(tuple, cells))
    return made.hex() == name


def _is_cell(marginal: str, region: str, category: str) -> bool:
    if marginal == KEPT_DAY:
        return region == "" and category in KEPT
    return is_name(category) and (
        is_name(region) if marginal == REGION_CATEGORY_DAY else region == ""
    )


def _entries(document: Document) -> Found:
    """Each window once, within the period, with the id of what it says."""
    day = document["day"]
    seen: Counter[tuple[str, str, int]] = Counter()
    for entry in document["ledger"]:
        mechanism = document["mechanisms"][entry["mechanism"]]
        marginal, start, end = mechanism["marginal"], entry["start"], entry["end"]
        seen[entry["collector"], marginal, start] += 1
        made = release_id(
            entry["collector"], bytes.fromhex(entry["mechanism"]), marginal, start * 1000,
            entry["outcome"],
        )  # fmt: skip
        if made.hex() != entry["release"]:
            yield "release", f"{entry['release']} is not the id of what it says"
        length = end - start
        whole = marginal == CATEGORY_HOUR or length == day
        if length <= 0 or day % length or start % length or not whole:
            yield "window", f"{entry['release']} is of a window that is no part of a day"
        if not document["start"] <= start < document["end"]:
            yield "window", f"{entry['release']} is outside of the report's period"
    for (collector, marginal, start), times in seen.items():
        if times > 1:
            yield "twice", f"{collector} {marginal} {start}: told {times} times"


def _charges(document: Document) -> Found:
    """ε by the parameters, the days' sums, and the budget."""
    spent: dict[tuple[str, int], int] = defaultdict(int)
    for entry in document["ledger"]:
        mechanism = document["mechanisms"][entry["mechanism"]]
        released = entry["outcome"] == RELEASED
        first = mechanism["marginal"] != CATEGORY_HOUR or entry["start"] % document["day"] == 0
        scale = Fraction(*mechanism["scale"])
        due = charge_micro(mechanism["l0"], mechanism["routers"], scale) if released else 0
        if entry["epsilon_micro"] != (due if first else 0):
            yield "charge", f"{entry['release']} states another ε than l0·R/scale"
        number = entry["start"] // document["day"]
        spent[entry["collector"], number * document["day"]] += entry["epsilon_micro"]
    stated = {(day["collector"], day["start"]): day["epsilon_micro"] for day in document["days"]}
    if stated != spent or len(stated) != len(document["days"]):
        yield "days", "the days' sums are not those of the ledger"
    for (collector, start), cost in sorted(spent.items()):
        if cost > document["budget_micro"]:
            yield "budget", f"{collector} {start}: {cost / MICRO:g} is over the budget"


def _figures(document: Document) -> Found:
    """Each release in one figure, with every cell, error bars and threshold as they have to be."""
    ledger = {entry["release"]: entry for entry in document["ledger"]}
    used: Counter[str] = Counter()
    for figure in document["figures"]:
        where = f"{figure['marginal']} {figure['start']}"
        used.update(figure["releases"])
        entries = [ledger[name] for name in figure["releases"] if name in ledger]
        if not entries or len(entries) != len(figure["releases"]):
            yield "figure", f"{where}: of releases that are not in the ledger"
            continue
        mechanisms = [document["mechanisms"][entry["mechanism"]] for entry in entries]
        same = {
            (entry["start"], entry["end"], each["marginal"], entry["outcome"], str(each["cells"]))
            for entry, each in zip(entries, mechanisms, strict=True)
        }
        cells = mechanisms[0]["cells"]
        mine = (figure["start"], figure["end"], figure["marginal"], RELEASED, str(cells))
        if same != {mine} or cells is None:
            yield "figure", f"{where}: of releases of another window or domain"
            continue
        if len(figure["counts"]) != len(cells) or any(e["rows"] != len(cells) for e in entries):
            yield "domain", f"{where}: not a count for each cell of the public domain"
        scales = [Fraction(*each["scale"]) for each in mechanisms]
        if figure["half_width"] != half_width(scales, document["alpha_micro"] / MICRO):
            yield "error-bars", f"{where}: not the interval of that noise"
        if figure["threshold"] != threshold(scales, document["shown_micro"] / MICRO):
            yield "threshold", f"{where}: not the threshold of that noise"
        if any(count is not None and count < figure["threshold"] for count in figure["counts"]):
            yield "threshold", f"{where}: a count below it is shown"
    for name, entry in ledger.items():
        if used[name] != (entry["outcome"] == RELEASED):
            yield "domain", f"{name}: a release is in no figure, or in several, or was silent"


def _kept(document: Document) -> Found:
    """A kept-ratio for each figure of kept-day, where its counts are shown as they say."""
    wanted = {
        tuple(figure["releases"]): figure
        for figure in document["figures"]
        if figure["marginal"] == KEPT_DAY
    }
    for each in document["kept"]:
        figure = wanted.pop(tuple(each["releases"]), None)
        if figure is None or (each["start"], each["end"]) != (figure["start"], figure["end"]):
            yield "kept", f"{each['start']}: a kept-ratio of no figure"
            continue
        clipped, whole = figure["counts"]
        if None in (each["ratio_micro"], clipped, whole):
            continue
        if each["ratio_micro"] != int(Fraction(whole * MICRO, whole + clipped)):
            yield "kept", f"{each['start']}: not the ratio of the counts"
    if wanted:
        yield "kept", "a day without its kept-ratio"
