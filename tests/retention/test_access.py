"""Who comes in and what they may do: groups, certificates, the table, and floods of refusals."""

from __future__ import annotations

import grp
import os
import pwd
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aggregator import pki
from retention import access
from retention.access import ACTIONS, NotAllowed, NotLetIn, Person, Refusals, certified, of_user
from retention.api import ROUTES
from retention.config import Role

# What each role may, written out by hand from docs/legal.md and the design: not from the code.
MAY = {
    "operations": "purge.plan purge.status purge.run purge.certificate audit.checkpoint clock.read"
    " clock.confirm policy.report faults.outages",
    "billing": "",
    "demand": "",
    "faults": "faults.line faults.outages",
    "legal-requester": "hold.list hold.show hold.coverage hold.place hold.extend hold.release"
    " hold.cancel-extension hold.review hold.cancel-release policy.read policy.report"
    " purge.certificate lookup.who",
    "legal-approver": "hold.list hold.show hold.coverage hold.approve hold.reject"
    " hold.review hold.cancel-release policy.read policy.report purge.certificate lookup.who",
    "dpo": "hold.list hold.show hold.coverage hold.approve hold.reject hold.review"
    " hold.cancel-release policy.read policy.report purge.plan purge.status purge.certificate"
    " audit.tail audit.checkpoint audit.witness clock.read clock.confirm lookup.who",
    "auditor": "hold.list hold.show hold.coverage policy.read policy.report purge.plan"
    " purge.status purge.certificate audit.tail audit.checkpoint audit.witness clock.read",
}


@pytest.mark.parametrize("role", Role)
def test_each_role_may_what_it_may_and_nothing_else(role: Role) -> None:
    person = Person("ann", frozenset({role}), "socket")
    allowed = set()
    for action in ACTIONS:
        try:
            assert person.role_for(action) is role
        except NotAllowed:
            continue
        allowed.add(action)
    assert allowed == {"health.read", *MAY[role].split()}


def test_nobody_is_refused_in_other_words_than_the_role() -> None:
    with pytest.raises(NotAllowed, match="legal-approver or dpo"):
        Person("ann", frozenset({Role.LEGAL_REQUESTER}), "socket").role_for("hold.approve")


def test_every_action_has_a_route_and_every_route_an_action() -> None:
    assert {route.action for route in ROUTES} == set(ACTIONS)
    # Two routes look at runs and what they did, and two start one: a purge, and after a restore.
    count = Counter(route.action for route in ROUTES)
    assert {action for action, number in count.items() if number > 1} == {
        "purge.status",
        "purge.run",
    }


def test_a_user_has_the_roles_of_all_their_groups() -> None:
    me = pwd.getpwuid(os.getuid())
    mine = grp.getgrgid(me.pw_gid).gr_name
    found = of_user(os.getuid(), {mine: (Role.DPO, Role.AUDITOR), "no-such": (Role.BILLING,)})
    assert found == Person(me.pw_name, frozenset({Role.DPO, Role.AUDITOR}), "socket")


def test_the_groups_are_those_of_the_database_not_of_the_process() -> None:
    """A process that still has a group its user was taken out of has no role by it."""
    with pytest.raises(NotLetIn) as caught:
        of_user(pwd.getpwnam("nobody").pw_uid, {"users": (Role.DPO,), "root": (Role.DPO,)})
    assert (caught.value.name, caught.value.reason) == ("nobody", "no-role")


def test_a_user_without_a_name_is_not_let_in() -> None:
    with pytest.raises(NotLetIn) as caught:
        of_user(3_999_999_999, {})
    assert caught.value.reason == "unknown-user"


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert access.peer_uid(one) == os.getuid()


