"""Parsers of handshakes beside dpkt, scapy and aioquic on the same messages.

    python -m bench.parsers [--messages 2000] [--rounds 5]

DNS answers (by dnspython), TLS ClientHellos (by Python's OpenSSL), HTTP requests and QUIC Initials
(by aioquic), each with a host of its own. Every way ends with the host in hand as text, of DNS with
its addresses too, and is checked to have found the right one; ours also holds it against the rules
of a host. Figures are CPU time of this process, best of the rounds, each round with all ways in
turn.
"""

from __future__ import annotations

import argparse
import gc
import random
import ssl
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

import dns.flags
import dns.message
import dns.rrset
import dpkt
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import (
    INITIAL_CIPHER_SUITE,
    INITIAL_SALT_VERSION_1,
    CryptoPair,
)
from aioquic.quic.crypto import CryptoContext as AioContext
from aioquic.quic.packet import QuicProtocolVersion, pull_quic_header
from aioquic.tls import cipher_suite_hash, hkdf_expand_label, hkdf_extract

from bench.report import Figure, Way, finish, in_turns
from collector.parse.dns import parse_answer
from collector.parse.http import parse_request_host
from collector.parse.quic_packet import ClientKeys, crypto_pieces, initials
from collector.parse.tls import ClientHello, parse_client_hello, parse_handshake

MAX_MESSAGES: Final = 100_000
SCAPY_SHARE: Final = 20
"""scapy takes up to milliseconds a message, so it gets one message of so many."""
WANTED: Final = {
    ("dns", "dpkt"): 5.0,
    ("tls", "dpkt"): 4.0,
    ("http", "dpkt"): 2.0,
    ("dns", "scapy"): 100.0,
    ("tls", "scapy"): 100.0,
    ("http", "scapy"): 100.0,
    ("quic", "aioquic"): 1.5,
}

Parse = Callable[[bytes], str]
"""One message in, the host that it names out."""


def hosts(count: int) -> list[str]:
    """Names as they are met: two to five labels, 10 to 40 letters."""
    chooser = random.Random(5)
    words = ("cdn", "static", "img", "api", "video", "edge", "www", "mail", "assets", "login")
    made = []
    for number in range(count):
        labels = [chooser.choice(words) for _ in range(chooser.randint(0, 3))]
        made.append(".".join([*labels, f"site-{number:06}", "example"]))
    return made


def dns_answer(host: str, number: int) -> bytes:
    """An answer as a resolver gives it to a browser, which asks for A, AAAA and HTTPS at once.

    None to two aliases, one to four addresses, EDNS; every fourth has only an SOA to tell.
    """
    kind = ("A", "A", "AAAA", "HTTPS")[number % 4]
    query = dns.message.make_query(host, kind, use_edns=0, payload=1232)
    answer = dns.message.make_response(query)
    answer.flags |= dns.flags.RA
    owner = host + "."
    for hop in range(number % 3 if number % 5 else 0):
        alias = f"{host}.hop{hop}.cdn.example."
        answer.answer.append(dns.rrset.from_text(owner, 300, "IN", "CNAME", alias))
        owner = alias
    if kind == "HTTPS":
        soa = "ns.cdn.example. ops.cdn.example. 1 7200 900 1209600 300"
        answer.authority.append(dns.rrset.from_text("example.", 300, "IN", "SOA", soa))
        return answer.to_wire()
    base = "2001:db8::" if kind == "AAAA" else f"198.51.{number % 250}."
    addresses = [f"{base}{last + 1}" for last in range(1 + number % 5)]
    answer.answer.append(dns.rrset.from_text(owner, 60, "IN", kind, *addresses))
    return answer.to_wire()


