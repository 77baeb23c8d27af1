"""Who had an address and port at a time: the store and the configuration asked, JSON out.

    desk = Who(Rules(), client)
    desk.look_up(question, now_us)

The caller has written the audit leaf before it gives the answer to anybody.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aggregator.queries.arithmetic import iso
from aggregator.queries.deterministic import Deterministic
from aggregator.queries.evidence import FOREVER, Holding, Lost, Mapping, Margins, Question
from aggregator.queries.lookup import Answer, Candidate, look_up
from aggregator.queries.lookup_store import Kept, StoreEvidence
from aggregator.queries.reading import Reader
from collector.wire.addr import MAPPED, unpack

MAX_LOSSES: Final = 100
"""Losses in one answer; the count tells of more."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Rules:
    """What is configured: versions of deterministic NAT, shared addresses, margins."""

    deterministic: Deterministic = field(default_factory=Deterministic)
    shared: tuple[Network, ...] = ()
    margins: Margins = field(default_factory=Margins)


class Sources:
    """The three sources of mappings behind one interface, and the store's bindings and losses.

    held: what else the store may tell of; a record that is in both is the live one.
    """

    def __init__(
        self, rules: Rules, store: StoreEvidence, held: StoreEvidence | None = None
    ) -> None:
        self._rules = rules
        self._store = store
        self._held = held

    def mappings(self, question: Question, from_us: int, to_us: int) -> Sequence[Mapping]:
        """Flow events, block events and configuration together."""
        stored = self._store.mappings(question, from_us, to_us)
        known = {each.record for each in stored}
        held = self._held.mappings(question, from_us, to_us) if self._held else []
        return [
            *self._rules.deterministic.mappings(question, from_us, to_us),
            *stored,
            *(each for each in held if each.record not in known),
        ]

    def sharers(self, address: bytes, from_us: int, to_us: int) -> int | None:
        """By configuration, by what was mapped, or 0 of an address that is said to be shared."""
        counts = [
            count
            for count in (
                self._rules.deterministic.sharers(address, from_us, to_us),
                self._store.sharers(address, from_us, to_us),
                0 if self._is_shared(address) else None,
            )
            if count is not None
        ]
        return max(counts, default=None)

    def holdings(self, address: bytes, from_us: int, to_us: int) -> Sequence[Holding]:
        stored = self._store.holdings(address, from_us, to_us)
        known = {record for each in stored for record in each.records}
        held = self._held.holdings(address, from_us, to_us) if self._held else []
        return [*stored, *(each for each in held if not known.issuperset(each.records))]

    def losses(self, from_us: int, to_us: int) -> Sequence[Lost]:
        return self._store.losses(from_us, to_us)

    def _is_shared(self, address: bytes) -> bool:
        number = ipaddress.ip_address(unpack(address))
        return any(number in each for each in self._rules.shared if each.version == number.version)


@dataclass(frozen=True, slots=True)
class Found:
    """An answer as JSON; digest: of what it says, the same while the evidence is the same."""

    plain: dict[str, Any]
    digest: str
    count: int


class Who:
    """Look-ups in one store under one set of rules."""

    def __init__(self, rules: Rules, client: Reader) -> None:
        self._rules = rules
        self._client = client

    def look_up(self, question: Question, kept: Kept | None = None) -> Found:
        """The graded answer. Raises StoreError, and TooMany where nobody can be told apart."""
        store = StoreEvidence(self._client)
        held = StoreEvidence(self._client, kept) if kept else None
        answer = look_up(question, Sources(self._rules, store, held), self._rules.margins)
        batches = {
            batch
            for each in answer.candidates
            for source in (each.mapping, each.holding)
            if source is not None
            for batch in source.batches
        }
        arrived = store.arrived(batches, question.span[0])
        plain = answer_plain(answer, arrived)
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
        return Found(plain, digest, answer.count)


def answer_plain(answer: Answer, arrived: dict[bytes, int]) -> dict[str, Any]:
    """An answer with its evidence: record ids, their sources, and when each arrived."""
    question, margins = answer.question, answer.margins
    return {
        "address": unpack(question.address),
        "port": question.port,
        "protocol": question.protocol,
        "at": iso(question.at_us),
        "tolerance_s": question.tolerance_us / 1e6,
        "clock_error_s": margins.clock_us / 1e6,
        "grade": answer.grade.value,
        "because": answer.because,
        "count": answer.count,
        "candidates": [_candidate(each, arrived) for each in answer.candidates],
        "losses": [
            {
                "class": each.record_class,
                "collector": each.collector,
                "start": iso(each.start_us),
                "end": _end(each.end_us),
                "reason": each.reason,
            }
            for each in answer.losses[:MAX_LOSSES]
        ],
        "losses_count": len(answer.losses),
    }


def _candidate(each: Candidate, arrived: dict[bytes, int]) -> dict[str, Any]:
    mapping, holding = each.mapping, each.holding
    return {
        "grade": each.grade.value,
        "subscriber": each.subscriber,
        "because": each.because,
        "mapping": mapping and {
            "record": mapping.record,
            "source": mapping.kind,
            "collector": mapping.collector,
            "inside": unpack(mapping.inside),
            "inside_port": mapping.inside_port,
            "protocol": mapping.protocol,
            "ports": [mapping.port_first, mapping.port_last],
            "from": iso(mapping.start_us),
            "proven_until": _end(mapping.end_us),
            "arrived": _arrived(mapping.batches, arrived),
            **({"held": True} if mapping.is_held else {}),
        },
        "binding": holding and {
            "records": list(holding.records),
            "source": holding.source,
            "collector": holding.collector,
            "prefix": _prefix(holding),
            "from": iso(holding.start_us),
            "proven_until": iso(holding.proof_us),
            "until_at_latest": _end(holding.latest_us),
            "arrived": _arrived(holding.batches, arrived),
            **({"held": True} if holding.is_held else {}),
        },
        "session": holding and {
            "session": holding.session,
            "nas": holding.nas,
            "line": holding.line,
            "acct_session_id": holding.acct_session_id,
            "end_reason": holding.end_reason,
        },
    }  # fmt: skip


def _end(us: int) -> str:
    """An end, empty where there is none."""
    return "" if us >= FOREVER else iso(us)


def _prefix(holding: Holding) -> str:
    is_v4 = holding.prefix[:12] == MAPPED
    return f"{unpack(holding.prefix)}/{holding.prefix_len - 96 if is_v4 else holding.prefix_len}"


def _arrived(batches: tuple[bytes, ...], arrived: dict[bytes, int]) -> str:
    """When the newest of the evidence arrived; empty where it came in no batch."""
    return iso(max((arrived.get(each, 0) for each in batches), default=0))
