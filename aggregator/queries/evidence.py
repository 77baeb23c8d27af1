"""What a look-up asks and what it is answered from: mappings, holdings, losses; values only.

Evidence comes from the store, from a configuration or from a simulation, through one interface.
Times are microseconds UTC; addresses are sixteen bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from aggregator.queries.arithmetic import HOUR_US, SECOND_US, Interval

FOREVER: Final = 2**62
"""A time later than any: the end of what has none."""


@dataclass(frozen=True, slots=True)
class Question:
    """Who had `address` (16 bytes) at `at_us`? port, protocol: None where they are not known."""

    address: bytes
    at_us: int
    tolerance_us: int
    port: int | None = None
    protocol: int | None = None

    @property
    def span(self) -> Interval:
        """[first, last + 1) of the instants asked about."""
        return self.at_us - self.tolerance_us, self.at_us + self.tolerance_us + 1


@dataclass(frozen=True, slots=True)
class Margins:
    """clock_us: how far times of evidence may be off. tail_us: how long after its last proof a flow
    may go on untold: a window. settle_us: until a lost accounting message is made good."""

    clock_us: int = SECOND_US
    tail_us: int = 300 * SECOND_US
    settle_us: int = HOUR_US


@dataclass(frozen=True, slots=True)
class Mapping:
    """A translation in [start, end). `end_us` is the last proof; FOREVER for a configuration.

    is_open: a block whose release was not heard. batches: what it came in, for when it arrived.
    is_held: kept for a hold alone, past its period.
    """

    record: str
    kind: Literal["flow", "block", "deterministic"]
    collector: str
    inside: bytes
    inside_port: int
    protocol: int
    port_first: int
    port_last: int
    start_us: int
    end_us: int
    is_open: bool = False
    batches: tuple[bytes, ...] = ()
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class Holding:
    """One session's hold of a prefix, its day slices joined: from `start_us`, proven until
    `proof_us`, ended by `latest_us` at the latest (FOREVER where nothing says).

    is_proven: both the begin and what stands between were stated, not derived. is_held: kept for a
    hold alone, past its period.
    """

    records: tuple[str, ...]
    collector: str
    subscriber: str
    session: str
    prefix: bytes
    prefix_len: int
    start_us: int
    proof_us: int
    latest_us: int
    is_proven: bool = True
    nas: str = ""
    line: str = ""
    acct_session_id: str = ""
    end_reason: str = ""
    source: str = "accounting"
    batches: tuple[bytes, ...] = ()
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """Records of a class that are missing in [start, end); no collector: of all of them."""

    record_class: str
    collector: str
    start_us: int
    end_us: int
    reason: str


class Evidence(Protocol):
    """Where mappings, bindings and losses come from: the store, a configuration, a simulation."""

    def mappings(self, question: Question, from_us: int, to_us: int) -> Sequence[Mapping]:
        """Mappings of the address and port that may meet [from, to), their tails included."""

    def sharers(self, address: bytes, from_us: int, to_us: int) -> int | None:
        """How many inside addresses shared it in [from, to); None where it is not shared."""

    def holdings(self, address: bytes, from_us: int, to_us: int) -> Sequence[Holding]:
        """Holdings of the address, at every collector, that may meet [from, to)."""

    def losses(self, from_us: int, to_us: int) -> Sequence[Lost]:
        """What is missing of bindings and mappings in [from, to)."""
