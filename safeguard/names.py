"""The checks of a proof by name, each with the promise that it is about."""

from __future__ import annotations

from typing import Final

CHECKS: Final[dict[str, str]] = {
    "schema": "The tables and the wire format have the columns of the contract and no other.",
    "times": "No time is stored but the bounds of windows: none of an event.",
    "domain": "Every release has every cell of its public domain, zeros included, once.",
    "charges": "Every release is charged by its parameters, and no day is over its budget.",
    "ledger": "The audit log has every release, once, as the table has it.",
    "metrics": "No metric counts blocks, and no label names a category, a region or a block page.",
    "logs": "No log line tells of a block, a category, a household or a canary.",
    "spool": "No file of the spool has a tag, a key or a canary, or state beyond public facts.",
    "database": "No file of the database has a canary.",
    "memory": "The live collector's memory has no canary, and no core of it can be dumped.",
    "wire": "No byte that leaves the collector has a canary.",
    "key-rotation": "Each day has a key of its own, which is overwritten when the day is over.",
    "caps": "One household more or less changes no more than the ledger says, restarts included.",
    "zeros": "A day in which nobody met a block is released as any other, every cell of it.",
    "resend": "A window's noise is drawn once; what is sent again is the same bytes.",
    "noise": "The noise is exact discrete Laplace of the scale that the ledger says.",
}
"""caps, key-rotation, zeros, resend and noise run the installed collector's own code; the others
look at the tables, files and processes that there are."""
