"""Counters of a stage, in which seen = recorded + ignored + lost (+ open), and how they grow."""

from __future__ import annotations

from collections import Counter


def stage(*more: str) -> Counter[str]:
    """Counters at 0: those of the equation but for "open", and `more`."""
    return Counter(dict.fromkeys(("seen", "recorded", "ignored", "lost", *more), 0))


def ignore(counts: Counter[str], rule: str, amount: int = 1) -> None:
    """Counts what a rule leaves out, in all and as "ignored.RULE"."""
    if amount:
        counts["ignored"] += amount
        counts[f"ignored.{rule}"] += amount


def malformed(counts: Counter[str]) -> None:
    """Counts what a parser refused, which is ignored by rule."""
    counts["malformed"] += 1
    ignore(counts, "malformed")
