"""Documents in, one line of signed canonical JSON out, and back; shapes checked field for field.

    {"document":{…},"key":"<verifier key>","signature":"<base64>"}

The signature is Ed25519 over the canonical bytes (RFC 8785, integers only) of the document alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from retention.audit.canonical import CanonicalError, decode, encode
from retention.audit.checkpoint import Key, NoteError, Signer, from_base64, to_base64

MAX_DOCUMENT: Final = 64 * 2**20
"""Bytes: a month of two hundred routers takes forty million."""
REPORT: Final = "tallyhold-safeguard-report"
PROOF: Final = "tallyhold-safeguard-proof"
VERSION: Final = 1

Document = dict[str, Any]
Spec = Any
"""A predicate, {field: Spec}, [Spec], or `Maybe(Spec)`."""


class DocumentError(ValueError):
    """Bytes that are no signed document, or a document that is not as its kind is."""


@dataclass(frozen=True, slots=True)
class Maybe:
    """What may be null."""

    spec: Spec


@dataclass(frozen=True, slots=True)
class Signed:
    """A document as it was read, with the key that it says it is signed by."""

    document: Document
    key: Key
    signature: bytes

    def check(self) -> None:
        """Raise NoteError unless that key signed it; whose key it is, the caller has to know."""
        self.key.verify(encode(self.document), self.signature)


def seal(document: Document, signer: Signer) -> bytes:
    """Sign a document; raises DocumentError for one that is too long or has no canonical form."""
    try:
        data = encode(document)
        signature = to_base64(signer.sign_bytes(data))
        line = encode({"document": document, "key": str(signer.key), "signature": signature})
    except CanonicalError as error:
        raise DocumentError(str(error)) from error
    if len(line) >= MAX_DOCUMENT:
        raise DocumentError(f"longer than {MAX_DOCUMENT} bytes; choose a shorter period")
    return line + b"\n"


def parse(data: bytes) -> Signed:
    """Read what `seal` gave; raises DocumentError. The signature is not checked."""
    try:
        value = decode(data.removesuffix(b"\n"), MAX_DOCUMENT)
        check(value, {"document": is_object, "key": is_text, "signature": is_text})
        return Signed(value["document"], Key.parse(value["key"]), from_base64(value["signature"]))
    except (CanonicalError, NoteError) as error:
        raise DocumentError(f"not a signed document: {error}") from error


def check(value: Any, spec: Spec, where: str = "document") -> None:
    """Raise DocumentError unless a value is as a Spec says, with no field more."""
    if isinstance(spec, Maybe):
        if value is not None:
            check(value, spec.spec, where)
    elif isinstance(spec, Mapping):
        if not isinstance(value, dict) or value.keys() != spec.keys():
            raise DocumentError(f"{where}: other fields than {', '.join(sorted(spec))}")
        for name, inner in spec.items():
            check(value[name], inner, f"{where}.{name}")
    elif isinstance(spec, list):
        if not isinstance(value, list):
            raise DocumentError(f"{where}: not a list")
        for item in value:
            check(item, spec[0], where)
    elif not spec(value):
        raise DocumentError(f"{where}: not as it has to be")


def integer(least: int = 0, most: int = 2**53 - 1) -> Callable[[Any], bool]:
    """Whether a value is an integer (and no boolean) in a range."""
    return lambda value: type(value) is int and least <= value <= most


def text(pattern: str) -> Callable[[Any], bool]:
    """Whether a value is a text that matches."""
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def one_of(*words: str) -> Callable[[Any], bool]:
    """Whether a value is one of these."""
    return lambda value: isinstance(value, str) and value in words


def is_object(value: Any) -> bool:
    return isinstance(value, dict)


def is_text(value: Any) -> bool:
    return isinstance(value, str)
