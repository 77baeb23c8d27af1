"""`/v1/holds`: placing, approving, extending and releasing holds, and what they keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from retention.answers import coverage_json, hold_json
from retention.config import Role
from retention.destruction import evidence
from retention.holds import scope
from retention.holds.desk import Draft
from retention.holds.errors import ScopeError
from retention.holds.rules import Actor
from retention.model import NEVER, Hold, ScopeItem, State
from retention.routes_base import Asked, Parts, Route, bad, flag, instant, words

_FIELDS: Final = (
    "matter",
    "basis",
    "authority",
    "reference",
    "order_sha256",
    "served",
    "scope",
    "mode",
    "expires",
    "review_by",
    "all_sharers",
    "confidential",
    "request_id",
)
_ITEM: Final = ("kind", "value", "from", "to", "classes", "ports")
ALL_PORTS: Final = (0, 65535)


def list_holds(parts: Parts, asked: Asked) -> dict[str, Any]:
    """All holds, or those in one state; newest last."""
    wanted = asked.query.get("state", "")
    if wanted and wanted not in {state.value for state in State}:
        raise bad(f"state: one of {', '.join(State)}")
    found = [each for each in parts.register.holds() if not wanted or each.state.value == wanted]
    parts.lookup(asked, "holds", "hold list", len(found))
    now_us = parts.context.now_us()
    return {"holds": [hold_json(each, now_us) for each in found]}


def show(parts: Parts, asked: Asked) -> dict[str, Any]:
    """One hold in full."""
    found = parts.desk.hold(asked.path["id"])
    parts.lookup(asked, "hold", found.id, 1)
    return _answer(parts, found)


def coverage(parts: Parts, asked: Asked) -> dict[str, Any]:
    """What a hold keeps by place, counted now, and what was destroyed before it was placed."""
    name = parts.desk.hold(asked.path["id"]).id
    with parts.register.exclusive():  # a purge would move rows while they are counted
        found = parts.desk.coverage(name)
    parts.lookup(asked, "coverage", name, sum(each.rows for each in found.places))
    roots = {}
    for each in found.places:
        counts = evidence.parse(parts.register.note(evidence.key(each.partition.place)))
        if name in counts:
            roots[each.partition.place] = counts[name].root
    return coverage_json(found, roots)


def place(parts: Parts, asked: Asked) -> dict[str, Any]:
    """A new hold; it protects when this is answered."""
    body = asked.fields(*_FIELDS)
    mode = body.get("mode", "resolved")
    if mode not in ("resolved", "literal"):
        raise bad("mode: resolved or literal")
    items = body.get("scope")
    if not isinstance(items, list) or not items:
        raise bad("scope: a list of identifiers is needed")
    if len(items) > scope.MAX_ITEMS:
        raise bad(f"scope: at most {scope.MAX_ITEMS} identifiers; place several holds")
    served = instant(body, "served")
    draft = Draft(
        matter=words(body, "matter", needed=True),
        basis=words(body, "basis", needed=True),
        authority=words(body, "authority", needed=True),
        reference=words(body, "reference", needed=True),
        served_us=parts.context.now_us() if served is None else served,
        scope=tuple(_item(number, each) for number, each in enumerate(items, 1)),
        order_sha256=words(body, "order_sha256"),
        resolve=mode == "resolved",
        all_sharers=flag(body, "all_sharers"),
        expires_us=instant(body, "expires"),
        review_by_us=instant(body, "review_by"),
        confidential=flag(body, "confidential", default=True),
    )
    return _answer(parts, parts.desk.place(_actor(asked), draft, words(body, "request_id")))


def approve(parts: Parts, asked: Asked) -> dict[str, Any]:
    """Approve what waits: the hold, its extension or its release."""
    asked.fields()
    name = asked.path["id"]
    role: str = asked.role
    if parts.desk.hold(name).all_sharers and Role.DPO in asked.person.roles:
        role = Role.DPO  # which alone may, where a person has both roles
    return _answer(parts, parts.desk.approve(Actor(asked.person.name, str(role)), name))


def reject(parts: Parts, asked: Asked) -> dict[str, Any]:
    """Reject what waits."""
    body = asked.fields("reason")
    reason = words(body, "reason") or "rejected"
    return _answer(parts, parts.desk.reject(_actor(asked), asked.path["id"], reason))


def extend(parts: Parts, asked: Asked) -> dict[str, Any]:
    """Ask for a later expiry; null for none."""
    body = asked.fields("expires")
    if "expires" not in body:
        raise bad("expires: an instant, or null for no expiry at all")
    expires = instant(body, "expires")
    return _answer(parts, parts.desk.extend(_actor(asked), asked.path["id"], expires))


def cancel_extension(parts: Parts, asked: Asked) -> dict[str, Any]:
    """Take a request for an extension back."""
    asked.fields()
    return _answer(parts, parts.desk.cancel_extension(_actor(asked), asked.path["id"]))


def review(parts: Parts, asked: Asked) -> dict[str, Any]:
    """Say that the hold was looked at, and by when it is to be looked at again."""
    review_by = instant(asked.fields("review_by"), "review_by")
    if review_by is None:
        raise bad("review_by: an instant is needed")
    return _answer(parts, parts.desk.review(_actor(asked), asked.path["id"], review_by))


def release(parts: Parts, asked: Asked) -> dict[str, Any]:
    """Ask for the release."""
    reason = words(asked.fields("reason"), "reason", needed=True)
    return _answer(parts, parts.desk.release(_actor(asked), asked.path["id"], reason))


def cancel_release(parts: Parts, asked: Asked) -> dict[str, Any]:
    """Call a release off."""
    asked.fields()
    return _answer(parts, parts.desk.cancel_release(_actor(asked), asked.path["id"]))


def _answer(parts: Parts, hold: Hold) -> dict[str, Any]:
    return hold_json(hold, parts.context.now_us())


def _actor(asked: Asked) -> Actor:
    return Actor(asked.person.name, str(asked.role))


def _item(number: int, raw: Any) -> ScopeItem:
    """One identifier of a body. Its value stands in no error: texts reach logs."""
    where = f"identifier {number}"
    if not isinstance(raw, Mapping) or raw.keys() - set(_ITEM):
        raise bad(f"{where}: an object with {', '.join(_ITEM)}")
    kind, value, classes = raw.get("kind"), raw.get("value"), raw.get("classes") or []
    if not isinstance(kind, str) or not isinstance(value, str):
        raise bad(f"{where}: kind and value are texts")
    if not isinstance(classes, list) or not all(isinstance(each, str) for each in classes):
        raise bad(f"{where}: classes is a list of texts")
    start = instant(raw, "from", f"{where}: from")
    end = instant(raw, "to", f"{where}: to")
    if start is None:
        raise bad(f"{where}: from is missing")
    try:
        ports = _ports(raw.get("ports"))
        return scope.parse(kind, value, start, NEVER if end is None else end, classes, ports)
    except ScopeError as error:
        raise ScopeError(f"{where}: {error.text}") from None


def _ports(raw: Any) -> tuple[int, int]:
    if raw is None:
        return ALL_PORTS
    if isinstance(raw, list) and len(raw) == 2 and all(type(each) is int for each in raw):
        return raw[0], raw[1]
    raise ScopeError("ports: a list of two numbers")


ROUTES: Final = (
    Route("GET", "/v1/holds", "hold.list", list_holds),
    Route("POST", "/v1/holds", "hold.place", place),
    Route("GET", "/v1/holds/{id}", "hold.show", show),
    Route("GET", "/v1/holds/{id}/coverage", "hold.coverage", coverage),
    Route("POST", "/v1/holds/{id}/approve", "hold.approve", approve),
    Route("POST", "/v1/holds/{id}/reject", "hold.reject", reject),
    Route("POST", "/v1/holds/{id}/extend", "hold.extend", extend),
    Route("POST", "/v1/holds/{id}/cancel-extension", "hold.cancel-extension", cancel_extension),
    Route("POST", "/v1/holds/{id}/review", "hold.review", review),
    Route("POST", "/v1/holds/{id}/release", "hold.release", release),
    Route("POST", "/v1/holds/{id}/cancel-release", "hold.cancel-release", cancel_release),
)
