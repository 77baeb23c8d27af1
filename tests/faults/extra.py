"""Another collector on the same router, with a name, a key, a spool and a page of its own.

It meters the same addresses as the main one, so its bytes are looked at by its name, not by bill.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from aggregator.config import load
from aggregator.pki import Issued
from aggregator.setup import enrol
from tests.faults.support import World, sample, wait_for
from tests.lab.appliance import METRICS_PORT, ROOT
from tests.lab.exchange import UDP_PORT
from tests.lab.netns import end
from tests.lab.relay import Relay
from tests.lab.topology import SERVERS_V4

IP_TRANSPARENT: Final = 19
"""socket option of linux/in.h: a socket may have any source address."""
STARTED: Final = "start_timestamp_seconds"
_PORTS: Final = iter(range(METRICS_PORT + 1, METRICS_PORT + 100))


class Extra:
    """A collector of its own; a context manager that ends it. `settings` go into its [spool]."""

    def __init__(self, world: World, name: str, spool: str = "") -> None:
        self.world, self.name = world, name
        self.folder = world.folder / name
        self.folder.mkdir()
        self.keys = self.folder / "keys"
        self.spool = self.folder / "spool"
        self.config = self.folder / "collector.toml"
        self.log = self.folder / "collector.log"
        self.process: subprocess.Popen[str] | None = None
        self.enrol()
        port = next(_PORTS)
        main = world.appliance
        text = main.collector_config.read_text()
        for old, new in (
            (r'^name = ".*"', f'name = "{name}"'),
            (r"^window_s = .*", "window_s = 1"),
            (r'^folder = ".*"', f'folder = "{self.spool}"\n{spool}'),
            (r'^ca = ".*"', f'ca = "{self.keys}/ca.pem"'),
            (r'^cert = ".*"', f'cert = "{self.keys}/{name}.pem"'),
            (r'^key = ".*"', f'key = "{self.keys}/{name}.key"'),
            (r'^listen = ".*"', f'listen = "127.0.0.1:{port}"'),
        ):
            text, count = re.subn(old, new, text, flags=re.MULTILINE)
            assert count == 1, old
        self.config.write_text(text)
        self.page = Relay(None, 0, world.lab.edge, port)

    def __enter__(self) -> Extra:
        self.page.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            end(self.process, 20.0)
        self.page.stop()

    def enrol(self) -> None:
        """A certificate of the appliance's authority, and its files where they are looked for."""
        enrol(load(self.world.appliance.config), self.name, self.keys)

    def popen(self, words: Sequence[str] = (), before: Sequence[str] = ()) -> subprocess.Popen[str]:
        """The collector's program on the router; `before` is what starts it."""
        words = words or ("tallyhold", "collector", "run")
        command = [*before, sys.executable, "-m", *words, "--config", str(self.config)]
        with self.log.open("a") as log:
            return self.world.lab.edge.popen(command, stdout=log, stderr=log, cwd=ROOT)

    def start(self, words: Sequence[str] = (), before: Sequence[str] = ()) -> None:
        """Start it and wait until it meters."""
        self.process = process = self.popen(words, before)

        def is_ready() -> bool:
            assert process.poll() is None, self.text()
            return self.metric(STARTED) > 0.0

        wait_for(f"{self.name} to meter", is_ready)

    def fails(self, before: Sequence[str] = ()) -> tuple[int, str]:
        """Exit code and words of a collector that does not start."""
        process = self.popen(before=before)
        try:
            return process.wait(30.0), self.text()
        finally:
            end(process)

    def text(self) -> str:
        """Everything it said."""
        return self.log.read_text()

    def says(self, words: str) -> None:
        """Wait until it says so."""
        wait_for(f"{self.name} to say: {words}", lambda: words in self.text())

    def metric(self, name: str, **labels: str) -> float:
        """A sample, 0 where there is none."""
        return sample(self.page.address[1], f"tallyhold_collector_{name}", **labels)

    def stored_octets(self) -> int:
        """Bytes from subscribers that the appliance has of this collector."""
        (row,) = self.world.rows(
            "SELECT sum(u.up_bytes) AS octets FROM usage AS u WHERE collector = %(name)s",
            name=self.name,
        )
        return int(row["octets"])

    def delivers(self, octets: int) -> None:
        """Wait until nothing is left in the spool and exactly so many bytes are stored."""
        wait_for(f"{self.name} to deliver", lambda: self.stored_octets() >= octets)
        assert self.stored_octets() == octets
        ledger = self.world.rows(
            "SELECT sequence FROM ingest_ledger WHERE collector = %(name)s ORDER BY sequence",
            name=self.name,
        )
        assert len({row["sequence"] for row in ledger}) == len(ledger)

    def use(self, other: Issued) -> None:
        """Use another certificate and key instead of its own."""
        shutil.copyfile(other.cert, self.keys / f"{self.name}.pem")
        shutil.copyfile(other.key, self.keys / f"{self.name}.key")


def burst(world: World, sources: Sequence[str], size: int = 500, times: int = 1) -> int:
    """Send datagrams from line 1, from each source address; gives their layer-3 bytes."""

    def send() -> None:
        for source in sources:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
                sender.bind((source, 0))
                for _ in range(times):
                    sender.sendto(b"-" * size, (SERVERS_V4[0], UDP_PORT))

    before, _ = world.lab.network.layer3(1)
    world.lab.network.homes[1].call(send)
    wait_for("the datagrams to pass", lambda: world.lab.network.layer3(1)[0] > before)
    after, _ = world.lab.network.layer3(1)
    assert after - before == len(sources) * times * (size + 28)
    return after - before
