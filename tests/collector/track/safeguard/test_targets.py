"""Block answers told from all others by where they lead, in every form a resolver writes them."""

from __future__ import annotations

import dns.message
import dns.rrset
import pytest

from collector.parse.dns import parse_answer
from collector.track.host_events import HostSeen
from collector.track.safeguard.targets import Target, Targets
from collector.wire.addr import pack

PAGE, ADULT, ADULT6 = "203.0.113.7", "203.0.113.8", "2001:db8:b10c::8"
TARGETS = Targets(
    [
        Target(("gambling.block.example", "bets.block.example")),
        Target((), (pack(ADULT), pack(ADULT6))),
        Target(("malware.block.example",), (pack("203.0.113.9"),)),
    ],
    [pack(PAGE)],
)
A, B = "casino.example.", "gambling.block.example."


def category(asked: str, *sets: tuple[str, str, str], kind: str = "A") -> int | None:
    response = dns.message.make_response(dns.message.make_query(asked, kind))
    for owner, rtype, value in sets:
        response.answer.append(dns.rrset.from_text(owner, 60, "IN", rtype, value))
    wire = response.to_wire()
    found = parse_answer(wire, TARGETS.may_name)
    assert found is not None
    return TARGETS.category(found)


@pytest.mark.parametrize(
    ("wanted", "asked", "sets"),
    [
        (0, A, [(A, "CNAME", B), (B, "A", PAGE)]),
        (0, A, [(A, "CNAME", B)]),
        (0, A, [(A, "CNAME", "GAMBLING.Block.Example."), (B, "A", "198.51.100.1")]),
        (0, A, [(A, "CNAME", "eu.bets.block.example.")]),
        (0, A, [(A, "CNAME", "x.example."), ("x.example.", "CNAME", B)]),
        (0, A, [(B, "A", PAGE), ("x.example.", "CNAME", B), (A, "CNAME", "x.example.")]),
        (0, B, [(B, "A", PAGE)]),
        (1, A, [(A, "A", ADULT)]),
        (1, A, [(A, "A", "198.51.100.1"), (A, "A", ADULT)]),
        (1, A, [(A, "AAAA", ADULT6)]),
        (1, A, [(A, "CNAME", "x.example."), ("x.example.", "A", ADULT)]),
        (2, A, [(A, "CNAME", "malware.block.example."), ("malware.block.example.", "A", PAGE)]),
        (2, A, [(A, "A", "203.0.113.9")]),
        (None, A, [(A, "A", "198.51.100.1")]),
        (None, A, [(A, "A", PAGE)]),
        (None, A, []),
        (None, A, [(A, "CNAME", "block.example."), ("block.example.", "A", PAGE)]),
        (None, A, [(A, "CNAME", "notgambling.block.example.")]),
        (None, A, [(A, "CNAME", r"a\\008gambling.block.example.")]),
        (None, A, [(A, "CNAME", "gambling.block.example.com.")]),
        # A record that the name asked does not lead to.
        (None, A, [(A, "A", "198.51.100.1"), ("y.example.", "CNAME", B), (B, "A", ADULT)]),
    ],
)  # fmt: skip
def test_the_target_tells(wanted: int | None, asked: str, sets: list[tuple[str, str, str]]) -> None:
    assert category(asked, *sets) == wanted
    assert category(asked.swapcase(), *sets) == wanted
    if not any(rtype == "A" for _, rtype, _ in sets):
        assert category(asked, *sets, kind="HTTPS") == wanted


def test_a_label_that_ends_like_a_target_is_none() -> None:
    """A label may hold any byte, the length and letters of a target's first label among them."""
    name = dns.name.Name([b"a\x08gambling", b"block", b"example", b""])
    assert category(A, (A, "CNAME", str(name))) is None


def seen(host: str, server: str) -> HostSeen:
    return HostSeen(1, "tls", pack("10.0.0.1"), pack(server), 6, 40000, 443, host, False)


@pytest.mark.parametrize(
    ("hidden", "host", "server"),
    [
        (True, "casino.example", PAGE),
        (True, "casino.example", ADULT6),
        (True, "gambling.block.example", "198.51.100.1"),
        (True, "www.gambling.block.example", "198.51.100.1"),
        (False, "casino.example", "198.51.100.1"),
        (False, "notgambling.block.example", "198.51.100.1"),
        (False, "block.example", "198.51.100.1"),
    ],
)
def test_what_connects_to_a_page_is_hidden(hidden: bool, host: str, server: str) -> None:
    assert TARGETS.hides(seen(host, server)) == hidden


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Target(("a.example",)), Target(("a.example",))),
        (Target(("a.example",)), Target(("b.a.example",))),
        (Target((), (pack(PAGE),)), Target((), (pack(PAGE),))),
    ],
)
def test_a_target_says_one_category(one: Target, other: Target) -> None:
    with pytest.raises(ValueError, match="target"):
        Targets([one, other])


def test_an_answer_is_looked_at_closer_where_a_label_of_a_target_is_in_it() -> None:
    """Categories mostly share one; without names there is none to look for."""
    assert TARGETS.may_name(b"\x05BLOCK\x07example\0")
    assert not TARGETS.may_name(b"\x06casino\x07example\0")
    assert not Targets([Target((), (pack(ADULT),))]).may_name(b"\x05block\0")
    apart = Targets([Target(("a.one.example", "b.one.example")), Target(("two.test",))])
    assert apart.may_name(b"\x03one") and apart.may_name(b"\x03Two")
    assert not apart.may_name(b"\x07example\x04test")


def test_endings_are_few_and_say_as_much_as_they_can() -> None:
    names = ("a.block.isp.co.test", "b.block.isp.co.test", "one.example")
    assert Targets([Target(names)]).endings == ("block.isp.co.test", "one.example")
    assert TARGETS.endings == ("block.example",)
    assert not Targets([Target((), (pack(ADULT),))]).endings
