"""QUIC: turns the client Initials of each connection into the ClientHello they carry.

A hello with post-quantum shares takes two datagrams, and browsers cut and shuffle its CRYPTO
frames, so the pieces of each connection are kept until they make a whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from collector.parse.ip import UDP, Packet
from collector.parse.prefix import Prefix
from collector.parse.quic_packet import (
    MIN_FIRST_DCID,
    ClientKeys,
    Initial,
    crypto_pieces,
    initials,
)
from collector.parse.reader import Incomplete, ParseError
from collector.parse.tls import MAX_HELLO_BYTES, ClientHello, parse_handshake

_MAX_STREAMS: Final = 4
"""Sets of keys kept for one pair of sockets: the first, and those after a Retry (one at most, RFC
9000 section 17.2.5), version negotiation, or the client's next connection from the same port."""

ConnectionKey = tuple[bytes, bytes, int, int]
"""Client, server, client port, server port."""


@dataclass(frozen=True, slots=True)
class QuicLimits:
    """Bounds of `QuicInitials`.

    A handshake is over in a few round trips: 10 s cover every client that will succeed. 16,384
    connections are 1,600 new ones a second over that time. 64 MiB hold three full datagrams of
    each.
    """

    connections: int = 16_384
    held_bytes: int = 64 * 1024 * 1024
    age_ns: int = 10_000_000_000


@dataclass(slots=True)
class _Stream:
    """The CRYPTO stream under one set of keys. `need` is the length at which to look again."""

    keys: ClientKeys
    data: Prefix = field(default_factory=lambda: Prefix(MAX_HELLO_BYTES))
    need: int = 1
    done: bool = False


@dataclass(slots=True)
class _Connection:
    """What is known of one pair of sockets, by version and first connection id.

    `open` datagrams hold `held` bytes that wait for the rest of a hello; `hello` is the last one.
    """

    started_ns: int
    streams: dict[tuple[int, bytes], _Stream] = field(default_factory=dict)
    hello: ClientHello | None = None
    open: int = 0
    held: int = 0


