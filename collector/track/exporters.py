"""Datagrams of flow exporters into columns: templates, sequences and sampling of each domain.

A template is valid for one exporter and one observation domain (RFC 3954 section 5.2, RFC 7011
section 8). Sequence numbers say how many flows, datagrams or records never arrived: a Loss, and as
the state holds the last number that was taken in, so does what a crash of ours lost.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from collector.parse import export
from collector.parse.export import V5, V9, Message, Template
from collector.parse.export_records import V5_TEMPLATE, Records, Rows, decode, options
from collector.parse.reader import ParseError
from collector.track.stage_counts import ignore, malformed, stage
from collector.wire.addr import unpack
from collector.wire.loss import Loss

MAX_DOMAINS: Final = 1_024
MAX_TEMPLATES: Final = 256
"""Templates of one domain; hardware exports a dozen."""
MAX_LOSSES: Final = 256
REORDERED: Final = 4_096
"""A number this far back is a datagram that another overtook; further, the exporter began anew."""
RESTARTED: Final = 1 << 24
"""A leap forward by more is no loss that could be counted."""
CLASSES: Final = ("usage", "mapping")
_NUMBERS: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Exported:
    """One datagram from an exporter; `exporter` is its address in sixteen bytes."""

    ts_ns: int
    exporter: bytes
    data: bytes = field(repr=False)


@dataclass(slots=True)
class Domain:
    """What is known of one exporter's domain. `expected`: the next number; -1 where unknown."""

    templates: OrderedDict[int, Template] = field(default_factory=OrderedDict)
    expected: int = -1
    last_ns: int = 0
    sampling: int = 1
    boot_ms: int = 0


