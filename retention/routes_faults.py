"""`/v1/faults`: one line's timeline, with a leaf first; outages, which name nobody."""

from __future__ import annotations

from typing import Any, Final

from retention.routes_base import Asked, Parts, Route, bad, words

MIN_LINES: Final = 2
"""Fewer lines than that are one, which would be somebody's."""


def line(parts: Parts, asked: Asked) -> dict[str, Any]:
    """Sessions, ends with causes, failed calls, gaps and flaps of one subscriber."""
    body = asked.fields("subscriber", "period", "reference")
    subscriber = words(body, "subscriber", needed=True)
    period = words(body, "period", needed=True)
    reference = words(body, "reference") or "none given"
    try:
        answer = parts.answers.line(subscriber, period, parts.context.now_us())
    except ValueError as error:
        raise bad(str(error)) from None
    parts.lookup(asked, "faults.line", reference, len(answer["timeline"]), subscriber)
    return answer


def outages(parts: Parts, asked: Asked) -> dict[str, Any]:
    """Many lines of one port, NAS or area that ended together."""
    body = asked.fields("period", "lines", "share")
    least, share = body.get("lines", 5), body.get("share", 0.2)
    if type(least) is not int or not MIN_LINES <= least <= 1_000_000:
        raise bad(f"lines: a number from {MIN_LINES} on")
    if type(share) not in (int, float) or not 0 <= share <= 1:
        raise bad("share: from 0 to 1")
    try:
        return parts.answers.outages(words(body, "period", needed=True), least, float(share))
    except ValueError as error:
        raise bad(str(error)) from None


ROUTES: Final = (
    Route("POST", "/v1/faults/line", "faults.line", line, asks=True),
    Route("POST", "/v1/faults/outages", "faults.outages", outages, asks=True),
)
