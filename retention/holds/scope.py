"""Identifiers as people write them in, scope items in normal form out. Pure.

Normal forms are what the matcher compares with: E.164 numbers ("+442079460018"), prefixes with
their length in their own family ("192.0.2.7/32", "2001:db8::/56"; IPv4 never in its IPv6-mapped
form), user names with the realm in lower case (RFC 7542 section 2.4 compares realms so), and all
other texts exactly as records have them. No error repeats a value.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

import phonenumbers

from collector.wire.addr import MAPPED
from collector.wire.records import MAX_STRING_BYTES
from retention.holds.columns import ADDRESSES, ALL_PORTS, CLASSES, NUMBERS, TEXTS
from retention.holds.errors import ScopeError
from retention.model import NEVER, Kind, ScopeItem

__all__ = [
    "ALL_PORTS",
    "CLASSES_OF",
    "DIRECT_OF",
    "MAX_ITEMS",
    "MAX_RESOLVED",
    "ScopeError",
    "check",
    "literal",
    "normalise",
    "parse",
    "prefix",
]

MAX_ITEMS: Final = 64
"""Identifiers of one hold as submitted: an order names a handful, and all must fit one leaf."""
MAX_RESOLVED: Final = 4_000
"""Items of one hold that came from binding history, adjacent intervals merged: a subscriber with a
new IPv4 lease a day and a stable IPv6 prefix makes about 370 in a year."""
MAX_IPV4: Final = 8
MAX_IPV6: Final = 16
"""Shortest prefixes taken: registries give no provider more, so a shorter one is a slip that would
keep everybody's records."""

DIRECT_OF: Final[dict[Kind, tuple[str, ...]]] = {
    kind: tuple(
        name
        for name in CLASSES
        if kind in TEXTS[name]
        or (kind is Kind.ADDRESS and ADDRESSES[name])
        or (kind is Kind.NUMBER and name in NUMBERS)
    )
    for kind in Kind
}
"""Classes whose records have such an identifier in them."""
CLASSES_OF: Final[dict[Kind, tuple[str, ...]]] = {
    kind: DIRECT_OF[kind] if kind is Kind.NUMBER else CLASSES for kind in Kind
}
"""Classes that a hold on such an identifier can name: those that have it in them and, but for a
number, those that resolution through binding history reaches from it."""

_NUMBER: Final = re.compile(r"\+[0-9 ().\-/\u00a0]{6,40}")
_MAPPED_NETWORK: Final = ipaddress.IPv6Network((MAPPED + bytes(4), 96))
_SPACES: Final = " \u00a0"


def parse(
    kind: Kind | str,
    text: str,
    from_us: int,
    to_us: int,
    classes: Sequence[str] = (),
    ports: tuple[int, int] = ALL_PORTS,
) -> ScopeItem:
    """One scope item in normal form; no classes stands for all that are possible.

    Times are microseconds UTC, `to_us` NEVER for no end. Raises ScopeError.
    """
    kind = _kind(kind)
    item = ScopeItem(
        kind, normalise(kind, text), from_us, to_us, tuple(classes) or CLASSES_OF[kind], ports
    )
    check(item)
    known = [name for name in CLASSES if name in item.classes]
    return ScopeItem(kind, item.value, from_us, to_us, tuple(known), ports)


def check(item: ScopeItem) -> None:
    """Raise ScopeError unless the item's interval, classes and ports are possible."""
    if not 0 <= item.from_us < item.to_us <= NEVER:
        raise ScopeError(
            "the interval must begin after 1970, end after it begins, and end by 2100 or never"
        )
    if not item.classes or len(set(item.classes)) != len(item.classes):
        raise ScopeError("name at least one record class, and each once")
    for name in item.classes:
        if name not in CLASSES:
            raise ScopeError(f"an unknown record class; one of: {', '.join(CLASSES)}")
        if name not in CLASSES_OF[item.kind]:
            known = ", ".join(CLASSES_OF[item.kind])
            raise ScopeError(f"a {item.kind} leads to no {name} records, only to: {known}")
    if not _is_ports(item.ports):
        raise ScopeError("ports are two numbers from 0 to 65535, the smaller one first")
    if item.ports != ALL_PORTS and item.kind is not Kind.ADDRESS:
        raise ScopeError("only an address has ports")


def literal(item: ScopeItem) -> ScopeItem:
    """The item as a hold that is not resolved has it: only classes with the identifier in them.

    Raises ScopeError where none is left: such a hold would protect nothing.
    """
    possible = DIRECT_OF[item.kind] if item.ports == ALL_PORTS else ("mapping",)
    classes = tuple(name for name in item.classes if name in possible)
    if not classes:
        raise ScopeError(
            f"without resolution a {item.kind} protects only records of: {', '.join(possible)};"
            " let the hold be resolved, or name one of these classes"
        )
    return ScopeItem(item.kind, item.value, item.from_us, item.to_us, classes, item.ports)


