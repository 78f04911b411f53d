"""Principal components of a wide matrix that is never held: it passes by in blocks, a few times.

Features arrive as whole numbers (steps of `STEP`), and so do the directions they are projected on. Every product and
sum of a block is then a whole number below 2^53, which floating point adds without rounding: a block's sums are exact
whatever order the processor takes, sums of blocks are integers, and so the components do not depend on how the rows
are cut, to the bit. Only the small problem at the end of each pass (features x directions) is rounded, and that is
solved once, on the merged sums.

Source:
    Halko, Martinsson & Tropp 2011, doi:10.1137/090771806 (randomised range, algorithm 4.4: subspace iteration; here
    on the covariance, with Rayleigh-Ritz after each pass). Narrow matrices are decomposed whole in a single pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

STEP = 2.0**-10
"""What one stands for in a feature."""
LARGEST = 32.0
"""Features beyond are set to it, so that no product can overflow."""
DIRECTION_STEP = 2.0**-18
"""What one stands for in a direction."""
MOST_ROWS = 1 << 16
_WHOLE = 512
"""Up to so many features the covariance itself is summed, in one pass."""


@dataclass(frozen=True)
class PassSums:
    """What a pass over some rows leaves; sums of blocks add up.

    Args:
        n: rows.
        features: (n_features,) sums of the features.
        projections: (n_directions,) sums of the projections.
        products: (n_features, n_directions) sums of feature times projection.
    """

    n: int
    features: IntArray
    projections: IntArray
    products: IntArray

    def __add__(self, other: PassSums) -> PassSums:
        return PassSums(
            self.n + other.n, self.features + other.features, self.projections + other.projections,
            self.products + other.products,
        )


@dataclass(frozen=True)
class Components:
    """Leading directions of the features' covariance.

    Args:
        directions: (n_features, n_components) whole numbers in steps of `DIRECTION_STEP`; of unit length.
        means: (n_components,) mean of the projections, in the features' unit.
        variances: (n_components,) decreasing, in the features' unit squared.
        n_passes: passes over the rows that it took.
        settled: whether the variances had settled to the tolerance.
    """

    directions: FloatArray
    means: FloatArray
    variances: FloatArray
    n_passes: int
    settled: bool


def to_steps(features: FloatArray) -> FloatArray:
    """Features as whole multiples of `STEP` within plus and minus `LARGEST`, kept in floating point.

    Raises:
        ConfigurationError: a feature is not finite.
    """
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise ConfigurationError(
            f"feature {column} in row {row} of the block is not finite; leave out rows without counts or place"
        )
    steps: FloatArray = np.rint(np.clip(features, -LARGEST, LARGEST) / STEP)
    return steps


def project(steps: FloatArray, directions: FloatArray) -> FloatArray:
    """Projections (n, n_directions) of a block's rows, in whole multiples of `STEP`."""
    whole: FloatArray = np.rint((steps @ directions) * DIRECTION_STEP)
    return whole


def pass_sums(steps: FloatArray, directions: FloatArray) -> PassSums:
    """Sums of a block of rows.

    Args:
        steps: (n, n_features) by `to_steps`; at most 65,536 rows.
        directions: (n_features, n_directions) in steps of `DIRECTION_STEP`.
    """
    if steps.shape[0] > MOST_ROWS:
        raise ConfigurationError(f"block of {steps.shape[0]:,} rows: at most {MOST_ROWS:,} fit; cut smaller blocks")
    projections = project(steps, directions)
    return PassSums(
        steps.shape[0], steps.sum(axis=0).astype(np.int64), projections.sum(axis=0).astype(np.int64),
        (steps.T @ projections).astype(np.int64),
    )


def fit_components(
    sum_up: Callable[[FloatArray], PassSums], n_features: int, n_components: int, seed: int,
    tolerance: float = 1e-4, most_passes: int = 40,
) -> Components:
    """Leading components of all rows.

    Args:
        sum_up: one pass over all rows: from directions the sum of `pass_sums` over the blocks, in any cut and order.
        n_features: how wide a row is.
        n_components: how many components; fewer come back where the rows do not span as many.
        seed: of the first directions.
        tolerance: largest relative change of a variance between two passes that counts as settled.
        most_passes: where to stop in any case.
    Raises:
        ConfigurationError: fewer than two rows, or no component asked for.
    """
    if n_components < 1 or n_features < 1:
        raise ConfigurationError(f"{n_components} components of {n_features} features: ask for at least 1 of each")
    basis = _first_basis(n_features, n_components, seed)
    variances, n_passes, settled = np.zeros(0), 0, False
    while not settled and n_passes < most_passes:
        n_passes += 1
        directions = np.rint(basis / DIRECTION_STEP)
        sums = sum_up(directions)
        if sums.n < 2:
            raise ConfigurationError(f"{sums.n} rows have no components; check that the section has spots left")
        basis, turned, found = _rayleigh_ritz(sums, directions)
        whole = directions.shape[1] == n_features
        kept = min(n_components, int((found > found[0] * 1e-9).sum())) if found[0] > 0 else 0
        found = found[:kept]
        settled = whole or (
            len(found) == len(variances) and bool((np.abs(found - variances) <= tolerance * found).all())
        )
        variances = found
    final = np.rint(_signed(turned[:, :kept]) / DIRECTION_STEP)
    means = sums.features @ final * (STEP * DIRECTION_STEP) / sums.n
    return Components(final, means, variances, n_passes, settled)


def _first_basis(n_features: int, n_components: int, seed: int) -> FloatArray:
    if n_features <= max(_WHOLE, 2 * n_components + 8):
        return np.eye(n_features)
    drawn = np.random.default_rng(seed).choice([-1.0, 1.0], (n_features, 2 * n_components + 8))
    basis: FloatArray = np.linalg.qr(drawn)[0]
    return basis


def _rayleigh_ritz(sums: PassSums, directions: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The next basis, and the best directions within the present one with their variances, from a pass' sums."""
    basis = directions * DIRECTION_STEP
    image = (sums.products - np.outer(sums.features, sums.projections) / sums.n) * (STEP * STEP / (sums.n - 1))
    # The basis in whole steps is orthonormal to six digits only: its own overlap is divided out.
    lower = np.linalg.cholesky(basis.T @ basis)
    inner = np.linalg.solve(lower, np.linalg.solve(lower, basis.T @ image).T)
    values, vectors = np.linalg.eigh((inner + inner.T) / 2)
    turned = basis @ np.linalg.solve(lower.T, vectors[:, ::-1])
    return np.linalg.qr(image)[0], turned, values[::-1]


def _signed(directions: FloatArray) -> FloatArray:
    """Each direction with its largest entry positive: the sign of a component is a convention."""
    largest = np.abs(directions).argmax(axis=0)
    signed: FloatArray = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    return signed
