"""Telephone numbers: turns a SIP or tel URI into the number as sent and, where valid, E.164.

RFC 3261 section 19.1.6 (numbers in SIP URIs), RFC 3966 (tel), RFC 5031 (urn:service:sos).
`phonenumbers` makes +44999 of 999, so only what it calls valid becomes E.164.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

import phonenumbers
from phonenumbers import shortnumberinfo

MAX_DIGITS: Final = 32
"""Longest text tried as a number: 15 digits (E.164), prefixes and separators."""

_DIALLED: Final = re.compile(r"\+?[0-9][0-9()\-. ]*")
_SEPARATORS: Final = str.maketrans("", "", "()-. ")
_KEPT: Final = frozenset(("rn", "npdi", "isub", "ext"))
_SHORT_DIGITS: Final = 6
"""A valid national number has more digits than this in every plan; fewer are a short code."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number: `raw` as sent, percent-decoded and without parameters; `e164` empty unless valid.

    kind: e164, short, emergency, private, invalid, anonymous or none. parameters: rn, npdi, isub
    and ext as sent (RFC 4694, RFC 3966).
    """

    raw: str
    e164: str
    kind: str
    parameters: tuple[tuple[str, str], ...] = ()


NONE: Final = Number("", "", "none")


@lru_cache(maxsize=4096)
def from_uri(uri: str, region: str) -> Number:
    """The number of a URI dialled in `region` (ISO 3166 code, such as GB).

    Remembered, as each call names the same URIs several times and `phonenumbers` takes 50 us."""
    scheme, colon, rest = uri.partition(":")
    scheme = scheme.strip().lower()
    if not colon:
        return NONE
    if scheme == "urn":
        emergency = rest.lower().startswith("service:sos")
        return Number(uri, "", "emergency" if emergency else "private")
    if scheme not in ("sip", "sips", "tel"):
        return Number(unquote(rest), "", "private")
    user, at, host = rest.partition("@")
    if scheme != "tel" and not at:
        return NONE
    raw, *parts = user.split(";")
    # A password in the user part (RFC 3261 section 19.1.1) is nobody's number.
    raw = unquote(raw.partition(":")[0]).strip()
    pairs = [(name.lower(), unquote(value)) for name, _, value in (p.partition("=") for p in parts)]
    kept = tuple(pair for pair in pairs if pair[0] in _KEPT)
    if raw.lower() == "anonymous" or host.partition(";")[0].lower() == "anonymous.invalid":
        return Number(raw, "", "anonymous", kept)
    e164, kind = _classify(raw, dict(pairs).get("phone-context", ""), region)
    return Number(raw, e164, kind, kept)


def _classify(raw: str, context: str, region: str) -> tuple[str, str]:
    if len(raw) > MAX_DIGITS or not _DIALLED.fullmatch(raw):
        return "", "private" if raw else "none"
    digits = raw.translate(_SEPARATORS)
    if is_emergency(digits, region):
        return "", "emergency"
    if context.startswith("+") and not digits.startswith("+"):
        digits = context.translate(_SEPARATORS) + digits
    elif context and not digits.startswith("+"):
        # Local to a private plan (RFC 3966 section 5.1.5): digits there mean nothing here.
        return "", "private"
    try:
        number = phonenumbers.parse(digits, region)
    except phonenumbers.NumberParseException:
        return "", "short" if len(digits) <= _SHORT_DIGITS else "invalid"
    if phonenumbers.is_valid_number(number):
        formatted: str = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        return formatted, "e164"
    return "", "short" if len(digits) <= _SHORT_DIGITS else "invalid"


def is_emergency(digits: str, region: str) -> bool:
    """Whether the digits are an emergency number of the region, dialled exactly."""
    return bool(shortnumberinfo.is_emergency_number(digits, region))
