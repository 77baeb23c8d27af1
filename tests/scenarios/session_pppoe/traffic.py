"""PPPoE from PADI to PADT."""

from __future__ import annotations

from tests.scenarios.lines import PADT, Pppoe
from tests.scenarios.sip import Frames


def frames() -> Frames:
    host = Pppoe()
    host.opened(0)
    host.authenticated(1, "line7@isp", "never-kept-secret")
    host.addressed(2, "100.64.0.7")
    host.discovery(600, PADT, up=True)
    host.discovery(600.1, PADT, up=False)
    return host.frames
