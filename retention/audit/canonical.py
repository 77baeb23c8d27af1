"""Turns a leaf into its one byte form and back: canonical JSON (RFC 8785), narrowed.

Only strings, integers below 2^53 in size, booleans, null, lists and objects with ASCII keys occur.
Numbers with a fraction are refused: their text form is where implementations differ (RFC 8785
section 3.2.2.3), and nothing in a leaf needs one.
"""

from __future__ import annotations

import json
from typing import Any, Final

Leaf = dict[str, Any]

MAX_BYTES: Final = 0xFFFF
"""An entry bundle counts its entries' lengths in two bytes (C2SP tlog-tiles)."""
MAX_DEPTH: Final = 8
"""Deeper than any leaf kind, far shallower than an interpreter's stack."""
MAX_INTEGER: Final = 2**53 - 1
"""Largest integer that every JSON reader holds exactly (RFC 8785 section 3.2.2.3, I-JSON)."""


class CanonicalError(ValueError):
    """A value that has no canonical form here, or bytes that are not canonical."""


def encode(value: object) -> bytes:
    """Give the canonical bytes of a value; raises CanonicalError for what has none."""
    _check(value, 0)
    # With these settings Python's own writer escapes exactly what RFC 8785 section 3.2.2.2 asks
    # for, and ASCII keys sort alike by code point and by UTF-16 unit (section 3.2.3).
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError as error:
        raise CanonicalError("a lone surrogate in a string") from error


def decode(data: bytes, most: int = MAX_BYTES) -> Leaf:
    """Give the object whose canonical form `data` is; raises CanonicalError for any other bytes."""
    if len(data) > most:
        raise CanonicalError(f"longer than {most} bytes")
    try:
        value = _DECODER.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise CanonicalError("not JSON as leaves have it") from error
    if not isinstance(value, dict):
        raise CanonicalError("not an object")
    if encode(value) != data:  # also finds keys given twice, spaces and other spellings
        raise CanonicalError("not in canonical form")
    return value


def _check(value: object, depth: int) -> None:
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise CanonicalError("an integer that not every reader holds exactly")
    elif value and depth == MAX_DEPTH and isinstance(value, list | dict):
        raise CanonicalError(f"nested deeper than {MAX_DEPTH}")
    elif isinstance(value, list):
        for item in value:
            if type(item) is not str:
                _check(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise CanonicalError("a key that is not an ASCII string")
            kind = type(item)
            # Most values are these, and a verification reads millions of them.
            if kind is not str and not (kind is int and -MAX_INTEGER <= item <= MAX_INTEGER):
                _check(item, depth + 1)
    else:
        raise CanonicalError(f"a value of type {type(value).__name__}")


def _refuse(text: str) -> None:
    raise CanonicalError(f"a number that is not an integer, {len(text)} characters long")


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)
_DECODER: Final = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse)
