"""A policy's parts and the stored tables in, what is wrong with them as lines out. Pure.

Parts that could not be read are None: they were there, so nothing is said of their absence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from aggregator.store.schema import Table
from retention.policy.model import (
    CLOCKS,
    LATE,
    MAXIMUM,
    STATUTORY,
    Data,
    Notice,
    Rule,
    length_text,
)
from retention.policy.partitions import outlasts


@dataclass(frozen=True, slots=True)
class DraftClass:
    """What was read of one class."""

    title: str
    rules: Mapping[str, Rule | None]
    data: list[Data | None]


@dataclass(frozen=True, slots=True)
class Draft:
    """What was read of a policy."""

    notices: list[Notice | None]
    classes: Mapping[str, DraftClass]
    common: list[Data | None]
    exempt: Mapping[str, str]


def problems_of(draft: Draft, live: Collection[str], tables: Mapping[str, Table]) -> list[str]:
    """One line for each problem, with the path of its key; empty if the policy can be used.

    live: names of further tables that the database has; tables: those that the code writes.
    """
    return [
        *_tables(draft, live, tables),
        *_notices(draft),
        *(line for name, each in draft.classes.items() for line in _class(name, each, tables)),
        *_columns(draft, tables),
    ]


def _tables(draft: Draft, live: Collection[str], tables: Mapping[str, Table]) -> Iterator[str]:
    """Every table is a class's, with its late rows, or exempt for being no person's."""
    personal = {name for name, table in tables.items() if table.personal}
    for name in sorted({*tables, *live}):
        record_class = name.removeprefix(LATE)
        if name in personal:
            if name in draft.exempt:
                yield f"exempt.{name}: its rows are persons' and cannot be exempt"
            if record_class not in draft.classes:
                yield f"class.{record_class}: missing: table {name} has persons' rows and no policy"
        elif name not in draft.exempt:
            yield f"exempt.{name}: missing: the table is no class's, and no reason exempts it"
    for name in sorted(draft.classes.keys() - personal):
        if name in tables:
            yield f"class.{name}: its rows are no person's: give the reason under exempt"
        else:
            yield f"class.{name}: unknown class"


def _notices(draft: Draft) -> Iterator[str]:
    notices = [notice for notice in draft.notices if notice]
    for name, count in Counter(notice.id for notice in notices).items():
        if count > 1:
            yield f"notice: {count} have the id {name}"
    for notice in notices:
        if notice.to_us <= notice.from_us:
            yield f"notice.{notice.id}: ends before it begins; `to` is the first day without it"
        for name, count in Counter(notice.classes).items():
            if count > 1:
                yield f"notice.{notice.id}: names {name} twice"
            if name not in draft.classes:
                yield f"notice.{notice.id}: unknown class {name}"
            elif STATUTORY not in draft.classes[name].rules:
                yield f"notice.{notice.id}: class.{name}.{STATUTORY} is missing"
    for one, other in combinations(notices, 2):
        shared = sorted(set(one.classes) & set(other.classes))
        if shared and one.from_us < other.to_us and other.from_us < one.to_us:
            yield (
                f"notice.{other.id}: overlaps {one.id} for {', '.join(shared)}:"
                " it would be unclear which of them a record is kept under"
            )


def _class(name: str, draft: DraftClass, tables: Mapping[str, Table]) -> Iterator[str]:
    where = f"class.{name}"
    if not draft.rules.keys() - {STATUTORY}:
        # Else the policy would fail to load, and nothing be destroyed, once the notice has ended.
        yield f"{where}: without a notice no purpose is left: add another, if only for a day"
    known = {purpose: rule for purpose, rule in draft.rules.items() if rule}
    for purpose, rule in known.items():
        yield from _clock(name, rule, f"{where}.{purpose}")
        yield from _maximum(purpose, rule, f"{where}.{purpose}")
    if STATUTORY in draft.rules and name in tables and tables[name].period != "day":
        yield f"{where}.{STATUTORY}: its partitions are months, and the statute counts days"
    for (purpose, rule), (second, other) in combinations(known.items(), 2):
        one, two = rule.length, other.length
        if not outlasts(one, two) and not outlasts(two, one):
            yield (
                f"{where}: {length_text(one)} ({purpose}) and {length_text(two)} ({second}): which"
                " is longer depends on the months; write both in months, or both in days"
            )


def _clock(name: str, rule: Rule, where: str) -> Iterator[str]:
    if name in CLOCKS and rule.clock != CLOCKS[name]:
        yield f"{where}.clock: rows of {name} are partitioned by {CLOCKS[name]}, not {rule.clock}"


def _maximum(purpose: str, rule: Rule, where: str) -> Iterator[str]:
    over = not outlasts(MAXIMUM, rule.length)
    if over and purpose == STATUTORY:
        yield f"{where}.period: longer than 12 months (IPA 2016 s.87(3))"
    elif over and not rule.over_maximum_basis:
        yield f"{where}.over_maximum_basis: missing: the period is longer than 12 months"
    if rule.over_maximum_basis and (purpose == STATUTORY or not over):
        yield f"{where}.over_maximum_basis: only for another purpose's period over 12 months"


def _columns(draft: Draft, tables: Mapping[str, Table]) -> Iterator[str]:
    """Each column of a person's row is declared once, and nothing is that is not stored."""
    stored = {name: _stored(name, tables) for name in draft.classes}
    common = _declared(draft.common)
    everywhere = {column for columns in stored.values() for column in columns}
    for column in sorted(common.keys() - everywhere):
        yield f"common: no class stores {column}"
    for name, each in draft.classes.items():
        where = f"class.{name}.data"
        declared = _declared(each.data)
        for column in sorted(declared.keys() - stored[name]):
            yield f"{where}: {name} stores no {column}"
        for column, count in sorted((declared + common).items()):
            if count > 1:
                yield f"{where}: {column} is declared {count} times"
        if None not in each.data and None not in draft.common:
            for column in sorted(stored[name] - declared.keys() - common.keys()):
                yield f"{where}: stored column {column} has no declared purpose"
        for purpose in sorted(
            {p for group in each.data if group for p in group.purposes} - each.rules.keys()
        ):
            yield f"{where}: data for {purpose}, which is no purpose of {name}"


def _stored(name: str, tables: Mapping[str, Table]) -> set[str]:
    """Columns of the class's table and of its late rows, those the engine fills included."""
    found = [tables[each] for each in (name, LATE + name) if each in tables]
    return {column for table in found for column, _ in (*table.columns, *table.computed)}


def _declared(groups: list[Data | None]) -> Counter[str]:
    return Counter(column for group in groups if group for column in group.columns)
