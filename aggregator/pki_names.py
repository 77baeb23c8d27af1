"""What an operator typed in, names as certificates have them out, or an error in plain words."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from cryptography import x509

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")
_PERSON: Final = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,30}[a-z0-9_])?")
"""A login name of useradd(8), so that a person is the same one on the machine and in the log."""
_ROLE: Final = re.compile(r"[a-z]([a-z-]{0,30}[a-z])?")
_HOST: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,62})(\.[a-z0-9]([a-z0-9-]{0,62}))*")


class PkiError(RuntimeError):
    """The authority cannot do what was asked; the message says why and what to do."""


def alternative(name: str) -> x509.GeneralName:
    """A host name or an address, as a server is reached by."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not _HOST.fullmatch(name):
        raise PkiError(f"{name!r} is neither a host name in lower case nor an address")
    return x509.DNSName(name)


def check_collector(collector: str) -> None:
    """Raise PkiError unless it can be a collector's name."""
    if not _NAME.fullmatch(collector):
        raise PkiError(
            f"{collector!r} is not a collector's name: 1 to 64 of a-z, 0-9, dot and hyphen,"
            " beginning and ending with a letter or digit"
        )


def check_person(person: str) -> None:
    """Raise PkiError unless it can be a person's name."""
    if not _PERSON.fullmatch(person):
        raise PkiError(
            f"{person!r} is not a person's name: write the login name, 1 to 32 of a-z, 0-9,"
            " underscore, dot and hyphen"
        )


def is_role(text: str) -> bool:
    """Whether a text can be a role; which roles there are is the retention service's to say."""
    return _ROLE.fullmatch(text) is not None
