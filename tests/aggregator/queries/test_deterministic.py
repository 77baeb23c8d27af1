"""Deterministic NAT by RFC 7422: forth and back agree, versions end each other, errors at once."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.queries.deterministic import Deterministic, Version, load, parse
from aggregator.queries.evidence import FOREVER, Question
from collector.wire.addr import pack, unpack
from collector.wire.settings import ConfigError

DAY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
T = int(DAY.timestamp()) * 1_000_000


def version(**others: Any) -> dict[str, Any]:
    return {
        "device": "cgn-1",
        "collector": "edge-1",
        "valid_from": DAY,
        "inside": "100.64.0.0/22",
        "outside": "192.0.2.0/26",
        "ports": [1024, 65535],
        "ports_per_host": 2000,
        **others,
    }


def made(*versions: dict[str, Any]) -> Deterministic:
    return parse({"version": list(versions)}, Path("nat.toml"))


def ask(found: Deterministic, address: str, port: int | None, at: int = T) -> list[str]:
    question = Question(pack(address), at, 0, port)
    return [unpack(each.inside) for each in found.mappings(question, at, at + 1)]


def test_the_first_hosts_blocks_are_where_arithmetic_puts_them() -> None:
    found = made(version())  # 64,512 ports: 32 blocks of 2,000, and 512 that are dynamic
    assert ask(found, "192.0.2.0", 1024) == ["100.64.0.0"]
    assert ask(found, "192.0.2.0", 3023) == ["100.64.0.0"]
    assert ask(found, "192.0.2.0", 3024) == ["100.64.0.1"]
    assert ask(found, "192.0.2.1", 1024) == ["100.64.0.32"]
    assert ask(found, "192.0.2.31", 65_023) == ["100.64.3.255"]
    for address, port in (("192.0.2.0", 65_024), ("192.0.2.0", 1023), ("192.0.2.32", 1024)):
        assert ask(found, address, port) == []
    assert found.sharers(pack("192.0.2.0"), T, T + 1) == 32
    assert found.sharers(pack("192.0.2.64"), T, T + 1) is None
    assert found.sharers(pack("2001:db8::1"), T, T + 1) is None
    assert ask(found, "2001:db8::1", 1024) == ask(found, "192.0.2.0", None) == []


def test_hosts_without_boundary_addresses_beside_a_dynamic_pool() -> None:
    """The shape of RFC 7422's example (section 2.3), figures by arithmetic: 14 hosts of a /28 and
    two shares for the dynamic pool, so (65,536 - 1,024) / 16 = 4,032 ports for each."""
    pool = {"inside": "198.51.100.0/28", "outside": "192.0.2.1/32", "ports_per_host": 4032}
    found = made(version(**pool, boundary_addresses=False))
    for host, first, last in (
        (1, 1024, 5055),
        (2, 5056, 9087),
        (3, 9088, 13_119),
        (14, 53_440, 57_471),
    ):
        for port in (first, last):
            assert ask(found, "192.0.2.1", port) == [f"198.51.100.{host}"]
    for port in (1023, 57_472, 65_535):  # reserved, and the dynamic pool, which is logged
        assert ask(found, "192.0.2.1", port) == []
    # A device that counts the network's own address too has everybody one block further up.
    assert ask(made(version(**pool)), "192.0.2.1", 5056) == ["198.51.100.1"]
    assert made(version(**pool)).digest != found.digest


@given(
    hosts=st.integers(1, 64), start=st.integers(1, 40_000), bits=st.integers(24, 30),
    where=st.integers(0, 2**20),
)  # fmt: skip
def test_every_inside_address_has_ports_of_its_own(
    hosts: int, start: int, bits: int, where: int
) -> None:
    """The device's direction, written down anew here, comes back to the same address."""
    ports = (65_535 - start + 1) // hosts
    inside = ipaddress.ip_network(f"10.0.0.0/{bits}")
    found = Version("d", DAY, str(inside), "192.0.2.0/24", (start, 65_535), ports)
    nth = where % min(inside.num_addresses, 256 * found.hosts)
    public, block = divmod(nth, found.hosts)
    for port in (start + block * ports, start + (block + 1) * ports - 1):
        back = found.inside_of(int(ipaddress.ip_address("192.0.2.0")) + public, port)
        first = start + block * ports
        assert back == (pack(inside.network_address + nth), first, first + ports - 1)


PUBLIC = int(ipaddress.ip_address("192.0.2.0"))


