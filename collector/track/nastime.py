"""When an accounting event happened: capture time less the delay, bounded by the NAS's own stamp.

Acct-Delay-Time (RFC 2866 section 5.2) counts whole seconds, so a resent event is known to a second
at best; Event-Timestamp (RFC 2869 section 5.3) names the second it happened in, on a clock that may
be wrong. The stamp is used only where the clock was seen to be right, and only to bound the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

SECOND_NS: Final = 1_000_000_000
MAX_SKEW_NS: Final = SECOND_NS
"""A clock further off than this is not disciplined, may step, and is not used."""
MAX_CORRECTION_NS: Final = 300 * SECOND_NS
"""Largest correction: a NAS that resends without counting the delay gives up well before."""
SAMPLES: Final = 16
"""Events from which the skew is learned: enough for one to have come without queueing."""


@dataclass(slots=True)
class NasClock:
    """What is learned of one NAS's clock.

    `samples` are capture time less Event-Timestamp of events sent without delay, in ns. Each is
    the clock's lag plus the way to us (never negative) plus a fraction of a second, so the least
    of them is nearest to the lag; values in [0, 1 s) are what a right clock gives.
    """

    samples: list[int] = field(default_factory=list)
    least: int = 0
    """The least of them; 0 without any."""

    def event_ns(self, ts_ns: int, delay_s: int | None, event_s: int | None) -> int:
        """Epoch nanoseconds of the event; learns from it."""
        at = ts_ns - (delay_s or 0) * SECOND_NS
        if event_s is None:
            return at
        stamp = event_s * SECOND_NS
        if not delay_s:
            self._learn(ts_ns - stamp)
        least = self.least
        if not -MAX_SKEW_NS <= least <= 2 * SECOND_NS:
            return at
        # The event lies in [stamp, stamp + 1 s) of the NAS's clock. Whether a least sample under
        # 1 s is lag or fraction is open: a resend, known to a second only, takes it for fraction;
        # a first copy is good to the way it came and is moved only where neither explains it.
        lag = max(0, least - SECOND_NS) if delay_s else max(0, least)
        low = stamp + min(0, least)
        high = stamp + SECOND_NS - 1 + lag
        if low <= at <= high:
            return at
        bounded = min(max(at, low), high)
        return bounded if abs(bounded - at) <= MAX_CORRECTION_NS else at

    def _learn(self, sample: int) -> None:
        gone = self.samples.pop(0) if len(self.samples) >= SAMPLES else None
        self.samples.append(sample)
        if sample <= self.least:
            self.least = sample
        elif gone == self.least or len(self.samples) == 1:
            self.least = min(self.samples)

    def to_json(self) -> list[int]:
        return self.samples

    @classmethod
    def from_json(cls, data: Any) -> NasClock:
        samples = [int(sample) for sample in data]
        return cls(samples, min(samples, default=0))
