"""Findings as text for people and as JSON lines for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Final

from collector.doctor.findings import Finding

_WIDTH: Final = 100
_INDENT: Final = " " * 9


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """One object a finding: severity, check, found, effect, mend."""
    for finding in findings:
        yield json.dumps(asdict(finding))


def table(findings: Sequence[Finding]) -> Iterator[str]:
    """A line for what was found; below it, unless all is well, the effect and the command."""
    for finding in findings:
        yield f"{finding.severity:<8} {finding.check}: {finding.found}"
        if finding.effect:
            yield textwrap.fill(
                finding.effect, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT
            )
        if finding.mend:
            yield f"{_INDENT}> {finding.mend}"  # whole, so that it can be copied
    bad = [finding.severity for finding in findings]
    yield f"{bad.count('error')} errors, {bad.count('warning')} warnings"
