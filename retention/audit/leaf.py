"""The leaf kinds, version 1, and the check that a leaf is one of them, field for field.

Every leaf has `v` (1), `kind` and `at` (microseconds since 1970, UTC) and exactly the fields of
its kind. A field's type is a name of `SCALARS` or `OBJECTS`; "?" after it allows null and "[…]"
is a list. Personal data can only be a `commitment`; staff are commitments too, one for each person
for good, so that a reader sees who is the same without learning who it is.

What the writer owes the replay (`replay.py`), so that the log alone can be judged:
- `generation` counts the changes to what is held. Each hold leaf except `hold.evidence`,
  `hold.reviewed`, `hold.extension-*` and `hold.release-*` raises it by one; these carry it.
- `hold.extended` follows the `hold.extension-requested` of the same person and date.
- A partition is named after its clock day or month ("20261122", "202611"), and [start, end) are
  those days. Its rows may cover more: [earliest, latest) is from the first instant that any of
  them covers, at most `start`, to the first after what any covers, at least `end`. Holds meet a
  partition on [earliest, latest).
- `retain_until` is the period after the first instant of the partition's last clock day.
  `partition.seen` stands before its first intent, and again when span or period changed.
- Before `purge.intent`, each active hold of that class whose interval meets [earliest, latest)
  has a `hold.evidence` for the partition, counted apart from the purge, after the partition was
  closed for writing (retain-until) and after the hold last grew; rows may be 0.
- `purge.preserved.holds` and the certificates list each such hold that has rows.
- A purge that has logged what it preserved is ended (dropped or failed), after a crash too, before
  a leaf that raises the generation, another intent, a late sweep, or a policy that lengthens its
  period: all of them take the same lock.
- A purge has one pending certificate at most, then one final one, within 31 days of its drop. The
  leaf's `digest` is the SHA-256 of the file under `certificates/` (`sealed.py`).
- `hold.evidence` counts rows where they live and in the vault together, each identity once.
- `late.swept` counts as preserved the rows that the sweep adds to the vault; a copy of a row that
  is kept elsewhere counts as destroyed. It stands before the rows are dropped.
- After 31 days without any leaf nothing is destroyed before a trusted `clock.step`: a clock that
  jumped ahead looks like that.
- `at` never goes back but in `clock.step`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from retention.audit.canonical import MAX_INTEGER, Leaf

VERSION: Final = 1
MAX_ITEMS: Final = 400
"""Items of one list: as many held roots of 150 bytes as an entry of 65,535 bytes can take."""
_LATEST_US: Final = 4_102_444_800_000_000
"""The year 2100: a time beyond it is a broken clock, or a time in another unit."""


class LeafError(ValueError):
    """A leaf that is of no known kind, or not as its kind is."""


def _matches(pattern: str) -> Callable[[Any], bool]:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _integer(most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 <= value <= most


SCALARS: Final[dict[str, Callable[[Any], bool]]] = {
    "id": _matches(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}"),  # of a hold, class, partition, purge
    "code": _matches(r"[a-z0-9][a-z0-9.-]{0,63}"),  # one of a fixed set of words
    "commitment": _matches(r"[0-9a-f]{64}"),  # commit.py
    "digest": _matches(r"[0-9a-f]{64}"),  # SHA-256 or Merkle root
    "keyid": _matches(r"[0-9a-f]{8}"),
    "mark": _matches(r"[0-9a-f]{32}"),  # of a release or a mechanism: sixteen bytes of BLAKE2b
    "vkey": _matches(r"[\x21-\x2a\x2c-\x7e]{1,200}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44}"),
    "name": _matches(r"[\x21-\x2a\x2c-\x7e]{1,200}"),
    "count": _integer(MAX_INTEGER),
    "time": _integer(_LATEST_US),
    "bool": lambda value: isinstance(value, bool),
    "store": lambda value: value in ("live", "vault"),
}

OBJECTS: Final[dict[str, dict[str, str]]] = {
    # Kept for `months` calendar months and then `days` days from the clock's start.
    "period": {"class": "id", "months": "count", "days": "count"},
    # One identifier in [from, to); `resolved` if it came from binding history.
    "scope": {
        "kind": "code",
        "value": "commitment",
        "from": "time",
        "to": "time",
        "classes": "[id]",
        "resolved": "bool",
    },
    # What one hold keeps of one partition: rows, and the salted Merkle root over them.
    "held": {"hold": "id", "rows": "count", "root": "digest"},
}

_HOLD: Final = {"hold": "id", "generation": "count"}
_APPROVED: Final = _HOLD | {"approver": "commitment", "role": "code"}
_ACTED: Final = _HOLD | {"actor": "commitment", "role": "code"}
_COUNTS: Final = {"rows_before": "count", "preserved": "count", "destroyed": "count"}
_PLACE: Final = {"class": "id", "partition": "id"}
_SPAN: Final = _PLACE | {"start": "time", "end": "time", "earliest": "time", "latest": "time"}
_CERTIFICATE: Final = (
    {"purge": "id", "digest": "digest", "policy": "digest", "generation": "count"}
    | _COUNTS
    | {"holds": "[held]"}
)

KINDS: Final[dict[str, dict[str, str]]] = {
    # The log itself.
    "genesis": {"origin": "name", "key": "vkey"},
    "heartbeat": {"generation": "count", "holds": "count"},
    # `actor`: who confirmed the clock; null where the service found it by itself.
    "clock.step": {
        "delta": "count",
        "backward": "bool",
        "trusted": "bool",
        "reason": "code",
        "actor": "commitment?",
    },
    "config.changed": {"digest": "digest", "actor": "commitment?"},
    "witness.enrolled": {"key": "vkey", "actor": "commitment"},
    "witness.cosigned": {"size": "count", "keyid": "keyid", "digest": "digest"},
    # Policy and what it applies to. `partition.seen` again when the policy changes its period.
    "policy.loaded": {"digest": "digest", "periods": "[period]"},
    "partition.seen": _SPAN | {"retain_until": "time", "policy": "digest"},
    # Holds.
    "hold.submitted": _HOLD
    | {
        "requester": "commitment",
        "role": "code",
        "basis": "code",
        "order": "digest?",
        "scope": "[scope]",
        "all_sharers": "bool",
        "expires": "time?",
        "review_by": "time?",
    },
    "hold.grown": _HOLD | {"scope": "[scope]"},
    "hold.approved": _APPROVED,
    "hold.rejected": _APPROVED | {"reason": "code"},
    "hold.lapsed": _HOLD,
    "hold.reviewed": _ACTED | {"review_by": "time"},
    "hold.extension-requested": _HOLD
    | {"requester": "commitment", "role": "code", "expires": "time?"},
    "hold.extension-rejected": _APPROVED | {"reason": "code"},
    "hold.extension-cancelled": _ACTED,
    "hold.extended": _HOLD
    | {"requester": "commitment", "approver": "commitment", "expires": "time?"},
    "hold.preserved": _HOLD,
    "hold.unavailable": _HOLD | {"purges": "[id]"},
    "hold.release-requested": _HOLD | {"requester": "commitment", "role": "code"},
    "hold.release-approved": _APPROVED,
    "hold.release-cancelled": _ACTED,
    "hold.released": _HOLD,
    "hold.expired": _HOLD,
    "hold.evidence": _HOLD | _PLACE | {"rows": "count", "root": "digest"},
    # Destruction. `holds` of an intent is how many active holds the partition meets.
    "purge.intent": _SPAN
    | {
        "purge": "id",
        "store": "store",
        "retain_until": "time",
        "generation": "count",
        "policy": "digest",
        "holds": "count",
    },
    "purge.preserved": {
        "purge": "id",
        "generation": "count",
        "rows_before": "count",
        "rows": "count",
        "digest": "digest",
        "holds": "[held]",
    },
    "purge.dropped": {"purge": "id", "generation": "count", "rows": "count"},
    "purge.certificate-pending": _CERTIFICATE | {"waiting": "[code]"},
    "purge.certificate-final": _CERTIFICATE | {"backups": "count"},
    "purge.failed": {"purge": "id", "step": "code", "reason": "code"},
    "late.swept": _SPAN | {"generation": "count"} | _COUNTS | {"holds": "[held]"},
    # Rows of a partition that a purge destroyed are there again; the next leaf sweeps them.
    "restore.found": _PLACE | {"purge": "id", "rows": "count"},
    # SafeGuard. `budget` is of a household-day of `day` microseconds, in millionths of ε. A window
    # is a row of the privacy ledger: what its release told of a household at most. Each stands
    # once, whatever it says: a release that overspent is told of too, and found.
    "safeguard.budget": {"budget": "count", "day": "count"},
    "safeguard.window": {
        "release": "mark",
        "collector": "id",
        "mechanism": "mark",
        "marginal": "code",
        "start": "time",
        "end": "time",
        "l0": "count",
        "routers": "count",
        "scale_num": "count",
        "scale_den": "count",
        "epsilon": "count",
        "delta": "count",
        "restarts": "count",
        "rows": "count",
        "outcome": "code",
    },
    # People.
    "lookup": {
        "actor": "commitment",
        "role": "code",
        "what": "code",
        "subject": "commitment?",
        "reference": "commitment",
        "rows": "count?",
    },
    "refusal": {
        "actor": "commitment?",
        "role": "code?",
        "action": "code",
        "subject": "commitment?",
        "reason": "code",
    },
    "login.failed": {"actor": "commitment?", "way": "code", "reason": "code"},
}

_ENVELOPE: Final = {"v": "count", "kind": "code", "at": "time"}


_FIELDS: Final = {kind: _ENVELOPE | fields for kind, fields in KINDS.items()}


def check(leaf: Leaf) -> None:
    """Raise LeafError unless the leaf is of a known kind and exactly as that kind is."""
    if type(leaf.get("v")) is not int or leaf["v"] != VERSION:
        raise LeafError("a leaf of an unknown version")
    kind = leaf.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise LeafError("a leaf of an unknown kind")
    _check_object(leaf, _FIELDS[kind], kind)


def _check_object(value: Any, fields: dict[str, str], where: str) -> None:
    if not isinstance(value, dict):
        raise LeafError(f"{where}: not an object")
    if value.keys() != fields.keys():
        # Names of fields only: a value could be what must not stand in an error.
        odd = sorted(fields.keys() - value.keys()) or ["a field it should not have"]
        raise LeafError(f"{where}: wrong fields ({', '.join(odd)})")
    for name, kind in fields.items():
        scalar = SCALARS.get(kind)
        if scalar is None or not scalar(value[name]):
            _check_field(value[name], kind, where, name)


def _check_field(value: Any, kind: str, where: str, name: str) -> None:
    scalar = SCALARS.get(kind)
    if scalar:
        if not scalar(value):
            raise LeafError(f"{where}.{name}: not of type {kind}")
    elif kind.endswith("?"):
        if value is not None:
            _check_field(value, kind[:-1], where, name)
    elif kind.startswith("["):
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise LeafError(f"{where}.{name}: not a list of at most {MAX_ITEMS}")
        for item in value:
            _check_field(item, kind[1:-1], where, name)
    else:
        _check_object(value, OBJECTS[kind], f"{where}.{name}")
