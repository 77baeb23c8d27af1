"""What an engine can look for (`holds.narrowing`) in, a WHERE clause and the values behind it out.

The clause names lists of a scope table by number and has lengths and times, never a value. It lets
through at least every row that the narrowing calls a candidate: prefixes are compared in whole
bytes, so up to 255 times as wide as they are, and the matcher decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from retention.holds.columns import SPANS
from retention.holds.narrowing import ENDING_DIGITS, Narrowing
from retention.vault.tables import end_of, start_of

SCOPE: Final = "{scope}"
"""Stands in a clause for the name of the scope table."""
_OWN_BYTES: Final = "intDiv(least({length}, 128), 8)"


@dataclass(frozen=True, slots=True)
class Clause:
    """A condition and, in the order in which it numbers them, the lists of values it looks in."""

    text: str
    lists: tuple[tuple[bytes, ...], ...]

    def over(self, scope: str) -> str:
        """The condition over a scope table of this name."""
        return self.text.replace(SCOPE, scope)


def clause(narrowing: Narrowing) -> Clause | None:
    """The condition for the candidates of a narrowing; None where no row can match."""
    if narrowing.empty:
        return None
    tests: list[str] = []
    lists: list[tuple[bytes, ...]] = []

    def test(expression: str, values: Sequence[bytes]) -> None:
        tests.append(f"{expression} IN (SELECT value FROM {SCOPE} WHERE list = {len(lists)})")
        lists.append(tuple(values))

    for column, texts in narrowing.texts.items():
        test(column, [text.encode() for text in texts])
    for column, endings in narrowing.endings.items():
        test(_ending(column), [text.encode() for text in endings])
    for column, prefixes in narrowing.prefixes.items():
        for expression, values in _prefixes(column, narrowing.lengths.get(column), prefixes):
            test(expression, values)
    record_class = narrowing.record_class
    overlap = (
        f"{start_of(record_class)} < {int(narrowing.to_us)}"
        f" AND {end_of(record_class)} > {int(narrowing.from_us)}"
    )
    assert record_class in SPANS
    return Clause(f"{overlap} AND ({' OR '.join(tests)})", tuple(lists))


def _ending(column: str) -> str:
    digits = f"replaceRegexpAll({column}, '[^0-9]', '')"
    most = ENDING_DIGITS
    return (
        f"if(length({digits}) > {most},"
        f" substring({digits}, toInt64(length({digits})) - {most - 1}, {most}), {digits})"
    )


def _prefixes(
    column: str, length: str | None, prefixes: Sequence[tuple[bytes, int]]
) -> Iterator[tuple[str, list[bytes]]]:
    """Expressions over an address column, each with the values it may have.

    A row and an item agree in the bits of the shorter, hence in its whole bytes. Rows at least as
    long as the item are found by the item's own bytes; wider rows by their own bytes, among all
    beginnings of items.
    """
    by_bytes: dict[int, set[bytes]] = {}
    for base, bits in prefixes:
        by_bytes.setdefault(bits // 8, set()).add(base[: bits // 8])
    for size, values in sorted(by_bytes.items()):
        yield f"substring({column}, 1, {size})", sorted(values)
    if length is not None:
        wider = {base[:size] for base, bits in prefixes for size in range(bits // 8)}
        own = _OWN_BYTES.format(length=length)
        yield f"substring({column}, 1, {own})", sorted(wider)
