"""Table `inet tally`: the rules that make the kernel count every subscriber, and how they get in.

The table belongs to the kernel, not to the collector: it stays when the collector stops or is
killed, so what passes meanwhile is still counted. `install` therefore keeps what is there. Where
only rules differ (interfaces, IPv4 prefixes, conntrack) they are exchanged in one transaction
and the counters go on. Where the meaning of the counters differs (IPv6 prefix length, larger
sets) it refuses, unless told to replace the table, which reads the counters a last time first.

Totals equal the subscribers' interface bytes less link headers, with these differences: traffic
to or from the router itself is not forwarded; with connection tracking on, fragments are counted
as the datagram they make, without the further headers (20 bytes a fragment, 48 for IPv6); GRO
merges headers in the same way; what a flowtable offloads never comes to the hook.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import re
import secrets
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from collector.capture.nftsets import (
    GETRULE,
    OUTSIDE,
    SETS,
    TABLE,
    UNCOUNTED,
    NftLink,
    NftUnavailable,
    SetReader,
    TableMissing,
    comment,
    set_sizes,
    table_body,
    table_comment,
)
from collector.capture.rawnl import attribute, attributes
from collector.track.volume import Fill, Reading

MAX_INTERFACES: Final = 64
"""Patterns; each is a rule that every forwarded packet is compared with."""
MAX_PREFIXES: Final = 256
MAX_ELEMENTS: Final = 1 << 20
"""Elements of one set: the kernel allots the hash table for all of them at once, 16 MB here."""
MIN_IPV6_PREFIX_LEN: Final = 32
_INTERFACE: Final = re.compile(r"[A-Za-z0-9_.:@-]{1,15}|[A-Za-z0-9_.:@-]{1,14}\*")
"""Names of at most 15 bytes (linux/if.h, IFNAMSIZ), or the beginning of names."""
_CHAINS: Final = ("volume", "count_up", "count_down", "conntrack_on")


class NftConflict(NftUnavailable):
    """A table of that name counts something else; the message says how to change over."""


@lru_cache(maxsize=16)
def _networks(
    prefixes: tuple[str, ...], version: int
) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Kept, because how full the sets are is asked every second."""
    if version == 4:
        four = [ipaddress.IPv4Network(p) for p in prefixes if ":" not in p]
        return tuple(ipaddress.collapse_addresses(four))
    six = [ipaddress.IPv6Network(p) for p in prefixes if ":" in p]
    return tuple(ipaddress.collapse_addresses(six))


