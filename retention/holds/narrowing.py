"""Scope items in, what an engine can look for cheaply out: always a superset of the matcher. Pure.

The matcher (`matcher.match`) decides; an engine only has to bring it every row that could match.
How to read a `Narrowing`, in SQL or elsewhere: a row is a candidate if it could overlap
[from_us, to_us) and at least one of these holds:

- texts: for a column in it, the row's value is one of the values, byte for byte.
- endings: for a column in it, the last six digits of the row's text, all that is no ASCII digit
  left out, are one of the values (`ending`; all its digits where it has fewer).
- prefixes: for a column in it, the row's prefix and one of the prefixes agree in their first
  min(row's length, prefix's length) bits. `lengths` names the column with the row's length (in
  128 bits, 255 at most: more than 128 is 128); a column that is not in it has hosts, 128. So a row
  that is wider than the item is a candidate too, and a row of length 0 always is.

Realms of user names and ports of mappings are left to the matcher. Where `empty`, no row matches.
Values are personal data: they go to an engine as a native block, never in the text of a query.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from retention.holds.columns import ADDRESSES
from retention.holds.needles import Prefix, compiled
from retention.model import ScopeItem

ENDING_DIGITS: Final = 6
"""Every number that `scope` takes has at least six digits, the country code among them."""
_NO_DIGIT: Final = re.compile(r"[^0-9]")


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What could match; the module's docstring says how to read it. Values are in order.

    texts: column to values. endings: column to last digits. prefixes: column to (base in 16 bytes,
    length in 128 bits). lengths: address column to its column of lengths. [from_us, to_us) holds
    all intervals of the items; a row covers what `matcher.spans` says.
    """

    record_class: str
    texts: Mapping[str, tuple[str, ...]]
    endings: Mapping[str, tuple[str, ...]]
    prefixes: Mapping[str, tuple[Prefix, ...]]
    lengths: Mapping[str, str]
    from_us: int
    to_us: int

    @property
    def empty(self) -> bool:
        """Whether no row of the class can match."""
        return not (self.texts or self.endings or self.prefixes)


def ending(text: str) -> str:
    """The last digits of a number as sent."""
    return _NO_DIGIT.sub("", text)[-ENDING_DIGITS:]


def keys(record_class: str, items: Iterable[ScopeItem]) -> Narrowing:
    """What an engine can look for in one class, for the items of all holds together."""
    chosen = [item for item in items if record_class in item.classes]
    needles = compiled(record_class, {"": chosen})
    return Narrowing(
        record_class,
        texts={name: tuple(sorted(index)) for name, index in needles.texts.items()},
        endings={
            name: tuple(sorted({ending(text) for text in index}))
            for name, index in needles.numbers.items()
        },
        prefixes={name: tuple(sorted(index)) for name, index in needles.prefixes.items()},
        lengths={
            column.name: column.length
            for column in ADDRESSES[record_class]
            if column.length and column.name in needles.prefixes
        },
        from_us=min((item.from_us for item in chosen), default=0),
        to_us=max((item.to_us for item in chosen), default=0),
    )
