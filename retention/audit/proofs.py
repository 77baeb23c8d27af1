"""A log and what is asked about in, proofs that hold without the log out.

Of a purge: the leaf that says it destroyed, those of its certificates, and the certificates.
"""

from __future__ import annotations

from typing import Any, Final

from retention.audit import merkle, sealed
from retention.audit.canonical import decode
from retention.audit.checkpoint import Key, parse_proof
from retention.audit.log import LogError, LogReader
from retention.audit.merkle import ENTRIES, TILE, Tile

Proved = dict[str, Any]
"""index, kind, leaf (its canonical text) and proof (C2SP tlog-proof)."""

_KINDS: Final = ("purge.dropped", "purge.certificate-pending", "purge.certificate-final")


def of_leaf(log: LogReader, index: int) -> Proved:
    """One leaf with its proof; raises LogError if there is none."""
    leaf = log.entry(index)
    kind = decode(leaf)["kind"]
    return {"index": index, "kind": kind, "leaf": leaf.decode(), "proof": log.prove(index)}


def of_purge(log: LogReader, purge: str) -> dict[str, Any]:
    """What proves a destruction: {"purge", "leaves", "certificates"}.

    certificates: the files' texts by "pending" and "final". Raises LogError for a purge that
    destroyed nothing, and for a certificate that is not the one its leaf states.
    """
    found = [of_leaf(log, index) for index in _indexes(log, purge)]
    if not found:
        raise LogError(f"no leaf says that purge {purge} destroyed")
    texts = dict[str, str]()
    for each in found[1:]:
        path = sealed.path_of(purge, each["kind"])
        data = (log.folder / path).read_bytes()
        if sealed.digest(data) != decode(each["leaf"].encode())["digest"]:
            raise LogError(f"{path} is not the certificate that its leaf states")
        texts[each["kind"].rpartition("-")[2]] = data.decode()
    return {"purge": purge, "leaves": found, "certificates": texts}


def text(proved: dict[str, Any]) -> str:
    """A purge's proofs for a person and for a file: each part under a line that says what it is."""
    parts = []
    for each in proved["leaves"]:
        parts.append(f"# leaf {each['index']}, {each['kind']}\n{each['leaf']}\n\n{each['proof']}")
    for name, data in proved["certificates"].items():
        parts.append(f"# certificate, {name}\n{data}")
    return "\n".join(parts)


def holds(proved: Proved, key: Key) -> bool:
    """Whether a leaf is in the log of this key, by the proof alone; raises NoteError."""
    index, path, note = parse_proof(proved["proof"])
    note.signed_by(key)
    hashed = merkle.leaf_hash(proved["leaf"].encode())
    return merkle.included(hashed, index, note.size, path, note.root)


def _indexes(log: LogReader, purge: str) -> list[int]:
    """The drop's leaf and the certificates', in order; bundle by bundle, as there are many."""
    found, sought = [], f'"purge":"{purge}"'.encode()
    for number in range(-(-log.size // TILE)):
        tile = Tile(ENTRIES, number, min(TILE, log.size - number * TILE))
        for at, data in enumerate(log.bundle(tile)):
            if sought in data:
                leaf = decode(data)
                if leaf["kind"] in _KINDS and leaf["purge"] == purge:
                    found.append(number * TILE + at)
    return found
