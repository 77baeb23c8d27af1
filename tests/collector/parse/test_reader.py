from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.parse.reader import ParseError, Reader


def test_reads_in_network_order() -> None:
    reader = Reader(bytes(range(1, 13)))
    assert (reader.u8(), reader.u16(), reader.u24(), reader.u32()) == (
        *(1, 0x0203, 0x040506, 0x0708090A),
    )
    assert reader.peek(9) == b"\x0b\x0c"
    assert reader.peek() == b"\x0b"
    assert (reader.position, reader.remaining) == (10, 2)
    assert reader.rest() == b"\x0b\x0c"
    reader.done()


@pytest.mark.parametrize("read", ["u8", "u16", "u24", "u32"])
def test_never_reads_past_the_end(read: str) -> None:
    reader = Reader(b"\1\2\3\4\5", 0, {"u8": 0, "u16": 1, "u24": 2, "u32": 3}[read])
    with pytest.raises(ParseError) as caught:
        getattr(reader, read)()
    assert caught.value.reason == "truncated"
    assert reader.position == 0


@pytest.mark.parametrize("count", [-1, 4])
def test_counts_are_checked(count: int) -> None:
    for read in (Reader.take, Reader.skip, Reader.restrict):
        with pytest.raises(ParseError):
            read(Reader(b"\1\2\3"), count)


def test_a_part_must_be_read_to_its_end() -> None:
    reader = Reader(b"\1\2\3\4")
    part = reader.restrict(2)
    assert part.u8() == 1
    with pytest.raises(ParseError, match="trailing"):
        part.done()
    assert part.u8() == 2
    part.done()
    with pytest.raises(ParseError):
        part.u8()
    assert reader.u8() == 3


def test_bounds_must_lie_inside_the_data() -> None:
    for start, end in ((0, 4), (3, 2), (-1, 2)):
        with pytest.raises(ParseError):
            Reader(b"\1\2\3", start, end)


@given(st.binary(max_size=40), st.lists(st.integers(-2, 12), max_size=12))
def test_takes_give_the_data_in_order(data: bytes, counts: list[int]) -> None:
    reader = Reader(data)
    taken = b""
    for count in counts:
        try:
            taken += reader.take(count)
        except ParseError:
            assert count < 0 or count > reader.remaining
    assert taken == data[: len(taken)]
    assert reader.remaining == len(data) - len(taken)
