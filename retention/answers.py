"""Holds, plans and purges in, the JSON of answers out. Times are ISO 8601, UTC. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from retention.destruction.plan import Decision, Plan
from retention.destruction.steps import Outcome
from retention.holds.desk import Coverage
from retention.holds.wording import next_step
from retention.model import Approval, Hold, Place, Purge, ScopeItem

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def iso(us: int | None) -> str | None:
    """Microseconds as answers have them: "2026-11-30T14:00:00Z"."""
    if us is None:
        return None
    at = _EPOCH + dt.timedelta(microseconds=us)
    return at.replace(tzinfo=None).isoformat() + "Z"


def micros(at: dt.datetime) -> int:
    """Microseconds of an instant with its zone."""
    return (at - _EPOCH) // dt.timedelta(microseconds=1)


def hold_json(hold: Hold, now_us: int) -> dict[str, Any]:
    """A hold in full, with what happens next and when."""
    release, extension = hold.release, hold.extension
    return {
        "id": hold.id,
        "state": hold.state.value,
        "protects": hold.protects,
        "matter": hold.matter,
        "basis": hold.basis,
        "authority": hold.authority,
        "reference": hold.reference,
        "order_sha256": hold.order_sha256,
        "served": iso(hold.served_us),
        "requested": _approval(hold.requested),
        "approved": _approval(hold.approved) if hold.approved else None,
        "scope": [_item(each) for each in hold.scope],
        "resolve": hold.resolve,
        "mode": "resolved" if hold.resolve else "literal",
        "all_sharers": hold.all_sharers,
        "expires": iso(hold.expires_us),
        "review_by": iso(hold.review_by_us),
        "confidential": hold.confidential,
        "release": release
        and {
            "requested": _approval(release.requested),
            "approvals": [_approval(each) for each in release.approvals],
            "reason": release.reason,
        },
        "extension": extension
        and {
            "requested": _approval(extension.requested),
            "expires": iso(extension.expires_us),
        },
        "unavailable": list(hold.unavailable),
        "ended": iso(hold.ended_us),
        "next": next_step(hold, now_us),
    }


def _approval(each: Approval) -> dict[str, Any]:
    return {"person": each.person, "role": each.role, "at": iso(each.at_us)}


def _item(each: ScopeItem) -> dict[str, Any]:
    return {
        "kind": each.kind.value,
        "value": each.value,
        "from": iso(each.from_us),
        "to": iso(each.to_us),
        "classes": list(each.classes),
        "ports": list(each.ports),
        "resolved": each.resolved,
    }


def coverage_json(found: Coverage, roots: Mapping[Place, str]) -> dict[str, Any]:
    """What a hold keeps; roots: what the evidence in the log last stated of each place."""
    return {
        "hold": found.hold.id,
        "state": found.hold.state.value,
        "places": [
            {
                "class": each.partition.place.record_class,
                "partition": each.partition.place.name,
                "live": each.live,
                "vault": each.vault,
                "rows": each.rows,
                "root": roots.get(each.partition.place),
            }
            for each in found.places
        ],
        "unavailable": [purge_json(each) for each in found.unavailable],
        "next": found.next,
    }


def plan_json(found: Plan) -> dict[str, Any]:
    """A plan, every place of it."""
    return {
        "at": iso(found.now_us),
        "trusted": found.trusted,
        "policy": found.policy,
        "generation": found.generation,
        "due": len(found.due),
        "decisions": [_decision(each) for each in found.decisions],
    }


def _decision(each: Decision) -> dict[str, Any]:
    return {
        "class": each.place.record_class,
        "partition": each.place.name,
        "store": each.store,
        "action": each.action.value,
        "reason": each.reason,
        "rows": each.partition.rows,
        "retain_until": iso(each.retain_until_us) if each.retain_until_us else None,
        "opens": iso(each.opens_us) if each.opens_us else None,
        "due": iso(each.due_us),
        "holds": list(each.holds),
    }


def outcome_json(each: Outcome) -> dict[str, Any]:
    """What became of one place in a run."""
    purge = each.purge
    return {
        "class": each.place.record_class,
        "partition": each.place.name,
        "store": each.store,
        "state": each.state,
        "reason": each.reason,
        "purge": purge.id if purge else None,
        "preserved": purge.preserved if purge else 0,
        "destroyed": purge.destroyed if purge and each.state == "destroyed" else 0,
        "findings": [finding.text for finding in each.findings],
    }


def purge_json(purge: Purge) -> dict[str, Any]:
    """A purge as the register has it."""
    return {
        "id": purge.id,
        "class": purge.partition.place.record_class,
        "partition": purge.partition.place.name,
        "store": purge.store,
        "step": purge.step.value,
        "retain_until": iso(purge.retain_until_us),
        "policy": purge.policy,
        "generation": purge.generation,
        "operator": purge.operator,
        "rows_before": purge.rows_before,
        "preserved": purge.preserved,
        "destroyed": purge.destroyed,
        "holds": [{"hold": each.hold, "rows": each.rows} for each in purge.held],
        "intent": iso(purge.intent_us),
        "dropped": iso(purge.dropped_us) if purge.dropped_us else None,
        "final": iso(purge.final_us) if purge.final_us else None,
        "waiting": list(purge.waiting),
        "reason": purge.reason,
    }
