"""Builds the leaf of every kind from model objects, so that no leaf holds personal data.

A builder is named after its kind, with "_" for "." and "-". It gives the leaf without `v`, or a
list of leaves where one may not be enough; `Register.write` adds `v` and `at`. Some builders give
`at` from the object's own time, so that row and leaf say the same; the register moves it to after
the leaf before it, if need be. Those of holds and of SafeGuard
stand in `hold_leaves.py` and `safeguard_leaves.py` and are named here too.

`generation` is the register's present one in every call; builders of kinds that raise it do so.
`person` gives the one commitment of a member of staff, `commit` a commitment with a fresh salt
(`CommitmentStore.person`, `.commit`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from retention.audit.canonical import Leaf
from retention.model import HeldRoot, Partition, Place, Purge, Step
from retention.register.hold_leaves import (
    SAME_GENERATION,
    Commit,
    Person,
    hold_approved,
    hold_evidence,
    hold_expired,
    hold_extended,
    hold_extension_cancelled,
    hold_extension_rejected,
    hold_extension_requested,
    hold_grown,
    hold_lapsed,
    hold_preserved,
    hold_rejected,
    hold_release_approved,
    hold_release_cancelled,
    hold_release_requested,
    hold_released,
    hold_reviewed,
    hold_submitted,
    hold_unavailable,
    place_fields,
    raises_generation,
    scope_text,
    timed,
)
from retention.register.safeguard_leaves import safeguard_budget, safeguard_window

__all__ = [
    "Commit", "Person", "SAME_GENERATION", "clock_step", "config_changed", "heartbeat",
    "hold_approved", "hold_evidence", "hold_expired", "hold_extended",
    "hold_extension_cancelled", "hold_extension_rejected", "hold_extension_requested",
    "hold_grown", "hold_lapsed", "hold_preserved", "hold_rejected", "hold_release_approved",
    "hold_release_cancelled", "hold_release_requested", "hold_released", "hold_reviewed",
    "hold_submitted", "hold_unavailable", "late_swept", "login_failed", "lookup",
    "partition_seen", "policy_loaded", "purge_certificate_final", "purge_certificate_pending",
    "purge_dropped", "purge_failed", "purge_intent", "purge_preserved", "raises_generation",
    "refusal", "restore_found", "safeguard_budget", "safeguard_window", "scope_text",
    "witness_enrolled",
]  # fmt: skip


# The log itself.


def heartbeat(generation: int | None = None, holds: int | None = None) -> Leaf:
    """Say that the service lives; the register fills in what is None, as of that very leaf."""
    leaf: Leaf = {"kind": "heartbeat"}
    if generation is not None:
        leaf["generation"] = generation
    if holds is not None:
        leaf["holds"] = holds
    return leaf


def clock_step(
    delta_us: int, backward: bool, trusted: bool, reason: str, actor: str | None = None
) -> Leaf:
    """Say that trust in the clock changed; `actor` is the commitment of who confirmed it."""
    return {
        "kind": "clock.step",
        "delta": delta_us,
        "backward": backward,
        "trusted": trusted,
        "reason": reason,
        "actor": actor,
    }


def config_changed(digest: str, actor: str | None, person: Person) -> Leaf:
    """Say that the configuration, of this SHA-256, is another than before."""
    return {"kind": "config.changed", "digest": digest, "actor": person(actor) if actor else None}


def witness_enrolled(key: str, actor: str, person: Person) -> Leaf:
    """Say whose countersignature counts; `key` is the witness's vkey."""
    return {"kind": "witness.enrolled", "key": key, "actor": person(actor)}


# Policy and what it applies to.


def policy_loaded(fields: Mapping[str, Any]) -> Leaf:
    """Say which policy is in force, in the fields that `Policy.leaf` gives."""
    return dict(fields) | {"kind": "policy.loaded"}


def partition_seen(partition: Partition, retain_until_us: int, policy: str) -> Leaf:
    """Say until when a partition is kept; `policy` is the policy's digest."""
    return {
        "kind": "partition.seen",
        **_span(partition),
        "retain_until": retain_until_us,
        "policy": policy,
    }


# Destruction.


def purge_intent(purge: Purge, holds: int) -> Leaf:
    """Say what is about to be destroyed; `holds` is how many active holds meet the partition."""
    return {
        "kind": "purge.intent",
        **timed(purge.intent_us),
        **_span(purge.partition),
        "purge": purge.id,
        "store": purge.store,
        "retain_until": purge.retain_until_us,
        "generation": purge.generation,
        "policy": purge.policy,
        "holds": holds,
    }


