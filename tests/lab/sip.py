"""Telephone calls by SIPp: scenarios with known outcomes, and what its own log says of them.

The called number decides what the other side does (the last three digits are the SIP status):
...486 is busy, ...480 does not answer, ...487 rings until it is cancelled, others answer.
Numbers are from Ofcom's range for drama, 020 7946 0000 to 0999.
"""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Final

from tests.lab.netns import LabError
from tests.lab.topology import SIP_V4, SIP_V6
from tests.lab.truth import CallTruth

PORT: Final = 5060
CALL_TIMEOUT_S: Final = 30
"""No call of the lab lasts longer; SIPp then ends with an error."""
RING_MS: Final = 600
"""From ringing to answer."""
NO_ANSWER_RING_MS: Final = 1500

ANSWERED, BUSY, CANCELLED, NO_ANSWER = "ANSWERED", "BUSY", "CANCELLED", "NO_ANSWER"
OUTCOMES: Final = {ANSWERED: 200, BUSY: 486, CANCELLED: 487, NO_ANSWER: 480}

_ECHO: Final = """[last_Via:]
[last_From:]
[last_To:];tag=[pid]labUas[call_number]
[last_Call-ID:]
"""
_LATER: Final = _ECHO.replace(";tag=[pid]labUas[call_number]", "")
_SDP: Final = """Content-Type: application/sdp
Content-Length: [len]

v=0
o=lab 1 1 IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[media_ip_type] [media_ip]
t=0 0
m=audio [media_port] RTP/AVP 8
a=rtpmap:8 PCMA/8000
"""


def _send(text: str, attributes: str = "") -> str:
    return f"<send{attributes}><![CDATA[\n{text}\n]]></send>\n"


def _reply(status: str, cseq: str = "[last_CSeq:]", body: str = "", *, later: bool = False) -> str:
    contact = "Contact: <sip:[local_ip]:[local_port]>\n"
    head = f"SIP/2.0 {status}\n{_LATER if later else _ECHO}{cseq}\n{contact}"
    return head + (body or "Content-Length: 0\n")


def _branch(status: int, name: str) -> str:
    return (
        f'<ereg regexp="sip:[+0-9]*{status}@" search_in="hdr" header="To:" '
        f'check_it="false" assign_to="{name}"/>'
    )


UAS: Final = f"""<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="lab uas">
<recv request="INVITE" crlf="true"><action>
{_branch(486, "busy")}{_branch(480, "absent")}{_branch(487, "abandoned")}
</action></recv>
<nop next="busy" test="busy"/>
{_send(_reply("180 Ringing"))}
<nop next="absent" test="absent"/>
<nop next="abandoned" test="abandoned"/>
<pause milliseconds="{RING_MS}"/>
{_send(_reply("200 OK", body=_SDP), ' retrans="500"')}
<recv request="ACK"/>
<recv request="BYE"/>
{_send(_reply("200 OK", later=True), ' next="over"')}
<label id="busy"/>
{_send(_reply("486 Busy Here"), ' retrans="500"')}
<recv request="ACK" next="over"/>
<label id="absent"/>
<pause milliseconds="{NO_ANSWER_RING_MS}"/>
{_send(_reply("480 Temporarily Unavailable"), ' retrans="500"')}
<recv request="ACK" next="over"/>
<label id="abandoned"/>
<recv request="CANCEL"/>
{_send(_reply("200 OK"))}
{_send(_reply("487 Request Terminated", "CSeq: 1 INVITE"), ' retrans="500"')}
<recv request="ACK"/>
<label id="over"/>
<timewait milliseconds="100"/>
</scenario>
"""

_DIALOG: Final = """Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=z9hG4bK-$tag-$turn
From: <sip:$a@[local_ip]:[local_port]>;tag=[pid]labUac[call_number]
To: <sip:$b@[remote_ip]:[remote_port]>$peer
Call-ID: [call_id]
CSeq: $cseq $method
Contact: <sip:$a@[local_ip]:[local_port]>
Max-Forwards: 70
"""


def server_command(scenario: Path, family: int, errors: Path) -> list[str]:
    """SIPp as the called side of every call, for ever."""
    address = SIP_V6 if family == 6 else SIP_V4
    # Two instances share core: each needs its own control and media ports.
    control, media = ("8889", "7000") if family == 6 else ("8888", "6000")
    return [
        *["env", "TERM=dumb", "sipp", "-sf", str(scenario), "-i", address, "-mi", address],
        *["-p", str(PORT), "-cp", control, "-mp", media, "-nostdin"],
        *["-trace_err", "-error_file", str(errors)],
    ]