@dataclass(frozen=True, slots=True)
class NftConfig:
    """What to count.

    access: names of the subscribers' interfaces, a trailing `*` stands for any ending. prefixes:
    inside addresses of both families. ipv6_prefix_len: IPv6 is counted by prefixes of this length.
    max_elements: upper bound of a set's size, which otherwise is the number of addresses.
    conntrack: make the namespace track connections, which it does not until some rule asks.
    """

    access: tuple[str, ...]
    prefixes: tuple[str, ...]
    ipv6_prefix_len: int = 64
    max_elements: int = 131_072
    conntrack: bool = True
    nft: str = "nft"
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= len(self.access) <= MAX_INTERFACES:
            raise ValueError(f"1 to {MAX_INTERFACES} access interfaces, not {len(self.access)}")
        for name in self.access:
            if not _INTERFACE.fullmatch(name):
                raise ValueError(f"{name!r} is no interface name, nor one that ends in *")
        if not 1 <= len(self.prefixes) <= MAX_PREFIXES:
            raise ValueError(f"1 to {MAX_PREFIXES} prefixes, not {len(self.prefixes)}")
        if not MIN_IPV6_PREFIX_LEN <= self.ipv6_prefix_len <= 128:
            raise ValueError(f"an IPv6 prefix length of {MIN_IPV6_PREFIX_LEN} to 128")
        if not 1 <= self.max_elements <= MAX_ELEMENTS:
            raise ValueError(f"1 to {MAX_ELEMENTS} elements a set")
        for version in (4, 6):
            self.networks(version)  # ValueError for what is no network

    def networks(self, version: int) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The prefixes of one family, those inside others left out: nft refuses overlaps."""
        return _networks(self.prefixes, version)

    def patterns(self) -> tuple[str, ...]:
        """Access patterns, those that another covers left out: a packet must match one only."""
        kept: list[str] = []
        shortest_first = sorted(set(self.access), key=lambda name: (len(name.rstrip("*")), name))
        for name in sorted(shortest_first, key=lambda name: not name.endswith("*")):
            if not any(other.endswith("*") and name.startswith(other[:-1]) for other in kept):
                kept.append(name)
        return tuple(sorted(kept))

    def size(self, version: int) -> int:
        """Elements of a set of that family: its addresses or delegated prefixes, bounded."""
        full = 32 if version == 4 else self.ipv6_prefix_len
        total = sum(1 << max(full - net.prefixlen, 0) for net in self.networks(version))
        return max(1, min(total, self.max_elements))

    def is_whole(self, fill: Fill) -> bool:
        """Whether that set has room for every address of its prefixes, and so may well be full."""
        wanted = self.size(int(fill.name[-1]))
        return wanted < self.max_elements and fill.size >= wanted


@dataclass(frozen=True, slots=True)
class Installed:
    """What `install` did.

    action: kept, created, rules-updated or replaced. ts_ns: when. generation: of the counters now.
    final: the last reading of a table that was replaced, for `Volume.observe` before
    `Volume.begin`.
    """

    action: str
    ts_ns: int
    generation: str
    final: Reading | None = None


def render(config: NftConfig, nonce: str = "0" * 16) -> str:
    """The table in nft's language; `nonce` tells one creation of it from the next."""
    sets = "\n".join(
        f"  set {name} {{ type {'ipv4' if name[-1] == '4' else 'ipv6'}_addr; "
        f"size {config.size(int(name[-1]))}; flags dynamic; counter; }}"
        for name in SETS
    )
    counters = "\n".join(f"  counter {name} {{ }}" for name in (*UNCOUNTED, *OUTSIDE))
    return f"""\
# Tallyhold's meter. Every packet forwarded from or to an access interface is counted in layer-3
# bytes, by its inside address: NAT happens before (to inside) and after (to outside) the forward
# hook. Counters are cumulative; the collector only reads them, and never deletes this table.
table inet {TABLE} {{
  comment "{_identity(config, nonce)}"

  # One element for each address or delegated prefix, made by its first packet. Sizes bound the
  # kernel's memory; they come from the access prefixes.
{sets}

  # Totals of what a full set could not count, and of access traffic outside the prefixes.
{counters}

{_rules(config)}}}
"""


def install(config: NftConfig, now: Callable[[], int], replace: bool = False) -> Installed:
    """Bring the table in, or keep the one that is there with its counters.

    Raises NftConflict where a table with other counters stands in the way and `replace` is false,
    or where it is not ours at all; NftUnavailable where nft is missing or refuses.
    """
    reader = SetReader(config.ipv6_prefix_len, now)
    try:
        with NftLink() as link:
            found, sizes, rules = table_comment(link), set_sizes(link), _rules_comment(link)
    except TableMissing:
        return _create(config, reader, now, "created", "")
    if not found.startswith("tallyhold "):
        raise NftConflict(
            errno.EEXIST, f"table inet {TABLE} exists and is not Tallyhold's: rename or delete it"
        )
    problem = _conflict(config, found, sizes)
    if problem and not replace:
        raise NftConflict(errno.EEXIST, problem)
    if problem:
        final = _last_reading(found, now)
        return _create(config, reader, now, "replaced", f"delete table inet {TABLE}\n", final)
    if rules == f"rules {_digest(config)}":
        return Installed("kept", now(), reader.generation())
    _run(config, _exchange(config))
    return Installed("rules-updated", now(), reader.generation())


def _create(
    config: NftConfig,
    reader: SetReader,
    now: Callable[[], int],
    action: str,
    before: str,
    final: Reading | None = None,
) -> Installed:
    # The time before the transaction: nothing that is counted can be older.
    ts_ns = now()
    _run(config, before + render(config, secrets.token_hex(8)))
    return Installed(action, ts_ns, reader.generation(), final)


def _conflict(config: NftConfig, found: str, sizes: dict[str, int]) -> str:
    """Why the table that is there cannot go on counting for `config`; empty where it can."""
    how = "start the collector once with --replace-table, which reads its counters first"
    if found.rsplit(" ", 1)[0] != _identity(config, "").rstrip():
        return f"table inet {TABLE} counts IPv6 by another prefix length: {how}"
    small = [name for name in SETS if sizes.get(name, 0) < config.size(int(name[-1]))]
    if small:
        return f"sets {', '.join(small)} of table inet {TABLE} are too small now: {how}"
    return ""


