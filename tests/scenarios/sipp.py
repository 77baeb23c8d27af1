"""Real calls of SIPp between the two ends of a stage, with the lab's own scenarios."""

from __future__ import annotations

from collections.abc import Callable

from tests.lab import sip
from tests.lab.netns import LabError, end
from tests.scenarios.live import CORE_V4, CORE_V6, LINE_V4, LINE_V6, Stage, await_true

A = "+442079460001"
TIMEOUT_S = 30


def call(
    on: Stage,
    outcome: str,
    *,
    b: str = "+442079460002",
    family: int = 4,
    tcp: bool = False,
    talk_ms: int = 500,
    change: Callable[[str], str] = lambda text: text,
) -> None:
    """One call from the line to the core; `change` edits the caller's scenario. LabError where
    SIPp says that it went otherwise than meant."""
    line, core = (LINE_V6, CORE_V6) if family == 6 else (LINE_V4, CORE_V4)
    uas, uac = on.scratch / "uas.xml", on.scratch / "uac.xml"
    uas.write_text(sip.UAS)
    uac.write_text(change(sip.caller_scenario(outcome, A, b, talk_ms, "scenario")))
    transport = ["-t", "t1" if tcp else "u1", "-p", str(sip.PORT), "-nostdin"]
    serve = ["env", "TERM=dumb", "sipp", "-sf", str(uas), "-i", core, "-mi", core, *transport]
    server = on.core.popen(serve, cwd=on.scratch)
    try:
        sockets = ["ss", "-Hlnt" if tcp else "-Hlnu", f"sport = :{sip.PORT}"]
        await_true("SIPp listens", lambda: bool(on.core.run(*sockets).strip()))
        remote = f"[{core}]" if family == 6 else core
        on.line.run(
            *["env", "TERM=dumb", "sipp", "-sf", str(uac), f"{remote}:{sip.PORT}"],
            *["-i", line, "-mi", line, *transport, "-m", "1"],
            *["-timeout", str(TIMEOUT_S), "-timeout_error"],
            timeout_s=TIMEOUT_S + 5,
        )
    except LabError as error:
        raise LabError(f"a call meant to end {outcome}: {error}") from error
    finally:
        end(server)
