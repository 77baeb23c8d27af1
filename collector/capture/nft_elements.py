"""Addresses in, their elements in the four sets out, before their first packet.

The packet path makes an element too (`update`), but may not wait for memory: the two counters come
out of a small reserve of percpu memory, which a burst of new addresses finds empty. What is made
here may wait, so the kernel does not refuse it (docs/decisions/0019). A new element takes the set's
counter at zero; one that is there already keeps what it has counted.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterable
from typing import Final

from collector.capture.nft import NftConfig
from collector.capture.nftsets import SETS, NftLink, describe_set, explain, set_body
from collector.capture.rawnl import attribute
from collector.wire.addr import MAPPED, network, pack

MAX_PREFIX_ELEMENTS: Final = 4_096
"""A prefix of so many addresses, or delegated prefixes, is likely to be in use as a whole; elements
of a wider one would mostly make readings longer."""
MAX_AHEAD: Final = 16_384
"""Elements of a set that are made for prefixes, which is about a tenth of a second of a reading."""
_BATCH: Final = 1_024
"""Elements of one transaction: an attribute ends at 65,535 bytes, and these have 28 each."""
_NFTABLES: Final = 10
_NEWSETELEM: Final = _NFTABLES << 8 | 12


def metered_prefixes(config: NftConfig) -> list[tuple[bytes, int]]:
    """Access prefixes as configured: base (16 bytes) and length in 128 bits, no longer than what is
    counted together."""
    found = []
    for prefix in config.prefixes:
        net = ipaddress.ip_network(prefix)
        length = 128 - net.max_prefixlen + net.prefixlen
        if net.version == 6:
            length = min(length, config.ipv6_prefix_len)
        found.append((network(pack(net.network_address), length), length))
    return found


def of_small_prefixes(config: NftConfig) -> list[bytes]:
    """Keys (16 bytes) of every element of the small prefixes, up to MAX_AHEAD for each family.

    A small prefix may be configured beside a wider one that it lies in.
    """
    families: dict[bool, dict[bytes, None]] = {True: {}, False: {}}
    for base, length in sorted(metered_prefixes(config), key=lambda prefix: -prefix[1]):
        is_ipv4 = base[:12] == MAPPED
        spare = 0 if is_ipv4 else 128 - config.ipv6_prefix_len
        count, found = 1 << 128 - spare - length, families[is_ipv4]
        if count <= MAX_PREFIX_ELEMENTS and len(found) + count <= MAX_AHEAD:
            first = int.from_bytes(base, "big")
            keys = ((first + (n << spare)).to_bytes(16, "big") for n in range(count))
            found.update(dict.fromkeys(keys))
    return [*families[True], *families[False]]


def make_elements(keys: Iterable[bytes], timeout_s: float = 5.0) -> None:
    """Give every key (16 bytes, masked) its element in both sets of its family.

    What finds no room is left to the packet path, which tells its bytes. Raises TableMissing or
    NftUnavailable; what was made until then stays.
    """
    mapped: list[bytes] = []
    others: list[bytes] = []
    for key in dict.fromkeys(keys):
        if key[:12] == MAPPED:
            mapped.append(key[12:])
        else:
            others.append(key)
    with NftLink(timeout_s) as link:
        for name in SETS:
            _fill(link, name, mapped if name[-1] == "4" else others)


def _fill(link: NftLink, name: str, keys: list[bytes]) -> None:
    """A transaction that is refused takes back elements that may have counted packets meanwhile. So
    none asks for more than there is room for; and where the kernel does not tell how many there are
    (before Linux 6.16 it says 0) each element has a transaction of its own."""
    at = 0
    while at < len(keys):
        _, elements, size = describe_set(link, name)
        step = min(_BATCH, size - elements) if elements else 1
        if step <= 0:
            return
        listed = b"".join(
            attribute(1, attribute(1, attribute(1, key))) for key in keys[at : at + step]
        )
        try:
            link.transact(_NFTABLES, _NEWSETELEM, set_body(name) + attribute(3, listed))
        except OSError as error:
            if error.errno == errno.ENFILE:
                return
            raise explain(error) from error
        at += step
