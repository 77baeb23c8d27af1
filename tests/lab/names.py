"""The names of the lab's internet: where they point, the zones and the certificate that say so."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.lab.topology import PAGES_V4, PAGES_V6, RESOLVER_V4, SERVERS_V4, SERVERS_V6

# name -> index of the server; several names on one address, so that only the TLS server name or
# the HTTP Host tells them apart.
HOSTS: Final[dict[str, int]] = {
    "www.shop.example": 0,
    "static.shop.example": 0,
    "news.example": 0,
    "mail.example": 1,
    "video.example": 1,
    "cdn-7.media.example": 1,
    "bank.example": 2,
    "api.weather.test": 2,
    "games.test": 3,
    "upload.photos.test": 3,
    "phone.example": 3,
}
ALIASES: Final[dict[str, str]] = {
    "shop.example": "www.shop.example",
    "stream.video.example": "cdn-7.media.example",
    "weather.test": "api.weather.test",
}
BLOCK_DOMAIN: Final = "block.safeguard.example"
BLOCKED: Final[dict[str, tuple[str, ...]]] = {
    "gambling": ("casino.test", "bets.test", "lotto.test"),
    "adult": ("lewd.test", "nude.test"),
    "malware": ("dropper.test",),
    "weapons": (),
}
"""Names that the resolver blocks, by category; of the last there are none, so nobody is counted."""
BY_ADDRESS: Final = "adult"
"""The category whose names the resolver answers with an address instead of a CNAME."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files of the web servers' dummy certificate; it is its own authority."""

    chain: Path
    key: Path


def make_certificate(folder: Path, names: Iterable[str]) -> Certificate:
    """A certificate for `names`, good for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    files = Certificate(folder / "web.pem", folder / "web.key")
    files.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.touch(0o600)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def zone_text(zone: str) -> str:
    """The zone file of `zone` ("example."), with A, AAAA and CNAME records."""
    lines = _head(zone)
    for name, server in HOSTS.items():
        if f"{name}.".endswith(f".{zone}"):
            lines += [f"{name}. A {SERVERS_V4[server]}", f"{name}. AAAA {SERVERS_V6[server]}"]
    lines += [
        f"{alias}. CNAME {name}."
        for alias, name in ALIASES.items()
        if f"{alias}.".endswith(f".{zone}")
    ]
    return "\n".join(lines) + "\n"


def policy_text(zone: str) -> str:
    """The response-policy zone file: what the resolver says in place of blocked names' answers."""
    lines = [*_head(zone)]
    for category, names in BLOCKED.items():
        for name in names:
            for owner in (name, f"*.{name}"):
                if category == BY_ADDRESS:
                    lines += [f"{owner} A {PAGES_V4[1]}", f"{owner} AAAA {PAGES_V6[1]}"]
                else:
                    lines.append(f"{owner} CNAME {category}.{BLOCK_DOMAIN}.")
    return "\n".join(lines) + "\n"


def block_text() -> str:
    """The zone file of BLOCK_DOMAIN: the pages of each category."""
    pages = [
        f"{name} {kind}" for name in BLOCKED for kind in (f"A {PAGES_V4[0]}", f"AAAA {PAGES_V6[0]}")
    ]
    return "\n".join([*_head(f"{BLOCK_DOMAIN}."), *pages]) + "\n"


def _head(zone: str) -> list[str]:
    return [
        f"$ORIGIN {zone}",
        "$TTL 60",
        "@ SOA ns hostmaster 1 3600 600 86400 60",
        "@ NS ns",
        f"ns A {RESOLVER_V4}",
    ]
