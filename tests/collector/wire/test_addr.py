"""Addresses in sixteen bytes."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.wire import addr


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        ("192.0.2.1", "00000000000000000000ffffc0000201"),
        ("::ffff:192.0.2.1", "00000000000000000000ffffc0000201"),
        ("2001:db8::1", "20010db8000000000000000000000001"),
        ("::", "00" * 16),
    ],
)
def test_pack(text: str, packed: str) -> None:
    assert addr.pack(text).hex() == packed


def test_a_mapped_address_prints_dotted() -> None:
    assert addr.unpack(addr.pack("::ffff:192.0.2.1")) == "192.0.2.1"


@given(st.ip_addresses())
def test_round_trip(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    text = addr.unpack(addr.pack(address))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    assert text == str(mapped or address)


@pytest.mark.parametrize("bad", ["", "192.0.2", "host", "192.0.2.1/24"])
def test_pack_refuses_what_is_no_address(bad: str) -> None:
    with pytest.raises(ValueError):
        addr.pack(bad)


@pytest.mark.parametrize("length", [0, 4, 15, 17])
def test_unpack_refuses_other_lengths(length: int) -> None:
    with pytest.raises(ValueError, match=f"not {length}"):
        addr.unpack(bytes(length))


@given(st.binary(min_size=16, max_size=16), st.integers(0, 128))
def test_network_agrees_with_ipaddress(address: bytes, prefix_len: int) -> None:
    expected = ipaddress.IPv6Network((address, prefix_len), strict=False)
    assert addr.network(address, prefix_len) == expected.network_address.packed


@pytest.mark.parametrize("prefix_len", [-1, 129])
def test_network_refuses_other_lengths(prefix_len: int) -> None:
    with pytest.raises(ValueError):
        addr.network(bytes(16), prefix_len)
