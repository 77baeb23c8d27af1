"""Answers to look-ups in, tables for people out. Pure; see `present`."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from retention.present import Answer, line, table, when


def print_lookup(console: Console, answer: Answer) -> None:
    """Candidates with their evidence, what is missing, and what changed since it was asked."""
    port = "" if answer["port"] is None else f" port {answer['port']}"
    title = f"{answer['address']}{port} at {when(answer['at'])} ± {answer['tolerance_s']:g} s"
    rows = [
        (each["grade"], each["subscriber"] or "-", *_evidence(each))
        for each in answer["candidates"]
    ]
    table(console, title, ("Grade", "Subscriber", "Mapping", "Binding", "Line"), rows)
    line(console, f"{answer['grade']}: {answer['because']}")
    line(console, f"clocks of the evidence are taken to be off by {answer['clock_error_s']:g} s")
    for each in answer["losses"]:
        at = f"{when(each['start'])} until {when(each['end']) if each['end'] else 'now'}"
        line(console, f"missing: {each['class']} of {each['collector'] or 'all'}, {at}: "
             f"{each['reason']}")  # fmt: skip
    if answer["losses_count"] > len(answer["losses"]):
        line(console, f"and {answer['losses_count'] - len(answer['losses'])} more losses")
    if answer["hold"]:
        line(console, f"the rows in the vault that {answer['hold']} protects were looked at too")
    elif any(each["reason"] == "destroyed" for each in answer["losses"]):
        line(console, "what only holds keep was not looked at: --hold names the order it is for")
    line(console, f"answer {answer['answer']}, under {answer['reference']}")
    earlier = answer.get("earlier")
    if earlier:
        _print_earlier(console, earlier)


def _evidence(each: Any) -> tuple[str, str, str]:
    mapping, binding, session = each["mapping"], each["binding"], each["session"]
    return (
        f"{mapping['source']} {mapping['record'][:12]}: {mapping['inside']}{_held(mapping)}"
        if mapping else "-",
        f"{binding['prefix']} from {when(binding['from'])}, proven until "
        f"{when(binding['proven_until'])}{_held(binding)}" if binding else "-",
        f"{session['nas']} {session['line']}" if session else "-",
    )  # fmt: skip


def _held(evidence: Any) -> str:
    return " (vault)" if evidence.get("held") else ""


def _print_earlier(console: Console, earlier: Any) -> None:
    what = "the same" if earlier["is_same"] else "ANOTHER"
    line(console, f"asked before at {when(earlier['answered'])}: {what} answer {earlier['answer']}")
    if earlier["arrived_since"]:
        line(console, f"arrived since: {', '.join(earlier['arrived_since'])}")
