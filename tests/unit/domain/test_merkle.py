"""Merkle trees: against the published vectors, against the definition of RFC 6962 written out, and against forgers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oncotwin.domain import merkle
from oncotwin.domain.merkle import (
    EMPTY_ROOT,
    Frontier,
    Tree,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

# Inputs and roots of the tests of the certificate-transparency code, as published with RFC 6962.
INPUTS = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(n.to_bytes(4, "big")) for n in range(200)]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small trees have many of them."""
    monkeypatch.setattr(merkle, "_BLOCK", 8)


def tree() -> Tree:
    return Tree(lambda begin, end: islice(LEAVES, begin, end))


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """MTH as RFC 6962 writes it, recursively."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY_ROOT
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return node_hash(tree_hash(leaves[:k]), tree_hash(leaves[k:]))


@pytest.mark.parametrize("size", range(1, 9))
def test_published_roots(size: int) -> None:
    frontier = Frontier()
    for content in INPUTS[:size]:
        frontier.append(leaf_hash(content))
    assert frontier.root().hex() == ROOTS[size - 1]


def test_the_empty_tree() -> None:
    assert Frontier().root() == tree().root(0, 0) == EMPTY_ROOT


@pytest.mark.parametrize("size", range(1, 70))
def test_roots_are_those_of_the_definition(size: int) -> None:
    assert tree().root(0, size) == tree_hash(LEAVES[:size])


@given(st.integers(0, 199), st.integers(1, 200))
def test_a_tree_grows_from_its_peaks(before: int, size: int) -> None:
    frontier = Frontier()
    for leaf in LEAVES[:before]:
        frontier.append(leaf)
    again = Frontier(frontier.size, frontier.peaks)
    for leaf in LEAVES[before:size]:
        again.append(leaf)
    assert again.root() == tree_hash(LEAVES[: max(before, size)])


def test_peaks_that_do_not_fit_a_size_are_refused() -> None:
    with pytest.raises(ValueError, match="a tree of 3 leaves has 2 peaks, not 1"):
        Frontier(3, [bytes(32)])


def test_every_inclusion_proof_up_to_70_leaves_holds_for_its_leaf_alone() -> None:
    source = tree()
    for size in range(1, 70):
        root = tree_hash(LEAVES[:size])
        for index in range(size):
            path = source.inclusion(index, size)
            assert verify_inclusion(LEAVES[index], index, size, path, root)
            for other in {index - 1, index + 1, size - 1} - {index}:
                assert not verify_inclusion(LEAVES[index], other, size, path, root)
            assert not verify_inclusion(LEAVES[index + 1], index, size, path, root)


def test_every_consistency_proof_up_to_40_leaves_holds_for_its_trees_alone() -> None:
    source = tree()
    roots = [tree_hash(LEAVES[:size]) for size in range(42)]
    for new in range(1, 40):
        for old in range(1, new + 1):
            path = source.consistency(old, new)
            assert verify_consistency(old, roots[old], new, roots[new], path)
            assert not verify_consistency(old, roots[old - 1], new, roots[new], path)
            assert not verify_consistency(old, roots[old], new, roots[new + 1], path)
            if old > 1:
                assert not verify_consistency(old - 1, roots[old], new, roots[new], path)


@given(st.integers(1, 200), st.data())
def test_a_proof_with_any_bit_flipped_or_any_hash_added_or_left_out_fails(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    root, old_root = tree().root(0, size), tree().root(0, old)
    proofs: list[tuple[list[bytes], Callable[[list[bytes]], bool]]] = [
        (tree().inclusion(index, size), lambda p: verify_inclusion(LEAVES[index], index, size, p, root)),
        (tree().consistency(old, size), lambda p: verify_consistency(old, old_root, size, root, p)),
    ]
    for path, holds in proofs:
        assert holds(path)
        assert not holds([*path, bytes(32)])
        if path:
            assert not holds(path[:-1])
            assert not holds(path[1:])
            place, bit = data.draw(st.integers(0, len(path) - 1)), data.draw(st.integers(0, 255))
            flipped = (int.from_bytes(path[place], "big") ^ (1 << bit)).to_bytes(32, "big")
            assert not holds([*path[:place], flipped, *path[place + 1 :]])


def test_what_is_not_in_the_tree_has_no_proof() -> None:
    with pytest.raises(ValueError, match="leaf 5 is not in a tree of 5"):
        tree().inclusion(5, 5)
    with pytest.raises(ValueError, match="does not begin with"):
        tree().consistency(6, 5)
    with pytest.raises(ValueError, match="leaves 200 to 200 were asked for, 0 are there"):
        tree().root(0, 201)
    assert not verify_inclusion(LEAVES[0], -1, 1, [], LEAVES[0])
    assert not verify_consistency(0, EMPTY_ROOT, 1, LEAVES[0], [])


def test_a_node_is_no_leaf() -> None:
    content = LEAVES[0] + LEAVES[1]
    assert leaf_hash(content) != node_hash(LEAVES[0], LEAVES[1])
