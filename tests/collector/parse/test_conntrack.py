"""The fast decoder against the slow walk, over recorded, built and damaged messages."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from collector.parse.conntrack import (
    COLUMNS,
    DESTROY,
    DUMP,
    NEW,
    UPDATE,
    Decoder,
    Messages,
    walk,
)
from collector.parse.conntrack_walk import MAX_ATTRIBUTES, MAX_MESSAGE_BYTES
from collector.parse.reader import ParseError
from collector.wire.addr import pack

# What Linux 6.18 sent for the connections of tests/collector/capture/test_netlink.py, one message
# of each shape: a dump, NEW and DESTROY events of TCP, UDP, ICMP, ICMPv6 and protocol 253 over IPv4
# and IPv6, with NAT either way, a zone (UDP port 5555) and a mark (5556). zlib, base64.
_RECORDED = (
    "eNrVWF1IVEEUPneuu662kZVlPzeN2rDIhyTxISLKsCfDXAUjInoQKtpMgq12RdntJRN/CgzFRKUQEiIiC8I0SOi/Bx966KEf"
    "H4Qi8kGSCMzsztw7O3Ovc9f9829F5u7OnHPP951z5pyZv6B+JAQXv9527xt9043Ur3tBCqSr/w6QIBUAOQDBy90VyAUoYFN/"
    "k9Q1dkiCGjeATf1zAB7tWJMqi0KyWEaXlaxkgZN1gIyNaXcQjfi7EzxD3nsOWEasdEAyHjcpkBJwEk3kg5yA9EcJFEi1nEuD"
    "dDK37sf5Ao+v5OpPAfY8C+yKbv9KYj+CDjLKsOYRlhFjNsvgtVimg2Ft07CuysNYuwa/e2fBKjE8EDBhBW7OgNWf4f7yXoDV"
    "ZYHVqds9RdaIsfFrjFg0v+V+7A0asaDyMFgyI8Ziv/lFkaL3m133wZ2dmg+kp7P7jcrgtVgGy+pYO3msh04dbDX57dIuSArk"
    "qLqxnmQS4wjbpY4yGXEObCWjDbLV0cSNjeF3fDJxw82lt/DcnB0v+GfmBr+rSLUjh/Ajw2Zp+ROOZpSu2kF+Y3TPiPVBRcO/"
    "ug7rQkZdSKBLstaFdWBdWKfOZR3P5Wj2+LMocqAl0rjxbPfnF0XHjRyOGxobz4v1eBqIkBv2W8qMOBvQdGGdojg76bMVz12c"
    "pewPE2d/DFw6ew/nCLgsi5JLWhP2EPuSoaYUSDUJEPtTyKKyKDm10hnkdIrqTNdQ4+co4u60iSvDHM+Vr3m8cyIRdaYvijrT"
    "x+qMHVYBhiPao4Pv6m1zUm/WNvwe1kquPeSsed2j6Z5MMRNsl/lckUy5AnquyHquaPg26vtqcgUR4PDEs69SmwdlhjPWfdWM"
    "H+vE+M/deDjF9tc48U+XVHTH4E8aj28bWf2INIZpncCyGM+ZtslSkz8zqX0eV2m+Od4Wd92jdc7gH4Znu3/kgYDvhevLaR9u"
    "wb/P/XpEwP/SqQd0/xfj8zX/2hYQ+CNx/TPtl/n3o6P0/X57a9bdOPIvcTWE1gwxT/61TVvyVB8j3c/lNUtpn5SbaE8Va4+k"
    "8L34dNUrPIefq2srX6Spe6+T69MoZ9W1VWl/wcjZwvtWbou3H1BM/QDjYnQFwz564IMA+9zkFcUU+zlUMZ1DQ5gCF0K5qj4P"
    "J8SfMd8r0HuEOfBjhpvD3LOB3l0w7D1FSdJM7Iujbsnt8d4fKab7I8ZF/zHGQX+DK4F74Pz2InJdvGduxXTmZhxNPmYcTX6b"
    "iCNHEttPJjZHPC73uRDmYOHxEOZgYbOoNi7NHskylyI+IyumMzLj7NoY46x+h2g/4eMk3JlwYEzzedZ1Y5yEO3vCEU0Gy2LM"
    "Jypzaf24P3t/EP6uzhAn66duhTBf8V6w7A+ueIf+A+dzg9A="
)

RECORDED = [bytes(one) for one in Messages.split(zlib.decompress(base64.b64decode(_RECORDED)))]


def attribute(kind: int, value: bytes) -> bytes:
    """One netlink attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def nest(kind: int, *inner: bytes) -> bytes:
    return attribute(kind | 0x8000, b"".join(inner))


