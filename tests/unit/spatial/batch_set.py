"""A generated embedding of three institutions: cell types in a space of ten, each institution shifted its own way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

N_TYPES, N_BATCHES, N_COORDINATES = 4, 3, 10


def make_batches(seed: int, n: int = 1_500) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Points (n, 10), batches (n,) and types (n,); batches hold other shares of the types."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(N_TYPES, N_COORDINATES)) * 4.0
    shares = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.3, 0.3, 0.3], [0.25, 0.25, 0.25, 0.25]])
    batches = rng.integers(0, N_BATCHES, n)
    types = np.array([rng.choice(N_TYPES, p=shares[batch]) for batch in batches.tolist()])
    # A shift of the whole batch, and one of each type in it.
    shift = rng.normal(size=(N_BATCHES, N_COORDINATES)) * 1.5
    own = rng.normal(size=(N_BATCHES, N_TYPES, N_COORDINATES)) * 0.5
    points = centres[types] + shift[batches] + own[batches, types] + rng.normal(size=(n, N_COORDINATES))
    return points, batches, types
