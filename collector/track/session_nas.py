"""What is known of each NAS: reboots, its clock, its interim interval, its open sessions."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from collector.parse.radius import Access, Accounting, Disconnect
from collector.track.nastime import SECOND_NS, NasClock
from collector.wire.addr import unpack

MIN_GAPS: Final = 3
"""Gaps between interim reports of a NAS before its interval counts as learned."""
MIN_INTERVAL_NS: Final = 60 * SECOND_NS
"""RFC 2869 section 5.16: an interim interval is at least 60 s."""
MAX_INTERVAL_NS: Final = 86_400 * SECOND_NS
"""A gap longer than a day is an outage, not an interval."""


@dataclass(slots=True)
class Nas:
    """One NAS. `quiet`: nothing was said of a session since its last Accounting-On."""

    epoch: int = 0
    on_ns: int = 0
    quiet: bool = False
    clock: NasClock = field(default_factory=NasClock)
    interval_ns: int = 0
    gaps: int = 0
    open: dict[tuple[str, int, str], None] = field(default_factory=dict)
    learned_ns: int = field(init=False)
    """The learned interval; 0 while too little was seen."""

    def __post_init__(self) -> None:
        enough = self.gaps >= MIN_GAPS
        self.learned_ns = max(self.interval_ns, MIN_INTERVAL_NS) if enough else 0

    def learn_interval(self, gap_ns: int) -> None:
        """The longest gap counts: a lost report makes it longer, never unsafe."""
        if 2 * SECOND_NS < gap_ns <= MAX_INTERVAL_NS:
            self.gaps += 1
            if gap_ns > self.interval_ns or not self.learned_ns:
                self.interval_ns = max(self.interval_ns, gap_ns)
                self.__post_init__()


class NasTable:
    """NASes by name; a new one takes the place of the longest silent that has no session."""

    def __init__(self, max_nas: int) -> None:
        self._max_nas = max_nas
        self._nas: OrderedDict[str, Nas] = OrderedDict()

    def __getitem__(self, name: str) -> Nas:
        return self._nas[name]

    def obtain(self, name: str) -> Nas | None:
        """The NAS of that name, made where it is new; None where there is no room."""
        nas = self._nas.get(name)
        if nas is None:
            if len(self._nas) >= self._max_nas:
                idle = next((n for n, entry in self._nas.items() if not entry.open), None)
                if idle is None:
                    return None
                del self._nas[idle]
            nas = self._nas[name] = Nas()
        self._nas.move_to_end(name)
        return nas

    def snapshot(self) -> list[object]:
        """JSON-able state without the open sessions, which their own snapshot has."""
        return [
            [n, e.epoch, e.on_ns, e.quiet, e.clock.to_json(), e.interval_ns, e.gaps]
            for n, e in self._nas.items()
        ]

    def restore(self, state: list[Any]) -> None:
        """Takes over what `snapshot` wrote."""
        self._nas = OrderedDict(
            (n, Nas(epoch, on_ns, quiet, NasClock.from_json(clock), interval, gaps))
            for n, epoch, on_ns, quiet, clock, interval, gaps in state
        )


def nas_name(event: Accounting | Access | Disconnect) -> str:
    """NAS-Identifier, else the NAS's stated address, else where the packet came from."""
    said = event.profile
    return said.nas_identifier or _written(said.nas_address or event.client)


_written = lru_cache(4096)(unpack)
"""Addresses as text; most NASes name themselves, those that do not send many packets each."""
