"""Builds the leaves of holds; see `leaves.py`, which names every builder.

The salt of an identifier's commitment is fresh for each item of each leaf on purpose: one
commitment for the same identifier in two holds would tell a reader of the log that two orders are
about the same person, and no rule of the replay compares values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from retention.audit import canonical
from retention.audit.canonical import Leaf
from retention.audit.leaf import MAX_ITEMS
from retention.model import Approval, Extension, Hold, Place, ScopeItem

Person = Callable[[str], str]
Commit = Callable[[str], str]

SAME_GENERATION: Final = frozenset(
    {
        "hold.evidence",
        "hold.reviewed",
        "hold.extension-requested",
        "hold.extension-rejected",
        "hold.extension-cancelled",
        "hold.release-requested",
        "hold.release-approved",
        "hold.release-cancelled",
    }
)
"""Hold leaves that carry the present generation; every other hold leaf raises it by one."""

MAX_SCOPE_BYTES: Final = 48_000
"""Scope in one leaf, of the 65,535 bytes of an entry: about two hundred items of 240 bytes."""


def raises_generation(kind: str) -> bool:
    """Whether a leaf of this kind raises the generation by one."""
    return kind.startswith("hold.") and kind not in SAME_GENERATION


def hold_submitted(hold: Hold, generation: int, person: Person, commit: Commit) -> list[Leaf]:
    """Say what is held: one leaf, and `hold.grown` for the scope that is too long for it."""
    first, *rest = _in_parts(hold.scope, commit) or [[]]
    submitted: Leaf = {
        "kind": "hold.submitted",
        "at": hold.requested.at_us,
        "hold": hold.id,
        "generation": generation + 1,
        "requester": person(hold.requested.person),
        "role": hold.requested.role,
        "basis": hold.basis,
        "order": hold.order_sha256 or None,
        "scope": first,
        "all_sharers": hold.all_sharers,
        "expires": hold.expires_us,
        "review_by": hold.review_by_us,
    }
    return [submitted, *_grown(hold.id, rest, generation + 1)]


def hold_grown(
    hold: str, items: Iterable[ScopeItem], generation: int, commit: Commit
) -> list[Leaf]:
    """Say what a hold now covers besides; nothing for no items."""
    return _grown(hold, _in_parts(items, commit), generation)


def hold_approved(hold: Hold, generation: int, person: Person) -> Leaf:
    """Say who approved a hold; raises ValueError if nobody did."""
    if hold.approved is None:
        raise ValueError("a hold that nobody approved")
    return _decided("hold.approved", hold.id, hold.approved, generation + 1, person)


def hold_rejected(hold: Hold, by: Approval, reason: str, generation: int, person: Person) -> Leaf:
    """Say who rejected a hold; `reason` is a code."""
    return _decided("hold.rejected", hold.id, by, generation + 1, person) | {"reason": reason}


def hold_lapsed(hold: Hold, generation: int) -> Leaf:
    """Say that nobody approved in time."""
    return _ended("hold.lapsed", hold, generation)


def hold_expired(hold: Hold, generation: int) -> Leaf:
    """Say that a hold came to its date."""
    return _ended("hold.expired", hold, generation)


def hold_released(hold: Hold, generation: int) -> Leaf:
    """Say that two people's release took effect."""
    return _ended("hold.released", hold, generation)


def hold_reviewed(hold: Hold, by: Approval, generation: int, person: Person) -> Leaf:
    """Say who looked at a hold, and when it is to be looked at again."""
    told = _acted("hold.reviewed", hold.id, by, generation, person)
    return told | {"review_by": hold.review_by_us}


def hold_extension_requested(hold: Hold, generation: int, person: Person) -> Leaf:
    """Say who wants a hold to end later; raises ValueError if nobody does."""
    if hold.extension is None:
        raise ValueError("a hold whose extension nobody requested")
    by, expires_us = hold.extension.requested, hold.extension.expires_us
    told = _requested("hold.extension-requested", hold.id, by, generation, person)
    return told | {"expires": expires_us}


def hold_extension_rejected(
    hold: Hold, by: Approval, reason: str, generation: int, person: Person
) -> Leaf:
    """Say who turned an extension down; `reason` is a code."""
    told = _decided("hold.extension-rejected", hold.id, by, generation, person)
    return told | {"reason": reason}


def hold_extension_cancelled(hold: Hold, by: Approval, generation: int, person: Person) -> Leaf:
    """Say that its requester took an extension back."""
    return _acted("hold.extension-cancelled", hold.id, by, generation, person)


