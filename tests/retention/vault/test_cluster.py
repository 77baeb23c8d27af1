"""Two shards of two replicas: each shard keeps its own rows, and every replica has what it has."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggregator.store.client import Client, StoreError
from retention.audit import sealed
from retention.config import Config
from retention.config import Engine as Servers
from retention.destruction.evidence import Verifier
from retention.destruction.purge import Purger
from retention.engine import Engine, SharedVault
from retention.model import DAY_US, Hold, Purge, Step
from retention.vault import late
from retention.vault.engine import EngineVault
from retention.vault.tables import PERSONAL, Names, in_place, names_of
from safeguard.search import find
from tests.aggregator.cluster import Cluster, Node
from tests.aggregator.support import Store
from tests.retention.destruction.world import START
from tests.retention.destruction.world import World as Appliance
from tests.retention.vault.world import (
    NOON,
    World,
    approved,
    eventually,
    held_row,
    hold_on,
    place,
    purge_of,
    salt,
)

pytestmark = pytest.mark.engine

SHARDS = (1, 2)
Print = tuple[int, int, int]
"""Rows, xor and sum of their hashes: not made by the code that is tested."""


class Site:
    """A cluster with empty tables; `clients` has one for every replica, by shard."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.clients = [[_client(node) for node in cluster.shard(k)] for k in SHARDS]
        self.vault = EngineVault(self.clients)
        self.vault.prepare()

    def close(self) -> None:
        """Empty the tables, and close."""
        for shard in self.clients:
            for name in PERSONAL:
                for table in (Names().table(name, "live"), Names().table(name, "vault")):
                    # A replica that came back leads nothing until its last session has ended.
                    eventually(lambda at=(shard, table): _leader(*at) is not None)
                    if (leader := _leader(shard, table)) is not None:
                        leader.execute(f"TRUNCATE TABLE {table}")
            for client in shard:
                client.close()

    def put(self, shard: int, record_class: str, rows: Sequence[Any], table: str = "") -> None:
        """Insert into a shard by its second replica, which is asked last for anything else."""
        client = self.clients[shard - 1][1]
        World(Store("debian", client, client), self.cluster.folder).put(record_class, rows, table)

    def nodes_with(self, marker: str) -> set[tuple[int, int]]:
        """Shard and replica of the nodes that have a file with this text."""
        return {
            (node.shard, node.replica)
            for node in self.cluster.nodes
            if find([node.data], [marker.encode()])[marker.encode()]
        }

    def prints(self, record_class: str, kept: Any, where: str = "1") -> list[list[Print]]:
        """What every replica has of NOON's partition, by shard."""
        return [[_print(c, record_class, kept, where) for c in shard] for shard in self.clients]


class ClusterAppliance(Appliance):
    """Register, log, guard and destruction over the vault that a configuration with shards gives.

    Its clock is one of its own, START and later; NOON's partitions are open after `open_noon`.
    """

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        password = folder / "password"
        password.write_text(cluster.password)
        servers = Servers(
            kind="server",
            shards=tuple(tuple(shard) for shard in cluster.shards()),
            user="default",
            password_file=password,
            timeout_s=30.0,
        )
        self.engine = Engine(
            Config(folder=folder, engine=servers), lambda: self.rules, lambda: self.clock.now()
        )
        (folder / "appliance").mkdir()
        super().__init__(folder / "appliance")
        assert self.engine.refresh()

    @property
    def vault(self) -> SharedVault:
        return self.engine.vault

    def boot(self) -> None:
        super().boot()
        self.context = replace(self.context, vault=self.engine.vault)
        self.purger = Purger(self.context)
        self.verifier = Verifier(self.context)

    def open_noon(self) -> None:
        self.observe()
        self.open_for((NOON - START) / DAY_US)

    def killed(self, at: str, hold: Hold) -> None:
        """A child that is the service and kills itself at one point; then we are the service."""
        super().close()
        self.engine.close()
        child = os.fork()
        if child == 0:
            try:
                self.boot()
                self._killing(at, hold)
            finally:
                os._exit(1)  # it should not come to this
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, at
        self.boot()

    def _killing(self, at: str, hold: Hold) -> None:
        method, when = at.split()
        thing: Any = self.register if method == "submit" else self.engine.vault
        name = "write" if method == "submit" else method
        inner = getattr(thing, name)

        def dies(*given: Any, **named: Any) -> None:
            if when == "after":
                inner(*given, **named)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(thing, name, dies)
        if method == "submit":
            self.submit(*hold.scope)
        else:
            self.run()

    def of(self, record_class: str) -> Purge:
        (purge,) = (
            each
            for each in self.register.purges()
            if each.partition.place.record_class == record_class and each.step is not Step.FAILED
        )
        return purge

    def certificates(self, purge: Purge) -> list[str]:
        folder = self.folder / "log" / sealed.FOLDER
        return sorted(each.name.split(".")[1] for each in folder.glob(f"{purge.id}.*"))

    def close(self) -> None:
        super().close()
        self.engine.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        for node in cluster.nodes:
            eventually(lambda node=node: _has_zookeeper(node))  # DDL before that crashes it
        cluster.migrate()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def site(cluster: Cluster) -> Iterator[Site]:
    site = Site(cluster)
    yield site
    site.close()


