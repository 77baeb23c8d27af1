"""A folder in, a small certificate authority in it out: for collectors, the server, nobody else.

    ca.crt  ca.key            the authority, ten years; the key signs and belongs on no router
    server.crt  server.key    the aggregator's, with the names and addresses it is reached by
    collectors/NAME.crt .key  one collector's; its name is in the common name and in a URI
    crl.pem                   revoked certificates; the aggregator reads it again when it changes

ECDSA on P-256 throughout; keys are files of mode 0600 in folders of mode 0700. Every function can
be called again: what exists and is good stays as it is.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 825
"""Two years and some: the longest that clients of the web have accepted since 2018."""
RENEW_DAYS: Final = 30
"""`init` and `issue` replace a certificate that ends within this."""
_SKEW: Final = datetime.timedelta(hours=1)
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")
_HOST: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,62})(\.[a-z0-9]([a-z0-9-]{0,62}))*")

Now = Callable[[], datetime.datetime]


class PkiError(RuntimeError):
    """The authority cannot do what was asked; the message says why and what to do."""


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
    alternatives = [_alternative(name) for name in names]
    if not alternatives:
        raise PkiError("give at least one name or address by which collectors reach the server")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / "ca.key").exists():
        if (folder / "ca.crt").exists():
            raise PkiError(f"{folder} has ca.crt but no ca.key: restore the key from its backup")
        _make_authority(folder, moment)
    if not (folder / "crl.pem").exists():
        _write_crl(folder, [], moment)
    subject = next(name for name in names)
    wanted = x509.SubjectAlternativeName(alternatives)
    return _leaf(
        folder, folder / "server", subject, wanted, ExtendedKeyUsageOID.SERVER_AUTH, moment
    )


def issue(folder: Path, collector: str, now: Now | None = None) -> Issued:
    """A certificate for one collector; the one there is where it is good and not revoked."""
    moment = _now(now)
    _check_name(collector)
    (folder / "collectors").mkdir(mode=0o700, exist_ok=True)
    wanted = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(f"tallyhold://collector/{collector}")]
    )
    path = folder / "collectors" / collector
    usage = ExtendedKeyUsageOID.CLIENT_AUTH
    return _leaf(folder, path, collector, wanted, usage, moment)


def revoke(folder: Path, collector: str, now: Now | None = None) -> int:
    """Put a collector's certificate on the revocation list; returns its serial number.

    The files stay, so that what was revoked can be shown; `issue` makes new ones.
    """
    _check_name(collector)
    path = folder / "collectors" / f"{collector}.crt"
    if not path.exists():
        raise PkiError(f"no certificate was issued to {collector} by this authority")
    serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
    moment = _now(now)
    listed = list(_load_crl(folder))
    if serial not in {entry.serial_number for entry in listed}:
        builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment)
        _write_crl(folder, [*listed, builder.build()], moment)
    return serial


def revoked(folder: Path) -> frozenset[int]:
    """Serial numbers on the revocation list."""
    return frozenset(entry.serial_number for entry in _load_crl(folder))


def _leaf(
    folder: Path,
    path: Path,
    name: str,
    names: x509.SubjectAlternativeName,
    usage: x509.ObjectIdentifier,
    moment: datetime.datetime,
) -> Issued:
    cert_path, key_path = path.with_name(f"{path.name}.crt"), path.with_name(f"{path.name}.key")
    if cert_path.exists() and key_path.exists():
        old = x509.load_pem_x509_certificate(cert_path.read_bytes())
        alternative = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        lasts = old.not_valid_after_utc - moment > datetime.timedelta(days=RENEW_DAYS)
        if lasts and alternative == names and old.serial_number not in revoked(folder):
            return Issued(cert_path, key_path, is_new=False)
    authority, authority_key = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(moment + datetime.timedelta(days=LEAF_DAYS), authority.not_valid_after_utc)
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = (
        _builder(name, key, moment, until)
        .issuer_name(authority.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(names, critical=False)
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
        _builder("Tallyhold collectors CA", key, moment, until)
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
    name: str,
    key: ec.EllipticCurvePrivateKey,
    moment: datetime.datetime,
    until: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - _SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _subject(name: str) -> x509.Name:
    # A common name has at most 64 characters (RFC 5280 appendix A.1).
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


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


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not _HOST.fullmatch(name):
        raise PkiError(f"{name!r} is neither a host name in lower case nor an address")
    return x509.DNSName(name)


def _check_name(collector: str) -> None:
    if not _NAME.fullmatch(collector):
        raise PkiError(
            f"{collector!r} is not a collector's name: 1 to 64 of a-z, 0-9, dot and hyphen,"
            " beginning and ending with a letter or digit"
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
