"""The state of the ensemble filter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oncotwin.filters.base import Array, IntArray, KeyArray
from oncotwin.filters.members import weighted_moments


@dataclass(frozen=True, slots=True)
class EnsembleState:
    """Posterior of a batch of twins as equally weighted members.

    Attributes:
        time: (k,) days since 1970-01-01.
        n_active: (k,) active components of each twin.
        members: (k, n_members, n); zero beyond ``n_active``.
        keys: (k,) uint64, the twins' names to the random generator, the filter's seed mixed in.
        n_conditioned: (k,) observations assimilated since the last propagation: inflation is due if any.
    """

    time: Array
    n_active: IntArray
    members: Array
    keys: KeyArray
    n_conditioned: IntArray

    @property
    def capacity(self) -> int:
        """Components that there is room for."""
        return int(self.members.shape[2])

    def moments(self) -> tuple[Array, Array]:
        """Posterior mean (k, n) and covariance (k, n, n)."""
        k, n_members, n = self.members.shape
        mean, covariance = np.zeros((k, n)), np.zeros((k, n, n))
        weights = np.full(n_members, 1.0 / n_members)
        members = self.members.copy()
        for twin in range(k):
            weighted_moments(
                members[twin], weights, n, (n_members - 1.0) / n_members, mean[twin], covariance[twin]
            )
        return mean, covariance
