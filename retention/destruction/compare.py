"""A certificate and a copy of the audit log in, what is wrong between them out. Asks no service.

The log itself is proved by `tallyhold audit verify`; here it is taken as the checkpoint has it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from retention.audit import canonical, sealed
from retention.audit.canonical import CanonicalError, Leaf
from retention.audit.checkpoint import Key, NoteError
from retention.audit.log import LogError, LogReader

_KINDS = ("purge.certificate-pending", "purge.certificate-final")


def file_of(answer: Any) -> bytes:
    """The certificate's file as it stands beside the log; raises ValueError.

    An answer is that very object, and canonical JSON has one form of it.
    """
    data = canonical.encode(answer) + b"\n"
    sealed.parse(data)
    return data


def problems(data: bytes, folder: Path) -> tuple[list[str], int]:
    """What is wrong with a certificate by a log, and the index of its leaf (-1 for none).

    Raises LogError, NoteError, CanonicalError or OSError where either cannot be read.
    """
    found = sealed.parse(data)
    log = LogReader(folder)
    log.load()
    purge, digest = found.certificate.get("purge"), hashlib.sha256(data).hexdigest()
    wrong: list[str] = []
    try:
        found.check()
    except NoteError as error:
        wrong.append(str(error))
    if log.size and found.key != Key.parse(str(_leaf(log, 0).get("key", ""))):
        wrong.append("it is not signed by this log's key")
    index, leaf, intent = _search(log, purge, digest)
    if leaf is None:
        wrong.append("no leaf of this log states this certificate")
    elif intent is None:
        wrong.append("the log has no intent of this purge")
    else:
        odd = sealed.contradictions(found.certificate, leaf, intent)
        wrong += [f"it says otherwise than the log: {', '.join(odd)}"] if odd else []
    return wrong, index


def _search(log: LogReader, purge: object, digest: str) -> tuple[int, Leaf | None, Leaf | None]:
    """The certificate's leaf with its index, and the leaf of the purge's intent."""
    intent = None
    for index in range(log.size):
        leaf = _leaf(log, index)
        if leaf.get("purge") != purge:
            continue
        if leaf["kind"] == "purge.intent":
            intent = leaf
        elif leaf["kind"] in _KINDS and leaf.get("digest") == digest:
            return index, leaf, intent
    return -1, None, intent


def _leaf(log: LogReader, index: int) -> Leaf:
    return canonical.decode(log.entry(index))


ERRORS = (LogError, NoteError, CanonicalError)
"""Of a certificate or a log that cannot be read."""
