"""`/v1/purge`: what would be destroyed and why, doing it now, what was, and the proof of it."""

from __future__ import annotations

from typing import Any, Final

from retention.answers import plan_json, purge_json
from retention.audit import canonical, sealed
from retention.routes_base import Asked, Parts, Refused, Route, bad, flag, missing

MAX_CAP: Final = 10_000
MAX_PURGES: Final = 500
"""Of one answer, the newest; those before are in the log."""


def plan(parts: Parts, asked: Asked) -> dict[str, Any]:
    """The plan as of now; ?cap=n: as a run with that cap would have it. Changes nothing."""
    cap = asked.number("cap", None, MAX_CAP)
    found = parts.purger.plan()
    return plan_json(found if cap is None else found.cap(cap))


def run(parts: Parts, asked: Asked) -> dict[str, Any]:
    """Begin a run; what became of it is under /v1/purge/run/{job}."""
    body = asked.fields("cap", "dry_run")
    cap = body.get("cap", parts.config.schedule.cap)
    if type(cap) is not int or not 1 <= cap <= MAX_CAP:
        raise bad(f"cap: a number from 1 to {MAX_CAP}")
    dry_run = flag(body, "dry_run", default=True)
    return {"job": parts.jobs.submit(cap, dry_run, asked.person.name)}


def reconcile(parts: Parts, asked: Asked) -> dict[str, Any]:
    """Sweep what a restore brought back, now; the service does it by itself each round, too."""
    asked.fields()
    health = parts.health()
    if not health["ready"]:
        raise Refused(409, "not-ready", f"nothing was swept: {health['because']}")
    swept = parts.purger.sweeper.reconcile()
    return {
        "partitions": swept.slots,
        "preserved": swept.preserved,
        "destroyed": swept.destroyed,
        "kept": [
            {"class": slot.record_class, "partition": slot.number, "reason": reason}
            for slot, reason in swept.kept
        ],
    }


def job(parts: Parts, asked: Asked) -> Any:
    """How far a run is; the last few are remembered until the service ends."""
    found = parts.jobs.job(asked.path["job"])
    if found is None:
        raise missing("there is no such run: see /v1/purge/status for what was destroyed")
    return found


def status(parts: Parts, asked: Asked) -> dict[str, Any]:
    """Purges, the newest first, and what was last done by itself."""
    purges = sorted(parts.register.purges(), key=lambda each: each.intent_us, reverse=True)
    return {
        "purges": [purge_json(each) for each in purges[:MAX_PURGES]],
        "more": max(0, len(purges) - MAX_PURGES),
        **parts.jobs.status(),
    }


def certificate(parts: Parts, asked: Asked) -> Any:
    """The certificate of a purge, the final one where there is one: the file's own object."""
    purge = parts.register.purge(asked.path["id"])
    if purge is None:
        raise missing("there is no purge with this id")
    data = parts.purger.certificates.read(purge.id)
    if data is not None:
        return canonical.decode(data.removesuffix(b"\n"), sealed.MAX_CERTIFICATE)
    raise missing(f"no certificate was issued yet; the purge is at the step {purge.step.value}")


ROUTES: Final = (
    Route("GET", "/v1/purge/plan", "purge.plan", plan),
    Route("POST", "/v1/purge/run", "purge.run", run),
    Route("POST", "/v1/purge/reconcile", "purge.run", reconcile),
    Route("GET", "/v1/purge/run/{job}", "purge.status", job),
    Route("GET", "/v1/purge/status", "purge.status", status),
    Route("GET", "/v1/purge/{id}/certificate", "purge.certificate", certificate),
)
