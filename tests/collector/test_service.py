"""The collector's loop on a real router: what it meters, and what is left when things fail."""

from __future__ import annotations

import errno
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

import collector.held
import collector.metrics
import collector.service
from collector.capture.links import LinksUnavailable
from collector.capture.nftsets import NftUnavailable
from collector.config import Config
from collector.journal import JournalError, JournalFullError
from collector.keeper import RestartNeeded
from collector.parse import radius
from collector.parse.conntrack import Messages
from collector.parse.radius import Accounting
from collector.parse.radius_attributes import Profile
from collector.report import publish, stages
from collector.service import Collector
from collector.spool import SpoolError, SpoolFullError
from collector.track.journal_events import control_event
from collector.track.session_bindings import BindingChange
from collector.wire import codec
from collector.wire.addr import pack, unpack
from collector.wire.batch import BatchError
from collector.wire.loss import Loss
from collector.wire.records import CALL_INTERRUPTED, USAGE_FROM_EXPORT
from tests.collector.capture.netns_fixture import Router, inside, router, run
from tests.collector.capture.test_detail import record as detail_record
from tests.collector.parse.test_export import v5, v5_record
from tests.collector.rig import (
    assert_once,
    config,
    gaps,
    kill,
    moved,
    octets,
    settle,
    spin,
    spooled,
    traffic,
)
from tests.collector.test_fuzz import radius as radius_packet
from tests.collector.track.test_trackers import sip

pytestmark = pytest.mark.lab
SECOND = 1_000_000_000
Make = Callable[..., Collector]


@pytest.fixture(scope="module")
def lab() -> Iterator[Router]:
    with router() as built:
        yield built


@pytest.fixture
def make(lab: Router, tmp_path: Path) -> Iterator[Make]:
    """Starts collectors in the router's namespace, on a ruleset without a table of ours."""
    made: list[Collector] = []

    def start(settings: Config | None = None, **more: Any) -> Collector:
        made.append(Collector(settings or config(tmp_path), **more))
        made[-1].start()
        return made[-1]

    with inside(lab.ns), pytest.MonkeyPatch.context() as patch:
        patch.setattr(collector.service, "_DRAIN_S", 0.0)
        patch.setattr(collector.held, "_FIRST_WAIT_NS", 3600 * SECOND)  # tests say when
        patch.setattr(collector.held, "_LONGEST_WAIT_NS", 3600 * SECOND)
        # The HTTP server takes half a second to stop; it has tests of its own.
        patch.setattr(collector.metrics.Metrics, "start", lambda metrics: None)
        run("nft", "-f", "-", text="add table inet tally\ndelete table inet tally\n")
        try:
            yield start
        finally:
            for each in made:
                each.stop()


def accounting(status: int, octets: int = 0, address: str = "10.0.0.2") -> Accounting:
    at = time.time_ns()
    return Accounting(
        ts_ns=at,
        client=pack("192.0.2.1"),
        client_port=1,
        server=pack("192.0.2.2"),
        identifier=1,
        transport=at.to_bytes(16, "big"),
        verified=radius.VERIFIED,
        status=status,
        profile=Profile("s1", "secret-user", framed_ipv4=pack(address)),
        up=octets,
        down=octets,
    )


def test_flow_events_are_reliable_where_asked_for_and_watched(make: Make, tmp_path: Path) -> None:
    asked = make(config(tmp_path, more="[flows]\nreliable = true\nstall_s = 600\n"))
    asked.step()
    publish(asked)
    assert asked.metrics._snapshot.gauges["conntrack_reliable"] == 1
    assert asked.metrics._snapshot.delivery == {"deferred": 0, "switched_off": 0}
    asked.stop()
    assert not asked.conntrack.is_reliable
    plain = make()
    assert not plain.conntrack.is_reliable


