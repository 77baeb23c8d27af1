"""radclient on the subscriber's side of the wire is the NAS, FreeRADIUS on the other the server."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.lab.netns import end
from tests.scenarios.live import CORE_V4, Stage, await_true

SECRET = "nobodys-secret"
CONFIG = """
prefix = /usr
libdir = /usr/lib/freeradius
logdir = "{folder}"
run_dir = "{folder}"
pidfile = "{folder}/freeradius.pid"
log {{
  destination = stdout
}}
security {{
  max_attributes = 200
}}
modules {{
  always ok {{
    rcode = ok
  }}
}}
client nas {{
  ipaddr = 100.64.0.0/24
  secret = "{secret}"
}}
server case {{
  listen {{
    type = auth
    ipaddr = {address}
    port = 1812
  }}
  listen {{
    type = acct
    ipaddr = {address}
    port = 1813
  }}
  authorize {{
    update control {{
      Auth-Type := Accept
    }}
    update reply {{
      Delegated-IPv6-Prefix := 2001:db8:64:100::/56
      Chargeable-User-Identity := "cui-7"
    }}
  }}
  preacct {{
    ok
  }}
  accounting {{
    ok
  }}
}}
"""
COMMON = (
    'User-Name = "line7@isp.example", NAS-Identifier = "bng-1", NAS-Port-Id = "ge-0/1:7",'
    ' Calling-Station-Id = "02-00-00-00-00-07"'
)
ACCOUNT = f'Acct-Session-Id = "live-1", {COMMON}, Framed-IP-Address = 100.64.0.99'
STOP = (
    "Acct-Status-Type = Stop, Acct-Session-Time = 0, Acct-Input-Octets = 1000,"
    " Acct-Output-Octets = 2147483648, Acct-Output-Gigawords = 1,"
    f" Acct-Terminate-Cause = User-Request, {ACCOUNT}"
)


def play(stage: Stage) -> None:
    """Access, Start, Stop; each is answered before the next."""
    folder = stage.scratch / "radius"
    folder.mkdir()
    (folder / "secret").write_text(SECRET + "\n")
    text = CONFIG.format(folder=folder, secret=SECRET, address=CORE_V4)
    (folder / "radiusd.conf").write_text(text)
    log = (folder / "log").open("w")
    argv = ["freeradius", "-d", str(folder), "-f", "-l", "stdout"]
    server = stage.core.popen(argv, stdout=log, stderr=subprocess.STDOUT)
    try:
        sockets = Path(f"/proc/{stage.core.pid}/net/udp")
        await_true("FreeRADIUS listens", lambda: ":0715 " in sockets.read_text())
        _ask(stage, folder, 1812, "auth", f'{COMMON}, User-Password = "never-kept-secret"')
        _ask(stage, folder, 1813, "acct", f"Acct-Status-Type = Start, {ACCOUNT}")
        _ask(stage, folder, 1813, "acct", STOP)
    finally:
        end(server)
        log.close()


def _ask(stage: Stage, folder: Path, port: int, kind: str, attributes: str) -> None:
    options = ["-q", "-4", "-r", "3", "-t", "5", "-S", str(folder / "secret")]
    stage.line.run("radclient", *options, f"{CORE_V4}:{port}", kind, stdin=attributes + "\n")
