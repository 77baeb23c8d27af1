"""What an engine can look for (`holds.narrowing`) in, a WHERE clause and the values behind it out.

The clause names lists of a scope table by number and has lengths and times, never a value. It lets
through at least every row that the narrowing calls a candidate: prefixes are compared in whole
bytes, so up to 255 times as wide as they are, and the matcher decides.

Where nothing that a table is sorted by is looked for, every row is looked at. `first` is for that
one scan: it lets through all that the clause does, and a row that is a host costs it one look of a
whole address into a set, instead of one for every length that a wider row could have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from retention.holds.columns import SPANS
from retention.holds.narrowing import ENDING_DIGITS, Narrowing
from retention.holds.needles import Prefix
from retention.vault.tables import end_of, start_of

SCOPE: Final = "{scope}"
"""Stands in a clause for the name of the scope table."""
_OWN_BYTES: Final = "intDiv(least({length}, 128), 8)"
_HOST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Clause:
    """A condition and, in the order in which it numbers them, the lists of values it looks in.

    first: a cheaper condition that every row meets which meets the other.
    """

    text: str
    first: str
    lists: tuple[tuple[bytes, ...], ...]

    def over(self, scope: str) -> Clause:
        """The same over a scope table of this name."""
        text, first = (each.replace(SCOPE, scope) for each in (self.text, self.first))
        return Clause(text, first, self.lists)

    def where(self, *, prewhere: bool) -> str:
        """PREWHERE, if it may be had, and WHERE.

        prewhere: not with FINAL, which has to see all versions of a row.
        """
        return f"PREWHERE {self.first} WHERE {self.text}" if prewhere else f"WHERE {self.text}"


def clause(narrowing: Narrowing) -> Clause | None:
    """The condition for the candidates of a narrowing; None where no row can match."""
    if narrowing.empty:
        return None
    tests: list[str] = []
    lists: list[tuple[bytes, ...]] = []

    def test(expression: str, values: Sequence[bytes], value: str = "value") -> None:
        tests.append(f"{expression} IN (SELECT {value} FROM {SCOPE} WHERE list = {len(lists)})")
        lists.append(tuple(values))

    for column, texts in narrowing.texts.items():
        test(column, [text.encode() for text in texts])
    for column, endings in narrowing.endings.items():
        test(_ending(column), [text.encode() for text in endings])
    for column, prefixes in narrowing.prefixes.items():
        for size, values in _own(prefixes):
            if size == _HOST_BYTES:
                test(column, values, f"toFixedString(substring(value, 1, {size}), {size})")
            else:
                test(f"substring({column}, 1, {size})", values)
    first = [*tests, *(f"{length} < 128" for length in narrowing.lengths.values())]
    for column, length in narrowing.lengths.items():
        own = _OWN_BYTES.format(length=length)
        test(f"substring({column}, 1, {own})", _wider(narrowing.prefixes[column]))
    record_class = narrowing.record_class
    overlap = (
        f"{start_of(record_class)} < {int(narrowing.to_us)}"
        f" AND {end_of(record_class)} > {int(narrowing.from_us)}"
    )
    assert record_class in SPANS
    return Clause(f"{overlap} AND ({' OR '.join(tests)})", f"({' OR '.join(first)})", tuple(lists))


def _ending(column: str) -> str:
    digits = f"replaceRegexpAll({column}, '[^0-9]', '')"
    most = ENDING_DIGITS
    return (
        f"if(length({digits}) > {most},"
        f" substring({digits}, toInt64(length({digits})) - {most - 1}, {most}), {digits})"
    )


# A row and an item agree in the bits of the shorter, hence in its whole bytes. Rows at least as
# long as the item are found by the item's own bytes (`_own`); wider rows by theirs, among all
# beginnings of items (`_wider`).


def _own(prefixes: Sequence[Prefix]) -> Iterator[tuple[int, list[bytes]]]:
    """The whole bytes of items, with their number, by that number."""
    by_bytes: dict[int, set[bytes]] = {}
    for base, bits in prefixes:
        by_bytes.setdefault(bits // 8, set()).add(base[: bits // 8])
    for size, values in sorted(by_bytes.items()):
        yield size, sorted(values)


def _wider(prefixes: Sequence[Prefix]) -> list[bytes]:
    """All shorter beginnings of items."""
    return sorted({base[:size] for base, bits in prefixes for size in range(bits // 8)})
