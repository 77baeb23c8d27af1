"""Certificates of destruction: pending when the rows are dropped, final when no disk has them.

A file comes first, durable, then its leaf with the file's SHA-256. Files stand in the log's folder,
where auditors take them from, and a second time in the register's, from which a lost one is put
back. A file that a crash left without its leaf is told of as it is: what it says was so.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from aggregator.store.client import StoreError
from retention.audit import canonical, disk, sealed
from retention.audit.canonical import Leaf
from retention.audit.checkpoint import NoteError
from retention.destruction.context import Context, Finding, log
from retention.destruction.plan import iso
from retention.model import Place, Purge, Step
from retention.policy.partitions import span
from retention.register import leaves as build
from retention.vault.port import Residue

VERSION: Final = 1
"""Of the certificate's fields; a reader that does not know it must not guess."""
PENDING: Final = "purge.certificate-pending"
FINAL: Final = "purge.certificate-final"
UNVERIFIED: Final = "not-verified"
"""What a certificate waits for when the engine could not be asked."""
_KINDS: Final = {PENDING: Step.PENDING, FINAL: Step.FINAL}


@dataclass(frozen=True, slots=True)
class Issued:
    """What one round came to."""

    pending: tuple[str, ...] = ()
    final: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


class Certificates:
    """Issues certificates, polls what they wait for, and keeps files and leaves together."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.RLock()
        """One thread at a time issues: two would both find a purge without its certificate."""

    def issue(self) -> Issued:
        """Pending certificates for what was dropped, final ones for what is gone from every disk.

        Raises RegisterError and OSError; a purge that the engine cannot tell of waits.
        """
        with self._lock:
            return self._issue()

    def _issue(self) -> Issued:
        register = self._context.register
        pending, final, waiting = self.pend(), list[str](), list[str]()
        for purge in register.purges(step=Step.PENDING):
            residue = self._residue(purge)
            if not residue.waiting:
                self._certify(replace(purge, waiting=()), FINAL, residue)
                final.append(purge.id)
                continue
            waiting.append(purge.id)
            if residue.waiting != purge.waiting:
                self._context.write(purges=[replace(purge, waiting=residue.waiting)])
        return Issued(pending, tuple(final), tuple(waiting))

    def pend(self) -> tuple[str, ...]:
        """Pending certificates alone, which a run issues at once."""
        issued = list[str]()
        with self._lock:
            for purge in self._context.register.purges(step=Step.DROPPED):
                residue = self._residue(purge)
                self._certify(replace(purge, waiting=residue.waiting), PENDING, residue)
                issued.append(purge.id)
        return tuple(issued)

    def read(self, purge: str) -> bytes | None:
        """The file of a purge's latest certificate, or None while there is none."""
        found = self._context.register.purge(purge)
        if found is None or found.step not in _KINDS.values():
            return None
        kind = FINAL if found.step is Step.FINAL else PENDING
        return self._kept(purge, kind).read_bytes()

    def repair(self) -> tuple[Finding, ...]:
        """Bring files and leaves together, all of them; gives what was wrong and what still is."""
        findings = list[Finding]()
        known = dict[str, Purge]()
        with self._context.register.audit() as audit:
            folder = audit.folder
        for purge in self._context.register.purges():
            for kind in self._owed(purge):
                path = sealed.path_of(purge.id, kind)
                known[path] = purge
                text = self._restored(folder / path, self._kept(purge.id, kind), purge)
                if text:
                    findings.append(Finding("certificate", purge.partition.place, f"{path} {text}"))
        for each in sorted((folder / sealed.FOLDER).glob("*")):
            path = each.relative_to(folder).as_posix()
            if path not in known and not self._may_come(path):
                text = f"{path} is a file that no purge accounts for"
                findings.append(Finding("certificate", Place("", 0), text))
        for finding in findings:
            log.error("%s", finding.text)
        return tuple(findings)

    def _owed(self, purge: Purge) -> list[str]:
        """Kinds of the certificates that have their leaf."""
        if purge.step is Step.FINAL:
            return [PENDING, FINAL]
        return [PENDING] if purge.step is Step.PENDING else []

    def _may_come(self, path: str) -> bool:
        """Whether a file is the next certificate of its purge, whose leaf a crash kept away."""
        if not sealed.is_path(path):
            return False
        name, kind, _ = path.removeprefix(f"{sealed.FOLDER}/").rsplit(".", 2)
        purge = self._context.register.purge(name)
        step = Step.DROPPED if kind == "pending" else Step.PENDING
        return purge is not None and purge.step is step

    def _restored(self, path: Path, kept: Path, purge: Purge) -> str:
        """Make a file and its second copy the same; gives what was wrong, or ""."""
        good, copy = (_sound(each, purge) for each in (path, kept))
        if good is not None and good == copy:
            return ""
        if good is not None:
            disk.make_folder(kept.parent, 0o700)
            disk.replace(kept, good)
            return "had no sound second copy, and has one now"
        if copy is not None:
            disk.make_folder(path.parent)
            disk.replace(path, copy)
            return "was missing or changed, and is put back"
        return "is missing or changed, and there is no sound copy of it"

    def _residue(self, purge: Purge) -> Residue:
        try:
            return self._context.vault.residue(purge)
        except StoreError as error:
            log.warning("certificate of %s waits: %s", purge.id, error)
            return Residue(waiting=(UNVERIFIED,))

    def _certify(self, purge: Purge, kind: str, residue: Residue) -> None:
        """File, second copy, leaf, in this order."""
        register = self._context.register
        purge = replace(purge, step=_KINDS[kind])
        with register.audit() as audit:
            path = audit.folder / sealed.path_of(purge.id, kind)
            found = self._adopted(path, purge)
            if found is None:
                if kind == FINAL:
                    purge = replace(purge, final_us=self._context.believed_us())
                data = audit.seal(
                    self._fields(purge, kind, residue, audit.checkpoint().partition("\n")[0])
                )
            else:
                data, purge, backups = found
            kept = self._kept(purge.id, kind)
            disk.make_folder(kept.parent, 0o700)
            disk.replace(kept, data)
            digest = audit.keep_certificate(purge.id, kind, data)
        if kind == FINAL:
            count = len(residue.backups) if found is None else backups
            leaf = build.purge_certificate_final(purge, digest, count)
        else:
            leaf = build.purge_certificate_pending(purge, digest)
        self._context.write(purges=[purge], leaves=[leaf])

    def _adopted(self, path: Path, purge: Purge) -> tuple[bytes, Purge, int] | None:
        """A file that stands there already, if it is a certificate of this purge as it is."""
        data = _sound(path, purge)
        if data is None:
            return None  # there is none, or a torn write, whose place the new one takes
        fields = sealed.parse(data).certificate
        waiting = tuple(str(each) for each in fields["waiting"])
        final_us = int(fields["times"]["final"]["us"]) if "final" in fields["times"] else 0
        return data, replace(purge, waiting=waiting, final_us=final_us), len(fields["backups"])

    def _kept(self, purge: str, kind: str) -> Path:
        return self._context.register.folder / sealed.path_of(purge, kind)

    def _fields(self, purge: Purge, kind: str, residue: Residue, origin: str) -> Leaf:
        """All that the certificate says; every value has a canonical form."""
        place = purge.partition.place
        days = span(place)
        fields: Leaf = {
            "format": "tallyhold-certificate",
            "version": VERSION,
            "state": kind.rpartition("-")[2],
            **_counts(purge),
            "class": place.record_class,
            "partition": place.name,
            "store": purge.store,
            "start": days[0],
            "end": days[1],
            "earliest": purge.partition.earliest_us,
            "latest": purge.partition.latest_us,
            "retain_until": purge.retain_until_us,
            "holds": [
                {"hold": each.hold, "rows": each.rows, "root": each.root} for each in purge.held
            ],
            "preserved_digest": purge.digest,
            "statements": list(statements(purge)),
            "replicas": plain(dict(residue.evidence)),
            "waiting": list(purge.waiting),
            "backups": plain([dict(each) for each in residue.backups]),
            "operator": self._context.person(purge.operator),
            "times": {
                name: {"us": at, "iso": iso(at)}
                for name, at in {
                    "start": days[0],
                    "end": days[1],
                    "retain_until": purge.retain_until_us,
                    "intent": purge.intent_us,
                    "dropped": purge.dropped_us,
                    "issued": self._context.believed_us(),
                    "final": purge.final_us,
                }.items()
                if at
            },
            "log": {"origin": origin, "dropped": self._dropped_leaf(purge)},
        }
        canonical.encode(fields)
        return fields

    def _dropped_leaf(self, purge: Purge) -> int:
        """Index of the purge's `dropped` leaf; looked for from the log's end."""
        with self._context.register.audit() as audit:
            for index in range(audit.size - 1, -1, -1):
                leaf = canonical.decode(audit.entry(index))
                if leaf["kind"] == "purge.dropped" and leaf["purge"] == purge.id:
                    return index
        raise LookupError(f"the log has no leaf of the drop of {purge.id}")


