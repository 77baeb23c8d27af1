"""DNS answers as the resolver of an ISP with a parental filter gives them to its lines.

What is in the mix, and why:

- One answer in a hundred is a block. Six to forty in a hundred lines have such a filter (Ofcom,
  Report on internet safety measures, December 2015: BT 6, Virgin 12.4, TalkTalk 14, Sky 30 to 40).
  Behind one, some answers are blocks while somebody tries, and none otherwise: categories are of
  sites, not of the advertisements and trackers for which an ad blocker refuses ten to twenty
  answers in a hundred. Two lines in five, each with one block in forty answers all day, give one in
  a hundred. It is an estimate from above: households of docs/safeguard-utility.md (a third meet a
  block, in some four hours with a category a day), with ten answers each time and three thousand a
  day, give one in two hundred; a resolver that blocks malware only says so once in a thousand
  (Nominet, UK Protective DNS 2018: 57.4 million of 68.7 billion).
- Half of the answers are for A, a quarter each for AAAA and HTTPS: browsers ask for all three,
  other programs for the first two.
- Nine in a hundred names do not exist (Brandhorst and Pras, two residential networks).
- 31 in a hundred names are an alias, as of the 324 answers in the captures of ../shared/data.
- A fifth of names have an HTTPS record (Dong et al., IMC 2024, on a million sites), half an AAAA;
  without one there is an SOA.
- One to four addresses, mostly one; every name once, so that tables are as full as they get.

All blocks are recognisable: half lead to a name of the category, asked for any type, half to an
address of it. Types, the share of AAAA and the number of addresses are assumptions.
"""

from __future__ import annotations

import random
from typing import Final

import dns.message
import dns.rcode
import dns.rrset

from bench.parsers import hosts

CATEGORIES: Final = tuple(f"category-{letter}" for letter in "abcdefgh")
"""Half of them are told by name, half by address."""
NO_SUCH_NAME: Final = 0.09
ALIAS: Final = 0.31
HAS_HTTPS: Final = 0.2
HAS_AAAA: Final = 0.5
_KINDS: Final = ("A", "A", "AAAA", "HTTPS")
_ADDRESSES: Final = (1, 1, 1, 2, 2, 3, 4)
_SOA: Final = "ns.cdn.example. ops.cdn.example. 1 7200 900 1209600 300"


def page(category: int) -> str:
    """The address that category's blocked names lead to."""
    return f"203.0.113.{2 * category + 1}"


def answers(count: int, blocked: int) -> list[bytes]:
    """`count` messages, `blocked` of each hundred a block."""
    chooser = random.Random(7)
    return [
        block(host, number, chooser) if number * blocked % 100 < blocked else answer(host, chooser)
        for number, host in enumerate(hosts(count))
    ]


def answer(host: str, chooser: random.Random) -> bytes:
    """Of a name that nobody blocks."""
    kind = chooser.choice(_KINDS)
    response = _response(host, kind)
    owner = f"{host}."
    if chooser.random() < NO_SUCH_NAME:
        response.set_rcode(dns.rcode.NXDOMAIN)
        return _nothing(response, "example.")
    if chooser.random() < ALIAS:
        for hop in range(chooser.choice((1, 1, 2))):
            alias = f"{host}.hop{hop}.cdn.example."
            response.answer.append(dns.rrset.from_text(owner, 300, "IN", "CNAME", alias))
            owner = alias
    has = {"A": 1.0, "AAAA": HAS_AAAA, "HTTPS": HAS_HTTPS}[kind]
    if chooser.random() >= has:
        return _nothing(response, "example.")
    if kind == "HTTPS":
        texts = ["1 . alpn=h3,h2 ipv4hint=198.51.100.7"]
    else:
        base = "2001:db8::" if kind == "AAAA" else f"198.51.{chooser.randrange(250)}."
        texts = [f"{base}{last + 1}" for last in range(chooser.choice(_ADDRESSES))]
    response.answer.append(dns.rrset.from_text(owner, 60, "IN", kind, *texts))
    return response.to_wire()


def block(host: str, number: int, chooser: random.Random) -> bytes:
    """As a resolver with response policies answers."""
    category = chooser.randrange(len(CATEGORIES))
    if category % 2:
        response = _response(host, "A")
        response.answer.append(dns.rrset.from_text(f"{host}.", 60, "IN", "A", page(category)))
        return response.to_wire()
    kind = chooser.choice(_KINDS)
    response = _response(host, kind)
    alias = f"{CATEGORIES[category]}.block.example."
    response.answer.append(dns.rrset.from_text(f"{host}.", 60, "IN", "CNAME", alias))
    if kind != "A":
        return _nothing(response, "block.example.")
    response.answer.append(dns.rrset.from_text(alias, 60, "IN", "A", "203.0.114.1"))
    return response.to_wire()


def _response(host: str, kind: str) -> dns.message.Message:
    query = dns.message.make_query(host, kind, use_edns=0, payload=1232)
    return dns.message.make_response(query, recursion_available=True)


def _nothing(response: dns.message.Message, zone: str) -> bytes:
    """With the SOA of a zone that has no such record."""
    response.authority.append(dns.rrset.from_text(zone, 300, "IN", "SOA", _SOA))
    return response.to_wire()
