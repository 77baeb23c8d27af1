"""The table of DNS answers, against a model that keeps every answer and looks at each."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.track import answer_runs
from collector.track.answer_runs import RUNS_PER_SERVER
from collector.track.answers import Answers, AnswersConfig
from collector.track.groups import grouped
from collector.track.host_events import Resolution
from collector.track.host_pool import NO_HOST, HostPool
from collector.track.hosts import Hosts, HostsConfig
from collector.wire.addr import pack

LIFE = 50
CLIENTS = [pack(f"10.0.0.{last}") for last in range(3)]
SERVERS = [pack(f"192.0.2.{last}") for last in range(3)]
RESOLVER = pack("9.9.9.9")


def told(ts_ns: int, client: bytes, server: bytes, host: str) -> Resolution:
    return Resolution(ts_ns, client, RESOLVER, host, (server,))


def named(table: Answers, pool: HostPool, client: bytes, server: bytes, at_ns: int) -> str:
    clients, servers = np.frombuffer(client, "V16"), np.frombuffer(server, "V16")
    (number,) = table.hosts(clients, servers, np.array([at_ns], np.int64)).tolist()
    return pool.name(number)


class Model:
    """Runs as they are defined, one list for each pair."""

    def __init__(self) -> None:
        self.runs: dict[tuple[bytes, bytes], list[tuple[int, int, str]]] = {}

    def add(self, ts_ns: int, client: bytes, server: bytes, host: str) -> None:
        runs = self.runs.setdefault((client, server), [])
        if runs and runs[-1][2] == host and 0 <= ts_ns - runs[-1][1] <= LIFE:
            runs[-1] = runs[-1][0], ts_ns, host
        else:
            runs.append((ts_ns, ts_ns, host))

    def host(self, client: bytes, server: bytes, at_ns: int) -> str:
        for first, last, host in reversed(self.runs.get((client, server), [])):
            if first <= at_ns:
                return host if at_ns - last <= LIFE else ""
        return ""


STEPS = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.sampled_from(CLIENTS),
        st.sampled_from(SERVERS),
        st.sampled_from(["a.example", "b.example"]),
        st.booleans(),
    ),
    max_size=RUNS_PER_SERVER * 9,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(4, 400))
def test_look_ups_are_as_of_every_answer(
    steps: list[tuple[int, bytes, bytes, str, bool]], limit: int
) -> None:
    pool, model, now = HostPool(100), Model(), 1_000
    table = Answers(AnswersConfig(max(limit, 9), 9, LIFE), pool)
    for step, client, server, host, asks in steps:
        now += step
        if asks:
            assert named(table, pool, client, server, now) == model.host(client, server, now)
        else:
            table.add(told(now, client, server, host))
            model.add(now, client, server, host)
            runs = model.runs[client, server]
            earlier = runs[-min(len(runs), RUNS_PER_SERVER)][0]
            assert named(table, pool, client, server, earlier) == model.host(
                client, server, earlier
            )
    assert table.size == len(model.runs) and table.evicted == 0


def test_the_latest_pairs_stay_in_all_and_of_each_client() -> None:
    pool = HostPool(1_000)
    table = Answers(AnswersConfig(100, 40, 10_000), pool)
    for number in range(400):
        client = CLIENTS[number % 2 and 1]
        table.add(told(number, client, pack(f"192.0.3.{number % 250}"), f"h{number}.example"))
    assert table.size == 80 and named(table, pool, CLIENTS[1], pack("192.0.3.149"), 500)
    table.expire(350)
    assert table.size == 50
    table.halve()
    assert table.size == 25


def test_equal_numbers_of_rows_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    columns = [np.array([rng.randrange(3) for _ in range(60)]) for _ in range(2)]
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    for folded in (None, lambda parts: np.zeros(60, np.uint64)):
        if folded:
            monkeypatch.setattr("collector.track.groups.folded", folded)
        order, begins = grouped(lambda: columns)
        groups = [group.tolist() for group in np.split(order, begins[1:])]
        assert all(len({rows[at] for at in group}) == 1 for group in groups)
        assert all(group == sorted(group) for group in groups)
        assert len(groups) == len(set(rows))


def test_names_that_nothing_has_make_room_and_those_of_waiting_flows_bar_new_ones() -> None:
    pool = HostPool(4)
    kept = np.array([pool.number(f"h{number}.example") for number in range(6)][3:5], np.uint32)
    assert pool.is_full
    pool.keep([kept])
    assert pool.names(kept) == ["h3.example", "h4.example"] and len(pool) == 3
    assert pool.name(NO_HOST) == "" and "h0.example" not in pool

    tracker = Hosts(HostsConfig(((pack("10.0.0.0"), 120),), max_answers=64, max_hosts=32))
    for number in range(1_000):
        tracker.resolved(told(number, CLIENTS[0], SERVERS[0], f"n{number}.example"))
    assert len(tracker._pool) <= 33


def test_nobody_can_choose_addresses_that_meet() -> None:
    clients = np.frombuffer(b"".join(CLIENTS * 3), "V16")
    servers = np.frombuffer(b"".join(server * 3 for server in SERVERS), "V16")
    assert len(set(answer_runs.pairs_of(clients, servers).keys.tolist())) == 9
    with pytest.MonkeyPatch.context() as patch:
        secrets = [np.uint64(2 * number + 1) for number in range(4)]
        patch.setattr(answer_runs, "_SECRETS", secrets)
        other = answer_runs.pairs_of(clients, servers).keys
    assert not set(other.tolist()) & set(answer_runs.pairs_of(clients, servers).keys.tolist())
