"""Scripts of a NAS: turns what it tells its RADIUS server, and when, into Ethernet frames.

Times are seconds after `T0`; every request is answered unless `answered` is false. The shared
secret is nobody's.
"""

from __future__ import annotations

import hashlib
import ipaddress
import struct
from collections.abc import Callable
from typing import Any, Final

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from tests.scenarios.sip import SECOND_NS, T0, Frames

NAS, SERVER = "192.0.2.1", "192.0.2.20"
NAS6, SERVER6 = "2001:db8:c0::1", "2001:db8:c0::20"
SECRET: Final = b"nobodys-secret"
START, STOP, INTERIM, ON, OFF = 1, 2, 3, 7, 8
_LINK: Final = {"src": "02:00:00:00:00:0b", "dst": "02:00:00:00:00:0a"}
_ANSWERS: Final = {1: 2, 4: 5, 40: 41}

Value = Any


def _number(value: Value) -> bytes:
    return struct.pack(">I", int(value))


def _text(value: Value) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _address(value: Value) -> bytes:
    return ipaddress.ip_address(str(value)).packed


def _prefix(value: Value) -> bytes:
    """RFC 3162 section 2.3."""
    network = ipaddress.IPv6Network(str(value))
    octets = (network.prefixlen + 7) // 8
    return bytes((0, network.prefixlen)) + network.network_address.packed[:octets]


ATTRIBUTES: Final[dict[str, tuple[int, Callable[[Value], bytes]]]] = {
    "User_Name": (1, _text),
    "User_Password": (2, _text),
    "NAS_IP_Address": (4, _address),
    "Framed_IP_Address": (8, _address),
    "Session_Timeout": (27, _number),
    "Calling_Station_Id": (31, _text),
    "NAS_Identifier": (32, _text),
    "Acct_Status_Type": (40, _number),
    "Acct_Delay_Time": (41, _number),
    "Acct_Input_Octets": (42, _number),
    "Acct_Output_Octets": (43, _number),
    "Acct_Session_Id": (44, _text),
    "Acct_Session_Time": (46, _number),
    "Acct_Terminate_Cause": (49, _number),
    "Acct_Input_Gigawords": (52, _number),
    "Acct_Output_Gigawords": (53, _number),
    "Event_Timestamp": (55, _number),
    "Acct_Interim_Interval": (85, _number),
    "NAS_Port_Id": (87, _text),
    "Chargeable_User_Identity": (89, _text),
    "Framed_IPv6_Prefix": (97, _prefix),
    "Delegated_IPv6_Prefix": (123, _prefix),
    "Framed_IPv6_Address": (168, _address),
}
"""Type and form of each attribute (RFC 2865 to 6911), by its name with underscores."""


def encode(attributes: dict[str, Value]) -> bytes:
    """The attributes in order; a value given in bytes goes as it is."""
    out = b""
    for name, value in attributes.items():
        kind, form = ATTRIBUTES[name]
        data = value if isinstance(value, bytes) else form(value)
        out += bytes((kind, len(data) + 2)) + data
    return out


class Nas:
    """One NAS and its server; `common` is in every accounting request. `frames`: said so far."""

    def __init__(
        self, name: str = "bng-1", *, secret: bytes = SECRET, six: bool = False, **common: Value
    ) -> None:
        self._ends = (NAS6, SERVER6) if six else (NAS, SERVER)
        self._ip = IPv6 if six else IP
        self._secret = secret
        self._common: dict[str, Value] = {"NAS_Identifier": name} | common
        self._identifier = 0
        self.frames: Frames = []

    def start(self, at: float, session: str = "s1", **more: Value) -> None:
        self._account(at, START, session, more)

    def interim(self, at: float, session: str = "s1", **more: Value) -> None:
        self._account(at, INTERIM, session, more)

    def stop(self, at: float, session: str = "s1", **more: Value) -> None:
        self._account(at, STOP, session, more)

    def on(self, at: float, **more: Value) -> None:
        self._account(at, ON, "boot", more)

    def off(self, at: float, **more: Value) -> None:
        self._account(at, OFF, "boot", more)

    def access(self, at: float, granted: dict[str, Value], **asked: Value) -> None:
        """An Access-Request, and 0.02 s later the Accept."""
        request = {"User_Password": b"\0" * 16} | self._common | asked
        self._exchange(at, 1, encode(request), encode(granted), 1812)

    def disconnect(self, at: float, session: str = "s1") -> None:
        """A Disconnect-Request of the server, and 0.02 s later the ACK of the NAS."""
        names: dict[str, Value] = {"Acct_Session_Id": session}
        names["NAS_Identifier"] = self._common["NAS_Identifier"]
        self._exchange(at, 40, encode(names), b"", 3799)

    def again(self, at: float, number: int = -1) -> None:
        """The request sent as the `number`th once more, byte by byte; nobody answers."""
        requests = [data for _, data in self.frames if self._is_request(data)]
        self.frames.append((self._ns(at), requests[number]))

    def raw(self, at: float, attributes: bytes) -> None:
        """An Accounting-Request with these attributes, right or wrong; nobody answers."""
        self._identifier += 1
        self._send(at, self._sign(4, attributes, bytes(16), bytes(16)), 1813, up=True)

    def _account(self, at: float, status: int, session: str, more: dict[str, Value]) -> None:
        answered = bool(more.pop("answered", True))
        fields: dict[str, Value] = {"Acct_Status_Type": status, "Acct_Session_Id": session}
        body = encode({**fields, **self._common, **more})
        self._exchange(at, 4, body, b"", 1813, answered)

    def _exchange(
        self, at: float, code: int, asked: bytes, answer: bytes, port: int, answered: bool = True
    ) -> None:
        self._identifier += 1
        up = code != 40
        random = hashlib.blake2b(f"{at}".encode(), digest_size=16).digest()
        request = self._sign(code, asked, random if code == 1 else bytes(16), random)
        self._send(at, request, port, up)
        if answered:
            back = self._sign(_ANSWERS[code], answer, request[4:20], b"")
            self._send(at + 0.02, back, port, not up, is_answer=True)

    def _sign(self, code: int, body: bytes, authenticator: bytes, random: bytes) -> bytes:
        head = struct.pack(">BBH", code, self._identifier % 256, 20 + len(body))
        if code == 1:
            return head + random + body
        return head + hashlib.md5(head + authenticator + body + self._secret).digest() + body

    def _send(self, at: float, data: bytes, port: int, up: bool, is_answer: bool = False) -> None:
        src, dst = self._ends if up else self._ends[::-1]
        sport, dport = (port, 40_000) if is_answer else (40_000, port)
        packet = Ether(**_LINK) / self._ip(src=src, dst=dst) / UDP(sport=sport, dport=dport) / data
        self.frames.append((self._ns(at), bytes(packet)))

    def _is_request(self, data: bytes) -> bool:
        return data[42 if self._ip is IP else 62] in _ANSWERS

    def _ns(self, at: float) -> int:
        return T0 * SECOND_NS + round(at * 1_000_000) * 1_000


def counted(up: int, down: int, seconds: int) -> dict[str, Value]:
    """Octets with gigawords (RFC 2869 section 5.1), and the session's time."""
    low = (1 << 32) - 1
    return {
        "Acct_Session_Time": seconds,
        "Acct_Input_Octets": up & low,
        "Acct_Output_Octets": down & low,
        "Acct_Input_Gigawords": up >> 32,
        "Acct_Output_Gigawords": down >> 32,
    }


def in_order(*scripts: Frames) -> Frames:
    """All frames by time."""
    return sorted((each for frames in scripts for each in frames), key=lambda each: each[0])
