"""Facts in, all findings out, the worst first."""

from __future__ import annotations

from typing import Final

from collector.config import Config
from collector.doctor import kernel, machine
from collector.doctor.facts import Facts
from collector.doctor.findings import Finding, Severity

_ORDER: Final[tuple[Severity, ...]] = ("error", "warning", "info", "ok")


def examine(facts: Facts, config: Config) -> list[Finding]:
    """Every check, in the order of the pipeline within one severity."""
    findings = [
        *kernel.rights(facts),
        *kernel.interfaces(facts),
        *kernel.offloads(facts),
        *kernel.sets(facts),
        *machine.ratio(facts),
        *kernel.tracking(facts),
        *machine.delivery(facts, config.flows.reliable),
        *machine.buffers(facts, config.limits.receive_buffer_bytes),
        *machine.clock(facts),
        *machine.disk(facts, str(config.spool.folder), config.spool.max_bytes),
        *machine.running(facts, config.metrics.listen),
    ]
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))
