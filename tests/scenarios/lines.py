"""Scripts of an access line: turns DHCP and PPPoE messages, and when they are, into frames.

Times are seconds after `T0`. `RELAY` stands between lines and servers, as an access node does.
"""

from __future__ import annotations

from typing import Any, Final

from scapy.layers import dhcp as v4
from scapy.layers import dhcp6 as v6
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.ppp import PPPoED

from tests.scenarios.sip import SECOND_NS, T0, Frames

MAC, MAC2, NODE = "02:00:00:00:00:07", "02:00:00:00:00:08", "02:00:00:00:00:01"
SERVER, RELAY = "192.0.2.30", "192.0.2.31"
SERVER6, RELAY6 = "2001:db8:c0::30", "2001:db8:c0::31"


def _ns(at: float) -> int:
    return T0 * SECOND_NS + round(at * 1_000_000) * 1_000


class Dhcp:
    """One client of DHCPv4 behind a relay that names its circuit (RFC 3046)."""

    def __init__(self, mac: str = MAC, circuit: str = "olt-3/1/7", remote: str = "modem-7") -> None:
        self.mac = mac
        option = b"".join(
            bytes((kind, len(name))) + name.encode()
            for kind, name in ((1, circuit), (2, remote))
            if name
        )
        self._agent: list[Any] = [("relay_agent_information", option)] if option else []
        self.frames: Frames = []

    def from_client(self, at: float, kind: str, *options: Any, ciaddr: str = "0.0.0.0") -> None:
        """A message as the relay hands it on."""
        listed = [("message-type", kind), *options, *self._agent, "end"]
        self._send(at, RELAY, SERVER, 1, listed, ciaddr=ciaddr)

    def from_server(
        self, at: float, kind: str, address: str = "0.0.0.0", lease: int | None = None
    ) -> None:
        """An answer to the relay, which echoes its option (RFC 3046 section 2.2)."""
        listed: list[Any] = [("message-type", kind), ("server_id", SERVER)]
        listed += [("lease_time", lease)] if lease else []
        self._send(at, SERVER, RELAY, 2, [*listed, *self._agent, "end"], yiaddr=address)

    def leased(self, at: float, address: str, lease: int = 3600) -> None:
        """Discover to ACK; the ACK is 0.3 s after the Discover."""
        self.from_client(at, "discover")
        self.from_server(at + 0.1, "offer", address, lease)
        self.from_client(at + 0.2, "request", ("requested_addr", address))
        self.from_server(at + 0.3, "ack", address, lease)

    def renewed(self, at: float, address: str, lease: int = 3600) -> None:
        """A Request of the client, and 0.1 s later the ACK."""
        self.from_client(at, "request", ciaddr=address)
        self.from_server(at + 0.1, "ack", address, lease)

    def _send(
        self, at: float, src: str, dst: str, op: int, options: list[Any], **fields: str
    ) -> None:
        hardware = bytes.fromhex(self.mac.replace(":", ""))
        message = v4.BOOTP(op=op, xid=round(at), chaddr=hardware, giaddr=RELAY, **fields)
        packet = Ether(src=NODE, dst="02:00:00:00:00:0a") / IP(src=src, dst=dst)
        packet /= UDP(sport=67, dport=67) / message / v4.DHCP(options=options)
        self.frames.append((_ns(at), bytes(packet)))