def purge_preserved(purge: Purge) -> Leaf:
    """Say what is kept for whom; from here on the purge has to come to an outcome."""
    return {
        "kind": "purge.preserved",
        "purge": purge.id,
        "generation": purge.generation,
        "rows_before": purge.rows_before,
        "rows": purge.preserved,
        "digest": purge.digest,
        "holds": _held(purge.held),
    }


def purge_dropped(purge: Purge) -> Leaf:
    """Say that the partition was dropped."""
    return {
        "kind": "purge.dropped",
        **timed(purge.dropped_us),
        "purge": purge.id,
        "generation": purge.generation,
        "rows": purge.destroyed,
    }


def purge_certificate_pending(purge: Purge, digest: str) -> Leaf:
    """Say that a certificate, of this SHA-256, was issued while something is waited for."""
    waiting = list(purge.waiting)
    return {
        "kind": "purge.certificate-pending",
        **_certificate(purge, digest),
        "waiting": waiting,
    }


def purge_certificate_final(purge: Purge, digest: str, backups: int) -> Leaf:
    """Say that nothing is left but in so many backups, by the certificate of this SHA-256."""
    return {
        "kind": "purge.certificate-final",
        **timed(purge.final_us),
        **_certificate(purge, digest),
        "backups": backups,
    }


def purge_failed(purge: Purge, step: Step) -> Leaf:
    """Say that a purge ended without destroying: at which step, and why (`purge.reason`)."""
    return {
        "kind": "purge.failed",
        "purge": purge.id,
        "step": step.value,
        "reason": purge.reason,
    }


def late_swept(
    partition: Partition,
    generation: int,
    preserved: int,
    destroyed: int,
    held: Iterable[HeldRoot],
) -> Leaf:
    """Say what became of rows that came after their period; written before they are dropped."""
    return {
        "kind": "late.swept",
        **_span(partition),
        "generation": generation,
        "rows_before": preserved + destroyed,
        "preserved": preserved,
        "destroyed": destroyed,
        "holds": _held(held),
    }


def restore_found(place: Place, purge: str, rows: int) -> Leaf:
    """Say that a partition which a purge destroyed has rows again; `late.swept` follows at once."""
    return {
        "kind": "restore.found",
        "class": place.record_class,
        "partition": place.name,
        "purge": purge,
        "rows": rows,
    }


# People.


def lookup(
    actor: str,
    role: str,
    what: str,
    subject: str | None,
    reference: str,
    rows: int | None,
    person: Person,
    commit: Commit,
) -> Leaf:
    """Say that a person asked for identified records, about whom and under which reference."""
    return {
        "kind": "lookup",
        "actor": person(actor),
        "role": role,
        "what": what,
        "subject": commit(subject) if subject else None,
        "reference": commit(reference),
        "rows": rows,
    }


def refusal(
    actor: str | None,
    role: str | None,
    action: str,
    subject: str | None,
    reason: str,
    person: Person,
    commit: Commit,
) -> Leaf:
    """Say that a person was refused an action; `action` and `reason` are codes."""
    return {
        "kind": "refusal",
        "actor": person(actor) if actor else None,
        "role": role or None,
        "action": action,
        "subject": commit(subject) if subject else None,
        "reason": reason,
    }


def login_failed(actor: str | None, way: str, reason: str, person: Person) -> Leaf:
    """Say that somebody, who says they are `actor`, was not let in; by one commitment a name."""
    return {
        "kind": "login.failed",
        "actor": person(actor) if actor else None,
        "way": way,
        "reason": reason,
    }


def _span(partition: Partition) -> Leaf:
    if not partition.earliest_us <= partition.start_us < partition.end_us <= partition.latest_us:
        # The replay would find it for ever; here it is still an error in the caller.
        raise ValueError("a partition covers at least its clock days")
    return {
        **place_fields(partition.place),
        "start": partition.start_us,
        "end": partition.end_us,
        "earliest": partition.earliest_us,
        "latest": partition.latest_us,
    }


def _certificate(purge: Purge, digest: str) -> Leaf:
    return {
        "purge": purge.id,
        "digest": digest,
        "policy": purge.policy,
        "generation": purge.generation,
        "rows_before": purge.rows_before,
        "preserved": purge.preserved,
        "destroyed": purge.destroyed,
        "holds": _held(purge.held),
    }


def _held(held: Iterable[HeldRoot]) -> list[Leaf]:
    """Holds that have rows; those counted without any are no part of a destruction's leaf."""
    return [{"hold": one.hold, "rows": one.rows, "root": one.root} for one in held if one.rows]
