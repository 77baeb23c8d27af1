"""A hold and binding history in, the identifiers it leads to, each for its tenure, out. Pure.

    account, line, user, session -> sessions --> subscriber ---> addresses and prefixes held
    address ----------------------> bindings -------^            (for rows without a subscriber, and
    address and port -> mappings -> inside address --^            mappings by inside address)

It starts from the order's own items alone and goes this one way, so nothing leads from a
subscriber on to others who had the address before or after. Every step takes the instants that
item and row have in common: nobody is held for longer than they had what the order names. A number
leads to nothing else. Session rows name their subscriber; only one that does not becomes an item
by its Acct-Session-Id, because those are unique at one NAS alone (RFC 2866 section 5.5).

What comes out only grows: with later bindings there is more, and nothing is ever taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from collector.wire.addr import network
from retention.holds.columns import ALL_PORTS
from retention.holds.errors import HoldRefused
from retention.holds.history import (
    NOTHING,
    Histories,
    History,
    Row,
    Tenure,
    Tenures,
    tenure_of,
    text_of,
)
from retention.holds.instants import Covered, Interval, compact
from retention.holds.matcher import Columns, match
from retention.holds.needles import Prefix
from retention.holds.scope import DIRECT_OF, MAX_RESOLVED, prefix
from retention.model import Hold, Kind, ScopeItem

__all__ = ["NOTHING", "Histories", "compact", "expand", "is_shared", "probes"]

HISTORY: Final = ("binding", "mapping", "session")
BY_SESSION: Final = (Kind.ACCOUNT, Kind.LINE, Kind.USER, Kind.SESSION)


def expand(
    hold: Hold, bindings: Columns, mappings: Columns, sessions: Columns, now_us: int
) -> tuple[ScopeItem, ...]:
    """The items that the hold does not cover yet and leads to; none for a hold not resolved.

    Columns: `columns.HISTORY_COLUMNS` of rows that `probes` ask for; others do no harm. Raises
    HoldRefused "too-wide" where hold and new items are more than MAX_RESOLVED.
    """
    reached = _reach(hold, {"binding": bindings, "mapping": mappings, "session": sessions}, now_us)
    known = Covered(hold.scope)
    wanted = list(reached.final)
    # The end of a provisional tenure moves with every look: one look of it is enough till its end.
    wanted += [item for item in reached.provisional if not known.touches(item)]
    new = known.missing(wanted)
    check_width(hold, new)
    return new


def check_width(hold: Hold, new: tuple[ScopeItem, ...]) -> None:
    """Raise HoldRefused if the hold would have more resolved items than one may have."""
    count = sum(1 for item in compact((*hold.scope, *new)) if item.resolved)
    if count > MAX_RESOLVED:
        raise _too_wide()


def _too_wide() -> HoldRefused:
    return HoldRefused(
        "too-wide",
        f"through binding history the scope leads to more than {MAX_RESOLVED} identifiers, or"
        " times of them: place several holds for parts of the time, or of the identifiers",
    )


def probes(hold: Hold, histories: Histories, now_us: int) -> tuple[ScopeItem, ...]:
    """What to look for in history; with what was found, perhaps more, until nothing is new."""
    if not hold.resolve:
        return ()
    reached = _reach(hold, histories, now_us)
    for item in _ordered(hold):
        reached.probe(item.kind, item.value, tenure_of(item), item.ports)
    if len(reached.probes) > MAX_RESOLVED:
        raise _too_wide()
    return tuple(
        ScopeItem(kind, value, start, end, HISTORY, ports)
        for (kind, value, ports), (start, end) in reached.probes.items()
        if kind is not Kind.NUMBER
    )


def is_shared(item: ScopeItem, shared: tuple[Prefix, ...], mappings: Columns) -> bool:
    """Whether an address without ports stands for several subscribers: it is in a prefix known to
    be shared, or a mapping translated to it within the item's time."""
    if item.kind is not Kind.ADDRESS or item.ports != ALL_PORTS:
        return False
    own = prefix(item.value)
    if any(_overlap(own, other) for other in shared):
        return True
    asked = ScopeItem(item.kind, item.value, item.from_us, item.to_us, ("mapping",))
    found = match("mapping", mappings, {"": [asked]})[""].nonzero()[0].tolist()
    inside, public = mappings["inside_address"], mappings["public_address"]
    return any(_overlap(own, (public[n], 128)) and public[n] != inside[n] for n in found)


@dataclass
class _Reached:
    """Items that a hold leads to, and what else to look for. Not yet compared with the hold's.

    probes: (kind, value, ports) to the time for which to look.
    """

    final: list[ScopeItem] = field(default_factory=list)
    provisional: list[ScopeItem] = field(default_factory=list)
    probes: dict[tuple[Kind, str, tuple[int, int]], Interval] = field(default_factory=dict)
    pieces: int = 0
    """Of one item of the order: they are disjoint, so that none of them can be merged again."""

    def add(self, kind: Kind, value: str, tenure: Tenure, classes: tuple[str, ...]) -> None:
        """Take an identifier for a tenure, in the classes that have it in them."""
        direct = tuple(name for name in classes if name in DIRECT_OF[kind])
        if not direct:
            return
        item = ScopeItem(kind, value, tenure.start, tenure.end, direct)
        (self.provisional if tenure.provisional else self.final).append(item)
        self.pieces += 1
        if self.pieces > MAX_RESOLVED:
            raise _too_wide()

    def probe(
        self, kind: Kind, value: str, tenure: Tenure, ports: tuple[int, int] = ALL_PORTS
    ) -> None:
        """Look for an identifier in a time."""
        start, end = self.probes.get((kind, value, ports), (tenure.start, tenure.end))
        self.probes[kind, value, ports] = min(start, tenure.start), max(end, tenure.end)


