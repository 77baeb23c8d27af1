from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.parse.ip import Packet
from collector.parse.quic import QuicInitials, QuicLimits
from collector.parse.quic_packet import crypto_pieces, initials
from collector.parse.reader import ParseError
from collector.parse.tls import ClientHello
from tests.collector.parse.helpers import client_hello, datagram, many_protocols

DCID = bytes.fromhex("8394c8f03e515708")
Rule = tuple[int, int, bytes, bytes, bytes]
V1: Rule = (
    1,
    0xC3,
    bytes.fromhex("1f369613dd76d5467730efcbe3b1a22d"),
    bytes.fromhex("fa044b2f42a3fd3b46fb255c"),
    bytes.fromhex("9f50449e04a0e810283a1e9933adedd2"),
)
V2: Rule = (
    0x6B3343CF,
    0xD3,
    bytes.fromhex("8b1a0bc121284290a29e0971b5cd045d"),
    bytes.fromhex("91f73e2351d8fa91660e909f"),
    bytes.fromhex("45b95e15235d6f45a6b19cbcb0294ba9"),
)
"""Version, first byte and the client's key, IV and header key for DCID: RFC 9001 appendix A.1, RFC
9369 appendix A.1."""

RFC_CRYPTO = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c0000"
    "0413011302010000c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017"
    "00180010000700050"
    "4616c706e000500050100000000003300260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f"
    "50f1ce15d43e994ec74d748002b0003020304000d0010000e0403050306030203080408050806002d0002010"
    "1001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff08011001048000753009011"
    "00f088394c8f03e51570806048000ffff"
)
"""The CRYPTO frame of both appendices' sample Initial (A.2)."""

HELLO = client_hello("www.example.com")[5:]
FOUND = ClientHello("www.example.com", False, ("h2", "http/1.1"))
LONG = client_hello("pq.example", many_protocols(90))[5:]


DRAFT_29 = (
    0xFF00001D,
    0xC3,
    bytes.fromhex("175257a31eb09dea9366d8bb79ad80ba"),
    bytes.fromhex("6b26114b9cba2b63a9e8dd4f"),
    bytes.fromhex("9ddd12c994c0698b89374a9c077a3077"),
)
DRAFT_27 = (
    0xFF00001B,
    0xC3,
    bytes.fromhex("af7fd7efebd21878ff66811248983694"),
    bytes.fromhex("8681359410a70bb9c92f0420"),
    bytes.fromhex("a980b8b4fb7d9fbc13e814c23164253d"),
)
"""The same of draft-ietf-quic-tls-29 and -27, appendix A.1 of each."""


def _varint(value: int) -> bytes:
    return (
        (value | 0x4000).to_bytes(2, "big")
        if value < 0x4000
        else (value | 0x80000000).to_bytes(4, "big")
    )


def _crypto(offset: int, data: bytes) -> bytes:
    return b"\x06" + _varint(offset) + _varint(len(data)) + data


def _initial(
    plain: bytes,
    number: int = 0,
    dcid: bytes = DCID,
    token: bytes = b"",
    rule: Rule = V1,
) -> bytes:
    """A protected Initial, by RFC 9001 section 5, with the keys of the appendices."""
    version, first, key, iv, mask_key = rule
    header = bytes((first,)) + version.to_bytes(4, "big") + bytes((len(dcid),)) + dcid + b"\0"
    header += _varint(len(token)) if token else b"\0"
    header += token + _varint(len(plain) + 20) + number.to_bytes(4, "big")
    nonce = (int.from_bytes(iv, "big") ^ number).to_bytes(12, "big")
    body = AESGCM(key).encrypt(nonce, plain, header)
    mask = Cipher(algorithms.AES(mask_key), modes.ECB()).encryptor().update(body[:16])
    masked = bytearray(header)
    masked[0] ^= mask[0] & 0x0F
    for at in range(4):
        masked[at - 4] ^= mask[1 + at]
    return bytes(masked) + body


