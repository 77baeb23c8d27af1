"""One subscriber's day, step by step, and what the lab saw of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from tests.lab import sip
from tests.lab.context import Context, Halted
from tests.lab.day import (
    HOURS,
    Call,
    Connect,
    Disconnect,
    Fetch,
    Interim,
    Lookup,
    Step,
    Stream,
    Subscriber,
)
from tests.lab.netns import LabError
from tests.lab.radius import AccountedSession
from tests.lab.services import ROOT
from tests.lab.topology import NAT_V4, delegated
from tests.lab.truth import CallTruth, SessionTruth, SubscriberTruth

QUIET_POLL_S: Final = 0.4
QUIET_TIMEOUT_S: Final = 20.0
"""The longest time-out of an ended flow is 5 s (topology.CONNTRACK_SYSCTLS)."""


class Player:
    """One subscriber's day."""

    def __init__(self, context: Context, subscriber: Subscriber) -> None:
        self._context = context
        self._network = context.network
        self._me = subscriber
        self._home = context.network.homes[subscriber.line]
        self._agent: subprocess.Popen[str] | None = None
        self._session: AccountedSession | None = None
        self._since_ns = 0
        self._base = (0, 0)
        self._sessions: list[SessionTruth] = []
        self._hosts: Counter[str] = Counter()
        self._reached: Counter[str] = Counter()
        self._looked_up: list[str] = []
        self._errors: list[str] = []
        self.calls: list[CallTruth] = []

    def prepare(self) -> None:
        """Start the subscriber's program and wait until it has loaded."""
        quic = any(isinstance(s, Fetch) and s.kind == "quic" for s in self._me.steps)
        argv = [sys.executable, "-m", "tests.lab.agent", *(["--quic"] if quic else [])]
        with (self._context.folder / f"{self._me.id}.log").open("w") as log:
            self._agent = self._context.popen(
                self._home,
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
            )

    def ready(self) -> None:
        """Wait for `prepare` to have worked."""
        self._hear()

    def play(self) -> None:
        """Do every step at its hour; a step that fails is noted and the day goes on."""
        for step in self._me.steps:
            try:
                self._context.wait_until(step.at / HOURS)
                text = self._do(step)
                self._context.tell(self._me.id, text)
            except Halted:
                return
            except LabError as error:
                if self._context.halt.is_set():
                    return
                self._errors.append(f"at {step.at}: {type(step).__name__}: {error}")
                self._context.tell(self._me.id, self._errors[-1], ok=False)

    def close(self) -> None:
        """End the subscriber's program."""
        if self._agent is not None:
            self._context.end(self._agent)
            self._agent = None

    def truth(self, begin: tuple[int, int]) -> SubscriberTruth:
        """What happened since the line's counters stood at `begin`; call when all is quiet.

        LabError if bytes passed outside any session: then the script, or the lab, is at fault.
        """
        up, down = (
            now - then for now, then in zip(self._network.layer3(self._me.line), begin, strict=True)
        )
        inside = [(s.up_bytes, s.down_bytes) for s in self._sessions]
        if (up, down) != (sum(u for u, _ in inside), sum(d for _, d in inside)):
            raise LabError(f"{self._me.id}: {up} up, {down} down, but in sessions {inside}")
        v4 = [s.v4 for s in self._sessions if s.v4]
        v6 = [s.v6 for s in self._sessions if s.v6]
        return SubscriberTruth(
            id=self._me.id,
            line=self._me.line,
            family="dual" if v4 and v6 else "v6" if v6 else "v4",
            nat=any(_in_nat(address) for address in v4),
            up_bytes=up,
            down_bytes=down,
            connected_s=sum(s.connected_s for s in self._sessions),
            hosts=dict(sorted(self._hosts.items())),
            reached=dict(sorted(self._reached.items())),
            looked_up=tuple(sorted(set(self._looked_up))),
            sessions=tuple(self._sessions),
            errors=tuple(self._errors),
        )

    def _do(self, step: Step) -> str:
        if isinstance(step, Connect):
            return self._connect(step)
        if isinstance(step, Disconnect):
            return self._disconnect(step)
        if isinstance(step, Interim):
            return self._interim()
        if isinstance(step, Call):
            return self._call(step)
        return self._ask(step)

    def _used(self) -> tuple[int, int]:
        up, down = self._network.layer3(self._me.line)
        return up - self._base[0], down - self._base[1]

    def _connect(self, step: Connect) -> str:
        addresses = [a for a in (step.v4, step.v6) if a is not None]
        self._context.hold(self._me.id, addresses)
        self._network.assign(self._me.line, step.v4, step.v6)
        number = len(self._sessions) + 1
        session_id = f"{self._context.run_id}-{self._me.line:04X}-{number:02X}"
        session = AccountedSession(session_id, self._me.id, self._me.line, step.v4, step.v6)
        self._base = self._network.layer3(self._me.line)
        self._since_ns = self._context.accounting.start(session)
        self._session = session
        return f"connected with {' and '.join(addresses)}"

    def _current(self) -> AccountedSession:
        if self._session is None:
            raise LabError("not connected")
        return self._session

    def _interim(self) -> str:
        self._context.accounting.interim(self._current(), self._since_ns, *self._used())
        return "interim accounting"

    def _disconnect(self, step: Disconnect) -> str:
        session = self._current()
        addresses = [a for a in (session.v4, session.v6) if a is not None]
        self._wait_quiet(addresses)
        up, down = self._used()
        stopped = self._context.accounting.stop(session, self._since_ns, up, down, step.cause)
        self._network.withdraw(self._me.line, session.v4, session.v6)
        self._sessions.append(
            SessionTruth(
                session_id=session.session_id,
                interface=self._network.lines[self._me.line].interface,
                v4=session.v4,
                v6=session.v6,
                v6_prefix=None if session.v6 is None else delegated(session.v6),
                start_ns=self._since_ns,
                stop_ns=stopped,
                up_bytes=up,
                down_bytes=down,
            )
        )
        self._session = None
        self._context.free(addresses)
        return f"disconnected: {up:,} bytes up, {down:,} down"

    def _wait_quiet(self, addresses: Sequence[str]) -> None:
        """Until no flow of these addresses is left on the router and the counters stand still."""
        deadline = time.monotonic() + QUIET_TIMEOUT_S
        last = (-1, -1)
        while True:
            now = self._used()
            if now == last and not any(self._flows(address) for address in addresses):
                return
            if time.monotonic() > deadline:
                raise LabError("flows are still open")
            last = now
            if self._context.halt.wait(QUIET_POLL_S):
                raise Halted("the day was stopped")

    def _flows(self, address: str) -> str:
        family = "ipv6" if ":" in address else "ipv4"
        # 1 is "no such entry" in some versions, with nothing printed
        return self._network.edge.run(
            *["conntrack", "-L", "-f", family, "--orig-src", address], accept=(0, 1)
        ).strip()

    def _call(self, step: Call) -> str:
        session = self._current()
        local = session.v6 if step.family == 6 else session.v4
        if local is None:
            raise LabError(f"no IPv{step.family} address to call from")
        stem = f"{self._me.id}-call{len(self.calls) + 1}"
        folder = self._context.folder
        scenario, log = folder / f"{stem}.xml", folder / f"{stem}.csv"
        scenario.write_text(sip.caller_scenario(step.outcome, step.a, step.b, step.hold_ms, stem))
        process = self._context.popen(
            self._home,
            sip.caller_command(scenario, local, log),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        try:
            code = process.wait(sip.CALL_TIMEOUT_S + 5)
        except subprocess.TimeoutExpired as error:
            raise LabError("SIPp did not end") from error
        finally:
            self._context.end(process)
        if code != 0:
            raise LabError(f"SIPp ended with {code}; see {log.with_suffix('.errors').name}")
        call = sip.read_call(log, self._me.id, step.a, step.b, step.outcome)
        self.calls.append(call)
        return f"call {step.outcome.lower()}, talk {call.talk_ms} ms"

    def _ask(self, step: Fetch | Lookup | Stream) -> str:
        """Have the subscriber's program do a step."""
        agent = self._agent
        if agent is None or agent.stdin is None:
            raise LabError("the subscriber's program is not there")
        self._current()
        order = asdict(step) | {"do": type(step).__name__.lower(), "ca": str(self._context.ca)}
        try:
            agent.stdin.write(json.dumps(order) + "\n")
            agent.stdin.flush()
        except BrokenPipeError as error:
            raise LabError("the subscriber's program has ended") from error
        result = self._hear()
        self._hosts.update(result.get("hosts", {}))
        self._reached.update(result.get("reached", {}))
        if not result["ok"]:
            raise LabError(str(result.get("error", "failed")))
        if isinstance(step, Lookup):
            self._looked_up += step.hosts
            return f"looked up {len(step.hosts)} names"
        if isinstance(step, Stream):
            return f"UDP {step.direction}: {result['note']}"
        way = f"{step.up:,} bytes up" if step.up else f"{step.down:,} bytes down"
        return f"{step.kind} x {step.times}: {way}"

    def _hear(self) -> dict[str, Any]:
        agent = self._agent
        line = "" if agent is None or agent.stdout is None else agent.stdout.readline()
        if not line:
            raise LabError(f"the subscriber's program has ended; see {self._me.id}.log")
        result: dict[str, Any] = json.loads(line)
        return result


def _in_nat(address: str) -> bool:
    """Whether the router translates this address."""
    return address.startswith(str(NAT_V4.network_address).rpartition(".")[0] + ".")
