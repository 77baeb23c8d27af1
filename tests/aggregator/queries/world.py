"""A network as the answers see it: collectors whose batches go through the real ingest."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Mapping
from typing import Any, Final

from aggregator.attribution.attributor import SharedAttributor
from aggregator.ingest.demand import Areas
from aggregator.ingest.pipeline import Pipeline
from aggregator.metrics import Metrics
from aggregator.queries import billing, export
from aggregator.queries.arithmetic import Period, parse_period
from collector.wire.addr import pack
from collector.wire.records import record_id
from tests.aggregator.support import S, Spool, Store, rows

AREAS: Final = Areas({"north": [ipaddress.ip_network("10.0.0.0/9")]})
MINUTE: Final = 60 * S
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
WINDOW: Final = 5 * MINUTE


def at(text: str) -> int:
    """Nanoseconds of a time in UTC such as `2026-11-22T12:00`."""
    when = dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)
    return int(when.timestamp()) * S


class Witness:
    """An audit sink that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []

    def looked_up(self, what: str, subject: str, reference: str) -> None:
        self.lines.append((what, subject, reference))


class World:
    """Collectors, each with its spool, and the questions that can be asked of what they sent.

    `now_ns` is the time of every question; a test may set it.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.client = store.client
        self.now_ns = at("2026-12-20")
        self.audit = Witness()
        self._spools: dict[str, Spool] = {}
        self._arrived_ns = 0
        self.pipeline = self.restarted()

    def restarted(self) -> Pipeline:
        """Ingest as after a restart with an empty index of bindings."""
        self.pipeline = Pipeline(
            self.client, SharedAttributor(), AREAS, Metrics(), now=lambda: self._arrived_ns
        )
        return self.pipeline

    def send(self, collector: str, until: int, **classes: list[dict[str, Any]]) -> None:
        """One batch whose window ends at `until`, taken ten seconds later."""
        spool = self._spools.setdefault(collector, Spool(collector))
        columns = {name: rows(name, *given) for name, given in classes.items()}
        self._arrived_ns = until + 10 * S
        receipt = self.pipeline.take(
            spool.batch(columns, start_ns=until - WINDOW),
            identity=collector,
            sent_ns=self._arrived_ns,
            arrived_ns=self._arrived_ns,
        )
        assert receipt.verdict == "accept", receipt

    # Questions

    def usage(self, name: str, period: str, step: billing.Step = "day") -> billing.Usage:
        return billing.usage(
            self.client, name, parse_period(period), self.now_ns // 1000, self.audit, "", step
        )

    def sessions(self, name: str, period: str) -> billing.Sessions:
        return billing.sessions(
            self.client, name, parse_period(period), self.now_ns // 1000, self.audit
        )

    def calls(self, name: str, period: str) -> billing.Calls:
        return billing.calls(
            self.client, name, parse_period(period), self.now_ns // 1000, self.audit
        )

    def export(self, period: str, octets: bool = False) -> dict[str, dict[str, Any]]:
        span: Period = parse_period(period)
        asked = export.export(self.client, span, self.now_ns // 1000, self.audit, octets=octets)
        found = list(asked)
        assert len({row["subscriber"] for row in found}) == len(found)
        return {row["subscriber"]: row for row in found}


# Rows, with what matters


def usage(
    address: str, start: int, up: int = 100, down: int = 1000, *, length: int = 128, **more: Any
) -> dict[str, Any]:
    """Five minutes of an address."""
    row = {
        "start_ns": start,
        "end_ns": start + WINDOW,
        "observed_ns": start + WINDOW,
        "address": pack(address),
        "prefix_len": length,
        "up_bytes": up,
        "down_bytes": down,
        "up_packets": 2,
        "down_packets": 3,
        "flows": 1,
    }
    return {**row, **more}


def binding(
    name: str, address: str, start: int, end: int = 0, *, length: int = 128, version: int = 0
) -> dict[str, Any]:
    """A slice in which a subscriber holds an address or prefix."""
    return {
        "address": pack(address),
        "prefix_len": length,
        "subscriber": name,
        "session_id": record_id("session", name),
        "observed_ns": max(start, end) + version,
        "valid_from_ns": start,
        "valid_to_ns": end,
        "certainty": "certain",
        "source": "accounting",
    }


def session(
    name: str,
    start: int,
    end: int = 0,
    *,
    slice_start: int = 0,
    proof: int = 0,
    number: int = 0,
    version: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """A day's slice of a session; open where `end` is 0."""
    begin = slice_start or start
    row = {
        "session_id": record_id("session", name, number),
        "subscriber": name,
        "nas": "bras-1",
        "acct_session_id": f"{number:08x}",
        "line": "ge-0/0/1",
        "start_ns": start,
        "start_source": "stated",
        "slice_start_ns": begin,
        "slice_end_ns": end,
        "end_min_ns": end or proof or begin,
        "end_max_ns": end,
        "end_reason": "",
        "observed_ns": max(begin, end) + version,
        "terminate_cause": -1,
    }
    return {**row, **more}


def call(
    address: str, start: int, talk_ms: int = 0, *, number: int = 0, direction: str = "out", **m: Any
) -> dict[str, Any]:
    """A call, answered after five seconds where it has talk time."""
    row: Mapping[str, Any] = {
        "call_hash": record_id("call", number, start),
        "address": pack(address),
        "prefix_len": 128,
        "direction": direction,
        "a_raw": "+441632960001",
        "a_e164": "+441632960001",
        "b_raw": "+441632960002",
        "b_e164": "+441632960002",
        "presentation": "allowed",
        "start_ns": start,
        "answer_ns": start + 5 * S if talk_ms else 0,
        "end_min_ns": start + 5 * S + talk_ms * 1_000_000,
        "end_max_ns": start + 5 * S + talk_ms * 1_000_000,
        "talk_ms": talk_ms,
        "disposition": "ANSWERED" if talk_ms else "BUSY",
        "sip_code": 200 if talk_ms else 486,
        "observed_ns": start + MINUTE,
    }
    return {**row, **m}


def gap(start: int, end: int, classes: str, reason: str = "kernel-drop") -> dict[str, Any]:
    return {
        "start_ns": start,
        "end_ns": end,
        "stage": "capture",
        "reason": reason,
        "amount": -1,
        "unit": "packets",
        "classes": classes,
        "scope": "collector",
        "observed_ns": end,
    }
