"""A folder in, a small certificate authority in it out: for collectors, staff and the server.

    ca.crt  ca.key            the authority, ten years; the key signs and belongs on no router
    server.crt  server.key    the aggregator's, with the names and addresses it is reached by
    collectors/NAME.crt .key  one collector's; its name is in the common name and in a URI
    staff/NAME.crt .key       one person's: the common name, a role in each organisational unit
    crl.pem                   revoked certificates; the servers read it again when it changes

A person's certificate is good for the retention service's API alone, a collector's for uploads
alone: each has a URI of its own kind (tallyhold://staff/, tallyhold://collector/), which both
servers ask for, and a person's an extended key usage besides, which no collector's has.

ECDSA on P-256 throughout; keys are files of mode 0600 in folders of mode 0700. Every function can
be called again: what exists and is good stays as it is.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aggregator.pki_names import PkiError as PkiError
from aggregator.pki_names import alternative, check_collector, check_person, is_role

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 825
"""Two years and some: the longest that clients of the web have accepted since 2018."""
STAFF_DAYS: Final = 800
RENEW_DAYS: Final = 30
"""`init`, `issue` and `staff` replace a certificate that ends within this."""
STAFF_URI: Final = "tallyhold://staff/"
STAFF_USAGE: Final = x509.ObjectIdentifier("2.25.133213386071040637214143942712744416018")
"""A UUID as an object identifier (ITU-T X.667), as nobody has to be asked for one."""
MAX_ROLES: Final = 8
_SKEW: Final = datetime.timedelta(hours=1)

Now = Callable[[], datetime.datetime]


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key as files; `is_new` False where a good one was there already."""

    cert: Path
    key: Path
    is_new: bool


def init(folder: Path, names: Sequence[str], now: Now | None = None) -> Issued:
    """Make the authority, an empty revocation list and the server's certificate.

    names: host names and addresses by which collectors reach the server. Where the server's
    certificate has other names, or ends soon, it is made anew; the authority never is.
    """
    moment = _now(now)
    alternatives = [alternative(name) for name in names]
    if not alternatives:
        raise PkiError("give at least one name or address by which collectors reach the server")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / "ca.key").exists():
        if (folder / "ca.crt").exists():
            raise PkiError(f"{folder} has ca.crt but no ca.key: restore the key from its backup")
        _make_authority(folder, moment)
    if not (folder / "crl.pem").exists():
        _write_crl(folder, [], moment)
    subject = _subject(next(name for name in names))
    wanted = x509.SubjectAlternativeName(alternatives)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    return _leaf(folder, folder / "server", _Wanted(subject, wanted, usage), moment)


def issue(folder: Path, collector: str, now: Now | None = None) -> Issued:
    """A certificate for one collector; the one there is where it is good and not revoked."""
    moment = _now(now)
    check_collector(collector)
    (folder / "collectors").mkdir(mode=0o700, exist_ok=True)
    wanted = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(f"tallyhold://collector/{collector}")]
    )
    path = folder / "collectors" / collector
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    return _leaf(folder, path, _Wanted(_subject(collector), wanted, usage), moment)


def staff(
    folder: Path,
    person: str,
    roles: Sequence[str],
    days: int = STAFF_DAYS,
    now: Now | None = None,
) -> Issued:
    """A certificate for one person in these roles; the one there is where it is good and the same.

    Where the roles are others than before, the old certificate is revoked: who had more rights
    yesterday must not keep them in a file.
    """
    moment = _now(now)
    check_person(person)
    wrong = [role for role in roles if not is_role(role)]
    if wrong or not 1 <= len(set(roles)) <= MAX_ROLES:
        raise PkiError(f"give 1 to {MAX_ROLES} roles, each of a-z and hyphens")
    if not 1 <= days <= LEAF_DAYS:
        raise PkiError(f"a certificate lasts 1 to {LEAF_DAYS} days")
    (folder / "staff").mkdir(mode=0o700, exist_ok=True)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(STAFF_URI + person)])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, STAFF_USAGE])
    subject = _subject(person, sorted(set(roles)))
    path = folder / "staff" / person
    old = _serial(path.with_name(f"{person}.crt"))
    issued = _leaf(folder, path, _Wanted(subject, names, usage, days), moment)
    if issued.is_new and old is not None:
        _list(folder, old, moment)
    return issued


