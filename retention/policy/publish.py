"""A policy in, the texts that are made of it out: the customers' notice, the article 30 register.

Pure. Whether a retention notice is in force must not be revealed (IPA 2016 s.95): both texts say
only what one would require, so they are the same with and without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypedDict

from aggregator.store.schema import TABLES
from retention.model import DAY_US, GRACE_US
from retention.policy.model import PURPOSES, Data, Policy, Rule, length_text

WHY: Final = {
    "statutory": "A legal duty, where one is laid on us",
    "billing": "Your bill",
    "faults": "Finding and mending faults",
    "demand": "Planning the network",
}
CLOCKS: Final = {
    "communication": "the day of the communication",
    "entity-data": "the day on which the address stops being yours or changes",
    "first-held": "the day on which we first held it",
}
_GRACE_DAYS: Final = GRACE_US // DAY_US


class Activity(TypedDict):
    """One line of the register: one purpose of one class (UK GDPR article 30(1))."""

    record_class: str
    activity: str
    purpose: str
    legal_basis: str
    subjects: str
    data: list[str]
    recipients: str
    transfers: str
    period: str
    erasure: str
    owner: str
    security: str
    controller: str
    contact: str
    officer: str


def article30(policy: Policy) -> list[Activity]:
    """The register's lines, classes and purposes in the policy's order."""
    return [
        {
            "record_class": name,
            "activity": terms.title,
            "purpose": WHY[purpose],
            "legal_basis": _basis(rule),
            "subjects": policy.register.subjects,
            "data": [
                each.what for each in (*terms.data, *policy.common) if purpose in each.purposes
            ],
            "recipients": policy.register.recipients,
            "transfers": policy.register.transfers,
            "period": _period(rule),
            "erasure": _erasure(name),
            "owner": rule.owner,
            "security": policy.register.security,
            "controller": policy.register.controller,
            "contact": policy.register.contact,
            "officer": policy.register.officer,
        }
        for name, terms in policy.classes.items()
        for purpose, rule in _rules(policy, name)
    ]


def notice_text(policy: Policy) -> str:
    """What is collected, why and for how long, as Markdown for customers.

    Made from the declared data, which `load` has compared with the columns that are stored.
    """
    who = policy.register
    lines = [
        "# What we record about your use of our service",
        "",
        f"{who.controller or 'We'} record what is listed here and nothing else: never what you"
        " write, say, search for or read. Each kind of record is kept for the longest of its"
        " periods and then destroyed, unless a court or another lawful order requires us to keep"
        " some of it.",
    ]
    for name in policy.classes:
        lines += ["", *_section(policy, name)]
    lines += ["", "## In every record", "", *_table(policy.common, PURPOSES)]
    lines += [
        "",
        "## Who can receive it",
        "",
        f"{who.recipients}. Transfers to other countries: {who.transfers[0].lower()}"
        f"{who.transfers[1:]}.",
        "",
        "## Your rights",
        "",
        "You can ask for a copy of what we hold about you, have it corrected, object to its use or"
        " ask for its erasure, and complain to the Information Commissioner.",
    ]
    contacts = [text for text in (who.contact, who.officer) if text.strip()]
    if contacts:
        lines += ["", f"Write to: {'; '.join(contacts)}"]
    return "\n".join((*lines, ""))


def _section(policy: Policy, name: str) -> Iterator[str]:
    terms = policy.classes[name]
    yield f"## {_cell(terms.title)}"
    yield ""
    yield from _table(terms.data, tuple(purpose for purpose in PURPOSES if purpose in terms.rules))
    yield ""
    yield "How long we keep it:"
    yield ""
    for purpose, rule in _rules(policy, name):
        yield f"- {WHY[purpose]}: {_period(rule)} ({_cell(_basis(rule))})."
    yield ""
    yield f"{_erasure(name)}."


def _table(data: tuple[Data, ...], purposes: tuple[str, ...]) -> Iterator[str]:
    yield "| what | why |"
    yield "|---|---|"
    for each in data:
        why = "; ".join(WHY[purpose] for purpose in purposes if purpose in each.purposes)
        yield f"| {_cell(each.what)} | {why} |"


def _rules(policy: Policy, name: str) -> Iterator[tuple[str, Rule]]:
    rules = policy.classes[name].rules
    return ((purpose, rules[purpose]) for purpose in PURPOSES if purpose in rules)


def _period(rule: Rule) -> str:
    return f"{length_text(rule.length)}, beginning with {CLOCKS[rule.clock]}"


def _erasure(name: str) -> str:
    text = f"Destroyed within {_GRACE_DAYS} days of the end of the longest period that applies"
    if TABLES[name].period == "month":
        text += ", which is counted for the records of a calendar month from its last day"
    return text


def _basis(rule: Rule) -> str:
    return "; ".join(filter(None, (rule.basis, rule.over_maximum_basis)))


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")
