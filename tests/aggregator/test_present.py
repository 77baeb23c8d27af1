"""Answers as JSON and as tables: every value is plain, and both say the same figures."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from aggregator import present
from aggregator.queries.arithmetic import parse_period
from aggregator.queries.billing import Calls, Sessions, Usage
from aggregator.queries.coverage import Coverage
from aggregator.queries.demand import BusyHour
from aggregator.queries.octets import Octets

PERIOD = parse_period("2026-11")
START = PERIOD.start_us
HOSTILE = "[red]x[/] [/] \x1b[2J\x07\r\u202e[link=http://x]"


def loss(n: int, amount: int = -1) -> dict[str, Any]:
    return {
        "collector": "edge-1",
        "start_us": START + n,
        "end_us": START + n + 1_000_000,
        "stage": "capture",
        "reason": HOSTILE,
        "amount": amount,
        "unit": "packets",
        "classes": "usage",
        "scope": "collector",
    }


COVERAGE = Coverage(0.9999999, [loss(0), loss(1, 12)], START + 5)
COUNTERS = {
    "up_bytes": 2**63 + 1,
    "down_bytes": 1_234_567,
    "up_packets": 3,
    "down_packets": 4,
    "flows": 12_345,
}
USAGE = Usage(
    HOSTILE,
    PERIOD,
    "day",
    [{"part_us": START, **COUNTERS}, {"part_us": START + 86_400_000_000, **COUNTERS}],
    {name: 2 * value for name, value in COUNTERS.items()},
    3,
    3_723_456_789,
    COVERAGE,
)
HOURS = Usage(
    "s", PERIOD, "hour", [{"part_us": START + 3_600_000_000, **COUNTERS}], COUNTERS, 0, 0, COVERAGE
)
SESSION = {
    "session_id": b"\xff" * 16,
    "nas": HOSTILE,
    "acct_session_id": "a",
    "line": HOSTILE,
    "start_source": "stated",
    "end_reason": "",
    "start_us": START,
    "end_min_us": START + 1,
    "end_max_us": 2**62,
    "open": True,
    "connected_us": 90_061_500_000,
    "up_octets": 5,
    "down_octets": 2**64 - 1,
    "terminate_cause": -1,
    "flags": 2,
    "start_seen_us": START,
    "start_stamp_us": 0,
    "last_seen_us": START + 1,
    "last_stamp_us": 2**62,
}
OCTETS = Octets("swapped", (1, 2), (3, 4))
SESSIONS = Sessions("s", PERIOD, [SESSION], 90_061_500_000, COVERAGE, {b"\xff" * 16: OCTETS})
CALL = {
    "record_id": b"\xfe" * 16,
    "direction": "in",
    "a_raw": "",
    "a_e164": "",
    "b_raw": HOSTILE,
    "b_e164": "",
    "connected_raw": "",
    "connected_e164": "+442079460003",
    "charged": "caller",
    "partial": 0,
    "setup_ms": 5_000,
    "ring_ms": 4_000,
    "presentation": "restricted",
    "start_us": START,
    "answer_us": 0,
    "end_min_us": START,
    "end_max_us": 0,
    "talk_ms": 3_661_234,
    "disposition": "ANSWERED",
    "sip_code": 200,
    "released_by": "caller",
    "emergency": 1,
}
CALLS = Calls("s", PERIOD, [CALL], 1, 3_661_234, COVERAGE)
HOUR = {
    "area": "north",
    "hour_us": START,
    "up_bytes": 1_000,
    "down_bytes": 4_500_000,
    "up_mbps": 0.1,
    "down_mbps": 0.01,
    "lines": None,
}
BUSY = BusyHour(
    PERIOD, [HOUR, {**HOUR, "hour_us": START + 3_600_000_000, "lines": 1_200}],
    {"north": HOUR}, {"up_bytes": 2_000, "down_bytes": 9_000_000}, 1.0,
)  # fmt: skip

ANSWERS = [
    (present.usage_plain, present.print_usage, USAGE),
    (present.usage_plain, present.print_usage, HOURS),
    (present.sessions_plain, present.print_sessions, SESSIONS),
    (present.calls_plain, present.print_calls, CALLS),
    (present.busy_hour_plain, present.print_busy_hour, BUSY),
]


def walk(value: object, path: str = "") -> dict[str, object]:
    """Leaves by their path; fails on what JSON does not have."""
    if isinstance(value, dict):
        assert all(type(key) is str for key in value), path
        return {k: v for key, each in value.items() for k, v in walk(each, f"{path}.{key}").items()}
    if isinstance(value, list):
        return {k: v for n, each in enumerate(value) for k, v in walk(each, f"{path}.{n}").items()}
    assert type(value) in (str, int, float, bool, type(None)), f"{path} is {type(value)}"
    return {path: value}


def table(show: Any, answer: Any) -> str:
    out = io.StringIO()
    show(Console(file=out, width=300, force_terminal=False), answer)
    return out.getvalue()


@pytest.mark.parametrize(("plain", "show", "answer"), ANSWERS)
def test_json_holds_plain_values_and_comes_back_the_same(
    plain: Any, show: Any, answer: Any
) -> None:
    value = plain(answer)
    assert walk(value)
    assert json.loads(json.dumps(value, allow_nan=False)) == value


@pytest.mark.parametrize(("plain", "show", "answer"), ANSWERS)
def test_the_table_has_the_figures_of_the_json(plain: Any, show: Any, answer: Any) -> None:
    text = table(show, answer)
    for path, value in walk(plain(answer)).items():
        name = path.rpartition(".")[2]
        if name in ("up_bytes", "down_bytes", "flows", "lines") and value is not None:
            assert f"{value:,}" in text, path
        elif name == "talk_ms":
            assert isinstance(value, int)
            assert f"{value / 1000:,.3f} s" in text, path
        elif name == "connected_s":
            assert isinstance(value, float)
            assert present.seconds_text(round(value * 1e6)) in text, path


@pytest.mark.parametrize(("plain", "show", "answer"), ANSWERS)
def test_nothing_from_the_network_steers_the_terminal(plain: Any, show: Any, answer: Any) -> None:
    text = table(show, answer)
    assert all(each.isprintable() or each == "\n" for each in text)
    if answer is not BUSY:
        assert "[red]x[/] [/] \\x1b[2J\\x07\\r\\u202e[link=http://x]" in text


def test_what_is_unknown_withheld_or_too_few_says_so() -> None:
    assert present.coverage_plain(COVERAGE)["losses"][0]["amount"] is None
    (call,) = present.calls_plain(CALLS)["calls"]
    assert (call["a"], call["answered"], call["end_max"], call["emergency"]) == (
        "withheld", "", "", True,
    )  # fmt: skip
    (session,) = present.sessions_plain(SESSIONS)["sessions"]
    assert session["terminate_cause"] is None
    assert session["end_max"] == "9999-12-31T23:59:59.999Z"
    assert session["octets"] == {"check": "swapped", "metered_up": [1, 3], "metered_down": [2, 4]}
    assert (session["counters_restarted"], session["start_stamp"]) == (True, "")
    told = table(present.print_sessions, SESSIONS)
    assert "the other way round" in told
    assert "(up 5 beside 1 to 3, down 18,446,744,073,709,551,615 beside 2 to 4 bytes)" in told
    text = table(present.print_busy_hour, BUSY)
    assert re.search(r"few\s", text)
    assert text.count("busiest") == 1
    assert list(present.usage_plain(HOURS))[3] == "hours"
    assert present.usage_plain(HOURS)["hours"][0]["hour"] == "2026-11-01T01:00:00.000Z"


def test_many_losses_are_cut_in_the_table_alone() -> None:
    many = Coverage(0.5, [loss(n) for n in range(1000)], 0)
    answer = Sessions("s", PERIOD, [], 0, many)
    text = table(present.print_sessions, answer)
    assert len(text.splitlines()) < 40
    assert "and 980 more losses" in text
    assert "data until never" in text
    assert len(present.sessions_plain(answer)["losses"]) == 1000


@given(st.integers(0, 2**64))
def test_bytes_show_the_exact_figure(count: int) -> None:
    assert f"{count:,}" in present.bytes_text(count)


@given(st.floats(0, 1))
def test_only_what_is_complete_shows_a_hundred(share: float) -> None:
    assert (present.share_text(share) == "100 %") == (share == 1.0)
    assert "100.0" not in present.share_text(share)
