"""Visits: joins host names seen in handshakes and DNS answers to flows, one row per host.

A visit is a connection of a subscriber to a server for which a host is known: the name in the
connection's own handshake, else the host of the client's latest DNS answer, at the flow's start,
that led to the server. A look-up without a flow is no visit, nor is a flow to a resolver or one
without a name. What a row counts:

- The bytes of a connection go to its first host; every further host on it (HTTP keep-alive) has a
  row without bytes. A handshake's name takes the place of a name from DNS from then on.
- A connection counts once for each of its hosts, in the window in which the name became known.
- Deltas count in the window that closes next after they are handed in, unless their flow began
  after it; a name that comes later in the window than its flow's deltas still gets them.
- A handshake without any delta (connection tracking off, or not dumped yet) is a visit of 0 bytes.
- Without a new connection and without bytes there is no row: the last delta of a flow may be so.
- A flow that somebody outside opened is a visit only where the subscriber's own handshake on it
  named a host: what the subscriber looked up is no reason for being called.

How long names are kept: a DNS answer names flows that begin within `answer_life_ns`. Its TTL does
not bound that, as clients keep using addresses past it (the name a flow began with stays with the
flow whatever becomes of the answer). A flow's names are kept until it ends or FLOW_IDLE_NS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collector.track.answers import Answers, AnswersConfig
from collector.track.flow_table import pick
from collector.track.host_config import HostsConfig
from collector.track.host_events import HostSeen, Resolution
from collector.track.host_pool import NO_HOST, HostPool
from collector.track.inside import Prefixes
from collector.track.ranges import Ranges
from collector.track.stage_counts import ignore, stage
from collector.track.visit_flows import (
    KEY,
    NEVER,
    NO_DELTAS,
    VisitFlow,
    Waiting,
    begun_ns,
    shared_tuples,
    told_once,
    visit_flows,
)
from collector.track.visit_names import UNJOINED, Name, claim, repeated
from collector.track.visit_rows import RowForm, VisitRows
from collector.wire.columns import Columns
from collector.wire.loss import Loss
from collector.wire.records import VISIT

__all__ = ["HostSeen", "Hosts", "HostsConfig", "Resolution"]

SECOND_NS: Final = 1_000_000_000
UNCONFIRMED_NS: Final = 900 * SECOND_NS
"""How long a name waits for its flow: a dump, at most 300 s apart, would have shown it."""
FLOW_IDLE_NS: Final = 432_000 * SECOND_NS
"""Longest silence of a flow: nf_conntrack_tcp_timeout_established, five days."""
MAX_NAMES_PER_FLOW: Final = 64
"""Hosts on one connection. Browsers use one; a forward proxy's keep-alive a few dozen."""
MAX_SNAPSHOT_FLOWS: Final = 65_536
"""Flows whose names a snapshot holds, the latest ones: about 10 MB of JSON."""

_PORTLESS: Final = (1, 58)
"""ICMP of both families: an echo is no visit, whatever its address was resolved from."""


