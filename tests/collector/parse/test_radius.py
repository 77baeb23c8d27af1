"""RADIUS accounting: hand-made packets, radclient's packets, captures and rubbish."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.parse import radius
from collector.parse.ip import Packet
from collector.parse.ip import parse as parse_ip
from collector.parse.radius import Accounting, AccountingAck
from collector.parse.radius_repeats import MAX_LAYOUTS, Repeats
from collector.parse.reader import ParseError
from collector.wire.addr import pack

NAS = pack("192.0.2.1")
SERVER = pack("192.0.2.2")
SECRET = b"testing123"
CAPTURES = Path(__file__).parents[4] / "shared" / "data" / "captures" / "radius"


def attribute(kind: int, value: bytes) -> bytes:
    return bytes((kind, len(value) + 2)) + value


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def request(*attributes: bytes, identifier: int = 7, secret: bytes = SECRET) -> bytes:
    body = b"".join(attributes)
    head = struct.pack(">BBH", 4, identifier, 20 + len(body))
    return head + hashlib.md5(head + bytes(16) + body + secret).digest() + body


def packet(payload: bytes, src: bytes = NAS, sport: int = 1646) -> Packet:
    return Packet(1_700_000_000_000_000_000, src, SERVER, 17, sport, 1813, payload, 0, 0)


def accounting(payload: bytes, **extra: Any) -> Accounting:
    event = radius.parse(packet(payload), **extra)
    assert isinstance(event, Accounting)
    return event


FULL = request(
    number(40, 2),
    attribute(1, b"line7@isp.example"),
    attribute(44, b"0000A1"),
    attribute(4, bytes((192, 0, 2, 9))),
    attribute(32, b"bng-1"),
    number(5, 17),
    attribute(87, b"ge-0/0/1:100"),
    attribute(8, bytes((100, 64, 0, 7))),
    attribute(97, b"\0\x40" + bytes.fromhex("20010db800010002")),
    attribute(123, b"\0\x38" + bytes.fromhex("20010db8ab0011")),
    attribute(168, bytes.fromhex("20010db8000100020000000000000005")),
    number(46, 3600),
    number(42, 5),
    number(52, 1),
    number(43, 9),
    number(53, 2),
    number(55, 1_700_000_000),
    number(41, 3),
    number(49, 10),
    attribute(25, b"\xff\x00"),
    attribute(89, b"cui-42"),
    attribute(31, b"02-00-00-00-00-07"),
    attribute(30, b"bng"),
    attribute(2, b"never-kept-secret"),
    attribute(79, b"\x02\x01\x00\x05\x01"),
)


def test_every_attribute_that_is_read() -> None:
    event = accounting(FULL, secrets={NAS: SECRET})
    assert event.status == radius.STOP
    assert event.verified == radius.VERIFIED
    assert event.profile.user_name == "line7@isp.example"
    assert event.profile.session_id == "0000A1"
    assert event.profile.nas_address == pack("192.0.2.9")
    assert event.profile.nas_identifier == "bng-1"
    assert (event.profile.nas_port, event.profile.nas_port_id) == (17, "ge-0/0/1:100")
    assert event.profile.framed_ipv4 == pack("100.64.0.7")
    assert event.profile.framed_prefixes == ((pack("2001:db8:1:2::"), 64),)
    assert event.profile.delegated_prefixes == ((pack("2001:db8:ab00:1100::"), 56),)
    assert event.profile.framed_ipv6 == ((pack("2001:db8:1:2::5"), 128),)
    assert (event.up, event.down, event.gigawords) == (1 << 32 | 5, 2 << 32 | 9, True)
    assert (event.session_s, event.event_s, event.delay_s) == (3600, 1_700_000_000, 3)
    assert (event.terminate_cause, event.profile.cui, event.profile.klass) == (
        10,
        "cui-42",
        "0xff00",
    )
    assert (event.profile.calling, event.profile.called) == ("02-00-00-00-00-07", "bng")
    assert event.rejected == 0


def test_no_secret_leaves_the_parser() -> None:
    text = repr(accounting(FULL)) + json.dumps(accounting(FULL).to_json())
    assert "never-kept" not in text
    assert FULL[4:20].hex() not in text


def test_json_gives_the_event_back() -> None:
    for event in (accounting(FULL), accounting(request(number(40, 1)))):
        assert Accounting.from_json(json.loads(json.dumps(event.to_json()))) == event
    ack = radius.parse(packet(struct.pack(">BBH", 5, 7, 20) + bytes(16), SERVER, 1813))
    assert isinstance(ack, AccountingAck)
    assert AccountingAck.from_json(json.loads(json.dumps(ack.to_json()))) == ack


def test_authenticator_verified_unverified_bad() -> None:
    assert accounting(FULL).verified == radius.UNVERIFIED
    assert accounting(FULL, secrets={SERVER: SECRET}).verified == radius.UNVERIFIED
    assert accounting(FULL, secrets={NAS: b"other"}).verified == radius.BAD
    flipped = bytearray(FULL)
    flipped[40] ^= 1
    assert accounting(bytes(flipped), secrets={NAS: SECRET}).verified == radius.BAD


def test_padding_after_the_length_is_ignored() -> None:
    assert accounting(FULL + b"\0padding", secrets={NAS: SECRET}) == accounting(
        FULL, secrets={NAS: SECRET}
    )


def test_transport_key_is_of_exact_retransmissions_only() -> None:
    first = accounting(FULL)
    assert accounting(FULL).transport == first.transport
    keys = {
        first.transport,
        accounting(request(number(40, 2))).transport,
        radius.parse(packet(FULL, sport=1647)).transport,  # type: ignore[union-attr]
        radius.parse(packet(FULL, src=SERVER)).transport,  # type: ignore[union-attr]
    }
    assert len(keys) == 4


@pytest.mark.parametrize("cut", range(len(FULL)))
def test_cut_anywhere_is_rejected(cut: int) -> None:
    with pytest.raises(ParseError):
        radius.parse(packet(FULL[:cut]))


@pytest.mark.parametrize("size", [0, 1, 250])
def test_impossible_attribute_length_rejects_the_packet(size: int) -> None:
    raw = request(number(40, 1), attribute(44, b"x"))
    broken = raw[:-3] + bytes((44, size)) + raw[-1:]
    with pytest.raises(ParseError, match="radius-attribute"):
        radius.parse(packet(broken))


@pytest.mark.parametrize(
    "value",
    [
        b"\0",
        b"\0\x00",
        b"\0\x81" + bytes(16),
        b"\0\x40" + bytes.fromhex("20010db8"),
        b"\0\x20" + bytes.fromhex("20010db800010000"),
        b"\0\x80" + bytes(17),
    ],
    ids=["short", "length-0", "over-128", "too-few-bytes", "host-bits", "too-long"],
)
def test_bad_prefix_rejects_the_attribute_only(value: bytes) -> None:
    event = accounting(request(number(40, 3), attribute(97, value), attribute(44, b"s")))
    assert (event.profile.framed_prefixes, event.rejected, event.profile.session_id) == ((), 1, "s")


def test_addresses_that_name_none() -> None:
    for value in (b"\xff\xff\xff\xff", b"\xff\xff\xff\xfe", bytes(4)):
        assert accounting(request(number(40, 1), attribute(8, value))).profile.framed_ipv4 is None


def test_other_codes_are_not_ours_and_status_is_needed() -> None:
    for code in (3, 11, 12, 42, 43):
        assert radius.parse(packet(struct.pack(">BBH", code, 1, 20) + bytes(16))) is None
    with pytest.raises(ParseError, match="radius-status"):
        radius.parse(packet(request(attribute(44, b"x"))))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 255))
def test_rubbish_raises_only_parse_error(data: bytes, at: int) -> None:
    for payload in (data, b"\x04\x01" + data, FULL[: 20 + at] + data):
        whole = payload[:2] + struct.pack(">H", len(payload)) + payload[4:]
        for each in (payload, whole):
            try:
                event = radius.parse(packet(each))
            except ParseError:
                continue
            if isinstance(event, Accounting):
                assert Accounting.from_json(json.loads(json.dumps(event.to_json()))) == event


@pytest.fixture
def server() -> Iterator[tuple[int, list[tuple[bytes, tuple[str, int]]]]]:
    """A miniature accounting server on loopback; gives its port and what it received."""
    got: list[tuple[bytes, tuple[str, int]]] = []
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(20)

    def serve() -> None:
        while True:
            data, peer = sock.recvfrom(4096)
            if not data:
                return
            got.append((data, peer))
            head = struct.pack(">BBH", 5, data[1], 20)
            sock.sendto(head + hashlib.md5(head + data[4:20] + SECRET).digest(), peer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield sock.getsockname()[1], got
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ender:
        ender.sendto(b"", sock.getsockname())
    thread.join()
    sock.close()


@pytest.mark.lab
def test_packets_of_radclient(server: tuple[int, list[tuple[bytes, tuple[str, int]]]]) -> None:
    port, got = server
    text = (
        'Acct-Status-Type = Interim-Update\nAcct-Session-Id = "r1"\nUser-Name = "u@r"\n'
        "NAS-IP-Address = 192.0.2.1\nFramed-IP-Address = 100.64.0.9\n"
        "Delegated-IPv6-Prefix = 2001:db8:aa00::/56\nAcct-Session-Time = 60\n"
        "Acct-Input-Octets = 1000\nAcct-Output-Octets = 2000\nAcct-Output-Gigawords = 1\n"
        'Event-Timestamp = 1700000000\nNAS-Port-Id = "eth 1/2"\n'
    )
    subprocess.run(
        ["radclient", "-r", "1", "-t", "5", f"127.0.0.1:{port}", "acct", SECRET.decode()],
        input=text.encode(),
        check=True,
        capture_output=True,
        timeout=30,
    )
    assert len(got) == 1
    data, (host, sport) = got[0]
    event = radius.parse(packet(data, pack(host), sport), {pack(host): SECRET})
    assert isinstance(event, Accounting)
    assert (event.verified, event.status, event.profile.session_id) == (
        "verified",
        radius.INTERIM,
        "r1",
    )
    assert event.profile.framed_ipv4 == pack("100.64.0.9")
    assert event.profile.delegated_prefixes == ((pack("2001:db8:aa00::"), 56),)
    assert (event.up, event.down) == (1000, 1 << 32 | 2000)
    assert (event.profile.nas_port_id, event.event_s) == ("eth 1/2", 1_700_000_000)


def test_captures_agree_with_tshark() -> None:
    if not CAPTURES.is_dir():
        pytest.skip("captures are not here")
    from scapy.utils import RawPcapReader

    compared = 0
    for capture in sorted(CAPTURES.glob("*.pcap")):
        text = capture.with_name(f"{capture.name}.expected.jsonl").read_text()
        expected = {line["frame"]: line for line in map(json.loads, text.splitlines())}
        with RawPcapReader(str(capture)) as reader:
            frames = [raw for raw, _ in reader]
        for frame, raw in enumerate(frames, 1):
            found = parse_ip(0, int.from_bytes(raw[12:14], "big"), raw[14:])
            if not isinstance(found, Packet) or frame not in expected:
                continue
            line = expected[frame]
            event = radius.parse(found)
            assert (event is not None) == (line["code"] in (1, 2, 4, 5))
            if not isinstance(event, Accounting):
                continue
            compared += 1
            assert str(event.status) == line["Acct-Status-Type"]
            assert event.profile.session_id == line["Acct-Session-Id"]
            assert event.profile.user_name == line["User-Name"]
            octets = [int(line.get(f"Acct-{way}put-Octets", 0)) for way in ("In", "Out")]
            giga = [int(line.get(f"Acct-{way}put-Gigawords", 0)) for way in ("In", "Out")]
            assert [event.up or 0, event.down or 0] == [
                g << 32 | o for g, o in zip(giga, octets, strict=True)
            ]
            assert str(event.session_s or 0) == line.get("Acct-Session-Time", "0")
    assert compared == 179


def report(session: int, seconds: int, extra: bytes = b"", **numbers_: int) -> bytes:
    """An interim report, of which `seconds`, octets and `extra` are new each time."""
    octets = {"up": 42, "down": 43, "up_high": 52, "down_high": 53, "delay": 41, "at": 55}
    return request(
        number(40, 3),
        attribute(44, b"%04x" % session),
        attribute(1, b"line%d" % session),
        attribute(26, struct.pack(">I", 9) + b"%08d" % seconds),
        number(46, seconds),
        *(number(octets[name], value) for name, value in numbers_.items()),
        attribute(8, bytes((100, 64, 0, session))),
        attribute(123, b"\0\x38" + bytes.fromhex("20010db8ab0011")),
        extra,
    )


def test_a_report_that_repeats_another_is_read_alike() -> None:
    repeats = Repeats(4)
    shared = []
    for seconds in range(600, 6000, 600):
        for session in (1, 2, 12, 3):
            data = report(session, seconds, up=seconds, down=7, up_high=session, at=seconds)
            event = accounting(data, secrets={NAS: SECRET}, repeats=repeats)
            assert event == accounting(data, secrets={NAS: SECRET})
            shared.append(event.profile)
    assert len({id(profile) for profile in shared}) == 4
    # What differs in more than numbers is read for itself, and so is what is forged.
    changed = report(1, 9, up=9, down=7, up_high=1, at=9).replace(b"line1", b"lineX")
    event = accounting(changed, secrets={NAS: SECRET}, repeats=repeats)
    assert (event.verified, event.profile.user_name) == (radius.BAD, "lineX")
    assert event.profile.session_id == "0001"
    assert accounting(changed, secrets={NAS: SECRET}, repeats=repeats) == event


_NUMBERS = st.sampled_from((41, 42, 43, 46, 48, 52, 53, 55))
_ATTRIBUTE = st.one_of(
    st.builds(number, _NUMBERS, st.integers(0, 3)),
    st.builds(attribute, _NUMBERS, st.sampled_from((b"", b"12345"))),
    st.builds(attribute, st.sampled_from((1, 8, 26, 123)), st.sampled_from((b"", b"abcd", b"x"))),
)
_REPORTS = st.lists(st.lists(_ATTRIBUTE, max_size=5), max_size=40)


@given(_REPORTS)
def test_whatever_repeats_is_read_alike(reports: list[list[bytes]]) -> None:
    repeats = Repeats(3)
    for attributes in reports:
        data = request(number(40, 3), *attributes, number(40, 1))
        assert accounting(data, repeats=repeats) == accounting(data)


def test_reports_that_are_remembered_are_few() -> None:
    repeats = Repeats(10)
    for session in range(1000):
        unread = attribute(2, b"x" * (session % 200))
        accounting(report(session % 256, session, unread), repeats=repeats)
        accounting(request(number(40, 3), *(number(48, 1),) * 200), repeats=repeats)
    assert len(repeats._young) <= 10 and len(repeats._old) <= 10
    assert len(repeats._layouts) <= MAX_LAYOUTS
    for client in range(MAX_LAYOUTS + 10):
        packet_ = packet(report(1, 1), client.to_bytes(16, "big"))
        radius.parse(packet_, repeats=repeats)
    assert len(repeats._layouts) <= MAX_LAYOUTS