@pytest.fixture
def appliance(site: Site, tmp_path: Path) -> Iterator[ClusterAppliance]:
    appliance = ClusterAppliance(tmp_path, site.cluster)
    yield appliance
    appliance.close()


def test_what_is_held_is_on_every_replica_and_the_rest_on_none(
    site: Site, appliance: ClusterAppliance
) -> None:
    kept, lost = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    classes = ("visit", "session")
    for name in classes:
        for number in SHARDS:  # shards of different size, so that they cannot be mixed up
            rows = [held_row(name, kept) for _ in range(number)]
            site.put(number, name, [*rows, *(held_row(name, lost) for _ in range(3 * number))])
    older = held_row("session", kept, observed_us=NOON)
    site.put(1, "session", [older, older | {"observed_us": NOON + 1}])
    expected = {name: _held_once(site, name, kept) for name in classes}
    hold = appliance.hold(*hold_on(kept).scope)
    appliance.open_noon()
    selections = {
        name: appliance.vault.select(place(name), {"live"}, [hold], salt) for name in classes
    }

    run = appliance.run()

    assert [each.state for each in run.outcomes] == ["destroyed", "destroyed"]
    assert [appliance.of(name).preserved for name in classes] == [3, 4]
    assert [appliance.of(name).destroyed for name in classes] == [9, 9]

    def holds_everywhere() -> None:
        for name in classes:
            prints = [[print_, print_] for print_ in expected[name]]
            assert site.prints(name, "vault") == prints
            eventually(lambda name=name: site.prints(name, "live") == [[(0, 0, 0)] * 2] * 2)

    holds_everywhere()
    _until_final(appliance, classes)
    assert site.nodes_with(lost) == set()
    assert len(site.nodes_with(kept)) == 4
    for name in classes:
        found = appliance.vault.residue(appliance.of(name))
        assert found.waiting == ()
        assert set(found.evidence) == {node.address for node in site.cluster.nodes} | {"folders"}

    # Every step once more, by the run and by itself.
    size = appliance.log.size
    assert appliance.run().outcomes == ()
    assert appliance.purger.certificates.issue().final == ()
    assert appliance.log.size == size
    for name in classes:
        assert appliance.engine.refresh()
        appliance.vault.preserve(selections[name])
        appliance.vault.drop(approved(place(name)))
        holds_everywhere()
    assert appliance.verify().findings == ()
    assert appliance.findings() == []


