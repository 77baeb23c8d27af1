"""Raw nfnetlink conntrack messages to columns, one numpy gather per message shape.

Decoding attribute by attribute costs microseconds a message. But the kernel writes the attributes
of like flows in like order, so messages fall into a few shapes. A shape is the message's length
and its whole sequence of attribute headers; the length alone will not do, since an IPv4 TCP and an
IPv4 ICMP message have the same one. The first message of a shape is walked with every bound
checked, which gives the offset of each field; all others whose header words equal its header words
must have their fields at the same offsets, because the walk reads nothing but headers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from collector.parse.conntrack_walk import (
    ADDRESSES,
    COLUMNS,
    COUNTERS,
    DESTROY,
    DUMP,
    GENERIC_END,
    MAX_MESSAGE_BYTES,
    NEW,
    NLM_F_CREATE,
    NLM_F_MULTI,
    NLMSG_HEADER,
    OPAQUE,
    PLAIN,
    TYPE_DELETE,
    UPDATE,
    kind_of,
    layout_of,
    walk,
)
from collector.parse.reader import ParseError
from collector.wire.addr import MAPPED

__all__ = ["COLUMNS", "DESTROY", "DUMP", "NEW", "UPDATE", "Decoder", "Messages", "walk"]

MAX_SHAPES: Final = 128
"""Most shapes learnt. The test router shows 25: two families, TCP, UDP, ICMP and others, dumped,
begun or ended, some with a zone or a mark. The rest takes the slow walk."""
MAX_SHAPES_PER_LENGTH: Final = 16
"""Most shapes of one length, which bounds how often one message is compared."""

Rows = npt.NDArray[Any]
"""A structured array of `COLUMNS`."""

_NLMSG_NOOP: Final = 1
_NLMSG_DONE: Final = 3
_ROW: Final = np.dtype(("V", COLUMNS.itemsize))
"""A row as opaque bytes, which numpy copies whole instead of field by field."""


@dataclass(frozen=True, slots=True)
class Messages:
    """Netlink messages in one buffer: uint8 buffer, int64 starts and sizes in bytes.

    Starts are multiples of 4 (NLMSG_ALIGNTO). Raises ParseError where a message leaves the buffer.
    """

    buffer: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.sizes):
            raise ParseError("length")
        if len(self.starts) and not (
            (self.starts >= 0).all()
            and (self.starts % 4 == 0).all()
            and (self.sizes >= 0).all()
            and (self.starts + self.sizes <= self.buffer.size).all()
        ):
            raise ParseError("length")

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[memoryview]:
        view = self.buffer.data
        for start, size in zip(self.starts.tolist(), self.sizes.tolist(), strict=True):
            yield view[start : start + size]

    def tobytes(self) -> bytes:
        """All messages after each other, padded to 4 bytes: what `split` takes."""
        return b"".join(bytes(one) + bytes(-len(one) % 4) for one in self)

    @classmethod
    def empty(cls) -> Messages:
        none = np.zeros(0, np.int64)
        return cls(np.zeros(0, np.uint8), none, none)

    @classmethod
    def split(cls, data: bytes | bytearray | memoryview) -> Messages:
        """The messages of a stream such as a dump; NOOP and DONE are dropped.

        Raises ParseError where the lengths do not chain to the end of the data.
        """
        view = memoryview(data).cast("B")
        if len(view) % 4:
            raise ParseError("trailing")
        words = view.cast("I")
        count = len(words)
        at = 0
        found: list[int] = []
        while at < count:
            found.append(at)
            size = words[at]
            if size < NLMSG_HEADER.size:
                raise ParseError("length")
            at += (size + 3) >> 2
        if at != count:
            raise ParseError("truncated")
        buffer = np.frombuffer(view, np.uint8)
        starts = np.array(found, np.int64)
        halves = buffer.view(np.uint16)
        types = halves[starts * 2 + 2]
        keep = (types != _NLMSG_NOOP) & (types != _NLMSG_DONE)
        sizes = buffer.view(np.uint32)[starts].astype(np.int64)
        return cls(buffer, starts[keep] * 4, sizes[keep])


class _Shape:
    """One shape: its header words, and a structured view that lays the fields over a message.

    Raises ParseError for a message that cannot be walked.
    """

    def __init__(self, message: bytes) -> None:
        layout = layout_of(message)
        self._layout = layout
        words = np.frombuffer(message, np.uint32)
        # A shape is nlmsg_len, nlmsg_type (not its flags), family and version (not res_id), and
        # every attribute header. Half words, so that it is right on hosts of either byte order.
        mask = np.zeros(words.size, np.uint32)
        halves = mask.view(np.uint16)
        for offset in (0, 2, 4, 16, *layout.headers, *(at + 2 for at in layout.headers)):
            halves[offset // 2] = 0xFFFF
        self._at = np.flatnonzero(mask)
        self._mask = mask[self._at]
        self._words = (words & mask)[self._at]
        self._view = _field_view(layout.fields, len(message))
        self._plain = [name for name in PLAIN if name in layout.fields and name != "zone"]
        self._short = layout.fields["orig_src"][1] == 4
        blank = np.zeros(1, COLUMNS)
        if self._short:
            for name in ADDRESSES:
                blank[name] = np.void(MAPPED + bytes(4))
        blank["counted"] = all(name in layout.fields for name in COUNTERS)
        blank["kind"] = kind_of(layout.message_type, 0)
        self._blank = blank.view(_ROW)

    def matches(self, words: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Which rows of words[n, length / 4] have this shape."""
        found: npt.NDArray[np.bool_] = (words[:, self._at] & self._mask == self._words).all(axis=1)
        return found

    def decode(self, items: Rows) -> Rows:
        """Rows of `COLUMNS` from contiguous messages of this shape, given as void[n]."""
        fields = self._layout.fields
        seen = items.view(self._view)
        rows = np.repeat(self._blank, len(items)).view(COLUMNS)
        into = rows.view(_TAILS) if self._short else rows
        for name in ADDRESSES:
            into[name] = seen[name]
        for name in self._plain:
            rows[name] = seen[name]
        if "labels" in fields:
            rows["labels"] = seen["labels"]
        if self._layout.zone:
            rows["zone"] = seen[self._layout.zone]
        for side in ("orig", "reply"):
            if f"{side}_icmp_type" in fields:
                both = seen[f"{side}_icmp_type"].astype(np.uint16) << 8
                if f"{side}_icmp_code" in fields:
                    both |= seen[f"{side}_icmp_code"]
                rows[f"{side}_dport"] = both
        if self._layout.message_type != TYPE_DELETE:
            flags = seen["flags"]
            begun = np.where(flags & NLM_F_CREATE, NEW, UPDATE)
            rows["kind"] = np.where(flags & NLM_F_MULTI, DUMP, begun)
        return rows


