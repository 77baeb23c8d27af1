from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.parse.prefix import MAX_PIECES, Prefix
from collector.parse.reader import ParseError

STREAM = bytes(range(200))


@given(st.lists(st.tuples(st.integers(-20, 220), st.integers(0, 60)), max_size=40))
def test_any_order_gives_the_stream(cuts: list[tuple[int, int]]) -> None:
    prefix = Prefix(150)
    seen: set[int] = set()
    for start, length in cuts:
        piece = bytes(at % 256 for at in range(start, start + length))
        before = len(prefix.data)
        grew = prefix.add(start, piece)
        seen.update(range(max(start, 0), min(start + length, 150)))
        whole = next(at for at in range(151) if at not in seen)
        assert bytes(prefix.data) == STREAM[:whole]
        assert grew == (whole > before)
        assert prefix.held == len(seen)
        assert prefix.full == (whole == 150)


def test_the_first_copy_wins() -> None:
    prefix = Prefix(100)
    prefix.add(4, b"EFGH")
    prefix.add(2, b"cdefghij")
    prefix.add(0, b"ab")
    prefix.add(0, b"XXXXXXXXXXXX")
    assert bytes(prefix.data) == b"abcdEFGHijXX"


def test_few_pieces_wait() -> None:
    prefix = Prefix(1000)
    with pytest.raises(ParseError, match="pieces"):
        for at in range(MAX_PIECES + 2):
            prefix.add(2 * at + 1, b"x")