class Exporters:
    """The domains of all exporters.

    counts, in data records: seen = recorded + ignored + lost. Ignored: `sampled` ones, as what one
    packet of many says is no bill. Lost: `missed` by their sequence, and `untold` for lack of a
    template, a set of which counts as one record. Beside the equation: datagrams, malformed,
    reordered and restarts.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = stage(
            *("malformed", "datagrams", "sampled", "missed", "untold", "reordered", "restarts")
        )
        self._domains: OrderedDict[tuple[bytes, int, int], Domain] = OrderedDict()
        self._losses: list[Loss] = []

    def datagram(self, event: Exported) -> list[Rows]:
        """The flows and NAT events of one datagram, a part for each set."""
        self.counts["datagrams"] += 1
        try:
            message = export.parse(event.data)
        except ParseError:
            self.counts["seen"] += 1
            malformed(self.counts)
            return []
        domain = self._obtain((event.exporter, message.version, message.domain))
        found: list[Rows] = []
        records: int | None = 0
        for kind, data in message.sets:
            told = self._set(domain, message, kind, data, found, event)
            records = None if told is None or records is None else records + told
        self._sequence(domain, message, records, event)
        return found

    def take_losses(self) -> list[Loss]:
        """Losses since the last call."""
        losses, self._losses = self._losses, []
        return losses

    def _obtain(self, key: tuple[bytes, int, int]) -> Domain:
        domain = self._domains.get(key)
        if domain is None:
            domain = self._domains[key] = Domain()
            if len(self._domains) > MAX_DOMAINS:
                self._domains.popitem(last=False)
        self._domains.move_to_end(key)
        return domain

    def _set(
        self,
        domain: Domain,
        message: Message,
        kind: int,
        data: bytes,
        found: list[Rows],
        event: Exported,
    ) -> int | None:
        """Takes one set in; gives its data records, None where they cannot be counted."""
        try:
            if export.is_template_set(message.version, kind):
                self._learn(domain, export.templates(message.version, kind, data))
                return 0
            if message.version != V5 and kind < export.MIN_DATA_SET:
                return 0  # of a kind that is not used
            template = V5_TEMPLATE if message.version == V5 else domain.templates.get(kind)
            if template is None:
                self._untold(domain, event)
                return None
            if template.scope:
                interval, boot_ms = options(template, data)
                domain.sampling = interval or domain.sampling
                domain.boot_ms = boot_ms or domain.boot_ms
                return Records(template, data).count
            rows = decode(template, data, message, domain.boot_ms)
        except ParseError:
            self.counts["seen"] += 1
            malformed(self.counts)
            return None
        self.counts["seen"] += len(rows)
        if max(message.sampling, domain.sampling) > 1:
            events = rows["event"] > 0
            left = len(rows) - int(events.sum())
            ignore(self.counts, "sampled", left)
            self.counts["sampled"] += left
            if left:
                self._lose(event, event.ts_ns, "sampled", left, ("usage",))
            rows = rows[events]
        self.counts["recorded"] += len(rows)
        found.append(rows)
        return left + len(rows) if max(message.sampling, domain.sampling) > 1 else len(rows)

    def _untold(self, domain: Domain, event: Exported) -> None:
        """A data set whose template has not come yet, or was withdrawn."""
        for name in ("seen", "lost", "untold"):
            self.counts[name] += 1
        self._lose(event, domain.last_ns or event.ts_ns, "no-template", -1, CLASSES)

    def _learn(self, domain: Domain, told: Mapping[int, Template | None]) -> None:
        for number, template in told.items():
            domain.templates.pop(number, None)
            if template is not None:
                domain.templates[number] = template
        while len(domain.templates) > MAX_TEMPLATES:
            domain.templates.popitem(last=False)

    def _sequence(
        self, domain: Domain, message: Message, records: int | None, event: Exported
    ) -> None:
        """Compares the number that came with the one that should, and says which comes next."""
        last_ns, domain.last_ns = domain.last_ns or event.ts_ns, event.ts_ns
        step = 1 if message.version == V9 else records
        if domain.expected >= 0:
            ahead = (message.sequence - domain.expected) % _NUMBERS
            behind = _NUMBERS - ahead
            if ahead and behind <= REORDERED:
                self.counts["reordered"] += 1
                self._found_again(event.exporter, 1 if message.version == V9 else records or 0)
                return
            if ahead > RESTARTED:
                self.counts["restarts"] += 1
                self._lose(event, last_ns, "exporter-restart", -1, CLASSES)
            elif ahead:
                for name in ("seen", "lost", "missed"):
                    self.counts[name] += ahead
                unit = "packets" if message.version == V9 else "events"
                self._lose(event, last_ns, "export-gap", ahead, CLASSES, unit)
        domain.expected = -1 if step is None else (message.sequence + step) % _NUMBERS

    def _found_again(self, exporter: bytes, amount: int) -> None:
        """A datagram that came late: what it was told lost by is taken back, if still here."""
        scope = _scope(exporter)
        for place, loss in enumerate(self._losses):
            if loss.scope == scope and loss.reason == "export-gap" and loss.amount > 0:
                back = min(amount, loss.amount)
                for name in ("seen", "lost", "missed"):
                    self.counts[name] -= back
                rest = loss.amount - back
                self._losses[place : place + 1] = (
                    [_loss(loss.start_ns, loss.end_ns, loss.reason, rest, loss.unit, scope)]
                    if rest
                    else []
                )
                return

    def _lose(
        self,
        event: Exported,
        since_ns: int,
        reason: str,
        amount: int,
        classes: tuple[str, ...],
        unit: str = "events",
    ) -> None:
        """Adds a loss; beyond the limit one of the same kind and exporter grows instead."""
        scope = _scope(event.exporter)
        end = max(event.ts_ns, since_ns + 1)
        if len(self._losses) >= MAX_LOSSES:
            for place, loss in enumerate(self._losses):
                if (loss.reason, loss.scope) == (reason, scope):
                    whole = -1 if min(amount, loss.amount) < 0 else amount + loss.amount
                    self._losses[place] = _loss(
                        min(since_ns, loss.start_ns), end, reason, whole, unit, scope, classes
                    )
                    return
            del self._losses[0]
            scope, reason, amount = "collector", "too-many-losses", -1
        self._losses.append(_loss(since_ns, end, reason, amount, unit, scope, classes))

    def snapshot(self) -> list[object]:
        """JSON-able state of every domain."""
        return [
            [
                *(exporter.hex(), version, number),
                *(d.expected, d.last_ns, d.sampling, d.boot_ms),
                [[kind, list(map(list, t.fields)), t.scope] for kind, t in d.templates.items()],
            ]
            for (exporter, version, number), d in self._domains.items()
        ]

    def restore(self, state: list[Any]) -> None:
        """Takes over what `snapshot` wrote."""
        self._domains = OrderedDict()
        for exporter, version, number, expected, last_ns, sampling, boot_ms, known in state:
            templates = OrderedDict(
                (kind, Template(tuple((e, s) for e, s in fields), scope))
                for kind, fields, scope in known
            )
            domain = Domain(templates, expected, last_ns, sampling, boot_ms)
            self._domains[bytes.fromhex(exporter), version, number] = domain


def _scope(exporter: bytes) -> str:
    return f"exporter:{unpack(exporter)}"


def _loss(
    start: int,
    end: int,
    reason: str,
    amount: int,
    unit: str,
    scope: str,
    classes: tuple[str, ...] = CLASSES,
) -> Loss:
    return Loss(start, end, "export", reason, amount, unit, classes, scope)