def _field_view(fields: dict[str, tuple[int, int]], size: int) -> np.dtype[np.void]:
    """A dtype that lays `fields` (offset and size by name) over a message of `size` bytes."""
    formats, offsets = {"flags": "=u2"}, {"flags": 6}
    for name, (offset, length) in fields.items():
        offsets[name] = offset
        if name in OPAQUE:
            formats[name] = "u4" if length == 4 else "V16"
        else:
            formats[name] = PLAIN.get(name, f">u{length}")
    return _overlay(formats, offsets, size)


def _overlay(formats: dict[str, str], offsets: dict[str, int], size: int) -> np.dtype[np.void]:
    return np.dtype(
        {
            "names": list(formats),
            "formats": list(formats.values()),
            "offsets": [offsets[name] for name in formats],
            "itemsize": size,
        }
    )


_TAILS: Final = _overlay(
    dict.fromkeys(ADDRESSES, "u4"),
    dict(zip(ADDRESSES, (12, 28, 44, 60), strict=True)),
    COLUMNS.itemsize,
)
"""A row seen as the last four bytes of its addresses, where an IPv4 address goes."""


class Decoder:
    """Turns `Messages` into `COLUMNS` rows and remembers the shapes it has met.

    counts: seen = recorded + ignored messages; `malformed` is all of `ignored`; `slow` is how many
    of the recorded took the slow walk, `shapes` how many shapes are known.
    """

    def __init__(
        self, max_shapes: int = MAX_SHAPES, max_shapes_per_length: int = MAX_SHAPES_PER_LENGTH
    ) -> None:
        self._max_shapes = max_shapes
        self._max_per_length = max_shapes_per_length
        self._shapes: dict[int, list[_Shape]] = {}
        names = ("seen", "recorded", "ignored", "malformed", "slow", "shapes")
        self.counts: dict[str, int] = dict.fromkeys(names, 0)

    def decode(self, messages: Messages) -> Rows:
        """Rows in the order of the messages. A malformed message is counted and has no row."""
        total = len(messages)
        out = np.zeros(total, COLUMNS)
        good = np.zeros(total, np.bool_)
        # All that is too long shares one number, so that a count of sizes stays small.
        sizes = np.minimum(messages.sizes, MAX_MESSAGE_BYTES + 1)
        for size in np.flatnonzero(np.bincount(sizes)):
            where = np.flatnonzero(sizes == size)
            if size % 4 or not GENERIC_END <= size <= MAX_MESSAGE_BYTES:
                # The kernel pads every attribute, so these are malformed; the walk says why.
                self._slowly(messages, where, out, good)
            else:
                self._group(messages, int(size), where, out, good)
        recorded = int(np.count_nonzero(good))
        self.counts["seen"] += total
        self.counts["recorded"] += recorded
        self.counts["ignored"] += total - recorded
        self.counts["malformed"] += total - recorded
        return out if recorded == total else out[good]

    def _group(
        self,
        messages: Messages,
        size: int,
        where: npt.NDArray[np.intp],
        out: Rows,
        good: npt.NDArray[np.bool_],
    ) -> None:
        """Decodes the messages of one length, shape after shape."""
        # Overlapping windows of `size` bytes, one at every word: indexing them copies whole
        # messages, which costs a fifth of an index array with an entry for every byte.
        count = (messages.buffer.size - size) // 4 + 1
        windows: Rows = np.ndarray((count,), f"V{size}", messages.buffer.data, 0, (4,))
        items = windows[messages.starts[where] // 4]
        words = items.view(np.uint32).reshape(len(where), size // 4)
        shapes = self._shapes.get(size, [])
        left = np.arange(len(where))
        tried = 0
        while left.size:
            if tried == len(shapes):
                shapes = self._learn(size, items[left[0]].tobytes())
                if tried == len(shapes):
                    break
            shape = shapes[tried]
            tried += 1
            found = shape.matches(words if left.size == len(where) else words[left])
            chosen = left[found]
            if chosen.size:
                rows = shape.decode(items if chosen.size == len(where) else items[chosen])
                out.view(_ROW)[where[chosen]] = rows.view(_ROW)
                good[where[chosen]] = True
                left = left[~found]
        self._slowly(messages, where[left], out, good)

    def _learn(self, size: int, message: bytes) -> list[_Shape]:
        """All shapes of `size` bytes, with that of `message` unless malformed or without room."""
        shapes = self._shapes.get(size, [])
        if len(shapes) >= self._max_per_length or self.counts["shapes"] >= self._max_shapes:
            return shapes
        try:
            shapes.append(_Shape(message))
        except ParseError:
            return shapes  # The slow walk meets it again and counts it.
        self._shapes[size] = shapes
        self.counts["shapes"] += 1
        return shapes

    def _slowly(
        self,
        messages: Messages,
        where: npt.NDArray[np.intp],
        out: Rows,
        good: npt.NDArray[np.bool_],
    ) -> None:
        """Decodes messages one by one."""
        view = messages.buffer.data
        for index in where:
            start = int(messages.starts[index])
            try:
                row = walk(view[start : start + int(messages.sizes[index])])
            except ParseError:
                continue  # Has no row, so `decode` counts it as malformed.
            for name, value in row.items():
                out[name][index] = np.void(value) if isinstance(value, bytes) else value
            good[index] = True
            self.counts["slow"] += 1
