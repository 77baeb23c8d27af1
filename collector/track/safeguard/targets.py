"""DNS answers and connections in: which block page they lead to, if any.

A resolver with response-policy zones answers a blocked name with a CNAME to a name of the category,
or with an address of its page. What leads there is counted as its category and is recorded nowhere
else: no visit, no binding of the name to the page, no connection to it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from collector.parse.dns import DnsAnswer
from collector.track.host_events import HostSeen

_NOTHING: Final = rb"(?!)"
"""The pattern that nothing matches."""


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
        for ending in self._suffixes:
            if _under(ending[ending[0] + 1 :], self._suffixes) is not None:
                raise ValueError("a name for a target lies under another one")
        self.pages = frozenset(self._addresses).union(pages)
        self.are_apart = self.pages.isdisjoint
        """Whether none of some addresses is a block page's."""
        self._names = frozenset(name for target in categories for name in target.names)
        marks = b"|".join(_marks(self._names)) or _NOTHING
        self.may_name = re.compile(marks).search
        """Whether a message can have a target's name in it: a label is written out somewhere in it,
        however names are compressed. It tells nearly all aliases apart without putting a name
        together, which takes several times as long."""
        self.endings = _endings(self._names)
        """What the names of targets and those under them end with, and few others do."""
        self._dotted = tuple(f".{name}" for name in self._names)

    def category(self, answer: DnsAnswer) -> int | None:
        """The category of a block answer, read with `may_name` for what is sought; None for every
        other answer."""
        suffixes = self._suffixes
        if answer.host.endswith(self.endings):
            number = _under(_wire(answer.host), suffixes)
            if number is not None:
                return number
        for name in answer.aliases:
            number = _under(name, suffixes)
            if number is not None:
                return number
        for address in answer.addresses:
            number = self._addresses.get(address)
            if number is not None:
                return number
        return None

    def hides(self, event: HostSeen) -> bool:
        """Whether a handshake is one with a block page, or names one."""
        host = event.host
        return event.server in self.pages or host in self._names or host.endswith(self._dotted)


def _wire(name: str) -> bytes:
    """The name as it stands in a message (RFC 1035 section 3.1), in lower case."""
    labels = name.lower().encode("ascii").split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _marks(names: Collection[str]) -> tuple[bytes, ...]:
    """Patterns of labels of which each name has one, few of them: mostly one that all categories
    share. None is a top domain, which many names have."""
    left, found = [name.split(".")[:-1] for name in sorted(names)], []
    while left:
        counts = Counter(label for labels in left for label in labels)
        # Of those that most have the first, which says most.
        label = max(left[0], key=lambda each: counts[each])
        length = re.escape(bytes([len(label)]))
        found.append(length + b"(?i:" + re.escape(label.encode("ascii")) + b")")
        left = [labels for labels in left if label not in labels]
    return tuple(found)


def _endings(names: Collection[str]) -> tuple[str, ...]:
    """What names end with that have the last two labels in common: mostly all, and more of them."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        labels = name.split(".")[::-1]
        shared = zip(labels, found.get(tuple(labels[:2]), labels), strict=False)
        same = takewhile(lambda pair: pair[0] == pair[1], shared)
        found[tuple(labels[:2])] = [label for label, _ in same]
    return tuple(sorted(".".join(reversed(labels)) for labels in found.values()))


def _under(name: bytes, suffixes: Mapping[bytes, int]) -> int | None:
    """What is known of a name in wire form, or of what it lies under: labels match as a whole."""
    at = 0
    while at < len(name):
        number = suffixes.get(name[at:])
        if number is not None:
            return number
        at += name[at] + 1
    return None
