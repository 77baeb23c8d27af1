"""Record classes: the one description of every column that a collector writes.

The codec, the aggregator's schema check and the generated reference all read this table, so a
column exists in one place. Units end the names; times are integer nanoseconds UTC; intervals are
half-open [start, end). `up` and `down` are seen from the subscriber and count layer-3 bytes.
"""

from __future__ import annotations

from typing import Final

from collector.wire.record_types import MAX_STRING_BYTES as MAX_STRING_BYTES
from collector.wire.record_types import SCHEMA_VERSION as SCHEMA_VERSION
from collector.wire.record_types import Column as Column
from collector.wire.record_types import RecordClass as RecordClass
from collector.wire.record_types import record_id as record_id

_COMMON: Final = (
    Column("record_id", "id", "deterministic identity of the record"),
    Column("observed_ns", "i64", "when this version of the record was written"),
)
_WINDOW: Final = (
    Column("start_ns", "i64", "start of the interval the row covers"),
    Column("end_ns", "i64", "end of the interval the row covers, exclusive"),
)
_WHO: Final = (
    Column("address", "addr", "the subscriber's inside address or the base of its prefix"),
    Column("prefix_len", "u8", "length of `address` in 128 bits: IPv4 host 128, IPv6 /64 64"),
)

USAGE = RecordClass(
    "usage",
    "volume of one address or prefix over one window, split where its binding changed",
    "start_ns",
    ("start_ns", "end_ns", "address", "prefix_len"),
    (
        *_COMMON,
        *_WINDOW,
        *_WHO,
        Column("up_bytes", "u64", "layer-3 bytes sent by the subscriber"),
        Column("down_bytes", "u64", "layer-3 bytes sent to the subscriber"),
        Column("up_packets", "u64", "packets sent by the subscriber"),
        Column("down_packets", "u64", "packets sent to the subscriber"),
        Column("flows", "u32", "conntrack flows of the address that ended in the interval"),
        Column("flags", "u32", "bit set of USAGE_* flags"),
    ),
)
USAGE_ACROSS_RESTART: Final = 1
"""The interval spans a time when no collector ran; the kernel kept counting, so bytes are exact."""
USAGE_COUNTER_RESET: Final = 2
"""The counter restarted inside the interval; a gap record says what cannot be known."""
USAGE_FROM_EXPORT: Final = 4
"""Counted by a router's flow export: flows are told when they end, so begin and end are bounds."""

SESSION = RecordClass(
    "session",
    "one access session, sliced per UTC day; the newest version of a slice counts",
    "slice_start_ns",
    ("session_id", "slice_start_ns"),
    (
        *_COMMON,
        Column("session_id", "id", "NAS, Acct-Session-Id and NAS boot epoch, hashed"),
        Column("subscriber", "str", "opaque reference of the operator's own systems"),
        Column("nas", "str", "NAS-Identifier, else its address; dhcp, dhcpv6 or pppoe:MAC"),
        Column("acct_session_id", "str", "Acct-Session-Id (RFC 2866 5.5), lease or PPPoE session"),
        Column("nas_epoch", "u32", "counts the NAS's reboots as seen here"),
        Column("line", "str", "NAS-Port-Id, else NAS-Port; circuit of DHCP or PPPoE"),
        Column("user_name", "str", "User-Name without its realm"),
        Column("realm", "str", "realm of User-Name (RFC 7542)"),
        Column("cui", "str", "Chargeable-User-Identity (RFC 4372)"),
        Column("start_ns", "i64", "start of the whole session"),
        Column("start_source", "str", "stated or derived"),
        Column("slice_start_ns", "i64", "start of this day's slice"),
        Column("slice_end_ns", "i64", "end of this day's slice; 0 while open"),
        Column("end_min_ns", "i64", "the session lasted at least until; last proof while open"),
        Column("end_max_ns", "i64", "the session ended at the latest; 0 unknown"),
        Column("end_reason", "str", "empty while open, stated, or inferred:why"),
        Column("up_octets", "u64", "the NAS's own count, gigawords included (RFC 2869 5.1)"),
        Column("down_octets", "u64", "the NAS's own count, gigawords included"),
        Column("terminate_cause", "i64", "Acct-Terminate-Cause as sent; -1 absent"),
        Column("verified", "str", "authenticator: verified, unverified or bad"),
        Column("acked", "u8", "1 when the accounting response was seen"),
        Column("flags", "u32", "bit set of SESSION_* flags"),
        Column("start_seen_ns", "i64", "capture time of the packet that the start is known by", 4),
        Column("start_stamp_ns", "i64", "its Event-Timestamp (RFC 2869 5.3); 0 none", 4),
        Column("last_seen_ns", "i64", "capture time of the last packet; with a Stop, of that", 4),
        Column("last_stamp_ns", "i64", "its Event-Timestamp; 0 none", 4),
    ),
)
SESSION_OPEN_ACROSS_RESTART: Final = 1
SESSION_COUNTERS_DISAGREE: Final = 2