class Dhcp6:
    """One client of DHCPv6 behind a relay that names its interface (RFC 8415 section 21.18)."""

    def __init__(self, mac: str = MAC, interface: str = "olt-3/1/7") -> None:
        self._mac, self._interface = mac, interface
        self.frames: Frames = []

    def from_client(self, at: float, kind: str, *identities: Any) -> None:
        message = getattr(v6, f"DHCP6_{kind}")(trid=round(at) & 0xFFFFFF)
        self._send(at, message, identities, v6.DHCP6_RelayForward(), RELAY6, SERVER6)

    def reply(self, at: float, *identities: Any) -> None:
        message = v6.DHCP6_Reply(trid=round(at) & 0xFFFFFF)
        self._send(at, message, identities, v6.DHCP6_RelayReply(), SERVER6, RELAY6)

    def _send(
        self, at: float, message: Any, identities: tuple[Any, ...], relay: Any, src: str, dst: str
    ) -> None:
        message /= v6.DHCP6OptClientId(duid=v6.DUID_LL(lladdr=self._mac))
        for each in identities:
            message /= each
        relay.linkaddr, relay.peeraddr = "::", "fe80::ff:fe00:7"
        relay /= v6.DHCP6OptIfaceId(ifaceid=self._interface.encode())
        inner = bytes(message)
        data = bytes(relay) + b"\0\x09" + len(inner).to_bytes(2, "big") + inner
        packet = Ether(src=NODE, dst="02:00:00:00:00:0a") / IPv6(src=src, dst=dst)
        self.frames.append((_ns(at), bytes(packet / UDP(sport=547, dport=547) / data)))


def address(text: str, valid_s: int) -> Any:
    """An IA_NA with one address."""
    return v6.DHCP6OptIA_NA(
        iaid=1, ianaopts=[v6.DHCP6OptIAAddress(addr=text, preflft=valid_s, validlft=valid_s)]
    )


def prefix(text: str, length: int, valid_s: int) -> Any:
    """An IA_PD with one prefix."""
    part = v6.DHCP6OptIAPrefix(prefix=text, plen=length, preflft=valid_s, validlft=valid_s)
    return v6.DHCP6OptIA_PD(iaid=1, iapdopt=[part])


PADI, PADO, PADR, PADS, PADT = 0x09, 0x07, 0x19, 0x65, 0xA7
IPCP, PAP = 0x8021, 0xC023
_LINE_TAG: Final = b"\x01\x05\x00\x0f\x00\x00\x0d\xe9\x01\x09olt-3/1/7"
"""Agent-Circuit-Id of the Broadband Forum's vendor tag (RFC 4679, TR-101)."""


class Pppoe:
    """One host and one access concentrator."""

    def __init__(self, session: int = 17, mac: str = MAC) -> None:
        self._session, self._mac = session, mac
        self.frames: Frames = []

    def opened(self, at: float) -> None:
        """PADI, PADO, PADR and, 0.3 s after the first, PADS."""
        for step, code in enumerate((PADI, PADO, PADR, PADS)):
            self.discovery(at + step / 10, code, code in (PADI, PADR))

    def discovery(self, at: float, code: int, up: bool) -> None:
        session = self._session if code in (PADS, PADT) else 0
        tags = b"\x01\x01\x00\x00" + (_LINE_TAG if code in (PADI, PADR) else b"")
        self._frame(at, up, 0x8863, bytes(PPPoED(code=code, sessionid=session) / tags))

    def control(self, at: float, protocol: int, body: bytes, up: bool) -> None:
        """A packet of PAP or IPCP within the session."""
        inner = protocol.to_bytes(2, "big") + body
        head = b"\x11\0" + self._session.to_bytes(2, "big") + len(inner).to_bytes(2, "big")
        self._frame(at, up, 0x8864, head + inner)

    def authenticated(self, at: float, user: str, password: str) -> None:
        """PAP's Authenticate-Request (RFC 1334 section 2.2.1)."""
        body = bytes((len(user),)) + user.encode() + bytes((len(password),)) + password.encode()
        head = b"\x01\x01" + (len(body) + 4).to_bytes(2, "big")
        self.control(at, PAP, head + body, up=True)

    def addressed(self, at: float, text: str) -> None:
        """The concentrator acknowledges the host's address (RFC 1332 section 3.3)."""
        option = b"\x03\x06" + bytes(map(int, text.split(".")))
        self.control(at, IPCP, b"\x02\x01\x00\x0a" + option, up=False)

    def _frame(self, at: float, up: bool, kind: int, data: bytes) -> None:
        ends = {"src": self._mac, "dst": NODE} if up else {"src": NODE, "dst": self._mac}
        self.frames.append((_ns(at), bytes(Ether(type=kind, **ends)) + data))
