"""Logs whose every signature is right and whose leaves show a wrong: each is found, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention.audit.canonical import Leaf, encode
from retention.audit.leaf import check
from retention.audit.log import AuditLog
from retention.audit.replay import Replay
from retention.audit.verify import verify
from tests.retention.audit.story import (
    ANN,
    BOB,
    DAY,
    ROOT,
    SIGNER,
    START,
    YEAR_ON,
    certify,
    clock,
    held,
    scope,
    span,
    story,
)

Told = dict[str, Leaf]
OTHER = "f" * 64
HALF_HELD = held(4)


def change(name: str, **fields: object) -> Callable[[Told], None]:
    def apply(told: Told) -> None:
        told[name] |= fields

    return apply


def without(*names: str) -> Callable[[Told], None]:
    def apply(told: Told) -> None:
        for name in names:
            del told[name]

    return apply


def after(name: str, *leaves: Leaf) -> Callable[[Told], None]:
    """Put leaves in after one, at its time."""

    def apply(told: Told) -> None:
        items = list(told.items())
        at = [key for key, _ in items].index(name) + 1
        new = [(f"new{n}", {"at": told[name]["at"], **leaf}) for n, leaf in enumerate(leaves)]
        told.clear()
        told.update(items[:at] + new + items[at:])

    return apply


def both(*changes: Callable[[Told], None]) -> Callable[[Told], None]:
    def apply(told: Told) -> None:
        for each in changes:
            each(told)

    return apply


def moved(name: str, to: str) -> Callable[[Told], None]:
    """Put a leaf before another, at that one's time."""

    def apply(told: Told) -> None:
        leaf = told.pop(name)
        items = list(told.items())
        at = [key for key, _ in items].index(to)
        told.clear()
        told.update([*items[:at], (name, leaf | {"at": items[at][1]["at"]}), *items[at:]])

    return apply


UNTRUSTED: Leaf = clock(backward=True, trusted=False, reason="stepped", actor=None)
NEW_HOLD: Leaf = {
    "kind": "hold.submitted",
    "hold": "h2",
    "generation": 3,
    "requester": ANN,
    "role": "legal-requester",
    "basis": "court-order",
    "order": None,
    "scope": [scope(**{"from": START + 20 * DAY, "to": START + 30 * DAY})],
    "all_sharers": False,
    "expires": None,
    "review_by": None,
}
UNTIL_DROP = (
    *("requested", "first", "second", "released", "vault-intent", "vault-preserved"),
    *("vault-dropped", "vault-final", "last"),
)
LESS = {"rows": 4, "holds": HALF_HELD}
LATE: Leaf = {
    "kind": "late.swept",
    **span(),
    "generation": 2,
    "rows_before": 3,
    "preserved": 1,
    "destroyed": 2,
    "holds": held(1),
}

