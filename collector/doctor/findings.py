"""A finding: how bad, what it does to the figures, and the command that mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["ok", "info", "warning", "error"]

EXIT_CODES: Final[dict[Severity, int]] = {"ok": 0, "info": 0, "warning": 1, "error": 2}
"""Of the worst finding: 0 nothing to mend, 1 figures are inexact or at risk, 2 figures are wrong or
a collector cannot work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `mend`: a command, empty where there is nothing to do."""

    severity: Severity
    check: str
    found: str
    effect: str = ""
    mend: str = ""


def exit_code(findings: Iterable[Finding]) -> int:
    """The process's exit code."""
    return max((EXIT_CODES[finding.severity] for finding in findings), default=0)
