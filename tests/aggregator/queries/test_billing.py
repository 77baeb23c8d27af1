"""Bills on both engines, from batches that went through the real ingest, against plain sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from aggregator.queries import billing, late
from aggregator.queries.access import UNREPORTED
from aggregator.queries.arithmetic import parse_period
from aggregator.queries.export import export
from aggregator.store.client import Client
from tests.aggregator.queries.world import (
    DAY,
    HOUR,
    MINUTE,
    WINDOW,
    World,
    at,
    binding,
    call,
    gap,
    session,
    usage,
)
from tests.aggregator.support import S

pytestmark = pytest.mark.engine

NOV, DEC = at("2026-11-01"), at("2026-12-01")


def day_of(name: str, address: str, start: int) -> dict[str, list[dict[str, Any]]]:
    """A session and a binding from `start` to its midnight."""
    end = start // DAY * DAY + DAY
    return {
        "session": [session(name, start, end, number=start)],
        "binding": [binding(name, address, start, end)],
    }


def test_days_add_up_to_the_months_and_the_months_to_the_year(world: World) -> None:
    sent = {}
    for n, day in enumerate(["2026-10-31", "2026-11-01", "2026-11-15", "2026-11-30", "2026-12-01"]):
        start, address = at(day), f"10.1.0.{n}"
        rows = [
            usage(address, start + k * WINDOW, up=n * 1000 + k, down=7 * k) for k in (0, 100, 287)
        ]
        sent[day] = (sum(r["up_bytes"] for r in rows), sum(r["down_bytes"] for r in rows))
        world.send("sum", start + DAY, **day_of("sum-1", address, start), usage=rows)
    totals = {}
    for period in [*sent, "2026-10", "2026-11", "2026-12", "2026-10-31/2026-12-02"]:
        got = world.usage("sum-1", period)
        totals[period] = (got.totals["up_bytes"], got.totals["down_bytes"])
        assert got.totals["flows"] == 3 * len(got.parts)
    for day, expected in sent.items():
        assert totals[day] == expected
    months = [totals[name] for name in ("2026-10", "2026-11", "2026-12")]
    both = (sum(m[0] for m in months), sum(m[1] for m in months))
    assert totals["2026-10-31/2026-12-02"] == both
    assert totals["2026-11"] == tuple(
        sum(sent[day][n] for day in sent if day[5:7] == "11") for n in (0, 1)
    )
    parts = world.usage("sum-1", "2026-11").parts
    assert [row["part_us"] * 1000 for row in parts] == [
        at("2026-11-01"), at("2026-11-15"), at("2026-11-30")
    ]  # fmt: skip
    hours = world.usage("sum-1", "2026-11-15", "hour").parts
    assert [(r["part_us"] * 1000 - at("2026-11-15")) // HOUR for r in hours] == [0, 8, 23]
    assert sum(r["up_bytes"] for r in hours) == sent["2026-11-15"][0]


def test_who_is_not_known_used_nothing(world: World) -> None:
    got = world.usage("nobody", "2026-11")
    assert (got.parts, got.totals["up_bytes"], got.connected_us) == ([], 0, 0)
    assert got.coverage.completeness == 1.0
    assert world.sessions("nobody", "2026-11").sessions == []
    assert world.calls("nobody", "2026-11").calls == []
    assert world.usage("nobody", "1969-12").totals["up_bytes"] == 0
    assert "nobody" not in world.export("2026-11")


@pytest.mark.parametrize("name", ["", "x" * 513, "\udcff"])
def test_what_cannot_be_a_subscriber_is_refused_before_it_is_looked_up(
    world: World, name: str
) -> None:
    for ask in (world.usage, world.sessions, world.calls):
        with pytest.raises(ValueError, match="the subscriber reference"):
            ask(name, "2026-11")
    assert world.audit.lines == []


def test_names_are_values_and_never_sql(world: World) -> None:
    names = [
        "o'brien",
        "' OR '1'='1",
        "back\\slash",
        "\\' OR 1=1 --",
        "%(start)s %s %",
        "tab\tnew\nline",
        "naïve-用户-🛰",
        "=cmd|' /C calc'!A0",
        "n" * 512,
    ]
    start = at("2026-11-03")
    world.send(
        "names",
        start + HOUR,
        session=[session(name, start, start + DAY) for name in names],
        binding=[binding(x, f"10.2.0.{n}", start, start + DAY) for n, x in enumerate(names)],
        usage=[usage(f"10.2.0.{n}", start, up=n + 1) for n in range(len(names))],
    )
    exported = world.export("2026-11-03")
    for n, name in enumerate(names):
        assert world.usage(name, "2026-11-03").totals["up_bytes"] == n + 1
        assert exported[name]["up_bytes"] == n + 1
    asked = [line[1] for line in world.audit.lines if line[0].startswith("billing usage")]
    assert asked == names


def test_an_address_changes_hands_within_a_day(world: World) -> None:
    start, change = at("2026-11-04"), at("2026-11-04T12:00")
    world.send(
        "hands",
        start + DAY,
        session=[session("hand-1", start, change), session("hand-2", change, start + DAY)],
        binding=[
            binding("hand-1", "10.3.0.1", start, change),
            binding("hand-2", "10.3.0.1", change, start + DAY),
        ],
        usage=[
            usage("10.3.0.1", change - WINDOW, up=1),
            usage("10.3.0.1", change, up=10),
            # A row over both belongs to nobody: which part is whose cannot be known.
            usage("10.3.0.1", change - MINUTE, up=100),
        ],
    )
    assert world.usage("hand-1", "2026-11-04").totals["up_bytes"] == 1
    assert world.usage("hand-2", "2026-11-04").totals["up_bytes"] == 10
    exported = world.export("2026-11-04")
    assert (exported["hand-1"]["up_bytes"], exported["hand-2"]["up_bytes"]) == (1, 10)


def test_rows_stored_before_their_binding_are_found_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late, "MAX_ROWS", 3)
    monkeypatch.setattr(late, "_RANGES", 2)
    start = at("2026-11-05")
    v4 = [usage("10.4.0.1", start + k * WINDOW, up=1) for k in range(4)]
    other = [usage("10.4.0.2", start + k * WINDOW, up=1000) for k in range(4)]
    # The /56 of the subscriber, metered by /64.
    v6 = [usage(f"2001:db8:4:{k:x}::", start, up=10, length=64) for k in (0, 1, 0xFF)]
    beside = usage("2001:db8:4:100::", start, up=1000, length=64)
    waiting = [*v4, *other, *v6, beside]
    talk = call("10.4.0.1", start + MINUTE, 1234, number=1)
    foreign = call("10.4.0.2", start + MINUTE, 9999, number=2)
    world.send("late", start + HOUR, usage=waiting, call=[talk, foreign])
    held = {
        "session": [session("late-1", start, start + DAY)],
        "binding": [
            binding("late-1", "10.4.0.1", start, start + DAY),
            binding("late-1", "2001:db8:4::", start, start + DAY, length=56),
        ],
    }
    assert world.usage("late-1", "2026-11-05").totals["up_bytes"] == 0
    world.send("elsewhere", start + HOUR, **held)  # another router's addresses prove nothing
    assert world.usage("late-1", "2026-11-05").totals["up_bytes"] == 0
    world.send("late", start + 2 * HOUR, **held, usage=[usage("10.4.0.1", start + HOUR, up=5)])
    got = world.usage("late-1", "2026-11-05")
    assert (got.totals["up_bytes"], got.totals["flows"], got.bounded_rows) == (39, 8, 0)
    assert [row["up_bytes"] for row in world.usage("late-1", "2026-11-05", "hour").parts] == [34, 5]
    said = world.calls("late-1", "2026-11-05")
    assert (said.answered, said.talk_ms) == (1, 1234)
    row = world.export("2026-11-05")["late-1"]
    assert (row["up_bytes"], row["calls_answered"], row["talk_ms"]) == (39, 1, 1234)
    # Every row is given to one subscriber only, all of them and one by one.
    span = parse_period("2026-11-05")
    everyone = list(late.late_rows(world.client, "usage", span))
    mine = list(late.late_rows(world.client, "usage", span, "late-1"))
    assert len(mine) == 7
    assert [each for each in everyone if each[0] == "late-1"] == mine


def test_a_call_written_before_and_after_its_binding_counts_once(world: World) -> None:
    start = at("2026-11-06")
    first = call("10.5.0.1", start + HOUR, 1000, number=1)
    world.send("twice", start + 2 * HOUR, call=[first])
    newer = {**first, "talk_ms": 2000, "observed_ns": first["observed_ns"] + 1}
    world.send("twice", start + 3 * HOUR, **day_of("twice-1", "10.5.0.1", start), call=[newer])
    said = world.calls("twice-1", "2026-11-06")
    assert (len(said.calls), said.talk_ms) == (1, 2000)
    assert world.export("2026-11-06")["twice-1"]["talk_ms"] == 2000


def test_rows_past_their_binding_are_billed_and_counted(world: World) -> None:
    start, end = at("2026-11-07"), at("2026-11-07T10:02")
    world.send(
        "bound",
        start + DAY,
        session=[session("bound-1", start, end)],
        binding=[binding("bound-1", "10.6.0.1", start, end)],
        usage=[usage("10.6.0.1", start), usage("10.6.0.1", end - 2 * MINUTE)],
    )
    got = world.usage("bound-1", "2026-11-07")
    assert (got.totals["up_bytes"], got.bounded_rows) == (200, 1)


def test_several_collectors_add_up_and_overlaps_are_one_time(world: World) -> None:
    start = at("2026-11-08")
    for n, collector in enumerate(("two-a", "two-b")):
        begin, end = start + n * 6 * HOUR, start + (12 + n * 6) * HOUR
        world.send(
            collector,
            start + DAY,
            session=[session("two-1", begin, end, number=n)],
            binding=[binding("two-1", "10.7.0.1", begin, end)],
            usage=[usage("10.7.0.1", begin, up=10**n)],
            gap=[gap(start + 6 * HOUR, start + 7 * HOUR, "usage")] if n == 0 else [],
        )
    got = world.usage("two-1", "2026-11-08")
    assert got.totals["up_bytes"] == 11
    assert got.connected_us == 18 * HOUR // 1000
    # Twelve hours are expected of each, of which one collector lost one.
    assert got.coverage.completeness == pytest.approx(23 / 24)
    assert world.calls("two-1", "2026-11-08").coverage.completeness == 1.0


def test_a_session_over_midnights_is_one_session(world: World) -> None:
    start, end = at("2026-11-29T18:00"), at("2026-12-02T06:00")
    parts = [start, *(at(day) for day in ("2026-11-30", "2026-12-01", "2026-12-02")), end]
    for n, (begin, until) in enumerate(zip(parts, parts[1:], strict=False)):
        ends: dict[str, Any] = (
            {"end_reason": "stated", "terminate_cause": 1} if until == end else {}
        )
        row = session("long", start, until, slice_start=begin, down_octets=1000 * (n + 1), **ends)
        opened = session("long", start, 0, slice_start=begin, version=-1)
        world.send("long", until + WINDOW, session=[opened, row])
    november, december = world.sessions("long", "2026-11"), world.sessions("long", "2026-12")
    (one,), (other,) = november.sessions, december.sessions
    assert one["start_us"] == other["start_us"] == start // 1000
    assert (november.connected_us, december.connected_us) == (
        30 * HOUR // 1000, 30 * HOUR // 1000
    )  # fmt: skip
    assert (other["end_min_us"], other["end_reason"]) == (end // 1000, "stated")
    assert (other["down_octets"], other["terminate_cause"], other["open"]) == (4000, 1, False)
    assert world.usage("long", "2026-11-30").connected_us == DAY // 1000
    assert world.sessions("long", "2026-12-03").sessions == []
    assert "long" not in world.export("2026-12-03")


def test_a_slice_that_was_withdrawn_says_nothing(world: World) -> None:
    start, end, midnight = at("2026-11-09T20:00"), at("2026-11-09T23:50"), at("2026-11-10")
    opened = session("gone", start, 0, slice_start=midnight)
    world.send("gone", midnight + WINDOW, session=[session("gone", start, midnight), opened])
    stated: dict[str, Any] = {"end_reason": "stated", "version": 9}
    closed = session("gone", start, end, **stated)
    closed["observed_ns"] = midnight + HOUR
    withdrawn = session("gone", start, midnight, slice_start=midnight, **stated)
    withdrawn["observed_ns"] = midnight + HOUR
    world.send("gone", midnight + HOUR, session=[closed, withdrawn])
    (row,) = world.sessions("gone", "2026-11").sessions
    assert (row["end_min_us"], row["end_reason"]) == (end // 1000, "stated")
    assert world.sessions("gone", "2026-11-10").sessions == []
    assert world.usage("gone", "2026-11").connected_us == (end - start) // 1000


def test_an_open_session_counts_as_far_as_is_known(world: World) -> None:
    start, mark = at("2026-12-18T06:00"), at("2026-12-18T18:00")
    world.now_ns = at("2026-12-19T00:00")
    held = {
        "session": [session("open-1", start, proof=start + HOUR)],
        "binding": [binding("open-1", "10.8.0.1", start)],
    }
    world.send("open", mark, **held, usage=[usage("10.8.0.1", mark - WINDOW)])
    got = world.usage("open-1", "2026-12-18")
    assert got.connected_us == 12 * HOUR // 1000  # up to the last window, not to the question
    assert got.coverage.completeness == pytest.approx(12 / 18)
    assert got.coverage.complete_until_us == mark // 1000
    assert world.sessions("open-1", "2026-12-18").sessions[0]["open"] is True
    # A collector silent for days: nothing is known, so nothing is complete.
    world.now_ns = at("2026-12-23")
    silent = world.usage("open-1", "2026-12-22")
    assert (silent.connected_us, silent.coverage.completeness) == (0, 0.0)
    assert world.export("2026-12-22")["open-1"]["completeness"] == 0.0
    # It comes back and closes the session.
    end = mark + 2 * HOUR
    world.send("open", at("2026-12-23"), session=[session("open-1", start, end)])
    got = world.usage("open-1", "2026-12")
    assert (got.connected_us, got.coverage.completeness) == (14 * HOUR // 1000, 1.0)


def test_a_slice_that_its_collector_forgot_ends_at_its_last_proof(world: World) -> None:
    start, proof = at("2026-11-11T06:00"), at("2026-11-11T09:00")
    held = {
        "session": [session("lost-1", start, proof=proof)],
        "binding": [binding("lost-1", "10.9.0.1", start)],
    }
    world.send("forgot", proof, **held)
    for day in ("2026-11-12", "2026-11-13"):  # the address has a row, yet nobody holds it
        world.send("forgot", at(day) + HOUR, usage=[usage("10.9.0.1", at(day))])
    got = world.usage("lost-1", "2026-11")
    assert (got.connected_us, got.totals["up_bytes"]) == (3 * HOUR // 1000, 0)
    (row,) = world.sessions("lost-1", "2026-11").sessions
    assert (row["open"], row["end_reason"]) == (False, UNREPORTED)
    assert world.usage("lost-1", "2026-11-12").totals == got.totals


def test_the_newest_version_counts_whatever_the_order(world: World) -> None:
    start = at("2026-11-12")
    versions = [
        session("version", start, start + n * HOUR, version=n, up_octets=n) for n in (3, 1, 2)
    ]
    for row in versions:
        row["observed_ns"] = start + row["up_octets"] * S
        world.send("version", start + DAY, session=[row])
    (got,) = world.sessions("version", "2026-11-12").sessions
    assert (got["up_octets"], got["connected_us"]) == (3, 3 * HOUR // 1000)


def test_gaps_count_for_their_class_and_collector_and_overlaps_once(world: World) -> None:
    start = at("2026-11-13")
    gaps = [
        gap(start + 1 * HOUR, start + 3 * HOUR, "usage,visit"),
        gap(start + 2 * HOUR, start + 4 * HOUR, "usage", "overrun"),
        gap(start + 2 * HOUR, start + 4 * HOUR, "usages", "no-such-class"),
        gap(start + 20 * HOUR, start + 21 * HOUR, "usage"),  # nobody was on the network then
        gap(start + 5 * HOUR, start + 6 * HOUR, "call"),
        gap(start - 2 * DAY, start + HOUR, "session", "down"),  # began long before
    ]
    held = {
        "session": [session("gaps-1", start, start + 12 * HOUR)],
        "binding": [binding("gaps-1", "10.10.0.1", start, start + 12 * HOUR)],
    }
    world.send("gaps", start + DAY, **held, gap=gaps)
    world.send("gaps-other", start + DAY, gap=[gap(start, start + DAY, "usage,call,session")])
    used = world.usage("gaps-1", "2026-11-13").coverage
    assert used.completeness == pytest.approx(9 / 12)
    assert [row["reason"] for row in used.losses] == ["kernel-drop", "overrun", "kernel-drop"]
    assert used.complete_until_us == (start + DAY) // 1000
    assert world.calls("gaps-1", "2026-11-13").coverage.completeness == pytest.approx(11 / 12)
    assert world.sessions("gaps-1", "2026-11-13").coverage.completeness == pytest.approx(11 / 12)
    assert world.export("2026-11-13")["gaps-1"]["completeness"] == used.completeness


def test_an_instant_of_loss_is_not_complete(world: World) -> None:
    start = at("2026-11-14")
    moment = gap(start + HOUR, start + HOUR + 1, "usage")
    held = {"session": [session("instant", start, start + DAY)]}
    world.send("instant", start + DAY, **held, gap=[moment])
    assert 0.999 < world.usage("instant", "2026-11-14").coverage.completeness < 1.0


def test_calls_in_order_with_totals_and_withheld_numbers(world: World) -> None:
    start = at("2026-11-15")
    hidden = {"presentation": "restricted"}
    sent = [
        call("10.11.0.1", start + 3 * HOUR, 61_500, number=3),
        call("10.11.0.1", start + 1 * HOUR, number=1),
        call("10.11.0.1", start + 2 * HOUR, 500, number=2, direction="in", **hidden),
        call("10.11.0.1", start + 4 * HOUR, 700, number=4, direction="out", **hidden),
        call("10.11.0.1", start + DAY, 10**6, number=5),  # the next day's
    ]
    world.send("calls", start + DAY, **day_of("calls-1", "10.11.0.1", start), call=sent)
    got = world.calls("calls-1", "2026-11-15")
    assert [row["start_us"] * 1000 - start for row in got.calls] == [n * HOUR for n in range(1, 5)]
    assert (got.answered, got.talk_ms) == (3, 62_700)
    numbers = [(row["a_raw"], row["a_e164"]) for row in got.calls]
    assert numbers[1] == ("", "")  # to the called party
    assert numbers[3] == ("+441632960001",) * 2  # to the caller it is the own number
    row = world.export("2026-11-15")["calls-1"]
    assert (row["calls_answered"], row["talk_ms"]) == (3, 62_700)


def test_hourly_versions_and_two_collectors_make_one_call(world: World) -> None:
    """The same record from both, and the final one after two of a call that goes on."""
    start = at("2026-11-16")
    final = call("10.12.0.1", start + HOUR, 9_000_000, number=1)
    seen = final["observed_ns"]
    for collector, ahead in (("tap-a", 0), ("tap-b", 70_000)):
        held = day_of("long-1", "10.12.0.1", start)
        world.send(collector, start + 3 * HOUR, **held, call=[])
        for hour in (1, 2):
            talk = {"talk_ms": hour * 3_000_000, "partial": hour, "end_max_ns": 0}
            version = {**final, **talk, "observed_ns": seen + hour * HOUR + ahead}
            world.send(collector, start + (3 + hour) * HOUR, call=[version])
    open_call = world.calls("long-1", "2026-11-16")
    assert [(row["talk_ms"], row["partial"]) for row in open_call.calls] == [(6_000_000, 2)]
    for collector in ("tap-a", "tap-b"):
        ended = {**final, "partial": 0, "observed_ns": seen + 3 * HOUR}
        world.send(collector, start + 6 * HOUR, call=[ended])
    got = world.calls("long-1", "2026-11-16")
    assert [(row["talk_ms"], row["partial"]) for row in got.calls] == [(9_000_000, 0)]
    assert (got.answered, got.talk_ms) == (1, 9_000_000)
    assert world.export("2026-11-16")["long-1"]["talk_ms"] == 9_000_000


def test_every_look_up_leaves_a_line_with_its_period(world: World) -> None:
    world.usage("nobody", "2026-11")
    world.sessions("nobody", "2026-11-02")
    world.calls("nobody", "2026-11")
    world.export("2026-11")
    assert world.audit.lines == [
        ("billing usage 2026-11", "nobody", ""),
        ("billing sessions 2026-11-02", "nobody", ""),
        ("billing calls 2026-11", "nobody", ""),
        ("billing export 2026-11", "", ""),
    ]


def test_no_line_no_answer(world: World) -> None:
    class Full:
        def looked_up(self, what: str, subject: str, reference: str) -> None:
            raise OSError(28, "No space left on device")

    class Untouched:
        def query_columns(self, *given: object) -> dict[str, list[object]]:
            raise AssertionError("asked before the look-up was recorded")

    span = parse_period("2026-11")
    for ask in (billing.usage, billing.sessions, billing.calls):
        with pytest.raises(OSError, match="No space"):
            ask(Untouched(), "sub", span, 0, Full())


@pytest.mark.parametrize("period", ["2026-11-05/2026-11-12", "2026-11-28/2026-12-03"])
@pytest.mark.parametrize("chunk", [1000, 3])
def test_the_export_is_the_single_answers(
    world: World, period: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over everything that the other tests left behind."""
    monkeypatch.setattr("aggregator.queries.export.CHUNK", chunk)
    found = world.export(period)
    assert list(found) == sorted(found, key=str.encode)
    assert found or world.store.count("session") == 0
    if chunk != 1000:
        return
    for name, row in found.items():
        used, said = world.usage(name, period), world.calls(name, period)
        assert row == {
            "subscriber": name,
            "period": period,
            "up_bytes": used.totals["up_bytes"],
            "down_bytes": used.totals["down_bytes"],
            "connected_s": used.connected_us / 1e6,
            "calls_answered": said.answered,
            "talk_ms": said.talk_ms,
            "completeness": min(used.coverage.completeness, said.coverage.completeness),
        }


