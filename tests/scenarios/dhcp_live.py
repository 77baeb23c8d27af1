"""dnsmasq on the router's end of the stage and dhclient on the line's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tests.lab.netns import end
from tests.scenarios.live import Stage, await_true

_LEASE_S = 40.0


class Dnsmasq:
    """A server of one range on `acc`, which has `address` while the block runs."""

    def __init__(self, stage: Stage, address: str, ranges: str) -> None:
        self._stage, self._address, self._ranges = stage, address, ranges

    def __enter__(self) -> None:
        core, scratch = self._stage.core, self._stage.scratch
        core.run("ip", "addr", "add", self._address, "dev", "acc")
        leases = scratch / "dnsmasq.leases"
        leases.unlink(missing_ok=True)
        argv = ["dnsmasq", "-k", "-p", "0", "-i", "acc", "--bind-interfaces", "-u", "root"]
        argv += ["--conf-file=/dev/null", "--dhcp-authoritative", "--no-ping", "-F", self._ranges]
        argv += [f"--dhcp-leasefile={leases}", f"--pid-file={scratch / 'dnsmasq.pid'}"]
        self._log = (scratch / "dnsmasq.log").open("w")
        self._server = core.popen(argv, stdout=self._log, stderr=subprocess.STDOUT)
        table, port = ("udp6", ":0223 ") if ":" in self._address else ("udp", ":0043 ")
        sockets = Path(f"/proc/{core.pid}/net/{table}")
        await_true("dnsmasq listens", lambda: port in sockets.read_text())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end(self._server)
        self._log.close()
        self._stage.core.run("ip", "addr", "del", self._address, "dev", "acc")


def dhclient(stage: Stage, *options: str) -> None:
    """Run dhclient on `line` to its end; it configures nothing."""
    scratch = stage.scratch
    config = scratch / "dhclient.conf"
    config.write_text("initial-delay 0;\nbackoff-cutoff 2;\ntimeout 30;\n")
    files = ["-cf", str(config), "-lf", str(scratch / "dhclient.leases")]
    files += ["-pf", str(scratch / "dhclient.pid"), "-sf", "/bin/true"]
    stage.line.run("dhclient", *options, *files, "line", timeout_s=_LEASE_S)
    if "-1" in options:  # it goes on in the background, and would renew what the case releases
        stage.line.run("dhclient", options[0], "-x", *files, "line", accept=(0, 1))


@contextmanager
def link_local(stage: Stage) -> Iterator[None]:
    """Link-local addresses at both ends, which DHCPv6 speaks from."""
    ends = ((stage.line, "line", "fe80::7/64"), (stage.core, "acc", "fe80::1/64"))
    for namespace, device, address in ends:
        namespace.run("ip", "addr", "add", address, "dev", device, "nodad")
    try:
        yield
    finally:
        for namespace, device, address in ends:
            namespace.run("ip", "addr", "del", address, "dev", device)