def _ordered(hold: Hold) -> list[ScopeItem]:
    """The order's own items."""
    return [item for item in hold.scope if not item.resolved]


def _reach(hold: Hold, histories: Histories, now_us: int) -> _Reached:
    reached = _Reached()
    if hold.resolve:
        known = {name: History(name, histories[name], now_us) for name in HISTORY}
        for item in _ordered(hold):
            reached.pieces = 0
            _Walk(item, known, reached).run()
    return reached


class _Walk:
    """Where one item of the order leads."""

    def __init__(self, item: ScopeItem, known: dict[str, History], reached: _Reached) -> None:
        self._item, self._reached = item, reached
        self._bindings, self._mappings = known["binding"], known["mapping"]
        self._sessions = known["session"]
        self._tenure = tenure_of(item)
        self._named = dict.fromkeys(self._sessions.matching(item))
        self._people: dict[str, Tenures] = {}
        self._hashes: dict[bytes, Tenures] = {}
        """Subscribers and sessions that were reached, and when."""
        self._held: dict[Prefix, Tenures] = {}
        """Prefixes that they held, or that were behind mappings, and when."""

    def run(self) -> None:
        """Take everything the item leads to."""
        item = self._item
        if item.kind is Kind.SUBSCRIBER:
            self._people[item.value] = Tenures([self._tenure])
        elif item.kind is Kind.ADDRESS:
            for row in self._bindings.matching(replace(item, ports=ALL_PORTS)):
                self._subject(row, self._tenure)
            self._behind(self._mappings.matching(item))
        elif item.kind in BY_SESSION:
            for row in self._named:
                self._subject(row, self._tenure)
        self._follow()
        self._take_addresses()

    def _behind(self, mappings: Sequence[Row]) -> None:
        """Take who was behind mappings, of which there can be very many of few addresses."""
        inside: dict[Prefix, Tenures] = {}
        for row in mappings:
            tenure = row.tenure.within(self._tenure)
            if tenure and row.prefix:
                inside.setdefault(row.prefix, Tenures()).add(tenure)
        for held, tenures in inside.items():
            text = text_of(held)
            if not text:
                continue
            holders = self._bindings.of_prefix(held)
            for tenure in tenures.merged():
                self._address(held, tenure)
                self._reached.probe(Kind.ADDRESS, text, tenure)
            for row in holders:
                for common in tenures.common(row.tenure):
                    self._subject(row, common)

    def _subject(self, row: Row, tenure: Tenure) -> None:
        """Note whom a row names, for the instants of both."""
        common = row.tenure.within(tenure)
        if common and row.subscriber:
            self._people.setdefault(row.subscriber, Tenures()).add(common)
        if common and row.session_id:
            self._hashes.setdefault(row.session_id, Tenures()).add(common)

    def _follow(self) -> None:
        """Take who was reached, the addresses they held, and sessions that do not name them."""
        times: dict[bytes, list[Tenures]] = {name: [t] for name, t in self._hashes.items()}
        for name, tenures in self._people.items():
            if self._item.kind is not Kind.SUBSCRIBER:
                for tenure in tenures.merged():
                    self._reached.add(Kind.SUBSCRIBER, name, tenure, self._item.classes)
                    self._reached.probe(Kind.SUBSCRIBER, name, tenure)
            held = self._bindings.of_subscriber(name)
            self._addresses(held, tenures)
            for row in (*held, *self._sessions.of_subscriber(name)):
                known = times.setdefault(row.session_id, [])
                if tenures.common(row.tenure) and tenures not in known:
                    known.append(tenures)
        for session_id, tenures in self._hashes.items():
            self._addresses(self._bindings.of_session(session_id), tenures)
        for session_id, found in times.items():
            for row in self._sessions.of_session(session_id):
                for tenures in found:
                    self._session(row, tenures)

    def _addresses(self, held: Sequence[Row], tenures: Tenures) -> None:
        for row in held:
            for common in tenures.common(row.tenure) if row.prefix else ():
                assert row.prefix
                self._address(row.prefix, common)

    def _session(self, row: Row, tenures: Tenures) -> None:
        for common in tenures.common(row.tenure) if row.acct_session_id else ():
            self._reached.probe(Kind.SESSION, row.acct_session_id, common)
            if row.subscriber not in self._people and row not in self._named:
                self._reached.add(Kind.SESSION, row.acct_session_id, common, self._item.classes)

    def _address(self, held: Prefix, tenure: Tenure) -> None:
        self._held.setdefault(held, Tenures()).add(tenure)

    def _take_addresses(self) -> None:
        """Take the prefixes that were held, but for what the order itself covers."""
        item = self._item
        whole = item.kind is Kind.ADDRESS and item.ports == ALL_PORTS
        base, length = prefix(item.value) if whole else (b"", 0)
        for held, tenures in self._held.items():
            if whole and length <= held[1] and network(held[0], length) == base:
                continue
            text = text_of(held)
            for tenure in tenures.merged() if text else ():
                self._reached.add(Kind.ADDRESS, str(text), tenure, item.classes)


def _overlap(one: Prefix, other: Prefix) -> bool:
    bits = min(one[1], other[1])
    return network(one[0], bits) == network(other[0], bits)