def test_it_meters_to_the_byte_and_spools_at_the_end(
    make: Make, lab: Router, tmp_path: Path
) -> None:
    running = make()
    before = lab.a.quiet()
    traffic(lab)
    truth = moved(lab.a, before)
    turns = iter(range(4))
    running.run(lambda: next(turns, None) is None)
    rows = spooled(tmp_path)
    assert octets(rows, lab.a) == truth
    assert gaps(rows) == set()
    assert {row["interface"] for row in rows["link"]} == {"acc0", "acc1", "up0"}
    assert_once(rows)
    assert running.rows["usage"] == len(rows["usage"])
    for name, terms in stages(running).items():
        parts = sum(terms[each] for each in ("recorded", "ignored", "lost", "open"))
        assert terms["seen"] == parts, name


def test_interfaces_sets_and_flows_are_held_beside_each_other(make: Make, lab: Router) -> None:
    running = make()
    before = lab.a.quiet()
    traffic(lab)
    truth = sum(moved(lab.a, before))
    running.close_window()
    running.close_window()  # now with the flows that the window before has read
    counted = running.trackers.reconciled
    assert counted["interfaces"] >= counted["sets"] == truth >= counted["flows"] > 0
    kill(running)
    before = lab.a.quiet()
    traffic(lab, up=9)  # nobody runs, and the kernel counts
    truth = sum(moved(lab.a, before))
    after = make()
    after.close_window()
    counted = after.trackers.reconciled
    assert counted["interfaces"] >= counted["sets"] == truth > 0


def test_windows_close_when_they_are_due_and_tile(make: Make, lab: Router, tmp_path: Path) -> None:
    running = make(config(tmp_path, window_s=1))
    spin(running, lambda: running.spool.last_sequence >= 4)
    starts = []
    for path in sorted((tmp_path / "spool").glob("*.batch")):
        header, _ = codec.decode(path.read_bytes())
        starts.append((header.window_start_ns, header.window_end_ns))
    assert all(one[1] == two[0] for one, two in zip(starts, starts[1:], strict=False))
    assert all(end % SECOND == 0 for _, end in starts[1:])


def test_a_clock_that_is_set_is_a_gap(make: Make, tmp_path: Path) -> None:
    offset = [0]
    running = make(now=lambda: time.time_ns() + offset[0])
    running.step()
    offset[0] = -7 * SECOND
    running.step()
    offset[0] += 20 * SECOND
    running.step()
    running.close_window()
    found = [row for row in spooled(tmp_path)["gap"] if row["reason"] == "clock-step"]
    assert sorted(round(row["amount"] / SECOND) for row in found) == [7, 20]
    assert {row["unit"] for row in found} == {"ns"}


def test_the_loop_goes_on_when_the_clock_is_set_back(make: Make) -> None:
    offset = [0]
    running = make(now=lambda: time.time_ns() + offset[0])
    settle(running, 0.2)
    offset[0] = -86_400 * SECOND
    running._check_at = running._tick_at = 0
    before = running.journal.counts["appended"]
    settle(running, 0.2)
    assert running.journal.counts["appended"] > before  # it still says that it runs


# The disk refuses


