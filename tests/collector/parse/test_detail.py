"""Records of detail files: every attribute, its forms, and rubbish."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.parse import radius
from collector.parse.detail import parse
from collector.parse.reader import ParseError
from collector.wire.addr import pack

FULL = rb"""Sat Nov 28 12:00:00 2026
	Acct-Status-Type = Interim-Update
	Acct-Session-Id = "s\"1\\x"
	User-Name = "line7@isp.example"
	User-Password = "never-kept-secret"
	NAS-IP-Address = 192.0.2.1
	NAS-Identifier = "bng-1"
	NAS-Port-Id = "ge-0/0/1:7"
	Framed-IP-Address = 100.64.0.7
	Delegated-IPv6-Prefix = 2001:db8:aa00::/56
	Framed-IPv6-Address = 2001:db8::7
	Acct-Input-Octets = 5
	Acct-Input-Gigawords = 1
	Acct-Output-Octets = 9
	Acct-Session-Time = 60
	Acct-Delay-Time = 3
	Acct-Terminate-Cause = Lost-Carrier
	Class = 0xff00
	Calling-Station-Id = "l\303\251"
	Event-Timestamp = "Nov 28 2026 12:00:00 CET"
	Acct-Unique-Session-Id = "abc"
	Timestamp = 1800000000
"""


def test_every_attribute_that_is_read() -> None:
    event = parse(FULL.rstrip(b"\n"))
    assert event is not None
    assert (event.status, event.profile.session_id) == (radius.INTERIM, 's"1\\x')
    assert (event.profile.user_name, event.profile.nas_identifier) == ("line7@isp.example", "bng-1")
    assert event.client == event.profile.nas_address == pack("192.0.2.1")
    assert event.profile.framed_ipv4 == pack("100.64.0.7")
    assert event.profile.delegated_prefixes == ((pack("2001:db8:aa00::"), 56),)
    assert event.profile.framed_ipv6 == ((pack("2001:db8::7"), 128),)
    assert (event.up, event.down, event.gigawords) == (1 << 32 | 5, 9, True)
    assert (event.session_s, event.delay_s, event.terminate_cause) == (60, 3, 2)
    assert (event.profile.klass, event.profile.calling) == ("0xff00", "lé")
    assert (event.ts_ns, event.verified) == (1_800_000_000 * 10**9, "unverified")
    assert "never-kept" not in repr(event)


def test_the_same_record_is_the_same_request() -> None:
    one, again = parse(FULL.rstrip()), parse(FULL.rstrip())
    later = parse(FULL.rstrip().replace(b"Delay-Time = 3", b"Delay-Time = 9"))
    assert one and again and later
    assert one.transport == again.transport != later.transport


def test_what_accounts_for_nothing_is_nothing() -> None:
    assert parse(b'Sat Nov 28 12:00:00 2026\n\tUser-Name = "x"\n\tTimestamp = 1') is None


def test_unknown_names_are_numbers_or_rejected() -> None:
    text = b"Sat\n\tAcct-Status-Type = Stop\n\tTimestamp = 1\n\tAcct-Terminate-Cause = %s"
    known, odd = parse(text % b"9999"), parse(text % b"No-Such-Cause")
    assert known and odd
    assert known.terminate_cause == 9999
    assert (odd.terminate_cause, odd.rejected) == (None, 1)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b'\tUser-Name = "x"', "detail-record"),
        (b"Sat\nno attribute", "detail-line"),
        (b"Sat\n\tAcct-Status-Type = Stop", "detail-timestamp"),
        (b"Sat\n" + b'\tUser-Name = "x"\n' * 5000, "detail-record"),
    ],
)
def test_refused(record: bytes, reason: str) -> None:
    with pytest.raises(ParseError) as raised:
        parse(record)
    assert raised.value.reason == reason


@given(st.binary(max_size=200), st.integers(0, len(FULL)), st.integers(0, 1 << 20))
def test_cut_and_random_bytes_raise_nothing_else(rubbish: bytes, cut: int, flip: int) -> None:
    changed = bytearray(FULL)
    changed[flip % len(FULL)] ^= 1 << flip % 8
    for data in (rubbish, FULL[:cut], FULL[:cut] + rubbish, bytes(changed)):
        try:
            parse(data)
        except ParseError:
            continue
