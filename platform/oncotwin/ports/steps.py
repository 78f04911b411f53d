"""Named steps: the places at which the shell can be stopped, so that tests can stop it at each of them."""

from __future__ import annotations

from collections.abc import Callable

OnStep = Callable[[str], None]
"""Told the name of a step right after it was done. Whatever it raises unwinds as a failure at that place."""


def no_step(name: str) -> None:
    """Nobody listens."""
    del name
