"""A signed report or proof in, what is wrong with it out. Stands alone: no database, no network.

    python -m safeguard.verify REPORT [--key VKEY]      or      tallyhold safeguard verify REPORT

It needs the standard library and `cryptography`, and this product's pure modules.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from retention.audit.checkpoint import Key, NoteError
from safeguard.document import (
    MAX_DOCUMENT,
    PROOF,
    REPORT,
    Document,
    DocumentError,
    check,
    parse,
)
from safeguard.ledger import unlike
from safeguard.model import of_document
from safeguard.names import CHECKS
from safeguard.rules import PROOF_SHAPE, REPORT_SHAPE, judge

MAX_FINDINGS: Final = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and the rule that says so."""

    rule: str
    text: str


@dataclass
class Verdict:
    """What was found; good where nothing was."""

    kind: str = ""
    key: str = ""
    key_given: bool = False
    findings: list[Finding] = field(default_factory=list)
    says: list[str] = field(default_factory=list)
    """What a good document says, in short."""

    @property
    def good(self) -> bool:
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """The verdict for programs."""
        found = [{"rule": each.rule, "text": each.text} for each in self.findings]
        return {"good": self.good, "kind": self.kind, "key": self.key, "findings": found}

    def lines(self) -> list[str]:
        """The verdict for a person."""
        if not self.good:
            lines = [f"{each.text} [{each.rule}]" for each in self.findings]
            return [*lines, f"WRONG: {len(lines)} findings"]
        lines = ["good: " + "; ".join(self.says)]
        if not self.key_given:
            lines.append(f"note: the key is the document's own word; compare it: {self.key}")
        return lines


def verify(
    data: bytes, key: Key | None = None, leaves: Mapping[str, Document] | None = None
) -> Verdict:
    """Check a signed document; never raises for what is in it.

    key: whose signature it has to have. leaves: `safeguard.window` leaves of an audit log by
    release, each of which the report's ledger has to agree with.
    """
    verdict = Verdict(key_given=key is not None)
    try:
        signed = parse(data)
    except DocumentError as error:
        verdict.findings.append(Finding("document", str(error)))
        return verdict
    verdict.key = str(signed.key)
    if key is not None and signed.key != key:
        verdict.findings.append(Finding("signature", f"signed by another key, {signed.key.name}"))
    try:
        signed.check()
    except NoteError as error:
        verdict.findings.append(Finding("signature", str(error)))
    document = signed.document
    verdict.kind = str(document.get("kind"))
    try:
        if verdict.kind == PROOF:
            check(document, PROOF_SHAPE)
            found = _proof(document)
        else:
            check(document, REPORT_SHAPE)
            found = judge(document)
    except DocumentError as error:
        verdict.findings.append(Finding("shape", str(error)))
        return verdict
    for rule, text in found:
        if len(verdict.findings) < MAX_FINDINGS:
            verdict.findings.append(Finding(rule, text))
    if leaves is not None and verdict.kind == REPORT and verdict.good:
        entries = [of_document(document, each) for each in document["ledger"]]
        verdict.findings += [Finding("log", text) for text in unlike(entries, leaves)]
    verdict.says = _says(document) if verdict.good else []
    return verdict


def _proof(document: Document) -> Iterator[tuple[str, str]]:
    """Every check has to be there, and none may have failed."""
    names = [each["name"] for each in document["checks"]]
    if len(set(names)) != len(names):
        yield "checks", "a check stands there twice"
    for missing in sorted(CHECKS.keys() - set(names)):
        yield "checks", f"no check {missing}"
    for each in document["checks"]:
        if each["outcome"] == "failed":
            yield each["name"], "; ".join(each["found"]) or "failed"
        elif each["outcome"] == "passed" and each["found"]:
            yield each["name"], "passed, with findings"


def _says(document: Document) -> list[str]:
    if document["kind"] == PROOF:
        outcomes = [each["outcome"] for each in document["checks"]]
        told = [f"{outcomes.count('passed')} checks passed"]
        left = outcomes.count("not checked")
        return told + ([f"{left} not checked, as parts were not given"] if left else [])
    counts = sum(len(each["counts"]) for each in document["figures"])
    most = max((day["epsilon_micro"] for day in document["days"]), default=0)
    return [
        f"{len(document['ledger'])} releases, {counts} cells",
        f"no day cost more than {most / 1e6:g} of {document['budget_micro'] / 1e6:g}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the module run alone: 0 if good, 1 if not, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="verify", description="Verify a SafeGuard report.")
    parser.add_argument("report", type=Path)
    parser.add_argument("--key", type=Key.parse, metavar="VKEY")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with given.report.open("rb") as file:
        verdict = verify(file.read(MAX_DOCUMENT + 1), given.key)
    shown = [json.dumps(verdict.as_json(), indent=2)] if given.json else verdict.lines()
    sys.stdout.write("\n".join(shown) + "\n")
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