def _last_reading(found: str, now: Callable[[], int]) -> Reading | None:
    """The counters of a table about to be replaced; None where another version wrote it."""
    match = re.fullmatch(r"tallyhold 1 ipv6/(\d{1,3}) [0-9a-f]{16}", found)
    return SetReader(int(match.group(1)), now).read_sets() if match else None


def _identity(config: NftConfig, nonce: str) -> str:
    return f"tallyhold 1 ipv6/{config.ipv6_prefix_len} {nonce}"


def _digest(config: NftConfig) -> str:
    return hashlib.sha256(_rules(config, marker="").encode()).hexdigest()[:16]


def _exchange(config: NftConfig) -> str:
    """One transaction that empties our chains and fills them anew; sets and counters stay."""
    chains = "".join(f"flush chain inet {TABLE} {name}\n" for name in _CHAINS)
    return f"{chains}table inet {TABLE} {{\n{_rules(config)}}}\n"


def _rules(config: NftConfig, marker: str | None = None) -> str:
    """The chains. `marker`, by default the digest of the rest, is how `install` knows them."""
    if marker is None:
        marker = _digest(config)
    patterns = config.patterns()
    jumps = [f'iifname "{name}" jump count_up' for name in patterns]
    jumps += [f'oifname "{name}" jump count_down' for name in patterns]
    jumps[0] += f' comment "rules {marker}"'
    tracked = "    ct state established\n" if config.conntrack else ""
    return f"""\
  # A packet between two subscribers goes through both jumps: up for one, down for the other.
  chain volume {{
    type filter hook forward priority filter + 10; policy accept;
{_lines(jumps)}  }}

  # `update` ends its rule where the set has no room, so the rule after it counts what is missing.
  chain count_up {{
{_lines(_count(config, "up", "saddr"))}  }}

  chain count_down {{
{_lines(_count(config, "down", "daddr"))}  }}

  # Nothing jumps here. A rule that asks for `ct` is what turns connection tracking on.
  chain conntrack_on {{
{tracked}  }}
"""


def _count(config: NftConfig, way: str, field: str) -> list[str]:
    rules = []
    for version, proto in ((4, "ip"), (6, "ip6")):
        prefixes = ", ".join(map(str, config.networks(version)))
        if not prefixes:
            continue
        key = f"{proto} {field}"
        if version == 6 and config.ipv6_prefix_len < 128:
            mask = ipaddress.IPv6Network(("::", config.ipv6_prefix_len)).netmask
            key += f" & {mask}"
        match = f"{proto} {field} {{ {prefixes} }}"
        rules.append(f"{match} update @{way}{version} {{ {key} }} return")
        rules.append(f"{match} counter name {way}{version}_full return")
    return [*rules, f"counter name {way}_outside"]


def _lines(rules: Sequence[str]) -> str:
    return "".join(f"    {rule}\n" for rule in rules)


def _rules_comment(link: NftLink) -> str:
    """The comment of the first rule of chain `volume` that has one."""
    body = table_body() + attribute(2, b"volume\x00")
    for payload in link.dump(GETRULE, body).payloads:
        text = comment(attributes(payload[4:]).get(7, b""))
        if text:
            return text
    return ""


def _run(config: NftConfig, text: str) -> None:
    """Hand `text` to nft, which applies all of it or nothing."""
    try:
        done = subprocess.run(
            [config.nft, "-f", "-"],
            input=text,
            capture_output=True,
            text=True,
            timeout=config.timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise NftUnavailable(
            errno.ENOENT, "nft was not found: install the package nftables"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NftUnavailable(errno.EIO, f"nft did not run: {type(error).__name__}") from error
    if done.returncode == 0:
        return
    if "not permitted" in done.stderr:
        raise NftUnavailable(errno.EPERM, "nft needs CAP_NET_ADMIN: grant it")
    # The first line names the statement; it quotes configuration, never a subscriber.
    first = (done.stderr.strip() or "no message").splitlines()[0][:200]
    raise NftUnavailable(errno.EINVAL, f"nft refused the rules: {first}")
