"""The meters that `bench.whole` compares: how each is started on a router's interface, and what it
says it has counted.

All run in the foreground and write what they find: ours into its spool, nfpcapd, pmacctd, ulogd2
and nfstream into files, softflowd to an address where nobody listens. Packets counted are those of
UDP. softflowd, whose statistics say it while it runs, has a few of ICMP among them. nfstream tells
flows when a later packet finds them idle, and none at its end, so what it counted may be less than
what it saw.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.collector.rig import spooled, write_config

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
        out.write(f"{flow.protocol},{flow.src2dst_packets},{flow.src2dst_bytes}\\n")
"""


_UDP: Final = 17


@dataclass(frozen=True, slots=True)
class Meter:
    """How to start one; `command(folder)` writes what it needs there and gives its command line.
    `counted(folder)`: the packets it found, once it has ended or, where `tells`, while it runs."""

    name: str
    package: str
    program: str
    command: Callable[[Path], list[str]]
    counted: Callable[[Path], int]
    tells: bool = False


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


def in_spool(folder: Path) -> int:
    return sum(row["up_packets"] for row in spooled(folder)["usage"])


def in_statistics(folder: Path) -> int:
    said = output("softflowctl", "-c", str(folder / "ctl"), "statistics")
    found = re.search(r"^Packets processed: (\d+)$", said, re.MULTILINE)
    return int(found[1]) if found else 0


def in_nfdump(folder: Path) -> int:
    words = ["-q", "-N", "-o", "fmt:%pkt", "proto udp"]
    return sum(map(int, output("nfdump", "-R", str(folder / "flows"), *words).split()))


def in_table(folder: Path) -> int:
    return total(line.split() for line in (folder / "flows.txt").read_text().splitlines())


def in_json(folder: Path) -> int:
    flows = map(json.loads, (folder / "flows.json").read_text().splitlines())
    return sum(each["orig.raw.pktcount"] for each in flows if each["orig.ip.protocol"] == _UDP)


def in_csv(folder: Path) -> int:
    lines = (line.split(",") for line in (folder / "flows.csv").read_text().splitlines())
    return sum(int(packets) for protocol, packets, _ in lines if int(protocol) == _UDP)


def total(rows: Iterable[list[str]]) -> int:
    """Of pmacctd's table: protocol, packets and bytes are the last columns."""
    return sum(int(row[-2]) for row in rows if len(row) > 3 and row[-3] == "udp")


def output(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


OURS: Final = Meter("ours", "tallyhold", sys.executable, ours, in_spool)
PEERS: Final = (
    Meter("softflowd", "softflowd", "softflowd", softflowd, in_statistics, tells=True),
    Meter("nfpcapd", "nfdump", "nfpcapd", nfpcapd, in_nfdump),
    Meter("pmacctd", "pmacct", "pmacctd", pmacctd, in_table),
    Meter("ulogd2", "ulogd2", "ulogd", ulogd2, in_json),
    Meter("nfstream", "nfstream", str(NFSTREAM_PYTHON), nfstream, in_csv),
)