@pytest.mark.parametrize("leads", [True, False])
def test_a_purge_goes_on_without_a_replica_and_its_certificate_waits(
    site: Site, appliance: ClusterAppliance, leads: bool
) -> None:
    """The replica that is dead is the one that leads the live table, or the one that does not."""
    kept, lost = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    for number in SHARDS:
        rows = [held_row("visit", kept) for _ in range(number)]
        site.put(number, "visit", [*rows, *(held_row("visit", lost) for _ in range(3 * number))])
    expected = _held_once(site, "visit", kept)
    appliance.hold(*hold_on(kept).scope)
    appliance.open_noon()
    dead = next(
        at
        for at, client in enumerate(site.clients[1])
        if _leads(client, "tallyhold.visit") == leads
    )
    node = site.cluster.shard(2)[dead]
    node.kill()
    try:
        outcomes = [each.state for each in appliance.run().outcomes]
        if leads:
            # Nobody can drop until the dead leader's session has ended, which takes five seconds.
            assert outcomes in (["unsettled"], ["destroyed"])
            eventually(lambda: appliance.purger.resumer.settle().clear)
            appliance.run()
        else:
            assert outcomes == ["destroyed"]
        purge = appliance.of("visit")
        assert (purge.preserved, purge.destroyed) == (3, 9)
        for _ in range(2):
            appliance.run()
            appliance.purger.certificates.issue()
            waiting = appliance.of("visit")
            assert waiting.step is Step.PENDING
            assert "replica-down" in waiting.waiting
            assert appliance.certificates(purge) == ["pending"]
        eventually(
            lambda: appliance.vault.residue(appliance.of("visit")).waiting == ("replica-down",)
        )
        here = [shard[1 - dead] for shard in site.clients]
        assert [_print(client, "visit", "vault") for client in here] == expected
        assert [_print(client, "visit", "live") for client in here] == [(0, 0, 0)] * 2
        assert (2, node.replica) in site.nodes_with(lost)  # so it is right to wait
    finally:
        node.restart()
    _until_final(appliance, ("visit",))
    assert site.nodes_with(lost) == set()
    eventually(lambda: site.prints("visit", "vault") == [[each, each] for each in expected])
    assert site.prints("visit", "live") == [[(0, 0, 0)] * 2] * 2
    assert appliance.run().outcomes == ()
    assert appliance.verify().findings == ()
    assert appliance.findings() == []


@pytest.mark.parametrize(
    "at", ["submit before", "submit after", "preserve after", "drop before", "drop after"]
)
def test_a_service_that_is_killed_while_a_replica_is_dead(
    site: Site, appliance: ClusterAppliance, at: str
) -> None:
    """SIGKILL at placement, or between what is preserved and its drop; it comes back before the
    replica does, and then the replica."""
    kept, lost = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    for number in SHARDS:
        rows = [held_row("visit", kept) for _ in range(number)]
        site.put(number, "visit", [*rows, *(held_row("visit", lost) for _ in range(3 * number))])
    expected = _held_once(site, "visit", kept)
    if not at.startswith("submit"):
        appliance.hold(*hold_on(kept).scope)
    appliance.open_noon()
    dead = next(n for n, c in enumerate(site.clients[1]) if not _leads(c, "tallyhold.visit"))
    node = site.cluster.shard(2)[dead]
    node.kill()
    try:
        appliance.killed(at, hold_on(kept))
        assert appliance.engine.refresh()  # without that replica, which is prepared when it is back
        assert appliance.purger.resumer.start().clear
        if at == "submit before":
            assert appliance.register.holds() == []
            appliance.submit(*hold_on(kept).scope)
        elif at == "submit after":
            assert [each.protects for each in appliance.register.holds()] == [True]
        appliance.run()
        purge = appliance.of("visit")
        assert (purge.preserved, purge.destroyed) == (3, 9)
    finally:
        node.restart()
    _until_final(appliance, ("visit",))
    assert site.nodes_with(lost) == set()
    eventually(lambda: site.prints("visit", "vault") == [[each, each] for each in expected])
    assert site.prints("visit", "live") == [[(0, 0, 0)] * 2] * 2
    assert appliance.verify().findings == ()
    assert appliance.findings() == []


