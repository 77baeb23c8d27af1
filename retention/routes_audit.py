"""`/v1/health`, `policy`, `audit` and `clock`: how the service is, and what proves what it did."""

from __future__ import annotations

import json
from typing import Any, Final

from retention.answers import iso
from retention.audit import canonical
from retention.audit.canonical import CanonicalError
from retention.audit.checkpoint import MAX_SIGNATURES, WITNESS, Checkpoint, Key, NoteError
from retention.audit.log import LogError
from retention.policy.report import report
from retention.register import leaves
from retention.routes_base import Asked, Parts, Refused, Route, bad

MAX_TAIL: Final = 1000
"""Leaves of one answer; more is a job for a copy of the log's folder."""
WITNESSES: Final = "witnesses"
"""The register's note of enrolled witnesses: their keys as JSON texts."""


def health(parts: Parts, asked: Asked) -> dict[str, Any]:
    """What the service says of itself; nothing personal."""
    asked.fields()
    return {**parts.health(), "you": asked.person.name, "roles": sorted(asked.person.roles)}


def policy(parts: Parts, asked: Asked) -> dict[str, Any]:
    """The policy in force, notices included."""
    found = parts.context.policy()
    return {"digest": found.digest, **found.plain()}


def policy_report(parts: Parts, asked: Asked) -> Any:
    """By class: what there is, what is due, overdue or was early."""
    context = parts.context
    live, _ = context.listed()
    return report(context.policy(), live, context.now_us(), parts.register.purges())


def tail(parts: Parts, asked: Asked) -> dict[str, Any]:
    """The last leaves, oldest first; they hold no personal data."""
    lines = asked.number("lines", 20, MAX_TAIL)
    assert lines is not None
    with parts.register.audit() as log:
        found = log.tail(lines)
    return {"leaves": [{"index": index, **leaf} for index, leaf in found]}


def checkpoint(parts: Parts, asked: Asked) -> dict[str, Any]:
    """The signed checkpoint, with the key that signs it."""
    with parts.register.audit() as log:
        first = canonical.decode(log.entry(0))
        return {
            "size": log.size,
            "key": first["key"],
            "checkpoint": log.checkpoint(),
            "witnesses": enrolled(parts),
        }


def witness(parts: Parts, asked: Asked) -> dict[str, Any]:
    """Enrol a witness's key, or keep a checkpoint that an enrolled witness signed, or both."""
    body = asked.fields("key", "note")
    if not body or any(not isinstance(each, str) for each in body.values()):
        raise bad("give key (a witness's key), note (a checkpoint it signed), or both, as texts")
    answer: dict[str, Any] = {}
    try:
        if "key" in body:
            answer["enrolled"] = _enrol(parts, asked, body["key"])
        if "note" in body:
            answer["index"] = _keep(parts, body["note"])
    except (NoteError, LogError, CanonicalError) as error:
        raise bad(str(error)) from None
    return answer


def enrolled(parts: Parts) -> list[str]:
    """Keys of enrolled witnesses."""
    found: list[str] = json.loads(parts.register.note(WITNESSES) or "[]")
    return found


def _enrol(parts: Parts, asked: Asked, text: str) -> str:
    key = Key.parse(text)
    if key.kind != WITNESS:
        raise bad("this is not the key of a witness: tallyhold audit witness --show-key prints it")
    known = enrolled(parts)
    if str(key) in known:
        return str(key)
    if len(known) >= MAX_SIGNATURES:
        raise Refused(409, "too-many-witnesses", f"{MAX_SIGNATURES} witnesses are enrolled already")
    name = asked.person.name
    parts.register.write(
        notes={WITNESSES: json.dumps([*known, str(key)])},
        leaves=[leaves.witness_enrolled(str(key), name, parts.commitments.person)],
    )
    return str(key)


def _keep(parts: Parts, note: str) -> int:
    signed = Checkpoint.parse(note.encode())
    keys = [Key.parse(text) for text in enrolled(parts)]
    found = next((key for key in keys for line in signed.lines if line.by(key)), None)
    if found is None:
        raise Refused(
            409, "unknown-witness", "no enrolled witness signed this: enrol its key first"
        )
    return parts.register.add_cosigned(note, found)


def clock(parts: Parts, asked: Asked) -> dict[str, Any]:
    """What the service thinks of its clock."""
    trust = parts.context.guard.check()
    return {
        "now": iso(parts.context.now_us()),
        "trusted": trust.trusted,
        "reason": trust.reason,
    }


def confirm_clock(parts: Parts, asked: Asked) -> dict[str, Any]:
    """A person says that the clock is right, after it jumped."""
    asked.fields()
    trust = parts.context.guard.confirm(parts.commitments.person(asked.person.name))
    if not trust.trusted:
        text = f"the clock stays untrusted ({trust.reason}): have it synchronised first (chronyc)"
        raise Refused(409, "clock-untrusted", text)
    return clock(parts, asked)


ROUTES: Final = (
    Route("GET", "/v1/health", "health.read", health),
    Route("GET", "/v1/policy", "policy.read", policy),
    Route("GET", "/v1/policy/report", "policy.report", policy_report),
    Route("GET", "/v1/audit/tail", "audit.tail", tail),
    Route("GET", "/v1/audit/checkpoint", "audit.checkpoint", checkpoint),
    Route("POST", "/v1/audit/witness", "audit.witness", witness),
    Route("GET", "/v1/clock", "clock.read", clock),
    Route("POST", "/v1/clock/confirm", "clock.confirm", confirm_clock),
)