def _sound(path: Path, purge: Purge) -> bytes | None:
    """A file's bytes, if they are a rightly signed certificate of this purge as it is."""
    if not path.exists():
        return None
    data = path.read_bytes()
    try:
        found = sealed.parse(data)
        found.check()
    except NoteError:
        return None
    fields = found.certificate
    return data if all(fields.get(k) == value for k, value in _counts(purge).items()) else None


def _counts(purge: Purge) -> dict[str, Any]:
    """What certificate and leaves must both state."""
    return {
        "purge": purge.id,
        "policy": purge.policy,
        "generation": purge.generation,
        "rows_before": purge.rows_before,
        "preserved": purge.preserved,
        "destroyed": purge.destroyed,
    }


def statements(purge: Purge) -> tuple[str, ...]:
    """What was run, in the order it was run, without the identifiers that were looked for."""
    table, part = purge.partition.place.record_class, purge.partition.place.name
    source = f"vault_{table}" if purge.store == "vault" else table
    staged = (
        f"INSERT INTO staging_{table} SELECT chosen rows FROM {source}",
        f"ALTER TABLE vault_{table} REPLACE PARTITION {part} FROM staging_{table}",
    )
    drop = f"ALTER TABLE {source} DROP PARTITION {part}"
    if purge.store == "live":
        return (*staged, drop) if purge.preserved else (drop,)
    return staged if purge.preserved else (drop,)


def plain(value: Any) -> Any:
    """A value with a canonical form: what JSON has none for becomes text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= canonical.MAX_INTEGER else str(value)
    if isinstance(value, dict):
        return {
            str(name).encode("ascii", "replace").decode(): plain(v) for name, v in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    return str(value)
