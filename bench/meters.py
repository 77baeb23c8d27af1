"""The meters that `bench.whole` compares: how each is started on a router's interface.

All run in the foreground and write what they find: ours into its spool, nfpcapd, pmacctd, ulogd2
and nfstream into files, softflowd to an address where nobody listens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.collector.rig import write_config

NFSTREAM_PYTHON: Final = Path(".venv-bench/bin/python")
"""nfstream pins libraries of its own, so it has an environment of its own."""
_PMACCTD: Final = """\
daemonize: false
pcap_interface: acc0
plugins: print
aggregate: src_host, dst_host, src_port, dst_port, proto
print_refresh_time: 300
print_cache_entries: 65537
print_output_file: {folder}/flows.txt
"""
_ULOGD: Final = """\
[global]
logfile="{folder}/ulogd.log"
stack=ct:NFCT,ip:IP2STR,out:JSON
plugin="/usr/lib/x86_64-linux-gnu/ulogd/ulogd_inpflow_NFCT.so"
plugin="/usr/lib/x86_64-linux-gnu/ulogd/ulogd_filter_IP2STR.so"
plugin="/usr/lib/x86_64-linux-gnu/ulogd/ulogd_output_JSON.so"
[ct]
event_mask=0x00000004
hash_enable=0
netlink_socket_buffer_size=33554432
netlink_socket_buffer_maxsize=134217728
[out]
sync=0
file="{folder}/flows.json"
"""
_NFSTREAM: Final = """\
import sys
from nfstream import NFStreamer
with open(sys.argv[1], "w") as out:
    for flow in NFStreamer(source="acc0", n_dissections=20, n_meters=1, idle_timeout=1):
        out.write(f"{flow.src_ip},{flow.dst_ip},{flow.bidirectional_bytes}\\n")
"""


@dataclass(frozen=True, slots=True)
class Meter:
    """How to start one; `made(folder)` writes what it needs there and gives its command line."""

    name: str
    package: str
    program: str
    command: Callable[[Path], list[str]]


def ours(folder: Path) -> list[str]:
    path = write_config(folder)
    return [sys.executable, "-m", "tallyhold", "collector", "run", "--config", str(path)]


def softflowd(folder: Path) -> list[str]:
    files = ["-p", str(folder / "pid"), "-c", str(folder / "ctl")]
    return ["softflowd", "-d", "-i", "acc0", "-n", "127.0.0.1:9995", *files]


def nfpcapd(folder: Path) -> list[str]:
    flows = folder / "flows"
    flows.mkdir()
    return ["nfpcapd", "-i", "acc0", "-w", str(flows)]


def pmacctd(folder: Path) -> list[str]:
    path = folder / "pmacctd.conf"
    path.write_text(_PMACCTD.format(folder=folder))
    return ["pmacctd", "-f", str(path)]


def ulogd2(folder: Path) -> list[str]:
    path = folder / "ulogd.conf"
    path.write_text(_ULOGD.format(folder=folder))
    return ["ulogd", "-c", str(path)]


def nfstream(folder: Path) -> list[str]:
    path = folder / "stream.py"
    path.write_text(_NFSTREAM)
    return [str(NFSTREAM_PYTHON.absolute()), str(path), str(folder / "flows.csv")]


OURS: Final = Meter("ours", "tallyhold", sys.executable, ours)
PEERS: Final = (
    Meter("softflowd", "softflowd", "softflowd", softflowd),
    Meter("nfpcapd", "nfdump", "nfpcapd", nfpcapd),
    Meter("pmacctd", "pmacct", "pmacctd", pmacctd),
    Meter("ulogd2", "ulogd2", "ulogd", ulogd2),
    Meter("nfstream", "nfstream", str(NFSTREAM_PYTHON), nfstream),
)
