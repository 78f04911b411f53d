"""Harmony: batches (institutions, sections, runs) of an embedding laid over each other, cell types kept apart.

Two steps take turns. Cells are clustered softly on the unit sphere, with a penalty on clusters that hold other shares
of the batches than the whole; then each cell is moved by the batch's own shift in its clusters, a ridge regression
within each cluster on the batches, whose intercept stays. The shift is always taken from the cells as they came.

Written from the paper. Random numbers come from a seed alone; sums over cells are products of matrices, so that another
number of threads of the linear algebra may change the last digits.

Source:
    Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0, online methods (maximum diversity clustering, mixture of
    experts correction).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_LEAST = 1e-12


@dataclass(frozen=True, slots=True)
class HarmonySettings:
    """How batches are aligned; the defaults are the paper's.

    Attributes:
        n_clusters: None for one a 30 cells, at most 100.
        diversity: theta, weight of the penalty; nil leaves soft k-means.
        softness: sigma, width of the soft assignment.
        ridge: lambda, what holds a batch's shift back.
        share_at_once: part of the cells that is assigned anew before the shares of the batches are counted anew.
        most_rounds, most_clusterings: of correction, and of clustering within each.
        tolerance, cluster_tolerance: relative fall of the objective below which correction and clustering end.
    """

    n_clusters: int | None = None
    diversity: float = 2.0
    softness: float = 0.1
    ridge: float = 1.0
    share_at_once: float = 0.05
    most_rounds: int = 10
    most_clusterings: int = 20
    tolerance: float = 1e-4
    cluster_tolerance: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse what no run could use.

        Raises:
            ConfigurationError: a number is out of its range.
        """
        positive = (self.softness, self.ridge, self.share_at_once, self.most_rounds, self.most_clusterings)
        if min(positive) <= 0 or self.share_at_once > 1.0 or self.diversity < 0.0:
            raise ConfigurationError(
                f"{self} has a number out of range; softness, ridge and rounds are positive, diversity not negative, "
                "share_at_once lies above nil and up to one"
            )


@dataclass(frozen=True)
class Aligned:
    """An aligned embedding.

    Attributes:
        points: (n, n_coordinates) corrected.
        membership: (n, n_clusters) soft assignment, rows sum to one.
        objective: after each round.
        converged: whether the last round changed it by less than the tolerance.
    """

    points: FloatArray
    membership: FloatArray
    objective: tuple[float, ...]
    converged: bool


def align(points: FloatArray, batches: IntArray, seed: int, settings: HarmonySettings | None = None) -> Aligned:
    """Align the batches of an embedding.

    Args:
        points: (n, n_coordinates) finite, such as principal components; none at the origin.
        batches: (n,) from nil on, none of them empty.
        seed: of starts and of the order in which cells are assigned.
        settings: the paper's by default.
    Raises:
        ConfigurationError: points and batches do not fit, or there are fewer points than clusters.
    """
    settings = settings or HarmonySettings()
    one_hot = _checked(points, batches)
    n = len(points)
    n_clusters = settings.n_clusters or max(1, min(100, round(n / 30)))
    if n_clusters > n:
        raise ConfigurationError(f"{n} points cannot make {n_clusters} clusters; ask for fewer")
    if one_hot.shape[1] == 1:
        return Aligned(points.copy(), np.ones((n, 1)), (), True)
    rng = np.random.default_rng(seed)
    corrected, objectives, converged = points, [], False
    state = _Clusters(_on_sphere(points), one_hot, n_clusters, settings, rng)
    for _ in range(settings.most_rounds):
        objectives.append(state.cluster(_on_sphere(corrected), rng))
        corrected = _corrected(points, state.membership, one_hot, settings.ridge)
        if len(objectives) > 1 and objectives[-2] - objectives[-1] < settings.tolerance * abs(objectives[-2]):
            converged = True
            break
    return Aligned(corrected, state.membership, tuple(objectives), converged)


