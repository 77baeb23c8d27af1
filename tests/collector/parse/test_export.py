"""Flow exports: hand-made messages, captures beside the project, and rubbish."""

from __future__ import annotations

import datetime as dt
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.utils import RawPcapReader

from collector.parse import export, ip, link
from collector.parse.export import IPFIX, V5, V9, Template
from collector.parse.export_records import V5_TEMPLATE, decode, options
from collector.parse.reader import ParseError
from collector.wire.addr import pack, unpack

CAPTURES = Path(__file__).parents[4] / "shared" / "data" / "captures" / "netflow"
NOW = 1_700_000_000
SWAPPED = "ipfix_basic.pcap"
"""Every expected line of it (packets 1 to 3) has begin and end exchanged, most with the begin after
the end: nfdump takes element 21 for the begin, which is flowEndSysUpTime (IANA)."""


IN_SECONDS = "2017-11-21T14:32:15.000"
"""Begin and end of the one flow of ipfix_viptela.pcap (packet 2), whose expected line has none:
nfdump does not read elements 150 and 151, flowStartSeconds and flowEndSeconds."""


def record_set(kind: int, data: bytes) -> bytes:
    return struct.pack(">HH", kind, 4 + len(data)) + data


def ipfix(*sets: bytes, sequence: int = 0, domain: int = 1) -> bytes:
    body = b"".join(sets)
    return struct.pack(">HHIII", IPFIX, 16 + len(body), NOW, sequence, domain) + body


def v9(*sets: bytes, sequence: int = 0, domain: int = 1, uptime: int = 10_000) -> bytes:
    return struct.pack(">HHIIII", V9, len(sets), uptime, NOW, sequence, domain) + b"".join(sets)


def template(kind: int, *fields: tuple[int, int]) -> bytes:
    return struct.pack(">HH", kind, len(fields)) + b"".join(
        struct.pack(">HH", *each) for each in fields
    )


def v5(*records: bytes, sequence: int = 0, interval: int = 0) -> bytes:
    head = (V5, len(records), 10_000, NOW, 500, sequence, 0, 0, interval)
    return struct.pack(">HHIIIIBBH", *head) + b"".join(records)


def v5_record(src: str, dst: str, octets: int, first: int = 9_000, last: int = 9_500) -> bytes:
    ends = pack(src)[12:] + pack(dst)[12:] + bytes(8)
    return ends + struct.pack(
        ">IIIIHHxBBBHHBBxx", 3, octets, first, last, 40_000, 443, 0, 6, 0, 0, 0, 0, 0
    )


def read(*datagrams: bytes) -> list[np.ndarray[Any, Any]]:
    """What a listener that knows only templates and sets makes of them."""
    known: dict[tuple[int, int], Template] = {}
    boot_ms = 0
    found = []
    for data in datagrams:
        message = export.parse(data)
        for kind, content in message.sets:
            if message.version == V5:
                found.append(decode(V5_TEMPLATE, content, message))
            elif export.is_template_set(message.version, kind):
                for number, each in export.templates(message.version, kind, content).items():
                    if each is not None:
                        known[message.domain, number] = each
            elif (message.domain, kind) in known:
                layout = known[message.domain, kind]
                if layout.scope:
                    boot_ms = options(layout, content)[1] or boot_ms
                else:
                    found.append(decode(layout, content, message, boot_ms))
    return found


def test_netflow_v5() -> None:
    (rows,) = read(v5(v5_record("100.64.0.7", "192.0.2.1", 4_000_000_000)))
    (row,) = rows
    assert (unpack(bytes(row["src"])), unpack(bytes(row["dst"]))) == ("100.64.0.7", "192.0.2.1")
    assert (row["bytes"], row["packets"], row["protocol"]) == (4_000_000_000, 3, 6)
    assert (row["sport"], row["dport"]) == (40_000, 443)
    assert row["first_ns"] == (NOW - 1) * 10**9
    assert export.parse(v5(v5_record("::1", "::2", 1), interval=0x4064)).sampling == 100


