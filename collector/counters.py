"""The kernel's counters of subscribers: kept in place, made where a binding opens, read whole, and
read at binding changes.

Losses are told where the kernel stopped counting; a reading that fails loses nothing, because the
next one has what it would have had.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from collector.capture.nft import Installed, NftConfig, install
from collector.capture.nft_elements import make_elements, metered_prefixes, of_small_prefixes
from collector.capture.nftsets import NftUnavailable, SetReader, TableMissing
from collector.track.journal_events import JournalEvent, split_event, split_prefix_events
from collector.track.ranges import Ranges
from collector.track.session_state import Prefix
from collector.track.sessions import BindingChange
from collector.track.volume import Fill, Reading, Sample, Volume
from collector.wire.addr import MAPPED
from collector.wire.loss import Loss

log = logging.getLogger(__name__)

MAX_SINGLE_READS: Final = 64
"""Changes at once from which on one reading of everything is cheaper than one for each address."""


class Counters:
    """Table `inet tally` of one collector, in the network namespace of the calling thread."""

    def __init__(self, config: NftConfig, now: Callable[[], int], replace: bool = False) -> None:
        self._config, self._now, self._replace = config, now, replace
        self._held: Callable[[], Iterable[Prefix]] = tuple
        self._inside = Ranges(metered_prefixes(config))
        self._sets = SetReader(config.ipv6_prefix_len, now)
        self._checked_ns = 0
        self._trouble = ""
        self._outside: tuple[str, int] | None = None
        self.counts: dict[str, int] = {"seen": 0, "ignored": 0}
        """Bytes of access traffic outside the prefixes in this run, all of them ignored by rule."""

    def start(self, volume: Volume, restart: bool, held: Callable[[], Iterable[Prefix]]) -> None:
        """Bring the table in, or find it, and read it once; `restart`: `volume` was restored.

        `held` gives the prefixes that bindings hold now, as counters are keyed: a new table has
        theirs from the start. Raises NftUnavailable.
        """
        self._held = held
        installed = install(self._config, self._now, self._replace)
        self._checked_ns = installed.ts_ns
        if installed.final is not None:
            volume.observe(installed.final, restart=restart)
        if installed.action in ("created", "replaced"):
            volume.begin(installed.generation, installed.ts_ns)
        self._make([*self._small(), *self._held()])
        volume.observe(self._count_outside(self._sets.read_sets()), restart=restart)
        log.info("table inet tally: %s", installed.action)

    def check(self, volume: Volume) -> list[Loss]:
        """Mend the table where somebody removed it or changed its rules; tells what that lost."""
        since_ns = self._checked_ns
        try:
            installed = install(self._config, self._now)
        except NftUnavailable as error:
            self._complain("table inet tally cannot be checked", error)
            return []
        self._trouble = ""
        self._checked_ns = self._now()
        if installed.action == "kept":
            return []
        return self._mended(installed, since_ns, volume)

    def read(self, volume: Volume) -> list[Loss]:
        """Read everything. Where there is no table, make one; tells a window without a table."""
        try:
            volume.observe(self._count_outside(self._sets.read_sets()))
            return []
        except TableMissing:
            since_ns = self._checked_ns
            found = self.check(volume)
            if self._checked_ns != since_ns:
                return found
            # Nothing counts, and nothing can be made to.
            return [_loss(since_ns, self._now(), "table-missing")]
        except NftUnavailable as error:
            self._complain("the counters could not be read", error)
            return []

    def events(self, changes: Sequence[BindingChange]) -> tuple[list[JournalEvent], list[Loss]]:
        """Counters of the addresses whose bindings changed, read now, each once.

        Those of bindings that open are made first, so that no packet of theirs finds none.
        A counter that cannot be read is a loss of exactness: the bytes on both sides of the change
        come in one row.
        """
        self._make((each.address, each.prefix_len) for each in changes if each.kind == "open")
        events: list[JournalEvent] = []
        wanted = dict.fromkeys((each.address, each.prefix_len) for each in changes)
        unread = 0
        reading: Reading | None = None
        at: dict[bytes, int] = {}
        for address, prefix_len in wanted:
            wide = prefix_len < self._metered(address)
            try:
                if reading is None and (wide or len(wanted) > MAX_SINGLE_READS):
                    reading = self._sets.read_sets()
                    at = {key: i for i, key in enumerate(reading.addresses.tolist())}
                if wide and reading is not None:
                    change = BindingChange(reading.ts_ns, address, prefix_len, "open")
                    events += split_prefix_events(reading, change)
                elif reading is not None and address in at:
                    events.append(split_event(_sample(reading, at[address])))
                else:
                    # Not in the reading is no proof of zero: a dump may skip an element.
                    events.append(split_event(self._sets.read_one(address)))
            except NftUnavailable as error:
                self._complain("a counter could not be read at a binding change", error)
                unread += 1
        if not unread:
            return events, []
        now = self._now()
        return events, [Loss(now, now + 1, "volume", "unsplit", unread, "events", ("usage",))]

    def fill_ratio(self, fill: Sequence[Fill]) -> float:
        """Share of the fullest set in use, of those that have not room for all their addresses."""
        scarce = (each for each in fill if not self._config.is_whole(each))
        return max((each.elements / max(each.size, 1) for each in scarce), default=0.0)

    def _small(self) -> list[Prefix]:
        return [(key, self._metered(key)) for key in of_small_prefixes(self._config)]

    def _make(self, prefixes: Iterable[Prefix]) -> None:
        """Elements ahead of packets; wider bindings than are metered have too many to make.

        Where it fails nothing is lost yet: the packet path makes what it can and tells the rest.
        """
        keys = [
            address
            for address, prefix_len in prefixes
            if prefix_len == self._metered(address) and address in self._inside
        ]
        try:
            if keys:
                make_elements(keys)
        except NftUnavailable as error:
            self._complain("counters could not be made ahead", error)

    def _count_outside(self, reading: Reading) -> Reading:
        """Counts what grew since the last reading; what is older than this run was told before."""
        total = reading.outside_bytes
        if self._outside is not None:
            generation, before = self._outside
            grown = max(total - before, 0) if generation == reading.generation else total
            self.counts["seen"] += grown
            self.counts["ignored"] += grown
        self._outside = reading.generation, total
        return reading

    def _metered(self, address: bytes) -> int:
        return 128 if address[:12] == MAPPED else self._config.ipv6_prefix_len

    def _mended(self, installed: Installed, since_ns: int, volume: Volume) -> list[Loss]:
        if installed.action == "created":
            log.error("table inet tally was removed by somebody, and is installed again")
            volume.begin(installed.generation, installed.ts_ns)  # tells the loss itself
            self._make([*self._small(), *self._held()])
            return []
        log.error("the rules of table inet tally were changed by somebody, and are mended")
        return [_loss(since_ns, self._checked_ns, "rules-changed")]

    def _complain(self, what: str, error: NftUnavailable) -> None:
        """Once until all is well again, not every few seconds."""
        text = f"{what}: {error.strerror or error}"
        if text != self._trouble:
            log.error("%s", text)
            self._trouble = text


def _sample(reading: Reading, row: int) -> Sample:
    up, down, up_packets, down_packets = reading.counters[row].tolist()
    return Sample(
        reading.ts_ns,
        reading.generation,
        reading.addresses[row].tobytes(),
        int(reading.prefix_len[row]),
        up,
        down,
        up_packets,
        down_packets,
    )


def _loss(start_ns: int, end_ns: int, reason: str) -> Loss:
    return Loss(start_ns, max(end_ns, start_ns + 1), "volume", reason, -1, "bytes", ("usage",))
