"""Rows: every object of the model comes back as it was, and nothing else passes for one."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retention.model import Hold, Place, Purge
from retention.register.lock import RegisterError
from retention.register.notes import Notes
from retention.register.rows import (
    HOLDS,
    NOTES,
    PURGES,
    Note,
    added,
    seal,
)
from retention.register.shapes import from_json, to_json
from tests.retention.register.made import hold, purge

# What SQLite and JSON both hold; wider numbers are refused when they are written.
st.register_type_strategy(int, st.integers(-(2**63), 2**63 - 1))


@settings(max_examples=40)
@given(st.from_type(Hold))
def test_a_hold_comes_back(one: Hold) -> None:
    assert HOLDS.item(HOLDS.row(one)) == one


@settings(max_examples=40)
@given(st.from_type(Purge))
def test_a_purge_comes_back(one: Purge) -> None:
    found = PURGES.item(PURGES.row(one))
    assert found == one
    assert type(found.partition.place) is Place


def test_a_row_of_an_older_program_has_the_defaults_of_new_fields() -> None:
    body = to_json(hold())
    del body["unavailable"], body["confidential"]
    assert from_json(Hold, body) == hold()


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"state": "Suspended"},
        {"served_us": "5"},
        {"resolve": 1},
        {"requested": None},
        {"scope": [{"kind": "subscriber"}]},
        {"scope": 5},
    ],
)
def test_what_is_no_hold_is_refused_without_quoting_it(change: dict[str, object]) -> None:
    row = list(HOLDS.row(hold()))
    row[-2] = json.dumps(to_json(hold()) | change)
    row[-1] = seal("holds", *row[:-1])
    with pytest.raises(RegisterError, match="another version") as raised:
        HOLDS.item(tuple(row))
    assert raised.value.__cause__ is None
    assert "subscriber" not in str(raised.value)


@given(st.data())
def test_a_row_with_any_other_value_is_refused(data: st.DataObject) -> None:
    row = list(HOLDS.row(hold(expires_us=5)))
    at = data.draw(st.integers(0, len(row) - 2))
    other = data.draw(st.none() | st.integers() | st.text())
    if other != row[at] or type(other) is not type(row[at]):
        row[at] = other
        with pytest.raises(RegisterError, match="not as it was written"):
            HOLDS.item(tuple(row))


def test_each_field_of_the_model_is_in_the_row() -> None:
    for kind, one in ((Hold, hold()), (Purge, purge())):
        assert to_json(one).keys() == {field.name for field in fields(kind)}


def test_a_seal_keeps_values_apart() -> None:
    assert len({seal("ab"), seal("a", "b"), seal("a", b"b"), seal(b"ab"), seal(1), seal("1")}) == 6


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=2))
def test_a_sum_is_of_the_rows_there_are(digests: list[bytes]) -> None:
    def total(some: list[bytes]) -> str:
        value = "0" * 64
        for digest in some:
            value = added(value, digest)
        return value

    assert total(digests) == total(digests[::-1])
    replaced = added(total(digests), digests[0], digests[1])
    assert replaced == total([digests[0], *digests[:1], *digests[2:]])


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdef"), st.none() | st.text(max_size=3), max_size=4)
    )
)
def test_notes_are_a_dictionary_that_uses_rows_again(changes: list[dict[str, str | None]]) -> None:
    notes, model, rows, most = Notes(), dict[str, str](), dict[int, Note](), 0
    for change in changes:
        new = notes.rows(change)
        assert len({note.slot for note in new}) == len(new)
        notes = notes.after(new)
        rows |= {note.slot: note for note in new}
        for key, value in change.items():
            model.pop(key, None)
            if value is not None:
                model[key] = value
        most = max(most, len(model))
        assert notes.all("") == dict(sorted(model.items()))
        assert Notes(rows.values()).all("") == notes.all("")
    assert len(rows) <= 2 * most
    for note in rows.values():
        assert NOTES.item(NOTES.row(note)) == note
