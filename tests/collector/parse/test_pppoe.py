"""PPPoE: scapy's frames, captures beside the project, and rubbish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE, PPPoED
from scapy.utils import RawPcapReader

from collector.parse import ip, link, pppoe
from collector.parse.link import LINK_ETHERNET
from collector.parse.pppoe import Ppp
from collector.parse.reader import ParseError
from collector.wire.addr import pack, unpack

CAPTURES = Path(__file__).parents[4] / "shared" / "data" / "captures" / "pppoe"
HOST, AC = "02:00:00:00:00:07", "02:00:00:00:00:01"
UP, DOWN = {"src": HOST, "dst": AC}, {"src": AC, "dst": HOST}
LINE_TAG = b"\x01\x05\x00\x14\x00\x00\x0d\xe9\x01\x06olt3/1\x02\x06modem7"


def discovery(code: int, tags: bytes = b"", session: int = 0, way: dict[str, str] = UP) -> bytes:
    return bytes(Ether(type=0x8863, **way) / PPPoED(code=code, sessionid=session) / tags)


def control(protocol: int, body: bytes, way: dict[str, str] = UP, session: int = 17) -> bytes:
    inner = protocol.to_bytes(2, "big") + body
    head = b"\x11\x00" + session.to_bytes(2, "big") + len(inner).to_bytes(2, "big")
    return bytes(Ether(type=0x8864, **way)) + head + inner


PAP = control(0xC023, b"\x01\x05\x00\x11\x05anna7\x06secret")
CHAP = control(0xC223, b"\x02\x05\x00\x16\x08\x01\x02\x03\x04\x05\x06\x07\x08anna7@isp")
IPCP = control(0x8021, b"\x02\x05\x00\x0a\x03\x06\x64\x40\x00\x07", DOWN)


def parse(frame: bytes) -> Ppp | None:
    return pppoe.parse(5, frame, LINK_ETHERNET)


def test_discovery_with_the_line_in_its_tag() -> None:
    step = parse(discovery(0x19, LINE_TAG))
    assert step == Ppp(5, "PADR", "020000000007", "020000000001", 0, names=("olt3/1", "modem7"))
    assert Ppp.from_json(json.loads(json.dumps(step.to_json()))) == step


def test_vlans_name_the_place() -> None:
    inner = PPPoED(code=0x65, sessionid=17)
    step = parse(bytes(Ether(**DOWN) / Dot1AD(vlan=100) / Dot1Q(vlan=20, type=0x8863) / inner))
    assert step is not None
    assert (step.kind, step.session, step.names) == ("PADS", 17, ("vlan:100.20",))


@pytest.mark.parametrize(("frame", "user"), [(PAP, "anna7"), (CHAP, "anna7@isp")])
def test_who_authenticates_without_what_with(frame: bytes, user: str) -> None:
    step = parse(frame)
    assert step is not None
    assert (step.kind, step.user_name) == ("USER", user)
    assert "secret" not in repr(step)


def test_the_acknowledged_address() -> None:
    step = parse(IPCP)
    assert step is not None
    assert (step.kind, step.address) == ("ADDRESS", pack("100.64.0.7"))


def test_other_frames_are_left() -> None:
    for frame in (
        bytes(Ether(**UP) / PPPoE(sessionid=17) / PPP(proto=0xC021) / b"\x09\x01\x00\x08abcd"),
        bytes(Ether(**UP, type=0x0800)) + bytes(40),
        control(0x0021, bytes(40)),
    ):
        assert parse(frame) is None
    assert pppoe.parse(0, IPCP, link.LINK_RAW) is None


def test_an_error_tag_is_told() -> None:
    step = parse(discovery(0x65, b"\x02\x02\x00\x00", way=DOWN))
    assert step is not None
    assert step.failed


@given(st.binary(max_size=80), st.integers(0, 60), st.sampled_from((PAP, CHAP, IPCP)))
def test_cut_and_random_bytes_raise_nothing_else(rubbish: bytes, cut: int, frame: bytes) -> None:
    for data in (frame[:cut], frame[:cut] + rubbish, discovery(0x19) + rubbish, frame + rubbish):
        try:
            parse(data)
        except ParseError:
            continue


def test_captures_agree_with_tshark() -> None:
    if not CAPTURES.is_dir():
        pytest.skip("captures are not here")
    compared = 0
    for capture in sorted(CAPTURES.glob("*.pcap")):
        text = capture.with_name(f"{capture.name}.sessions.jsonl").read_text()
        with RawPcapReader(str(capture)) as reader:
            frames = [raw for raw, _ in reader]
        for line in map(json.loads, text.splitlines()):
            _compare(line, frames[line["frame"] - 1])
            compared += 1
    assert compared == 20


def _compare(line: dict[str, Any], frame: bytes) -> None:
    step = parse(frame)
    macs = (line["src_mac"].replace(":", ""), line["dst_mac"].replace(":", ""))
    if line["event"] != "session":
        assert step is not None
        assert (step.kind, step.sender, step.receiver, step.session) == (
            line["event"],
            *macs,
            line["session_id"],
        )
    elif "user" in line:
        assert step is not None
        assert (step.user_name, step.sender, step.session) == (
            line["user"],
            macs[0],
            line["session_id"],
        )
    elif "ip_src" in line:
        inside = link.unwrap(frame, LINK_ETHERNET)
        assert inside is not None
        packet = ip.parse(0, *inside)
        assert isinstance(packet, ip.Packet)
        assert (unpack(packet.src), unpack(packet.dst)) == (line["ip_src"], line["ip_dst"])
    elif step is not None:  # of IPCP only what is acknowledged is an event
        assert step.address == pack(line["ipcp_ip"])
