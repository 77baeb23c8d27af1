"""The codec: exact round trips, equal bytes for equal input, and nothing but BatchError."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc

from collector.wire import codec
from collector.wire.batch import (
    ALIGNMENT,
    MAX_BATCH_BYTES,
    MAX_HEADER_BYTES,
    MAX_RECEIPT_BYTES,
    BatchError,
    Header,
    Receipt,
    Section,
    header_bytes,
    parse_header,
    parse_receipt,
    receipt_bytes,
)
from collector.wire.columns import bad_rows
from collector.wire.records import CLASSES, SCHEMA_VERSION
from tests.collector.samples import HEADER, all_classes, columns

VECTOR = Path(__file__).parents[2] / "vectors" / "batch-v1.hex"


def encode(rows: Any, **changes: Any) -> bytes:
    return codec.encode(**(HEADER | changes), columns=rows)


def seal(header: Header, *bodies: bytes) -> bytes:
    """A batch of any sections under a right digest: what a hostile collector could send."""
    blank = header_bytes(replace(header, sha256=""))
    digest = hashlib.sha256(blank + b"".join(bodies)).hexdigest()
    text = header_bytes(replace(header, sha256=digest))
    return b"TLH1" + len(text).to_bytes(4, "big") + text + b"".join(bodies)


def with_body(body: bytes, name: str = "link", rows: int = 3) -> bytes:
    header = replace(codec.peek(encode({})), sections=(Section(name, rows, len(body)),))
    return seal(header, body)


def body_of(name: str, rows: int = 3) -> bytes:
    data = encode({name: columns(name, rows)})
    return data[-codec.peek(data).sections[0].size :]


def stream(*batches: pa.RecordBatch, compression: Any = None) -> bytes:
    sink = io.BytesIO()
    options = ipc.IpcWriteOptions(compression=compression)
    with ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def reason_of(action: Callable[[], object]) -> str:
    with pytest.raises(BatchError) as caught:
        action()
    return caught.value.reason


# -- round trips


@pytest.mark.parametrize("rows", [1, 2, 50])
def test_round_trip_of_every_class(rows: int) -> None:
    given_rows = all_classes(rows)
    header, batches = codec.decode(encode(given_rows))
    assert list(batches) == list(CLASSES)
    for name, batch in batches.items():
        assert batch.to_pydict() == given_rows[name]
        assert batch.schema.equals(codec.schema(name), check_metadata=True)
    assert header.rows == rows * len(CLASSES)
    assert {name: getattr(header, name) for name in HEADER} == HEADER


def test_equal_input_gives_equal_bytes() -> None:
    rows = all_classes(20)
    data = encode(rows)
    assert encode(all_classes(20)) == data
    assert encode(dict(reversed(rows.items()))) == data
    assert encode(codec.decode(data)[1]) == data
    halves = {name: codec.record_batch(name, columns(name, 20)).slice(3, 9) for name in CLASSES}
    cut = {n: {c: v[3:12] for c, v in rows[n].items()} for n in CLASSES}
    assert encode(halves) == encode(cut)


def test_numpy_and_lists_give_equal_bytes() -> None:
    rows = columns("usage", 9)
    arrays: dict[str, Any] = {
        "record_id": np.array(rows["record_id"], "V16"),
        "address": np.array(rows["address"], "S16"),  # items of which lose trailing zeros
    }
    for name in rows.keys() - arrays.keys():
        kind = codec.schema("usage").field(name).type.to_pandas_dtype()
        arrays[name] = np.array(rows[name], kind)
    assert rows["address"][1].endswith(b"\0")
    assert encode({"usage": arrays}) == encode({"usage": rows})
    ids = np.frombuffer(b"".join(rows["record_id"]), np.uint8).reshape(-1, 16)
    assert encode({"usage": arrays | {"record_id": ids}}) == encode({"usage": rows})


def test_classes_without_rows_are_left_out() -> None:
    empty: dict[str, list[int]] = {name: [] for name in CLASSES["usage"].names}
    data = encode({"usage": empty})
    assert data == encode({})
    assert codec.decode(data) == (codec.peek(data), {})


def test_batch_id_changes_with_every_part() -> None:
    base = encode(all_classes(2))
    others = [
        encode(all_classes(2), sequence=8),
        encode(all_classes(2), boot="other"),
        encode(all_classes(2), window_end_ns=HEADER["window_end_ns"] + 1),
        encode(all_classes(2), created_ns=1),
        encode(all_classes(2, seed=2)),
    ]
    assert len({codec.peek(data).batch for data in (base, *others)}) == 6


def test_sections_are_aligned_and_shared() -> None:
    data = encode(all_classes(3))
    size = int.from_bytes(data[4:8], "big")
    assert (8 + size) % ALIGNMENT == 0
    odd = memoryview(b"x" + data)[1:]  # a caller whose bytes are out of line
    assert codec.decode(odd)[1] == codec.decode(data)[1]


def test_peek_needs_the_header_alone() -> None:
    data = encode(all_classes(3))
    size = int.from_bytes(data[4:8], "big")
    assert codec.peek(memoryview(data)[: 8 + size]) == codec.decode(data)[0]


def test_golden_vector_is_still_read() -> None:
    """Batches written by released collectors wait in spools: they must be read for ever."""
    data = bytes.fromhex(VECTOR.read_text())
    header, batches = codec.decode(data)
    assert header.batch == "daf8e7c36fe78635d8829e3ce1f4b345"
    since = {"block_count", "safeguard_ledger"}
    known = {name: rows for name, rows in all_classes(2).items() if name not in since}
    for name, rows in known.items():
        for column in CLASSES[name].columns:
            if column.since > header.schema_version:
                rows[column.name] = ["" if column.type == "str" else 0] * 2
    assert {name: batch.to_pydict() for name, batch in batches.items()} == known


# -- encoding what does not fit


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flows", 2**32),
        ("flows", -1),
        ("flows", 1.5),
        ("flows", True),
        ("flows", None),
        ("flows", "7"),
        ("up_bytes", 2**64),
        ("observed_ns", 2**63),
        ("prefix_len", np.int64(256)),
        ("address", bytes(15)),
        ("address", "a" * 16),
        ("address", None),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_its_column(name: str, value: Any) -> None:
    rows = columns("usage", 4)
    rows[name][2] = value
    with pytest.raises(BatchError) as caught:
        encode({"usage": rows})
    assert caught.value.reason == "value"
    assert f"usage.{name}" in str(caught.value)
    assert str(value) not in str(caught.value).replace(name, "")
    assert caught.value.__cause__ is None
    assert bad_rows("usage", rows) == [2]


@pytest.mark.parametrize("value", ["é" * 257, "a" * 513, "\ud800", b"bytes", 3, None])
def test_a_string_that_does_not_fit(value: Any) -> None:
    rows = columns("visit", 4)
    rows["host"][3] = value
    assert reason_of(lambda: encode({"visit": rows})) == "value"
    assert bad_rows("visit", rows) == [3]


@pytest.mark.parametrize(
    "array",
    [
        np.array([1.0, 2.0]),
        np.array([True, False]),
        np.array([-1, 0]),
        np.array([0, 2**32]),
        np.array(["1", "2"]),
        np.array([1, None], object),
    ],
)
def test_an_array_that_does_not_fit(array: Any) -> None:
    assert reason_of(lambda: encode({"usage": columns("usage", 2) | {"flows": array}})) == "value"


def test_columns_must_be_those_of_the_class() -> None:
    rows = columns("usage", 2)
    missing = {name: values for name, values in rows.items() if name != "flows"}
    assert reason_of(lambda: encode({"usage": missing})) == "columns"
    assert reason_of(lambda: encode({"usage": rows | {"more": [1, 2]}})) == "columns"
    assert reason_of(lambda: encode({"usage": rows | {"flows": [1]}})) == "columns"
    assert reason_of(lambda: encode({"unknown": rows})) == "columns"
    link = codec.record_batch("link", columns("link", 2))
    assert reason_of(lambda: encode({"usage": link})) == "columns"


@pytest.mark.parametrize(
    "change",
    [
        {"collector": ""},
        {"collector": "a b"},
        {"collector": "x" * 254},
        {"boot": "\n"},
        {"epoch": "é"},
        {"sequence": 0},
        {"sequence": 2**63},
        {"window_end_ns": HEADER["window_start_ns"]},
        {"window_start_ns": -1},
        {"created_ns": 2**63},
    ],
)
def test_a_header_that_does_not_fit(change: dict[str, Any]) -> None:
    assert reason_of(lambda: encode({}, **change)) == "header"


def test_a_batch_of_too_many_rows_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.wire.batch.MAX_ROWS", 5)
    assert reason_of(lambda: encode({"link": columns("link", 6)})) == "too-large"


# -- decoding what is not ours


def test_cut_at_every_length() -> None:
    data = encode({"link": columns("link", 2), "gap": columns("gap", 1)})
    for length in range(len(data)):
        assert reason_of(lambda end=length: codec.decode(data[:end])) == "truncated"  # type: ignore[misc]
    assert reason_of(lambda: codec.decode(data + b"\0")) == "trailing"


def test_every_flipped_bit_is_found() -> None:
    data = bytearray(encode({"link": columns("link", 1)}))
    for position in range(len(data)):
        data[position] ^= 1 << position % 8
        reason_of(lambda: codec.decode(bytes(data)))
        data[position] ^= 1 << position % 8
    codec.decode(bytes(data))


def test_other_magic() -> None:
    assert reason_of(lambda: codec.decode(b"TLH2" + encode({})[4:])) == "magic"


def test_header_length_is_not_believed() -> None:
    huge = b"TLH1" + (2**32 - 1).to_bytes(4, "big")
    assert reason_of(lambda: codec.decode(huge)) == "header-size"
    long = b"TLH1" + MAX_HEADER_BYTES.to_bytes(4, "big") + b"{}"
    assert reason_of(lambda: codec.decode(long)) == "truncated"


def test_too_large_is_not_looked_at() -> None:
    assert reason_of(lambda: codec.decode(bytes(MAX_BATCH_BYTES + 1))) == "too-large"


def header_json(**changes: Any) -> bytes:
    data = encode({"link": columns("link", 1), "gap": columns("gap", 1)})
    fields = json.loads(data[8 : 8 + int.from_bytes(data[4:8], "big")])
    fields |= changes
    text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return text + b" " * (-(8 + len(text)) % ALIGNMENT)


def test_the_header_of_the_helper_is_right() -> None:
    assert parse_header(header_json()).sequence == 7


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema_version": SCHEMA_VERSION + 1, "new": [1]}, "schema-version"),
        ({"schema_version": 0}, "schema-version"),
        ({"schema_version": True}, "schema-version"),
        ({"schema_version": 1.0}, "schema-version"),
        ({"sequence": "7"}, "header"),
        ({"sequence": 7.0}, "header"),
        ({"sequence": True}, "header"),
        ({"sequence": 0}, "header"),
        ({"sequence": -1}, "header"),
        ({"sequence": 10**400}, "header"),
        ({"collector": 1}, "header"),
        ({"collector": "a/../b"}, "header"),
        ({"collector": "a\n"}, "header"),
        ({"sha256": "A" * 64}, "header"),
        ({"extra": 1}, "header"),
        ({"window_end_ns": 0}, "header"),
        ({"sections": {}}, "header"),
        ({"sections": [1]}, "header"),
        ({"sections": [[]]}, "header"),
        ({"sections": [{"class": "link", "rows": 1}]}, "header"),
        ({"sections": [{"class": ["x"], "rows": 1, "size": 1}]}, "header"),
        ({"sections": [{"class": "link", "rows": 1.5, "size": 1}]}, "header"),
        ({"sections": [{"class": "link", "rows": 0, "size": 1}]}, "sections"),
        ({"sections": [{"class": "other", "rows": 1, "size": 1}]}, "sections"),
        ({"sections": [{"class": "link", "rows": 1, "size": 1}] * 2}, "sections"),
        ({"sections": [{"class": "link", "rows": 1, "size": 1}] * 17}, "header"),
        (
            {
                "sections": [
                    {"class": "gap", "rows": 1, "size": 1},
                    {"class": "link", "rows": 1, "size": 1},
                ]
            },
            "sections",
        ),
        ({"sections": [{"class": "link", "rows": 2_000_001, "size": 1}]}, "too-large"),
        ({"sections": [{"class": "link", "rows": 1, "size": 2**26 + 1}]}, "too-large"),
    ],
)
def test_hostile_header(changes: dict[str, Any], reason: str) -> None:
    assert reason_of(lambda: parse_header(header_json(**changes))) == reason


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"{}" * 2,
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"schema_version":1}',
        b'{"schema_version":NaN}',
        b'{"schema_version":' + b"9" * 5_000 + b"}",
        header_json() + b" " * ALIGNMENT,
        header_json().replace(b":", b": ", 1),
        header_json().replace(b"{", b'{"boot":"x",', 1),
        header_json().replace(b"lns1", b"\\u006cns1"),
    ],
)
def test_header_that_is_not_canonical(text: bytes) -> None:
    assert reason_of(lambda: parse_header(text)) in ("header", "schema-version")


def test_another_schema_is_refused() -> None:
    link = codec.record_batch("link", columns("link", 3))
    renamed = link.rename_columns([f"x{name}" for name in link.schema.names])
    described = link.replace_schema_metadata({"k": "v"})
    nullable = pa.RecordBatch.from_arrays(link.columns, names=link.schema.names)
    for other in (renamed, described, nullable, link.select(["record_id"])):
        assert reason_of(lambda b=other: codec.decode(with_body(stream(b)))) == "schema"  # type: ignore[misc]
    assert reason_of(lambda: codec.decode(with_body(body_of("gap"), "link"))) == "schema"


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_buffers_are_refused_before_they_are_read(compression: str) -> None:
    """8 MB of zeros are a few KB here: the claim is what matters, it is never allocated."""
    rows = 20_000
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([bytes(16)] * rows, pa.binary(16))
            if pa.types.is_fixed_size_binary(field.type)
            else pa.array([""] * rows)
            if pa.types.is_string(field.type)
            else pa.array([0] * rows, field.type)
            for field in codec.schema("link")
        ],
        schema=codec.schema("link"),
    )
    data = with_body(stream(batch, compression=compression), rows=rows)
    before = pa.total_allocated_bytes()
    assert reason_of(lambda: codec.decode(data)) == "compression"
    assert pa.total_allocated_bytes() - before < 64 * 1024


def test_streams_of_other_shape_are_refused() -> None:
    link = codec.record_batch("link", columns("link", 3))
    body = stream(link)
    schema_only = stream(link.slice(0, 0))
    cases = {
        "rows": [with_body(body, rows=2), with_body(schema_only)],
        "trailing": [with_body(body + b"\0" * 8), with_body(stream(link, link))],
        "arrow": [with_body(b"\0"), with_body(body[:-16][:200]), with_body(b"\xff" * 64)],
    }
    for reason, hostile in cases.items():
        for data in hostile:
            assert reason_of(lambda d=data: codec.decode(d)) == reason  # type: ignore[misc]


def test_values_out_of_their_limits_are_refused() -> None:
    rows = columns("link", 3)
    arrays = dict(zip(rows, codec.record_batch("link", rows).columns, strict=True))
    schema = codec.schema("link")

    def hostile(name: str, array: Any) -> bytes:
        changed = list((arrays | {name: array}).values())
        return with_body(stream(pa.RecordBatch.from_arrays(changed, schema=schema)))

    long = pa.array(["a" * 513, "", ""])
    nulls = pa.array(["a", None, "b"])
    offsets = pa.py_buffer(np.array([0, 1, 2, 3], np.int32).tobytes())
    not_text = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xffb")])
    backwards = pa.py_buffer(np.array([0, 3, 1, 3], np.int32).tobytes())
    crossed = pa.Array.from_buffers(pa.string(), 3, [None, backwards, pa.py_buffer(b"abc")])
    assert reason_of(lambda: codec.decode(hostile("role", long))) == "string-length"
    assert reason_of(lambda: codec.decode(hostile("role", nulls))) == "nulls"
    assert reason_of(lambda: codec.decode(hostile("role", not_text))) == "arrow"
    assert reason_of(lambda: codec.decode(hostile("role", crossed))) == "arrow"
    missing = pa.array([1, None, 3], pa.uint64())
    assert reason_of(lambda: codec.decode(hostile("rx_bytes", missing))) == "nulls"


# -- fuzz

_SEEDS = {name: body_of(name) for name in ("link", "gap", "usage")}


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(_SEEDS)),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(-40, 40),
)
def test_mutated_sections_under_a_right_digest(
    name: str, edits: list[tuple[int, int]], change: int
) -> None:
    body = bytearray(_SEEDS[name])
    for position, value in edits:
        body[position % len(body)] = value
    mutated = bytes(body[:change] if change < 0 else body + bytes(change))
    try:
        header, batches = codec.decode(with_body(mutated, name))
    except BatchError:
        return
    again = codec.decode(encode(batches))[1]
    assert again == batches
    assert batches[name].num_rows == header.rows == 3


def test_many_mutations_of_arrow_metadata() -> None:
    """A seeded walk where it hurts: the flatbuffers in front of the values."""
    source = random.Random(20)
    outcomes = {"taken": 0, "refused": 0}
    for _ in range(4_000):
        name = source.choice(sorted(_SEEDS))
        body = bytearray(_SEEDS[name])
        for _ in range(source.choice((1, 1, 2, 4))):
            position = source.randrange(len(body))
            body[position] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)))
        try:
            codec.decode(with_body(bytes(body), name))
            outcomes["taken"] += 1
        except BatchError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 100


@given(st.binary(max_size=300))
def test_rubbish(data: bytes) -> None:
    for attempt in (data, b"TLH1" + data, b"TLH1\0\0\0\x40" + data):
        with pytest.raises(BatchError):
            codec.decode(attempt)


# -- receipts


@pytest.mark.parametrize("verdict", ["accept", "duplicate", "gap", "reject", "retry"])
def test_receipt_round_trip(verdict: str) -> None:
    receipt = Receipt("ab" * 16, verdict, "some-reason", "Words for people.", 12)
    assert parse_receipt(receipt_bytes(receipt)) == receipt


def test_receipt_text_is_made_harmless() -> None:
    receipt = Receipt("ab" * 16, "retry", "Bad Reason\n", "a\x1b[31m\nb\u202e" + "x" * 999, 0)
    parsed = parse_receipt(receipt_bytes(receipt))
    assert parsed.reason == "unspecified"
    assert len(parsed.message) == 300
    assert parsed.message.startswith("a?[31m?b?xxx")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"[]",
        b"[" * 5_000,
        b'{"batch":"ab","verdict":"accept","rows":1}',
        b'{"batch":"' + b"ab" * 16 + b'","verdict":"yes","rows":1}',
        b'{"batch":"' + b"ab" * 16 + b'","verdict":["accept"],"rows":1}',
        b'{"batch":"' + b"ab" * 16 + b'","verdict":"accept"}',
        b'{"batch":"' + b"ab" * 16 + b'","verdict":"accept","rows":true}',
        b'{"batch":"' + b"ab" * 16 + b'","verdict":"accept","rows":-1}',
        b" " * (MAX_RECEIPT_BYTES + 1),
    ],
)
def test_what_is_no_receipt(data: bytes) -> None:
    assert reason_of(lambda: parse_receipt(data)) == "receipt"
