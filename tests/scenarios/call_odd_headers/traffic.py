"""Compact, folded and oddly spaced headers."""

from __future__ import annotations

from tests.scenarios.sip import Frames, Hop, merged

ODD = """INVITE sip:+442079460002@example.net SIP/2.0
v  : SIP / 2.0 / UDP 100.64.0.7 ; branch=z9hG4bK-odd
f:\t"A, B; <tag=no>" <sip:+442079460001@example.net>
 ;tag=alice
t :
  <sip:+442079460002@example.net>
i: odd@example.net
cSeQ:   1
\tINVITE
X-Rubbish;: ,,,<">\t
l: 0

"""
ODD_BUSY = """SIP/2.0 486 Busy Here
Via: SIP/2.0/UDP 100.64.0.7;branch=z9hG4bK-odd
From: <sip:+442079460001@example.net>;tag=alice
To: <sip:+442079460002@example.net>;tag=bob
Call-ID: odd@example.net
CSeq: 1 INVITE

"""


def frames() -> Frames:
    hop = Hop()
    hop.say(0, ODD.replace("\n", "\r\n"))
    hop.say(2, ODD_BUSY, back=True)
    return merged(hop)
