"""What a verification found, as values, lines for a person and JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where (a path, or `leaf 12`), which rule, and in words."""

    where: str
    rule: str
    text: str


@dataclass
class Report:
    """What was checked and what is wrong."""

    origin: str = ""
    size: int = 0
    root: str = ""
    key: str = ""
    key_given: bool = False
    last_at: int = 0
    """Time of the last leaf, microseconds since 1970."""
    witnesses: dict[str, dict[str, int]] = field(default_factory=dict)
    """Witness to the largest size it signed and when, seconds since 1970."""
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is not wrong, but should be looked at."""

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        shown = {name: value for name, value in vars(self).items() if name != "findings"}
        found = [{"where": f.where, "rule": f.rule, "text": f.text} for f in self.findings]
        return {"good": self.good, **shown, "findings": found}

    def lines(self) -> list[str]:
        """The report for a person."""
        lines = [f"{found.where}: {found.text} [{found.rule}]" for found in self.findings]
        if not self.good:
            return [*lines, f"WRONG: {len(lines)} findings in a log of {self.size} leaves"]
        lines.append(f"good: {self.origin}, {self.size} leaves, root {self.root}")
        for name, seen in sorted(self.witnesses.items()):
            lines.append(f"witness {name}: signed {seen['size']} leaves at {seen['seconds']}")
        lines += [f"note: {note}" for note in self.notes]
        if not self.key_given:
            lines.append(f"note: the key is the log's own word; compare it: {self.key}")
        if not self.witnesses:
            lines.append("note: no witness signed, so a log cut back to an earlier end looks whole")
        return lines