def test_late_rows_and_holds_that_ended(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "SETTLE_S", -1800)
    at, vault = place("visit"), site.vault
    for number in SHARDS:
        rows = [held_row("visit", "ann") for _ in range(number)]
        site.put(number, "visit", [*rows, held_row("visit", "eve")], "late_visit")
    for round_ in range(2):  # a round that was cut short before the drop changes nothing
        (slot,) = vault.slots()
        assert slot.rows == 5
        swept = vault.select_late(slot, at, [hold_on("ann")], salt)
        assert swept.rows == (0 if round_ else 3)
        vault.preserve_late(slot, swept)
        assert [[each[0] for each in shard] for shard in site.prints("visit", "vault")] == [
            [1, 1],
            [2, 2],
        ]
    for _ in range(2):
        vault.drop_slot(approved(slot.place, "late"), slot)
    eventually(lambda: site.prints("visit", "late") == [[(0, 0, 0)] * 2] * 2)
    left = vault.select(at, {"vault"}, [], salt)
    for _ in range(2):
        vault.rebuild(approved(at, "vault"), left)
    eventually(lambda: site.prints("visit", "vault") == [[(0, 0, 0)] * 2] * 2)
    eventually(lambda: vault.residue(purge_of(at, "vault")).waiting == ())


def test_a_replica_that_has_not_all_rows_is_not_believed(site: Site) -> None:
    """What only a dead replica has must not count as not being there."""
    (first, second), at = site.clients[0], place("visit")
    first.execute("SYSTEM STOP FETCHES tallyhold.visit")
    node = site.cluster.shard(1)[1]
    impatient = Client(replace(first.endpoint, timeout_s=2.0))
    try:
        site.put(1, "visit", [held_row("visit", "ann")])
        node.kill()
        slow = EngineVault([[impatient, second], site.clients[1]])
        with pytest.raises(StoreError):
            slow.select(at, {"live"}, [hold_on("ann")], salt)
    finally:
        impatient.close()
        first.execute("SYSTEM START FETCHES tallyhold.visit")
        node.restart()
        first.execute("SYSTEM RESTART REPLICA tallyhold.visit")  # or it looks again after 10 s
    eventually(lambda: _answers(lambda: site.vault.select(at, {"live"}, [hold_on("ann")], salt)))
    assert site.vault.select(at, {"live"}, [hold_on("ann")], salt).rows == 1


def _client(node: Node) -> Client:
    """A statement that hangs fails its test, and not the run."""
    return Client(replace(node.endpoint(), timeout_s=20.0))


def _until_final(appliance: ClusterAppliance, classes: Sequence[str]) -> None:
    """Poll as the service does, until each purge has its final certificate."""

    def is_final() -> bool:
        appliance.purger.certificates.issue()
        return all(appliance.of(name).step is Step.FINAL for name in classes)

    eventually(is_final)
    for name in classes:
        assert appliance.certificates(appliance.of(name)) == ["final", "pending"]


def _held_once(site: Site, record_class: str, who: str) -> list[Print]:
    """Of each shard's rows of a subscriber, once both replicas say the same of it."""
    where = f"subscriber = '{who}'"
    eventually(lambda: all(a == b for a, b in site.prints(record_class, "live", where)))
    return [shard[0] for shard in site.prints(record_class, "live", where)]


def _print(client: Client, record_class: str, kept: Any, where: str = "1") -> Print:
    each = f"sipHash64({names_of(record_class)})"
    found = client.query_columns(
        f"SELECT count() AS n, groupBitXor({each}) AS x, sum({each}) AS s"
        f" FROM {Names().source(record_class, kept)}"
        f" WHERE {in_place(place(record_class))} AND {where}"
    )
    return int(found["n"][0]), int(found["x"][0]), int(found["s"][0])


def _leader(shard: Sequence[Client], table: str) -> Client | None:
    return next((client for client in shard if _leads(client, table)), None)


def _leads(client: Client, table: str) -> bool:
    database, _, name = table.partition(".")
    found = client.query_columns(
        "SELECT is_leader AS leads FROM system.replicas"
        " WHERE database = %(database)s AND table = %(table)s",
        {"database": database, "table": name},
    )
    return bool(found["leads"][0])


def _answers(step: Callable[[], object]) -> bool:
    try:
        step()
    except StoreError:
        return False
    return True


def _has_zookeeper(node: Node) -> bool:
    look = "SELECT name FROM system.zookeeper WHERE path = '/clickhouse'"
    return _answers(lambda: Client(node.endpoint()).outside(look))
