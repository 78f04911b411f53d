"""How an engine applies a function to the blocks of a section or slide."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Run(Protocol):
    """Applies a function to every block, as the built-in `map` does; an engine may do it side by side.

    Results come in the order of the blocks. An engine may send function and blocks to other processes, and may keep
    results to go on after a crash, so both must pickle and the function must depend on nothing but its block.
    """

    def __call__(self, function: Callable[[In], Out], blocks: Iterable[In], /) -> Iterable[Out]: ...
