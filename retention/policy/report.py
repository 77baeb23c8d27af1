"""A policy and the partitions there are in, what is due, late or changed out. Pure, plain data.

Days are UTC and written 2026-11-22; each begins at its midnight. All of it may show that a notice
is in force, so it is for those who may know (IPA 2016 s.95).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict

from retention.model import DAY_US, GRACE_US, OPEN_US, Partition, Purge
from retention.policy.model import Period, Policy, day_text, length_text
from retention.policy.partitions import outlasts, retain_until

TARGET_US: Final = 7 * DAY_US
"""From retain-until: later is lawful, until GRACE_US, but a sign that something hangs."""
NOTICE_US: Final = 30 * DAY_US
"""Before a notice ends: time to renew it, or to expect what will be destroyed."""

Stage = Literal["open", "closed", "due", "overdue"]


class Alarm(TypedDict):
    """Something that a person must look at: `code` for machines, `text` for people."""

    level: Literal["warning", "alarm"]
    code: str
    record_class: str
    text: str


class ClassReport(TypedDict):
    """One class now.

    Each partition is in one stage: open takes rows; closed takes none; due may be destroyed;
    overdue is past its 31 days. lateness_days: whole days for which the oldest partition could
    have been destroyed. earliness_days: begun days by which the worst purge came too early.
    """

    record_class: str
    period: str
    purpose: str
    clock: str
    oldest_day: str | None
    oldest_retain_until: str | None
    open: int
    closed: int
    due: int
    overdue: int
    rows: int
    lateness_days: int
    earliness_days: int


class Report(TypedDict):
    """The whole of it; `at` is ISO 8601, UTC, and `policy` the digest."""

    at: str
    policy: str
    classes: list[ClassReport]
    alarms: list[Alarm]


class Due(TypedDict):
    """A partition that a change of policy affects."""

    partition: str
    rows: int
    old_retain_until: str
    new_retain_until: str


class Change(TypedDict):
    """One class under two policies. Periods are null where the class is not wired.

    due: partitions that may be destroyed as soon as the new policy is in force, and not before.
    reopened: those the old policy closed or let destroy, and the new one would keep.
    """

    record_class: str
    old: str | None
    new: str | None
    change: Literal["same", "longer", "shorter", "new", "gone", "otherwise"]
    due: list[Due]
    reopened: list[Due]


class Diff(TypedDict):
    """terms: every other line that differs, by the path of its key."""

    old: str
    new: str
    classes: list[Change]
    terms: list[str]


def stage(until_us: int, now_us: int, since_us: int = 0) -> Stage:
    """Where a partition with this retain-until stands; `since_us` as in `report`."""
    if now_us < until_us:
        return "open"
    if now_us < until_us + OPEN_US:
        return "closed"
    return "due" if now_us <= max(until_us, since_us) + GRACE_US else "overdue"


def report(
    policy: Policy,
    partitions: Iterable[Partition],
    now_us: int,
    purges: Iterable[Purge] = (),
    shortened_us: Mapping[str, int] | None = None,
) -> Report:
    """What of each class is there, until when, and what is late or was early.

    partitions: the live ones, of any class. purges: those to be checked for earliness.
    shortened_us: for a class whose period became shorter, when it did: what became due by that
    has its grace from then, as in the audit log's replay.
    """
    by_class: dict[str, list[Partition]] = {name: [] for name in policy.periods()}
    unwired = set()
    for each in partitions:
        if each.place.record_class in by_class:
            by_class[each.place.record_class].append(each)
        else:
            unwired.add(each.place.record_class)
    done = [purge for purge in purges if purge.dropped_us]
    since = shortened_us or {}
    classes = [
        _class(policy, name, found, now_us, done, since.get(name, 0))
        for name, found in by_class.items()
    ]
    alarms = [
        _alarm("alarm", "unwired", name, "rows of a class without a policy")
        for name in sorted(unwired)
    ]
    for row in classes:
        alarms += _alarms(row, by_class[row["record_class"]], now_us)
    return {
        "at": _iso(now_us),
        "policy": policy.digest,
        "classes": classes,
        "alarms": [*alarms, *_ending(policy, now_us)],
    }


def early_us(purge: Purge, policy: Policy) -> int:
    """By how much a purge came before it was allowed; 0 if it did not.

    Under the policy in force the retain-until it stated is not believed but counted again.
    """
    until = purge.retain_until_us
    record_class = purge.partition.place.record_class
    if purge.policy == policy.digest and record_class in policy.classes:
        until = max(until, retain_until(purge.partition.place, policy.period(record_class)))
    return max(0, until + OPEN_US - purge.dropped_us)


def _class(
    policy: Policy,
    name: str,
    found: Sequence[Partition],
    now_us: int,
    purges: Sequence[Purge],
    since_us: int,
) -> ClassReport:
    period = policy.period(name)
    stages = [stage(retain_until(each.place, period), now_us, since_us) for each in found]
    oldest = min(found, key=lambda each: each.start_us, default=None)
    until = retain_until(oldest.place, period) if oldest else now_us
    early = [early_us(p, policy) for p in purges if p.partition.place.record_class == name]
    return {
        "record_class": name,
        "period": length_text(period.length),
        "purpose": period.purpose,
        "clock": period.clock,
        "oldest_day": day_text(_oldest_us(oldest)) if oldest else None,
        "oldest_retain_until": day_text(until) if oldest else None,
        "open": stages.count("open"),
        "closed": stages.count("closed"),
        "due": stages.count("due"),
        "overdue": stages.count("overdue"),
        "rows": sum(each.rows for each in found),
        "lateness_days": max(0, now_us - max(until + OPEN_US, since_us)) // DAY_US,
        "earliness_days": -(-max(early, default=0) // DAY_US),
    }


def _iso(at_us: int) -> str:
    at = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at_us)
    return at.isoformat()


def _oldest_us(partition: Partition) -> int:
    """An instant of the clock day of its oldest row: `earliest` may be before the clock starts."""
    return max(partition.start_us, min(partition.earliest_us, partition.end_us - 1))


def _alarms(row: ClassReport, found: Sequence[Partition], now_us: int) -> Iterator[Alarm]:
    name = row["record_class"]
    if row["earliness_days"]:
        text = f"destroyed {row['earliness_days']} day(s) before it was allowed"
        yield _alarm("alarm", "destroyed-early", name, text)
    if row["overdue"]:
        text = f"{row['overdue']} partition(s) kept more than 31 days past their period"
        yield _alarm("alarm", "kept-too-long", name, text)
    elif row["lateness_days"] * DAY_US + OPEN_US >= TARGET_US:
        text = f"waiting for destruction for {row['lateness_days']} day(s)"
        yield _alarm("warning", "late", name, text)
    future = sum(each.start_us > now_us + DAY_US for each in found)
    if future:
        text = f"{future} partition(s) of days to come: a clock was wrong, and they stay longer"
        yield _alarm("warning", "future", name, text)


def _ending(policy: Policy, now_us: int) -> Iterator[Alarm]:
    now = policy.at(now_us)
    for notice in now.notices:
        if notice.in_force(now_us) and notice.to_us <= now_us + NOTICE_US:
            after = now.at(notice.to_us)
            for name in notice.classes:
                if after.period(name).length != now.period(name).length:
                    text = (
                        f"notice {notice.id} ends on {day_text(notice.to_us)}: from then on kept"
                        f" for {length_text(after.period(name).length)}"
                    )
                    yield _alarm("warning", "notice-ending", name, text)


def _alarm(level: Literal["warning", "alarm"], code: str, name: str, text: str) -> Alarm:
    return {"level": level, "code": code, "record_class": name, "text": f"{name}: {text}"}


def diff(old: Policy, new: Policy, partitions: Iterable[Partition] = ()) -> Diff:
    """What the new policy changes, each as it is in force at its own `at_us`.

    So two files are compared at one time, and one file with itself across the end of a notice.
    What becomes due is so at `new.at_us`.
    """
    found = list(partitions)
    names = sorted(old.classes.keys() | new.classes.keys())
    before, after = _flat(old.plain()), _flat(new.plain())
    return {
        "old": old.digest,
        "new": new.digest,
        "classes": [_change(name, old, new, found) for name in names],
        "terms": [
            f"{key}: {before.get(key, '(nothing)')} -> {after.get(key, '(nothing)')}"
            for key in sorted(before.keys() | after.keys())
            if before.get(key) != after.get(key) and not key.startswith("periods.")
        ],
    }


def _change(name: str, old: Policy, new: Policy, partitions: Iterable[Partition]) -> Change:
    was, will = old.periods().get(name), new.periods().get(name)
    change: Change = {
        "record_class": name,
        "old": length_text(was.length) if was else None,
        "new": length_text(will.length) if will else None,
        "change": _kind(was, will),
        "due": [],
        "reopened": [],
    }
    if was is None or will is None or was.length == will.length:
        return change
    for each in partitions:
        if each.place.record_class != name:
            continue
        before, after = (retain_until(each.place, period) for period in (was, will))
        row: Due = {
            "partition": each.place.name,
            "rows": each.rows,
            "old_retain_until": day_text(before),
            "new_retain_until": day_text(after),
        }
        if after + OPEN_US <= new.at_us < before + OPEN_US:
            change["due"].append(row)
        elif before <= new.at_us < after:
            change["reopened"].append(row)
    return change


def _kind(
    was: Period | None, will: Period | None
) -> Literal["same", "longer", "shorter", "new", "gone", "otherwise"]:
    if was is None or will is None:
        return "gone" if will is None else "new"
    longer, shorter = outlasts(will.length, was.length), outlasts(was.length, will.length)
    if longer and shorter:
        return "same"
    return "longer" if longer else "shorter" if shorter else "otherwise"


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Every text in nested plain values by the path of its key."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        items = {each.get("id") or each["columns"][0]: each for each in value}.items()
    else:
        shown = ", ".join(value) if isinstance(value, list) else str(value)
        return {path.removeprefix("."): shown}
    flat: dict[str, str] = {}
    for key, each in items:
        flat |= _flat(each, f"{path}.{key}")
    return flat
