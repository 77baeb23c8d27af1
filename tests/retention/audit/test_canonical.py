"""Canonical JSON against RFC 8785's own examples (those without fractions)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention.audit.canonical import MAX_INTEGER, CanonicalError, decode, encode

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="ascii")), inner, max_size=4)
    ),
    max_leaves=12,
)


def test_the_rfcs_string_and_literal_example() -> None:
    # RFC 8785 section 3.2.2, without its member of fractional numbers.
    text = r'"€$\u000F\u000aA\u0027\u0042\u0022\u005c\\\"\/"'
    source = f'{{"string": {text}, "literals": [null, true, false]}}'
    expected = (
        '{"literals":[null,true,false],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    ).encode()
    assert encode(json.loads(source)) == expected


def test_the_rfcs_sorting_by_code_unit_within_ascii() -> None:
    # RFC 8785 section 3.2.3; its keys beyond ASCII are refused here.
    assert encode({"1": "One", "\r": "Carriage Return", "</script>": "x"}) == (
        b'{"\\r":"Carriage Return","1":"One","</script>":"x"}'
    )


def test_control_characters_are_spelled_in_one_way() -> None:
    assert encode("\b\t\n\f\r\x00\x1f\x7f") == b'"\\b\\t\\n\\f\\r\\u0000\\u001f\x7f"'


@pytest.mark.parametrize(
    "value",
    [1.5, 1.0, float("nan"), 2**53, -(2**53), {"é": 1}, {1: 2}, b"x", (1,), "\ud800"],
    ids=repr,
)
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(CanonicalError):
        encode({"a": value})


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":1e2}',
        b'{"a":-0}',
        b'{"a":NaN}',
        b'{"a":"\\u0041"}',
        b'{"a":"\\/"}',
        b'{"a":1}\n',
        b"[]",
        b"",
        b"\xff",
        b"[" * 5000,
        b'{"a":' * 9 + b"1" + b"}" * 9,
        b'{"a":"' + b"x" * 0xFFFF + b'"}',
    ],
)
def test_other_spellings_are_refused(data: bytes) -> None:
    with pytest.raises(CanonicalError):
        decode(data)


@given(st.dictionaries(st.text(st.characters(codec="ascii")), VALUES, max_size=4))
def test_what_is_written_is_read_back(value: dict[str, Any]) -> None:
    try:
        data = encode(value)
    except CanonicalError:
        return  # nested too deep, or a surrogate alone
    assert decode(data) == value