def message(*attributes: bytes, kind: int = 0x102, flags: int = 0, family: int = 2) -> bytes:
    body = struct.pack("=BBH", family, 0, 0) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


def ends(kind: int, addresses: str = "v4", ports: tuple[int, int] = (1, 2)) -> bytes:
    """CTA_TUPLE_ORIG (1) or CTA_TUPLE_REPLY (2) of a UDP flow."""
    base, size = (1, 4) if addresses == "v4" else (3, 16)
    pair = (attribute(base + i, bytes([10 + i]) * size) for i in (0, 1))
    sockets = (attribute(2 + i, struct.pack(">H", port)) for i, port in enumerate(ports))
    return nest(kind, nest(1, *pair), nest(2, attribute(1, b"\x11"), *sockets))


ID = attribute(12, b"\0\0\1\2")
PLAIN = (ends(1), ends(2), ID)


def batch(messages: Sequence[bytes]) -> Messages:
    """Messages in slots of one size, with rubbish between, as recvmmsg leaves them."""
    slot = max((len(one) for one in messages), default=0) // 4 * 4 + 8
    buffer = np.full(slot * len(messages), 0xEE, np.uint8)
    for index, one in enumerate(messages):
        buffer[index * slot : index * slot + len(one)] = np.frombuffer(one, np.uint8)
    starts = np.arange(len(messages), dtype=np.int64) * slot
    return Messages(buffer, starts, np.array([len(one) for one in messages], np.int64))


def plain(row: Any) -> dict[str, Any]:
    """A row in the form of `walk`."""
    names = COLUMNS.names or ()
    return {
        name: row[name].tobytes() if COLUMNS[name].kind == "V" else int(row[name]) for name in names
    }


def walked(messages: Sequence[bytes]) -> list[dict[str, int | bytes]]:
    """What the slow walk makes of those that are well formed."""
    rows = []
    for one in messages:
        try:
            rows.append(walk(one))
        except ParseError:
            continue
    return rows


def check(decoder: Decoder, messages: Sequence[bytes]) -> None:
    before = dict(decoder.counts)
    rows = [plain(row) for row in decoder.decode(batch(messages))]
    assert rows == walked(messages)
    counts = {name: decoder.counts[name] - before[name] for name in before}
    assert counts["seen"] == len(messages) == counts["recorded"] + counts["ignored"]
    assert counts["recorded"] == len(rows)
    assert counts["malformed"] == counts["ignored"]


def test_recorded_messages_say_what_was_sent() -> None:
    rows = Decoder().decode(batch(RECORDED))
    assert len(rows) == len(RECORDED) == 25
    tcp = rows[(rows["protocol"] == 6) & (rows["orig_dst"] == np.void(pack("198.51.100.2")))][0]
    assert tcp["orig_src"].tobytes() == pack("10.0.0.2")
    assert tcp["reply_src"].tobytes() == pack("198.51.100.2")
    assert tcp["reply_dst"].tobytes() == pack("198.51.100.1")
    assert tcp["orig_dport"] == tcp["reply_sport"] == 443
    tcp = rows[(rows["protocol"] == 6) & (rows["orig_dst"] == np.void(pack("198.51.100.1")))]
    forwarded = tcp[tcp["kind"] == DESTROY][0]
    assert forwarded["reply_src"].tobytes() == pack("10.0.0.2")
    assert (forwarded["orig_dport"], forwarded["reply_sport"]) == (8080, 80)
    assert 2000 < forwarded["orig_bytes"] < 2600 and 5000 < forwarded["reply_bytes"] < 6000
    assert 0 < forwarded["stop_ns"] - forwarded["start_ns"] < 60 * 10**9
    echo = rows[(rows["protocol"] == 1) & (rows["kind"] == DESTROY)][0]
    assert (echo["orig_packets"], echo["orig_bytes"]) == (2, 2 * 128)
    assert (echo["orig_dport"], echo["reply_dport"]) == (8 * 256, 0)
    assert echo["orig_sport"] == echo["reply_sport"] > 0
    echo6 = rows[(rows["protocol"] == 58) & (rows["kind"] == DESTROY)][0]
    assert (echo6["orig_dport"], echo6["reply_dport"]) == (128 * 256, 129 * 256)
    assert echo6["reply_dst"].tobytes() == pack("2001:db8:2::9")
    other = rows[(rows["protocol"] == 253) & (rows["kind"] == DESTROY)][0]
    assert (other["orig_sport"], other["orig_bytes"]) == (0, 30)
    assert set(rows["zone"][rows["orig_dport"] == 5555]) == {7}
    assert set(rows["mark"][(rows["orig_dport"] == 5556) & (rows["kind"] == DESTROY)]) == {0x1234}
    assert set(rows["kind"]) == {NEW, DESTROY, DUMP}
    begun = rows["kind"] == NEW
    assert not rows["counted"][begun].any() and rows["counted"][~begun].all()
    assert not rows["start_ns"][begun].any()


