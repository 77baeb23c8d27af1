"""Leaves in, lines for a person out; and a count of leaves on a terminal while they are read."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final, TextIO

from retention.audit.canonical import Leaf
from retention.audit.leaf import KINDS, OBJECTS

_SHORT: Final = 8
"""Hex digits that are shown of 64: enough to see which are the same."""
_MAX_SHOWN: Final = 4
"""Items that are shown of a list."""
QUIET: Final = 20_000
"""Leaves that are read within a second: no count is shown."""


def line(index: int, leaf: Leaf) -> str:
    """One leaf on one line; a leaf of a kind unknown here, too."""
    fields = KINDS.get(str(leaf.get("kind")), {})
    shown = [f"{name}={value(leaf[name], kind)}" for name, kind in fields.items() if name in leaf]
    when = moment(leaf["at"], seconds=True)
    return f"{index:>7}  {when}  {leaf['kind']:<27} {' '.join(shown)}".rstrip()


def value(given: Any, kind: str) -> str:
    """A field's value by its type in `leaf.py`."""
    kind = kind.removesuffix("?")
    if given is None:
        return "-"
    if kind.startswith("["):
        items = [value(item, kind[1:-1]) for item in given[:_MAX_SHOWN]]
        more = [f"and {len(given) - _MAX_SHOWN} more"] if len(given) > _MAX_SHOWN else []
        return f"[{', '.join(items + more)}]"
    if kind in OBJECTS:
        parts = [value(given[name], inner) for name, inner in OBJECTS[kind].items()]
        return ":".join(parts)
    if kind == "time":
        return moment(given)
    if kind in ("commitment", "digest"):
        return str(given)[:_SHORT]
    if kind == "vkey":
        return str(given).partition("+")[0]
    return ("no", "yes")[given] if kind == "bool" else str(given)


def moment(at_us: int, seconds: bool = False) -> str:
    """A time, UTC; without `seconds` only as far as it is not midnight."""
    when = dt.datetime.fromtimestamp(at_us / 1e6, dt.UTC)
    if seconds or (when.hour, when.minute, when.second) != (0, 0, 0):
        return when.strftime("%Y-%m-%dT%H:%M:%SZ")
    return when.strftime("%Y-%m-%d")


class Meter:
    """Shows how far a verification is, where that takes long and a person looks on."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._percent = out, -1

    def __call__(self, done: int, leaves: int) -> None:
        """Say that so many leaves of so many are read."""
        if leaves < QUIET or not self._out.isatty():
            return
        percent = 100 * done // leaves
        if percent != self._percent or done == leaves:
            self._percent = percent
            bar = ("#" * (percent // 4)).ljust(25, ".")
            end = "\r\x1b[K" if done == leaves else ""  # the bar goes, the report comes
            self._out.write(f"\r{bar} {percent:>3} % of {leaves:,} leaves{end}")
            self._out.flush()