def _balanced(table: QuicInitials) -> bool:
    counts = table.counts
    return counts["seen"] == counts["recorded"] + counts["ignored"] + counts["lost"] + table.open


def _aioquic(
    host: str, version: int, alpn: tuple[str, ...] = ("h3",)
) -> tuple[QuicConnection, list[bytes]]:
    """aioquic's client and its first flight."""
    client = QuicConnection(
        configuration=QuicConfiguration(
            is_client=True,
            server_name=host,
            alpn_protocols=list(alpn),
            original_version=version,
            supported_versions=[version],
            verify_mode=ssl.CERT_NONE,
        )
    )
    client.connect(("192.0.2.80", 443), now=0.0)
    return client, [data for data, _ in client.datagrams_to_send(now=0.0)]


def _certificate() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A self-signed certificate for the server of one test."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "quic.example")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start.replace(2099))
    return builder.sign(key, hashes.SHA256()), key


def test_samples_of_the_standards() -> None:
    for rule, begins, tag in (
        (V1, "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11d242b123dc9b",
         "e221af44860018ab0856972e194cd934"),
        (V2, "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485dd04de806071", ""),
    ):  # fmt: skip
        sample = _initial(RFC_CRYPTO.ljust(1162, b"\0"), 2, rule=rule)
        # The helper builds what the appendix prints, so the tests below stand on it.
        assert sample[:38].hex() == begins
        assert sample.hex().endswith(tag)
        found = QuicInitials().datagram(datagram(sample))
        assert found == ClientHello("example.com", False, ("alpn",))


@pytest.mark.parametrize("version", [QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2])
def test_aioquic(version: int) -> None:
    _, sent = _aioquic("Quic.Example", version)
    table = QuicInitials()
    found = [table.datagram(datagram(data)) for data in sent]
    assert [hello for hello in found if hello] == [ClientHello("quic.example", False, ("h3",))]
    assert _balanced(table)
    assert table.held_bytes == 0


@pytest.mark.parametrize("version", [QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2])
@pytest.mark.parametrize("reverse", [False, True])
def test_aioquic_with_a_hello_over_several_datagrams(version: int, reverse: bool) -> None:
    _, sent = _aioquic("pq.example", version, many_protocols(80))
    assert len(sent) > 1
    table = QuicInitials()
    found = [table.datagram(datagram(data)) for data in (sent[::-1] if reverse else sent)]
    assert found[-1] is not None
    assert found[-1].host == "pq.example"
    assert found[:-1] == [None] * (len(found) - 1)
    assert table.counts["recorded"] == len(sent)
    # Repeats of a hello that is whole are nothing new.
    assert [table.datagram(datagram(data)) for data in sent] == [None] * len(sent)
    assert _balanced(table)
    assert table.held_bytes == 0


def test_a_whole_handshake_gives_one_hello() -> None:
    client, sent = _aioquic("quic.example", QuicProtocolVersion.VERSION_1)
    header = next(initials(sent[0]))
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    configuration.certificate, configuration.private_key = _certificate()
    server = QuicConnection(
        configuration=configuration, original_destination_connection_id=header.dcid
    )
    table = QuicInitials()
    hellos = [table.datagram(datagram(data)) for data in sent]
    for data in sent:
        server.receive_datagram(data, ("10.0.0.7", 40_000), now=0.1)
    answers = [data for data, _ in server.datagrams_to_send(now=0.1)]
    assert answers
    for data in answers:
        up = datagram(data)
        down = replace(up, src=up.dst, dst=up.src, sport=up.dport, dport=up.sport)
        hellos.append(table.datagram(down))
        client.receive_datagram(data, ("192.0.2.80", 443), now=0.2)
    hellos += [table.datagram(datagram(d)) for d, _ in client.datagrams_to_send(now=0.3)]
    assert [hello.host for hello in hellos if hello] == ["quic.example"]
    assert table.counts["malformed"] == 0
    assert _balanced(table)


