"""The bytes of a column are the ones the driver's own writers make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from clickhouse_driver.columns.service import write_column
from clickhouse_driver.context import Context
from hypothesis import given
from hypothesis import strategies as st

from aggregator.store.blocks import BadColumn, column_bytes, constant


class Buffer:
    """What the driver writes into; it packs strings as the C buffer does."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data


def text(values: list[bytes]) -> np.ndarray[Any, Any]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def drivers_integers(kind: str, values: list[int]) -> bytes:
    context, buffer = Context(), Buffer()
    context.client_settings = {"strings_as_bytes": True, "use_numpy": False}
    context.server_info = None
    write_column(context, "c", kind, values, buffer)
    return bytes(buffer.data)


KINDS = [f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]


@given(st.data())
def test_integers(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    limits = np.iinfo(kind.lower())
    numbers = st.integers(int(limits.min), int(limits.max))
    values = data.draw(st.lists(numbers, max_size=20))
    column = np.array(values, dtype=kind.lower())
    assert column_bytes(kind, column) == drivers_integers(kind, values)
    wide = np.array(values, dtype=np.uint64 if kind == "UInt64" else np.int64)
    assert column_bytes(kind, wide) == drivers_integers(kind, values)


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_text_has_its_length_before_it(values: list[bytes]) -> None:
    got = column_bytes("String", text(values))
    assert got is not None
    back, at = [], 0
    while at < len(got):
        size, shift = 0, 0
        while True:
            byte = got[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        back.append(got[at : at + size])
        at += size
    assert back == values


@pytest.mark.parametrize("size", [0, 127, 128, 16_383, 16_384])
def test_lengths_at_the_edges_of_leb128(size: int) -> None:
    prefix = {0: 1, 127: 1, 128: 2, 16_383: 2, 16_384: 3}[size]
    got = column_bytes("String", text([b"x" * size]))
    assert got is not None
    assert len(got) == prefix + size


def test_a_constant_is_its_value_over_and_over() -> None:
    for kind, value in (("String", b"edge-1"), ("FixedString(16)", bytes(range(16)))):
        for rows in (0, 1, 3):
            column = constant(value, rows)
            assert column_bytes(kind, column) == column_bytes(kind, text([value] * rows))
        assert column_bytes(kind, constant(value, 9)[2:5]) == column_bytes(kind, text([value] * 3))
        assert column_bytes(kind, constant(value, 9)[np.array([1, 2])]) == column_bytes(
            kind, text([value] * 2)
        )


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        ("UInt8", np.array([256])),
        ("UInt64", np.array([-1])),
        ("Int64", np.array([2**63], np.uint64)),
        ("Int64", np.array([0.5])),
        ("FixedString(16)", text([b"x" * 15])),
        ("FixedString(2)", text([b"x", b"xyz"])),
        ("String", np.array(["text"], dtype=object)),
        ("String", np.array([None], dtype=object)),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, column: np.ndarray[Any, Any]) -> None:
    with pytest.raises(BadColumn, match=kind.partition("(")[0]):
        column_bytes(kind, column)


def test_void_items_are_text_of_a_fixed_width() -> None:
    values = [bytes(range(16)), b"\0" * 16, b"x" + b"\0" * 15]
    void = np.frombuffer(b"".join(values), "V16")
    assert column_bytes("FixedString(16)", void) == column_bytes("FixedString(16)", text(values))
    assert column_bytes("FixedString(16)", void[[2, 0]]) == values[2] + values[0]
    assert void.tolist() == values
    with pytest.raises(BadColumn):
        column_bytes("FixedString(8)", void)


def test_other_types_are_left_to_the_driver() -> None:
    for kind in ("DateTime('UTC')", "Date", "Nullable(String)", "Array(UInt8)", "UUID"):
        assert column_bytes(kind, np.array([1])) is None
