"""The lab as one thing: network, services, a day of traffic, and the truth about it.

    with Lab(folder) as lab:
        lab.edge_popen([...collector...])
        truth = lab.run_day(progress=print)

Call `netns.maybe_reexec_rootless()` at the top of a program that may not be root.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.lab import sip
from tests.lab.context import Context
from tests.lab.day import STORY_LINES, Day, default_day
from tests.lab.names import ALIASES, HOSTS
from tests.lab.netns import LabError, Namespace, Stream, end, require_programs
from tests.lab.radius import NAS_IDENTIFIER, Accounting
from tests.lab.relay import Relay
from tests.lab.runner import Chaos, ProgressCallback, play_day
from tests.lab.services import RADIUS_PORT, Services
from tests.lab.topology import (
    CORE_V4,
    DELEGATED_V6,
    EDGE_V4,
    NAT_PUBLIC_V4,
    NAT_V4,
    PUBLIC_V4,
    RESOLVER_V4,
    RESOLVER_V6,
    SIP_V4,
    SIP_V6,
    Network,
)
from tests.lab.truth import Truth

ACCESS_PREFIX_V6: Final = 64
COLLECTOR_GRACE_S: Final = 20.0
"""A collector that is told to stop may first write its last window."""


class Lab:
    """A running lab in `folder` (made if absent, and left with logs for whoever asks why).

    `day` is the script, `default_day(seed, wall_s, scale, subscribers)` if None; its subscribers
    are the lines of the network. A Lab is started once and plays any number of days.
    """

    def __init__(
        self,
        folder: Path,
        *,
        day: Day | None = None,
        seed: int = 1,
        wall_s: float = 50.0,
        scale: float = 1.0,
        subscribers: int = STORY_LINES,
    ) -> None:
        self.folder = folder
        self.day = default_day(seed, wall_s, scale, subscribers) if day is None else day
        self.network = Network(len(self.day.subscribers))
        self._secret = secrets.token_hex(16)
        self.services: Services | None = None
        self._stack = ExitStack()
        self._days = 0

    @property
    def edge(self) -> Namespace:
        """The router, where the collector runs."""
        return self.network.edge

    @property
    def core(self) -> Namespace:
        """The internet."""
        return self.network.core

    @property
    def radius_secret_file(self) -> Path:
        """Holds the shared secret of RADIUS, mode 600."""
        return self.folder / "radius" / "secret"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Build the network and start the services; on failure nothing is left running."""
        require_programs()
        self.day.check()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._stack.callback(self.network.stop)
            self.network.start()
            self.services = Services(self.core, self.folder.resolve(), self._secret)
            self._stack.callback(self.services.stop)
            self.services.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End what was started, newest first: relays and programs, services, network."""
        self._stack.close()

    def edge_popen(
        self,
        argv: Sequence[str],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program on the router; `stop()` ends it. Its pid is the program's own.

        May be called from any thread, as often as needed (a chaos action that starts it anew).
        """
        process = self.edge.popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env)
        self._stack.callback(end, process, COLLECTOR_GRACE_S)
        return process

    def relay(
        self,
        listen_in: Namespace | None,
        port: int,
        connect_in: Namespace | None,
        target: int,
    ) -> Relay:
        """Start a relay (see `Relay`; None is the host); `stop()` ends it."""
        made = Relay(listen_in, port, connect_in, target)
        made.start()
        self._stack.callback(made.stop)
        return made

    def run_day(self, progress: ProgressCallback | None = None, chaos: Chaos = ()) -> Truth:
        """Play the day; see `runner.play_day`. LabError if a service ended meanwhile."""
        services = self.services
        if services is None or services.certificate is None:
            raise LabError("the lab is not started")
        self._days += 1
        folder = (self.folder / f"day{self._days}").resolve()
        folder.mkdir()
        context = Context(
            self.network,
            Accounting(self.edge, self.radius_secret_file.resolve()),
            folder,
            services.certificate.chain,
            self.day.wall_s,
        )
        truth = play_day(context, self.day, progress, chaos)
        services.check()
        truth.write(folder / "truth.json")
        return truth

    def describe(self) -> dict[str, object]:
        """What the configuration of a collector on the edge needs to know."""
        return {
            "nas_identifier": NAS_IDENTIFIER,
            "access_interfaces": "acc*",
            "access_interface_names": [line.interface for line in self.network.lines.values()],
            "control_interface": "core0",
            "prefixes_v4": [str(PUBLIC_V4), str(NAT_V4)],
            "prefixes_v6": [str(DELEGATED_V6)],
            "v6_prefix_len": ACCESS_PREFIX_V6,
            "nat_inside_v4": str(NAT_V4),
            "nat_public_v4": NAT_PUBLIC_V4,
            "resolvers": [RESOLVER_V4, RESOLVER_V6],
            "edge_address": EDGE_V4,
            "radius_server": CORE_V4,
            "radius_port": RADIUS_PORT,
            "radius_secret_file": str(self.radius_secret_file.resolve()),
            "sip_servers": [SIP_V4, SIP_V6],
            "sip_port": sip.PORT,
            "hosts": sorted([*HOSTS, *ALIASES]),
            "subscribers": [subscriber.id for subscriber in self.day.subscribers],
        }
