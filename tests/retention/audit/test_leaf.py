"""The vocabulary: every kind is usable, and nothing beside it passes."""

from __future__ import annotations

from typing import Any

import pytest

from retention.audit import leaf
from retention.audit.canonical import encode
from tests.retention.audit.story import START, story

EXAMPLE: dict[str, Any] = {
    "id": "visit",
    "code": "late",
    "commitment": "a" * 64,
    "digest": "b" * 64,
    "keyid": "0" * 8,
    "mark": "0" * 32,
    "vkey": "n+00000000+" + "A" * 44,
    "name": "n",
    "count": 1,
    "time": START,
    "bool": True,
    "store": "live",
}


def value(kind: str) -> Any:
    if kind.endswith("?"):
        return None
    if kind.startswith("["):
        return [value(kind[1:-1])]
    if kind in leaf.OBJECTS:
        return {name: value(inner) for name, inner in leaf.OBJECTS[kind].items()}
    return EXAMPLE[kind]


def example(kind: str) -> dict[str, Any]:
    fields = {name: value(inner) for name, inner in leaf.KINDS[kind].items()}
    return {"v": 1, "kind": kind, "at": START, **fields}


@pytest.mark.parametrize("kind", sorted(leaf.KINDS))
def test_each_kind_takes_its_fields_and_no_others(kind: str) -> None:
    good = example(kind)
    leaf.check(good)
    assert encode(good)
    for name in good:
        with pytest.raises(leaf.LeafError):
            leaf.check({key: item for key, item in good.items() if key != name})
        with pytest.raises(leaf.LeafError):
            leaf.check(good | {name: 1.5})
    with pytest.raises(leaf.LeafError, match="wrong fields"):
        leaf.check(good | {"note": "a free text could hold a name"})


@pytest.mark.parametrize(
    ("kind", "field", "wrong"),
    [
        ("lookup", "subject", "sub-0001"),
        ("lookup", "actor", "alice"),
        ("lookup", "reference", "ticket 7"),
        ("hold.submitted", "scope", [{"kind": "e164"}]),
        ("purge.dropped", "rows", -1),
        ("purge.dropped", "rows", True),
        ("purge.intent", "store", "attic"),
        ("purge.intent", "start", START * 1000),
        ("hold.unavailable", "purges", ["p"] * 401),
        ("heartbeat", "v", 2),
        ("heartbeat", "v", True),
    ],
)
def test_wrong_values(kind: str, field: str, wrong: object) -> None:
    with pytest.raises(leaf.LeafError) as caught:
        leaf.check(example(kind) | {field: wrong})
    assert str(wrong) not in str(caught.value)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(leaf.LeafError, match="unknown kind"):
        leaf.check({"v": 1, "kind": "hold.suspended", "at": START})


def test_the_largest_list_fits_an_entry() -> None:
    entry = example("purge.certificate-final")
    entry["holds"] = [{"hold": "h" * 40, "rows": 2**50, "root": "c" * 64}] * leaf.MAX_ITEMS
    leaf.check(entry)
    assert len(encode(entry)) < 0xFFFF


def test_the_story_is_told_in_known_kinds() -> None:
    for told in story().values():
        leaf.check({"v": 1, **told})