def test_recorded_messages_decode_as_they_walk_and_each_shape_is_learnt_once() -> None:
    decoder = Decoder()
    check(decoder, RECORDED)
    known = decoder.counts["shapes"]
    check(decoder, RECORDED * 3)
    check(decoder, RECORDED[::-1])
    assert decoder.counts["shapes"] == known == len(RECORDED)
    assert decoder.counts["slow"] == 0


def test_one_length_may_have_two_shapes() -> None:
    """IPv4 TCP and ICMP: the query identifier, type and code fill the room of the ports."""
    lengths = [len(one) for one in RECORDED]
    twins = [one for one in RECORDED if lengths.count(len(one)) > 1]
    assert len({walk(one)["protocol"] for one in twins if len(one) == 260}) == 2
    check(Decoder(), twins)


def test_values_make_no_shape_and_headers_do() -> None:
    decoder = Decoder()
    check(decoder, [message(*PLAIN), message(ends(1, ports=(9, 9)), ends(2), ID)])
    assert decoder.counts["shapes"] == 1
    check(decoder, [message(ends(2), ends(1), ID)])
    check(decoder, [message(*PLAIN, kind=0x100)])
    check(decoder, [message(*PLAIN, family=10)])
    check(decoder, [message(ends(1) + attribute(99, b"?"), ends(2), ID)])
    assert decoder.counts["shapes"] == 5


def test_kinds_are_told_by_type_and_flags() -> None:
    kinds = ((0x102, 0), (0x100, 0x600), (0x100, 0), (0x100, 2), (0x102, 2))
    messages = [message(*PLAIN, kind=kind, flags=flags) for kind, flags in kinds]
    rows = Decoder().decode(batch(messages))
    assert rows["kind"].tolist() == [DESTROY, NEW, UPDATE, DUMP, DESTROY]
    check(Decoder(), messages)


def test_a_full_shape_table_is_slow_and_right() -> None:
    decoder = Decoder(max_shapes=2)
    check(decoder, RECORDED * 2)
    assert decoder.counts["shapes"] == 2
    assert decoder.counts["slow"] == 2 * (len(RECORDED) - 2)
    narrow = Decoder(max_shapes_per_length=1)
    check(narrow, RECORDED * 2)
    assert narrow.counts["shapes"] == len({len(one) for one in RECORDED})


def test_labels_are_sixteen_bytes_as_they_are() -> None:
    labels = bytes(range(16))
    labelled = message(*PLAIN, attribute(22, labels))
    check(Decoder(), [labelled, message(*PLAIN), labelled])
    rows = Decoder().decode(batch([labelled, message(*PLAIN)]))
    assert [row["labels"].tobytes() for row in rows] == [labels, bytes(16)]
    for wrong in (labels[:8], labels + bytes(4), b""):
        check(Decoder(), [message(*PLAIN, attribute(22, wrong))])
        with pytest.raises(ParseError, match="size"):
            walk(message(*PLAIN, attribute(22, wrong)))


def test_a_zone_of_one_direction_is_found() -> None:
    inner = (attribute(1, b"\1\1\1\1"), attribute(2, b"\2\2\2\2"))
    zoned = nest(1, nest(1, *inner), nest(2, attribute(1, b"\x11")), attribute(3, b"\0\5"))
    reply = nest(2, nest(1, *inner), nest(2, attribute(1, b"\x11")), attribute(3, b"\0\6"))
    check(Decoder(), [message(zoned, ends(2), ID), message(zoned, reply, ID)])
    assert walk(message(zoned, reply, ID))["zone"] == 5
    assert walk(message(ends(1), reply, ID))["zone"] == 6
    assert walk(message(ends(1), reply, ID, attribute(18, b"\0\7")))["zone"] == 7


LONG = b"".join(attribute(99, b"") for _ in range(MAX_ATTRIBUTES))


