"""Steps of many twins as one ragged table: the only thing a fold reads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Operation(IntEnum):
    """What a step does once the twin has been propagated to the step's time."""

    ADVANCE = 0
    """Nothing: only the propagation."""
    PREDICT = 1
    """Predict the observable; condition on nothing (a forecast)."""
    OBSERVE = 2
    """Condition on ``value``."""
    BELOW = 3
    """Condition on the observation being below ``value`` (left-censored)."""
    ABOVE = 4
    """Condition on the observation being above ``value`` (right-censored)."""
    BETWEEN = 5
    """Condition on the observation lying between ``value`` and ``upper``."""
    RESET = 6
    """Give the components named in a row of ``resets`` fresh independent priors, activating new ones."""


@dataclass(frozen=True, slots=True)
class StepTable:
    """Struct of arrays; twin ``i`` owns the steps ``offsets[i]:offsets[i + 1]``, in order of time.

    Attributes:
        offsets: (k + 1,) int64.
        time: (n_steps,) days since 1970-01-01 UTC; never before the state's time, not decreasing within a twin.
        operation: (n_steps,) int64, an `Operation`.
        operator: (n_steps,) int64, index of the observable among the model's.
        target: (n_steps,) int64, slot of the lesion; 0 where the observable belongs to the patient.
        value, upper: (n_steps,) in observation scale.
        inputs: (n_steps, n_inputs), in force on the interval that ends at the step.
        reset: (n_steps,) int64, row of ``resets`` for RESET steps, else -1.
        resets: (n_resets, n, 2) mean and variance of each component; NaN leaves the component as it is.
        keys: (n_steps,) uint64, from (twin, event): seeds the counter-based generator of random filters.
    """

    offsets: NDArray[np.int64]
    time: NDArray[np.float64]
    operation: NDArray[np.int64]
    operator: NDArray[np.int64]
    target: NDArray[np.int64]
    value: NDArray[np.float64]
    upper: NDArray[np.float64]
    inputs: NDArray[np.float64]
    reset: NDArray[np.int64]
    resets: NDArray[np.float64]
    keys: NDArray[np.uint64]

    @property
    def n_twins(self) -> int:
        """Number of twins in the table."""
        return len(self.offsets) - 1

    @property
    def n_steps(self) -> int:
        """Number of steps of all twins."""
        return len(self.time)

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """What every kernel takes, in the order in which it does; ``keys`` are for those that draw."""
        return (
            self.offsets, self.time, self.operation, self.operator, self.target, self.value, self.upper, self.inputs,
            self.reset, self.resets,
        )


def passing(time: NDArray[np.float64], inputs: NDArray[np.float64], n: int, keys: NDArray[np.uint64]) -> StepTable:
    """A table of one ADVANCE step for each twin: ``time`` (k,), ``inputs`` (k, u), state capacity ``n``."""
    zeros = np.zeros(len(time), dtype=np.int64)
    nothing = np.full(len(time), np.nan)
    return _one_each(time, zeros + int(Operation.ADVANCE), zeros, zeros, nothing, nothing, inputs, n, keys)


def observing(
    time: NDArray[np.float64], operation: NDArray[np.int64], operator: NDArray[np.int64], target: NDArray[np.int64],
    value: NDArray[np.float64], upper: NDArray[np.float64], n: int, keys: NDArray[np.uint64],
) -> StepTable:
    """A table of one observation for each twin at its present ``time`` (k,), state capacity ``n``."""
    return _one_each(time, operation, operator, target, value, upper, np.zeros((len(time), 1)), n, keys)


def _one_each(
    time: NDArray[np.float64], operation: NDArray[np.int64], operator: NDArray[np.int64], target: NDArray[np.int64],
    value: NDArray[np.float64], upper: NDArray[np.float64], inputs: NDArray[np.float64], n: int,
    keys: NDArray[np.uint64],
) -> StepTable:
    k = len(time)
    return StepTable(
        offsets=np.arange(k + 1, dtype=np.int64), time=np.array(time, dtype=np.float64),
        operation=np.array(operation, dtype=np.int64),
        operator=np.array(operator, dtype=np.int64), target=np.array(target, dtype=np.int64),
        value=np.array(value, dtype=np.float64), upper=np.array(upper, dtype=np.float64),
        inputs=np.array(inputs, dtype=np.float64), reset=np.full(k, -1, dtype=np.int64),
        resets=np.full((1, n, 2), np.nan), keys=np.array(keys, dtype=np.uint64),
    )
