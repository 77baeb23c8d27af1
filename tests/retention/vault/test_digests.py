"""Canonical rows and roots, against a tree and encodings written out by hand."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from aggregator.store.schema import RECORD_TABLES
from retention.audit.merkle import EMPTY_ROOT, Tree, leaf_hash
from retention.vault import digests
from retention.vault.fingerprint import Fingerprint
from tests.retention.vault.world import NOON, row


def columns_of(*rows: dict[str, object]) -> dict[str, list[object]]:
    return {name: [each[name] for each in rows] for name in rows[0]}


def test_canonical_bytes_are_every_column_behind_its_length() -> None:
    each = row("mapping", inside_port=7, kind="block", start_us=-2, collector="é")
    data = digests.canonical(
        RECORD_TABLES["mapping"], columns_of(row("mapping"), each), np.array([1])
    )
    eight = bytes(3) + b"\x08"
    wanted = b"".join(
        [
            bytes(3) + b"\x10" + each["record_id"],
            eight + (NOON + 301_000_000).to_bytes(8, "little"),
            eight + b"\xfe" + b"\xff" * 7,
            eight + (NOON + 300_000_000).to_bytes(8, "little"),
            bytes(3) + b"\x10" + bytes(16),
            eight + b"\x07" + bytes(7),
            bytes(3) + b"\x10" + bytes(16),
            eight + bytes(8),
            eight + b"\x00\x04" + bytes(6),
            eight + b"\xff\x07" + bytes(6),
            bytes(3) + b"\x05block",
            bytes(3) + b"\x02\xc3\xa9",
            bytes(3) + b"\x01b",
            bytes(3) + b"\x10" + b"B" * 16,
            eight + bytes(8),
        ]
    )
    assert data == [wanted]


def test_the_largest_counter_keeps_its_bits() -> None:
    each = row("usage", up_bytes=2**64 - 1)
    (data,) = digests.canonical(RECORD_TABLES["usage"], columns_of(each), np.array([0]))
    assert b"\xff" * 8 in data


def test_a_digest_is_of_salt_and_row() -> None:
    found = digests.salted(b"salt", [b"one", b"two"])
    assert found == hashlib.sha256(b"saltone").digest() + hashlib.sha256(b"salttwo").digest()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 33, 100])
def test_the_root_is_the_tree_s_in_any_order(count: int) -> None:
    each = [hashlib.sha256(bytes([n])).digest() for n in range(count)]
    each[:2] = [bytes(32), bytes(31) + b"\1"][:count]  # zeros at the end and at the beginning
    tree = Tree()
    for digest in sorted(each):
        tree.append(leaf_hash(digest))
    assert digests.root_of(b"".join(reversed(each))) == (tree.root() if count else EMPTY_ROOT)
    assert digests.digest_of(b"".join(reversed(each))) == (
        hashlib.sha256(b"".join(sorted(each))).hexdigest()
    )


def test_a_fingerprint_is_the_same_from_keys_and_in_parts() -> None:
    hashes = [2**64 - 1, 5, 2**63, 5]
    ids = [bytes([n]) * 16 for n in range(4)]
    whole = Fingerprint.of(digests.packed(ids, hashes))
    assert whole == Fingerprint(4, 2**64 - 1 ^ 2**63, (sum(hashes)) % 2**64)
    parts = [Fingerprint.of(digests.packed(ids[n : n + 1], hashes[n : n + 1])) for n in range(4)]
    total = Fingerprint()
    for part in parts:
        total = total.plus(part)
    assert total == whole
    assert Fingerprint.of(b"") == Fingerprint()
