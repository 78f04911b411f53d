"""The one shape of every filter: ``init``, ``forecast``, ``assimilate``, and ``fold`` which runs both over a table.

A filter meets a system only through two compiled functions of fixed signature (`PROPAGATE`, `OBSERVE`). They are
passed to the kernels as numba first-class functions, so each kernel compiles once, is cached on disk, and serves
every model, a user's own included.

Conventions: arrays carry a leading twin axis ``[k, ...]``; each twin has its own ``n_active`` components of a
capacity ``n``; entries beyond ``n_active`` are zero. Float64 throughout; no BLAS, no fastmath and no reduction across
twins, so that any grouping of twins gives the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numba import types
from numpy.typing import NDArray

from oncotwin.domain.errors import ModelError
from oncotwin.filters.steps import Operation, StepTable, observing, passing

S = TypeVar("S", bound="FilterState")
Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
KeyArray = NDArray[np.uint64]

PROPAGATE_SIGNATURE = types.void(
    types.float64[::1], types.float64, types.float64, types.float64[::1], types.float64[::1], types.float64[::1]
)
"""``propagate(member (n,), t0, t1 [days], inputs (u,), constants (c,), out (n,))``: one member over one interval."""

OBSERVE_SIGNATURE = types.void(
    types.float64[::1], types.int64, types.int64, types.float64[::1], types.float64[::1]
)
"""``observe(member (n,), operator, target, constants (c,), out (2,))``: expected observation and noise variance."""

PROPAGATE_MANY_SIGNATURE = types.void(
    types.float64[:, ::1], types.int64, types.float64, types.float64, types.float64[::1], types.float64[::1],
    types.float64[:, ::1],
)
"""``propagate_many(members (m, n), n_active, t0, t1, inputs (u,), constants (c,), out (m, n))``: a whole ensemble."""

PROPAGATE = types.FunctionType(PROPAGATE_SIGNATURE)
PROPAGATE_MANY = types.FunctionType(PROPAGATE_MANY_SIGNATURE)
OBSERVE = types.FunctionType(OBSERVE_SIGNATURE)


@dataclass(frozen=True, slots=True)
class System:
    """What a filter must know of the thing it follows.

    Attributes:
        propagate: compiled with `PROPAGATE_SIGNATURE`.
        observe: compiled with `OBSERVE_SIGNATURE`.
        constants: (k, n_constants), one row a twin, passed to both functions.
        process_variance: (k, n), variance added to each component per day of propagation.
        propagate_many: compiled with `PROPAGATE_MANY_SIGNATURE`, where the model can move members side by side in
            vector registers (several times faster where the equations allow it); it must give the bits of `propagate`.
    """

    propagate: Callable[..., Any]
    observe: Callable[..., Any]
    constants: Array
    process_variance: Array
    propagate_many: Callable[..., Any] | None = None


class StepStatus(IntEnum):
    """What became of a step."""

    DONE = 0
    """As asked."""
    MISSING = 1
    """The value to condition on was NaN: propagated, predicted, conditioned on nothing."""
    REPAIRED = 2
    """The covariance had lost its definiteness and was widened by round-off before use."""
    REFUSED = 3
    """The model predicted no finite observation, or the observation has no probability: nothing was learned."""
    DIVERGED = 4
    """The model gave no finite state: the twin stays as it was, at its time; the next step tries again from there."""


@dataclass(frozen=True, slots=True)
class FoldInfo:
    """Diagnostics of a fold, apart from the state; one row a step of the table.

    Attributes:
        predicted_mean: (n_steps,) expected observation before assimilation; NaN for steps that observe nothing.
        predicted_variance: (n_steps,) its variance, observation noise included.
        log_likelihood: (n_steps,) of the observation (of the censoring event where censored); 0 elsewhere.
        mean: (n_steps, n) analysis mean after the step, or (0, n) where not recorded.
        covariance: (n_steps, n, n) analysis covariance after the step, or (0, n, n) where not recorded.
        n_active: (n_steps,) active components after the step.
        status: (n_steps,) a `StepStatus`.
        member_mean, member_variance, member_weight: (n_predict, n_members) of every member at the PREDICT steps, in
            order of the table: expected observation, noise variance, and weight (rows sum to one); no rows where the
            filter has no members or was not asked to keep them.
    """

    predicted_mean: Array
    predicted_variance: Array
    log_likelihood: Array
    mean: Array
    covariance: Array
    n_active: IntArray
    status: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    member_mean: Array = field(default_factory=lambda: np.zeros((0, 0)))
    member_variance: Array = field(default_factory=lambda: np.zeros((0, 0)))
    member_weight: Array = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def columns(self) -> tuple[Array | IntArray, ...]:
        """What every kernel writes, in the order in which it takes it."""
        return (
            self.predicted_mean, self.predicted_variance, self.log_likelihood, self.mean, self.covariance,
            self.n_active, self.status,
        )

    @property
    def member_columns(self) -> tuple[Array, ...]:
        """What kernels with members write besides."""
        return self.member_mean, self.member_variance, self.member_weight


def blank_info(steps: StepTable, n: int, *, record: bool, n_members: int = 0) -> FoldInfo:
    """A `FoldInfo` for a kernel to fill, with room for the predictions of so many members a twin."""
    n_steps = steps.n_steps
    rows = n_steps if record else 0
    n_predict = int(np.count_nonzero(steps.operation == int(Operation.PREDICT))) if n_members else 0
    n_members = n_members if n_predict else 0
    return FoldInfo(
        predicted_mean=np.full(n_steps, np.nan), predicted_variance=np.full(n_steps, np.nan),
        log_likelihood=np.zeros(n_steps), mean=np.zeros((rows, n)), covariance=np.zeros((rows, n, n)),
        n_active=np.zeros(n_steps, dtype=np.int64), status=np.zeros(n_steps, dtype=np.int64),
        member_mean=np.zeros((n_predict, n_members)), member_variance=np.zeros((n_predict, n_members)),
        member_weight=np.zeros((n_predict, n_members)),
    )


def read_only(*arrays: Any) -> None:
    """Forbid writing to arrays that have become part of a state or of diagnostics."""
    for array in arrays:
        array.flags.writeable = False


def check_shapes(n_twins: int, n: int, clock: Array, system: System, steps: StepTable) -> None:
    """Refuse what a kernel would read past the end of, or fold in the wrong order.

    Raises:
        ModelError: the table, the system and the state do not fit together.
    """
    if steps.n_twins != n_twins or len(system.constants) != n_twins:
        raise ModelError(
            f"fold: the state holds {n_twins} twins, the step table {steps.n_twins}, the system's constants "
            f"{len(system.constants)}; build all three for the same twins"
        )
    if system.process_variance.shape != (n_twins, n) or steps.resets.shape[1:] != (n, 2):
        raise ModelError(
            f"fold: the state has {n} components, the process variance has shape {system.process_variance.shape} and "
            f"the resets {steps.resets.shape}; build them with the same capacity"
        )
    if steps.n_steps == 0:
        return
    owner = np.repeat(np.arange(n_twins), np.diff(steps.offsets))
    before = np.empty_like(steps.time)
    before[1:] = steps.time[:-1]
    first = np.ones(len(owner), dtype=np.bool_)
    first[1:] = owner[1:] != owner[:-1]
    before[first] = clock[owner[first]]
    late = np.flatnonzero(~(steps.time >= before))
    if late.size:
        step = int(late[0])
        raise ModelError(
            f"fold: step {step} of twin {owner[step]} is at day {steps.time[step]}, before day {before[step]}; "
            "restore an earlier state and fold the steps in order of time"
        )


class FilterState(Protocol):
    """What every filter's state can tell about itself; it is immutable and serialisable."""

    @property
    def time(self) -> Array:
        """(k,) days since 1970-01-01."""
        ...

    @property
    def n_active(self) -> IntArray:
        """(k,) active components of each twin."""
        ...

    @property
    def capacity(self) -> int:
        """Components that there is room for."""
        ...

    def moments(self) -> tuple[Array, Array]:
        """Posterior mean (k, n) and covariance (k, n, n)."""
        ...


