"""Both doors as people meet them: who gets in, who may what, what is answered, what is logged."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggregator import pki
from retention.access import ALL_BURST
from retention.answers import iso
from retention.api import CHANGERS, ROUTES
from retention.audit.checkpoint import WITNESS, Signer
from retention.audit.log import LogReader
from retention.audit.witness import Witness
from retention.client import Where
from retention.doors import DoorError
from retention.model import DAY_US
from tests.retention.rig import (
    FAR,
    SECOND_APPROVER,
    USERS,
    Ask,
    Authority,
    Running,
    asked,
    config,
    good,
    hold_body,
    open_folder,
    running,
)
from tests.retention.test_access import MAY

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    """One for all tests that do not stop it; its engine was never started."""
    with open_folder() as folder:
        authority = Authority(folder / "pki")
        more = {"api": {"listen": "127.0.0.1:0", "tls": authority.tls()}}
        with running(folder, more) as made:
            made.authority = authority  # type: ignore[attr-defined]
            yield made
        good(made.config.log_folder)


@pytest.fixture(autouse=True)
def nobody_was_refused_yet(service: Running) -> None:
    """The limit on leaves of refusals counts anew for each test."""
    refusals = service.service.api.parts.refusals  # type: ignore[union-attr]
    refusals._buckets.clear()
    refusals._all._left = ALL_BURST


def over_https(service: Running, who: Where) -> Where:
    assert service.service.api is not None
    return replace(who, service=f"https://localhost:{service.service.api.port}")


def questions() -> list[tuple[str, Ask]]:
    """Every action, with a question that comes as far as the rule about roles; changes nothing."""
    found: list[tuple[str, Ask]] = []
    for route in ROUTES:
        path = route.path.replace("{id}", "H-none").replace("{job}", "none")
        # Of a request that is allowed, the body is what is refused.
        found.append((route.action, (route.method, path, {"odd": 1})))
    return found


@pytest.mark.parametrize("role", USERS)
def test_each_role_and_each_action(service: Running, role: str) -> None:
    asks = questions()
    replies = service.as_user(USERS[role], *(ask for _, ask in asks))
    wrong = []
    for (action, (_, path, _)), (status, answer) in zip(asks, replies, strict=True):
        allowed = action == "health.read" or action in MAY[role].split()
        refused = status == 403 and answer["error"] == "not-allowed"
        if refused is allowed or status == 500:
            wrong.append((action, path, status, answer))
    assert wrong == []


def test_every_refusal_of_a_role_is_in_the_log(service: Running) -> None:
    before = len(service.leaves("refusal"))
    status, answer = service.ask("faults", "POST", "/v1/purge/run", {})
    assert (status, answer["error"]) == (403, "not-allowed")
    assert "operations" in answer["message"]
    leaf = service.leaves("refusal")[before]
    assert (leaf["action"], leaf["reason"], leaf["role"]) == ("purge.run", "not-allowed", None)
    register = service.service.register
    assert register is not None
    commitments = service.service.api.parts.commitments  # type: ignore[union-attr]
    assert commitments.text(leaf["actor"]) == USERS["faults"]


def test_somebody_without_a_role_is_not_let_in(service: Running) -> None:
    before = len(service.leaves("login.failed"))
    status, answer = service.as_user("nobody", ("GET", "/v1/health", None))[0]
    assert (status, answer["error"]) == (403, "no-role")
    leaf = service.leaves("login.failed")[before]
    assert (leaf["way"], leaf["reason"]) == ("socket", "no-role")
    assert b"nobody" not in json.dumps(service.leaves()).encode()


def test_the_socket_is_for_its_group_only(service: Running) -> None:
    found = service.config.api.socket.stat()
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert stat.S_ISSOCK(found.st_mode)


def test_a_hold_goes_its_whole_way_through_people(service: Running) -> None:
    status, hold = service.ask("legal-requester", "POST", "/v1/holds", hold_body())
    assert status == 200, hold
    path = f"/v1/holds/{hold['id']}"
    assert (hold["state"], hold["protects"]) == ("AwaitingApproval", True)
    assert hold["requested"]["person"] == USERS["legal-requester"]
    assert "lapses" in hold["next"]
    status, hold = service.ask("legal-approver", "POST", f"{path}/approve", {})
    assert (status, hold["approved"]["role"]) == (200, "legal-approver")
    assert hold["state"] == "AwaitingPreservation"  # the engine is down
    later = "2099-06-01T00:00:00Z"
    extend = ("legal-requester", "POST", f"{path}/extend", {"expires": later})
    assert service.ask(*extend)[1]["extension"]["expires"] == later
    assert service.ask("dpo", "POST", f"{path}/cancel-extension", {})[0] == 403
    status, hold = service.ask("legal-requester", "POST", f"{path}/cancel-extension", {})
    assert (status, hold["extension"]) == (200, None)
    assert service.ask(*extend)[0] == 200
    assert service.ask("dpo", "POST", f"{path}/review", {})[0] == 400
    review_by = str(iso(int(time.time()) * 1_000_000 + 30 * DAY_US))
    status, hold = service.ask("dpo", "POST", f"{path}/review", {"review_by": review_by})
    assert (status, hold["review_by"], "reviewed by" in hold["next"]) == (200, review_by, True)
    status, hold = service.ask("dpo", "POST", f"{path}/approve", {})
    assert (status, hold["expires"]) == (200, later)
    body = {"reason": "case closed"}
    status, hold = service.ask("legal-requester", "POST", f"{path}/release", body)
    assert hold["release"]["reason"] == "case closed"
    status, hold = service.ask("legal-approver", "POST", f"{path}/approve", {})
    status, again = service.ask("legal-approver", "POST", f"{path}/approve", {})
    assert (status, again["error"]) == (403, "same-person")
    status, hold = service.as_user(SECOND_APPROVER, ("POST", f"{path}/approve", {}))[0]
    assert len(hold["release"]["approvals"]) == 2
    status, hold = service.ask("dpo", "POST", f"{path}/cancel-release", {})
    assert (status, hold["release"], hold["protects"]) == (200, None, True)
    kinds = [leaf["kind"] for leaf in service.leaves() if leaf.get("hold") == hold["id"]]
    assert kinds == [
        "hold.submitted", "hold.approved", "hold.extension-requested",
        "hold.extension-cancelled", "hold.extension-requested", "hold.reviewed", "hold.extended",
        "hold.release-requested", "hold.release-approved", "hold.release-approved",
        "hold.release-cancelled",
    ]  # fmt: skip


def test_one_person_who_has_both_roles_cannot_approve_their_own(service: Running) -> None:
    """Not even over the other door: there they have the same name."""
    authority: Authority = service.authority  # type: ignore[attr-defined]
    name = USERS["legal-requester"]
    _, hold = service.ask("legal-requester", "POST", "/v1/holds", hold_body())
    me = over_https(service, authority.staff(name, "legal-requester", "legal-approver", "dpo"))
    before = len(service.leaves("refusal"))
    ((status, answer),) = asked(me, (("POST", f"/v1/holds/{hold['id']}/approve", {}),))
    assert (status, answer["error"]) == (403, "same-person")
    leaf = service.leaves("refusal")[before]
    assert (leaf["action"], leaf["reason"]) == ("hold.approve", "same-person")
    submitted = next(x for x in service.leaves("hold.submitted") if x["hold"] == hold["id"])
    assert leaf["actor"] == submitted["requester"]


def test_all_sharers_take_the_dpo_whatever_other_role_they_have(service: Running) -> None:
    authority: Authority = service.authority  # type: ignore[attr-defined]
    _, hold = service.ask("legal-requester", "POST", "/v1/holds", hold_body(all_sharers=True))
    path = f"/v1/holds/{hold['id']}/approve"
    status, answer = service.ask("legal-approver", "POST", path, {})
    assert (status, answer["error"]) == (403, "not-allowed")
    both = over_https(service, authority.staff("olivia", "legal-approver", "dpo"))
    ((status, answer),) = asked(both, (("POST", path, {}),))
    assert (status, answer["approved"]["role"]) == (200, "dpo")


def test_looking_at_a_hold_is_in_the_log_before_it_is_answered(service: Running) -> None:
    _, hold = service.ask("legal-requester", "POST", "/v1/holds", hold_body())
    before = len(service.leaves("lookup"))
    asks: tuple[Ask, ...] = (
        ("GET", f"/v1/holds/{hold['id']}", None),
        ("GET", "/v1/holds?state=AwaitingApproval", None),
    )
    (_, one), (_, many) = service.as_user(USERS["auditor"], *asks)
    assert one["scope"][0]["value"] == "sub-0001"
    assert one["id"] in [each["id"] for each in many["holds"]]
    found = service.leaves("lookup")[before:]
    assert [(leaf["what"], leaf["role"]) for leaf in found] == [
        ("hold", "auditor"), ("holds", "auditor"),
    ]  # fmt: skip
    assert "sub-0001" not in json.dumps(service.leaves())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scope": []}, "scope"),
        ({"scope": [{"kind": "subscriber", "value": "sub-1"}]}, "identifier 1: from"),
        ({"scope": [{"kind": "mac", "value": "x", "from": FAR}]}, "identifier 1"),
        ({"scope": [{"kind": "number", "value": "SECRET", "from": FAR}]}, "identifier 1"),
        ({"scope": [["subscriber", "sub-1"]]}, "identifier 1"),
        ({"scope": "sub-1"}, "scope"),
        ({"mode": "wide"}, "mode"),
        ({"matter": ""}, "matter"),
        ({"matter": 7}, "matter"),
        ({"matter": "two\nlines"}, "matter"),
        ({"expires": "2027-01-01"}, "expires"),
        ({"expires": 5}, "expires"),
        ({"expires": None}, "expiry or of review"),
        ({"all_sharers": "yes"}, "all_sharers"),
        ({"order_sha256": "abc"}, "order"),
        ({"served": FAR}, "served"),
        ({"surprise": 1}, "unknown field"),
    ],
)
def test_a_hold_that_cannot_be_is_refused_in_words(
    service: Running, change: dict[str, Any], words: str
) -> None:
    generation = service.service.register.generation  # type: ignore[union-attr]
    status, answer = service.ask("legal-requester", "POST", "/v1/holds", hold_body(**change))
    assert status == 400, answer
    assert words in answer["message"]
    assert "SECRET" not in answer["message"]
    assert service.service.register.generation == generation  # type: ignore[union-attr]


def test_what_is_not_there_is_said(service: Running) -> None:
    for role, method, path in (
        ("dpo", "GET", "/v1/holds/H-2020-0001"),
        ("dpo", "POST", "/v1/holds/H-2020-0001/approve"),
        ("dpo", "GET", "/v1/nothing"),
        ("operations", "GET", "/v1/purge/P-2020-000001/certificate"),
        ("operations", "GET", "/v1/purge/run/run-99"),
        ("dpo", "POST", "/v1/health"),
    ):
        status, answer = service.ask(role, method, path, {})
        assert (status, answer["error"]) == (404, "not-found"), path
    status, answer = service.ask("dpo", "GET", "/v1/holds?state=Gone")
    assert status == 400
    assert "AwaitingApproval" in answer["message"]


def test_without_an_engine_what_needs_it_says_so(service: Running) -> None:
    for role, path in (
        ("operations", "/v1/purge/plan"),
        ("dpo", "/v1/policy/report"),
    ):
        status, answer = service.ask(role, "GET", path)
        assert (status, answer["error"]) == (503, "store"), path
    status, answer = service.ask("operations", "POST", "/v1/purge/run", {"dry_run": False})
    assert status == 200
    name = answer["job"]
    service.until(
        "the run",
        lambda: service.ask("operations", "GET", f"/v1/purge/run/{name}")[1]["state"] == "failed",
    )
    status, answer = service.ask("operations", "POST", "/v1/purge/reconcile", {})
    assert (status, answer["error"]) == (409, "not-ready")
    assert "engine is down" in answer["message"]
    assert service.ask("auditor", "POST", "/v1/purge/reconcile", {})[0] == 403
    _, health = service.ask("billing", "GET", "/v1/health")
    assert (health["state"], health["engine"], health["ready"]) == ("degraded", "down", False)
    assert health["you"] == USERS["billing"]


def test_the_policy_and_the_proofs_are_given(service: Running, tmp_path: Path) -> None:
    _, policy = service.ask("auditor", "GET", "/v1/policy")
    assert set(policy["periods"]) == {"binding", "call", "mapping", "session", "usage", "visit"}
    _, tail = service.ask("auditor", "GET", "/v1/audit/tail?lines=3")
    assert [leaf["index"] for leaf in tail["leaves"]] == list(
        range(tail["leaves"][0]["index"], tail["leaves"][0]["index"] + 3)
    )
    status, _ = service.ask("auditor", "GET", "/v1/audit/tail?lines=0")
    assert status == 400
    _, found = service.ask("operations", "GET", "/v1/audit/checkpoint")
    assert found["checkpoint"].startswith(f"{service.config.origin}\n")
    assert found["key"].startswith(f"{service.config.origin}+")


def test_a_witness_is_enrolled_and_its_signature_kept(service: Running, tmp_path: Path) -> None:
    witness = Witness(tmp_path / "w", "auditor.example/w1", lambda: int(time.time()))
    key = str(witness.signer().key)
    log_key = LogReader(service.config.log_folder)
    with service.service.register.audit():  # type: ignore[union-attr]
        log_key.load()
        first = json.loads(log_key.entry(0))["key"]
        from retention.audit.checkpoint import Key

        note = witness.cosign(service.config.log_folder, Key.parse(first))
    status, answer = service.ask("auditor", "POST", "/v1/audit/witness", {"note": note})
    assert (status, answer["error"]) == (409, "unknown-witness")
    status, answer = service.ask("auditor", "POST", "/v1/audit/witness", {"key": key, "note": note})
    assert status == 200, answer
    assert service.leaves()[answer["index"]]["kind"] == "witness.cosigned"
    assert service.leaves("witness.enrolled")[-1]["key"] == key
    for body in ({"key": first}, {"note": "rubbish"}, {}, {"key": 1}, {"note": note + "x"}):
        status, _ = service.ask("auditor", "POST", "/v1/audit/witness", body)
        assert status == 400, body
    other = Signer.generate("auditor.example/w2", WITNESS).key
    service.ask("dpo", "POST", "/v1/audit/witness", {"key": str(other)})
    _, found = service.ask("dpo", "GET", "/v1/audit/checkpoint")
    assert found["witnesses"] == [key, str(other)]


# Over HTTPS


def test_people_come_in_with_their_certificates(service: Running) -> None:
    authority: Authority = service.authority  # type: ignore[attr-defined]
    ann = over_https(service, authority.staff("ann", "auditor"))
    replies = asked(ann, (("GET", "/v1/health", None), ("POST", "/v1/purge/run", {})))
    assert (replies[0][0], replies[0][1]["you"], replies[0][1]["roles"]) == (
        200, "ann", ["auditor"],
    )  # fmt: skip
    assert (replies[1][0], replies[1][1]["error"]) == (403, "not-allowed")


def test_a_collectors_certificate_does_not_open_this_door(service: Running) -> None:
    authority: Authority = service.authority  # type: ignore[attr-defined]
    before = len(service.leaves("login.failed"))
    router = over_https(service, authority.collector("edge-1"))
    for status, answer in asked(router, (("GET", "/v1/health", None), ("GET", "/v1/holds", None))):
        assert (status, answer["error"]) == (403, "not-staff")
    leaf = service.leaves("login.failed")[before]
    assert (leaf["way"], leaf["reason"]) == ("certificate", "not-staff")


def test_a_revoked_certificate_is_refused_at_once_and_on_open_connections(
    service: Running,
) -> None:
    authority: Authority = service.authority  # type: ignore[attr-defined]
    bob = over_https(service, authority.staff("bob", "dpo"))
    assert bob.cert and bob.key and bob.ca
    context = ssl.create_default_context(cafile=bob.ca)
    context.load_cert_chain(bob.cert, bob.key)
    port = int(bob.service.rpartition(":")[2])
    open_one = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
    open_one.request("GET", "/v1/health")
    assert json.loads(open_one.getresponse().read())["you"] == "bob"
    pki.revoke(authority.folder, "bob", kind="staff")
    open_one.request("GET", "/v1/health")
    response = open_one.getresponse()
    assert (response.status, json.loads(response.read())["error"]) == (403, "revoked")
    open_one.close()
    before = len(service.leaves("login.failed"))
    ((status, answer),) = asked(bob, (("GET", "/v1/health", None),))
    assert (status, answer["error"]) == (403, "tls")
    service.until("the leaf", lambda: len(service.leaves("login.failed")) > before)
    leaf = service.leaves("login.failed")[before]
    assert (leaf["actor"], leaf["way"], leaf["reason"]) == (None, "tls", "certificate-revoked")


def test_other_roles_make_a_new_certificate_and_end_the_old_one(service: Running) -> None:
    authority: Authority = service.authority  # type: ignore[attr-defined]
    carol = authority.staff("carol", "operations")
    assert carol.cert and carol.key
    old = carol.cert.with_name("old.crt"), carol.key.with_name("old.key")
    old[0].write_bytes(carol.cert.read_bytes())
    old[1].write_bytes(carol.key.read_bytes())
    now = over_https(service, authority.staff("carol", "billing"))
    ((status, answer),) = asked(now, (("GET", "/v1/health", None),))
    assert (status, answer["roles"]) == (200, ["billing"])
    ((status, _),) = asked(replace(now, cert=old[0], key=old[1]), (("GET", "/v1/health", None),))
    assert status == 403


def test_strangers_and_the_nameless_do_not_get_as_far_as_a_request(
    service: Running, tmp_path: Path
) -> None:
    before = len(service.leaves("login.failed"))
    stranger = Authority(tmp_path / "other").staff("ann", "dpo")
    authority: Authority = service.authority  # type: ignore[attr-defined]
    ours = authority.folder / "ca.crt"
    ((status, answer),) = asked(
        over_https(service, replace(stranger, ca=ours)), (("GET", "/v1/holds", None),)
    )
    assert (status, answer["error"]) == (403, "tls")
    port = service.service.api.port  # type: ignore[union-attr]
    bare = ssl.create_default_context(cafile=ours)
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        connection = http.client.HTTPSConnection("localhost", port, context=bare, timeout=20)
        connection.request("GET", "/v1/health")
        connection.getresponse()
    connection.close()
    old = ssl.create_default_context(cafile=ours)
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("localhost", port)) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
        old.wrap_socket(raw, server_hostname="localhost") as wrapped,
    ):
        wrapped.send(b"GET /v1/health HTTP/1.1\r\n\r\n")
        if not wrapped.recv(1):
            raise ConnectionError
    service.until("the leaves", lambda: len(service.leaves("login.failed")) >= before + 3)
    reasons = {leaf["reason"] for leaf in service.leaves("login.failed")[before:]}
    assert "peer-did-not-return-a-certificate" in reasons


def test_a_flood_from_nowhere_does_not_fill_the_log(service: Running) -> None:
    before, size = len(service.leaves("login.failed")), len(service.leaves())
    asks = tuple(("GET", "/v1/health", None) for _ in range(100))
    assert {status for status, _ in service.as_user("nobody", *asks)} == {403}
    assert len(service.leaves("login.failed")) - before <= 20
    assert len(service.leaves()) - size <= 21
    assert service.metric("turned_away_total", kind="login.failed", written="no") >= 80


# What it bears


def raw(service: Running, data: bytes, wait_s: float = 5.0) -> bytes:
    """Bytes straight to the socket, as root, who has no role here; what comes back."""
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(wait_s)
        door.connect(str(service.config.api.socket))
        found = b""
        try:
            door.sendall(data)
            while chunk := door.recv(65536):
                found += chunk
        except (TimeoutError, ConnectionError):
            pass
    return found


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"7", b'"x"', b"\xff", b"[" * 100_000, b'{"a": NaN'],
)  # fmt: skip
def test_bodies_that_are_none_are_refused(service: Running, body: bytes) -> None:
    head = f"POST /v1/holds HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    found = raw(service, head + body)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert json.loads(found.partition(b"\r\n\r\n")[2])["error"] == "bad-request"


def test_a_body_over_the_limit_is_refused_and_not_read(service: Running) -> None:
    head = b"POST /v1/holds HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n"
    found = raw(service, head + b" " * 5_000_000)
    assert b"too-large" in found or found == b""
    assert service.ask("dpo", "GET", "/v1/health")[0] == 200


def test_rubbish_is_no_reason_to_stop(service: Running) -> None:
    for data in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n"):
        raw(service, data, 1.0)
    assert service.ask("dpo", "GET", "/v1/health")[0] == 200


def test_more_connections_than_are_borne_are_closed() -> None:
    with open_folder() as folder, running(folder, {"api": {"max_connections": 4}}) as service:
        many = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for each in many:
            each.settimeout(5)
            each.connect(str(service.config.api.socket))
        closed = 0
        for each in many[4:]:
            with contextlib.suppress(TimeoutError):
                closed += each.recv(1) == b""
        for each in many:
            each.close()
        assert closed == 16
        service.until("a place", lambda: service.ask("dpo", "GET", "/v1/health")[0] == 200)


def test_looking_does_not_wait_for_who_waits_for_the_lock(service: Running) -> None:
    authority: Authority = service.authority  # type: ignore[attr-defined]
    lawyer = over_https(service, authority.staff("lara", "legal-requester"))
    operator = over_https(service, authority.staff("otto", "operations"))
    register = service.service.register
    assert register is not None
    placed: list[Any] = []
    ask: Ask = ("POST", "/v1/holds", hold_body())
    threads = [
        threading.Thread(target=lambda: placed.extend(asked(lawyer, (ask,))))
        for _ in range(CHANGERS + 1)
    ]
    with register.exclusive():  # as a purge has it
        for each in threads:
            each.start()
        started = time.monotonic()
        replies = asked(operator, (("GET", "/v1/purge/status", None),) * 3)
        assert [status for status, _ in replies] == [200] * 3
        assert time.monotonic() - started < 10
        assert placed == []
    for each in threads:
        each.join()
    assert [status for status, _ in placed] == [200] * (CHANGERS + 1)


def test_doors_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    socket_file = tmp_path / "door.sock"
    with pytest.raises(DoorError, match="no such group"):
        Running(config(tmp_path / "a", {"api": {"group": "no-such-group"}})).start()
    socket_file.write_text("not a socket")
    with pytest.raises(DoorError, match="something else"):
        Running(config(tmp_path)).start()
    assert socket_file.read_text() == "not a socket"
    socket_file.unlink()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DoorError, match=r"metrics\.listen.*another program"):
            Running(config(tmp_path, {"metrics": {"listen": listen}})).start()
    assert not socket_file.exists()
    authority = Authority(tmp_path / "pki")
    other = Authority(tmp_path / "other")
    tls = authority.tls() | {"key": other.tls()["key"]}
    with pytest.raises(DoorError, match="does not belong"):
        Running(config(tmp_path, {"api": {"listen": "127.0.0.1:0", "tls": tls}})).start()


def test_a_dead_services_socket_is_replaced_and_a_live_ones_is_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "door.sock"))
    with running(tmp_path), pytest.raises(DoorError, match="another retention service answers"):
        Running(config(tmp_path, {"folder": str(tmp_path / "second")})).start()
    assert not (tmp_path / "door.sock").exists()