def test_ipfix_of_every_length_and_with_enterprise_and_variable_fields() -> None:
    fields = ((27, 16), (28, 16), (1, 3), (2, 1), (4, 1), (0x8000 | 5, 2))
    body = struct.pack(">HH", 300, 8) + b"".join(struct.pack(">HH", *each) for each in fields)
    body += struct.pack(">I", 9) + struct.pack(">HHHH", 82, 0xFFFF, 152, 8)
    ends = pack("2001:db8::7") + pack("2001:db8:1::1")
    records = b"".join(
        ends + b"\x01\x00\x02" + bytes((packets,)) + b"\x11\xab\xcd" + name + struct.pack(">Q", 5)
        for packets, name in ((7, b"\x02ge"), (8, b"\xff\x00\x03ge1"))
    )
    (rows,) = read(ipfix(record_set(2, body), record_set(300, records)))
    assert rows["bytes"].tolist() == [0x010002] * 2
    assert rows["packets"].tolist() == [7, 8]
    assert rows["first_ns"].tolist() == [5_000_000] * 2
    assert unpack(bytes(rows["src"][0])) == "2001:db8::7"


def test_times_in_their_forms() -> None:
    ntp = (NOW + 2_208_988_800) << 32 | 1 << 31
    for fields, values, expected in (
        (((150, 4), (151, 4)), struct.pack(">II", NOW, NOW + 1), (0, 10**9)),
        (((154, 8), (157, 8)), struct.pack(">QQ", ntp, ntp), (5 * 10**8, 5 * 10**8)),
        (((158, 4), (159, 4)), struct.pack(">II", 3_000_000, 0), (-3 * 10**9, 0)),
        (
            ((22, 4), (21, 4), (160, 8)),
            struct.pack(">IIQ", 5, 6, NOW * 1000),
            (5 * 10**6, 6 * 10**6),
        ),
        (((323, 8),), struct.pack(">Q", NOW * 1000 + 7), (7 * 10**6, 7 * 10**6)),
    ):
        (rows,) = read(ipfix(record_set(2, template(256, *fields)), record_set(256, values)))
        found = (int(rows["first_ns"][0]) - NOW * 10**9, int(rows["last_ns"][0]) - NOW * 10**9)
        assert found == expected


def test_blocks_by_count_and_with_holes() -> None:
    fields = ((361, 2), (364, 2), (363, 2), (230, 1))
    data = struct.pack(">HHHBHHHB", 1024, 512, 1, 16, 1024, 512, 4, 16)
    (rows,) = read(ipfix(record_set(2, template(256, *fields)), record_set(256, data)))
    assert rows["port_first"].tolist() == [1024, 0]
    assert rows["port_last"].tolist() == [1535, 0]


def test_options_tell_sampling() -> None:
    data = struct.pack(">HHHHHHH", 257, 2, 1, 149, 4, 34, 4)
    found = export.templates(IPFIX, 3, data)[257]
    assert found is not None
    assert found == Template(((149, 4), (34, 4)), 1)
    assert options(found, struct.pack(">II", 1, 1000)) == (1000, 0)
    systematic = Template(((149, 4), (305, 4), (306, 4), (160, 8)), 1)
    assert options(systematic, struct.pack(">IIIQ", 1, 10, 90, 5)) == (10, 5)
    v9_options = struct.pack(">HHHHHHH", 258, 4, 4, 1, 4, 34, 4)
    assert export.templates(V9, 1, v9_options)[258] == Template(((0, 4), (34, 4)), 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0", "truncated"),
        (b"\0\x08" + bytes(30), "version"),
        (v5()[:24], "length"),
        (v5(v5_record("10.0.0.1", "10.0.0.2", 1))[:-1], "truncated"),
        (ipfix()[:10], "truncated"),
        (ipfix(struct.pack(">HH", 256, 3)), "set-length"),
        (ipfix(struct.pack(">HH", 256, 90)), "set-length"),
        (ipfix().replace(b"\0\x10", b"\0\x11", 1), "length"),
    ],
)
def test_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ParseError) as raised:
        export.parse(data)
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (struct.pack(">HH", 256, 2) + bytes(4), "truncated"),
        (struct.pack(">HH", 256, 1) + struct.pack(">HH", 1, 0), "template-bytes"),
        (struct.pack(">HH", 256, 500) + bytes(2000), "template-fields"),
        (struct.pack(">HH", 7, 1) + struct.pack(">HH", 1, 4), "template-id"),
    ],
)
def test_refused_templates(data: bytes, reason: str) -> None:
    with pytest.raises(ParseError) as raised:
        export.templates(IPFIX, 2, data)
    assert raised.value.reason == reason