def test_crypto_frames_in_any_order_with_other_frames_between() -> None:
    cut = [HELLO[at : at + 90] for at in range(0, len(HELLO), 90)]
    frames = [_crypto(90 * number, part) for number, part in enumerate(cut)]
    ack = b"\x03\x05\x00\x01\x02\x00\x01\x01\x01\x01"
    shuffled = b"\x01".join(frames[::-1]) + bytes(50) + ack + frames[2] + bytes(30)
    assert QuicInitials().datagram(datagram(_initial(shuffled))) == FOUND


def test_initials_coalesced_and_other_packets_after_them() -> None:
    first = _initial(_crypto(0, HELLO[:200]), 0)
    second = _initial(_crypto(200, HELLO[200:]), 1)
    zero_rtt = b"\xd0" + first[1:15] + _varint(40) + bytes(40)
    for after in (b"", bytes(60), b"\x40" + bytes(40), b"\xff"):
        data = zero_rtt + first + second + after
        assert QuicInitials().datagram(datagram(data)) == FOUND


def test_after_the_first_answer_the_client_uses_the_servers_id() -> None:
    table = QuicInitials()
    assert table.datagram(datagram(_initial(_crypto(0, HELLO[:200])))) is None
    rest = _initial(_crypto(200, HELLO[200:]), 1, dcid=b"\x55\x66")
    assert table.datagram(datagram(rest)) == FOUND


def test_a_retry_repeats_no_hello() -> None:
    table = QuicInitials()
    assert table.datagram(datagram(_initial(_crypto(0, HELLO)))) == FOUND
    # After a Retry the keys follow from the id it gave (RFC 9001 section 5.2).
    pair = CryptoPair()
    pair.setup_initial(cid=b"from-the-retry!!", is_client=True, version=1)
    header = b"\xc0\0\0\0\1\x10from-the-retry!!\0\5token"
    plain = _crypto(0, HELLO)
    for number in range(2):
        full = header + _varint(len(plain) + 17) + bytes((number,))
        assert table.datagram(datagram(pair.encrypt_packet(full, plain, number))) is None
    assert table.counts["malformed"] == 0
    # The same sockets, another connection: its hello is another.
    _, other = _aioquic("other.example", QuicProtocolVersion.VERSION_1)
    found = table.datagram(datagram(other[0]))
    assert found is not None
    assert found.host == "other.example"
    assert len(table) == 1
    assert _balanced(table)


def test_a_bad_packet_after_a_good_one_does_no_harm() -> None:
    first = _initial(_crypto(0, HELLO[:200]))
    for after in (first[:-1] + b"x", first[:20], _initial(b"\x08" * 30, 1)):
        table = QuicInitials()
        assert table.datagram(datagram(first + after)) is None
        assert (table.open, table.counts["malformed"]) == (1, 0)
        assert table.datagram(datagram(_initial(_crypto(200, HELLO[200:]), 2))) == FOUND
        assert _balanced(table)


def test_a_token_is_passed_over() -> None:
    data = _initial(_crypto(0, HELLO), token=b"t" * 90)
    assert QuicInitials().datagram(datagram(data)) == FOUND


