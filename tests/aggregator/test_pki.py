"""The small authority: what it makes, that openssl agrees, and that it can be asked twice."""

from __future__ import annotations

import datetime
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from aggregator import pki

START = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)


def at(days: int) -> pki.Now:
    return lambda: START + datetime.timedelta(days=days)


def openssl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)


def test_openssl_verifies_what_was_issued(tmp_path: Path) -> None:
    server = pki.init(tmp_path, ["collect.example.net", "192.0.2.1", "2001:db8::1"])
    client = pki.issue(tmp_path, "edge-1")
    ca = str(tmp_path / "ca.crt")
    for purpose, made in (("sslserver", server), ("sslclient", client)):
        done = openssl("verify", "-x509_strict", "-CAfile", ca, "-purpose", purpose, str(made.cert))
        assert done.returncode == 0, done.stdout + done.stderr
    wrong = openssl("verify", "-CAfile", ca, "-purpose", "sslserver", str(client.cert))
    assert wrong.returncode != 0
    text = openssl("x509", "-noout", "-text", "-in", str(server.cert)).stdout
    for words in ("DNS:collect.example.net", "IP Address:192.0.2.1", "prime256v1"):
        assert words in text
    text = openssl("x509", "-noout", "-text", "-in", str(client.cert)).stdout
    assert "URI:tallyhold://collector/edge-1" in text
    assert "CN = edge-1" in text


def test_openssl_finds_the_revoked_one(tmp_path: Path) -> None:
    pki.init(tmp_path, ["localhost"])
    first, second = pki.issue(tmp_path, "edge-1"), pki.issue(tmp_path, "edge-2")
    serial = pki.revoke(tmp_path, "edge-1")
    assert pki.revoke(tmp_path, "edge-1") == serial
    assert pki.revoked(tmp_path) == {serial}
    ca, crl = str(tmp_path / "ca.crt"), str(tmp_path / "crl.pem")
    codes = [
        openssl("verify", "-crl_check", "-CAfile", ca, "-CRLfile", crl, str(each.cert)).returncode
        for each in (first, second)
    ]
    assert codes[0] != 0
    assert codes[1] == 0
    again = pki.issue(tmp_path, "edge-1")
    assert again.is_new
    pki.revoke(tmp_path, "edge-1")
    assert len(pki.revoked(tmp_path)) == 2


def test_asking_twice_changes_nothing(tmp_path: Path) -> None:
    assert pki.init(tmp_path, ["localhost"]).is_new
    assert pki.issue(tmp_path, "edge-1").is_new
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert not pki.init(tmp_path, ["localhost"]).is_new
    assert not pki.issue(tmp_path, "edge-1").is_new
    assert {path: path.read_bytes() for path in before} == before


def test_other_names_or_a_near_end_make_a_new_certificate(tmp_path: Path) -> None:
    pki.init(tmp_path, ["localhost"], at(0))
    authority = (tmp_path / "ca.crt").read_bytes()
    pki.issue(tmp_path, "edge-1", at(0))
    assert pki.init(tmp_path, ["localhost", "10.0.0.1"], at(1)).is_new
    assert not pki.issue(tmp_path, "edge-1", at(pki.LEAF_DAYS - pki.RENEW_DAYS - 1)).is_new
    assert pki.issue(tmp_path, "edge-1", at(pki.LEAF_DAYS - pki.RENEW_DAYS)).is_new
    assert (tmp_path / "ca.crt").read_bytes() == authority


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    pki.init(tmp_path, ["localhost"], at(0))
    made = pki.issue(tmp_path, "edge-1", at(pki.CA_DAYS - 60))
    leaf = x509.load_pem_x509_certificate(made.cert.read_bytes())
    assert leaf.not_valid_after_utc == START + datetime.timedelta(days=pki.CA_DAYS)


def test_keys_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    pki.init(folder, ["localhost"])
    pki.issue(folder, "edge-1")
    keys = list(folder.rglob("*.key"))
    assert len(keys) == 3
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    for each in (folder, folder / "collectors"):
        assert stat.S_IMODE(each.stat().st_mode) == 0o700


