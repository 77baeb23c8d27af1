"""`/v1/lookup`: who had an address and port at a time, for legal staff and under a reference.

The audit leaf is written in one transaction with what is remembered of the answer, and before it
is given: no leaf, no answer. What is asked again later and answered otherwise shows that it is, and
what evidence has arrived since.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from retention.answers import iso, micros
from retention.held_rows import ORDERS, HeldRows, is_order
from retention.routes_base import (
    Asked,
    Parts,
    Refused,
    Route,
    Told,
    bad,
    instant,
    missing,
    words,
)
from retention.vault.tables import Names

MEMORY: Final = "lookup/"
MAX_REMEMBERED: Final = 5_000
"""Questions whose last answer is remembered, 200 bytes each; the oldest go."""
PROTOCOLS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "dccp": 33, "icmpv6": 58, "sctp": 132}
"""Words for numbers of the IANA registry of protocol numbers; a number does as well."""
_NUMBER: Final = re.compile(r"[0-9]{1,5}")
_MAX_TOLERANCE_S: Final = 3600.0


def who(parts: Parts, asked: Asked) -> dict[str, Any]:
    """Everybody who may have had it, each graded; the leaf first."""
    body = asked.fields("address", "port", "proto", "at", "tolerance_s", "reference", "hold")
    reference = words(body, "reference", needed=True)
    address = words(body, "address", needed=True)
    at_us = instant(body, "at")
    if at_us is None:
        raise bad("at: an instant with its zone is needed")
    if at_us > parts.context.now_us():
        raise bad("at: that is in the future")
    tolerance_us = int(_tolerance(body) * 1e6)
    port, protocol = _port(body), _protocol(body)
    kept = _kept(parts, body)
    try:
        told = parts.answers.who(address, port, protocol, at_us, tolerance_us, kept)
    except ValueError as error:
        raise bad(str(error)) from None
    plain = told.plain
    under = [kept.hold.id] if kept else []
    question = json.dumps([plain["address"], port, protocol, at_us, tolerance_us, *under])
    key = (
        MEMORY
        + hashlib.blake2b(question.encode(), key=parts.register.secret, digest_size=16).hexdigest()
    )
    earlier = parts.register.note(key)
    name = told.digest[:16]
    now_us = parts.context.now_us()
    parts.lookup(
        asked,
        "lookup",
        reference,
        told.count,
        f"{question} answer {name}",
        {**_forgotten(parts, key), key: json.dumps({"answer": name, "asked_us": now_us})},
    )
    answer = {"answer": name, "reference": reference, "answered": iso(now_us), **plain}
    held = {"hold": kept.hold.id if kept else None}
    return {**answer, **held, "earlier": _earlier(earlier, told, name)}


def _kept(parts: Parts, body: Mapping[str, Any]) -> HeldRows | None:
    """The rows of the hold that the look-up is made for; None where it is made for none."""
    id = words(body, "hold")
    if not id:
        return None
    hold = parts.register.hold(id)
    if hold is None:
        raise missing("hold: there is no hold with this number")
    if not is_order(hold):
        raise Refused(
            403,
            "not-an-order",
            f"the vault is looked up for a hold in force, approved, on {' or '.join(ORDERS)}",
        )
    return HeldRows(hold, Names(live=parts.config.engine.database))


def _earlier(note: str | None, told: Told, name: str) -> dict[str, Any] | None:
    """The last answer to the same question, and what has arrived since it was given."""
    if note is None:
        return None
    known = json.loads(note)
    return {
        "answer": known["answer"],
        "answered": iso(known["asked_us"]),
        "is_same": known["answer"] == name,
        "arrived_since": sorted(
            record
            for arrived, records in _evidence(told.plain)
            if arrived and micros(dt.datetime.fromisoformat(arrived)) > known["asked_us"]
            for record in records
        ),
    }


def _evidence(plain: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """When evidence of an answer arrived, and its records."""
    for each in plain["candidates"]:
        if mapping := each["mapping"]:
            yield mapping["arrived"], [mapping["record"]]
        if binding := each["binding"]:
            yield binding["arrived"], binding["records"]


def _forgotten(parts: Parts, key: str) -> dict[str, str | None]:
    """The oldest remembered answers, to be forgotten where there is no room for one more."""
    known = parts.register.notes(MEMORY)
    if key in known or len(known) < MAX_REMEMBERED:
        return {}
    oldest = min(known, key=lambda name: json.loads(known[name])["asked_us"])
    return {oldest: None}


def _port(body: Mapping[str, Any]) -> int | None:
    port = body.get("port")
    if port is None:
        return None
    if type(port) is not int or not 0 <= port <= 65_535:
        raise bad("port: a number from 0 to 65535")
    return port


def _protocol(body: Mapping[str, Any]) -> int | None:
    text = words(body, "proto").lower()
    if not text:
        return None
    number = PROTOCOLS.get(text, int(text) if _NUMBER.fullmatch(text) else -1)
    if not 0 <= number <= 255:
        raise bad(f"proto: {', '.join(PROTOCOLS)}, or a number to 255")
    return number


def _tolerance(body: Mapping[str, Any]) -> float:
    value = body.get("tolerance_s", 2)
    if type(value) not in (int, float) or not 0 <= value <= _MAX_TOLERANCE_S:
        raise bad("tolerance_s: seconds, from 0 to 3600")
    return float(value)


ROUTES: Final = (Route("POST", "/v1/lookup", "lookup.who", who, asks=True),)
