"""DHCPv4 and DHCPv6: scapy's messages, captures beside the project, and rubbish."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers import dhcp as v4
from scapy.layers import dhcp6 as v6
from scapy.utils import RawPcapReader

from collector.parse import dhcp, dhcpv6, ip, link
from collector.parse.lease import FOREVER_S, Lease
from collector.parse.reader import ParseError
from collector.wire.addr import pack, unpack

CAPTURES = Path(__file__).parents[4] / "shared" / "data" / "captures" / "dhcp"
MAC = bytes.fromhex("020000000007")
DUID = v6.DUID_LL(lladdr="02:00:00:00:00:07")


def ack(*options: object, **fields: object) -> bytes:
    values = {"op": 2, "xid": 9, "yiaddr": "100.64.0.7", "chaddr": MAC} | fields
    listed = [("message-type", "ack"), ("lease_time", 3600), *options, "end"]
    return bytes(v4.BOOTP(**values) / v4.DHCP(options=listed))


def reply(*identities: object) -> bytes:
    message = v6.DHCP6_Reply(trid=9) / v6.DHCP6OptClientId(duid=DUID)
    for each in identities:
        message /= each
    return bytes(message)


NA = v6.DHCP6OptIA_NA(iaid=1, ianaopts=[v6.DHCP6OptIAAddress(addr="2001:db8::7", validlft=600)])
PD = v6.DHCP6OptIA_PD(
    iaid=1, iapdopt=[v6.DHCP6OptIAPrefix(prefix="2001:db8:aa00::", plen=56, validlft=FOREVER_S)]
)


def relayed(inner: bytes, hops: int = 1, reply_way: bool = True) -> bytes:
    """The message in relay messages; the innermost relay is the one at the line."""
    for hop in range(hops):
        kind = v6.DHCP6_RelayReply if reply_way else v6.DHCP6_RelayForward
        message = kind(hopcount=hop, linkaddr="::", peeraddr="fe80::ff:fe00:7")
        message /= v6.DHCP6OptIfaceId(ifaceid=f"olt-3/1/{hop}")
        message /= v6.DHCP6OptRemoteID(enterprisenum=9, remoteid=b"modem-7")
        inner = bytes(message) + b"\0\x09" + len(inner).to_bytes(2, "big") + inner
    return inner


def test_an_ack_grants_an_address_on_a_line() -> None:
    agent = b"\x01\x08olt-3/17\x02\x03\x00\x01\x02\x06\x05sub-7"
    lease = dhcp.parse(5, ack(("relay_agent_information", agent)))
    assert lease is not None
    assert (lease.kind, lease.client, lease.mac, lease.xid) == ("ACK", MAC.hex(), MAC.hex(), 9)
    assert lease.addresses == ((pack("100.64.0.7"), 128, 3600),)
    assert lease.names == ("olt-3/17", "0x000102", "sub-7")
    assert Lease.from_json(json.loads(json.dumps(lease.to_json()))) == lease


def test_an_answer_to_inform_is_no_lease() -> None:
    data = bytes(v4.BOOTP(op=2, chaddr=MAC) / v4.DHCP(options=[("message-type", "ack"), "end"]))
    lease = dhcp.parse(0, data)
    assert lease is not None
    assert lease.addresses == ()


def test_what_a_client_asks_for() -> None:
    options = [("message-type", "request"), ("requested_addr", "100.64.0.9"), "end"]
    asked = dhcp.parse(0, bytes(v4.BOOTP(chaddr=MAC) / v4.DHCP(options=options)))
    renewed = dhcp.parse(
        0, bytes(v4.BOOTP(chaddr=MAC, ciaddr="100.64.0.9") / v4.DHCP(options=options[:1]))
    )
    assert asked is not None
    assert renewed is not None
    assert asked.requested == renewed.requested == pack("100.64.0.9")


def test_host_names_and_bootp_are_left() -> None:
    lease = dhcp.parse(0, ack(("hostname", b"annas-laptop"), ("vendor_class_id", b"secret")))
    assert "annas" not in repr(lease)
    assert "secret" not in repr(lease)
    assert dhcp.parse(0, bytes(v4.BOOTP(chaddr=MAC)) + bytes(64)) is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(100), "truncated"),
        (ack()[:-1] + b"\x52\xff\x00", "truncated"),
        (ack(op=1), "dhcp-direction"),
        (ack(hlen=40), "dhcp-hlen"),
        (ack().replace(b"\x35\x01\x05", b"\x35\x01\x63"), "dhcp-type"),
    ],
)
def test_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ParseError) as raised:
        dhcp.parse(0, data)
    assert raised.value.reason == reason


def test_a_reply_grants_an_address_and_a_prefix() -> None:
    lease = dhcpv6.parse(5, reply(NA, PD))
    assert lease is not None
    assert (lease.kind, lease.mac) == ("REPLY", MAC.hex())
    assert lease.addresses == ((pack("2001:db8::7"), 128, 600),)
    assert lease.prefixes == ((pack("2001:db8:aa00::"), 56, FOREVER_S),)
    assert Lease.from_json(json.loads(json.dumps(lease.to_json()))) == lease


def test_the_relay_nearest_to_the_client_names_the_line() -> None:
    lease = dhcpv6.parse(5, relayed(reply(PD), hops=3))
    assert lease is not None
    assert lease.names == ("olt-3/1/0", "modem-7")
    assert lease.prefixes
    with pytest.raises(ParseError) as raised:
        dhcpv6.parse(5, relayed(reply(PD), hops=9))
    assert raised.value.reason == "nesting"


def test_a_failed_identity_and_a_hint_grant_nothing() -> None:
    failed = v6.DHCP6OptIA_PD(iapdopt=[v6.DHCP6OptStatusCode(statuscode=6)])
    hint = v6.DHCP6OptIA_PD(iapdopt=[v6.DHCP6OptIAPrefix(prefix="::", plen=0)])
    lease = dhcpv6.parse(0, reply(failed, hint))
    assert lease is not None
    assert (lease.addresses, lease.prefixes) == ((), ())


@pytest.mark.parametrize("parse", [dhcp.parse, dhcpv6.parse])
def test_cut_and_random_bytes_raise_nothing_else(
    parse: Callable[[int, bytes], Lease | None],
) -> None:
    whole = ack(("relay_agent_information", b"\x01\x02ab")) if parse is dhcp.parse else None
    whole = whole or relayed(reply(NA, PD), 2)

    @given(st.binary(max_size=400), st.integers(0, len(whole)), st.integers(0, 1 << 30))
    def feed(rubbish: bytes, cut: int, flip: int) -> None:
        changed = bytearray(whole)
        changed[flip % len(whole)] ^= 1 << flip % 8
        for data in (rubbish, whole[:cut], whole[:cut] + rubbish, bytes(changed)):
            try:
                parse(0, data)
            except ParseError:
                continue

    feed()


def test_captures_agree_with_tshark() -> None:
    if not CAPTURES.is_dir():
        pytest.skip("captures are not here")
    compared = 0
    for capture in sorted(CAPTURES.glob("*.pcap")):
        text = capture.with_name(f"{capture.name}.expected.jsonl").read_text()
        with RawPcapReader(str(capture)) as reader:
            frames = [(raw, reader.linktype) for raw, _ in reader]
        for line in map(json.loads, text.splitlines()):
            inside = link.unwrap(*frames[line["frame"] - 1])
            assert inside is not None
            packet = ip.parse(0, *inside)
            assert isinstance(packet, ip.Packet)
            lease = (dhcp if line["v"] == 4 else dhcpv6).parse(0, packet.payload)
            assert lease is not None
            assert lease.xid == int(line.get("id") or line["xid"], 16)
            compared += 1
            if line["v"] == 4:
                _compare4(lease, line)
            else:
                _compare6(lease, line)
    assert compared == 25


def _compare4(lease: Lease, line: dict[str, str]) -> None:
    assert lease.kind == line["type"]
    macs = line["hw.mac_addr"]
    assert lease.mac == (macs if isinstance(macs, str) else macs[0]).replace(":", "")
    granted = {unpack(base): str(seconds) for base, _, seconds in lease.addresses}
    seconds = line.get("option.ip_address_lease_time")
    assert granted == (
        {line["ip.your"]: seconds} if lease.kind in ("OFFER", "ACK") and seconds else {}
    )
    if lease.kind in ("REQUEST", "RELEASE", "DECLINE", "INFORM"):
        asked = line["ip.client"]
        asked = line.get("option.requested_ip_address", "") if asked == "0.0.0.0" else asked
        assert lease.requested == (pack(asked) if asked else None)
    circuit = bytes.fromhex(line.get("option.agent_information_option.agent_circuit_id", ""))
    assert (circuit.decode() in lease.names) == bool(circuit)


def _compare6(lease: Lease, line: dict[str, str]) -> None:
    assert [str(dhcpv6.KINDS.index(lease.kind))] == list(line["type"])
    duids = line["duid.bytes"]
    assert lease.client == (duids if isinstance(duids, str) else duids[0])
    address = line.get("iaaddr.ip")
    assert {unpack(base): str(s) for base, _, s in lease.addresses} == (
        {address: line["iaaddr.valid_lifetime"]} if address else {}
    )
    prefix = line.get("iaprefix.pref_addr")
    assert {(unpack(base), str(n)): str(s) for base, n, s in lease.prefixes} == (
        {(prefix, line["iaprefix.pref_len"]): line["iaprefix.valid_lifetime"]} if prefix else {}
    )