class QuicInitials:
    """The connections whose ClientHello is not whole yet, and for a while those where it is.

    `counts` are of datagrams: seen = recorded + ignored + lost + `open`. Recorded ones made up a
    hello; lost ones were held for a connection that was given up before its hello was whole, which
    `evicted`, `expired` and `broken` count by connection; malformed ones are among the ignored.
    `hellos` counts what was returned.
    """

    def __init__(self, limits: QuicLimits | None = None) -> None:
        self._limits = limits or QuicLimits()
        self._table: dict[ConnectionKey, _Connection] = {}
        self._held = 0
        names = ("seen", "recorded", "ignored", "lost", "malformed", "hellos")
        self.counts = dict.fromkeys((*names, "evicted", "expired", "broken"), 0)

    def __len__(self) -> int:
        """Connections in the table, those that gave their hello among them."""
        return len(self._table)

    @property
    def held_bytes(self) -> int:
        """Handshake bytes in memory."""
        return self._held

    @property
    def open(self) -> int:
        """Datagrams that wait for the rest of a hello."""
        return sum(connection.open for connection in self._table.values())

    def datagram(self, packet: Packet) -> ClientHello | None:
        """Takes one datagram; the hello, if this datagram made it whole.

        The same hello again between the same sockets (after a Retry, say) is not given twice.
        Time is the packet's own. None for all that is no client Initial of a version known here;
        ParseError for an Initial that cannot be opened or read.
        """
        self._expire(packet.ts_ns)
        self.counts["seen"] += 1
        try:
            kept, hello = self._read(packet)
        except ParseError:
            self.counts["ignored"] += 1
            self.counts["malformed"] += 1
            raise
        if not kept:
            self.counts["ignored"] += 1
        if hello is not None:
            self.counts["hellos"] += 1
        return hello

    def _read(self, packet: Packet) -> tuple[bool, ClientHello | None]:
        """Whether the datagram brought handshake bytes, and the hello it made whole."""
        key = (packet.src, packet.dst, packet.sport, packet.dport)
        if packet.proto != UDP or (key[1], key[0], key[3], key[2]) in self._table:
            # From the server: its Initials have keys of their own and carry no ClientHello.
            return False, None
        kept = False
        try:
            for initial in initials(packet.payload):
                found = self._initial(key, initial, packet)
                if found is None:
                    continue
                kept = True
                stream, hello = found
                if hello is not None:
                    return True, self._finish(self._table[key], stream, hello)
        except ParseError:
            # One bad packet does not spoil the others of its datagram (RFC 9000 section 12.2),
            # unless it was the handshake itself that is broken.
            if not kept or key not in self._table:
                raise
        if kept:
            self._table[key].open += 1
            while self._held > self._limits.held_bytes:
                self._forget(next(iter(self._table)), "evicted")
        return kept, None

    def _initial(
        self, key: ConnectionKey, initial: Initial, packet: Packet
    ) -> tuple[_Stream, ClientHello | None] | None:
        """The stream to which an Initial brought something new, and the hello if it is whole."""
        connection = self._table.get(key)
        opened = self._open(connection, initial, packet.payload)
        if opened is None or opened[0].done:
            return None
        stream, plain = opened
        pieces = crypto_pieces(plain)
        if not pieces:
            return None
        if connection is None:
            connection = self._admit(key, packet.ts_ns)
        self._adopt(connection, initial, stream)
        try:
            if not self._take(connection, stream, pieces):
                return None
            return stream, _hello(stream)
        except ParseError:
            self._forget(key, "broken")
            raise

    def _open(
        self, connection: _Connection | None, initial: Initial, data: bytes
    ) -> tuple[_Stream, bytes] | None:
        """The stream an Initial belongs to, a fresh one perhaps, and its frames."""
        streams = connection.streams if connection else {}
        known = streams.get((initial.version, initial.dcid))
        if known is not None:
            # Once the hello is whole there is nothing left to read: not worth the cipher.
            plain = b"" if known.done else known.keys.open(data, initial)
            if plain is None:
                raise ParseError("decrypt")
            return known, plain
        for stream in streams.values():
            # After the server's first answer the client addresses the id that the server chose,
            # while the keys stay those of its own first one (RFC 9001 section 5.2).
            plain = stream.keys.open(data, initial)
            if plain is not None:
                return stream, plain
        if len(initial.dcid) < MIN_FIRST_DCID:
            return None
        fresh = _Stream(ClientKeys(initial.version, initial.dcid))
        plain = fresh.keys.open(data, initial)
        if plain is None:
            raise ParseError("decrypt")
        return fresh, plain

    def _admit(self, key: ConnectionKey, now_ns: int) -> _Connection:
        """A new connection, in place of the oldest if the table is full."""
        while len(self._table) >= self._limits.connections:
            self._forget(next(iter(self._table)), "evicted")
        connection = self._table[key] = _Connection(now_ns)
        return connection

    def _adopt(self, connection: _Connection, initial: Initial, stream: _Stream) -> None:
        """Puts a fresh stream into its connection, in place of the oldest if there are many."""
        streams = connection.streams
        if any(stream is known for known in streams.values()):
            return
        if len(streams) >= _MAX_STREAMS:
            self._account(connection, -streams.pop(next(iter(streams))).data.held)
        streams[(initial.version, initial.dcid)] = stream

    def _take(
        self, connection: _Connection, stream: _Stream, pieces: list[tuple[int, bytes]]
    ) -> bool:
        """Adds pieces to a stream; whether they brought anything new."""
        before = stream.data.held
        for offset, piece in pieces:
            stream.data.add(offset, piece)
        grown = stream.data.held - before
        self._account(connection, grown)
        return grown > 0

    def _finish(
        self, connection: _Connection, stream: _Stream, hello: ClientHello
    ) -> ClientHello | None:
        """Keeps of a stream only that it is done; the hello, unless it repeats the last one.

        The datagram at hand and those that waited for it are recorded.
        """
        stream.done = True
        self._account(connection, -stream.data.held)
        stream.data = Prefix(0)
        self.counts["recorded"] += connection.open + 1
        connection.open = 0
        repeated = hello == connection.hello
        connection.hello = hello
        return None if repeated else hello

    def _account(self, connection: _Connection, amount: int) -> None:
        connection.held += amount
        self._held += amount

    def _forget(self, key: ConnectionKey, reason: str) -> None:
        connection = self._table.pop(key)
        self._held -= connection.held
        if connection.open or reason == "broken":
            self.counts["lost"] += connection.open
            self.counts[reason] += 1

    def _expire(self, now_ns: int) -> None:
        """Forgets what is too old; the table is in order of age."""
        while self._table:
            key, connection = next(iter(self._table.items()))
            if now_ns - connection.started_ns <= self._limits.age_ns:
                return
            self._forget(key, "expired")


def _hello(stream: _Stream) -> ClientHello | None:
    """The hello of a stream, if it is whole."""
    if len(stream.data.data) < stream.need:
        return None
    hello = parse_handshake(bytes(stream.data.data))
    if isinstance(hello, Incomplete):
        stream.need = hello.need
        return None
    return hello
