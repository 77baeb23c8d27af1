"""Loss as a value: what every component gives when something may be missing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loss:
    """One loss over [start_ns, end_ns); `amount` in `unit`, -1 where it cannot be known.

    The fields are those of the `gap` record class, which says what each may hold.
    """

    start_ns: int
    end_ns: int
    stage: str
    reason: str
    amount: int
    unit: str
    classes: tuple[str, ...]
    scope: str = "collector"