def test_what_is_no_client_initial() -> None:
    table = QuicInitials()
    good = _initial(_crypto(0, HELLO))
    for data in (
        *(b"", b"\x40" + good[1:], b"\x80" + good[1:], good[:6]),
        b"\xd0" + good[1:15] + _varint(40) + bytes(40),  # 0-RTT
        good[:1] + b"\0\0\0\0" + good[5:],  # version negotiation
        good[:1] + b"\xff\0\0\x16" + good[5:],  # a draft that nobody speaks
        b"\xf0" + good[1:],  # Retry
        _initial(_crypto(0, HELLO), dcid=b"\1\2\3"),  # keys cannot follow from a short id
    ):
        assert table.datagram(datagram(data)) is None
    assert table.counts["ignored"] == table.counts["seen"]
    assert len(table) == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_initial(_crypto(0, HELLO))[:-1] + b"\0", "decrypt"),
        (_initial(_crypto(0, HELLO))[:-1], "truncated"),
        (_initial(b"\x08" + HELLO), "frame"),
        (_initial(b"\x06\0\x44\0" + HELLO[:90]), "truncated"),
        (_initial(b"\x02\0\0\x3f\0\0\0" + bytes(30)), "truncated"),
        (_initial(b"\x01" * 600), "frames"),
        (_initial(_crypto(0, b"\2" + HELLO)), "handshake"),
        (_initial(b"".join(_crypto(2 * n + 1, b"x") for n in range(70))), "pieces"),
        (b"\xc3\0\0\0\1\x15" + bytes(60), "cid"),
    ],
)
def test_broken_initials(data: bytes, reason: str) -> None:
    table = QuicInitials()
    with pytest.raises(ParseError) as caught:
        table.datagram(datagram(data))
    assert caught.value.reason == reason
    assert table.counts["malformed"] == 1
    assert (len(table), table.held_bytes) == (0, 0)
    assert _balanced(table)


def test_the_table_is_bounded() -> None:
    half = _initial(_crypto(0, HELLO[:200]))
    table = QuicInitials(QuicLimits(connections=3, held_bytes=500, age_ns=1_000))
    for sport in range(5):
        table.datagram(datagram(half, sport, ts_ns=sport))
        assert table.held_bytes <= 500
        assert len(table) <= 3
    assert table.counts["evicted"] == 3
    assert _balanced(table)
    table.datagram(datagram(b"", ts_ns=2_000))
    assert (len(table), table.held_bytes, table.counts["expired"]) == (0, 0, 2)
    assert table.counts["lost"] == 5
    assert _balanced(table)


def test_cut_at_every_offset() -> None:
    data = _initial(_crypto(0, HELLO))
    for end in range(0, len(data), 7):
        try:
            assert QuicInitials().datagram(datagram(data[:end])) is None
        except ParseError as error:
            assert error.reason == "truncated"
    assert QuicInitials().datagram(datagram(data + b"\xc3rubbish")) == FOUND


@settings(max_examples=200)
@given(st.data())
def test_fuzz(data: st.DataObject) -> None:
    table = QuicInitials(QuicLimits(connections=4, held_bytes=2_000))
    good = _initial(_crypto(0, LONG[:900]))
    for _ in range(4):
        wire = bytearray(good)
        for _ in range(data.draw(st.integers(0, 3))):
            wire[data.draw(st.integers(0, 40))] = data.draw(st.integers(0, 255))
        frames = data.draw(st.binary(max_size=60))
        for payload in (
            bytes(wire),
            _initial(frames + bytes(20)),
            data.draw(st.binary(max_size=90)),
        ):
            packet = datagram(payload, data.draw(st.integers(0, 6)))
            try:
                table.datagram(packet)
            except ParseError as error:
                assert error.reason.isalpha()
            assert _balanced(table)
            assert table.held_bytes <= 2_000


@given(st.binary(max_size=80))
def test_fuzz_frames(plain: bytes) -> None:
    try:
        pieces = crypto_pieces(plain)
    except ParseError:
        return
    assert sum(len(piece) for _, piece in pieces) <= len(plain)


def test_other_transports_are_left_alone() -> None:
    packet = Packet(1, bytes(16), bytes(16), 6, 1, 2, _initial(_crypto(0, HELLO)), 0, 0)
    assert QuicInitials().datagram(packet) is None


@pytest.mark.parametrize("rule", [DRAFT_29, DRAFT_27], ids=["29", "27"])
def test_drafts_met_in_captures(rule: Rule) -> None:
    assert QuicInitials().datagram(datagram(_initial(_crypto(0, HELLO), rule=rule))) == FOUND
    for salt_of, as_version in ((DRAFT_29, 0xFF000020), (DRAFT_27, 0xFACEB002), (V1, 0xFF000022)):
        alias = (as_version, *salt_of[1:])
        assert QuicInitials().datagram(datagram(_initial(_crypto(0, HELLO), rule=alias))) == FOUND