def revoke(folder: Path, name: str, now: Now | None = None, *, kind: str = "collectors") -> int:
    """Put a collector's certificate, or for kind "staff" a person's, on the revocation list.

    Returns its serial number. The files stay, so that what was revoked can be shown; `issue` and
    `staff` make new ones.
    """
    (check_person if kind == "staff" else check_collector)(name)
    serial = _serial(folder / kind / f"{name}.crt")
    if serial is None:
        raise PkiError(f"no certificate was issued to {name} by this authority")
    _list(folder, serial, _now(now))
    return serial


def _serial(path: Path) -> int | None:
    if not path.exists():
        return None
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def _list(folder: Path, serial: int, moment: datetime.datetime) -> None:
    """Put a serial number on the revocation list, where it is not yet."""
    listed = list(_load_crl(folder))
    if serial not in {entry.serial_number for entry in listed}:
        builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment)
        _write_crl(folder, [*listed, builder.build()], moment)


def revoked(folder: Path) -> frozenset[int]:
    """Serial numbers on the revocation list."""
    return frozenset(entry.serial_number for entry in _load_crl(folder))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a certificate is to say; `days` is how long."""

    subject: x509.Name
    names: x509.SubjectAlternativeName
    usage: x509.ExtendedKeyUsage
    days: int = LEAF_DAYS

    def is_said_by(self, old: x509.Certificate) -> bool:
        alternative = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usage = old.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        return (old.subject, alternative, usage) == (self.subject, self.names, self.usage)


def _leaf(folder: Path, path: Path, wanted: _Wanted, moment: datetime.datetime) -> Issued:
    cert_path, key_path = path.with_name(f"{path.name}.crt"), path.with_name(f"{path.name}.key")
    if cert_path.exists() and key_path.exists():
        old = x509.load_pem_x509_certificate(cert_path.read_bytes())
        spare = datetime.timedelta(days=min(RENEW_DAYS, wanted.days / 2))
        lasts = old.not_valid_after_utc - moment > spare
        if lasts and wanted.is_said_by(old) and old.serial_number not in revoked(folder):
            return Issued(cert_path, key_path, is_new=False)
    authority, authority_key = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(moment + datetime.timedelta(days=wanted.days), authority.not_valid_after_utc)
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = (
        _builder(wanted.subject, key, moment, until)
        .issuer_name(authority.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(wanted.usage, critical=False)
        .add_extension(wanted.names, critical=False)
        .add_extension(issuer_id, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    # The key first: a certificate without its key would be taken for one that is good.
    _write(key_path, _key_pem(key), 0o600)
    _write(cert_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return Issued(cert_path, key_path, is_new=True)


def _make_authority(folder: Path, moment: datetime.datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    until = moment + datetime.timedelta(days=CA_DAYS)
    certificate = (
        _builder(_subject("Tallyhold collectors CA"), key, moment, until)
        .issuer_name(_subject("Tallyhold collectors CA"))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    # The certificate first: without a key `init` says what is missing instead of starting over.
    _write(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    _write(folder / "ca.key", _key_pem(key), 0o600)


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    except OSError as error:
        raise PkiError(f"no authority in {folder} ({error.strerror}): make one first") from None
    except ValueError:
        raise PkiError(f"the authority in {folder} is damaged: restore it from backup") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError(f"the authority's key in {folder} is not an elliptic curve key")
    return certificate, key


def _load_crl(folder: Path) -> x509.CertificateRevocationList:
    try:
        return x509.load_pem_x509_crl((folder / "crl.pem").read_bytes())
    except OSError as error:
        raise PkiError(f"no revocation list in {folder} ({error.strerror})") from None


def _write_crl(
    folder: Path, entries: Sequence[x509.RevokedCertificate], moment: datetime.datetime
) -> None:
    """A list that is good as long as the authority: it is written anew with every revocation, and
    one that ran out would stop every collector at once."""
    authority, key = _authority(folder)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(moment - _SKEW)
        .next_update(authority.not_valid_after_utc)
    )
    for entry in entries:
        builder = builder.add_revoked_certificate(entry)
    signed = builder.sign(key, hashes.SHA256())
    _write(folder / "crl.pem", signed.public_bytes(serialization.Encoding.PEM), 0o644)


def _builder(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    moment: datetime.datetime,
    until: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - _SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _subject(name: str, units: Sequence[str] = ()) -> x509.Name:
    # A common name has at most 64 characters (RFC 5280 appendix A.1).
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]
    parts += [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units]
    return x509.Name(parts)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _now(now: Now | None) -> datetime.datetime:
    moment = now() if now else datetime.datetime.now(datetime.UTC)
    return moment.replace(microsecond=0)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by others for an instant."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
