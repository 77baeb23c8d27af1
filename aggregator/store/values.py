"""Values as callers have them into what goes on the wire, and the driver's answers into columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from aggregator.store.errors import Misused

Values: TypeAlias = Sequence[Any] | np.ndarray[Any, Any]

_FIXED: Final = re.compile(r"FixedString\((\d+)\)")


def columns_of(data: Sequence[Any], kinds: Sequence[tuple[str, str]]) -> dict[str, list[Any]]:
    return {
        name: _decoded(list(data[position]) if data else [], kind)
        for position, (name, kind) in enumerate(kinds)
    }


def checked(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if params is None:
        return None
    for name, value in params.items():
        if isinstance(value, bytes):
            raise Misused(f"parameter {name}: pass bytes as hex text and compare with unhex()")
    return dict(params)


def _decoded(values: list[Any], kind: str) -> list[Any]:
    """Text columns as str, fixed ones at their full length.

    The wire format admits UTF-8 alone, so nothing is replaced in fact. Newer servers send columns
    that are mostly default in sparse form, and the driver fills a FixedString's default as b"".
    """
    fixed = _FIXED.search(kind)
    if fixed:
        width = int(fixed[1])
        return [v.ljust(width, b"\0") if type(v) is bytes else v for v in values]
    if "String" not in kind:
        return values
    return [v.decode("utf-8", "replace") if type(v) is bytes else v for v in values]


def array_of(name: str, values: Values) -> np.ndarray[Any, Any]:
    """Values as the driver's writer wants them: integers, or an object array of bytes."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind == "U":
            return array_of(name, values.tolist())
        return values
    items = list(values)
    if items and isinstance(items[0], str):
        items = [item.encode() for item in items]
    if items and isinstance(items[0], bytes):
        array = np.empty(len(items), dtype=object)
        array[:] = items
        return array
    array = np.asarray(items)
    if items and array.dtype.kind not in "iubfM":
        raise Misused(f"column {name}: values are neither integers, text nor bytes")
    return array
