"""The vault over two shards of two replicas: each shard keeps its own, every replica has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from aggregator.store.client import Client, StoreError
from retention.vault import late
from retention.vault.engine import EngineVault
from tests.aggregator.cluster import Cluster, Node
from tests.aggregator.support import Store
from tests.retention.vault.world import (
    World,
    approved,
    eventually,
    held_row,
    hold_on,
    place,
    purge_of,
    salt,
)

AT = place("visit")
LOOK = "SELECT record_id FROM {} ORDER BY record_id"


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


def _answers(step: Callable[[], object]) -> bool:
    try:
        step()
    except StoreError:
        return False
    return True


def _has_zookeeper(node: Node) -> bool:
    look = "SELECT name FROM system.zookeeper WHERE path = '/clickhouse'"
    return _answers(lambda: Client(node.endpoint()).outside(look))


def clients(cluster: Cluster) -> list[list[Client]]:
    return [[Client(node.endpoint()) for node in cluster.shard(n)] for n in (1, 2)]


def ids(client: Client, table: str) -> list[bytes]:
    return list(client.query_columns(LOOK.format(table))["record_id"])


@pytest.mark.engine
def test_a_purge_on_every_shard_and_replica(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late, "SETTLE_S", -1800)
    shards = clients(cluster)
    vault = EngineVault(shards)
    for _ in range(2):
        vault.prepare()
    held = []
    for shard in shards:
        world = World(Store("debian", shard[1], shard[1]), cluster.folder)
        here = [held_row("visit", "ann"), held_row("visit", "eve")]
        world.put("visit", here)
        later = held_row("visit", "ann")
        world.put("visit", [later, held_row("visit", "eve")], "late_visit")
        held.append(sorted(each["record_id"] for each in (here[0], later)))
    holds = [hold_on("ann")]

    (partition,) = vault.partitions()  # from the replicas that were not written to
    assert (partition.place, partition.rows) == (AT, 4)
    selection = vault.select(AT, {"live"}, holds, salt)
    assert selection.rows == 2
    vault.preserve(selection)
    assert vault.preserved(selection)
    vault.drop(approved(AT))
    (slot,) = vault.slots()
    assert slot.rows == 4
    swept = vault.select_late(slot, AT, holds, salt)
    assert swept.rows == 2
    vault.preserve_late(slot, swept)
    vault.drop_slot(approved(slot.place, "late"), slot)

    for shard, kept in zip(shards, held, strict=True):
        for client in shard:
            assert ids(client, "tallyhold_vault.vault_visit") == kept
            eventually(lambda client=client: ids(client, "tallyhold.visit") == [], 20)
            eventually(lambda client=client: ids(client, "tallyhold.late_visit") == [], 20)
    eventually(lambda: vault.residue(purge_of(AT)).waiting == ())
    assert len(vault.residue(purge_of(AT)).evidence) == 5

    # With a replica dead the rest goes on, and the certificate waits for it.
    node = cluster.shard(2)[0]
    node.kill()
    try:
        left = vault.select(AT, {"vault"}, [], salt)
        # The other becomes the leader when the dead one's session has ended.
        eventually(lambda: _answers(lambda: vault.rebuild(approved(AT, "vault"), left)), 90)
        assert vault.count(AT, "vault") == 0
        assert "replica-down" in vault.residue(purge_of(AT, "vault")).waiting
    finally:
        node.restart()
    eventually(lambda: vault.residue(purge_of(AT, "vault")).waiting == ())
    for shard in shards:
        for client in shard:
            client.close()


@pytest.mark.engine
def test_a_replica_that_has_not_all_rows_is_not_believed(cluster: Cluster) -> None:
    """What only a dead replica has must not count as not being there."""
    shards = clients(cluster)
    vault = EngineVault(shards)
    vault.prepare()
    first, second = shards[0]
    second.execute("SYSTEM STOP FETCHES tallyhold.visit")
    node = cluster.shard(1)[0]
    try:
        world = World(Store("debian", first, first), cluster.folder)
        world.put("visit", [held_row("visit", "ann")])
        node.kill()
        slow = EngineVault([[Client(node.endpoint()), _impatient(second)], shards[1]])
        with pytest.raises(StoreError):
            slow.select(AT, {"live"}, [hold_on("ann")], salt)
    finally:
        second.execute("SYSTEM START FETCHES tallyhold.visit")
        node.restart()
    eventually(lambda: vault.select(AT, {"live"}, [hold_on("ann")], salt).rows == 1)


def _impatient(client: Client) -> Client:
    """The same server, given up after two seconds."""
    return Client(replace(client.endpoint, timeout_s=2.0))
