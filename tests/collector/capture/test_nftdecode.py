"""Dumps built by hand: the shapes that a kernel may give and this machine's does not."""

from __future__ import annotations

import struct

import pytest

from collector.capture.nftdecode import decode, join
from collector.capture.rawnl import Answer, NetlinkError, attribute, walk


def element(key: bytes, octets: int, packets: int, extra: bytes = b"") -> bytes:
    counter = attribute(1, struct.pack(">Q", octets)) + attribute(2, struct.pack(">Q", packets))
    expression = attribute(1, b"counter\x00") + attribute(2, counter)
    body = attribute(1, attribute(1, key)) + extra + attribute(7, expression)
    return attribute(1 | 0x8000, body)


def message(*elements: bytes) -> bytes:
    return b"\x01\x00\x00\x00" + attribute(1, b"tally\x00") + attribute(3, b"".join(elements))


def test_elements_of_one_shape_over_several_messages() -> None:
    keys = [bytes((10, 0, 0, n)) for n in range(5)]
    parts = [element(key, 2**40 + n, n) for n, key in enumerate(keys)]
    words, counters = decode(Answer((message(*parts[:2]), message(*parts[2:])), False), "up4")
    assert [row.astype(">u8").tobytes() for row in words] == [
        bytes(10) + b"\xff\xff" + key for key in keys
    ]
    assert counters.tolist() == [[2**40 + n, n] for n in range(5)]


def test_another_shape_in_the_midst_is_walked_and_what_has_no_counter_left_out() -> None:
    keys = [bytes(15) + bytes((n,)) for n in range(4)]
    flags = attribute(3, b"\x00\x00\x00\x00")
    bare = attribute(1, attribute(1, attribute(1, keys[3])))
    parts = [element(keys[0], 5, 1), element(keys[1], 6, 1, flags), bare, element(keys[2], 7, 1)]
    words, counters = decode(Answer((message(*parts),), False), "down6")
    assert words[:, 1].tolist() == [0, 1, 2] and counters[:, 0].tolist() == [5, 6, 7]
    words, counters = decode(Answer((message(bare),), False), "down6")
    assert words.shape == counters.shape == (0, 2)


def test_an_empty_set_and_one_whose_message_is_cut_short() -> None:
    assert len(decode(Answer((message(),), False), "up4")[0]) == 0
    assert len(decode(Answer((), False), "up4")[0]) == 0
    with pytest.raises(NetlinkError):
        decode(Answer((message(element(bytes(4), 1, 1))[:-6],), False), "up4")
    with pytest.raises(NetlinkError):
        list(walk(b"\x02\x00\x01\x00"))


def test_a_key_dumped_twice_counts_once_with_its_larger_value() -> None:
    up = decode(Answer((message(*(element(bytes(16), n, n) for n in (4, 9, 7))),), False), "up6")
    down = decode(Answer((message(element(bytes(16), 3, 2)),), False), "down6")
    keys, counters = join(*up, *down)
    assert keys.tolist() == [[0, 0]] and counters.tolist() == [[9, 3, 9, 2]]
