"""How unlike a section is to the sections of a reference cohort: distance, p-value, and in which signatures.

The distance is Mahalanobis's from the cohort's mean, with its covariance shrunk towards independence (few sections,
many signatures), per signature that the section has: a section that abstains from some is measured by the others. It is
calibrated without a distribution: the p-value is the share of the cohort's own sections that lie at least as far from
the rest of the cohort. A p of 0.05 or less so comes up in about one of twenty sections like those of the cohort.

A cohort is sums that add up over institutions (`oncotwin.spatial.cohort_sums`) and the distances of its members, which
each institution finds for its own sections once the sums are known. Sections far off are left out of the sums in a
second pass, so that a few odd ones do not hide others like them; they stay among the distances.

Source:
    Mahalanobis 1936, Proceedings of the National Institute of Sciences of India 2:49; shrinkage: Chen, Wiesel, Eldar &
    Hero 2010, doi:10.1109/TSP.2010.2053029, equation 23, after Ledoit & Wolf 2004, doi:10.1016/S0047-259X(03)00096-4;
    one step of reweighting: Rousseeuw & Van Driessen 1999, doi:10.1080/00401706.1999.10485670; conformal p-values:
    Vovk, Gammerman & Shafer 2005, doi:10.1007/b106715, and Bates et al. 2023, doi:10.1214/22-AOS2244; share of each
    signature: Garthwaite & Koch 2016, doi:10.1177/0962280215597579.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.cohort_sums import CohortSums, FloatArray, Vector, cohort_sums

ALPHA = 0.05
"""Up to this p-value a section counts as out of distribution."""
FEWEST_SECTIONS = 19
"""With fewer no p-value could be as small as `ALPHA`."""
LEAST_SHARED = 3
"""Signatures that section and cohort must share."""

_FEWEST_OF_A_SIGNATURE = 5
_KEPT = 0.975
_LEAST_VARIANCE = 1e-12
_LEAST_EIGENVALUE = 1e-3


@dataclass(frozen=True, slots=True)
class Typicality:
    """How a section lies to its reference cohort.

    Attributes:
        distance: root of the mean squared deviation over signatures, decorrelated: about one for a usual section.
        limit: distance beyond which the p-value is `ALPHA` or less.
        p: conformal p-value.
        n_signatures: that section and cohort share.
        unlike: (name, share of the squared distance) of the signatures that make up most of it, the largest first.
    """

    distance: float
    limit: float
    p: float
    n_signatures: int
    unlike: tuple[tuple[str, float], ...]

    @property
    def out_of_distribution(self) -> bool:
        """Whether the section is to be taken as unlike those of the cohort."""
        return self.p <= ALPHA


@dataclass(frozen=True)
class Reference:
    """Centre and spread of a cohort.

    Attributes:
        names: (p,) of the signatures that enough sections have and that vary.
        mean, sd: (p,) on the cohort's scale.
        correlation: (p, p) shrunk, positive definite.
        shrinkage: weight of independence in it, nil to one.
    """

    names: tuple[str, ...]
    mean: FloatArray
    sd: FloatArray
    correlation: FloatArray
    shrinkage: float

    def deviation(self, section: Vector) -> tuple[tuple[str, ...], FloatArray]:
        """Names that the section has, and its decorrelated deviations (n,): their squares sum to the distance squared.

        Each is nearest to the deviation of its own signature among all decorrelated ones.
        """
        held = [at for at, name in enumerate(self.names) if name in section]
        names = tuple(self.names[at] for at in held)
        z = np.array([(section[self.names[at]] - self.mean[at]) / self.sd[at] for at in held])
        values, vectors = np.linalg.eigh(self.correlation[np.ix_(held, held)])
        return names, np.asarray(vectors @ ((vectors.T @ z) / np.sqrt(values)))

    def distance(self, section: Vector) -> float:
        """Root of the mean squared decorrelated deviation; NaN where fewer than `LEAST_SHARED` are shared."""
        _, deviation = self.deviation(section)
        return math.sqrt(float(np.mean(deviation**2))) if len(deviation) >= LEAST_SHARED else math.nan


@dataclass(frozen=True)
class Cohort:
    """A reference cohort: what is needed to judge a section, and nothing of any one member but its distance.

    Attributes:
        name: under which events and alerts speak of it.
        sums: over its members that are not far off.
        distances: of its members from the others, ascending.
    """

    name: str
    sums: CohortSums
    distances: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse a cohort that could not judge.

        Raises:
            ConfigurationError: too few members.
        """
        if len(self.distances) < FEWEST_SECTIONS:
            raise ConfigurationError(
                f"cohort {self.name} has {len(self.distances)} sections; with fewer than {FEWEST_SECTIONS} nothing can "
                f"be told at a level of {ALPHA}: add sections, or judge without a cohort"
            )

    def judge(self, section: Vector, n_named: int = 5) -> Typicality | None:
        """How a section lies to this cohort; None where they share too few signatures.

        Args:
            section: by `on_cohort_scale`.
            n_named: how many signatures to name.
        """
        found = reference(self.sums)
        names, deviation = found.deviation(section)
        if len(names) < LEAST_SHARED:
            return None
        squares = deviation**2
        distance, n = math.sqrt(float(squares.mean())), len(self.distances)
        farther = sum(one >= distance for one in self.distances)
        rank = math.floor(ALPHA * (n + 1) + 1e-9)
        order = np.lexsort((np.array(names), -squares))[:n_named]
        total = max(float(squares.sum()), _LEAST_VARIANCE)
        return Typicality(
            distance, self.distances[n - rank], (1 + farther) / (n + 1), len(names),
            tuple((names[at], float(squares[at]) / total) for at in order.tolist()),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"name": self.name, "sums": self.sums.to_json(), "distances": list(self.distances)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Cohort:
        """Read what `to_json` wrote.

        Raises:
            ConfigurationError: it is not that.
        """
        try:
            name, distances = str(content["name"]), sorted(float(one) for one in content["distances"])
            sums = content["sums"]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"this is no cohort ({error!r}); write it anew") from error
        return cls(name, CohortSums.from_json(sums), tuple(distances))