def check_count(items: Iterable[ScopeItem]) -> None:
    """Raise ScopeError unless a hold as submitted can have these items."""
    submitted = sum(1 for item in items if not item.resolved)
    if not 1 <= submitted <= MAX_ITEMS:
        raise ScopeError(
            f"one hold takes 1 to {MAX_ITEMS} identifiers, not {submitted};"
            " place several holds under one matter"
        )


def normalise(kind: Kind | str, text: str) -> str:
    """The normal form of one identifier; raises ScopeError, which never repeats it."""
    kind = _kind(kind)
    if kind is Kind.ADDRESS:
        return _address(text.strip())
    if kind is Kind.NUMBER:
        return _number(text.strip())
    value = _text(text)
    if kind is Kind.USER:
        name, _, realm = value.rpartition("@")
        if name and not realm:
            raise ScopeError("the user name ends with @; leave it out for any realm")
        # As the collector splits it: what begins with its only @ has no realm.
        return f"{name}@{realm.lower()}" if name else value
    return value


def prefix(value: str) -> tuple[bytes, int]:
    """Base (16 bytes, IPv4 mapped) and length in 128 bits of an address in normal form."""
    network = ipaddress.ip_network(value)
    if isinstance(network, ipaddress.IPv4Network):
        return MAPPED + network.network_address.packed, network.prefixlen + 96
    return network.network_address.packed, network.prefixlen


def _kind(kind: Kind | str) -> Kind:
    if str(kind).strip().lower() == "mac":
        raise ScopeError(
            "no record kept here holds a MAC address; name the line, the subscriber or the"
            " address that used it instead"
        )
    try:
        return Kind(kind)
    except ValueError:
        raise ScopeError(f"an unknown kind of identifier; one of: {', '.join(Kind)}") from None


def _is_ports(ports: tuple[int, int]) -> bool:
    whole = len(ports) == 2 and all(type(port) is int for port in ports)
    return whole and 0 <= ports[0] <= ports[1] <= 65535


def _text(text: str) -> str:
    """Text exactly as records have it, so nothing is removed or folded here."""
    if not text or len(text.encode(errors="replace")) > MAX_STRING_BYTES:
        raise ScopeError(f"an identifier has 1 to {MAX_STRING_BYTES} bytes of UTF-8")
    # Category C: control, format (zero width), surrogate, private and unassigned characters; Zl
    # and Zp: line ends. Nobody can see them, so they come from a slip in copying.
    if any(unicodedata.category(each)[0] == "C" for each in text) or set(text) & {
        "\u2028",
        "\u2029",
    }:
        raise ScopeError("the identifier has a control character or an invisible one in it")
    if text[0] in _SPACES or text[-1] in _SPACES:
        raise ScopeError("the identifier begins or ends with a space; remove it")
    return text


def _address(text: str) -> str:
    base, slash, length = text.partition("/")
    if slash and not re.fullmatch(r"[0-9]{1,3}", length):
        raise ScopeError('write a prefix with its length in bits, as in "192.0.2.0/24"')
    if "%" in base:
        raise ScopeError("an address with a zone (%) means nothing outside one machine")
    try:
        network = ipaddress.ip_network(text, strict=False)
        address = ipaddress.ip_address(base)
    except ValueError:
        raise ScopeError("not an IPv4 or IPv6 address or prefix") from None
    if network.network_address != address:
        raise ScopeError(
            "the address has bits set beyond its prefix length; write the prefix's first address,"
            " or leave the length out for this one address"
        )
    if isinstance(network, ipaddress.IPv6Network) and network.overlaps(_MAPPED_NETWORK):
        if network.prefixlen < 96:
            raise ScopeError("the prefix holds every IPv4 address in its IPv6-mapped form")
        network = ipaddress.IPv4Network(
            (network.network_address.packed[12:], network.prefixlen - 96)
        )
    shortest = MAX_IPV4 if network.version == 4 else MAX_IPV6
    if network.prefixlen < shortest:
        raise ScopeError(f"the prefix is wider than /{shortest}: that is no one provider's")
    return str(network)


def _number(text: str) -> str:
    if not _NUMBER.fullmatch(text):
        raise ScopeError("write the number with + and its country code, as in +44 20 7946 0018")
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        raise ScopeError("not a telephone number of any country") from None
    # Possible, not valid: plans change faster than tables of them, and an order may be right.
    if not phonenumbers.is_possible_number(number):
        raise ScopeError("too short or too long for a telephone number of its country")
    formatted: str = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return formatted