class Hosts:
    """The visit tracker: `seen`, `resolved` and `flows` between windows, `take` at each end.

    `counts` has, for "names" (handshakes), "answers" and "flows" (deltas): seen = recorded +
    ignored + lost + open. Ignored is also split by its rule, as "ignored.RULE"; one rule has names
    of outsiders, repeats and block pages together, so that no counter tells of the last.
    "bytes.named", "bytes.nameless" and "bytes.inbound" (nameless too, opened from outside) are of
    the flows of subscribers that did not go to a resolver.
    """

    def __init__(self, config: HostsConfig) -> None:
        self._config = config
        self._prefixes = Prefixes(config.access)
        self._ranges = Ranges(config.access)
        self._pool = HostPool(config.max_hosts)
        self._answers = Answers(
            AnswersConfig(config.max_answers, config.max_answers_per_client, config.answer_life_ns),
            self._pool,
        )
        self._names: dict[bytes, list[Name]] = {}
        self._deltas = Waiting(self._led)
        self._is_crowded = False
        self._taken_ns = 0
        self._evicted = 0
        self._losses: list[Loss] = []
        self.counts: dict[str, Counter[str]] = {
            table: stage("open", "evicted") for table in ("names", "answers", "flows")
        }

    def seen(self, event: HostSeen) -> None:
        """A handshake named a host."""
        counts = self.counts["names"]
        counts["seen"] += 1
        targets = self._config.targets
        if event.client not in self._ranges or (targets and targets.hides(event)):
            ignore(counts, "unrecorded")
            return
        key = KEY.pack(
            event.client, event.server, event.protocol, event.client_port, event.server_port
        )
        names = self._names.pop(key, [])
        self._names[key] = names
        if repeated(names, event):
            ignore(counts, "unrecorded")
            return
        if len(names) >= MAX_NAMES_PER_FLOW:
            self._evict([names.pop(0)])
        names.append(Name(event.ts_ns, event.ts_ns, event.host, event.evidence, event.ech))
        counts["open"] += 1
        self._bound()

    def resolved(self, event: Resolution) -> None:
        """A client was told the addresses of a host."""
        counts = self.counts["answers"]
        counts["seen"] += 1
        if event.client not in self._ranges:
            ignore(counts, "outsider")
        elif not event.addresses:
            ignore(counts, "no-address")
        else:
            counts["recorded"] += 1
            if self._is_crowded and event.host not in self._pool:
                self._answers.evicted += len(event.addresses)
                return
            self._answers.add(event)
            if self._pool.is_full and not self._is_crowded:
                self._make_room()

    def flows(self, deltas: NDArray[Any]) -> None:
        """Flow deltas of `collector.track.flows`."""
        self.counts["flows"]["seen"] += len(deltas)
        waiting = self._subscribers(deltas)
        self.counts["flows"]["open"] += len(waiting)
        self._deltas.add(waiting)

    def take(self, start_ns: int, end_ns: int, now_ns: int) -> dict[str, Columns]:
        """The visits of [start_ns, end_ns), and what is no longer needed is forgotten."""
        config = self._config
        form = RowForm(start_ns, end_ns, config.ipv6_prefix_len, config.by_connection)
        rows = VisitRows(form, self._pool)
        self._join(rows, end_ns)
        self._alone(rows, end_ns)
        columns = rows.columns(now_ns)
        self.counts["names"]["recorded"] += rows.handshakes
        self.counts["names"]["open"] -= rows.handshakes
        self.counts["flows"]["recorded"] += rows.deltas
        self.counts["flows"]["bytes.named"] += rows.volume
        ignore(self.counts["flows"], "idle", rows.idle_deltas)
        self._answers.expire(start_ns - config.answer_life_ns)
        self._forget_hosts()
        self._is_crowded = False
        self._report(start_ns, end_ns)
        self._taken_ns = end_ns
        return {VISIT.name: columns}

    def losses(self) -> list[Loss]:
        """Losses since the last call."""
        found, self._losses = self._losses, []
        return found

    def snapshot(self) -> dict[str, object]:
        """The names of flows that may still be open; answers and waiting deltas are left out."""
        latest = list(self._names.items())[-MAX_SNAPSHOT_FLOWS:]
        return {
            "taken_ns": self._taken_ns,
            "names": [
                [key.hex(), n.ts_ns, n.last_ns, n.host, n.evidence, n.ech, n.start_ns, n.counted]
                for key, names in latest
                for n in names
            ],
        }

    def restore(self, snapshot: Mapping[str, Any], now_ns: int) -> None:
        """Takes names over. Answers and names since the snapshot are gone, which is a loss."""
        for key, ts, last, host, evidence, ech, start, counted in snapshot["names"]:
            name = Name(ts, last, host, evidence, ech, start, counted, not counted)
            self._names.setdefault(bytes.fromhex(key), []).append(name)
            if not counted:
                self.counts["names"]["seen"] += 1
                self.counts["names"]["open"] += 1
        since = snapshot["taken_ns"] or now_ns
        self._losses.append(Loss(since, now_ns, "track", "restart", -1, "events", (VISIT.name,)))

    def _bound(self) -> None:
        """Keeps the table of names within its limit; those not touched longest go."""
        while len(self._names) > self._config.max_flows:
            self._evict(self._names.pop(next(iter(self._names))))

    def _evict(self, names: list[Name]) -> None:
        counts = self.counts["names"]
        never = sum(not name.counted for name in names)
        counts["lost"] += never
        counts["open"] -= never
        counts["evicted"] += len(names)
        self._evicted += len(names)

    def _subscribers(self, deltas: NDArray[Any]) -> NDArray[Any]:
        """The deltas that may be visits."""
        counts = self.counts["flows"]
        outsider = ~self._prefixes.contains(deltas["client"])
        portless = ~outsider & np.isin(deltas["protocol"], _PORTLESS)
        resolver = np.isin(deltas["server_port"], self._config.resolver_ports)
        resolver &= ~outsider & ~portless
        ignore(counts, "outsider", int(outsider.sum()))
        ignore(counts, "no-ports", int(portless.sum()))
        ignore(counts, "resolver", int(resolver.sum()))
        return deltas[~(outsider | portless | resolver)]

    def _led(self, deltas: NDArray[Any]) -> NDArray[np.uint32]:
        """The hosts of answers, at the flows' starts, that led to the servers."""
        return self._answers.hosts(deltas["client"], deltas["server"], begun_ns(deltas))

    def _make_room(self) -> None:
        """Forgets host names that nothing has any more. Where that is too few, answers go, and
        where flows that wait have the names, no new ones are taken until the window closes."""
        enough = self._config.max_hosts // 4 * 3
        self._forget_hosts()
        if len(self._pool) > enough:
            self._answers.halve()
            self._forget_hosts()
        self._is_crowded = len(self._pool) > enough

    def _forget_hosts(self) -> None:
        self._pool.keep([*self._answers.numbers(), *self._deltas.numbers()])

    def _join(self, rows: VisitRows, end_ns: int) -> None:
        """Gives flows their names, and the names with what the flows carried to the rows."""
        shared = shared_tuples(self._deltas.folds(end_ns), self._names)
        rest, led = [NO_DELTAS], [np.zeros(0, np.uint32)]
        for deltas, hosts in self._deltas.take(end_ns):
            self.counts["flows"]["open"] -= len(deltas)
            once = told_once(deltas, shared)
            self._join_once(pick(deltas, once), hosts[once], rows)
            rest.append(pick(deltas, ~once))
            led.append(hosts[~once])
        for flow in visit_flows(np.concatenate(rest), np.concatenate(led)):
            names = self._names_of(flow)
            carried = flow.up_bytes, flow.down_bytes, flow.deltas
            for name in names:
                name.last_ns = max(name.last_ns, flow.last_seen_ns)
                rows.add(flow.key, name, flow.start_ns or flow.first_seen_ns, *carried)
                carried = 0, 0, 0
            if not names:
                rule = "inbound" if flow.inbound else "nameless"
                self._unnamed(rule, flow.deltas, flow.up_bytes + flow.down_bytes)
        self._bound()

    def _join_once(self, deltas: NDArray[Any], hosts: NDArray[np.uint32], rows: VisitRows) -> None:
        """Flows of which there is one delta, and no handshake, have the names of answers."""
        named = hosts != NO_HOST
        rows.add_ended(pick(deltas, named), hosts[named])
        without = deltas[~named]
        carried = int(without["up_bytes"].sum()) + int(without["down_bytes"].sum())
        self._unnamed("nameless", len(without), carried)

    def _unnamed(self, rule: str, deltas: int, size: int) -> None:
        ignore(self.counts["flows"], rule, deltas)
        self.counts["flows"][f"bytes.{rule}"] += size

    def _names_of(self, flow: VisitFlow) -> list[Name]:
        """The names of a flow, its bytes' host first; empty for a nameless one.

        Only those of a flow that is open stay in the table.
        """
        key = flow.key
        held = self._names.pop(key, None)
        held, own = claim(held, flow) if held else ([], [])
        if not own and not flow.inbound and flow.host != NO_HOST:
            began_ns = flow.start_ns or flow.first_seen_ns
            host = self._pool.name(flow.host)
            own = [Name(began_ns, began_ns, host, "dns", False, flow.start_ns)]
            held += own
        if held and flow.end_ns != NEVER:
            held = [name for name in held if name.start_ns != flow.start_ns]
        if held:
            self._names[key] = held
        return own

    def _alone(self, rows: VisitRows, end_ns: int) -> None:
        """Rows for names without a delta in the window; names kept long enough are forgotten."""
        stale = []
        for key, names in self._names.items():
            newest = 0
            for name in names:
                if name.pending and name.ts_ns < end_ns:
                    rows.add(key, name, name.ts_ns)
                newest = max(newest, name.last_ns)
            keep_ns = UNCONFIRMED_NS if names[-1].start_ns == UNJOINED else FLOW_IDLE_NS
            if end_ns - newest > keep_ns:
                stale.append(key)
        for key in stale:
            del self._names[key]

    def _report(self, start_ns: int, end_ns: int) -> None:
        """Makes losses of the window's evictions."""
        for reason, amount in (
            ("name-table-full", self._evicted),
            ("answer-table-full", self._answers.evicted),
        ):
            if amount:
                self._losses.append(
                    Loss(start_ns, end_ns, "track", reason, amount, "events", (VISIT.name,))
                )
        self.counts["answers"]["evicted"] += self._answers.evicted
        self._evicted = self._answers.evicted = 0
