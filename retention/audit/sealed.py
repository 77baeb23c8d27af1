"""Certificates of destruction: one line of signed canonical JSON, in and out; compared with leaves.

    {"certificate":{…},"key":"<verifier key>","signature":"<base64>"}

The signature is Ed25519 over the canonical bytes of the certificate alone. It cannot be mistaken
for one of a checkpoint by the same key: those texts have line ends, canonical JSON has none.
Files stand beside the log as `certificates/<purge>.pending.json` and `….final.json`; a leaf has
the SHA-256 of the whole file.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from retention.audit.canonical import CanonicalError, Leaf, decode, encode
from retention.audit.checkpoint import Key, NoteError, Signer, from_base64, to_base64

FOLDER: Final = "certificates"
MAX_CERTIFICATE: Final = 1 << 20
"""Bytes: 400 held roots take 60,000, the evidence of a replica about a thousand."""

_NAME: Final = re.compile(rf"{FOLDER}/([A-Za-z0-9][A-Za-z0-9._:-]{{0,63}})\.(pending|final)\.json")
_OF_LEAF: Final = ("purge", "policy", "generation", "rows_before", "preserved", "destroyed")
_OF_INTENT: Final = ("class", "partition")
_IF_THERE: Final = ("store", "start", "end", "earliest", "latest", "retain_until")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A certificate as it was read, with the key it says it is signed by."""

    certificate: Leaf
    key: Key
    signature: bytes

    def check(self) -> None:
        """Raise NoteError unless that key signed it. Whose key it is, is for the caller to know."""
        self.key.verify(encode(self.certificate), self.signature)


def seal(certificate: Leaf, signer: Signer) -> bytes:
    """Sign a certificate and give the file's bytes; raises CanonicalError or NoteError."""
    signature = to_base64(signer.sign_bytes(encode(certificate)))
    line = encode({"certificate": certificate, "key": str(signer.key), "signature": signature})
    if len(line) >= MAX_CERTIFICATE:
        raise NoteError(f"a certificate of more than {MAX_CERTIFICATE} bytes")
    return line + b"\n"


def parse(data: bytes) -> Sealed:
    """Read a certificate's file; raises NoteError. The signature is not checked."""
    try:
        value = decode(data.removesuffix(b"\n"), MAX_CERTIFICATE)
    except CanonicalError as error:
        raise NoteError(f"not a certificate: {error}") from error
    if value.keys() != {"certificate", "key", "signature"}:
        raise NoteError("not a certificate: certificate, key and signature expected")
    certificate, key, signature = value["certificate"], value["key"], value["signature"]
    if not (isinstance(certificate, dict) and isinstance(key, str) and isinstance(signature, str)):
        raise NoteError("not a certificate: an object and two strings expected")
    return Sealed(certificate, Key.parse(key), from_base64(signature))


def digest(data: bytes) -> str:
    """What a leaf has of a certificate's file."""
    return hashlib.sha256(data).hexdigest()


def path_of(purge: str, kind: str) -> str:
    """Where in the log's folder the certificate of a leaf of this kind stands."""
    return f"{FOLDER}/{purge}.{kind.rpartition('-')[2]}.json"


def is_path(path: str) -> bool:
    """Whether a certificate can stand there."""
    return _NAME.fullmatch(path) is not None


def contradictions(
    certificate: Leaf, leaf: Leaf, intent: Leaf, preserved: Leaf | None = None
) -> list[str]:
    """Names of fields that the certificate lacks, or has otherwise than the log's leaves.

    leaf: the certificate's own; intent, preserved: its purge's. What the leaves count must be in
    the certificate, and class and partition; whatever else both have must be the same.
    """
    must: Leaf = {name: leaf[name] for name in _OF_LEAF} | {
        name: intent[name] for name in _OF_INTENT
    }
    may: Leaf = {name: intent[name] for name in _IF_THERE if name in intent}
    may |= {"state": leaf["kind"].rpartition("-")[2], "holds": leaf["holds"]}
    if "waiting" in leaf:
        may["waiting"] = leaf["waiting"]
    if preserved is not None:
        may["preserved_digest"] = preserved["digest"]
    wrong = [name for name, value in must.items() if not _same(certificate.get(name), value)]
    wrong += [
        n for n, value in may.items() if n in certificate and not _same(certificate[n], value)
    ]
    if "backups" in leaf and isinstance(certificate.get("backups"), list):
        wrong += [] if len(certificate["backups"]) == leaf["backups"] else ["backups"]
    return wrong


def _same(one: object, other: object) -> bool:
    """Equality that does not take True for 1."""
    return type(one) is type(other) and one == other
