"""Hypothesis strategies for rows and scope items that often meet, and often nearly do."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from collector.wire.addr import pack
from retention.holds import scope
from retention.holds.columns import CANDIDATE_COLUMNS, CLASSES
from retention.model import DAY_US, NEVER, Kind, ScopeItem

T0 = 20_400 * DAY_US  # 2025-11-08
# Instants close together, on both sides of a midnight, so that a microsecond decides.
TIMES = [T0 + n for n in (-2, -1, 0, 1, 2, 3)] + [T0 + DAY_US + n for n in (-1, 0, 1)]
NAMES = ["ann", "bob", "ann@isp.example", "ann@ISP.example", "b@c@d.example", "@isp.example"]
REALMS = ["", "isp.example", "ISP.Example", "d.example"]
HOSTS = [
    pack(text)
    for text in ("192.0.2.7", "192.0.2.8", "100.64.0.7", "2001:db8::1", "2001:db8:0:100::")
]
LENGTHS = [0, 16, 47, 48, 56, 63, 64, 96, 104, 119, 120, 127, 128, 200]
PREFIXES = [
    "192.0.2.7", "192.0.2.0/24", "192.0.0.0/8", "100.64.0.0/10", "2001:db8::/32",
    "2001:db8::/56", "2001:db8:0:100::/56", "2001:db8::1", "2001:db8::/64",
]  # fmt: skip
NUMBERS = ["+442079460018", "+442079460019", "+390612345678"]
RAW = [
    "+442079460018", "00442079460018", "442079460018", "+44 (20) 7946-0018", "+44.2079460019",
    "0044\u00a02079460018", "+00442079460018", "02079460018", "00390612345678", "+39/0612345678",
    "anonymous", "", "999", "x442079460018", "sip+442079460018", "442079460018\u0660",
]  # fmt: skip

times = st.sampled_from(TIMES)
addresses = st.one_of(st.sampled_from(HOSTS), st.binary(min_size=16, max_size=16))
ports = st.sampled_from([0, 1, 1023, 1024, 4000, 4001, 65534, 65535])


@st.composite
def items(draw: st.DrawFn) -> ScopeItem:
    kind = draw(st.sampled_from(list(Kind)))
    if kind is Kind.ADDRESS:
        value = draw(st.sampled_from(PREFIXES))
    elif kind is Kind.NUMBER:
        value = draw(st.sampled_from(NUMBERS))
    else:
        value = draw(st.sampled_from(NAMES))
    start, end = sorted(draw(st.lists(times, min_size=2, max_size=2, unique=True)))
    end = draw(st.sampled_from([end, end, NEVER]))
    classes = draw(st.lists(st.sampled_from(scope.CLASSES_OF[kind]), unique=True))
    between = scope.ALL_PORTS
    if kind is Kind.ADDRESS and draw(st.booleans()):
        first, last = sorted(draw(st.lists(ports, min_size=2, max_size=2)))
        between = (first, last)
    return scope.parse(kind, value, start, end, classes, between)


scopes = st.dictionaries(
    st.sampled_from(["H-1", "H-2", "H-3"]), st.lists(items(), max_size=6).map(tuple), max_size=3
)
classes = st.sampled_from(CLASSES)


def rows(record_class: str) -> st.SearchStrategy[dict[str, Any]]:
    """One row of a class, with the columns that matching needs."""
    names = st.sampled_from(NAMES)
    ends = st.one_of(times, st.just(0))
    own = {"address": addresses, "prefix_len": st.sampled_from(LENGTHS)}
    usage = {"start_us": times, "end_us": ends, "subscriber": names, **own}
    calls = {
        **usage,
        "end_min_us": ends,
        "end_max_us": ends,
        **{
            name: st.sampled_from(["", *NUMBERS]) for name in ("a_e164", "b_e164", "connected_e164")
        },
        **{name: st.sampled_from(RAW) for name in ("a_raw", "b_raw", "connected_raw")},
    }
    sessions = {
        "slice_start_us": times,
        "slice_end_us": ends,
        "realm": st.sampled_from(REALMS),
        **dict.fromkeys(("subscriber", "cui", "line", "user_name", "acct_session_id"), names),
    }
    columns: dict[str, dict[str, st.SearchStrategy[Any]]] = {
        "usage": usage,
        "visit": usage,
        "call": calls,
        "session": sessions,
        "binding": {"valid_from_us": times, "valid_to_us": ends, "subscriber": names, **own},
        "mapping": {
            "start_us": times,
            "end_us": ends,
            "inside_address": addresses,
            "public_address": addresses,
            "port_first": ports,
            "port_last": ports,
        },
    }
    return st.fixed_dictionaries(columns[record_class])


def columns(found: list[dict[str, Any]], record_class: str) -> dict[str, list[Any]]:
    """Rows as the columns that the store's client gives."""
    known = {"record_id": bytes(16), "collector": "c1"}
    return {
        name: [known.get(name, row.get(name)) for row in found]
        for name in CANDIDATE_COLUMNS[record_class]
    }
