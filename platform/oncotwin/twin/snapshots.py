"""Which snapshots of a twin are worth keeping: dense lately, sparse long ago.

Most late events are a little late, so that the last few states are all kept; further back every second, fourth, eighth
... state is, so that from any event at a distance d from the present the next kept state lies within d / 2 before it.
Folding again from there costs at most half as much more than what the late event makes unavoidable, and n events need
about 2 log2(n) snapshots. The rule is that of hierarchical checkpoints: R. Paige 1999 calls it a logarithmic history;
the trade of storage for recomputation is A. Griewank 1992, doi:10.1080/10556789208805505.
"""

from __future__ import annotations

WITHIN_FOLD = 8
"""Inside one fold of many events states are kept at multiples of this, and no closer to each other or to its ends: each
ends a batch of kernels, which costs as much as a dozen events."""


def spacing(distance: int) -> int:
    """Events between two kept states at a distance (events) from the present: the largest power of two <= d / 2."""
    return 1 << max(0, (distance // 2).bit_length() - 1)


def is_kept(n_folded: int, head: int) -> bool:
    """Whether the state after ``n_folded`` events is kept once the twin has folded ``head`` of them."""
    return n_folded >= head or n_folded % spacing(head - n_folded) == 0


def next_kept(n_folded: int, head: int) -> int:
    """The state after ``n_folded`` at which a fold that goes on to ``head`` is to keep one; ``head`` at the latest."""
    following = (n_folded + 2 * WITHIN_FOLD - 1) // WITHIN_FOLD * WITHIN_FOLD
    while following + WITHIN_FOLD <= head and not is_kept(following, head):
        following += WITHIN_FOLD
    return following if following + WITHIN_FOLD <= head else head