def test_withdrawn_and_padded_templates() -> None:
    assert export.templates(IPFIX, 2, struct.pack(">HH", 300, 0)) == {300: None}
    padded = template(256, (1, 4)) + bytes(4)
    assert export.templates(V9, 0, padded) == {256: Template(((1, 4),))}


WHOLE = (
    v5(v5_record("100.64.0.7", "192.0.2.1", 4)),
    ipfix(record_set(2, template(256, (8, 4), (82, 0xFFFF), (1, 8))), record_set(256, bytes(30))),
    v9(record_set(0, template(256, (8, 4), (21, 4), (1, 8))), record_set(256, bytes(40))),
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(WHOLE), st.binary(max_size=200), st.integers(0, 200), st.integers(0, 1 << 30)
)
def test_cut_and_random_bytes_raise_nothing_else(
    whole: bytes, rubbish: bytes, cut: int, flip: int
) -> None:
    changed = bytearray(whole)
    changed[flip % len(whole)] ^= 1 << flip % 8
    for data in (rubbish, whole[:cut], whole[:cut] + rubbish, bytes(changed), whole + rubbish):
        try:
            read(data)
        except ParseError:
            continue


def captured(path: Path) -> Iterable[bytes]:
    with RawPcapReader(str(path)) as reader:
        for raw, _ in reader:
            inside = link.unwrap(raw, reader.linktype)
            assert inside is not None
            packet = ip.parse(0, *inside)
            assert isinstance(packet, ip.Packet)
            yield packet.payload


def _text(ns: int) -> str:
    at = dt.datetime.fromtimestamp(ns // 10**9, dt.UTC) + dt.timedelta(
        milliseconds=ns // 10**6 % 1000
    )
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}"


def test_captures_agree_with_nfdump() -> None:
    if not CAPTURES.is_dir():
        pytest.skip("captures are not here")
    compared = 0
    for capture in sorted(CAPTURES.glob("*.pcap")):
        text = capture.with_name(f"{capture.stem}.expected.jsonl").read_text()
        expected = list(map(json.loads, text.splitlines()))
        rows = [row for part in read(*captured(capture)) for row in part if any(bytes(row["src"]))]
        assert len(rows) == len(expected), capture.name
        for row, line in zip(rows, expected, strict=True):
            _compare(row, line, capture.name)
            compared += 1
    assert compared == 179


def _compare(row: Any, line: dict[str, Any], name: str) -> None:
    source = line.get("src4_addr") or line.get("src6_addr")
    target = line.get("dst4_addr") or line.get("dst6_addr")
    assert (unpack(bytes(row["src"])), unpack(bytes(row["dst"]))) == (source, target), name
    assert row["protocol"] == line["proto"], name
    if line["proto"] not in (1, 58):  # of ICMP the port holds type and code
        assert (row["sport"], row["dport"]) == (line["src_port"], line["dst_port"]), name
    octets = line["in_bytes"] + line.get("out_bytes", 0)
    packets = line["in_packets"] + line.get("out_packets", 0)
    assert (row["bytes"], row["packets"]) == (octets, packets), name
    ends = ("last", "first") if name == SWAPPED else ("first", "last")
    for ours, theirs in zip(("first_ns", "last_ns"), ends, strict=True):
        told = IN_SECONDS if name == "ipfix_viptela.pcap" else line[theirs]
        if told.startswith("1970") and ours == "last_ns":  # not told: no later than the begin
            assert row["last_ns"] == row["first_ns"], name
        else:
            assert _text(int(row[ours])) == told, (name, ours)
    if "src4_xlt_ip" in line:
        assert unpack(bytes(row["nat_src"])) == line["src4_xlt_ip"], name
