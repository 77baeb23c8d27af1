"""Gaps: losses into the columns of the `gap` class and back, merged and bounded.

A loss can wait a long time for a batch that carries it (a full spool drops the batches that carried
earlier ones), so a list of losses has a limit, and at the limit neighbours become one that spans
both. Sums stay exact, places become coarser.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import pyarrow as pa

from collector.wire.batch import MAX_TIME_NS
from collector.wire.columns import Columns
from collector.wire.loss import Loss
from collector.wire.records import CLASSES, GAP, MAX_STRING_BYTES, record_id

MAX_LOSSES: Final = 1_000
"""Losses in one batch: three a second over a window of five minutes, 200 KB at most."""
UNKNOWN: Final = -1
_MAX_AMOUNT: Final = 2**63 - 1


def gap_columns(losses: Sequence[Loss], now_ns: int) -> Columns:
    """Columns of the `gap` class, one row a loss, after `merge`; `now_ns` is their observed_ns."""
    merged = merge(losses)
    return {
        "record_id": [_identity(loss) for loss in merged],
        "observed_ns": [now_ns] * len(merged),
        "start_ns": [loss.start_ns for loss in merged],
        "end_ns": [loss.end_ns for loss in merged],
        "stage": [loss.stage for loss in merged],
        "reason": [loss.reason for loss in merged],
        "amount": [loss.amount for loss in merged],
        "unit": [loss.unit for loss in merged],
        "classes": [",".join(loss.classes) for loss in merged],
        "scope": [loss.scope for loss in merged],
    }


def losses_of(batch: pa.RecordBatch) -> list[Loss]:
    """The losses of rows of the `gap` class."""
    names = ("start_ns", "end_ns", "stage", "reason", "amount", "unit", "classes", "scope")
    columns = [batch.column(name).to_pylist() for name in names]
    return [
        Loss(start, end, stage, reason, amount, unit, tuple(c for c in classes.split(",") if c), at)
        for start, end, stage, reason, amount, unit, classes, at in zip(*columns, strict=True)
    ]


def merge(losses: Iterable[Loss], limit: int = MAX_LOSSES) -> list[Loss]:
    """At most `limit` losses that say the same, in order of time, each with its own identity.

    Losses equal in stage, reason, interval, scope and unit become one with the sum. More than
    `limit` are joined with their neighbours in time of the same stage, reason, unit and scope;
    where even the kinds are too many, the rest becomes one loss of unknown amount.
    """
    kinds: dict[tuple[str, ...], list[Loss]] = {}
    for loss in sorted(map(_valid, losses), key=_order):
        kinds.setdefault((loss.stage, loss.reason, loss.unit, loss.scope), []).append(loss)
    for kind, same in kinds.items():
        kinds[kind] = _join_equal(same)
    total = sum(map(len, kinds.values()))
    while total > limit and total > len(kinds):
        # Halve the longest list of one kind, so that rare kinds keep their exact intervals.
        kind = max(kinds, key=lambda kind: len(kinds[kind]))
        before = len(kinds[kind])
        kinds[kind] = _halve(kinds[kind])
        total -= before - len(kinds[kind])
    result = [loss for same in kinds.values() for loss in same]
    if len(result) > limit:
        rest = result[limit - 1 :]
        scrap = replace(rest[0], reason="too-many-losses", amount=UNKNOWN, scope="collector")
        for loss in rest[1:]:
            scrap = replace(_join(scrap, loss), amount=UNKNOWN)
        result = [*result[: limit - 1], scrap]
    return sorted(_distinct(result), key=_order)


def loss_to_json(loss: Loss) -> dict[str, object]:
    """A loss as JSON values, for a journal."""
    return asdict(loss) | {"classes": list(loss.classes)}


def loss_from_json(fields: Mapping[str, Any]) -> Loss:
    """The loss of `loss_to_json`; raises ValueError where the fields are not one."""
    try:
        values = {name: fields[name] for name in ("stage", "reason", "unit", "scope")}
        times = {name: fields[name] for name in ("start_ns", "end_ns", "amount")}
        classes = tuple(fields["classes"])
    except (KeyError, TypeError):
        raise ValueError("not a loss") from None
    if not all(isinstance(value, str) for value in (*values.values(), *classes)):
        raise ValueError("not a loss")
    if not all(type(value) is int for value in times.values()):
        raise ValueError("not a loss")
    return Loss(**values, **times, classes=classes)


def _order(loss: Loss) -> tuple[int | str, ...]:
    """By time; those of the same interval by what tells them apart, so that the order in which
    they came, or are merged again, changes nothing."""
    return loss.start_ns, loss.end_ns, loss.stage, loss.reason, loss.unit, loss.scope


def _identity(loss: Loss) -> bytes:
    return record_id(GAP.name, *(getattr(loss, name) for name in GAP.key))


def _valid(loss: Loss) -> Loss:
    """The loss within the limits of its columns: a gap that cannot be written is worse."""
    start = min(max(loss.start_ns, 0), MAX_TIME_NS - 1)
    return Loss(
        start_ns=start,
        end_ns=min(max(loss.end_ns, start + 1), MAX_TIME_NS),  # an instant is one nanosecond
        stage=_text(loss.stage),
        reason=_text(loss.reason),
        amount=min(loss.amount, _MAX_AMOUNT) if loss.amount >= 0 else UNKNOWN,
        unit=_text(loss.unit),
        classes=tuple(name for name in CLASSES if name in loss.classes),
        scope=_text(loss.scope),
    )


def _text(value: str) -> str:
    return value.encode("ascii", "replace")[:MAX_STRING_BYTES].decode("ascii")


def _join(one: Loss, other: Loss) -> Loss:
    """Both as one: the span, the sum, the union."""
    known = one.amount >= 0 and other.amount >= 0
    return replace(
        one,
        start_ns=min(one.start_ns, other.start_ns),
        end_ns=max(one.end_ns, other.end_ns),
        amount=min(one.amount + other.amount, _MAX_AMOUNT) if known else UNKNOWN,
        classes=tuple(name for name in CLASSES if name in one.classes + other.classes),
    )


def _join_equal(same: list[Loss]) -> list[Loss]:
    joined: list[Loss] = []
    for loss in same:
        last = joined[-1] if joined else None
        if last and (last.start_ns, last.end_ns) == (loss.start_ns, loss.end_ns):
            joined[-1] = _join(last, loss)
        else:
            joined.append(loss)
    return joined


def _halve(same: list[Loss]) -> list[Loss]:
    return [
        _join(same[i], same[i + 1]) if i + 1 < len(same) else same[i]
        for i in range(0, len(same), 2)
    ]


def _distinct(losses: Iterable[Loss]) -> list[Loss]:
    """Losses that differ in the unit alone would share a record_id: end one a nanosecond later."""
    seen: set[bytes] = set()
    result = []
    for loss in losses:
        while _identity(loss) in seen:
            loss = replace(loss, end_ns=loss.end_ns + 1)
        seen.add(_identity(loss))
        result.append(loss)
    return result
