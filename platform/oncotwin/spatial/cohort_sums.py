"""A cohort's sums over sections: means and products of signatures, federable and the same in any order.

Each signature is put on a scale on which cohorts are roughly symmetric (`on_cohort_scale`) and then into whole steps of
2^-40, so that sums are whole numbers: institutions add theirs up, in any order and any grouping, and a section can be
taken out again to the bit. Sections leave out what they abstain from; each pair of signatures keeps its own count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.signature import Signature

FloatArray = NDArray[np.float64]
Vector = Mapping[str, float]
"""Signatures of one section on the cohort's scale, by name; what it abstains from is not in it."""

STEPS = 1 << 40
"""Of one unit of the cohort's scale."""
LARGEST = 2.0**20
EDGE = 1e-4
"""Shares nearer to nil or one are taken as so near: what a section can tell apart there is its number of cells."""

_LOGARITHMIC = frozenset({"um", "um2", "/mm2"})
_SHARES = (".share", ".hotspot_connectivity", ".hotspot_edge_share", ".hotspot_largest_share", ".share_of_tissue")


def on_cohort_scale(signatures: Iterable[Signature]) -> dict[str, float]:
    """A section's vector: lengths, areas and densities as logarithms, shares as log-odds, the rest as it is.

    Left out are values that are not finite, and sizes of nothing, which have no logarithm.
    """
    found: dict[str, float] = {}
    for one in signatures:
        value = one.value
        if not math.isfinite(value):
            continue
        if one.unit in _LOGARITHMIC:
            if value <= 0.0:
                continue
            value = math.log(value)
        elif one.unit == "1" and one.name.endswith(_SHARES):
            share = min(max(value, EDGE), 1.0 - EDGE)
            value = math.log(share / (1.0 - share))
        if abs(value) <= LARGEST:
            found[one.name] = value
    return found


@dataclass(frozen=True)
class CohortSums:
    """Sums over sections; whole numbers of any length.

    Attributes:
        names: (p,) of the signatures, sorted.
        counts: (p, p) sections that have both of a pair.
        sums: (p, p) of the first of a pair, over those sections, in steps.
        products: (p, p) of both, in squared steps.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    sums: NDArray[np.object_]
    products: NDArray[np.object_]

    @property
    def n(self) -> int:
        """Most sections that any signature has."""
        return int(self.counts.max(initial=0))

    def merged(self, other: CohortSums) -> CohortSums:
        """Of both cohorts together; they must be of the same signatures.

        Raises:
            ConfigurationError: they are not.
        """
        self._check(other.names)
        return CohortSums(
            self.names, self.counts + other.counts, self.sums + other.sums, self.products + other.products
        )

    def without(self, section: Vector) -> CohortSums:
        """As if one of the sections had never been there."""
        one = cohort_sums([section], self.names)
        left = self.counts - one.counts
        if (left < 0).any():
            raise ConfigurationError("the section has signatures of which the cohort holds none; it is not a member")
        return CohortSums(self.names, left, self.sums - one.sums, self.products - one.products)

    def moments(self) -> tuple[FloatArray, FloatArray]:
        """Mean (p,) and covariance (p, p), each from the sections that have it; NaN where fewer than two have."""
        p = len(self.names)
        mean, covariance = np.full(p, math.nan), np.full((p, p), math.nan)
        for i in range(p):
            n = int(self.counts[i, i])
            if n:
                mean[i] = _quotient(int(self.sums[i, i]), n * STEPS)
            for j in range(p):
                m = int(self.counts[i, j])
                if m > 1:
                    # In whole numbers the difference of two large terms is exact, so nothing cancels.
                    spread = m * int(self.products[i, j]) - int(self.sums[i, j]) * int(self.sums[j, i])
                    covariance[i, j] = _quotient(spread, m * (m - 1) * STEPS * STEPS)
        return mean, covariance

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; whole numbers as text, since other readers have 53 bits for them."""
        return {
            "names": list(self.names), "counts": self.counts.tolist(),
            "sums": [[str(one) for one in row] for row in self.sums.tolist()],
            "products": [[str(one) for one in row] for row in self.products.tolist()],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CohortSums:
        """Read what `to_json` wrote.

        Raises:
            ConfigurationError: it is not that.
        """
        try:
            names = tuple(str(name) for name in content["names"])
            counts = np.array(content["counts"], dtype=np.int64).reshape(len(names), len(names))
            sums, products = (
                np.array([[int(one) for one in row] for row in content[part]], dtype=object).reshape(counts.shape)
                for part in ("sums", "products")
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigurationError(f"these are no sums of a cohort ({error!r}); write them anew") from error
        return cls(names, counts, sums, products)

    def _check(self, names: tuple[str, ...]) -> None:
        if names != self.names:
            odd = sorted(set(names) ^ set(self.names))[:5]
            raise ConfigurationError(
                f"the cohorts are of other signatures ({', '.join(odd)} ...); agree on one list of names"
            )


def cohort_sums(sections: Iterable[Vector], names: Sequence[str]) -> CohortSums:
    """Sums of an institution's sections.

    Args:
        sections: vectors by `on_cohort_scale`.
        names: of the signatures that the cohort is of; others are passed over.
    Raises:
        ConfigurationError: a value is not finite or beyond 2^20, or a name occurs twice.
    """
    order = tuple(sorted(names))
    if len(set(order)) != len(order):
        raise ConfigurationError("a signature is named twice; name each once")
    p = len(order)
    counts = np.zeros((p, p), dtype=np.int64)
    sums, products = np.zeros((p, p), dtype=object), np.zeros((p, p), dtype=object)
    for section in sections:
        held = [at for at, name in enumerate(order) if name in section]
        steps = np.zeros(p, dtype=object)
        for at in held:
            steps[at] = _steps(section[order[at]], order[at])
        pairs = np.ix_(held, held)
        counts[pairs] += 1
        own = steps[held]
        sums[pairs] += np.repeat(own[:, None], len(held), axis=1)
        products[pairs] += np.multiply.outer(own, own)
    return CohortSums(order, counts, sums, products)


def _steps(value: float, name: str) -> int:
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise ConfigurationError(f"signature {name}: {value} is not finite or beyond 2^20; leave it out of the vector")
    return round(value * STEPS)


def _quotient(above: int, below: int) -> float:
    """Correctly rounded quotient of whole numbers, also where either has no float of its own."""
    return above / below