def reference(sums: CohortSums) -> Reference:
    """Centre and shrunk spread of a cohort's sums.

    Raises:
        ConfigurationError: hardly a signature is known of enough sections.
    """
    mean, covariance = sums.moments()
    enough = (np.diagonal(sums.counts) >= _FEWEST_OF_A_SIGNATURE) & (np.diagonal(covariance) > _LEAST_VARIANCE)
    kept = np.flatnonzero(enough)
    if len(kept) < LEAST_SHARED:
        raise ConfigurationError(
            f"{len(kept)} signatures vary over at least {_FEWEST_OF_A_SIGNATURE} sections; add sections to the cohort"
        )
    sd = np.sqrt(np.diagonal(covariance)[kept])
    correlation = covariance[np.ix_(kept, kept)] / np.outer(sd, sd)
    # Of a pair that hardly any section has together nothing is known but that its parts vary.
    correlation[sums.counts[np.ix_(kept, kept)] < _FEWEST_OF_A_SIGNATURE] = 0.0
    np.fill_diagonal(correlation, 1.0)
    weight = shrinkage(correlation, sums.n)
    shrunk = (1.0 - weight) * np.clip(correlation, -1.0, 1.0) + weight * np.eye(len(kept))
    # Pairs with counts of their own need not fit together; the floor makes a correlation of them.
    values, vectors = np.linalg.eigh(shrunk)
    if values[0] < _LEAST_EIGENVALUE:
        shrunk = (vectors * np.maximum(values, _LEAST_EIGENVALUE)) @ vectors.T
    return Reference(tuple(sums.names[at] for at in kept.tolist()), mean[kept], sd, shrunk, weight)


def shrinkage(covariance: FloatArray, n: int) -> float:
    """Weight of the scaled identity in the best mixture with a sample covariance (oracle approximating shrinkage).

    Args:
        covariance: (p, p) of n normal samples.
    """
    p = len(covariance)
    square, trace = float((covariance**2).sum()), float(np.trace(covariance))
    above = (1.0 - 2.0 / p) * square + trace**2
    below = (n + 1.0 - 2.0 / p) * (square - trace**2 / p)
    return 1.0 if below <= 0.0 else min(1.0, above / below)


def member_distances(sums: CohortSums, members: Sequence[Vector], held: Sequence[bool]) -> list[float]:
    """Distance of an institution's own members from the rest of the whole cohort.

    Args:
        sums: of the whole cohort.
        members: the institution's own sections.
        held: whether each is in the sums; one that is, is taken out before it is measured.
    Returns:
        Of those members that share enough signatures with the rest.
    """
    found = []
    for member, counted in zip(members, held, strict=True):
        distance = reference(sums.without(member) if counted else sums).distance(member)
        if math.isfinite(distance):
            found.append(distance)
    return found


def near(sums: CohortSums, members: Sequence[Vector]) -> list[bool]:
    """Which members, all in the sums, lie no farther from the rest than 97.5 % of normal ones would.

    The second pass counts these.
    """
    kept: list[bool] = []
    for member in members:
        # In the sums it would draw them towards itself, and so hide.
        names, deviation = reference(sums.without(member)).deviation(member)
        bound = float(chi2.ppf(_KEPT, max(len(names), 1)))
        kept.append(len(names) >= LEAST_SHARED and float((deviation**2).sum()) <= bound)
    return kept


def make_cohort(name: str, members: Sequence[Vector], names: Sequence[str]) -> Cohort:
    """A cohort of one institution's sections; of several, do the same three steps with merged sums between them.

    Args:
        members: vectors by `on_cohort_scale`.
        names: of the signatures to compare.
    Raises:
        ConfigurationError: too few sections, or signatures.
    """
    kept = near(cohort_sums(members, names), members)
    sums = cohort_sums([one for one, keep in zip(members, kept, strict=True) if keep], names)
    return Cohort(name, sums, tuple(sorted(member_distances(sums, members, kept))))