def der(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


def test_a_staff_certificate_names_person_and_roles(tmp_path: Path) -> None:
    pki.init(tmp_path, ["localhost"])
    made = pki.staff(tmp_path, "ann", ["dpo", "auditor", "of-another-version"])
    assert certified(der(made.cert)) == Person(
        "ann", frozenset({Role.DPO, Role.AUDITOR}), "certificate"
    )


def test_both_sides_agree_on_what_a_staff_certificate_is() -> None:
    assert access.STAFF_URI == pki.STAFF_URI
    assert access.STAFF_USAGE == pki.STAFF_USAGE


def test_certificates_of_collectors_and_servers_are_nobodys(tmp_path: Path) -> None:
    server = pki.init(tmp_path, ["localhost"])
    for made in (server, pki.issue(tmp_path, "edge-1")):
        with pytest.raises(NotLetIn) as caught:
            certified(der(made.cert))
        assert caught.value.reason == "not-staff"


@pytest.mark.parametrize(
    ("names", "uri", "usages", "units", "reason"),
    [
        (["ann"], "tallyhold://staff/bob", [True, True], ["dpo"], "not-staff"),
        (["ann"], "tallyhold://collector/ann", [True, True], ["dpo"], "not-staff"),
        (["ann", "bob"], "tallyhold://staff/ann", [True, True], ["dpo"], "not-staff"),
        (["../ann"], "tallyhold://staff/../ann", [True, True], ["dpo"], "not-staff"),
        (["ann"], "tallyhold://staff/ann", [True, False], ["dpo"], "not-staff"),
        (["ann"], "tallyhold://staff/ann", [False, True], ["dpo"], "not-staff"),
        (["ann"], "tallyhold://staff/ann", [True, True], [], "no-role"),
        (["ann"], "tallyhold://staff/ann", [True, True], ["DPO", "root"], "no-role"),
        (["ann"], "tallyhold://staff/ann", [True, True], ["dpo"], ""),
    ],
)
def test_every_part_of_a_staff_certificate_counts(
    tmp_path: Path, names: list[str], uri: str, usages: list[bool], units: list[str], reason: str
) -> None:
    """Made by hand, as if the authority had been asked for something odd."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pki.init(tmp_path, ["localhost"])
    like = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names]
    subject += [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units]
    kinds = [ExtendedKeyUsageOID.CLIENT_AUTH, pki.STAFF_USAGE]
    usage = x509.ExtendedKeyUsage([k for k, wanted in zip(kinds, usages, strict=True) if wanted])
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(like.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(like.not_valid_before_utc)
        .not_valid_after(like.not_valid_after_utc)
        .add_extension(usage, critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
        )
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    if not reason:
        assert certified(made).name == "ann"
        return
    with pytest.raises(NotLetIn) as caught:
        certified(made)
    assert caught.value.reason == reason


class Told:
    """A log that takes leaves, with a clock that stands until it is moved."""

    def __init__(self) -> None:
        self.leaves: list[dict[str, Any]] = []
        self.counted: Counter[tuple[str, bool]] = Counter()
        self.now = 0.0
        self.refusals = Refusals(
            self.leaves.append,
            lambda name: f"person {name}",
            lambda text: f"salted {text}",
            lambda kind, written: self.counted.update([(kind, written)]),
            lambda: self.now,
        )


ANN = Person("ann", frozenset({Role.DPO}), "socket")


def test_a_refusal_says_who_what_and_why_without_a_name() -> None:
    told = Told()
    told.refusals.refused(ANN, "dpo", "hold.approve", "same-person", "H-2026-0001")
    told.refusals.not_let_in("", "tls", "certificate-has-expired")
    assert told.leaves == [
        {
            "kind": "refusal", "actor": "person ann", "role": "dpo", "action": "hold.approve",
            "subject": "salted H-2026-0001", "reason": "same-person",
        },
        {
            "kind": "login.failed", "actor": None, "way": "tls",
            "reason": "certificate-has-expired",
        },
    ]  # fmt: skip


def test_a_flood_is_counted_and_not_written() -> None:
    told = Told()
    for _ in range(10_000):
        told.refusals.refused(ANN, "dpo", "purge.run", "not-allowed")
    assert len(told.leaves) == access.BURST
    assert told.counted["refusal", False] == 10_000 - access.BURST
    told.now += access.REFILL_S + 0.1
    told.refusals.refused(ANN, "dpo", "purge.run", "not-allowed")
    assert len(told.leaves) == access.BURST + 1


def test_one_persons_flood_silences_nobody_else() -> None:
    told = Told()
    bob = Person("bob", frozenset({Role.DPO}), "socket")
    for _ in range(10_000):
        told.refusals.refused(ANN, "dpo", "purge.run", "not-allowed")
    told.refusals.refused(bob, "dpo", "hold.approve", "same-person", "H-2026-0001")
    assert told.leaves[-1]["actor"] == "person bob"


def test_many_names_together_have_a_limit_and_no_memory_without_one() -> None:
    told = Told()
    for number in range(5_000):
        told.refusals.not_let_in(f"uid {number}", "socket", "unknown-user")
    assert len(told.leaves) == access.ALL_BURST
    assert len(told.refusals._buckets) <= access.MAX_KEYS


def test_a_log_that_cannot_be_written_refuses_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_: dict[str, Any]) -> None:
        raise OSError("disk full")

    refusals = Refusals(broken, str, str, lambda *_: None, lambda: 0.0)
    refusals.refused(ANN, "dpo", "purge.run", "not-allowed")
    assert "could not be written" in caplog.text