def hold_extended(
    hold: Hold, extension: Extension, by: Approval, generation: int, person: Person
) -> Leaf:
    """Say that a later expiry was approved."""
    return {
        "kind": "hold.extended",
        "at": by.at_us,
        "hold": hold.id,
        "generation": generation + 1,
        "requester": person(extension.requested.person),
        "approver": person(by.person),
        "expires": extension.expires_us,
    }


def hold_preserved(hold: Hold, generation: int) -> Leaf:
    """Say that all there is of a hold is protected."""
    return {"kind": "hold.preserved", "hold": hold.id, "generation": generation + 1}


def hold_unavailable(hold: Hold, generation: int) -> list[Leaf]:
    """Say which purges had destroyed some of a hold's scope before it was placed."""
    lists = [
        list(hold.unavailable[at : at + MAX_ITEMS])
        for at in range(0, len(hold.unavailable), MAX_ITEMS)
    ]
    return [
        {
            "kind": "hold.unavailable",
            "hold": hold.id,
            "generation": generation + 1 + n,
            "purges": purges,
        }
        for n, purges in enumerate(lists)
    ]


def hold_release_requested(hold: Hold, generation: int, person: Person) -> Leaf:
    """Say who wants a hold released; raises ValueError if nobody does."""
    if hold.release is None:
        raise ValueError("a hold whose release nobody requested")
    return _requested("hold.release-requested", hold.id, hold.release.requested, generation, person)


def hold_release_approved(hold: Hold, by: Approval, generation: int, person: Person) -> Leaf:
    """Say who approved a release: the first or the second of two."""
    return _decided("hold.release-approved", hold.id, by, generation, person)


def hold_release_cancelled(hold: Hold, by: Approval, generation: int, person: Person) -> Leaf:
    """Say who called a release off."""
    return _acted("hold.release-cancelled", hold.id, by, generation, person)


def hold_evidence(hold: str, place: Place, rows: int, root: str, generation: int) -> Leaf:
    """Say how many rows of a place one hold protects, live and vault together, and their root."""
    return {
        "kind": "hold.evidence",
        "hold": hold,
        "generation": generation,
        **place_fields(place),
        "rows": rows,
        "root": root,
    }


def scope_text(item: ScopeItem) -> str:
    """The text an item's commitment is of: kind, value and ports in canonical JSON."""
    fields = {"kind": item.kind.value, "value": item.value, "ports": list(item.ports)}
    return canonical.encode(fields).decode()


def _decided(kind: str, hold: str, by: Approval, generation: int, person: Person) -> Leaf:
    return _by("approver", kind, hold, by, generation, person)


def _requested(kind: str, hold: str, by: Approval, generation: int, person: Person) -> Leaf:
    return _by("requester", kind, hold, by, generation, person)


def _acted(kind: str, hold: str, by: Approval, generation: int, person: Person) -> Leaf:
    return _by("actor", kind, hold, by, generation, person)


def _by(name: str, kind: str, hold: str, by: Approval, generation: int, person: Person) -> Leaf:
    return {
        "kind": kind,
        "at": by.at_us,
        "hold": hold,
        "generation": generation,
        name: person(by.person),
        "role": by.role,
    }


def _ended(kind: str, hold: Hold, generation: int) -> Leaf:
    ended = timed(hold.ended_us)
    return {"kind": kind, **ended, "hold": hold.id, "generation": generation + 1}


def _grown(hold: str, parts: list[list[Leaf]], generation: int) -> list[Leaf]:
    return [
        {"kind": "hold.grown", "hold": hold, "generation": generation + 1 + n, "scope": part}
        for n, part in enumerate(parts)
    ]


def _in_parts(items: Iterable[ScopeItem], commit: Commit) -> list[list[Leaf]]:
    """Scope items as leaves have them, in lists that each fit into one leaf."""
    parts, part, room = list[list[Leaf]](), list[Leaf](), 0
    for item in items:
        shown: Leaf = {
            "kind": item.kind.value,
            "value": commit(scope_text(item)),
            "from": item.from_us,
            "to": item.to_us,
            "classes": list(item.classes),
            "resolved": item.resolved,
        }
        size = len(canonical.encode(shown)) + 1
        if not part or len(part) == MAX_ITEMS or size > room:
            part, room = [], MAX_SCOPE_BYTES
            parts.append(part)
        part.append(shown)
        room -= size
    return parts


def place_fields(place: Place) -> Leaf:
    """A place as leaves have it."""
    return {"class": place.record_class, "partition": place.name}


def timed(at_us: int | None) -> Leaf:
    """`at`, where the object has a time."""
    return {"at": at_us} if at_us else {}
