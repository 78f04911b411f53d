"""Which snapshots of a twin are worth keeping: dense lately, sparse long ago.

Most late events are a little late, so that the last few states are all kept; further back every second, fourth, eighth
... state is, so that from any event at a distance d from the present the next kept state lies within d / 2 before it.
Folding again from there costs at most half as much more than what the late event makes unavoidable, and n events need
about 2 log2(n) snapshots. The rule is that of hierarchical checkpoints: R. Paige 1999 calls it a logarithmic history;
the trade of storage for recomputation is A. Griewank 1992, doi:10.1080/10556789208805505.
"""

from __future__ import annotations

APART = 12
"""Inside one fold of many events kept states are no closer to each other or to its ends than this: each ends a batch of
kernels, which costs as much as a dozen events."""


def spacing(distance: int) -> int:
    """Events between two kept states at a distance (events) from the present: the largest power of two <= d / 2."""
    return 1 << max(0, (distance // 2).bit_length() - 1)


def is_kept(n_folded: int, head: int) -> bool:
    """Whether the state after ``n_folded`` events is kept once the twin has folded ``head`` of them."""
    return n_folded >= head or n_folded % spacing(head - n_folded) == 0


def kept_within(start: int, head: int) -> list[int]:
    """The states to keep of one fold from ``start`` to ``head`` (both counts of events), the last of which is ``head``.

    They are chosen from the end, so that the first of them lies as near to the present as it may.
    """
    found = [head]
    while (before := _latest_kept(found[-1] - APART, head)) >= start + APART:
        found.append(before)
    return found[::-1]


def _latest_kept(n_folded: int, head: int) -> int:
    """The last state up to this one that is kept once ``head`` events are folded; 0 or less where there is none."""
    while n_folded > 0 and (beyond := n_folded % spacing(head - n_folded)):
        n_folded -= beyond
    return n_folded
