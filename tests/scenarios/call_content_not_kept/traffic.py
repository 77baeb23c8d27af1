"""Messages, digits and keys are never stored."""

from __future__ import annotations

from tests.scenarios.sip import SECRET, Frames, Hop, merged


def frames() -> Frames:
    hop = Hop()
    note = Hop(call_id="m1@example.net", branch="m1")
    note.request(0, "MESSAGE", 1, "Content-Type: text/plain", to_tag="", body=SECRET)
    note.reply(0.1, 200, 1, method="MESSAGE")
    hop.answered(1, ring=2, answer=6)
    hop.request(8, "INFO", 2, "Content-Type: application/dtmf-relay", body=f"Signal=5 {SECRET}")
    hop.reply(8.1, 200, 2, method="INFO")
    hop.hung_up(16, 3)
    return merged(hop, note)