BINDING = RecordClass(
    "binding",
    "one interval in which a subscriber held an address or prefix, sliced per UTC day",
    "valid_from_ns",
    ("session_id", "address", "prefix_len", "valid_from_ns"),
    (
        *_COMMON,
        Column("session_id", "id", "the session that holds the address"),
        Column("subscriber", "str", "opaque reference of the operator's own systems"),
        *_WHO,
        Column("valid_from_ns", "i64", "start of the interval"),
        Column("valid_to_ns", "i64", "end of the interval, exclusive; 0 while open"),
        Column("certainty", "str", "certain, or bounded where an end was inferred"),
        Column("source", "str", "accounting, accept, dhcp, dhcpv6, dhcpv6-pd, pppoe"),
    ),
)

MAPPING = RecordClass(
    "mapping",
    "one NAT mapping or port block",
    "start_ns",
    ("inside_address", "public_address", "protocol", "port_first", "start_ns"),
    (
        *_COMMON,
        *_WINDOW,
        Column("inside_address", "addr", "address before translation"),
        Column("inside_port", "u16", "port before translation; 0 for a block"),
        Column("public_address", "addr", "address after translation"),
        Column("protocol", "u8", "IP protocol number; 0 for all"),
        Column("port_first", "u16", "first public port"),
        Column("port_last", "u16", "last public port, inclusive"),
        Column("kind", "str", "flow, block or deterministic"),
    ),
)

VISIT = RecordClass(
    "visit",
    "connections of one address to one host at one server within one window, or at the detail level"
    " `connection` one of them",
    "start_ns",
    (
        *("start_ns", "address", "prefix_len", "host", "server", "server_port", "protocol"),
        "client_port",
    ),
    (
        *_COMMON,
        *_WINDOW,
        *_WHO,
        Column("host", "str", "host name in lower case, or an address literal; never more"),
        Column("evidence", "str", "best evidence: tls, quic, http or dns"),
        Column("server", "addr", "address of the server"),
        Column("server_port", "u16", "port of the server"),
        Column("protocol", "u8", "IP protocol number"),
        Column("first_ns", "i64", "first seen in the window"),
        Column("last_ns", "i64", "last seen in the window"),
        Column("connections", "u32", "connections that began in the window"),
        Column("up_bytes", "u64", "layer-3 bytes of those connections from the subscriber"),
        Column("down_bytes", "u64", "layer-3 bytes of those connections to the subscriber"),
        Column("flags", "u32", "bit set of VISIT_* flags"),
        Column(
            "client_port", "u16", "the subscriber's port at detail level `connection`, else 0", 3
        ),
    ),
)
VISIT_ECH: Final = 1
"""The handshake carried Encrypted Client Hello, so `host` is the outer name only."""

CALL = RecordClass(
    "call",
    "one call attempt, answered or not, as seen by one subscriber; the newest version counts",
    "start_ns",
    ("call_hash", "start_ns", "address", "direction"),
    (
        *_COMMON,
        Column("call_hash", "id", "Call-ID and From-tag, hashed"),
        *_WHO,
        Column("direction", "str", "out when the address called, in when it was called"),
        Column("a_raw", "str", "calling number as sent"),
        Column("a_e164", "str", "calling number in E.164 where valid, else empty"),
        Column("a_kind", "str", "e164, short, emergency, private, invalid, anonymous or none", 2),
        Column("a_source", "str", "header it came from: from or p-asserted-identity", 2),
        Column("a_asserted", "str", "P-Asserted-Identity as sent, trusted or not (RFC 3325)", 2),
        Column("b_raw", "str", "dialled number as sent"),
        Column("b_e164", "str", "dialled number in E.164 where valid, else empty"),
        Column("b_kind", "str", "as a_kind", 2),
        Column("b_source", "str", "header it came from: request-uri or to", 2),
        Column("b_parameters", "str", "rn, npdi, isub and ext of the dialled number (RFC 4694)", 2),
        Column("connected_raw", "str", "who answered, as a trusted peer asserts it, else empty", 2),
        Column("connected_e164", "str", "the same in E.164 where valid, else empty", 2),
        Column(
            "diversions", "str", "JSON of [header, number, reason], as sent (RFC 5806, 7044)", 2
        ),
        Column("charged", "str", "who pays for this leg: caller or diverter", 2),
        Column("presentation", "str", "allowed or restricted (RFC 3323)"),
        Column("start_ns", "i64", "first copy of the first INVITE"),
        Column("ring_ns", "i64", "first 180; 0 none"),
        Column("answer_ns", "i64", "first copy of the first 2xx to the INVITE; 0 none"),
        Column("end_min_ns", "i64", "the call lasted at least until"),
        Column("end_max_ns", "i64", "the call ended at the latest; 0 unknown"),
        Column("setup_ms", "u64", "start to answer, or to end_min without one; rounded down", 2),
        Column("ring_ms", "u64", "ring to answer, or to end_min without one; rounded down", 2),
        Column("talk_ms", "u64", "answer to end_min in milliseconds, rounded down"),
        Column("disposition", "str", "ANSWERED, BUSY, CANCELLED, NO_ANSWER, REJECTED, FAILED, ..."),
        Column("sip_code", "u16", "final response code of the INVITE; 0 none"),
        Column("q850", "u16", "Q.850 cause of Reason (RFC 3326); 0 none"),
        Column("released_by", "str", "caller, callee or empty"),
        Column("session_expires_s", "u32", "last session timer agreed (RFC 4028); 0 none", 2),
        Column("emergency", "u8", "1 for urn:service:sos or an emergency short number"),
        Column(
            "branches", "str", "JSON of [To-tag hashed, last status, ms of its first answer]", 2
        ),
        Column("linked", "str", "JSON of [why, call_hash] of other calls of the same people", 2),
        Column("partial", "u32", "which hourly version of a call that goes on; 0 once it ended", 2),
        Column("retransmissions", "u32", "messages seen again"),
        Column("flags", "u32", "bit set of CALL_* flags"),
    ),
)
CALL_INTERRUPTED: Final = 1
"""The collector lost packets or restarted while the call was open."""
CALL_FINAL_MISSING: Final = 2
"""Cancelled, but no final response to the INVITE was seen within 32 s."""

