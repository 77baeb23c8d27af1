"""DNS answers and connections in: which block page they lead to, if any.

A resolver with response-policy zones answers a blocked name with a CNAME to a name of the category,
or with an address of its page. What leads there is counted as its category and is recorded nowhere
else: no visit, no binding of the name to the page, no connection to it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from collector.parse.dns import DnsAnswer
from collector.track.host_events import HostSeen


@dataclass(frozen=True, slots=True)
class Target:
    """How answers of one category look.

    names: suffixes in lower case, the names under them included. addresses: 16 bytes each.
    """

    names: tuple[str, ...] = ()
    addresses: tuple[bytes, ...] = ()


class Targets:
    """The targets of every category, in order, and `pages`: addresses of block pages that say
    nothing about a category. Raises ValueError where two categories share a target."""

    def __init__(self, categories: Sequence[Target], pages: Collection[bytes] = ()) -> None:
        self._suffixes: dict[bytes, int] = {}
        self._addresses: dict[bytes, int] = {}
        for number, target in enumerate(categories):
            for name in target.names:
                if self._suffixes.setdefault(_wire(name), number) != number:
                    raise ValueError("two categories have the same name for a target")
            for address in target.addresses:
                if self._addresses.setdefault(address, number) != number:
                    raise ValueError("two categories have the same address for a target")
        self._endings = tuple(self._suffixes)
        for ending in self._endings:
            if any(ending != other and _is_under(ending, other) for other in self._endings):
                raise ValueError("a name for a target lies under another one")
        self.pages = frozenset(self._addresses).union(pages)
        self._names = frozenset(name for target in categories for name in target.names)
        self._dotted = tuple(f".{name}" for name in self._names)

    def category(self, answer: DnsAnswer) -> int | None:
        """The category of a block answer; None for every other answer."""
        for name in answer.chain:
            if name.endswith(self._endings):
                for ending, number in self._suffixes.items():
                    if _is_under(name, ending):
                        return number
        if self.pages.isdisjoint(answer.addresses):
            return None
        found = (self._addresses.get(address) for address in answer.addresses)
        return next((number for number in found if number is not None), None)

    def hides(self, event: HostSeen) -> bool:
        """Whether a handshake is one with a block page, or names one."""
        host = event.host
        return event.server in self.pages or host in self._names or host.endswith(self._dotted)


def _wire(name: str) -> bytes:
    """The name as it stands in a message (RFC 1035 section 3.1), in lower case."""
    labels = name.lower().encode("ascii").split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _is_under(name: bytes, ending: bytes) -> bool:
    """Whether a name in wire form is `ending` or lies under it: labels must match as a whole."""
    at, last = 0, len(name) - len(ending)
    while at < last:
        at += name[at] + 1
    return at == last and name.endswith(ending)
