"""A NAS's count beside what was metered: the rule by hand, and from records on both engines."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.queries.answering import Answering
from aggregator.queries.export import OCTET_COLUMNS
from aggregator.queries.octets import FLOOR_BYTES, FRAMING_BYTES, compare
from aggregator.queries.who import Rules
from tests.aggregator.queries.world import (
    HOUR,
    MINUTE,
    WINDOW,
    World,
    at,
    binding,
    gap,
    session,
    usage,
)

NOON = at("2026-11-12T12:00")
MB = 1_000_000


def counted(up: int, down: int, start: int = 0, end: int = 1000) -> dict[str, Any]:
    return {"up_octets": up, "down_octets": down, "start_us": start, "end_min_us": end}


def metered(start: int, end: int, up: int, down: int, packets: int = 1000) -> dict[str, Any]:
    row = {"start_us": start, "end_us": end, "up_bytes": up, "down_bytes": down}
    return {**row, "up_packets": packets, "down_packets": packets}


LINE = [metered(0, 500, MB, 10 * MB), metered(500, 1000, MB, 10 * MB)]


@pytest.mark.parametrize(
    ("octets", "verdict"),
    [
        ((2 * MB, 20 * MB), "agrees"),
        ((2 * MB + 2000 * FRAMING_BYTES, 20 * MB), "agrees"),  # with every header there is
        ((2 * MB, 19 * MB), "less"),
        ((3 * MB, 20 * MB), "more"),
        ((3 * MB, 19 * MB), "differs"),
        ((20 * MB, 2 * MB), "swapped"),
        ((0, 1), "less"),
    ],
)
def test_verdicts(octets: tuple[int, int], verdict: str) -> None:
    assert compare(counted(*octets), LINE, is_whole=True).verdict == verdict
    # Where metering has losses, only what was metered and not counted is told.
    lossy = compare(counted(*octets), LINE, is_whole=False).verdict
    is_less = octets[0] < 1.9 * MB or octets[1] < 19.5 * MB
    assert lossy == ("less" if is_less else "unknown")


def test_a_report_amid_a_window_is_a_range() -> None:
    """What the last window carried before the report came is not known."""
    rows = [*LINE, metered(1000, 1500, 5 * MB, 5 * MB)]
    for up in (2 * MB, 4 * MB, 7 * MB):
        found = compare(counted(up, 20 * MB, end=1200), rows, is_whole=True)
        assert (found.verdict, found.least, found.most) == (
            "agrees", (2 * MB, 20 * MB), (7 * MB, 25 * MB),
        )  # fmt: skip
    assert compare(counted(8 * MB, 20 * MB, end=1200), rows, is_whole=True).verdict == "more"


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=20),
    st.integers(0, FRAMING_BYTES),
)
def test_an_honest_count_is_never_doubted(windows: list[tuple[int, int]], framing: int) -> None:
    """Whatever it carried, and whichever headers the NAS counts with it."""
    rows = [
        metered(n * 10, n * 10 + 10, up, down, packets=min(up, down) // 1500)
        for n, (up, down) in enumerate(windows)
    ]
    sums = [
        sum(row[f"{way}_bytes"] + row[f"{way}_packets"] * framing for row in rows)
        for way in ("up", "down")
    ]
    assert compare(counted(sums[0], sums[1], end=10 * len(rows)), rows, True).verdict == "agrees"


@pytest.mark.engine
def test_sessions_are_told_where_they_do_not_agree(world: World) -> None:
    name, ends = "octets-1", NOON + 20 * HOUR
    cases = {
        "agrees": (3 * MB, 30 * MB), "swapped": (30 * MB, 3 * MB), "more": (9 * MB, 30 * MB),
        "less": (3 * MB, MB), "uncounted": (0, 0), "unknown": (9 * MB, 30 * MB),
    }  # fmt: skip
    starts = {verdict: NOON + n * HOUR for n, verdict in enumerate(cases)}
    if not world.store.count("session", f"subscriber = '{name}'"):
        lines = [
            session(
                name, start, start + 20 * MINUTE, number=n, end_reason="stated",
                up_octets=cases[verdict][0], down_octets=cases[verdict][1],
            )
            for n, (verdict, start) in enumerate(starts.items())
        ]  # fmt: skip
        rows = [
            usage("10.90.0.1", start + k * WINDOW, up=MB, down=10 * MB, up_packets=20_000)
            for start in starts.values()
            for k in range(3)
        ]
        lost = [gap(starts["unknown"], starts["unknown"] + MINUTE, "usage")]
        held = [binding(name, "10.90.0.1", NOON, ends)]
        world.send("octets-edge", ends, session=lines, binding=held, usage=rows, gap=lost)
    told = world.sessions(name, "2026-11-12")
    found = {row["start_us"] * 1000: told.octets.get(row["session_id"]) for row in told.sessions}
    verdicts = {v: each.verdict if (each := found[at]) else None for v, at in starts.items()}
    assert verdicts == {**{v: v for v in cases}, "uncounted": None}
    swapped = found[starts["swapped"]]
    assert swapped is not None and swapped.least == swapped.most == (3 * MB, 30 * MB)
    exported = world.export("2026-11-12", octets=True)[name]
    assert [exported[column] for column in OCTET_COLUMNS[:3]] == [1, 3, 1]
    assert exported["octets_findings"].split("; ") == [
        told.octets[row["session_id"]].words
        for row in told.sessions
        if row["session_id"] in told.octets and told.octets[row["session_id"]].words
    ]
    assert set(OCTET_COLUMNS).isdisjoint(world.export("2026-11-12")[name])
    line = Answering(world.client, Rules()).line(name, "2026-11-12", world.now_ns // 1000)
    differ = [each["detail"] for each in line["timeline"] if each["what"] == "octets differ"]
    assert [words.split(":")[0] for words in differ] == [
        "the NAS counts up and down the other way round",
        "the NAS counted more than was metered",
        "the NAS counted less than was metered",
    ]


@pytest.mark.engine
def test_what_cannot_be_compared_is_not_judged(world: World) -> None:
    """Sessions beside each other, one that goes on past the period, usage that may be destroyed."""
    name, start = "octets-2", at("2026-11-13T12:00")
    beside = [
        session(name, start, start + HOUR, number=n, end_reason="stated", up_octets=9 * MB)
        for n in range(2)
    ]
    midnight = at("2026-11-14")
    goes_on = session(name, midnight - HOUR, midnight, number=3, up_octets=9 * MB)
    late = usage("10.90.0.2", midnight - WINDOW, up=MB)
    held = [binding(name, "10.90.0.2", start, midnight)]
    world.send("octets-late", midnight, usage=[late])  # its subscriber is known later
    world.send("octets-late", midnight + 1, session=[*beside, goes_on], binding=held)
    assert {each.verdict for each in world.sessions(name, "2026-11-13").octets.values()} == {
        "unknown"
    }
    alone = session(name, midnight, midnight + HOUR, number=4, end_reason="stated", up_octets=MB)
    more = usage("10.90.0.2", midnight + WINDOW, up=MB)
    held = [binding(name, "10.90.0.2", midnight, midnight + HOUR)]
    world.send("octets-late", midnight + 2 * HOUR, usage=[more])
    world.send("octets-late", midnight + 3 * HOUR, session=[alone], binding=held)
    (found,) = world.sessions(name, "2026-11-14").octets.values()
    assert (found.verdict, found.most[0]) == ("agrees", MB)
    assert FLOOR_BYTES < MB