def client_hello(host: str) -> bytes:
    """The first flight of Python's own TLS client."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    sent = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=host)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise RuntimeError("a handshake ended without a server")


def http_request(host: str) -> bytes:
    """A request as browsers send it."""
    return (
        f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive\r\n"
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
        "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
        "Accept-Encoding: gzip, deflate\r\nAccept-Language: en-GB,en;q=0.5\r\n\r\n"
    ).encode()


def quic_initial(host: str) -> bytes:
    """The first datagram of a client."""
    client = QuicConnection(
        configuration=QuicConfiguration(is_client=True, server_name=host, alpn_protocols=["h3"])
    )
    client.connect(("192.0.2.1", 443), now=0.0)
    return client.datagrams_to_send(now=0.0)[0][0]


def ours_dns(data: bytes) -> str:
    found = parse_answer(data)
    return found.host if found else ""


def ours_tls(data: bytes) -> str:
    found = parse_client_hello(data)
    return found.host if isinstance(found, ClientHello) else ""


def ours_http(data: bytes) -> str:
    found = parse_request_host(data)
    return found if isinstance(found, str) else ""


def ours_quic(data: bytes) -> str:
    """As far as the others: header, keys, decryption; and on to the hello's host."""
    for packet in initials(data):
        plain = ClientKeys(packet.version, packet.dcid).open(data, packet)
        pieces = crypto_pieces(plain or b"")
        hello = parse_handshake(b"".join(piece for _, piece in sorted(pieces)))
        return hello.host if isinstance(hello, ClientHello) else ""
    return ""


def dpkt_dns(data: bytes) -> str:
    found: Any = dpkt.dns.DNS(data)
    tuple(
        each.ip if each.type == dpkt.dns.DNS_A else each.ip6
        for each in found.an
        if each.type in (dpkt.dns.DNS_A, dpkt.dns.DNS_AAAA)
    )
    return str(found.qd[0].name)


def dpkt_tls(data: bytes) -> str:
    record: Any = dpkt.ssl.TLS(data).records[0]
    hello: Any = dpkt.ssl.TLSHandshake(record.data).data
    for kind, body in hello.extensions:
        if kind == 0:
            return bytes(body[5:]).decode("ascii")
    return ""


def dpkt_http(data: bytes) -> str:
    found: Any = dpkt.http.Request(data)
    return str(found.headers["host"])


def scapy_ways() -> dict[str, Parse]:
    """scapy's dissectors; imported late, since that alone takes a second."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from scapy.layers.dns import DNS
        from scapy.layers.http import HTTPRequest
        from scapy.layers.tls.all import TLS
        from scapy.layers.tls.extensions import TLS_Ext_ServerName
        from scapy.layers.tls.handshake import TLSClientHello

    def dns_way(data: bytes) -> str:
        found = DNS(data)
        return str(found.qd[0].qname.decode("ascii")).rstrip(".")

    def tls_way(data: bytes) -> str:
        hello = TLS(data)[TLSClientHello]
        name = next(each for each in hello.ext if isinstance(each, TLS_Ext_ServerName))
        return str(name.servernames[0].servername.decode("ascii"))

    def http_way(data: bytes) -> str:
        return str(HTTPRequest(data).Host.decode("ascii"))

    return {"dns": dns_way, "tls": tls_way, "http": http_way}


def aioquic_pair(data: bytes) -> int:
    """aioquic as its server does it: header, the keys of both directions, decryption."""
    buffer = Buffer(data=data)
    header = pull_quic_header(buffer, host_cid_length=8)
    crypto = CryptoPair()
    crypto.setup_initial(header.destination_cid, is_client=False, version=header.version or 0)
    plain = crypto.decrypt_packet(data[: header.packet_length], buffer.tell(), 0)[1]
    return len(plain)


def aioquic_one_way(data: bytes) -> int:
    """The leanest that aioquic allows: the keys of the client's direction only."""
    buffer = Buffer(data=data)
    header = pull_quic_header(buffer, host_cid_length=8)
    algorithm = cipher_suite_hash(INITIAL_CIPHER_SUITE)
    initial = hkdf_extract(algorithm, INITIAL_SALT_VERSION_1, header.destination_cid)
    secret = hkdf_expand_label(algorithm, initial, b"client in", b"", algorithm.digest_size)
    context = AioContext()
    context.setup(
        cipher_suite=INITIAL_CIPHER_SUITE, secret=secret, version=QuicProtocolVersion.VERSION_1
    )
    plain = context.decrypt_packet(data[: header.packet_length], buffer.tell(), 0)[1]
    return len(plain)


