"""PPPoE whose PADT is lost."""

from __future__ import annotations

from tests.scenarios.lines import PADT, Pppoe
from tests.scenarios.radius import in_order
from tests.scenarios.sip import Frames


def frames() -> Frames:
    before, after = Pppoe(17), Pppoe(18)
    before.opened(0)
    before.addressed(2, "100.64.0.7")
    after.opened(900)
    after.addressed(902, "100.64.0.7")
    after.discovery(1200, PADT, up=False)
    return in_order(before.frames, after.frames)
