"""Every kind of leaf from model objects: as `leaf.check` wants it, and without personal data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from retention.audit import leaf as leaf_kinds
from retention.audit import replay_holds
from retention.audit.canonical import Leaf, encode
from retention.audit.commit import CommitmentStore
from retention.model import DAY_US, Approval, Extension, HeldRoot, Kind, Place, Release, Step
from retention.register import leaves
from tests.retention import ledger
from tests.retention.audit.story import START, WITNESS_SIGNER
from tests.retention.register.made import POLICY, ROOT, SPAN, hold, item, purge, sha, stamped

BOB = Approval("bob", "legal-approver", START + 5)
ANN = Approval("ann", "legal-requester", START + 4)
HOLD = hold(
    approved=BOB,
    ended_us=START + 9,
    release=Release(ANN, (BOB,)),
    unavailable=tuple(f"P-2026-{n:06d}" for n in range(500)),
    scope=tuple(item(n, kind=Kind.NUMBER, value=f"+44{n}") for n in range(900)),
)
PURGE = purge(held=(HeldRoot("H-1", 5, ROOT), HeldRoot("H-2", 0, ROOT)), waiting=("replica-down",))
PURGED = replace(PURGE, rows_before=9, preserved=5, destroyed=4, digest=ROOT, dropped_us=START)

EXTENDING = replace(HOLD, extension=Extension(ANN, None))


def every() -> list[Leaf]:
    """A leaf or more of each kind."""
    return [
        leaves.heartbeat(0, 0),
        leaves.clock_step(5, True, False, "backwards"),
        leaves.config_changed(ROOT, "ann", sha),
        leaves.config_changed(ROOT, None, sha),
        leaves.witness_enrolled(str(WITNESS_SIGNER.key), "ann", sha),
        leaves.policy_loaded({"digest": POLICY, "periods": []}),
        leaves.partition_seen(SPAN, START + 5, POLICY),
        *leaves.hold_submitted(HOLD, 0, sha, sha),
        *leaves.hold_grown(HOLD.id, HOLD.scope, 0, sha),
        leaves.hold_approved(HOLD, 0, sha),
        leaves.hold_rejected(HOLD, BOB, "no-basis", 0, sha),
        leaves.hold_lapsed(HOLD, 0),
        leaves.hold_expired(HOLD, 0),
        leaves.hold_released(HOLD, 0),
        leaves.hold_reviewed(replace(HOLD, review_by_us=START + 9), BOB, 0, sha),
        leaves.hold_extension_requested(EXTENDING, 0, sha),
        leaves.hold_extension_rejected(EXTENDING, BOB, "not-needed", 0, sha),
        leaves.hold_extension_cancelled(EXTENDING, ANN, 0, sha),
        leaves.hold_extended(HOLD, Extension(ANN, None), BOB, 0, sha),
        leaves.hold_preserved(HOLD, 0),
        *leaves.hold_unavailable(HOLD, 0),
        leaves.hold_release_requested(HOLD, 0, sha),
        leaves.hold_release_approved(HOLD, BOB, 0, sha),
        leaves.hold_release_cancelled(HOLD, BOB, 0, sha),
        leaves.hold_evidence(HOLD.id, Place("visit", 20260101), 0, ROOT, 0),
        leaves.purge_intent(PURGE, 2),
        leaves.purge_preserved(PURGED),
        leaves.purge_dropped(PURGED),
        leaves.purge_certificate_pending(PURGED, ROOT),
        leaves.purge_certificate_final(PURGED, ROOT, 1),
        leaves.purge_failed(replace(PURGE, reason="fingerprint"), Step.INTENT),
        leaves.late_swept(SPAN, 0, 5, 4, PURGE.held),
        leaves.restore_found(Place("visit", 20260101), PURGE.id, 9),
        leaves.lookup("ann", "dpo", "binding", "+4477", "case 5", 3, sha, sha),
        leaves.lookup("ann", "dpo", "binding", None, "case 5", None, sha, sha),
        leaves.refusal("ann", "dpo", "approve", "H-1", "own-request", sha, sha),
        leaves.refusal(None, None, "approve", None, "own-request", sha, sha),
        leaves.safeguard_budget(1_000_000, DAY_US),
        leaves.safeguard_window(ledger.entry()),
        leaves.login_failed("mallory", "socket", "no-role", sha),
        leaves.login_failed(None, "https", "no-role", sha),
    ]


def test_there_is_a_builder_for_each_kind_that_the_log_does_not_write_itself() -> None:
    built = {leaf["kind"] for leaf in every()}
    assert leaf_kinds.KINDS.keys() - built == {"genesis", "witness.cosigned"}
    for kind in built:
        assert hasattr(leaves, kind.replace(".", "_").replace("-", "_"))


def test_each_leaf_is_as_its_kind_is() -> None:
    for leaf in every():
        whole = {"v": 1, "at": START} | leaf
        leaf_kinds.check(whole)
        assert len(encode(whole)) <= 65_535


def test_no_leaf_tells_a_name_an_identifier_or_a_reference() -> None:
    text = json.dumps(every())
    for secret in ("ann", "bob", "mallory", "+44", "case 5", "a court", "ref 1", "matter"):
        assert f'"{secret}' not in text


def test_a_generation_is_raised_by_the_kinds_that_the_replay_expects() -> None:
    assert set(replay_holds._SAME_GENERATION) == leaves.SAME_GENERATION
    present = 7
    for built in (
        leaves.hold_submitted(HOLD, present, sha, sha),
        leaves.hold_grown(HOLD.id, HOLD.scope, present, sha),
        leaves.hold_unavailable(HOLD, present),
        [leaves.hold_approved(HOLD, present, sha), leaves.hold_lapsed(HOLD, present + 1)],
        [leaves.hold_release_requested(HOLD, present, sha)],
    ):
        stamped(*built, generation=present)  # raises for a generation that is not due


def test_long_lists_are_split_and_none_is_lost() -> None:
    submitted, *grown = leaves.hold_submitted(HOLD, 0, sha, sha)
    assert len(grown) > 2
    values = [one["value"] for leaf in (submitted, *grown) for one in leaf["scope"]]
    assert values == [sha(leaves.scope_text(one)) for one in HOLD.scope]
    purges = [one for leaf in leaves.hold_unavailable(HOLD, 0) for one in leaf["purges"]]
    assert tuple(purges) == HOLD.unavailable
    assert leaves.hold_grown(HOLD.id, [], 0, sha) == []
    assert leaves.hold_submitted(replace(HOLD, scope=()), 0, sha, sha)[0]["scope"] == []
    wide = [item(classes=tuple(f"class-{n:058d}" for n in range(400)))] * 5
    assert len(leaves.hold_grown(HOLD.id, wide, 0, sha)) == 5


def test_the_same_identifier_has_another_commitment_in_each_leaf(tmp_path: Path) -> None:
    store = CommitmentStore(tmp_path / "texts", tmp_path / "key")
    one, two = (leaves.hold_submitted(hold(), 0, store.person, store.commit)[0] for _ in range(2))
    assert one["scope"][0]["value"] != two["scope"][0]["value"]
    assert one["requester"] == two["requester"]
    assert json.loads(store.text(one["scope"][0]["value"])) == {
        "kind": "subscriber",
        "value": item().value,
        "ports": [0, 65535],
    }


def test_a_certificate_states_the_holds_that_have_rows() -> None:
    for leaf in (leaves.purge_preserved(PURGED), leaves.purge_certificate_final(PURGED, ROOT, 0)):
        assert leaf["holds"] == [{"hold": "H-1", "rows": 5, "root": ROOT}]


def test_what_cannot_be_told_is_an_error() -> None:
    for wrong in (
        replace(SPAN, earliest_us=SPAN.start_us + 1),
        replace(SPAN, latest_us=SPAN.end_us - 1),
        replace(SPAN, end_us=SPAN.start_us, latest_us=SPAN.end_us),
    ):
        with pytest.raises(ValueError, match="clock days"):
            leaves.partition_seen(wrong, START, POLICY)
    with pytest.raises(ValueError, match="nobody approved"):
        leaves.hold_approved(hold(), 0, sha)
    with pytest.raises(ValueError, match="nobody requested"):
        leaves.hold_release_requested(hold(), 0, sha)
