"""Codec: columns by record class into the bytes of a batch, and hostile bytes back into columns.

`encode` is deterministic: equal input gives equal bytes. `decode` trusts nothing and raises only
BatchError. Arrow does the columns; compression inside Arrow is not used, because a compressed
buffer states its own size and is allocated before anyone can look at it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa
from pyarrow import ipc

from collector.wire.batch import (
    MAGIC,
    MAX_BATCH_BYTES,
    MAX_HEADER_BYTES,
    BatchError,
    Header,
    Section,
    check_header,
    header_bytes,
    parse_header,
)
from collector.wire.columns import (
    Columns,
    Rows,
    compact,
    completed,
    longest,
    record_batch,
    schema,
)
from collector.wire.records import CLASSES, MAX_STRING_BYTES, SCHEMA_VERSION

__all__ = ["Columns", "Rows", "decode", "encode", "peek", "record_batch", "schema", "verify"]

_PREFIX_BYTES: Final = len(MAGIC) + 4


def encode(
    *,
    collector: str,
    boot: str,
    epoch: str,
    sequence: int,
    window_start_ns: int,
    window_end_ns: int,
    created_ns: int,
    columns: Mapping[str, Rows],
) -> bytes:
    """The bytes of one batch; classes without rows are left out.

    Raises BatchError: "value" where a value does not fit its column (the message names the column
    and never the value), "columns" where columns are missing, unknown or of different lengths,
    "too-large" above the limits of a batch, "header" for a bad name, sequence or window.
    """
    unknown = columns.keys() - CLASSES.keys()
    if unknown:
        raise BatchError("columns", f"{len(unknown)} unknown record classes")
    sections: list[Section] = []
    bodies: list[pa.Buffer] = []
    for name in CLASSES:
        if name not in columns:
            continue
        batch = record_batch(name, columns[name])
        if batch.num_rows:
            if isinstance(columns[name], pa.RecordBatch):
                batch = compact(batch)
            body = _write_stream(batch)
            sections.append(Section(name, batch.num_rows, body.size))
            bodies.append(body)
    header = Header(
        schema_version=SCHEMA_VERSION,
        collector=collector,
        boot=boot,
        epoch=epoch,
        sequence=sequence,
        window_start_ns=window_start_ns,
        window_end_ns=window_end_ns,
        created_ns=created_ns,
        sections=tuple(sections),
        sha256="0" * 64,
    )
    check_header(header)
    header = replace(header, sha256=_digest(header, bodies))
    text = header_bytes(header)
    prefix = MAGIC + len(text).to_bytes(4, "big")
    data = b"".join((prefix, text, *(memoryview(body) for body in bodies)))
    if len(data) > MAX_BATCH_BYTES:
        raise BatchError("too-large", f"the batch has more than {MAX_BATCH_BYTES} bytes")
    return data


def peek(data: bytes | memoryview) -> Header:
    """The header alone, of a whole batch or of its first bytes; sections are not looked at."""
    return _peek(memoryview(data))[0]


def verify(data: bytes | memoryview) -> Header:
    """The header after the sizes and the digest were checked; Arrow is not looked at."""
    return _sections(memoryview(data))[0]


def decode(data: bytes | memoryview) -> tuple[Header, dict[str, pa.RecordBatch]]:
    """Header and columns of a batch; the columns share the memory of `data`.

    Raises BatchError and nothing else, whatever the bytes. What comes back has exactly the columns
    of records.py, those of an older version completed, the rows the header gives, no nulls, valid
    UTF-8 and no string longer than MAX_STRING_BYTES.
    """
    header, bodies = _sections(memoryview(data))
    batches = {}
    for section, body in zip(header.sections, bodies, strict=True):
        found = _read_stream(section, body, header.schema_version)
        batches[section.record_class] = completed(section.record_class, found)
    return header, batches


def _write_stream(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    options = ipc.IpcWriteOptions(compression=None, use_threads=False)
    with ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _digest(header: Header, bodies: Sequence[pa.Buffer | memoryview]) -> str:
    digest = hashlib.sha256(header_bytes(replace(header, sha256="")))
    for body in bodies:
        digest.update(body)
    return digest.hexdigest()


def _peek(view: memoryview) -> tuple[Header, int]:
    """The header and where the sections begin."""
    if len(view) < _PREFIX_BYTES:
        raise BatchError("truncated", "the batch ends in its first eight bytes")
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise BatchError("magic", "the bytes do not begin as a batch does")
    length = int.from_bytes(view[len(MAGIC) : _PREFIX_BYTES], "big")
    if length > MAX_HEADER_BYTES:
        raise BatchError("header-size", f"the header has more than {MAX_HEADER_BYTES} bytes")
    if len(view) < _PREFIX_BYTES + length:
        raise BatchError("truncated", "the batch ends inside its header")
    begin = _PREFIX_BYTES + length
    return parse_header(bytes(view[_PREFIX_BYTES:begin])), begin


def _sections(view: memoryview) -> tuple[Header, list[memoryview]]:
    """The header and the bytes of each section, sizes and digest checked."""
    if len(view) > MAX_BATCH_BYTES:
        raise BatchError("too-large", f"the batch has more than {MAX_BATCH_BYTES} bytes")
    header, begin = _peek(view)
    end = begin + sum(section.size for section in header.sections)
    if end != len(view):
        reason = "truncated" if end > len(view) else "trailing"
        raise BatchError(reason, f"the batch has {len(view)} bytes, its header says {end}")
    bodies = []
    for section in header.sections:
        bodies.append(view[begin : begin + section.size])
        begin += section.size
    if _digest(header, bodies) != header.sha256:
        raise BatchError("digest", "the digest does not match: the bytes were changed")
    return header, bodies


def _read_stream(section: Section, body: memoryview, version: int) -> pa.RecordBatch:
    """One section: a schema, one record batch of the rows promised, the end; nothing else."""
    name = section.record_class
    buffer = pa.py_buffer(body)
    if buffer.address % 8:  # handed to us out of line: Arrow reads whole words
        buffer = pa.py_buffer(bytes(body))
    try:
        batch = _read_messages(name, buffer, version)
        if batch.num_rows != section.rows:
            raise BatchError("rows", f"{name}: {batch.num_rows} rows, not {section.rows}")
        batch.validate(full=True)
        for column, array in zip(batch.schema, batch.columns, strict=True):
            if array.null_count:
                raise BatchError("nulls", f"{name}.{column.name}: has nulls")
            if pa.types.is_string(column.type) and longest(array) > MAX_STRING_BYTES:
                raise BatchError("string-length", f"{name}.{column.name}: a string is too long")
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, BatchError):
            raise
        # Arrow's own words may quote the bytes, so they go no further.
        raise BatchError("arrow", f"{name}: not a readable Arrow stream") from None
    return batch


def _read_messages(name: str, buffer: pa.Buffer, version: int) -> pa.RecordBatch:
    source = pa.BufferReader(buffer)
    reader = ipc.MessageReader.open_stream(source)
    try:
        first = reader.read_next_message()
        if first.type != "schema" or not ipc.read_schema(first).equals(schema(name, version), True):
            raise BatchError("schema", f"{name}: another schema than version {version}")
        second = reader.read_next_message()
    except StopIteration:
        raise BatchError("arrow", f"{name}: the Arrow stream has no rows") from None
    if second.type != "record batch":
        raise BatchError("arrow", f"{name}: the Arrow stream has no rows")
    if _is_compressed(second.metadata):
        raise BatchError("compression", f"{name}: compressed buffers are not taken")
    batch = ipc.read_record_batch(second, schema(name, version))
    try:
        reader.read_next_message()
    except StopIteration:
        if source.tell() == buffer.size:
            return batch
    raise BatchError("trailing", f"{name}: bytes after the rows")


def _is_compressed(metadata: pa.Buffer) -> bool:
    """Whether a record batch message asks for decompression.

    Arrow's Python has no way to ask, and would allocate what the buffers claim on reading. So walk
    the flatbuffer: Message.header is slot 2, RecordBatch.compression slot 3 (Arrow format,
    Message.fbs). Arrow has verified the flatbuffer by now; the bounds here do not rely on it.
    """
    data = memoryview(metadata)
    try:
        (root,) = struct.unpack_from("<I", data, 0)
        message = _slot(data, root, 2)
        if message is None:
            raise BatchError("arrow", "a record batch without a body")
        (offset,) = struct.unpack_from("<I", data, message)
        return _slot(data, message + offset, 3) is not None
    except struct.error:
        raise BatchError("arrow", "the message cannot be read") from None


def _slot(data: memoryview, table: int, slot: int) -> int | None:
    """Where field `slot` of the flatbuffer table at `table` lies; None where it is absent."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    if vtable < 0:
        raise BatchError("arrow", "the message cannot be read")
    (size,) = struct.unpack_from("<H", data, vtable)
    at = 4 + 2 * slot
    if at + 2 > size:
        return None
    (offset,) = struct.unpack_from("<H", data, vtable + at)
    return table + int(offset) if offset else None
