"""Commitments: what a leaf holds tells nothing, and stays right when the text is gone."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from retention.audit.commit import CommitmentError, CommitmentStore, commitment
from retention.audit.log import AuditLog
from retention.audit.verify import verify
from tests.retention.audit.story import SIGNER, START


def store(root: Path) -> CommitmentStore:
    return CommitmentStore(root / "texts", root / "key/texts.key")


def on_disk(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


def test_a_text_is_kept_encrypted_and_can_be_opened_to_a_third_party(tmp_path: Path) -> None:
    value = store(tmp_path).commit("sub-0001")
    assert store(tmp_path).text(value) == "sub-0001"
    salt, text = store(tmp_path).opening(value)
    assert hashlib.blake2b(text.encode(), key=salt, digest_size=32).hexdigest() == value
    assert len(salt) == 32
    data = on_disk(tmp_path)
    assert b"sub-0001" not in data
    assert salt not in data
    assert stat.S_IMODE((tmp_path / "key/texts.key").stat().st_mode) == 0o600


def test_equal_texts_do_not_look_equal_but_a_person_does(tmp_path: Path) -> None:
    kept = store(tmp_path)
    assert kept.commit("sub-0001") != kept.commit("sub-0001")
    assert kept.person("alice") == store(tmp_path).person("alice") != kept.person("bob")
    assert store(tmp_path / "elsewhere").person("alice") != kept.person("alice")
    assert kept.text(kept.person("alice")) == "alice"
    assert commitment(bytes(32), "a") != commitment(bytes([1] * 32), "a")


def test_erasure_leaves_the_log_and_its_proofs_as_they_were(tmp_path: Path) -> None:
    kept = store(tmp_path)
    value = kept.commit("sub-0001")
    with AuditLog(tmp_path / "log", SIGNER, lambda: START * 1000) as log:
        lookup = {"kind": "lookup", "role": "billing", "what": "usage", "rows": 3}
        index = log.append(
            lookup
            | {"actor": kept.person("a"), "subject": value, "reference": kept.commit("ticket 7")}
        )
        proof = log.prove(index)
        kept.erase(value)
        kept.erase(value)
        assert log.prove(index) == proof
    assert verify(tmp_path / "log").good
    with pytest.raises(CommitmentError, match="no text"):
        kept.text(value)
    assert b"sub-0001" not in on_disk(tmp_path)


def test_damage_another_key_and_nonsense_are_told(tmp_path: Path) -> None:
    kept = store(tmp_path)
    value, other = kept.commit("sub-0001"), kept.commit("sub-0002")
    path = tmp_path / "texts" / value[:2] / value
    data = path.read_bytes()
    for spoilt in (data[:-1] + bytes([data[-1] ^ 1]), b"", data[:20]):
        path.write_bytes(spoilt)
        with pytest.raises(CommitmentError, match="damaged"):
            kept.text(value)
    path.write_bytes((tmp_path / "texts" / other[:2] / other).read_bytes())
    with pytest.raises(CommitmentError, match="damaged"):  # one entry in another's place
        kept.text(value)
    with pytest.raises(CommitmentError, match="another key"):
        CommitmentStore(tmp_path / "texts", tmp_path / "new.key").text(other)
    (tmp_path / "key/texts.key").write_bytes(b"short")
    with pytest.raises(CommitmentError, match="key"):
        kept.commit("x")
    with pytest.raises(CommitmentError, match="not a commitment"):
        kept.text("../../etc/passwd")
    with pytest.raises(CommitmentError, match="more than"):
        store(tmp_path / "fresh").commit("x" * 4097)
