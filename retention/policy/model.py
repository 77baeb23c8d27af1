"""The policy as it was loaded: notices, rules and declared data in, periods in force out. Pure.

A rule is one purpose of one class. The statutory purpose counts only while a retention notice for
the class is in force; the period of a class is the longest of its purposes that count.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from retention.audit import canonical
from retention.model import DAY_US, NEVER
from retention.policy.partitions import Length, outlasts
from retention.policy.partitions import Period as Period

STATUTORY: Final = "statutory"
PURPOSES: Final = (STATUTORY, "billing", "faults", "demand")
"""In the order in which they are named where two are equally long."""
CLOCK_NAMES: Final = ("communication", "entity-data", "first-held")
"""What starts a period, IPA 2016 s.87(3)(a) to (c)."""
CLOCKS: Final = {
    "session": "communication",
    "binding": "entity-data",
    "mapping": "entity-data",
    "usage": "communication",
    "visit": "communication",
    "call": "communication",
}
"""The clock that places a row of the class in its partition, so the only one its rules can have."""
MAXIMUM: Final[Length] = (12, 0)
"""IPA 2016 s.87(3)."""
LATE: Final = "late_"
"""Before the name of a class, the table of its rows that came too late."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A retention notice (IPA 2016 s.87), in force in [from, to). That it is, is secret (s.95)."""

    id: str
    classes: tuple[str, ...]
    from_us: int
    to_us: int = NEVER

    def in_force(self, now_us: int) -> bool:
        return self.from_us <= now_us < self.to_us


@dataclass(frozen=True, slots=True)
class Rule:
    """One purpose of a class: how long, on what written basis, and who answers for it."""

    months: int
    days: int
    clock: str
    basis: str
    owner: str
    over_maximum_basis: str = ""

    @property
    def length(self) -> Length:
        return self.months, self.days


@dataclass(frozen=True, slots=True)
class Data:
    """Columns that together say one thing, in words for customers, and the purposes it serves."""

    columns: tuple[str, ...]
    what: str
    purposes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """What the policy says of one class."""

    title: str
    rules: Mapping[str, Rule]
    data: tuple[Data, ...]


@dataclass(frozen=True, slots=True)
class Register:
    """What a record of processing (UK GDPR article 30) says of all classes alike."""

    controller: str
    contact: str
    officer: str
    subjects: str
    recipients: str
    transfers: str
    security: str


@dataclass(frozen=True)
class Policy:
    """A policy file in force at `at_us`; made by `load.load`, which has checked it.

    common: data that every class stores. exempt: table to the reason why it is no person's.
    """

    at_us: int
    notices: tuple[Notice, ...]
    classes: Mapping[str, Terms]
    common: tuple[Data, ...]
    exempt: Mapping[str, str]
    register: Register

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical policy, what is in force of it included.

        The same file gives another digest once a notice has come into force or ended.
        """
        return hashlib.sha256(canonical.encode(self.plain())).hexdigest()

    def in_force(self, record_class: str, purpose: str) -> bool:
        """Whether this purpose of the class is in force."""
        return purpose != STATUTORY or any(
            record_class in notice.classes and notice.in_force(self.at_us)
            for notice in self.notices
        )

    def period(self, record_class: str) -> Period:
        """The period in force; KeyError for a class that is not wired."""
        return self._periods[record_class]

    def periods(self) -> dict[str, Period]:
        """Every wired class's period in force, by name."""
        return dict(self._periods)

    @cached_property
    def _periods(self) -> dict[str, Period]:
        return {name: self._longest(name) for name in sorted(self.classes)}

    def _longest(self, record_class: str) -> Period:
        rules = self.classes[record_class].rules
        best = ""
        for purpose in (p for p in PURPOSES if p in rules and self.in_force(record_class, p)):
            if not best or not outlasts(rules[best].length, rules[purpose].length):
                best = purpose
        rule = rules[best]
        return Period(rule.months, rule.days, best, rule.clock, rule.basis)

    def leaf(self) -> dict[str, Any]:
        """The fields of a `policy.loaded` leaf (`audit.leaf.KINDS`), its envelope not included."""
        return {
            "digest": self.digest,
            "periods": [
                {"class": name, "months": period.months, "days": period.days}
                for name, period in self._periods.items()
            ],
        }

    def at(self, now_us: int) -> Policy:
        """The same file as it is in force at another time."""
        return replace(self, at_us=now_us)

    def next_change_us(self) -> int | None:
        """When, after `at_us`, a notice next comes into force or ends; None for never."""
        edges = (edge for each in self.notices for edge in (each.from_us, each.to_us))
        return min((edge for edge in edges if self.at_us < edge < NEVER), default=None)

    def unwired(self, tables: Iterable[str]) -> list[str]:
        """Tables of a live database that are neither a class's (or its late rows') nor exempt."""
        return sorted(
            name
            for name in set(tables)
            if name not in self.exempt and name.removeprefix(LATE) not in self.classes
        )

    def plain(self) -> dict[str, Any]:
        """All of it as plain values; it names the notices, so it is for legal people only."""
        return {
            "notices": [
                {
                    "id": each.id,
                    "classes": list(each.classes),
                    "from": day_text(each.from_us),
                    "to": None if each.to_us == NEVER else day_text(each.to_us),
                    "in_force": each.in_force(self.at_us),
                }
                for each in self.notices
            ],
            "periods": {
                name: {"period": length_text(period.length), "purpose": period.purpose}
                for name, period in self._periods.items()
            },
            "classes": {name: self._plain_terms(name) for name in self.classes},
            "common": [_plain_data(each) for each in self.common],
            "exempt": dict(self.exempt),
            "register": {
                name: getattr(self.register, name) for name in Register.__dataclass_fields__
            },
        }

    def _plain_terms(self, name: str) -> dict[str, Any]:
        terms = self.classes[name]
        return {
            "title": terms.title,
            "purposes": {
                purpose: {
                    "period": length_text(rule.length),
                    "clock": rule.clock,
                    "basis": rule.basis,
                    "owner": rule.owner,
                    "over_maximum_basis": rule.over_maximum_basis,
                    "in_force": self.in_force(name, purpose),
                }
                for purpose, rule in terms.rules.items()
            },
            "data": [_plain_data(each) for each in terms.data],
        }


def length_text(length: Length) -> str:
    """A length as the policy file has it: "6 years", "12 months", "1 month and 5 days"."""
    months, days = length
    whole_years = months > 12 and months % 12 == 0
    parts = (
        (months // 12, "year") if whole_years else (months, "month"),
        (days, "day"),
    )
    return " and ".join(f"{n} {word}{'s' * (n != 1)}" for n, word in parts if n)


def day_text(at_us: int) -> str:
    """The UTC day of an instant: "2026-11-22"."""
    return str(dt.date(1970, 1, 1) + dt.timedelta(days=at_us // DAY_US))


def _plain_data(data: Data) -> dict[str, Any]:
    return {
        "columns": list(data.columns),
        "what": data.what,
        "purposes": list(data.purposes),
    }