@pytest.mark.parametrize(
    ("reason", "broken"),
    [
        ("length", b""),
        ("length", message()[:19]),
        ("length", message(*PLAIN)[:-4]),
        ("length", message(*PLAIN) + bytes(4)),
        ("length", message(*PLAIN, attribute(99, bytes(MAX_MESSAGE_BYTES)))),
        ("type", message(*PLAIN, kind=3)),
        ("type", message(*PLAIN, kind=0x200)),
        ("missing", message()),
        ("missing", message(ends(1), ends(2))),
        ("missing", message(ends(1), ID)),
        ("family", message(ends(1), ends(2, "v6"), ID)),
        ("size", message(ends(1), ends(2), attribute(12, b"\1\2"))),
        ("repeated", message(*PLAIN, ID)),
        ("attribute", message(*PLAIN, struct.pack("=HH", 3, 99))),
        ("attribute", message(*PLAIN, struct.pack("=HH", 40, 99))),
        ("attribute", message(*PLAIN, nest(20, struct.pack("=HH", 40, 1)))),
        ("attributes", message(*PLAIN, LONG)),
        ("trailing", message(*PLAIN, b"\0\0")),
        ("trailing", message(*PLAIN, struct.pack("=HH", 6, 20), b"\0\0\0\0")),
    ],
)
def test_nonsense_is_refused(reason: str, broken: bytes) -> None:
    with pytest.raises(ParseError) as caught:
        walk(broken)
    assert caught.value.reason == reason
    decoder = Decoder()
    check(decoder, [message(*PLAIN), broken, message(*PLAIN)])
    assert decoder.counts["malformed"] == 1


def test_every_cut_of_a_message_is_refused() -> None:
    decoder = Decoder()
    check(decoder, [RECORDED[0][:end] for end in range(len(RECORDED[0]))])
    assert decoder.counts["malformed"] == len(RECORDED[0])


def test_a_dump_is_split_without_its_end() -> None:
    done = struct.pack("=IHHIIi", 20, 3, 2, 1, 1, 0)
    odd = message(*PLAIN, attribute(99, b"12345678"))
    stream = RECORDED[0] + struct.pack("=IHHII", 16, 1, 0, 0, 0) + odd + RECORDED[1] + done
    messages = Messages.split(stream)
    assert [bytes(one) for one in messages] == [RECORDED[0], odd, RECORDED[1]]
    assert Messages.split(messages.tobytes()).tobytes() == messages.tobytes()
    assert len(Messages.split(b"")) == len(Messages.empty()) == 0
    assert len(Decoder().decode(Messages.empty())) == 0


def test_a_stream_that_does_not_chain_is_refused() -> None:
    stream = RECORDED[0] + RECORDED[1]
    for end in range(1, len(stream)):
        if end != len(RECORDED[0]):
            with pytest.raises(ParseError):
                Messages.split(stream[:end])
    with pytest.raises(ParseError):
        Messages.split(struct.pack("=IHHII", 15, 0x100, 0, 0, 0))
    with pytest.raises(ParseError):
        Messages.split(struct.pack("=IHHII", 0xFFFFFFFF, 0x100, 0, 0, 0))


@pytest.mark.parametrize(("start", "size"), [(-4, 4), (2, 4), (0, 65), (64, 4), (0, -1)])
def test_messages_lie_in_their_buffer(start: int, size: int) -> None:
    with pytest.raises(ParseError):
        Messages(np.zeros(64, np.uint8), np.array([start]), np.array([size]))


mutation = st.tuples(st.integers(0, 340), st.integers(0, 255))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(RECORDED),
            st.lists(mutation, max_size=4),
            st.integers(0, 8),
            st.binary(),
        ),
        max_size=12,
    ),
    st.booleans(),
)
@example([(RECORDED[0], [(0, 16)], 0, b"")], True)
@example([(RECORDED[0], [(16, 10)], 0, b""), (RECORDED[0], [], 0, b"")], False)
def test_damage_raises_nothing_else_and_decodes_as_it_walks(
    damaged: list[tuple[bytes, list[tuple[int, int]], int, bytes]], trained: bool
) -> None:
    messages = []
    for one, mutations, cut, more in damaged:
        changed = bytearray(one[: len(one) - cut] + more)
        for offset, value in mutations:
            changed[offset % len(changed)] = value
        messages.append(bytes(changed))
    decoder = Decoder()
    if trained:
        decoder.decode(batch(RECORDED))
    check(decoder, messages)


grown = st.recursive(
    st.builds(attribute, st.integers(0, 30), st.sampled_from([0, 1, 2, 4, 8, 16]).map(bytes)),
    lambda inner: st.builds(
        lambda kind, many: nest(kind, *many), st.integers(0, 30), st.lists(inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(grown, max_size=6).flatmap(lambda more: st.permutations([*PLAIN, *more]))))
def test_any_attributes_in_any_order_decode_as_they_walk(bodies: list[list[bytes]]) -> None:
    check(Decoder(max_shapes=3), [message(*body) for body in bodies])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_any_stream_splits_or_is_refused(stream: bytes) -> None:
    try:
        messages = Messages.split(stream)
    except ParseError:
        return
    check(Decoder(), [bytes(one) for one in messages])