class Counting:
    """A reader that keeps how many rows the engine says it read for each statement."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.read: dict[str, int] = {}

    def query_columns(
        self, sql: str, params: Mapping[str, Any], settings: Mapping[str, Any] | None = None
    ) -> dict[str, list[Any]]:
        found = self.client.query_columns(sql, params, settings)
        self.read[sql] = self.client._connected().last_query.progress.rows
        return found


def test_only_the_partitions_of_a_period_are_read(world: World) -> None:
    """Long after everything else, ten days with a row each in every table."""
    for day in range(1, 11):
        start = at(f"2027-03-{day:02d}")
        world.send(
            "prune",
            start + DAY,
            **day_of("prune", "10.12.0.1", start),
            usage=[usage("10.12.0.1", start), usage("10.12.9.9", start)],
            call=[call("10.12.0.1", start, 5)],
        )
    world.now_ns = at("2027-03-20")
    span, now_us = parse_period("2027-03-05"), world.now_ns // 1000
    reader = Counting(world.client)
    assert billing.usage(reader, "prune", span, now_us, world.audit).totals["up_bytes"] == 100
    assert billing.sessions(reader, "prune", span, now_us, world.audit).connected_us == DAY // 1000
    assert billing.calls(reader, "prune", span, now_us, world.audit).talk_ms == 5
    assert [row["subscriber"] for row in export(reader, span, now_us, world.audit)] == ["prune"]
    # Months hold twenty rows of usage and ten of the ledger, days one of each other table; only
    # gaps, which may have begun at any time, are read from the beginning.
    assert {sql: n for sql, n in reader.read.items() if n > 24 and "FROM gap" not in sql} == {}
    for table in ("usage", "session", "ingest_ledger"):
        everything = f"SELECT count(time) AS n FROM {table} WHERE time > toDateTime(1, 'UTC')"
        reader.query_columns(everything, {})
        assert reader.read[everything] > 40, "the limit proves nothing"
