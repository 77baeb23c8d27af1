"""Where each record class has identifiers and times: the table that matching and narrowing read.

Names are the stored ones (`aggregator.store.schema`): times in microseconds UTC.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from retention.model import DAY_US, Kind

CLASSES: Final = ("usage", "session", "binding", "mapping", "visit", "call")
"""The record classes that belong to a person."""


class AddressColumn(NamedTuple):
    """A column of addresses. length: the column of prefix lengths; "" where each is one host.

    public: the address after translation, which the row's port range goes with.
    """

    name: str
    length: str
    public: bool = False


class Span(NamedTuple):
    """The columns of the interval that a row covers, [start, end).

    The end is the latest of `ends`, at least a microsecond after the start. open_day: an end of 0
    is not known yet and stands for the end of the UTC day of the start, as slices are per day.
    """

    start: str
    ends: tuple[str, ...]
    open_day: bool = False


SPANS: Final = {
    "usage": Span("start_us", ("end_us",)),
    "visit": Span("start_us", ("end_us",)),
    "mapping": Span("start_us", ("end_us",)),
    "session": Span("slice_start_us", ("slice_end_us",), open_day=True),
    "binding": Span("valid_from_us", ("valid_to_us",), open_day=True),
    "call": Span("start_us", ("end_min_us", "end_max_us")),
}

TEXTS: Final[dict[str, dict[Kind, str]]] = {
    "usage": {Kind.SUBSCRIBER: "subscriber"},
    "visit": {Kind.SUBSCRIBER: "subscriber"},
    "call": {Kind.SUBSCRIBER: "subscriber"},
    "binding": {Kind.SUBSCRIBER: "subscriber"},
    "session": {
        Kind.SUBSCRIBER: "subscriber",
        Kind.ACCOUNT: "cui",
        Kind.LINE: "line",
        Kind.USER: "user_name",  # and `realm`, where the value has one
        Kind.SESSION: "acct_session_id",
    },
    "mapping": {},
}
"""Columns whose text is compared with an identifier as it is."""

REALM: Final = "realm"
NUMBERS: Final = {
    "call": (("a_e164", "a_raw"), ("b_e164", "b_raw"), ("connected_e164", "connected_raw"))
}
"""(E.164 where valid, else empty; as sent) of both sides of a call, and of who answered it."""

_OWN: Final = (AddressColumn("address", "prefix_len"),)
ADDRESSES: Final[dict[str, tuple[AddressColumn, ...]]] = {
    "usage": _OWN,
    "visit": _OWN,  # `server` is not the subscriber's
    "call": _OWN,
    "binding": _OWN,
    "mapping": (AddressColumn("inside_address", ""), AddressColumn("public_address", "", True)),
    "session": (),
}
PORTS: Final = ("port_first", "port_last")
"""Public ports of a mapping, both included."""
ALL_PORTS: Final = (0, 65535)


def end_of_day(at_us: int) -> int:
    """The first instant of the UTC day after this one."""
    return (at_us // DAY_US + 1) * DAY_US


def _candidate_columns(name: str) -> tuple[str, ...]:
    span = SPANS[name]
    names = ["record_id", "collector", span.start, *span.ends, *TEXTS[name].values()]
    if Kind.USER in TEXTS[name]:
        names.append(REALM)
    names += [column for pair in NUMBERS.get(name, ()) for column in pair]
    for address in ADDRESSES[name]:
        names += [address.name, *([address.length] if address.length else [])]
        names += PORTS if address.public else ()
    return tuple(dict.fromkeys(names))


CANDIDATE_COLUMNS: Final = {name: _candidate_columns(name) for name in CLASSES}
"""For each class the columns that matching needs, and those that tell rows apart."""
HISTORY_COLUMNS: Final = {
    "binding": (*CANDIDATE_COLUMNS["binding"], "session_id", "observed_us"),
    "session": (*CANDIDATE_COLUMNS["session"], "session_id", "observed_us"),
    "mapping": CANDIDATE_COLUMNS["mapping"],
}
"""Columns of the classes from which resolution (`resolve.py`) learns who had what when."""
