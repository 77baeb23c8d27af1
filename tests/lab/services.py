"""The programs of the lab's internet: resolver, web, QUIC, RADIUS and SIP servers, all in `core`.

Each is started, then asked until it answers; one that does not shows the end of its log.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import dns.exception
import dns.message
import dns.query

from tests.lab import sip
from tests.lab.exchange import HTTP_PORT, TLS_PORT
from tests.lab.names import (
    ALIASES,
    BLOCK_DOMAIN,
    HOSTS,
    Certificate,
    block_text,
    make_certificate,
    policy_text,
    zone_text,
)
from tests.lab.netns import LabError, Namespace, end
from tests.lab.server import ServerConfig
from tests.lab.topology import (
    CORE_V4,
    PAGES_V4,
    PAGES_V6,
    RESOLVER_V4,
    RESOLVER_V6,
    SERVERS_V4,
    SERVERS_V6,
)

READY_TIMEOUT_S: Final = 15.0
"""The slowest service (aioquic's import) is ready within two seconds on a busy machine."""
READY_POLL_S: Final = 0.05
LOG_TAIL_BYTES: Final = 2000
RADIUS_PORT: Final = 1813
SERVERS: Final = (*SERVERS_V4, *SERVERS_V6, *PAGES_V4, *PAGES_V6)
ROOT: Final = Path(__file__).resolve().parents[2]

UNBOUND_CONF: Final = """
server:
  directory: "{folder}"
  chroot: ""
  username: ""
  pidfile: "{folder}/unbound.pid"
  logfile: ""
  use-syslog: no
  verbosity: 1
  num-threads: 1
  so-reuseport: no
  interface: {v4}
  interface: {v6}
  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  module-config: "respip iterator"
  local-zone: "test." nodefault
remote-control:
  control-enable: no
{zones}
"""
UNBOUND_POLICY: Final = """
rpz:
  name: "{name}"
  zonefile: "{folder}/{name}zone"
"""
POLICY_ZONE: Final = "policy.safeguard."
UNBOUND_ZONE: Final = """
auth-zone:
  name: "{name}"
  zonefile: "{folder}/{name}zone"
  for-downstream: no
  for-upstream: yes
  fallback-enabled: no
"""
RADIUSD_CONF: Final = """
prefix = /usr
libdir = /usr/lib/freeradius
logdir = "{folder}"
run_dir = "{folder}"
pidfile = "{folder}/freeradius.pid"
max_requests = 4096
hostname_lookups = no
log {{ destination = stdout }}
security {{
  max_attributes = 200
  status_server = yes
}}
modules {{
  always ok {{
    rcode = ok
  }}
}}
client edge {{
  ipaddr = 192.0.2.0/30
  secret = "{secret}"
}}
server lab {{
  listen {{
    type = acct
    ipaddr = {address}
    port = {port}
  }}
  preacct {{
    ok
  }}
  accounting {{
    ok
  }}
}}
"""


class Services:
    """Starts and ends every program in `core`; `folder` gets their configurations and logs."""

    def __init__(self, core: Namespace, folder: Path, radius_secret: str) -> None:
        self._core = core
        self._folder = folder
        self._secret = radius_secret
        self._stack = ExitStack()
        self._running: dict[str, subprocess.Popen[str]] = {}
        self.certificate: Certificate | None = None

    def start(self) -> None:
        """Start all, then wait until each answers; on failure all are ended again."""
        try:
            self.certificate = make_certificate(self._folder, [*HOSTS, *ALIASES])
            self._unbound()
            self._web()
            self._radius()
            self._sip()
            self._await("unbound", self._resolver_answers)
            self._await("web", lambda: self._accepts(HTTP_PORT) and self._accepts(TLS_PORT))
            self._await("quic", lambda: self.bound("udp", TLS_PORT))
            self._await("freeradius", self._radius_answers)
            for name, table in (("sip4", "udp"), ("sip6", "udp6")):
                self._await(name, partial(self.bound, table, sip.PORT))
            self.check()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every program."""
        self._stack.close()
        self._running.clear()

    def check(self) -> None:
        """Raise LabError if a service has ended, with the end of its log."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise LabError(f"{name} ended ({process.returncode}): {self._tail(name)}")

    def _launch(self, name: str, argv: Sequence[str], cwd: Path | None = None) -> None:
        with (self._folder / f"{name}.log").open("w") as log:
            process = self._core.popen(argv, stdout=log, stderr=subprocess.STDOUT, cwd=cwd)
        self._running[name] = process
        self._stack.callback(end, process)

    def _tail(self, name: str) -> str:
        data = (self._folder / f"{name}.log").read_bytes()[-LOG_TAIL_BYTES:]
        return data.decode("utf-8", "replace").strip() or "(its log is empty)"

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready():
            ended = self._running[name].poll()
            if ended is not None or time.monotonic() > deadline:
                state = "does not answer" if ended is None else f"ended with {ended}"
                raise LabError(f"{name} {state}: {self._tail(name)}")
            time.sleep(READY_POLL_S)

    def _unbound(self) -> None:
        folder = self._folder
        zones = ""
        for zone in ("example.", "test."):
            (folder / f"{zone}zone").write_text(zone_text(zone))
            zones += UNBOUND_ZONE.format(name=zone, folder=folder)
        # Local data is not looked at after a policy's CNAME, and without a zone of its own the
        # answer would wait for a recursion (seen with unbound 1.17).
        for zone, text, form in (
            (f"{BLOCK_DOMAIN}.", block_text(), UNBOUND_ZONE),
            (POLICY_ZONE, policy_text(POLICY_ZONE), UNBOUND_POLICY),
        ):
            (folder / f"{zone}zone").write_text(text)
            zones += form.format(name=zone, folder=folder)
        path = folder / "unbound.conf"
        path.write_text(
            UNBOUND_CONF.format(folder=folder, v4=RESOLVER_V4, v6=RESOLVER_V6, zones=zones)
        )
        self._launch("unbound", ["unbound", "-d", "-d", "-p", "-c", str(path)])

    def _resolver_answers(self) -> bool:
        query = dns.message.make_query("games.test", "A")

        def ask() -> bool:
            try:
                return bool(dns.query.udp(query, RESOLVER_V4, timeout=0.5).answer)
            except (OSError, dns.exception.DNSException):
                return False

        return self._core.call(ask)

    def _web(self) -> None:
        if self.certificate is None:
            raise LabError("the web servers need a certificate first")
        config = ServerConfig(SERVERS, str(self.certificate.chain), str(self.certificate.key))
        path = self._folder / "web.json"
        config.write(path)
        for name, module in (("web", "server"), ("quic", "quic_server")):
            argv = [sys.executable, "-m", f"tests.lab.{module}", str(path)]
            self._launch(name, argv, cwd=ROOT)

    def _accepts(self, port: int) -> bool:
        """Whether every web server takes connections (one that sends nothing is dropped)."""

        def knock() -> bool:
            try:
                for address in SERVERS:
                    socket.create_connection((address, port), timeout=0.5).close()
            except OSError:
                return False
            return True

        return self._core.call(knock)

    def _radius(self) -> None:
        folder = self._folder / "radius"
        folder.mkdir(mode=0o700)
        path = folder / "radiusd.conf"
        path.touch(0o600)
        path.write_text(
            RADIUSD_CONF.format(
                folder=folder, secret=self._secret, address=CORE_V4, port=RADIUS_PORT
            )
        )
        (folder / "secret").touch(0o600)
        (folder / "secret").write_text(self._secret + "\n")
        self._launch("freeradius", ["freeradius", "-d", str(folder), "-f", "-l", "stdout"])

    def _radius_answers(self) -> bool:
        """RFC 5997 Status-Server, from within core, so that the edge sees nothing of it."""
        options = ["-q", "-r", "1", "-t", "0.5", "-S", str(self._folder / "radius" / "secret")]
        process = self._core.popen(
            ["radclient", *options, f"{CORE_V4}:{RADIUS_PORT}", "status"], stdin=subprocess.PIPE
        )
        try:
            process.communicate("Message-Authenticator = 0x00\n", timeout=5.0)
        except subprocess.TimeoutExpired:
            return False
        finally:
            end(process)
        return process.returncode == 0

    def _sip(self) -> None:
        scenario = self._folder / "uas.xml"
        scenario.write_text(sip.UAS)
        for name, family in (("sip4", 4), ("sip6", 6)):
            errors = self._folder / f"{name}.errors"
            self._launch(name, sip.server_command(scenario, family, errors), cwd=self._folder)

    def bound(self, table: str, port: int) -> bool:
        """Whether some socket of /proc/net/{udp,udp6} in core has this local port."""
        lines = Path(f"/proc/{self._core.pid}/net/{table}").read_text().splitlines()[1:]
        return any(int(line.split()[1].rpartition(":")[2], 16) == port for line in lines)