@given(
    algorithm=st.sampled_from(("sequential", "round-robin", "interlaced")),
    bits=st.integers(29, 32), start=st.integers(1024, 65_000), each=st.integers(1, 20),
    v6=st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_every_port_is_of_one_host_and_every_host_has_its_number_of_ports(
    algorithm: Any, bits: int, start: int, each: int, v6: bool
) -> None:
    """By every algorithm all ports of the pool, counted back, come to the same for each host."""
    pool = 1 << (32 - bits)
    per_host = each * (pool if algorithm == "round-robin" else 1)
    inside, length = ("2001:db8::/40", 52) if v6 else ("10.0.0.0/20", None)
    ports = (start, min(start + 60, 65_535))
    found = Version(
        "d", DAY, inside, f"192.0.2.0/{bits}", ports, per_host,
        algorithm=algorithm, inside_length=length,
    )  # fmt: skip
    held: dict[bytes, int] = {}
    for address in range(PUBLIC, PUBLIC + pool):
        for port in range(start - 2, ports[1] + 3):
            back = found.inside_of(address, port)
            if back is not None:
                inside_address, first, last = back
                assert first <= port <= last
                held[inside_address] = held.get(inside_address, 0) + 1
    assert set(held.values()) <= {per_host}
    assert len(held) == min(found.room, found.inside_hosts)
    network = ipaddress.ip_network(inside)
    step = 1 << (network.max_prefixlen - found.length)
    assert set(held) == {pack(network.network_address + n * step) for n in range(len(held))}


def test_where_round_robin_and_interlaced_put_a_port() -> None:
    """Round robin by the RFC's example: 1,000 ports of ten addresses are 100 of each; of a pool of
    eight here, 800 ports."""
    pool = {"outside": "192.0.2.0/29", "ports": [2000, 65_535], "inside": "100.64.0.0/23"}
    found = made(version(**pool, ports_per_host=800, algorithm="round-robin"))
    for last in range(8):
        assert ask(found, f"192.0.2.{last}", 2000) == ask(found, f"192.0.2.{last}", 2099)
        assert ask(found, f"192.0.2.{last}", 2000) == ["100.64.0.0"]
        assert ask(found, f"192.0.2.{last}", 2100) == ["100.64.0.1"]
    assert found.sharers(pack("192.0.2.3"), T, T + 1) == 635
    found = made(version(**pool, ports_per_host=800, algorithm="interlaced"))  # 79 hosts of each
    assert ask(found, "192.0.2.0", 2000) == ask(found, "192.0.2.0", 2079) == ["100.64.0.0"]
    assert ask(found, "192.0.2.0", 2001) == ["100.64.0.1"]
    assert ask(found, "192.0.2.1", 2000) == ["100.64.0.79"]
    assert ask(found, "192.0.2.0", 65_200) == []  # above 79 times 800: dynamic


def test_subscribers_of_ds_lite_are_prefixes_of_ipv6() -> None:
    found = made(version(inside="2001:db8:c000::/38", inside_length=48))
    assert ask(found, "192.0.2.0", 1024) == ["2001:db8:c000::"]
    assert ask(found, "192.0.2.1", 1024) == ["2001:db8:c020::"]
    assert made(version()).digest != found.digest


def test_a_version_ends_where_the_next_of_its_device_begins() -> None:
    later = DAY + dt.timedelta(days=30)
    found = made(version(), version(valid_from=later, ports_per_host=1000, inside="100.64.0.0/21"))
    us = int(later.timestamp()) * 1_000_000
    assert ask(found, "192.0.2.0", 3024, us - 1) == ["100.64.0.1"]
    assert ask(found, "192.0.2.0", 3024, us) == ["100.64.0.2"]
    assert ask(found, "192.0.2.0", 3024, T - 1) == []
    both = found.mappings(Question(pack("192.0.2.0"), us, 0, 3024), us - 5, us + 5)
    assert [(each.start_us, each.end_us) for each in both] == [(T, us), (us, FOREVER)]
    assert both[0].record != both[1].record
    assert made(version()).digest != found.digest


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        made(
            version(),
            version(device="cgn-2", outside="192.0.2.32/27", inside="10.0.0.0/16"),
            version(ports=[5000, 4000], device="cgn-3"),
            version(),
            version(device="cgn-4", inside="2001:db8::/32", outside="198.51.100.0/26"),
            version(device="cgn-5", inside_length=24, outside="198.51.100.64/26"),
            version(device="cgn-6", algorithm="round-robin", outside="198.51.100.128/26"),
            version(
                device="cgn-7",
                inside="10.0.0.0/31",
                outside="203.0.113.0/26",
                boundary_addresses=False,
            ),
        )
    text = str(caught.value)
    for part in (
        "version.1.inside: 65536 addresses",
        "version.1.outside: version.0 has these",
        "version.2.ports",
        "version.3: version.0 of cgn-1 begins at that instant too",
        "version.4.inside_length: of IPv6 from 32 to 64",
        "version.5.inside_length: only for IPv6",
        "version.6.ports_per_host: no multiple of the 64",
        "version.7.boundary_addresses: only of IPv4",
    ):
        assert part in text
    with pytest.raises(ConfigError, match="give the zone"):
        made(version(valid_from=dt.datetime(2026, 1, 1)))  # noqa: DTZ001
    with pytest.raises(ConfigError, match="version.0.prots: unknown key"):
        made({**version(), "prots": 3})


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "nat.toml"
    path.write_text(
        '[[version]]\ndevice = "cgn-1"\nvalid_from = 2026-01-01T00:00:00Z\n'
        'inside = "100.64.0.0/22"\noutside = "192.0.2.0/26"\nports = [1024, 65535]\n'
        "ports_per_host = 2000\n"
    )
    assert load(path).version[0].hosts == 32
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none.toml")