def test_openssl_reads_what_a_person_is_given(tmp_path: Path) -> None:
    pki.init(tmp_path, ["localhost"])
    made = pki.staff(tmp_path, "ann_m", ["legal-approver", "dpo", "dpo"])
    ca = str(tmp_path / "ca.crt")
    done = openssl("verify", "-x509_strict", "-CAfile", ca, "-purpose", "sslclient", str(made.cert))
    assert done.returncode == 0, done.stderr
    text = openssl("x509", "-noout", "-text", "-in", str(made.cert)).stdout
    assert "CN = ann_m, OU = dpo, OU = legal-approver" in text
    assert "URI:tallyhold://staff/ann_m" in text
    assert pki.STAFF_USAGE.dotted_string in text
    collector = openssl(
        "x509", "-noout", "-text", "-in", str(pki.issue(tmp_path, "ann").cert)
    ).stdout
    assert pki.STAFF_USAGE.dotted_string not in collector
    assert "OU = " not in collector


def test_other_roles_revoke_what_was_before(tmp_path: Path) -> None:
    pki.init(tmp_path, ["localhost"], at(0))
    first = pki.staff(tmp_path, "ann", ["dpo"], now=at(0))
    serial = x509.load_pem_x509_certificate(first.cert.read_bytes()).serial_number
    assert not pki.staff(tmp_path, "ann", ["dpo"], now=at(1)).is_new
    assert pki.revoked(tmp_path) == frozenset()
    assert pki.staff(tmp_path, "ann", ["auditor"], now=at(1)).is_new
    assert pki.revoked(tmp_path) == {serial}
    again = pki.staff(tmp_path, "ann", ["auditor"], now=at(pki.STAFF_DAYS - pki.RENEW_DAYS + 1))
    assert again.is_new
    assert len(pki.revoked(tmp_path)) == 2


@pytest.mark.parametrize("days", [1, 30, 825])
def test_a_persons_certificate_lasts_as_long_as_is_wanted(tmp_path: Path, days: int) -> None:
    pki.init(tmp_path, ["localhost"], at(0))
    made = pki.staff(tmp_path, "ann", ["dpo"], days, at(0))
    leaf = x509.load_pem_x509_certificate(made.cert.read_bytes())
    assert leaf.not_valid_after_utc == START + datetime.timedelta(days=days)
    assert not pki.staff(tmp_path, "ann", ["dpo"], days, at(0)).is_new


@pytest.mark.parametrize(
    ("name", "roles", "days"),
    [
        ("", ["dpo"], 800),
        ("Ann", ["dpo"], 800),
        ("a/b", ["dpo"], 800),
        ("a" * 40, ["dpo"], 800),
        ("ann", [], 800),
        ("ann", ["dpo,root"], 800),
        ("ann", ["d", "e", "f", "g", "h", "i", "j", "k", "l"], 800),
        ("ann", ["dpo"], 0),
        ("ann", ["dpo"], 826),
    ],
)
def test_people_roles_and_days_are_what_they_must_be(
    tmp_path: Path, name: str, roles: list[str], days: int
) -> None:
    pki.init(tmp_path, ["localhost"])
    with pytest.raises(pki.PkiError):
        pki.staff(tmp_path, name, roles, days)


@pytest.mark.parametrize("name", ["", "../edge", "Edge", "a/b", "a" * 65, "edge-", "é"])
def test_names_are_names(tmp_path: Path, name: str) -> None:
    pki.init(tmp_path, ["localhost"])
    for ask in (pki.issue, pki.revoke):
        with pytest.raises(pki.PkiError, match="name"):
            ask(tmp_path, name)
    with pytest.raises(pki.PkiError):
        pki.init(tmp_path, [name.upper() or "_"])


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(pki.PkiError, match="at least one name"):
        pki.init(tmp_path, [])
    with pytest.raises(pki.PkiError, match="make one first|no revocation list"):
        pki.issue(tmp_path, "edge-1")
    pki.init(tmp_path, ["localhost"])
    with pytest.raises(pki.PkiError, match="no certificate was issued to edge-9"):
        pki.revoke(tmp_path, "edge-9")
    (tmp_path / "ca.key").unlink()
    with pytest.raises(pki.PkiError, match="restore the key"):
        pki.init(tmp_path, ["localhost"])
