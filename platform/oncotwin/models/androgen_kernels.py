"""Compiled dynamics and observation of the androgen-suppression model; equations at the head of `androgen`."""

from __future__ import annotations

import math

from numba import njit, types

from oncotwin.models.base import Array

_f1 = types.float64[::1]

(
    ANDROGEN, SECRETION, DEPENDENT, INDEPENDENT, GROWTH, DECLINE, INDEPENDENT_GROWTH, CASTRATION, RECOVERY,
    NORMAL_TESTOSTERONE, BASAL_SECRETION, CAPACITY, REMNANT, SWITCHED,
) = range(14)
"""Places of the components in the state, in the order of `androgen.SHARED`."""

(
    LOW, HIGH, SENSITIVITY, CASTRATE, RETURN, PSA_RELATIVE, PSA_ABSOLUTE, TESTOSTERONE_RELATIVE,
    TESTOSTERONE_ABSOLUTE, RESTART_LEVEL, RESTART_WIDTH, RESTART_RATE, PAUSE_DAY, PAUSE_WIDTH, PAUSE_RATE, FLOOR,
) = range(16)
"""Places of the constants."""

# Members far out in the tails must stay finite; no patient has rates or levels near these bounds.
_LEVEL = 20.0
_SLOWEST, _FASTEST = -10.0, -0.7
STEP_DAYS = 8.0
"""Longest step; within one, the androgen signal is exact and its mean is taken by Simpson's rule."""


@njit(types.float64(types.float64), cache=True, nogil=True)
def logistic(x: float) -> float:
    """Logistic function, safe for any finite argument."""
    return 1.0 / (1.0 + math.exp(-min(max(x, -30.0), 30.0)))


@njit(types.float64(types.float64, types.float64, types.float64), cache=True, nogil=True)
def bounded(x: float, low: float, high: float) -> float:
    """The value within [low, high] nearest to ``x``."""
    return min(max(x, low), high)


@njit(types.float64(types.float64, types.float64, types.float64, types.float64, types.float64), cache=True, nogil=True)
def log_psa(dependent: float, independent: float, basal: float, signal: float, secretion: float) -> float:
    """Logarithm of PSA from both compartments' logarithms; ``signal`` is the androgen signal in [0, 1]."""
    return secretion + math.log(math.exp(dependent) * (basal + (1.0 - basal) * signal) + math.exp(independent))


@njit(types.void(_f1, types.float64, types.float64, _f1, _f1, _f1), cache=True, nogil=True)
def propagate(member: Array, t0: float, t1: float, inputs: Array, constants: Array, out: Array) -> None:
    """One member over [t0, t1]; ``inputs``: 1 on treatment (else 0), 1 to let treatment follow the state, switch day.

    While the androgen signal is constant the step is exact, whatever its length: on long treatment, say.
    """
    for i in range(member.shape[0]):
        out[i] = member[i]
    span = t1 - t0
    n_steps = max(1, math.ceil(span / STEP_DAYS))
    h = span / n_steps
    on_treatment, follows = inputs[0] > 0.5, inputs[1] > 0.5
    androgen = bounded(member[ANDROGEN], -_LEVEL, _LEVEL)
    dependent = bounded(member[DEPENDENT], -_LEVEL, _LEVEL)
    independent = bounded(member[INDEPENDENT], -_LEVEL, _LEVEL)
    growth = math.exp(bounded(member[GROWTH], _SLOWEST, _FASTEST))
    decline = math.exp(bounded(member[DECLINE], _SLOWEST, _FASTEST))
    independent_growth = 0.01 * bounded(member[INDEPENDENT_GROWTH], -8.0, 8.0)
    castration = math.exp(bounded(member[CASTRATION], _SLOWEST, 0.0))
    recovery = math.exp(bounded(member[RECOVERY], _SLOWEST, 0.0))
    basal, capacity, remnant = logistic(member[BASAL_SECRETION]), member[CAPACITY], member[REMNANT]
    secretion = member[SECRETION]
    hazard = member[SWITCHED] if follows else 0.0
    sensitivity = constants[SENSITIVITY]
    for step in range(n_steps):
        treated = 1.0 if on_treatment else 0.0
        if follows:
            if on_treatment:
                day = t0 + step * h - inputs[2]
                hazard += h * constants[PAUSE_RATE] * logistic((day - constants[PAUSE_DAY]) / constants[PAUSE_WIDTH])
            else:
                level = log_psa(dependent, independent, basal, logistic(androgen + sensitivity), secretion)
                hazard += h * constants[RESTART_RATE] * logistic(
                    (level - constants[RESTART_LEVEL]) / constants[RESTART_WIDTH]
                )
            # The member switches about when the switch has become likelier than not, so that the ensemble's median
            # is the median of the two courses, not a course between them that no patient takes.
            switched = logistic(10.0 * (0.5 - math.exp(-hazard)))
            treated = 1.0 - switched if on_treatment else switched
        rate = recovery + (castration - recovery) * treated
        end = constants[HIGH] + (constants[LOW] - constants[HIGH]) * treated
        half = math.exp(-0.5 * h * rate)
        middle = end + (androgen - end) * half
        after = end + (middle - end) * half
        signal = (
            logistic(androgen + sensitivity) + 4.0 * logistic(middle + sensitivity) + logistic(after + sensitivity)
        ) / 6.0
        up, down = growth * signal, decline * (1.0 - signal)
        level = (up * capacity + down * remnant) / (up + down)
        dependent = level + (dependent - level) * math.exp(-(up + down) * h)
        independent += h * independent_growth * (1.0 - signal)
        androgen = after
    out[ANDROGEN] = androgen
    out[SECRETION] = secretion * math.exp(-span * constants[RETURN])
    out[DEPENDENT] = bounded(dependent, -_LEVEL, _LEVEL)
    out[INDEPENDENT] = bounded(independent, -_LEVEL, _LEVEL)
    out[SWITCHED] = hazard


@njit(types.void(_f1, types.int64, types.int64, _f1, _f1), cache=True, nogil=True)
def observe(member: Array, operator: int, target: int, constants: Array, out: Array) -> None:
    """Logarithm of PSA (0) or testosterone (1) and the variance of its noise: a relative part and one in the unit."""
    if operator == 0:
        level = log_psa(
            bounded(member[DEPENDENT], -_LEVEL, _LEVEL), bounded(member[INDEPENDENT], -_LEVEL, _LEVEL),
            logistic(member[BASAL_SECRETION]), logistic(member[ANDROGEN] + constants[SENSITIVITY]),
            bounded(member[SECRETION], -_LEVEL, _LEVEL),
        )
        value = math.exp(level) + constants[FLOOR]
        relative, absolute = constants[PSA_RELATIVE], constants[PSA_ABSOLUTE]
    else:
        normal = math.exp(bounded(member[NORMAL_TESTOSTERONE], -5.0, 6.0))
        value = constants[CASTRATE] + normal * logistic(member[ANDROGEN])
        relative, absolute = constants[TESTOSTERONE_RELATIVE], constants[TESTOSTERONE_ABSOLUTE]
    out[0] = math.log(value)
    absolute /= value
    out[1] = relative * relative + absolute * absolute