def refuse(target: Any, name: str, errors: list[Exception], patch: pytest.MonkeyPatch) -> None:
    """A method that raises each of the errors once, then works."""
    real = getattr(target, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return real(*args, **kwargs)

    patch.setattr(target, name, call)


def again(running: Collector) -> None:
    """Time for another attempt."""
    if running.keeper.held:
        running.keeper.held.due_ns = 0
    running._tick_at = 0
    running.step()


REFUSALS = {
    "disk-full": ("spool", "commit_all", SpoolFullError("the disk is full")),
    "journal-rotate": ("journal", "rotate", JournalError("the state cannot be written")),
    "journal-settle": ("journal", "committed", JournalFullError("the disk is full")),
}


@pytest.mark.parametrize("crash", [False, True], ids=["goes-on", "is-killed"])
@pytest.mark.parametrize("case", REFUSALS)
def test_a_window_that_cannot_be_spooled_is_neither_lost_nor_doubled(
    make: Make,
    lab: Router,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    crash: bool,
) -> None:
    part, method, error = REFUSALS[case]
    running = make()
    before = lab.a.quiet()
    running._record(control_event(accounting(radius.START)))
    traffic(lab)
    running.keeper.lose([Loss(5, 6, "clock", "clock-step", 1, "ns", ("call",))])
    refuse(getattr(running, part), method, [error, error], monkeypatch)
    running.close_window()
    traffic(lab)
    running._record(control_event(accounting(radius.STOP, 9)))
    running.keeper.lose([Loss(7, 8, "clock", "clock-step", 2, "ns", ("call",))])
    running.step()
    assert (running.keeper.held is None) == (case == "journal-settle")
    again(running)  # and is refused again
    if crash:
        running.keeper.sync()
        kill(running)
        running = make()
    again(running)
    assert running.keeper.held is None
    truth = moved(lab.a, before)
    running.close_window()
    rows = spooled(tmp_path)
    assert octets(rows, lab.a) == truth
    assert_once(rows)
    ends = [row for row in rows["session"] if row["end_reason"]]
    assert {row["end_reason"] for row in ends} == {"stated"}
    steps = [row["amount"] for row in rows["gap"] if row["reason"] == "clock-step"]
    assert sorted(steps) == [1, 2]
    assert (("capture", "restart") in gaps(rows)) == crash


def test_a_loss_told_while_a_window_was_held_survives_a_kill_after_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = make()
    refuse(running.spool, "commit_all", [SpoolFullError("the disk is full")], monkeypatch)
    running.close_window()
    running.keeper.lose([Loss(5, 6, "clock", "clock-step", 1, "ns", ("call",))])
    again(running)
    assert running.keeper.held is None
    kill(running)
    make().close_window()
    assert ("clock", "clock-step") in gaps(spooled(tmp_path))


def test_a_window_that_no_spool_can_hold_becomes_a_gap(
    make: Make, lab: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = make()
    traffic(lab)
    refuse(running.spool, "commit_all", [BatchError("size", "too large")], monkeypatch)
    running.close_window()
    again(running)
    assert running.keeper.held is None
    (gap,) = [row for row in spooled(tmp_path)["gap"] if row["reason"] == "window-refused"]
    assert gap["amount"] > 0
    assert "usage" in gap["classes"]


@pytest.mark.parametrize("part", ["spool", "journal"])
def test_where_only_the_disk_knows_the_run_ends(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    running = make()

    def fail(*args: Any, **kwargs: Any) -> Any:
        if part == "spool":
            running.spool._books.failure = "a commit failed half way"
            raise SpoolError("a commit failed half way")
        raise running.journal._fail("cannot be written", OSError(errno.EIO, "I/O error"))

    monkeypatch.setattr(running.spool, "commit_all", fail)
    with pytest.raises(RestartNeeded):
        running.close_window()
    running.stop()
    again = make()
    again.close_window()
    assert_once(spooled(tmp_path))


def test_a_full_journal_closes_the_window_early_and_not_too_often(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = make()
    first = running.spool.last_sequence
    running.journal._max_log_bytes = 1_000
    for _ in range(3):
        running._record(control_event(accounting(radius.INTERIM)))
    assert running.journal.is_full
    settle(running, 0.2)
    assert running.spool.last_sequence == first  # the window was closed just now
    running.keeper._closed_ns = 0
    settle(running, 0.3)
    assert running.spool.last_sequence == first + 1
    assert not running.journal.is_full


# The kernel refuses


def test_a_counter_unreadable_at_a_split_costs_exactness_and_no_byte(
    make: Make, lab: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = make()
    before = lab.a.quiet()
    traffic(lab)
    error = NftUnavailable(errno.ETIMEDOUT, "the kernel did not answer")
    refuse(running.counters._sets, "read_one", [error], monkeypatch)
    running._record(control_event(accounting(radius.START)))
    traffic(lab)
    running._record(control_event(accounting(radius.STOP)))
    truth = moved(lab.a, before)
    running.close_window()
    rows = spooled(tmp_path)
    assert octets(rows, lab.a) == truth
    assert ("volume", "unsplit") in gaps(rows)
    mine = [row for row in rows["usage"] if row["address"] == pack("10.0.0.2")]
    assert len(mine) == 1  # the second split found its way


def test_a_session_that_begins_while_a_window_is_read_has_its_first_packets(
    make: Make, lab: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading counts as taken on the window's edge, when nobody had the address yet."""
    running = make(config(tmp_path, window_s=4))
    read, receive = running.counters.read, running._receive
    begun: list[Accounting] = []
    before = lab.a.quiet()

    def reading(volume: Any) -> Any:
        begun.append(accounting(radius.START))
        traffic(lab)
        return read(volume)

    def receiving(most_s: float) -> bool:
        came = receive(most_s)
        if begun and not came:  # it waits behind whatever else does
            running._record(control_event(begun.pop()))
            return True
        return came

    # Within the time by which a reading may be late for an edge.
    time.sleep(-time.time() % 4)
    monkeypatch.setattr(running.counters, "read", reading)
    monkeypatch.setattr(running, "_receive", receiving)
    running.close_window()
    monkeypatch.setattr(running.counters, "read", read)
    truth = moved(lab.a, before)
    running.close_window()
    rows = spooled(tmp_path)
    assert octets(rows, lab.a) == truth
    mine = [row for row in rows["usage"] if row["address"] == pack("10.0.0.2")]
    (binding,) = {row["valid_from_ns"] for row in rows["binding"]}
    assert all(row["end_ns"] > binding for row in mine if row["up_bytes"])


def test_many_changes_at_once_are_read_at_once(
    make: Make, lab: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = make()
    traffic(lab)
    singles: list[bytes] = []
    real = running.counters._sets.read_one

    def read_one(address: bytes) -> Any:
        singles.append(address)
        return real(address)

    monkeypatch.setattr(running.counters._sets, "read_one", read_one)
    changes = [
        BindingChange(1, pack(f"10.0.{n // 200}.{n % 200}"), 128, "close") for n in range(300)
    ]
    events, losses = running.counters.events([*changes, *changes])
    assert len(events) == 300
    assert losses == []
    assert pack("10.0.0.2") not in singles  # it was in the reading
    split = {event[1]["address"]: event[1]["up_bytes"] for event in events}
    assert split[pack("10.0.0.2").hex()] > 0


def test_an_address_has_its_counters_before_its_first_packet(make: Make, lab: Router) -> None:
    """From when its binding opens, also in a table that had to be made anew."""

    def counted(running: Collector) -> set[str]:
        return {unpack(raw.tobytes()) for raw in running.counters._sets.read_sets().addresses}

    running = make()
    wanted = {f"10.0.200.{n}" for n in range(100)}
    for number, address in enumerate(sorted(wanted) + ["203.0.113.7"]):  # which is nobody's here
        event = accounting(radius.START, address=address)
        profile = replace(event.profile, session_id=f"s{number}")
        running._record(control_event(replace(event, profile=profile)))
    assert wanted <= counted(running) and "203.0.113.7" not in counted(running)
    run("nft", "delete", "table", "inet", "tally")
    running._check_at = running._tick_at = 0
    running.step()
    assert wanted <= counted(running)
    kill(running)
    run("nft", "delete", "table", "inet", "tally")
    assert wanted <= counted(make())


@pytest.mark.parametrize("how", ["flush ruleset", "flush table inet tally"])
def test_rules_that_somebody_took_away_come_back_and_the_loss_is_told(
    make: Make, lab: Router, tmp_path: Path, how: str
) -> None:
    running = make()
    traffic(lab)
    running.close_window()
    keep = run("nft", "list", "table", "ip", "nat")
    run("nft", "-f", "-", text=f"{how}\n")
    if "ruleset" in how:
        run("nft", "-f", "-", text=keep)
    traffic(lab)  # nobody counts this
    running._check_at = running._tick_at = 0
    running.step()
    before = lab.a.quiet()
    traffic(lab)
    truth = moved(lab.a, before)
    seen = octets(spooled(tmp_path), lab.a)
    running.close_window()
    rows = spooled(tmp_path)
    now = octets(rows, lab.a)
    assert (now[0] - seen[0], now[1] - seen[1]) == truth
    reason = "counter-reset" if "ruleset" in how else "rules-changed"
    assert ("volume", reason) in gaps(rows)


def test_a_table_that_cannot_be_made_again_is_a_gap_in_every_window(
    make: Make, lab: Router, tmp_path: Path
) -> None:
    running = make()
    other = 'table inet tally { comment "of somebody else"; }'
    run("nft", "-f", "-", text=f"delete table inet tally\n{other}\n")
    settle(running, 0.2)
    for _ in range(2):
        running.close_window()
    assert ("volume", "table-missing") in gaps(spooled(tmp_path))
    run("nft", "delete", "table", "inet", "tally")
    running.close_window()
    before = lab.a.quiet()
    traffic(lab)
    truth = moved(lab.a, before)
    running.close_window()
    assert octets(spooled(tmp_path), lab.a) == truth


def test_a_dump_that_fails_is_made_up_for_by_the_next(
    make: Make, lab: Router, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running = make()

    def fail(now: Any) -> Any:
        raise OSError(errno.ETIMEDOUT, "the kernel fell silent in a dump")

    with monkeypatch.context() as patch:
        patch.setattr(collector.service, "dump", fail)
        running.close_window()
    assert "fell silent" in caplog.text
    traffic(lab)
    running.close_window()
    assert running.trackers.flows.counts["seen"] > 0


def test_interfaces_that_cannot_be_read_do_not_end_the_loop(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = make()

    def fail() -> Any:
        raise LinksUnavailable(errno.ENOBUFS, "interfaces cannot be read")

    monkeypatch.setattr(running.sources._links, "read", fail)
    running.sources._due_s = 0.0
    running._tick_at = 0
    running.step()
    running.close_window()
    assert "link" not in spooled(tmp_path) or not spooled(tmp_path)["link"]


# The state of the last run


def test_a_kill_costs_no_byte_and_is_told(make: Make, lab: Router, tmp_path: Path) -> None:
    running = make()
    before = lab.a.quiet()
    running._record(control_event(accounting(radius.START)))
    traffic(lab)
    settle(running, 0.2)
    kill(running)
    traffic(lab)
    again = make()
    truth = moved(lab.a, before)
    again._record(control_event(accounting(radius.STOP)))
    again.close_window()
    rows = spooled(tmp_path)
    assert octets(rows, lab.a) == truth
    assert_once(rows)
    assert {("capture", "restart"), ("track", "restart")} <= gaps(rows)
    told = {name for row in rows["gap"] for name in row["classes"].split(",")}
    assert told == {"session", "binding", "call", "mapping", "visit"}
    assert "baseline" not in {reason for _, reason in gaps(rows)}


def test_losses_survive_two_kills_in_one_window(make: Make, tmp_path: Path) -> None:
    for number in range(2):
        running = make()
        running.keeper.lose([Loss(number, 9, "capture", "kernel-drop", 3, "packets", ("visit",))])
        running.keeper.sync()
        kill(running)
    make().close_window()
    found = [row for row in spooled(tmp_path)["gap"] if row["stage"] == "capture"]
    assert [row["reason"] for row in found].count("kernel-drop") == 2
    assert [row["reason"] for row in found].count("restart") == 2


def test_an_event_that_is_refused_keeps_nobody_from_starting(
    make: Make, lab: Router, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = make()
    before = lab.a.quiet()
    traffic(lab)
    good = accounting(radius.START).to_json()
    for kind, payload in (
        ("accounting", {**good, "client": "no hex, secret-user"}),
        ("made-up", {"user_name": "secret-user"}),
        ("loss", {"start_ns": "x"}),
        ("split", {"ts_ns": [1]}),
        ("accounting", good),
    ):
        running.journal.append(kind, payload)
    running.journal.sync()
    kill(running)
    again = make()
    assert again.trackers.sessions.open_sessions == 1
    truth = moved(lab.a, before)
    again.close_window()
    rows = spooled(tmp_path)
    assert octets(rows, lab.a) == truth
    (gap,) = [row for row in rows["gap"] if row["reason"] == "replay-refused"]
    assert gap["amount"] == 4
    assert "4 events of the journal are refused" in caplog.text
    assert "secret-user" not in caplog.text


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "volume": lambda state: state["trackers"].update(volume={"table": {}}),
    "sessions": lambda state: state["trackers"].update(sessions=None),
    "version": lambda state: state["trackers"].update(version=99),
    "window": lambda state: state.update(window=None),
    "losses": lambda state: state.update(losses=[{}]),
}


@pytest.mark.parametrize("damage", [*DAMAGES, "checksum"])
def test_a_state_that_cannot_be_used_is_told_and_counts_nothing_twice(
    make: Make, lab: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    running = make()
    before = lab.a.quiet()
    traffic(lab, up=40)
    seen_at_state = moved(lab.a, before)
    running._record(control_event(accounting(radius.START)))
    if damage in DAMAGES:
        real = running.keeper._state

        def state() -> dict[str, Any]:
            found = json.loads(json.dumps({**real(), "losses": []}))
            DAMAGES[damage](found)
            return dict(found)

        monkeypatch.setattr(running.keeper, "_state", state)
        if damage == "losses":
            snapshot = running.keeper._snapshot
            monkeypatch.setattr(running.keeper, "_snapshot", lambda: {**snapshot(), "losses": [{}]})
    running.close_window()
    traffic(lab)
    settle(running, 0.2)
    kill(running)
    if damage == "checksum":
        (path,) = (tmp_path / "spool" / "journal").glob("state-*.json")
        path.write_bytes(path.read_bytes()[:-9])
    again = make()
    mark = lab.a.quiet()
    traffic(lab)
    later = moved(lab.a, mark)
    again.close_window()
    rows = spooled(tmp_path)
    total, whole = octets(rows, lab.a), moved(lab.a, before)
    assert_once(rows)
    if damage in ("volume", "version", "checksum"):
        # What passed between the state and the new baseline is gone, and nothing else.
        assert total == (seen_at_state[0] + later[0], seen_at_state[1] + later[1])
        (baseline,) = [row for row in rows["gap"] if row["reason"] == "baseline"]
        assert baseline["amount"] == -1
        reasons = {row["reason"] for row in rows["gap"]}
        assert reasons & {"state-unusable", "state-corrupt"}
    else:
        assert total == whole
        assert ("track", "state-unusable") in gaps(rows) or damage == "window"


# One bad packet


def test_an_error_of_ours_costs_a_packet_and_says_nothing_of_it(
    make: Make,
    lab: Router,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = make()

    def fail(frame: Any) -> Any:
        raise RuntimeError("secret-user asked for secret.example")

    monkeypatch.setattr(running.observer, "frame", fail)
    dns(lab)
    spin(running, lambda: running.survive.errors > 0)
    running.close_window()
    (gap,) = [row for row in spooled(tmp_path)["gap"] if row["reason"] == "internal-error"]
    assert gap["amount"] == running.survive.errors
    assert "RuntimeError at test_service.py" in caplog.text
    assert "secret" not in caplog.text


def dns(lab: Router) -> None:
    """Something from port 53, which the filter passes."""

    with inside(lab.up.ns):
        far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with far:
        far.bind((lab.up.ipv4, 53))
        far.sendto(bytes(40), ("10.0.0.2", 4000))


def test_capture_loss_marks_the_calls_it_touches(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = make()

    def say(method: str, status: int, cseq: int = 1) -> None:
        running._record(control_event(sip(time.time_ns(), method, status, 1, 1, cseq)))

    say("INVITE", 0)
    say("INVITE", 200)
    say("ACK", 0)
    settle(running, 0.4)
    drop = Loss(1, 2, "capture", "kernel-drop", 4, "packets", ("visit", "call"), "interface:acc0")
    with monkeypatch.context() as patch:
        patch.setattr(running.sources, "losses", lambda now_ns: [drop])
        running._collect(time.time_ns())
    kill_after = running.journal.counts["appended"]
    assert kill_after >= 5  # the marking is journalled too
    settle(running, 0.4)
    say("BYE", 0, 2)
    time.sleep(0.3)
    running.close_window()
    (call,) = spooled(tmp_path)["call"]
    assert call["flags"] & CALL_INTERRUPTED
    assert ("capture", "kernel-drop") in gaps(spooled(tmp_path))


# Start and idleness


def test_a_secret_that_cannot_be_read_is_an_error_that_names_the_file(
    make: Make, tmp_path: Path
) -> None:
    secret = tmp_path / "nas.secret"
    secret.write_text("topsecret")
    settings = config(tmp_path, control=f'radius_secrets = {{ "192.0.2.1" = "{secret}" }}')
    secret.unlink()
    with pytest.raises(ValueError, match=r"control\.radius_secrets\.192\.0\.2\.1: .*nas\.secret"):
        make(settings)


def test_a_secret_is_never_logged(
    make: Make, lab: Router, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tmp_path / "nas.secret"
    secret.write_text("topsecret\n")
    settings = config(tmp_path, control=f'radius_secrets = {{ "192.0.2.1" = "{secret}" }}')
    with caplog.at_level(logging.DEBUG):
        running = make(settings)
        settle(running, 0.2)
        running.close_window()
    assert running._secrets == {pack("192.0.2.1"): b"topsecret"}
    assert "topsecret" not in caplog.text + repr(settings) + repr(running.observer)
    for path in (tmp_path / "spool").rglob("*"):
        assert path.is_dir() or b"topsecret" not in path.read_bytes()


# When the loop sleeps, and what wakes it


def test_an_idle_loop_sleeps(make: Make) -> None:
    running = make()
    run("conntrack", "-F")  # flows of other tests end now, not meanwhile
    settle(running, 0.3)
    cpu, turns, end = time.process_time(), 0, time.monotonic() + 2.0
    while time.monotonic() < end:
        running.step()
        turns += 1
    assert turns <= 12  # the tick of each second, and what a stray packet wakes
    assert time.process_time() - cpu < 0.4


def drowsy(running: Collector) -> None:
    """What waits is taken; no timer is due for an hour from here on."""
    running._tick_at = 0
    running.step()
    running._tick_at = running._dump_at = time.monotonic_ns() + 3600 * SECOND


def after(seconds: float, call: Callable[[], object]) -> Timer:
    """Something that happens while the loop sleeps."""
    timer = Timer(seconds, call)
    timer.start()
    return timer


def test_an_event_is_on_disk_a_tenth_of_a_second_after_it_came(make: Make, lab: Router) -> None:
    running = make()
    with inside(lab.up.ns):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    delay = 0.0
    with sender:
        for number in range(20):
            drowsy(running)
            packet, sent = radius_packet(radius.START, number), [0.0]

            def send(packet: bytes = packet, sent: list[float] = sent) -> None:
                sent[0] = time.monotonic()
                sender.sendto(packet, ("198.51.100.1", 1813))

            before = running.journal.counts["synced"]
            timer = after(0.2, send)
            while running.journal.counts["synced"] == before:
                running.step()
            delay = time.monotonic() - sent[0]
            timer.join()
            if delay < 0.1:
                return
    pytest.fail(f"{delay} s, the last time")  # of twenty: the machine is not ours alone


def test_a_sleeping_loop_hears_of_ended_flows_and_of_a_wish_to_stop(
    make: Make, lab: Router
) -> None:
    running = make()
    traffic(lab)
    drowsy(running)
    before = running.conntrack.counts["seen"]
    flush = after(0.2, lambda: run("ip", "netns", "exec", lab.ns, "conntrack", "-F"))
    while running.conntrack.counts["seen"] == before:
        running.step()
    flush.join()
    drowsy(running)
    waker = after(0.2, running.wake)
    running.step()  # would last an hour
    waker.join()


def test_ended_flows_gather_while_packets_wake_the_loop(make: Make, lab: Router) -> None:
    running = make()
    drowsy(running)
    running._flows_at = time.monotonic_ns() + 3600 * SECOND
    before = running.conntrack.counts["seen"]
    traffic(lab)
    run("ip", "netns", "exec", lab.ns, "conntrack", "-F")
    running.wake()
    running.step()
    assert running.conntrack.counts["seen"] == before
    running.close_window()  # takes what there is
    assert running.conntrack.counts["seen"] > before


def test_timers_fire_when_nothing_arrives(make: Make, tmp_path: Path) -> None:
    running = make(config(tmp_path, window_s=1))
    drowsy(running)
    last = running.spool.last_sequence
    while running.spool.last_sequence < last + 2:
        running.step()
    tick_at = running._tick_at = time.monotonic_ns() + SECOND // 5
    while running._tick_at == tick_at:
        running.step()
    dump_at = running._dump_at = time.monotonic_ns() + SECOND // 5
    while running._dump_at == dump_at:
        running.step()


def test_the_watchdog_gets_its_sign_of_life_from_an_idle_loop(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = make(config(tmp_path, more="[flows]\nreliable = true\nstall_s = 600\n"))
    drowsy(running)
    looks, read = [], running.conntrack.read

    def look() -> Messages:
        looks.append(time.monotonic())
        return read()

    monkeypatch.setattr(running.conntrack, "read", look)
    for _ in range(5):
        running.step()  # none lasts an hour
    assert len(looks) == 5
    assert running.conntrack.is_reliable


def test_exports_of_a_router_become_usage_and_gaps(make: Make, lab: Router, tmp_path: Path) -> None:
    more = '[exports]\nlisten = "127.0.0.1:0"\nexporters = ["127.0.0.0/8"]\nusage = true\n'
    running = make(config(tmp_path, more=more))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as router:
        for sequence in (0, 5):
            data = v5(v5_record("10.0.0.2", "192.0.2.1", 1000), sequence=sequence)
            router.sendto(data, ("127.0.0.1", running.exports.port))
    spin(running, lambda: running.trackers.exports.counts["recorded"] == 2)
    running.close_window()
    rows = spooled(tmp_path)
    exported = [row for row in rows["usage"] if row["flags"] & USAGE_FROM_EXPORT]
    assert [(row["address"], row["up_bytes"]) for row in exported] == [(pack("10.0.0.2"), 2000)]
    assert ("export", "export-gap") in gaps(rows)
    assert stages(running)["exports"]["recorded"] == 2


def test_detail_files_are_accounting_once_over_a_restart(make: Make, tmp_path: Path) -> None:
    (tmp_path / "radacct").mkdir()
    control = f'detail_files = ["{tmp_path}/radacct/detail*"]'
    path = tmp_path / "radacct" / "detail"
    ago = int(time.time()) - 10
    running = make(config(tmp_path, control=control))
    running.details._due_s = 0.0
    path.write_bytes(detail_record(1, at=ago))
    spin(running, lambda: running.trackers.sessions.counts["recorded"] == 1)
    running.close_window()
    path.write_bytes(detail_record(1, at=ago) + detail_record(2, at=ago))
    spin(running, lambda: running.trackers.sessions.counts["recorded"] == 2)
    running.keeper.sync()
    kill(running)  # the second is in the journal only
    with path.open("ab") as file:
        file.write(detail_record(3, at=ago))
    again = make(config(tmp_path, control=control))
    spin(again, lambda: again.trackers.sessions.open_sessions == 3)
    again.close_window()
    rows = {row["acct_session_id"]: row for row in spooled(tmp_path)["session"]}
    assert set(rows) == {"s1", "s2", "s3"}
    assert again.details.counts["seen"] == 1