def reading(parse: Parse, messages: list[bytes], names: list[str]) -> Way:
    """Parses all messages; before that, once, checks what it finds in each."""
    wrong = [(p, n) for m, n in zip(messages, names, strict=True) if (p := parse(m)) != n]
    if wrong:
        raise RuntimeError(f"{parse.__name__} found {wrong[0][0]!r}, not {wrong[0][1]!r}")

    def way() -> int:
        for message in messages:
            parse(message)
        return len(messages)

    return way


def opening(open_one: Callable[[bytes], int], messages: list[bytes]) -> Way:
    """Opens all Initials, which fails if one cannot be decrypted."""

    def way() -> int:
        for message in messages:
            open_one(message)
        return len(messages)

    way()
    return way


def measure(count: int, rounds: int) -> list[Figure]:
    """All protocols."""
    names = hosts(count)
    messages = {
        "dns": [dns_answer(host, number) for number, host in enumerate(names)],
        "tls": [client_hello(host) for host in names],
        "http": [http_request(host) for host in names],
        "quic": [quic_initial(host) for host in names],
    }
    few = slice(0, max(1, count // SCAPY_SHARE))
    peers: dict[str, dict[str, Way]] = {
        "dns": {"dpkt": reading(dpkt_dns, messages["dns"], names)},
        "tls": {"dpkt": reading(dpkt_tls, messages["tls"], names)},
        "http": {"dpkt": reading(dpkt_http, messages["http"], names)},
        "quic": {
            "aioquic": opening(aioquic_pair, messages["quic"]),
            "aioquic-one-way": opening(aioquic_one_way, messages["quic"]),
        },
    }
    for protocol, parse in scapy_ways().items():
        peers[protocol]["scapy"] = reading(parse, messages[protocol][few], names[few])
    ours = {"dns": ours_dns, "tls": ours_tls, "http": ours_http, "quic": ours_quic}
    figures = []
    for protocol, others in peers.items():
        ways = {"ours": reading(ours[protocol], messages[protocol], names), **others}
        gc.collect()
        found = in_turns(ways, rounds)
        figures += [_figure(protocol, peer, found, messages[protocol]) for peer in others]
    return figures


def _figure(protocol: str, peer: str, found: dict[str, float], messages: list[bytes]) -> Figure:
    size = sum(map(len, messages)) / len(messages)
    package = peer.partition("-")[0]
    further = {
        "aioquic": "; ours goes on to the hello's host, the peer stops at the frames",
        "aioquic-one-way": "; as above, and the peer makes only the keys of one direction",
    }.get(peer, "")
    return Figure(
        name=f"parsers.{protocol}-{peer}",
        ours=found["ours"],
        peer=found[peer],
        unit="us CPU a message",
        peer_is=f"{package} {version(package)}",
        includes=f"{len(messages)} messages of {size:.0f} bytes on average, bytes to host{further}",
        leaves_out="capture, link, IP and TCP or UDP headers, reassembly",
        wanted=WANTED.get((protocol, peer)),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--messages", type=int, default=2000, help="of each protocol")
    parser.add_argument("--rounds", type=int, default=5, help="the best counts")
    options = parser.parse_args()
    if not 20 <= options.messages <= MAX_MESSAGES or not 1 <= options.rounds <= 100:
        parser.error(f"messages are 20 to {MAX_MESSAGES}, rounds 1 to 100")
    return finish(measure(options.messages, options.rounds))


if __name__ == "__main__":
    raise SystemExit(main())
