"""Halves of RADIUS exchanges: what is joined, verified, forgotten, and never told."""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Any

from collector.parse import radius
from collector.parse.ip import Packet
from collector.parse.radius import Access, Disconnect
from collector.track.radius_pairs import WAIT_NS, RadiusPairs
from collector.wire.addr import pack
from tests.collector.parse.test_radius import attribute, number

NAS, SERVER = pack("192.0.2.1"), pack("192.0.2.2")
SECRET = b"testing123"
PREFIX = attribute(123, b"\0\x38" + bytes.fromhex("20010db8ab0011"))
ASKED = attribute(1, b"line7@isp") + attribute(87, b"ge-0/1") + attribute(31, b"02-00-00-00-00-07")
RANDOM = bytes(range(16))


def message(
    code: int, body: bytes, authenticator: bytes | None = None, secret: bytes = SECRET
) -> bytes:
    """A packet; with `authenticator` a request of that one, else signed over zeros."""
    head = struct.pack(">BBH", code, 7, 20 + len(body))
    if authenticator is None:
        authenticator = hashlib.md5(head + bytes(16) + body + secret).digest()
    return head + authenticator + body


def answer(code: int, body: bytes, request: bytes, secret: bytes = SECRET) -> bytes:
    head = struct.pack(">BBH", code, 7, 20 + len(body))
    return head + hashlib.md5(head + request[4:20] + body + secret).digest() + body


def give(pairs: RadiusPairs, data: bytes, from_nas: bool, at: int = 0, port: int = 1812) -> Any:
    ends = (NAS, SERVER, 17, 40_000, port) if from_nas else (SERVER, NAS, 17, port, 40_000)
    if port == 3799:
        ends = (NAS, SERVER, 17, port, 40_000) if from_nas else (SERVER, NAS, 17, 40_000, port)
    found = radius.parse(Packet(at, *ends, data, 0, 0), {NAS: SECRET})
    if isinstance(found, radius.Request):
        pairs.ask(found)
        return None
    assert isinstance(found, radius.Answer)
    return pairs.answer(found)


def test_an_accept_is_told_with_whose_it_is() -> None:
    pairs = RadiusPairs({NAS: SECRET})
    request = message(1, ASKED + attribute(2, b"never-kept-secret"), RANDOM)
    assert give(pairs, request, True) is None
    accept = answer(2, PREFIX + number(27, 3600) + attribute(89, b"cui-7"), request)
    found = give(pairs, accept, False, 5)
    assert isinstance(found, Access)
    assert (found.client, found.server, found.verified) == (NAS, SERVER, "verified")
    assert (found.profile.user_name, found.profile.nas_port_id, found.profile.cui) == (
        "line7@isp",
        "ge-0/1",
        "cui-7",
    )
    assert found.profile.delegated_prefixes == ((pack("2001:db8:ab00:1100::"), 56),)
    assert found.profile.timeout_s == 3600
    assert "never-kept" not in repr(found)
    assert RANDOM.hex() not in repr(found.to_json())
    assert give(pairs, accept, False, 6) is None  # a second copy has nothing new


def test_verified_unverified_and_bad() -> None:
    request = message(1, ASKED, RANDOM)
    for secrets, signed, expected in (
        ({NAS: SECRET}, SECRET, "verified"),
        ({}, SECRET, "unverified"),
        ({NAS: SECRET}, b"other", "bad"),
    ):
        pairs = RadiusPairs(secrets)
        give(pairs, request, True)
        assert give(pairs, answer(2, PREFIX, request, signed), False).verified == expected


def test_a_forged_request_makes_the_exchange_bad() -> None:
    for secret, expected in ((SECRET, "verified"), (b"other", "bad")):
        pairs = RadiusPairs({NAS: SECRET})
        body = ASKED + attribute(80, bytes(16))
        bare = message(1, body, RANDOM)
        signature = hmac.digest(secret, bare, "md5")
        request = message(1, ASKED + attribute(80, signature), RANDOM)
        give(pairs, request, True)
        assert give(pairs, answer(2, PREFIX, request), False).verified == expected


def test_a_disconnect_names_the_session_of_its_request() -> None:
    pairs = RadiusPairs({NAS: SECRET})
    request = message(40, attribute(44, b"s1") + attribute(32, b"bng-1"))
    assert give(pairs, request, False, port=3799) is None
    found = give(pairs, answer(41, b"", request), True, 9, port=3799)
    assert isinstance(found, Disconnect)
    assert (found.client, found.profile.session_id, found.profile.nas_identifier) == (
        NAS,
        "s1",
        "bng-1",
    )
    assert found.verified == "verified"


def test_answers_to_nothing_and_late_ones_are_nothing() -> None:
    pairs = RadiusPairs({NAS: SECRET})
    request = message(1, ASKED, RANDOM)
    accept = answer(2, PREFIX, request)
    assert give(pairs, accept, False) is None
    give(pairs, request, True)
    give(
        pairs, message(1, ASKED, bytes(16)).replace(b"\x01\x07", b"\x01\x08", 1), True, WAIT_NS + 1
    )
    assert give(pairs, accept, False, WAIT_NS + 2) is None
