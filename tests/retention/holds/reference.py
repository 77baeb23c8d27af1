"""The matcher and its narrowing once more, row by row and as slow as they are plain."""

from __future__ import annotations

import ipaddress
from typing import Any

from retention.holds.narrowing import Narrowing
from retention.model import DAY_US, Kind, ScopeItem

Row = dict[str, Any]


def interval(record_class: str, row: Row) -> tuple[int, int]:
    if record_class == "session":
        start, end = row["slice_start_us"], row["slice_end_us"]
    elif record_class == "binding":
        start, end = row["valid_from_us"], row["valid_to_us"]
    elif record_class == "call":
        return row["start_us"], max(row["end_min_us"], row["end_max_us"], row["start_us"] + 1)
    else:
        return row["start_us"], max(row["end_us"], row["start_us"] + 1)
    if end == 0:
        end = start - start % DAY_US + DAY_US
    return start, max(end, start + 1)


def bits(address: bytes) -> str:
    return "".join(f"{octet:08b}" for octet in address)


def item_bits(value: str) -> str:
    network = ipaddress.ip_network(value)
    if network.version == 4:
        mapped = ipaddress.IPv6Address(f"::ffff:{network.network_address}")
        return bits(mapped.packed)[: 96 + network.prefixlen]
    return bits(network.network_address.packed)[: network.prefixlen]


def within(address: bytes, length: int, value: str) -> bool:
    """Whether either prefix holds the other."""
    mine, theirs = bits(address)[:length], item_bits(value)
    return mine.startswith(theirs) or theirs.startswith(mine)


def same_number(raw: str, e164: str) -> bool:
    kept = "".join(each for each in raw if each not in " ().-/\t\u00a0")
    return kept in (f"{sign}{e164[1:]}" for sign in ("+", "00", ""))


def same_user(row: Row, value: str) -> bool:
    if row["user_name"] == value:
        return True
    name, _, realm = value.rpartition("@")
    return bool(name) and row["user_name"] == name and row["realm"].lower() == realm


def identified(record_class: str, row: Row, item: ScopeItem) -> bool:
    if item.kind is Kind.SUBSCRIBER:
        return row.get("subscriber") == item.value
    if item.kind is Kind.ADDRESS:
        if record_class == "mapping":
            first, last = item.ports
            public = within(row["public_address"], 128, item.value)
            if (first, last) != (0, 65535):
                return public and row["port_first"] <= last and first <= row["port_last"]
            return public or within(row["inside_address"], 128, item.value)
        if record_class == "session" or item.ports != (0, 65535):
            return False
        return within(row["address"], row["prefix_len"], item.value)
    if item.kind is Kind.NUMBER:
        return record_class == "call" and any(
            row[f"{side}_e164"] == item.value or same_number(row[f"{side}_raw"], item.value)
            for side in ("a", "b", "connected")
        )
    if record_class != "session":
        return False
    if item.kind is Kind.USER:
        return same_user(row, item.value)
    column = {Kind.ACCOUNT: "cui", Kind.LINE: "line", Kind.SESSION: "acct_session_id"}[item.kind]
    return bool(row[column] == item.value)


def matches(record_class: str, row: Row, item: ScopeItem) -> bool:
    start, end = interval(record_class, row)
    overlap = start < item.to_us and item.from_us < end
    return record_class in item.classes and overlap and identified(record_class, row, item)


def admits(narrowing: Narrowing, row: Row) -> bool:
    """What an engine reads in a narrowing, by its module's docstring."""
    start, end = interval(narrowing.record_class, row)
    if not (start < narrowing.to_us and narrowing.from_us < end):
        return False
    for column, values in narrowing.texts.items():
        if row[column] in values:
            return True
    for column, values in narrowing.endings.items():
        if "".join(each for each in row[column] if each in "0123456789")[-6:] in values:
            return True
    for column, prefixes in narrowing.prefixes.items():
        length = min(row[narrowing.lengths[column]], 128) if column in narrowing.lengths else 128
        for base, own in prefixes:
            shared = min(length, own)
            if bits(row[column])[:shared] == bits(base)[:shared]:
                return True
    return False
