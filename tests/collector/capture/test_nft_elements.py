"""Elements made ahead of packets, in a real kernel: what counts, what stays, what finds no room."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest

from collector.capture import nft_elements
from collector.capture.nft import NftConfig, install
from collector.capture.nft_elements import make_elements, of_small_prefixes
from collector.capture.nftsets import SetReader, TableMissing, describe_set
from collector.wire.addr import pack, unpack
from tests.collector.capture.netns_fixture import inside, namespace, router, run

CONFIG = NftConfig(("acc*",), ("10.0.0.0/16", "2001:db8::/48"))


@pytest.fixture
def reader() -> Iterator[SetReader]:
    """A fresh table, in whose namespace the test runs."""
    with namespace(f"ve{os.getpid() % 100_000}") as ns, inside(ns):
        install(CONFIG, time.time_ns)
        yield SetReader(CONFIG.ipv6_prefix_len, time.time_ns)


@pytest.mark.lab
def test_both_sets_have_the_address_at_zero_and_again_is_no_error(reader: SetReader) -> None:
    keys = [pack("10.0.0.7"), pack("2001:db8:0:7::")]
    make_elements(keys)
    make_elements([*keys, *keys, pack("10.0.0.8")])
    reading = reader.read_sets()
    found = {unpack(raw.tobytes()) for raw in reading.addresses}
    assert found == {"10.0.0.7", "10.0.0.8", "2001:db8:0:7::"}
    assert [fill.elements for fill in reading.fill] == [2, 2, 1, 1]
    assert not reading.counters.any()


@pytest.mark.lab
def test_one_that_counts_already_keeps_what_it_has(reader: SetReader) -> None:
    text = "add element inet tally up4 { 10.0.0.7 counter packets 3 bytes 420 }\n"
    run("nft", "-f", "-", text=text)
    before = reader.generation()
    make_elements([pack(f"10.0.0.{n}") for n in range(20)])
    sample = reader.read_one(pack("10.0.0.7"))
    assert (sample.up_bytes, sample.up_packets, sample.down_bytes) == (420, 3, 0)
    assert sample.generation == reader.generation() == before


@pytest.mark.lab
@pytest.mark.parametrize("told", [True, False])
def test_what_finds_no_room_is_left_and_the_rest_is_made(
    reader: SetReader, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Also where the kernel does not tell how many elements a set has."""
    run("nft", "delete", "table", "inet", "tally")
    install(NftConfig(("acc*",), ("10.0.0.0/16",), max_elements=5), time.time_ns)
    if not told:
        monkeypatch.setattr(
            nft_elements, "describe_set", lambda link, name: (0, 0, describe_set(link, name)[2])
        )
    make_elements([pack(f"10.0.0.{n}") for n in range(3)])
    make_elements([pack(f"10.0.0.{n}") for n in range(9)])
    reading = reader.read_sets()
    assert [unpack(raw.tobytes()) for raw in reading.addresses] == [f"10.0.0.{n}" for n in range(5)]


@pytest.mark.lab
def test_without_a_table_it_says_so() -> None:
    name = f"ve{os.getpid() % 100_000}"
    with (
        namespace(name),
        inside(name),
        pytest.raises(TableMissing, match="install it again"),
    ):
        make_elements([pack("10.0.0.7")])


@pytest.mark.lab
def test_a_burst_of_new_addresses_is_counted_to_the_packet() -> None:
    """Thousands of addresses that speak within a fraction of a second: more than the kernel has
    percpu memory in reserve for, so `update` alone is refused some of them on a busy machine."""
    sources = [pack(f"2001:db8:0:{n:x}::1") for n in range(4_096, 12_096)]
    with router() as lab:
        with inside(lab.a.ns):
            device = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            own = run("ip", "-br", "link", "show", "line").split()[2]
        with device, inside(lab.ns):
            gateway = run("ip", "-br", "link", "show", "acc0").split()[2]
            ethernet = bytes.fromhex(gateway.replace(":", "") + own.replace(":", "") + "86dd")
            device.bind(("line", 0))
            install(NftConfig(CONFIG.access, CONFIG.prefixes, conntrack=False), time.time_ns)
            make_elements(source[:8] + bytes(8) for source in sources)
            udp6 = ethernet + bytes.fromhex("6000000000083b40")
            end = pack(lab.up.ipv6) + bytes(8)
            for source in sources:
                device.send(udp6 + source + end)
            reader = SetReader(64, time.time_ns)
            deadline = time.monotonic() + 30
            while int((reading := reader.read_sets()).counters[:, 2].sum()) < len(sources):
                assert time.monotonic() < deadline, reading.uncounted_packets
    assert reading.uncounted_packets == 0
    found = dict(zip(reading.addresses.tolist(), reading.counters.tolist(), strict=True))
    assert found == {source[:8] + bytes(8): [48, 0, 1, 0] for source in sources}


def test_small_prefixes_are_made_whole_the_smallest_first() -> None:
    config = NftConfig(
        ("acc*",),
        ("10.0.0.0/16", "10.0.4.0/30", "10.9.9.9/32", "2001:db8::/32", "2001:db8:5::/63"),
    )
    assert [unpack(key) for key in of_small_prefixes(config)] == [
        "10.9.9.9",
        *(f"10.0.4.{n}" for n in range(4)),
        "2001:db8:5::",
        "2001:db8:5:1::",
    ]


def test_prefixes_are_made_up_to_a_limit_and_each_counts_as_it_is_metered() -> None:
    many = NftConfig(("acc*",), tuple(f"10.{n}.0.0/20" for n in range(9)))
    assert len(of_small_prefixes(many)) == nft_elements.MAX_AHEAD
    by_56 = NftConfig(("acc*",), ("2001:db8::/48", "2001:db8:9:0:1::/80"), ipv6_prefix_len=56)
    keys = of_small_prefixes(by_56)
    assert len(keys) == 256 + 1 and pack("2001:db8:9::") in keys
    assert pack("2001:db8:0:ff00::") in keys
