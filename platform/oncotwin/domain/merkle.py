"""Merkle trees over a growing list, with proofs that an entry is in it and that it only grew.

Leaves and nodes are hashed under different prefixes, so that no node can be passed off as a leaf. Nothing here holds
the tree: it is hashed from a stream of leaf hashes, in memory that grows with the logarithm of its size.

Source: Laurie, Langley, Kasper 2013, Certificate Transparency, RFC 6962, section 2.1; the checks of proofs are those
of Laurie, Messeri, Stradling 2021, RFC 9162, sections 2.1.3.2 and 2.1.4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()
"""Root of a tree without leaves."""

HASH_BYTES = 32

_BLOCK = 4_096
"""Leaves of the subtrees whose roots a `Tree` keeps, so that many proofs over one tree read its leaves about once."""


def leaf_hash(content: bytes) -> bytes:
    """Hash of one entry's bytes."""
    return sha256(b"\x00" + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of two subtrees beside each other."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """A tree that grows: the roots of its complete subtrees, greatest first ("peaks"), are all that is kept of it."""

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size = size
        self.peaks = list(peaks)
        if len(self.peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks, not {len(self.peaks)}")

    def append(self, leaf: bytes) -> None:
        """Add a leaf's hash: equal subtrees at the end are joined, as ones are carried in a binary sum."""
        peaks, size = self.peaks, self.size
        while size & 1:
            leaf = sha256(b"\x01" + peaks.pop() + leaf).digest()
            size >>= 1
        peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """Root of the tree as it stands."""
        return fold_peaks(self.peaks)


def fold_peaks(peaks: Sequence[bytes]) -> bytes:
    """Root of the tree whose complete subtrees, greatest first, have these roots."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


class Tree:
    """Proofs over leaf hashes that lie elsewhere.

    Args:
        leaves: yields the hashes of the leaves from `begin` up to but without `end`; leaves count from 0.
    """

    def __init__(self, leaves: Callable[[int, int], Iterable[bytes]]) -> None:
        self._leaves = leaves
        self._blocks: dict[int, bytes] = {}

    def root(self, begin: int, end: int) -> bytes:
        """Root over a range that is a subtree of every tree which reaches beyond it (MTH of RFC 6962).

        Raises:
            ValueError: the source yields fewer leaves than the range has.
        """
        peaks = Frontier()
        full = (end - begin) // _BLOCK
        for number in range(full):
            peaks.append(self._block(begin + number * _BLOCK))
        rest = Frontier()
        if begin + full * _BLOCK < end:
            rest = self._read(begin + full * _BLOCK, end)
        return fold_peaks([*peaks.peaks, *rest.peaks])

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The hashes that lead from a leaf to the root of the first `size` leaves, nearest first (PATH)."""
        if not 0 <= index < size:
            raise ValueError(f"leaf {index} is not in a tree of {size}")
        path = []
        begin, end = 0, size
        while end - begin > 1:
            middle = begin + _split(end - begin)
            if index < middle:
                path.append(self.root(middle, end))
                end = middle
            else:
                path.append(self.root(begin, middle))
                begin = middle
        return path[::-1]

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The hashes that show the tree of `new` leaves to begin with the tree of `old` (PROOF)."""
        if not 0 < old <= new:
            raise ValueError(f"a tree of {new} does not begin with a tree of {old}")
        path: list[bytes] = []
        begin, end, whole = 0, new, True
        while old != end:
            middle = begin + _split(end - begin)
            if old <= middle:
                path.append(self.root(middle, end))
                end = middle
            else:
                path.append(self.root(begin, middle))
                begin, whole = middle, False
        if not whole:
            path.append(self.root(begin, end))
        return path[::-1]

    def _block(self, begin: int) -> bytes:
        if begin not in self._blocks:
            self._blocks[begin] = self._read(begin, begin + _BLOCK).root()
        return self._blocks[begin]

    def _read(self, begin: int, end: int) -> Frontier:
        frontier = Frontier()
        for leaf in self._leaves(begin, end):
            frontier.append(leaf)
        if frontier.size != end - begin:
            raise ValueError(f"leaves {begin} to {end - 1} were asked for, {frontier.size} are there")
        return frontier


def _split(n: int) -> int:
    """The largest power of two smaller than n."""
    return 1 << (n - 1).bit_length() - 1


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether a proof leads from a leaf's hash at an index to the root of a tree of a size."""
    if not 0 <= index < size:
        return False
    first, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if first & 1 or first == last:
            found = node_hash(sibling, found)
            while not first & 1 and first != 0:
                first >>= 1
                last >>= 1
        else:
            found = node_hash(found, sibling)
        first >>= 1
        last >>= 1
    return last == 0 and found == root


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether a proof shows that a tree begins with another, both given by size and root."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not path and old_root == new_root
    # A complete subtree at the left edge is its own first hash, and proofs leave it out.
    hashes = [old_root, *path] if old & (old - 1) == 0 else list(path)
    if not hashes:
        return False
    first, last = old - 1, new - 1
    while first & 1:
        first >>= 1
        last >>= 1
    found_old = found_new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            found_old = node_hash(sibling, found_old)
            found_new = node_hash(sibling, found_new)
            while not first & 1 and first != 0:
                first >>= 1
                last >>= 1
        else:
            found_new = node_hash(found_new, sibling)
        first >>= 1
        last >>= 1
    return last == 0 and found_old == old_root and found_new == new_root