class _Clusters:
    """Soft clusters of cells on the sphere, with how many cells of each batch they hold and would hold by chance."""

    def __init__(
        self, sphere: FloatArray, one_hot: FloatArray, n_clusters: int, settings: HarmonySettings,
        rng: np.random.Generator,
    ) -> None:
        self._one_hot, self._settings = one_hot, settings
        self._share = one_hot.mean(axis=0)
        self._centres = _start(sphere, n_clusters, rng)
        self.membership = _softmax(-self._distance(sphere) / settings.softness)
        self._count()

    def cluster(self, sphere: FloatArray, rng: np.random.Generator) -> float:
        """Cluster until the objective stays; returns it."""
        how, last = self._settings, np.inf
        for _ in range(how.most_clusterings):
            self._centres = _on_sphere(self.membership.T @ sphere)
            distance = self._distance(sphere)
            self._assign(distance, rng)
            now = self._objective(distance)
            if last - now < how.cluster_tolerance * abs(last):
                return now
            last = now
        return last

    def _distance(self, sphere: FloatArray) -> FloatArray:
        """(n, n_clusters): squared distance on the sphere."""
        return np.asarray(2.0 * (1.0 - sphere @ self._centres.T))

    def _count(self) -> None:
        self._observed = self.membership.T @ self._one_hot
        self._expected = np.outer(self.membership.sum(axis=0), self._share)

    def _assign(self, distance: FloatArray, rng: np.random.Generator) -> None:
        """Assign cells anew in small random parts, each as if it were not there yet."""
        how, n = self._settings, len(distance)
        n_parts = min(n, int(np.ceil(1.0 / how.share_at_once)))
        for cells in np.array_split(rng.permutation(n), n_parts):
            batch = self._one_hot[cells]
            self._take(self.membership[cells], batch, -1.0)
            # One more cell on either side keeps empty clusters finite.
            penalty = how.diversity * np.log((self._expected + 1.0) / (self._observed + 1.0))
            fresh = _softmax(-distance[cells] / how.softness + batch @ penalty.T)
            self.membership[cells] = fresh
            self._take(fresh, batch, 1.0)
        # Parts that came and went have left round-off.
        self._count()

    def _take(self, membership: FloatArray, batch: FloatArray, sign: float) -> None:
        self._observed = np.maximum(self._observed + sign * (membership.T @ batch), 0.0)
        self._expected = np.maximum(
            self._expected + sign * np.outer(membership.sum(axis=0), self._share), 0.0
        )

    def _objective(self, distance: FloatArray) -> float:
        """Distances, less the entropy of the assignment, and the divergence of the batches' shares."""
        how, r = self._settings, self.membership
        entropy = float((r * np.log(np.maximum(r, _LEAST))).sum())
        divergence = float((self._observed * np.log((self._observed + 1.0) / (self._expected + 1.0))).sum())
        return float((r * distance).sum()) + how.softness * (entropy + how.diversity * divergence)


def _corrected(points: FloatArray, membership: FloatArray, one_hot: FloatArray, ridge: float) -> FloatArray:
    """Each point less the shift of its batch in its clusters (mixture of experts); the intercepts stay."""
    n_batches = one_hot.shape[1]
    penalty = ridge * np.eye(n_batches + 1)
    penalty[0, 0] = 0.0
    design = np.column_stack([np.ones(len(points)), one_hot])
    corrected = points.copy()
    for cluster in range(membership.shape[1]):
        weighted = design * membership[:, cluster, None]
        # A cluster that holds nobody has no intercept; a trace of ridge keeps the system solvable.
        shift = np.linalg.solve(weighted.T @ design + penalty + _LEAST * np.eye(n_batches + 1), weighted.T @ points)
        shift[0] = 0.0
        corrected -= weighted @ shift
    return corrected


def _start(sphere: FloatArray, n_clusters: int, rng: np.random.Generator) -> FloatArray:
    """Centres of k-means on the sphere, its starts drawn far from each other (k-means++)."""
    n = len(sphere)
    centres = sphere[[int(rng.integers(n))]]
    nearest = 1.0 - sphere @ centres[0]
    while len(centres) < n_clusters:
        rate = np.maximum(nearest, 0.0)
        total = rate.sum()
        chosen = int(rng.integers(n)) if total <= 0.0 else int(rng.choice(n, p=rate / total))
        centres = np.vstack([centres, sphere[chosen]])
        nearest = np.minimum(nearest, 1.0 - sphere @ centres[-1])
    for _ in range(25):
        label = np.argmax(sphere @ centres.T, axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, label, sphere)
        held = np.bincount(label, minlength=n_clusters) > 0
        moved = np.where(held[:, None], _on_sphere(sums), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _on_sphere(points: FloatArray) -> FloatArray:
    return np.asarray(points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), _LEAST))


def _softmax(logits: FloatArray) -> FloatArray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _checked(points: FloatArray, batches: IntArray) -> FloatArray:
    """Batches as (n, n_batches) of nil and one, once it is sure that they fit the points."""
    if points.ndim != 2 or not len(points) or not np.isfinite(points).all():
        raise ConfigurationError("points must be a table of finite numbers; leave out cells without coordinates")
    if batches.shape != (len(points),) or batches.min() < 0:
        raise ConfigurationError(f"{len(points)} points need as many batches from nil on, not {batches.shape}")
    sizes = np.bincount(batches)
    if (sizes == 0).any():
        empty = int(np.flatnonzero(sizes == 0)[0])
        raise ConfigurationError(f"batch {empty} holds no point; number the batches without gaps")
    return np.asarray(batches[:, None] == np.arange(len(sizes)), dtype=np.float64)
