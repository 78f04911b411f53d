"""Classical laws of tumour size under treatment, in closed form: special cases of the tumour-burden model.

All act elementwise on ``time_days`` (n,), days from the moment at which the size was ``size``; ``size`` may be a volume
or a diameter, the result has its unit. Rates are per day. They serve per-patient fits and as oracles of the tests.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def exponential(time_days: ArrayLike, size: float, growth: float) -> Array:
    """Growth in proportion to size: ``size * exp(growth t)``; a negative rate is exponential shrinkage."""
    return np.asarray(size * np.exp(growth * np.asarray(time_days, dtype=np.float64)))


def richards(time_days: ArrayLike, size: float, rate: float, capacity: float, shape: float) -> Array:
    """Saturating growth ``d log(s)/dt = rate / shape * (1 - (s / capacity) ** shape)``.

    One family holds the classical laws: ``shape`` 1 is logistic, 0 (the limit) Gompertz, -1/3 Bertalanffy of volume.
    With ``w = (s / capacity) ** -shape`` the equation is linear, ``dw/dt = -rate (w - 1)``.

    Source:
        Richards 1959, doi:10.1093/jxb/10.2.290.
    """
    decay = np.exp(-rate * np.asarray(time_days, dtype=np.float64))
    if shape == 0.0:
        return np.asarray(capacity * (size / capacity) ** decay)
    return np.asarray(capacity * (1.0 + ((size / capacity) ** -shape - 1.0) * decay) ** (-1.0 / shape))


def logistic(time_days: ArrayLike, size: float, growth: float, capacity: float) -> Array:
    """``ds/dt = growth s (1 - s / capacity)``."""
    return richards(time_days, size, growth, capacity, 1.0)


def gompertz(time_days: ArrayLike, size: float, rate: float, capacity: float) -> Array:
    """``ds/dt = -rate s log(s / capacity)``.

    Source:
        Laird 1964, doi:10.1038/bjc.1964.55.
    """
    return richards(time_days, size, rate, capacity, 0.0)


def bertalanffy(time_days: ArrayLike, size: float, gain: float, loss: float) -> Array:
    """``ds/dt = gain s ** (2/3) - loss s``: uptake through the surface, loss in proportion to volume.

    Source:
        von Bertalanffy 1957, doi:10.1086/401873.
    """
    root = gain / loss
    return np.asarray(
        (root + (size ** (1.0 / 3.0) - root) * np.exp(-loss / 3.0 * np.asarray(time_days, dtype=np.float64))) ** 3
    )


def claret(time_days: ArrayLike, size: float, growth: float, kill: float, waning: float) -> Array:
    """``ds/dt = growth s - kill exp(-waning t) s``: a drug effect that fades as resistance appears.

    Source:
        Claret et al. 2009, doi:10.1200/JCO.2008.21.0807, equation 1 under constant exposure.
    """
    t = np.asarray(time_days, dtype=np.float64)
    killed = kill * t if waning == 0.0 else -kill * np.expm1(-waning * t) / waning
    return np.asarray(size * np.exp(growth * t - killed))


def stein(time_days: ArrayLike, size: float, growth: float, decay: float) -> Array:
    """``s = size (exp(-decay t) + exp(growth t) - 1)``: shrinkage and regrowth at once.

    Source:
        Stein et al. 2011, doi:10.1158/1078-0432.CCR-10-1762, equation 1.
    """
    t = np.asarray(time_days, dtype=np.float64)
    return np.asarray(size * (np.exp(-decay * t) + np.exp(growth * t) - 1.0))


def two_clones(time_days: ArrayLike, size: float, resistant: float, growth: float, kill: float) -> Array:
    """``s = size ((1 - resistant) exp((growth - kill) t) + resistant exp(growth t))``.

    The sum of a killed and an untouched clone, ``resistant`` being the fraction of the latter at the start.

    Source:
        Stein et al. 2011, doi:10.1158/1078-0432.CCR-10-1762 (the variant with a fraction of resistant cells).
    """
    t = np.asarray(time_days, dtype=np.float64)
    return np.asarray(size * ((1.0 - resistant) * np.exp((growth - kill) * t) + resistant * np.exp(growth * t)))