SPOILT: dict[str, tuple[str, Callable[[Told], None]]] = {
    # A held row was destroyed although every signature is right.
    "one held row fewer is preserved": (
        "held-destroyed",
        both(
            change("preserved", **LESS),
            change("dropped", rows=96),
            change("pending", preserved=4, destroyed=96, holds=HALF_HELD),
            change("final", preserved=4, destroyed=96, holds=HALF_HELD),
            change("vault-preserved", rows_before=4),
            change("vault-dropped", rows=4),
            change("vault-final", rows_before=4, destroyed=4),
        ),
    ),
    "no hold was minded": (
        "held-destroyed",
        both(
            change("preserved", rows=0, holds=[]),
            change("dropped", rows=100),
            change("pending", preserved=0, destroyed=100, holds=[]),
            change("final", preserved=0, destroyed=100, holds=[]),
        ),
    ),
    "other rows were kept": (
        "held-changed",
        change("preserved", holds=[{"hold": "h1", "rows": 5, "root": OTHER}]),
    ),
    "the intent saw no hold": ("holds", change("intent", holds=0)),
    "the hold was never counted": ("evidence", without("evidence")),
    "evidence shrank while held": (
        "held-destroyed",
        after("evidence", {**story()["evidence"], "rows": 4}),
    ),
    "rows left the vault while held": (
        "held-destroyed",
        after("final", {**story()["evidence"], "at": YEAR_ON + 2 * DAY + 5, "rows": 4}),
    ),
    "the vault was emptied while held": (
        "held-destroyed",
        both(
            without("requested", "first", "second", "released"),
            *(
                change(name, generation=2)
                for name in ("vault-intent", "vault-preserved", "vault-dropped", "vault-final")
            ),
        ),
    ),
    "rows unaccounted for": ("counts", change("dropped", rows=94)),
    "the vault lost rows": ("counts", change("vault-preserved", rows_before=4)),
    "more preserved than held": ("counts", change("preserved", rows=6)),
    "kept for nobody": (
        "holds",
        change("preserved", holds=[*held(), {"hold": "h9", "rows": 0, "root": ROOT}]),
    ),
    # Order and generation.
    "no intent": ("intent", without("intent")),
    "intent after the fact": ("intent", moved("intent", "pending")),
    "nothing preserved first": ("preserve-first", without("preserved")),
    "dropped on an old generation": ("generation", after("intent", NEW_HOLD)),
    "a hold during the purge": ("interleaved", after("preserved", NEW_HOLD)),
    "a generation left out": ("generation", change("released", generation=4)),
    "dropped after it failed": (
        "intent",
        after("preserved", {"kind": "purge.failed", "purge": "p1", "step": "copy", "reason": "x"}),
    ),
    "failed after it dropped": (
        "outcome",
        after("dropped", {"kind": "purge.failed", "purge": "p1", "step": "copy", "reason": "x"}),
    ),
    "no outcome": ("outcome", without("dropped", "pending", "final", *UNTIL_DROP[:-1])),
    "destroyed twice": (
        "intent",
        after("final", {**story()["intent"], "at": YEAR_ON + 2 * DAY + 5, "purge": "p3"}),
    ),
    # Certificates.
    "no certificate": ("certificate", without("pending", "final")),
    "another held root certified": (
        "certificate",
        change("final", holds=[{"hold": "h1", "rows": 5, "root": OTHER}]),
    ),
    "another count certified": ("certificate", change("final", destroyed=94)),
    "certified before the drop": ("certificate", moved("pending", "dropped")),
    # People.
    "own hold approved": ("self-approval", change("approved", approver=ANN)),
    "own release approved": ("self-approval", change("second", approver=ANN)),
    "one person twice": ("two-people", change("second", approver=BOB)),
    "one person only": ("two-people", without("second")),
    "nobody requested the release": ("hold-state", without("requested")),
    "released too soon": ("release-delay", change("second", at=YEAR_ON + 6 * DAY)),
    "released after the release was cancelled": (
        "two-people",
        after(
            "second",
            {
                "kind": "hold.release-cancelled",
                "hold": "h1",
                "generation": 2,
                "actor": BOB,
                "role": "legal-approver",
            },
        ),
    ),
    "rejected after approval": (
        "hold-state",
        after("approved", {**story()["approved"], "kind": "hold.rejected", "reason": "x"}),
    ),
    "lapsed too soon": (
        "lapse",
        after("submitted", {"kind": "hold.lapsed", "hold": "h1", "generation": 2}),
    ),
    "expired without a date": (
        "expiry",
        after("beat", {"kind": "hold.expired", "hold": "h1", "generation": 3}),
    ),
    "an unknown hold": ("hold-state", without("submitted")),
    "an extension that shortens": (
        "extension",
        after(
            "beat",
            {
                "kind": "hold.extension-requested",
                "hold": "h1",
                "generation": 2,
                "requester": ANN,
                "role": "legal-requester",
                "expires": START + 6 * DAY,
            },
        ),
    ),
    "told of a destruction that was none": (
        "unavailable",
        after(
            "beat",
            {"kind": "hold.unavailable", "hold": "h1", "generation": 3, "purges": ["p0"]},
        ),
    ),
    # Time and policy.
    "too early": ("too-early", change("intent", at=YEAR_ON + DAY - 1)),
    "a partition nobody destroyed": (
        "kept-too-long",
        without("intent", "preserved", "dropped", "pending", "final", *UNTIL_DROP[:-1]),
    ),
    "destroyed late": (
        "kept-too-long",
        both(
            without(*UNTIL_DROP),
            *(
                change(name, at=YEAR_ON + 32 * DAY)
                for name in ("intent", "preserved", "dropped", "pending", "final")
            ),
        ),
    ),
    "kept on after the release": (
        "kept-too-long",
        without("vault-intent", "vault-preserved", "vault-dropped", "vault-final"),
    ),
    "a longer period than the policy's": (
        "policy",
        both(change("seen", retain_until=YEAR_ON + 2 * DAY)),
    ),
    "a shorter period": ("policy", change("seen", retain_until=YEAR_ON - 1)),
    "no policy": ("policy", without("policy")),
    "an intent that tells another period": (
        "intent",
        change("intent", retain_until=YEAR_ON - DAY),
    ),
    "a clock not to be trusted": ("clock-destroys", after("evidence", UNTRUSTED)),
    "time goes back": ("clock", change("beat", at=START)),
    # Late rows.
    "late rows unaccounted for": ("counts", after("final", LATE | {"destroyed": 1})),
    "late rows at an old generation": ("generation", after("final", LATE | {"generation": 1})),
    # The log's own.
    "a second genesis": (
        "genesis",
        after("beat", {"kind": "genesis", "origin": "o", "key": "o+00000000+" + "A" * 44}),
    ),
    "a heartbeat that counts otherwise": ("holds", change("beat", holds=0)),
    "a heartbeat of another generation": ("generation", change("beat", generation=1)),
    "a class twice": (
        "policy",
        change("policy", periods=[{"class": "visit", "months": 12, "days": 0}] * 2),
    ),
    "told of a witness's line that is not there": (
        "witness",
        after("beat", {"kind": "witness.cosigned", "size": 2, "keyid": "0" * 8, "digest": ROOT}),
    ),
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


def judged(folder: Path, told: Told) -> dict[str, str]:
    """Rule to words, for a log written by one who has the key and minds no rule of the writer."""
    with AuditLog(folder, SIGNER, lambda: START * 1000) as log:
        log._commit([encode({"v": 1} | leaf) for leaf in certify(folder, list(told.values()))])
    report = verify(folder)
    return {finding.rule: finding.text for finding in report.findings}


@pytest.mark.usefixtures("quick")
def test_the_story_is_good(tmp_path: Path) -> None:
    assert judged(tmp_path, story()) == {}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", list(SPOILT))
def test_a_wrong_is_found(tmp_path: Path, name: str) -> None:
    rule, spoil = SPOILT[name]
    told = story()
    spoil(told)
    found = judged(tmp_path, told)
    assert rule in found, found


@pytest.mark.usefixtures("quick")
def test_right_variations_are_good(tmp_path: Path) -> None:
    trusted = UNTRUSTED | {"trusted": True}
    variations: list[Callable[[Told], None]] = [
        after("evidence", UNTRUSTED, trusted),
        without("pending"),
        without(*UNTIL_DROP, "final"),  # certified as pending: a replica is down
        without(*UNTIL_DROP, "pending", "final"),  # the log ends here: nothing is overdue yet
        after("final", {**story()["evidence"], "at": YEAR_ON + 2 * DAY + 5}),
        both(
            change("vault-preserved", rows_before=6),
            change("vault-dropped", rows=6),
            change("vault-final", rows_before=6, destroyed=6),
            after("final", LATE),
        ),
    ]
    for number, vary in enumerate(variations):
        told = story()
        vary(told)
        assert judged(tmp_path / str(number), told) == {}, number


@given(st.lists(st.sampled_from(sorted({**story()})), max_size=40), st.data())
def test_no_order_of_leaves_makes_the_replay_fail(names: list[str], data: st.DataObject) -> None:
    replay = Replay(SIGNER.key.name)
    for name in names:
        leaf: Leaf = {"v": 1} | story()[name]
        if "hold" in leaf and data.draw(st.booleans()):
            leaf["hold"] = "h2"
        if "purge" in leaf and data.draw(st.booleans()):
            leaf["purge"] = "p2"
        check(leaf)
        replay.step(leaf)
    replay.finish()
    assert not names or replay.findings  # no story begins without a genesis
