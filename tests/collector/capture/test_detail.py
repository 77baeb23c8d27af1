"""Detail files as they grow: halves, rotation, truncation, restarts, and FreeRADIUS itself."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.capture.detail import DetailFiles
from collector.parse.radius import Accounting
from collector.track.trackers import Trackers, TrackersConfig
from tests.lab.netns import Namespace, end

T0 = 1_800_000_000


def record(number: int, status: str = "Start", extra: str = "", at: int = T0) -> bytes:
    return (
        f"Sat Nov 28 12:00:00 2026\n\tAcct-Status-Type = {status}\n"
        f'\tAcct-Session-Id = "s{number}"\n\tNAS-IP-Address = 192.0.2.1\n{extra}'
        f"\tTimestamp = {at + number}\n\n"
    ).encode()


class Reader:
    """A reader with its trackers, as the service has them; a new one is a restart."""

    def __init__(self, pattern: str, before: Reader | None = None) -> None:
        self.trackers = Trackers(TrackersConfig((), 300 * 10**9), T0 * 10**9)
        if before is not None:
            self.trackers.restore(json.loads(json.dumps(before.trackers.snapshot())), T0 * 10**9)
        self.files = DetailFiles((pattern,), time.time_ns, lambda: 0.0)
        self.files.start(self.trackers.places)

    def sessions(self) -> list[str]:
        """The sessions of the records that were added; each is taken in, as the journal would."""
        self.files._due_s = 0.0
        found = []
        for kind, payload in self.files.read(10_000):
            self.trackers.apply(kind, json.loads(json.dumps(payload)), 0)
            if payload["event"]:
                found.append(payload["event"]["profile"]["session_id"])
        counts = self.files.counts
        assert counts["seen"] == counts["recorded"] + counts["ignored"] + counts["lost"]
        return found

    def reasons(self) -> list[str]:
        return [loss.reason for loss in self.files.losses()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "client").mkdir()
    return tmp_path / "client" / "detail"


@pytest.fixture
def reader(path: Path) -> Iterator[Reader]:
    made = Reader(f"{path.parent}/detail*")
    yield made
    made.files.stop()


def append(path: Path, *data: bytes) -> None:
    with path.open("ab") as file:
        file.write(b"".join(data))


def test_a_file_that_appears_is_read_from_its_start_and_as_it_grows(
    reader: Reader, path: Path
) -> None:
    assert reader.sessions() == []
    append(path, record(1), record(2, "Interim-Update"))
    assert reader.sessions() == ["s1", "s2"]
    assert reader.sessions() == []
    append(path, record(3, "Stop"))
    assert reader.sessions() == ["s3"]


def test_what_stood_there_at_the_first_start_is_history(path: Path) -> None:
    append(path, record(1), record(2)[:-5])
    reader = Reader(f"{path.parent}/detail*")
    append(path, record(2)[-5:], record(3))
    assert reader.sessions() == ["s2", "s3"]
    reader.files.stop()


@pytest.mark.parametrize("cut", range(1, len(record(2)), 17))
def test_half_a_record_waits_for_its_other_half(reader: Reader, path: Path, cut: int) -> None:
    append(path, record(1), record(2)[:cut])
    assert reader.sessions() == ["s1"]
    append(path, record(2)[cut:])
    assert reader.sessions() == ["s2"]
    assert reader.files.counts["malformed"] == 0


def test_rotation_reads_the_old_file_to_its_end(reader: Reader, path: Path) -> None:
    append(path, record(1))
    assert reader.sessions() == ["s1"]
    append(path, record(2))
    path.rename(path.parent / "old.1")
    append(path, record(3))
    assert sorted(reader.sessions()) == ["s2", "s3"]
    append(path.parent / "old.1", record(4))  # the server had it open still
    assert reader.sessions() == ["s4"]


def test_a_half_record_in_a_file_that_goes_is_told(reader: Reader, path: Path) -> None:
    append(path, record(1), record(2)[:20])
    assert reader.sessions() == ["s1"]
    path.unlink()
    assert reader.sessions() == []
    assert reader.reasons() == ["detail-cut"]


def test_truncation_is_told_and_reading_goes_on(reader: Reader, path: Path) -> None:
    append(path, record(1), record(2))
    assert reader.sessions() == ["s1", "s2"]
    path.write_bytes(record(3))
    assert reader.sessions() == ["s3"]
    assert reader.reasons() == ["detail-truncated"]


def test_a_restart_goes_on_behind_what_was_taken_in(reader: Reader, path: Path) -> None:
    append(path, record(1), record(2)[:9])
    assert reader.sessions() == ["s1"]
    reader.files.stop()
    append(path, record(2)[9:], record(3))
    path.rename(path.parent / "archive")
    append(path, record(4))
    after = Reader(f"{path.parent}/detail*", before=reader)
    assert sorted(after.sessions()) == ["s2", "s3", "s4"]
    after.files.stop()


def test_another_file_with_the_number_of_one_that_is_gone(path: Path) -> None:
    reader = Reader(f"{path.parent}/detail*")
    append(path, record(1))
    assert reader.sessions() == ["s1"]
    places = reader.trackers.places
    for place in places.values():
        place[3] = "0" * 16  # the first line was another
    after = Reader(f"{path.parent}/detail*", before=reader)
    assert after.sessions() == ["s1"]
    after.files.stop()
    reader.files.stop()


def test_rubbish_is_counted_and_bounded(reader: Reader, path: Path) -> None:
    append(path, b"no\nrecord\n\n", record(1), b"\n\n\n", b"x" * 100_000)
    assert reader.sessions() == ["s1"]
    assert reader.files.counts["malformed"] == 1
    assert reader.reasons() == ["detail-rubbish"]
    append(path, b"y\n\n", record(2))
    assert reader.sessions() == ["s2"]


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 600), max_size=12), restarts=st.sets(st.integers(0, 11)))
def test_every_record_once_however_it_is_written_and_read(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], restarts: set[int]
) -> None:
    path = tmp_path_factory.mktemp("detail") / "detail"
    whole = b"".join(record(number) for number in range(4))
    reader, found = Reader(str(path)), []
    reader.sessions()
    written = 0
    for step, cut in enumerate(sorted(min(cut, len(whole)) for cut in cuts) + [len(whole)]):
        append(path, whole[written:cut])
        written = cut
        found += reader.sessions()
        if step in restarts and reader.trackers.places:
            reader.files.stop()
            reader = Reader(str(path), before=reader)
    reader.files.stop()
    assert found == ["s0", "s1", "s2", "s3"]


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
  detail {{
    filename = "{folder}/radacct/%{{Packet-Src-IP-Address}}/detail-%Y%m%d"
    permissions = 0600
  }}
}}
client nas {{
  ipaddr = 127.0.0.1
  secret = "nobodys-secret"
}}
server case {{
  listen {{
    type = acct
    ipaddr = 127.0.0.1
    port = 1813
  }}
  accounting {{
    detail
  }}
}}
"""