def caller_command(scenario: Path, local: str, log: Path) -> list[str]:
    """SIPp as the caller of one call from address `local`; `log` gets its short messages."""
    remote = f"[{SIP_V6}]" if ":" in local else SIP_V4
    return [
        *["env", "TERM=dumb", "sipp", "-sf", str(scenario), f"{remote}:{PORT}"],
        *["-i", local, "-mi", local, "-p", str(PORT), "-m", "1", "-nostdin"],
        *["-timeout", str(CALL_TIMEOUT_S), "-timeout_error"],
        *["-trace_shortmsg", "-shortmessage_file", str(log)],
        *["-trace_err", "-error_file", str(log.with_suffix(".errors"))],
    ]


def caller_scenario(outcome: str, a: str, b: str, talk_ms: int, tag: str) -> str:
    """The caller's side of one call. `talk_ms` is the pause before the BYE or the CANCEL.

    `tag` makes the Via branches unique: a CANCEL and the ACK of a refusal repeat the branch of
    their INVITE, others have one of their own (RFC 3261 sections 8.1.1.7, 9.1, 17.1.1.3).
    """

    def request(method: str, turn: str, cseq: int = 1, peer: str = "", body: str = "") -> str:
        uri = "sip:$b@[remote_ip]:[remote_port]"
        text = f"{method} {uri} SIP/2.0\n{_DIALOG}{body or 'Content-Length: 0' + chr(10)}"
        return Template(text).substitute(
            a=a, b=b, tag=tag, turn=turn, cseq=cseq, method=method, peer=peer
        )

    def invite() -> str:
        return _send(request("INVITE", "1", body=_SDP), ' retrans="500"')

    def ack(turn: str) -> str:
        return _send(request("ACK", turn, peer="[peer_tag_param]"))

    ringing = '<recv response="100" optional="true"/>\n<recv response="180" optional="true"/>\n'
    final = f'<recv response="{OUTCOMES[outcome]}" rrs="true"/>\n'
    pause = f'<pause milliseconds="{talk_ms}"/>\n'
    if outcome == ANSWERED:
        bye = _send(request("BYE", "3", 2, "[peer_tag_param]"), ' retrans="500"')
        steps = [invite(), ringing, final, ack("2"), pause, bye, '<recv response="200"/>\n']
    elif outcome == CANCELLED:
        cancel = _send(request("CANCEL", "1"), ' retrans="500"')
        rung = '<recv response="180"/>\n'
        steps = [invite(), rung, pause, cancel, '<recv response="200"/>\n', final, ack("1")]
    else:
        steps = [invite(), ringing, final, ack("1")]
    head = '<?xml version="1.0" encoding="ISO-8859-1" ?>\n<scenario name="lab uac">\n'
    return head + "".join(steps) + "</scenario>\n"


def read_call(log: Path, subscriber: str, a: str, b: str, outcome: str) -> CallTruth:
    """What SIPp's short message log says of one call; LabError if it is not what was meant.

    A line: date, time, UTC seconds, S or R, Call-ID, CSeq header, start line, tab-separated.
    """
    start = answer = finish = final = 0
    for line in log.read_text().splitlines():
        _, _, seconds, way, _, cseq, message = line.split("\t")[:7]
        whole, _, fraction = seconds.partition(".")
        when = int(whole) * 1_000_000_000 + int(fraction.ljust(9, "0"))
        code = int(message.split()[1]) if message.startswith("SIP/2.0") else 0
        if way == "S" and message.startswith("INVITE "):
            start = start or when
        elif way == "R" and cseq.endswith(" INVITE") and code >= 200 and not final:
            final, answer, finish = code, when if code == 200 else 0, when
        elif way == "S" and message.startswith("BYE "):
            finish = when
    if final != OUTCOMES[outcome]:
        raise LabError(f"a call meant to end {outcome} ended with status {final}")
    answered = bool(answer)
    talk_ms = round((finish - answer) / 1e6) if answered else 0
    return CallTruth(subscriber, a, b, answered, talk_ms, outcome, start, answer, finish)
