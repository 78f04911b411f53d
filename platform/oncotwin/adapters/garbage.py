"""How often Python looks for reference cycles in processes that hold, or pass on, thousands of twins."""

from __future__ import annotations

import gc

_THRESHOLDS = (50_000, 20, 100)


def collect_rarely() -> None:
    """Look for cycles less often than Python does by default.

    A twin's state is some hundred small immutable objects without cycles, freed by their reference counts. By default
    the collector walks through all of them again whenever a quarter of them was replaced, which took half of the
    processor time of an actor with 5,000 twins. What does have cycles (the libraries' own objects) is few, and still
    collected, less often. A worker whose twins are in actors spent a sixth of its time on it.
    """
    gc.set_threshold(*_THRESHOLDS)