@pytest.mark.lab
def test_what_freeradius_writes(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a namespace needs root")
    (tmp_path / "radiusd.conf").write_text(CONFIG.format(folder=tmp_path))
    (tmp_path / "secret").write_text("nobodys-secret\n")
    place = Namespace(f"detail-{os.getpid()}").start()
    reader = Reader(f"{tmp_path}/radacct/*/detail-*")
    try:
        argv = ["freeradius", "-d", str(tmp_path), "-f", "-l", "stdout"]
        server = place.popen(argv, stdout=subprocess.DEVNULL)
        try:
            found = _account(place, reader, tmp_path)
        finally:
            end(server)
    finally:
        place.stop()
        reader.files.stop()
    start, stop = found
    line = start.profile
    assert (line.session_id, line.user_name, line.calling) == ("s1", 'li"ne\\7', "02-00-07")
    assert (stop.up, stop.down, stop.terminate_cause) == (5, 1 << 32 | 7, 1)
    assert stop.profile.delegated_prefixes[0][1] == 56
    assert abs(stop.ts_ns - time.time_ns()) < 120 * 10**9
    assert reader.files.counts["malformed"] == 0


def _account(place: Namespace, reader: Reader, folder: Path) -> list[Accounting]:
    """A Start and a Stop by radclient, as the reader finds them."""
    common = (
        'Acct-Session-Id = "s1", User-Name = "li\\"ne\\\\7", Calling-Station-Id = "02-00-07",'
        " Delegated-IPv6-Prefix = 2001:db8:aa00::/56, NAS-IP-Address = 192.0.2.1"
    )
    stop = (
        "Acct-Input-Octets = 5, Acct-Output-Octets = 7, Acct-Output-Gigawords = 1,"
        " Acct-Terminate-Cause = User-Request"
    )
    options = ["-q", "-r", "20", "-t", "1", "-S", str(folder / "secret")]
    for text in (
        f"Acct-Status-Type = Start, {common}",
        f"Acct-Status-Type = Stop, {common}, {stop}",
    ):
        place.run("radclient", *options, "127.0.0.1:1813", "acct", stdin=text + "\n")
    found: list[Any] = []
    deadline = time.monotonic() + 30
    while len(found) < 2:
        assert time.monotonic() < deadline, "the records did not come"
        reader.files._due_s = 0.0
        found += [payload["event"] for _, payload in reader.files.read(10) if payload["event"]]
    return [Accounting.from_json(each) for each in found]
