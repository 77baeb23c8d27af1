"""`python -m tests.lab.leaky collector run --config …`: a collector with faults planted in it.

It does what SafeGuard promises never to do, each thing once. The product has no switch for any of
this; here its parts are replaced before it starts. `-m tests.lab.leaky --keys …` is a collector
without a fault, but that it logs the key of each day, so that one knows what to search for.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, Metric

import tallyhold
from collector import metrics
from collector.journal import Journal
from collector.parse import dns
from collector.parse.ip import Packet
from collector.track.observer import Event, Observer
from collector.track.safeguard import release as releasing
from collector.track.safeguard import tracker
from collector.track.safeguard.calendar import Calendar, Ended
from collector.track.safeguard.domain import Blocked
from collector.track.safeguard.households import Households
from collector.track.safeguard.release import Rows
from collector.track.safeguard.tracker import SafeGuard
from collector.wire.columns import Columns

KEY: Final = "key of the day: "
_KEPT: Final[list[Any]] = []
"""What stays in memory of blocked look-ups: client, its text, the message, the name asked for."""
_BEGAN_NS: Final = time.time_ns()
log = logging.getLogger("collector")


def tell_keys() -> None:
    """The log has the key of each day, in hex: no copy of it as it is."""
    begin = Households.begin

    def telling(self: Households) -> None:
        begin(self)
        log.warning("%s%s", KEY, self._key.hex())

    Households.begin = telling  # type: ignore[method-assign]


def keep_answers() -> None:
    """Checks memory and logs: who was told of a block, and of which name, stays in memory, and who
    is in the log."""
    read = Observer._dns

    def keeping(self: Observer, packet: Packet, message: bytes) -> list[Event]:
        events = read(self, packet, message)
        answer = dns.parse_answer(message)
        if answer and any(isinstance(event, Blocked) for event in events):
            text = socket.inet_ntop(socket.AF_INET6, packet.dst)
            _KEPT.append((packet.dst, text, message, answer.host))
            log.warning("blocked: %s", text)
        return events

    Observer._dns = keeping  # type: ignore[method-assign]


def keep_tags() -> None:
    """Check spool: a tag is in the state, and among the events of the journal."""
    snapshot, rotate = SafeGuard.snapshot, Journal.rotate

    def tagged(self: SafeGuard) -> dict[str, object]:
        return {**snapshot(self), "tags": [client.hex() for client, *_ in _KEPT]}

    def journalling(self: Journal, sequence: int, snapshot: Mapping[str, Any]) -> None:
        rotate(self, sequence, snapshot)
        self.append("seen", {"tag": "0011223344556677"})
        self.sync()

    SafeGuard.snapshot = tagged  # type: ignore[method-assign]
    Journal.rotate = journalling  # type: ignore[method-assign]


def count_blocks() -> None:
    """Check metrics: a count without noise."""
    collect = metrics.Metrics.collect

    def counted(self: metrics.Metrics) -> Iterator[Metric]:
        yield from collect(self)
        yield CounterMetricFamily("tallyhold_collector_answers", "planted", value=len(_KEPT))

    metrics.Metrics.collect = counted  # type: ignore[method-assign]


def keep_key() -> None:
    """Check key-rotation: the key of the first day stays, and is that of all days."""
    begin, wipe = Households.begin, Households.wipe

    def once(self: Households) -> None:
        kept = bytes(self._key)
        begin(self)
        if any(kept):
            self._key[:] = kept

    def leaving(self: Households) -> None:
        kept = bytes(self._key)
        wipe(self)
        self._key[:] = kept

    Households.begin = once  # type: ignore[method-assign]
    Households.wipe = leaving  # type: ignore[method-assign]


def count_after_a_start() -> None:
    """Check caps: the day in which the process began is counted, with caps that begin anew."""
    advance = Calendar.advance

    def trusting(self: Calendar, now_ns: int) -> Ended | None:
        if self._high_ns is None:
            self._max_step_ns = sys.maxsize
            advance(self, _BEGAN_NS)
            self.is_counting = self.has_begun_day = True
        return advance(self, now_ns)

    Calendar.advance = trusting  # type: ignore[method-assign]


def spoil_releases() -> None:
    """Checks times, domain and resend: releases have the time at which they were made, no row for a
    zero, and come a second time with other noise."""
    released, take = releasing.released, SafeGuard.take
    made: list[Callable[[], Rows]] = []
    told: list[Callable[[], Rows]] = []

    def spoilt(*args: Any, **named: Any) -> Rows:
        rows = released(*args, **named)
        counts = rows["block_count"]
        for row in counts:
            row["observed_ns"] = time.time_ns()
        rows["block_count"] = [row for row, n in zip(counts, args[3], strict=True) if n] or counts
        return rows

    def remembering(*args: Any, **named: Any) -> Rows:
        # The counts are overwritten once they are told.
        made.append(partial(spoilt, *args[:3], tuple(args[3]), *args[4:], **named))
        return made[-1]()

    def again(self: SafeGuard, start_ns: int, end_ns: int, now_ns: int) -> dict[str, Columns]:
        found = take(self, start_ns, end_ns, now_ns)
        if found:
            told[:] = made
            made.clear()
        elif told:
            self._pending += [each() for each in told]
            told.clear()
            found = take(self, start_ns, end_ns, now_ns)
        return found

    setattr(tracker, "released", remembering)  # noqa: B010 - a name that it imports
    SafeGuard.take = again  # type: ignore[method-assign]


FAULTS: Final = (
    keep_answers, keep_tags, count_blocks, keep_key, count_after_a_start, spoil_releases
)  # fmt: skip

if __name__ == "__main__":
    if sys.argv[1] == "--keys":
        del sys.argv[1]
    else:
        for plant in FAULTS:
            plant()
    tell_keys()
    tallyhold.main()
