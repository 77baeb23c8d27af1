"""A batch's header and what the ledger says about it in, a verdict out. Pure.

The table of verdicts, in the order in which they are tested:

    header.collector is not the certificate's name       reject  identity
    rows of a schema this version does not know          reject  schema-version
    clocks further apart than the tolerance              retry   clock-skew
    sequence known, same batch                           duplicate
    sequence known, other batch                          reject  conflict
    sequence unknown, below the last one                 accept  late: it fills an earlier gap
    sequence is the one after the last                   accept
    sequence is further on                               gap     missing-batches

A duplicate is tested after the clock: a collector whose clock is wrong should learn so at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from collector.wire.batch import MAX_CLOCK_SKEW_NS, Header
from collector.wire.loss import Loss
from collector.wire.records import CLASSES, SCHEMA_VERSION

_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What the ledger knows of one epoch of one collector.

    last: highest sequence taken, 0 where none. last_end_ns: end of that batch's window, 0 where
    none. at_sequence: the batch that was taken under the header's own sequence, empty where none.
    """

    last: int = 0
    last_end_ns: int = 0
    at_sequence: str = ""


@dataclass(frozen=True, slots=True)
class Accept:
    """Store it. `reason` is "stored" or "late"."""

    reason: str = "stored"
    message: str = ""
    verdict: Literal["accept"] = "accept"


@dataclass(frozen=True, slots=True)
class Gap:
    """Store it, and `loss` too: batches between the last one and this one never came."""

    loss: Loss
    reason: str
    message: str
    verdict: Literal["gap"] = "gap"


@dataclass(frozen=True, slots=True)
class Duplicate:
    """It is stored already."""

    reason: str = "known"
    message: str = "already stored"
    verdict: Literal["duplicate"] = "duplicate"


@dataclass(frozen=True, slots=True)
class Reject:
    """It can never be taken as it is."""

    reason: str
    message: str
    verdict: Literal["reject"] = "reject"


@dataclass(frozen=True, slots=True)
class Retry:
    """A condition that will pass or be mended."""

    reason: str
    message: str
    verdict: Literal["retry"] = "retry"


Decision = Accept | Gap | Duplicate | Reject | Retry


def decide(
    header: Header,
    state: LedgerState,
    *,
    now_ns: int,
    sent_ns: int,
    identity: str,
    tolerance_ns: int = MAX_CLOCK_SKEW_NS,
) -> Decision:
    """The verdict on a batch.

    now_ns: this side's clock when the upload arrived. sent_ns: the collector's clock when it
    began to send. identity: the name in the collector's certificate.
    """
    refusal = check_identity(header, identity) or check_schema(header)
    if refusal is not None:
        return refusal
    skew = check_clock(now_ns, sent_ns, tolerance_ns)
    if skew is not None:
        return skew
    if state.at_sequence:
        if state.at_sequence == header.batch:
            return Duplicate()
        return Reject(
            "conflict",
            f"batch {header.sequence} of this spool was already taken with other contents: the"
            " spool folder was copied or restored from a backup. Move it away and restart the"
            " collector, which begins a new one.",
        )
    if header.sequence <= state.last:
        return Accept("late", "fills an earlier gap")
    if header.sequence == state.last + 1:
        return Accept()
    missing = header.sequence - state.last - 1
    return Gap(
        _missing(header, state, missing),
        "missing-batches",
        f"stored, but {missing} batches before it never came",
    )


def check_identity(header: Header, identity: str) -> Reject | None:
    """A collector speaks for itself alone."""
    if header.collector == identity:
        return None
    return Reject(
        "identity",
        "the batch names another collector than the certificate it came with: give this router"
        " its own certificate, or set the collector's name to the certificate's",
    )


def check_schema(header: Header) -> Reject | None:
    """Rows of a schema younger than this version's are refused with what to upgrade."""
    if header.schema_version <= SCHEMA_VERSION:
        return None
    return Reject(
        "schema-version",
        f"the batch has record schema {header.schema_version}, this aggregator reads up to"
        f" {SCHEMA_VERSION}: upgrade the aggregator",
    )


def check_clock(now_ns: int, sent_ns: int, tolerance_ns: int) -> Retry | None:
    """Windows of two clocks that disagree cannot be billed, so the batch waits for NTP."""
    ahead = sent_ns - now_ns
    if abs(ahead) <= tolerance_ns:
        return None
    side = "collector's clock is ahead of" if ahead > 0 else "collector's clock is behind"
    return Retry(
        "clock-skew",
        f"the {side} the aggregator's by {abs(ahead) // _S} s (tolerance"
        f" {tolerance_ns // _S} s): check NTP on both; the batch is kept until then",
    )


def _missing(header: Header, state: LedgerState, count: int) -> Loss:
    """The loss of `count` batches, from the end of the last one taken to this one's window."""
    end = header.window_start_ns
    start = min(state.last_end_ns or end, end)
    return Loss(
        start_ns=start,
        end_ns=max(end, start + 1),
        stage="uplink",
        reason="missing-batches",
        amount=count,
        unit="batches",
        classes=tuple(CLASSES),
        scope="collector",
    )
