"""The tree against RFC 6962's published vectors and a second, recursive reading of the RFC."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention.audit import merkle
from retention.audit.frontier import Frontier
from retention.audit.merkle import Tile, Tree

# The leaves and roots with which Certificate Transparency implementations are tested.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def oracle_root(leaves: list[bytes]) -> bytes:
    """MTH as RFC 6962 section 2.1 writes it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = oracle_split(len(leaves))
    return hashlib.sha256(b"\1" + oracle_root(leaves[:k]) + oracle_root(leaves[k:])).digest()


def oracle_split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def oracle_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH(m, D[n]), section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = oracle_split(len(leaves))
    if m < k:
        return [*oracle_path(m, leaves[:k]), oracle_root(leaves[k:])]
    return [*oracle_path(m - k, leaves[k:]), oracle_root(leaves[:k])]


def oracle_proof(m: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    """SUBPROOF(m, D[n], b), section 2.1.2."""
    if m == len(leaves):
        return [] if whole else [oracle_root(leaves)]
    k = oracle_split(len(leaves))
    if m <= k:
        return [*oracle_proof(m, leaves[:k], whole), oracle_root(leaves[k:])]
    return [*oracle_proof(m - k, leaves[k:], False), oracle_root(leaves[:k])]


def grow(leaves: list[bytes]) -> Tree:
    tree = Tree()
    for leaf in leaves:
        tree.append(merkle.leaf_hash(leaf))
    return tree


def test_published_roots() -> None:
    tree = grow(LEAVES)
    assert Tree().root() == merkle.EMPTY_ROOT
    assert [tree.root(n + 1).hex() for n in range(8)] == list(ROOTS)


def test_published_paths_and_proofs() -> None:
    tree = grow(LEAVES)
    assert [step.hex()[:8] for step in tree.inclusion(0, 8)] == ["96a296d2", "5f083f0a", "6b47aaf2"]
    assert [step.hex()[:8] for step in tree.consistency(6, 8)] == [
        "0ebc5d34",
        "ca854ea1",
        "d37ee418",
    ]
    assert [step.hex()[:8] for step in tree.consistency(2, 5)] == ["5f083f0a", "bc1a0643"]


def test_every_proof_of_small_trees_is_the_oracles() -> None:
    leaves = [bytes([n]) for n in range(20)]
    tree = grow(leaves)
    for size in range(1, 21):
        root = oracle_root(leaves[:size])
        assert tree.root(size) == root
        for index in range(size):
            path = tree.inclusion(index, size)
            assert path == oracle_path(index, leaves[:size])
            assert merkle.included(merkle.leaf_hash(leaves[index]), index, size, path, root)
        for old in range(1, size + 1):
            proof = tree.consistency(old, size)
            assert proof == oracle_proof(old, leaves[:size])
            assert merkle.consistent(old, size, proof, oracle_root(leaves[:old]), root)


@given(st.integers(1, 700), st.data())
def test_proofs_hold_and_no_other_does(size: int, data: st.DataObject) -> None:
    leaves = [n.to_bytes(2, "big") for n in range(size)]
    tree, root = grow(leaves), oracle_root(leaves)
    index = data.draw(st.integers(0, size - 1))
    path, hashed = tree.inclusion(index, size), merkle.leaf_hash(leaves[index])
    assert merkle.included(hashed, index, size, path, root)
    assert not merkle.included(hashed, index, size, [*path, root], root)
    other = data.draw(st.integers(0, size - 1).filter(lambda n: size == 1 or n != index))
    if other != index:
        assert not merkle.included(hashed, other, size, path, root)
    old = data.draw(st.integers(1, size))
    proof, old_root = tree.consistency(old, size), oracle_root(leaves[:old])
    assert merkle.consistent(old, size, proof, old_root, root)
    assert not merkle.consistent(old, size, proof, old_root, bytes(32))
    assert not merkle.consistent(old, size, proof, bytes(32), root)
    for at in range(len(proof)):
        wrong = [*proof[:at], bytes(32), *proof[at + 1 :]]
        assert not merkle.consistent(old, size, wrong, old_root, root)
        assert not merkle.consistent(old, size, proof[:at], old_root, root)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0), (0, 5)])
def test_no_proof_for_what_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no leaf|has 3"):
        grow(LEAVES[:3]).inclusion(index, size)


def test_tiles_of_the_specifications_example() -> None:
    # C2SP tlog-tiles, "Partial Tiles": a tree of 70,000.
    found = [tile for tile in merkle.tiles(70_000) if tile.level >= 0]
    assert len([t for t in found if t.level == 0 and t.width == 256]) == 273
    assert found[273:] == [Tile(0, 273, 112), Tile(1, 0, 256), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert [t for t in merkle.tiles(256) if t.level >= 0] == [Tile(0, 0, 256), Tile(1, 0, 1)]
    assert Tile(0, 1_234_067, 256).path == "tile/0/x001/x234/067"
    assert Tile(merkle.ENTRIES, 5, 7).path == "tile/entries/005.p/7"


def test_tiles_hold_the_roots_of_full_tiles_below() -> None:
    leaves = [n.to_bytes(2, "big") for n in range(600)]
    tree = grow(leaves)
    assert tree.tile(Tile(1, 0, 2)) == oracle_root(leaves[:256]) + oracle_root(leaves[256:512])


@given(st.integers(0, 200_000), st.integers(0, 600))
def test_what_an_append_writes_and_removes_is_the_difference(old: int, more: int) -> None:
    before, after = set(merkle.tiles(old)), set(merkle.tiles(old + more))
    assert set(merkle.tiles(old + more, old)) == after - before
    assert set(merkle.superseded(old + more, old)) == before - after
    assert all(merkle.parse_path(tile.path) == tile for tile in after - before)


@pytest.mark.parametrize(
    "path",
    ["tile/0/1", "tile/00/001", "tile/0/001.p/0", "tile/0/001.p/256", "tile/0/x000/001", "tile/0/"]
    + ["tile/entries/001.p/01", "checkpoint", "tile/0/001/", "../tile/0/001"],
)
def test_other_paths_are_no_tiles(path: str) -> None:
    assert merkle.parse_path(path) is None


def test_bundles() -> None:
    entries = [b"", b"a" * 300, b"b"]
    assert merkle.unbundle(merkle.bundle(entries)) == entries
    for cut in (1, 3, len(merkle.bundle(entries)) - 1):
        with pytest.raises(ValueError, match="ends inside"):
            merkle.unbundle(merkle.bundle(entries)[:cut])


def test_the_frontier_has_the_tiles_and_roots_of_the_tree() -> None:
    """At sizes around each bound of a tile, and at one of three levels."""
    sizes = {0, 1, 2, 3, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 66_000}
    tree, edge, full = merkle.Tree(), Frontier(), dict[merkle.Tile, bytes]()
    for number in range(max(sizes) + 1):
        if number in sizes:
            assert edge.root() == tree.root()
            have = full | dict(edge.partials())
            hashes = [tile for tile in merkle.tiles(number) if tile.level != merkle.ENTRIES]
            assert have == {tile: tree.tile(tile) for tile in hashes}
        hashed = merkle.leaf_hash(number.to_bytes(4, "big"))
        tree.append(hashed)
        full.update(edge.append(hashed))