LINK = RecordClass(
    "link",
    "counters of one interface over one window",
    "start_ns",
    ("start_ns", "end_ns", "interface"),
    (
        *_COMMON,
        *_WINDOW,
        Column("interface", "str", "name of the interface"),
        Column("role", "str", "access, control or lines"),
        Column("rx_bytes", "u64", "bytes received, link headers included"),
        Column("tx_bytes", "u64", "bytes sent, link headers included"),
        Column("rx_packets", "u64", "packets received"),
        Column("tx_packets", "u64", "packets sent"),
        Column("rx_errors", "u64", "receive errors"),
        Column("tx_errors", "u64", "transmit errors"),
        Column("rx_drops", "u64", "receive drops"),
        Column("tx_drops", "u64", "transmit drops"),
        Column("state_changes", "u32", "carrier changes"),
        Column("speed_mbps", "u32", "speed in Mbit/s; 0 unknown"),
    ),
)

GAP = RecordClass(
    "gap",
    "something that may be missing: where, when, how much and of what",
    "start_ns",
    ("stage", "reason", "start_ns", "end_ns", "scope"),
    (
        *_COMMON,
        *_WINDOW,
        Column("stage", "str", "capture, conntrack, volume, export, track, spool, uplink or clock"),
        Column("reason", "str", "short word such as kernel-drop, overrun, restart, spool-full"),
        Column("amount", "i64", "how much was lost; -1 unknown"),
        Column("unit", "str", "packets, events, rows, bytes, batches or ns"),
        Column("classes", "str", "record classes affected, comma separated"),
        Column("scope", "str", "collector, interface:NAME or exporter:ADDRESS"),
    ),
)

BLOCK_COUNT = RecordClass(
    "block_count",
    "noisy number of households that met a block: one cell of the public domain and one window",
    "start_ns",
    ("release", "region", "category"),
    (
        *_COMMON,
        *_WINDOW,
        Column("marginal", "str", "category-hour, region-category-day or kept-day"),
        Column("region", "str", "region of the public domain; empty where the marginal has none"),
        Column("category", "str", "category, or for kept-day: whole or clipped"),
        Column("count", "i64", "households plus discrete Laplace noise; can be below zero"),
        Column("mechanism", "id", "parameters of the noise, hashed"),
        Column("release", "id", "the safeguard_ledger entry that accounts for the row"),
    ),
)
"""`observed_ns` is the end of the window: no time of an event is in a row. Zeros have rows too."""

SAFEGUARD_LEDGER = RecordClass(
    "safeguard_ledger",
    "what one window of one marginal told of a household at most, or that it stayed silent",
    "start_ns",
    ("release",),
    (
        *_COMMON,
        *_WINDOW,
        Column("release", "id", "collector, mechanism, marginal, window and outcome, hashed"),
        Column("mechanism", "id", "parameters of the noise, hashed"),
        Column("marginal", "str", "category-hour, region-category-day or kept-day"),
        Column("scale_num", "u32", "scale of the noise, numerator"),
        Column("scale_den", "u32", "scale of the noise, denominator"),
        Column("l0", "u32", "cells that one household can change by one, all windows of the day"),
        Column("epsilon_micro", "u64", "millionths of epsilon charged to the household-day"),
        Column("routers", "u32", "routers that may count one household in a day"),
        Column("restarts", "u32", "starts of the collector in the day"),
        Column("rows", "u32", "block_count rows of the release: the size of the public domain"),
        Column("outcome", "str", "released or silent"),
    ),
)
"""epsilon_micro = l0 * routers / scale. The hours of a day share the day's caps and so one charge,
which the day's first released hour carries; those after it carry 0."""

CLASSES: Final[dict[str, RecordClass]] = {
    c.name: c
    for c in (
        BINDING,
        SESSION,
        USAGE,
        MAPPING,
        VISIT,
        CALL,
        LINK,
        GAP,
        BLOCK_COUNT,
        SAFEGUARD_LEDGER,
    )
}
"""Every record class by name, in the order in which a batch carries them: bindings come before
the rows that are attributed by them."""
