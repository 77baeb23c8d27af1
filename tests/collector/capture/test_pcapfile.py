"""Capture files of every make, written field by field, and damaged in every way."""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapReader

from collector.capture.pcapfile import MAX_PACKET_BYTES, Captured, Damaged, packets
from collector.capture.replay import CaptureFileError, frames

PACKET = b"\x45" + bytes(40)
T = 1_700_000_000
SECOND = 10**9
ORDERS = ("<", ">")
CAPTURES = Path(__file__).parents[4] / "shared/data/captures"


def pcap(order: str, magic: int, linktype: int, *records: tuple[int, int, bytes]) -> bytes:
    text = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65_535, linktype)
    extra = bytes(8) if magic == 0xA1B2CD34 else b""
    for seconds, fraction, data in records:
        head = struct.pack(f"{order}IIII", seconds, fraction, len(data), len(data) + 7)
        text += head + extra + data
    return text


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + length + body + length


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, linktype: int, **options: bytes) -> bytes:
    codes = {"resolution": 9, "offset": 14, "name": 2}
    text = struct.pack(f"{order}HHI", linktype, 0, 30)
    for name, value in options.items():
        head = struct.pack(f"{order}HH", codes[name], len(value))
        text += head + value + bytes(-len(value) % 4)
    return block(order, 1, text + bytes(4))


def enhanced(order: str, number: int, ticks: int, data: bytes = PACKET) -> bytes:
    head = struct.pack(f"{order}IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), 999)
    return block(order, 6, head + data)


def read(data: bytes) -> list[Captured]:
    return list(packets(io.BytesIO(data)))


def until_damage(data: bytes) -> list[Captured]:
    """What comes before the damage, which must be told."""
    found: list[Captured] = []
    with pytest.raises(Damaged):
        found.extend(packets(io.BytesIO(data)))
    return found


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("magic", "fraction_ns"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1), (0xA1B2CD34, 1000)]
)
def test_pcap(order: str, magic: int, fraction_ns: int) -> None:
    data = pcap(order, magic, 101, (T, 5, PACKET), (T + 1, 6, b""))
    assert read(data) == [
        (T * SECOND + 5 * fraction_ns, 101, PACKET),
        ((T + 1) * SECOND + 6 * fraction_ns, 101, b""),
    ]


def test_what_stands_above_a_link_type_is_of_the_frame_check() -> None:
    assert read(pcap("<", 0xA1B2C3D4, 0x24000001, (T, 0, PACKET)))[0].linktype == 1


@pytest.mark.parametrize("order", ORDERS)
def test_pcapng_with_interfaces_of_several_kinds(order: str) -> None:
    data = section(order) + interface(order, 1, name=b"eth0")
    data += interface(order, 101, resolution=b"\x09") + interface(order, 113, resolution=b"\x83")
    data += interface(order, 0, offset=struct.pack(f"{order}q", T))
    data += enhanced(order, 0, T * 10**6 + 5) + enhanced(order, 1, T * SECOND + 7)
    data += enhanced(order, 2, T * 8 + 1) + block(order, 0xBAD, b"passed over")
    data += enhanced(order, 3, 3) + block(order, 3, struct.pack(f"{order}I", 99) + PACKET)
    old = struct.pack(f"{order}HHIIII", 0, 0, *divmod(T * 10**6 + 9, 2**32), len(PACKET), 99)
    data += block(order, 2, old + PACKET)
    assert read(data) == [
        (T * SECOND + 5_000, 1, PACKET),
        (T * SECOND + 7, 101, PACKET),
        (T * SECOND + SECOND // 8, 113, PACKET),
        (T * SECOND + 3_000, 0, PACKET),
        (T * SECOND + 3_000, 1, PACKET[:30]),  # cut to the interface's length, timed by the last
        (T * SECOND + 9_000, 1, PACKET),
    ]


@pytest.mark.parametrize(("one", "two"), [("<", ">"), (">", "<")])
def test_a_section_begins_with_no_interface_and_its_own_byte_order(one: str, two: str) -> None:
    data = section(one) + interface(one, 1) + enhanced(one, 0, 5)
    data += section(two) + interface(two, 101) + enhanced(two, 0, 6)
    assert [each.linktype for each in read(data)] == [1, 101]
    assert len(until_damage(data + section(one) + enhanced(one, 0, 7))) == 2


@pytest.mark.parametrize("order", ORDERS)
def test_lengths_that_lie_end_the_reading_and_allot_nothing(order: str) -> None:
    good = section(order) + interface(order, 1) + enhanced(order, 0, 5)
    huge = struct.pack(f"{order}II", 6, 0xFFFFFFFC) + bytes(40)
    short = struct.pack(f"{order}II", 6, 8) + bytes(40)
    inside = struct.pack(f"{order}IIIII", 0, 0, 5, 0xFFFFFFFF, 9) + PACKET
    stranger = enhanced(order, 7, 5)
    disagreeing = enhanced(order, 0, 6)[:-4] + bytes(4)
    broken_option = block(order, 1, struct.pack(f"{order}HHIHH", 1, 0, 0, 14, 3) + bytes(4))
    for bad in (huge, short, block(order, 6, inside), stranger, disagreeing, broken_option):
        assert len(until_damage(good + bad)) == 1
    whole = pcap(order, 0xA1B2C3D4, 1, (T, 0, PACKET))
    for length in (MAX_PACKET_BYTES + 1, 0xFFFFFFFF):
        assert len(until_damage(whole + struct.pack(f"{order}IIII", 1, 1, length, 9))) == 1


@pytest.mark.parametrize(
    "data",
    [
        pcap("<", 0xA1B2C3D4, 1, (T, 0, PACKET), (T, 1, PACKET)),
        section("<") + interface("<", 1) + enhanced("<", 0, 5) + enhanced("<", 0, 6),
    ],
)
def test_cut_anywhere_it_gives_the_whole_packets_before(data: bytes) -> None:
    whole = read(data)
    for end in range(len(data)):
        found: list[Captured] = []
        with contextlib.suppress(Damaged):
            found.extend(packets(io.BytesIO(data[:end])))
        assert found == whole[: len(found)]


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xd4\xc3\xb2\xa1", section("<")]))
def test_any_bytes(data: bytes, front: bytes) -> None:
    try:
        read(front + data)
    except Damaged as error:
        assert len(str(error)) < 60


def test_a_time_that_cannot_be_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x"
    back = struct.pack("<q", -5)
    path.write_bytes(section("<") + interface("<", 1, offset=back) + enhanced("<", 0, 5))
    with pytest.raises(CaptureFileError, match="x: damaged before its first packet"):
        list(frames([path]))


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="the captures beside the project are not here")
def test_captures_read_as_scapy_reads_them() -> None:
    found = 0
    for path in sorted(CAPTURES.glob("*/*.pcap*")):
        if path.suffix == ".jsonl":
            continue
        with path.open("rb") as file:
            ours = [each.data for each in packets(file)]
        with RawPcapReader(str(path)) as reader:
            assert ours == [bytes(data) for data, _ in reader], path.name
        found += len(ours)
    assert found > 1_000