@dataclass(frozen=True, slots=True)
class TwinPosterior:
    """One twin's part of a filter's state, trimmed to its active components: what is kept of it between folds.

    Attributes:
        time: days since 1970-01-01.
        arrays: ``mean`` (n,) and ``covariance`` (n, n) of the unscented filter, ``members`` (n_members, n) of the
            ensemble filters, and also ``log_weights`` (n_members,) of the particle filter. Read-only.
        key: the twin's name to the random generator, the filter's seed mixed in; 0 where nothing is drawn.
        n_conditioned: observations assimilated since the last propagation, where inflation depends on it.
    """

    time: float
    arrays: Mapping[str, Array]
    key: int = 0
    n_conditioned: int = 0

    @property
    def n_active(self) -> int:
        """Components."""
        return int(self.arrays["members" if "members" in self.arrays else "mean"].shape[-1])


def kept(array: Array) -> Array:
    """A contiguous, read-only array of its own: a slice must not hold a whole batch in memory."""
    own = np.ascontiguousarray(array)
    if own.base is not None:
        own = own.copy()
    own.flags.writeable = False
    return own


class Filter(Protocol[S]):
    """One shape for the unscented, the ensemble and the particle filter."""

    @property
    def name(self) -> str:
        """As settings and registered model versions name it."""
        ...

    @property
    def n_members(self) -> int:
        """Members or particles of each twin; 0 where mean and covariance stand for them."""
        ...

    def init(
        self, mean: Array, covariance: Array, n_active: IntArray, time: Array, keys: KeyArray | None = None
    ) -> S:
        """Start from Gaussian priors: mean (k, n), covariance (k, n, n), at ``time`` (k,) days.

        ``keys`` (k,) name the twins to the random generator; filters without one ignore them.
        """
        ...

    def forecast(
        self, state: S, system: System, time: Array, inputs: Array, keys: KeyArray | None = None
    ) -> tuple[S, FoldInfo]:
        """Propagate every twin to its own ``time`` (k,) under constant ``inputs`` (k, u)."""
        ...

    def assimilate(
        self, state: S, system: System, operation: IntArray, operator: IntArray, target: IntArray, value: Array,
        upper: Array, keys: KeyArray | None = None,
    ) -> tuple[S, FoldInfo]:
        """Condition every twin on one observation each, at its present time."""
        ...

    def fold(self, state: S, system: System, steps: StepTable, *, record: bool = True) -> tuple[S, FoldInfo]:
        """Run each twin through its own steps of the table, forecast and assimilate in turn."""
        ...

    def gather(self, parts: Sequence[TwinPosterior], capacity: int) -> S:
        """One batch of twins that were apart, with room for ``capacity`` components each.

        Raises:
            ModelError: a posterior is another filter's.
        """
        ...

    def cut(self, state: S, twin: int) -> TwinPosterior:
        """One twin of a batch on its own: the inverse of `gather`."""
        ...


class FoldingFilter(ABC, Generic[S]):
    """`forecast` and `assimilate` as folds of one step a twin."""

    __slots__ = ()

    @abstractmethod
    def fold(self, state: S, system: System, steps: StepTable, *, record: bool = True) -> tuple[S, FoldInfo]:
        """Run each twin through its own steps of the table; inputs unchanged."""

    def forecast(
        self, state: S, system: System, time: Array, inputs: Array, keys: KeyArray | None = None
    ) -> tuple[S, FoldInfo]:
        """Propagate every twin to its own ``time`` (k,) under constant ``inputs`` (k, u)."""
        names = np.zeros(len(time), dtype=np.uint64) if keys is None else keys
        return self.fold(state, system, passing(time, inputs, state.capacity, names))

    def assimilate(
        self, state: S, system: System, operation: IntArray, operator: IntArray, target: IntArray, value: Array,
        upper: Array, keys: KeyArray | None = None,
    ) -> tuple[S, FoldInfo]:
        """Condition every twin on one observation each, at its present time."""
        names = np.zeros(len(value), dtype=np.uint64) if keys is None else keys
        steps = observing(state.time, operation, operator, target, value, upper, state.capacity, names)
        return self.fold(state, system, steps)
