"""What every filter must do, whatever its method; run it on a filter or on a model of your own.

In a test module of yours::

    from oncotwin.testing.filter_conformance import FilterConformance

    class TestMine(FilterConformance):
        def make_filter(self):
            return MyFilter()

A model is tried out by overriding `problem`, which gives the system, the priors and a step table for it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oncotwin.filters.base import Filter, FoldInfo, StepStatus, System
from oncotwin.filters.serial import from_bytes, to_bytes
from oncotwin.filters.steps import Operation, StepTable
from oncotwin.testing.scenarios import linear_gaussian

Array = NDArray[np.float64]
ALL = tuple(int(operation) for operation in Operation)


def part_of(table: StepTable, start: int, stop: int) -> StepTable:
    """The steps of twins ``start`` to ``stop``."""
    rows = slice(int(table.offsets[start]), int(table.offsets[stop]))
    return _cut(table, rows, table.offsets[start : stop + 1] - table.offsets[start])


def split_in_time(table: StepTable, n_first: int) -> tuple[StepTable, StepTable]:
    """The first ``n_first`` steps of every twin, and the rest."""
    owner = np.repeat(np.arange(table.n_twins), np.diff(table.offsets))
    number = np.arange(table.n_steps) - table.offsets[owner]
    found = []
    for rows in (np.flatnonzero(number < n_first), np.flatnonzero(number >= n_first)):
        counts = np.bincount(owner[rows], minlength=table.n_twins)
        found.append(_cut(table, rows, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)))
    return found[0], found[1]


def _cut(table: StepTable, rows: Any, offsets: NDArray[np.int64]) -> StepTable:
    return StepTable(
        offsets=np.ascontiguousarray(offsets), time=table.time[rows].copy(), operation=table.operation[rows].copy(),
        operator=table.operator[rows].copy(), target=table.target[rows].copy(), value=table.value[rows].copy(),
        upper=table.upper[rows].copy(), inputs=table.inputs[rows].copy(), reset=table.reset[rows].copy(),
        resets=table.resets.copy(), keys=table.keys[rows].copy(),
    )


class FilterConformance:
    """Inherit, and give `make_filter`."""

    n_twins = 7
    n_each = 12

    def make_filter(self) -> Filter[Any]:
        """The filter on trial; the subclass provides it."""
        raise NotImplementedError("provide a method 'make_filter' that returns the filter")

    def problem(self) -> tuple[System, Array, Array, NDArray[np.int64], StepTable]:
        """System, prior means (k, n) and covariances (k, n, n), active components (k,), and all operations."""
        k = self.n_twins
        mean, covariance = linear_gaussian.prior(k, 21)
        table = linear_gaussian.steps(k, self.n_each, 21, operations=ALL)
        return linear_gaussian.system(k), mean, covariance, np.full(k, linear_gaussian.N), table

    def _folded(self, start: int, stop: int) -> tuple[Any, FoldInfo]:
        system, mean, covariance, n_active, table = self.problem()
        chosen = self.make_filter()
        keys = np.arange(100, 100 + len(mean), dtype=np.uint64)
        rows = slice(start, stop)
        first = table.time[table.offsets[:-1]]
        state = chosen.init(mean[rows], covariance[rows], n_active[rows], np.floor(first[rows]), keys[rows])
        part = System(
            system.propagate, system.observe, system.constants[rows].copy(), system.process_variance[rows].copy()
        )
        return chosen.fold(state, part, part_of(table, start, stop))

    def test_moments_are_finite_and_covariances_are_definite(self) -> None:
        """After every kind of step."""
        state, info = self._folded(0, self.n_twins)
        mean, covariance = state.moments()
        assert np.isfinite(mean).all() and np.isfinite(info.mean).all()
        assert np.linalg.eigvalsh(covariance).min() > -1e-9
        assert np.isin(info.status, [StepStatus.DONE, StepStatus.REPAIRED]).all()

    def test_grouping_changes_no_bit(self) -> None:
        """One twin at a time, in two threads, or all together."""
        state, info = self._folded(0, self.n_twins)
        with ThreadPoolExecutor(2) as pool:
            halves = list(pool.map(lambda cut: self._folded(*cut), [(0, 3), (3, self.n_twins)]))
        alone = [self._folded(twin, twin + 1) for twin in range(self.n_twins)]
        for parts in (halves, alone):
            np.testing.assert_array_equal(np.concatenate([part[0].moments()[0] for part in parts]), state.moments()[0])
            np.testing.assert_array_equal(np.concatenate([part[0].moments()[1] for part in parts]), state.moments()[1])
            together = np.concatenate([part[1].log_likelihood for part in parts])
            np.testing.assert_array_equal(together, info.log_likelihood)

    def test_a_fold_may_be_cut_anywhere(self) -> None:
        """Through the bytes of its state, without changing a bit."""
        system, mean, covariance, n_active, table = self.problem()
        chosen = self.make_filter()
        state = chosen.init(mean, covariance, n_active, np.floor(table.time[table.offsets[:-1]]))
        whole, _ = chosen.fold(state, system, table)
        for n_first in (1, self.n_each // 2):
            before, after = split_in_time(table, n_first)
            half, _ = chosen.fold(state, system, before)
            again, _ = chosen.fold(from_bytes(to_bytes(half)), system, after)
            assert to_bytes(again) == to_bytes(whole)

    def test_inputs_are_left_alone(self) -> None:
        """Neither the state nor the table nor the system is written to; what comes out cannot be written to."""
        system, mean, covariance, n_active, table = self.problem()
        chosen = self.make_filter()
        state = chosen.init(mean, covariance, n_active, np.floor(table.time[table.offsets[:-1]]))
        before = to_bytes(state)
        copies = [array.copy() for array in (table.time, table.value, table.resets, system.constants)]
        after, _ = chosen.fold(state, system, table)
        assert to_bytes(state) == before
        for array, copy in zip((table.time, table.value, table.resets, system.constants), copies, strict=True):
            np.testing.assert_array_equal(array, copy)
        assert not after.time.flags.writeable and not state.n_active.flags.writeable

    def test_one_step_calls_are_the_fold(self) -> None:
        """`forecast` and `assimilate` one by one end where the fold does."""
        system, mean, covariance, n_active, table = self.problem()
        chosen = self.make_filter()
        state = chosen.init(mean, covariance, n_active, np.floor(table.time[table.offsets[:-1]]))
        table = replace(table, operation=np.where(table.operation == int(Operation.RESET), 0, table.operation))
        whole, _ = chosen.fold(state, system, table)
        step = state
        for number in range(self.n_each):
            rows = table.offsets[:-1] + number
            step, _ = chosen.forecast(step, system, table.time[rows], table.inputs[rows], table.keys[rows])
            step, _ = chosen.assimilate(
                step, system, table.operation[rows], table.operator[rows], table.target[rows], table.value[rows],
                table.upper[rows], table.keys[rows],
            )
        assert to_bytes(step) == to_bytes(whole)

    def test_a_missing_value_teaches_nothing(self) -> None:
        """NaN as a value: the state is the forecast's, and the step says so."""
        system, mean, covariance, n_active, table = self.problem()
        chosen = self.make_filter()
        state = chosen.init(mean, covariance, n_active, np.floor(table.time[table.offsets[:-1]]))
        missing = replace(
            table, operation=np.full(table.n_steps, int(Operation.OBSERVE)), value=np.full(table.n_steps, np.nan)
        )
        passing = replace(table, operation=np.full(table.n_steps, int(Operation.ADVANCE)))
        one, info = chosen.fold(state, system, missing)
        other, _ = chosen.fold(state, system, passing)
        assert to_bytes(one) == to_bytes(other)
        assert (info.status == StepStatus.MISSING).all()
        assert np.isfinite(info.predicted_mean).all() and (info.log_likelihood == 0.0).all()

    def test_a_diverging_twin_is_flagged_and_poisons_no_other(self) -> None:
        """Its state stays as it was; its neighbours are what they are without it."""
        system, mean, covariance, n_active, table = self.problem()
        chosen = self.make_filter()
        state = chosen.init(mean, covariance, n_active, np.floor(table.time[table.offsets[:-1]]))
        healthy, _ = chosen.fold(state, system, table)
        constants = system.constants.copy()
        constants[2] = np.nan
        sick, info = chosen.fold(state, replace(system, constants=constants), table)
        rows = slice(int(table.offsets[2]), int(table.offsets[3]))
        moved = table.time[rows] > state.time[2]
        assert (info.status[rows][np.logical_or.accumulate(moved)] == StepStatus.DIVERGED).all()
        assert np.isfinite(sick.moments()[0]).all()
        others = [twin for twin in range(self.n_twins) if twin != 2]
        np.testing.assert_array_equal(sick.moments()[0][others], healthy.moments()[0][others])
        np.testing.assert_array_equal(sick.moments()[1][others], healthy.moments()[1][others])

    def test_a_step_that_diverges_is_passed_over_however_the_steps_are_batched(self) -> None:
        """The next step tries again from where the twin stood, in the same fold and in another."""
        system, mean, covariance, n_active, table = self.problem()
        chosen = self.make_filter()
        state = chosen.init(mean, covariance, n_active, np.floor(table.time[table.offsets[:-1]]))
        inputs = table.inputs.copy()
        inputs[table.offsets[:-1] + 3] = np.nan
        table = replace(table, inputs=inputs)
        at_once, info = chosen.fold(state, system, table)
        parts = split_in_time(table, 4)
        between, _ = chosen.fold(state, system, parts[0])
        assert to_bytes(chosen.fold(between, system, parts[1])[0]) == to_bytes(at_once)
        passed = info.status == StepStatus.DIVERGED
        assert passed.any() and not passed[table.offsets[1:] - 1].any()
        assert np.isfinite(at_once.moments()[0]).all()

    def test_an_impossible_prediction_teaches_nothing(self) -> None:
        """A model that cannot say what it expects (here the scenario's operator 2) leaves the twin as it was."""
        system, mean, covariance = linear_gaussian.system(1), *linear_gaussian.prior(1, 3)
        chosen = self.make_filter()
        state = chosen.init(mean, covariance, np.array([linear_gaussian.N]), np.zeros(1))
        one = np.ones(1, dtype=np.int64)
        after, info = chosen.assimilate(state, system, 2 * one, 2 * one, 0 * one, np.zeros(1), np.zeros(1))
        assert to_bytes(after) == to_bytes(state)
        assert info.status[0] == StepStatus.REFUSED

    def test_predictions_teach_nothing(self) -> None:
        """PREDICT is ADVANCE with a prediction in the diagnostics."""
        system, mean, covariance, n_active, table = self.problem()
        chosen = self.make_filter()
        state = chosen.init(mean, covariance, n_active, np.floor(table.time[table.offsets[:-1]]))
        predicted, info = chosen.fold(
            state, system, replace(table, operation=np.full(table.n_steps, int(Operation.PREDICT)))
        )
        passed, _ = chosen.fold(
            state, system, replace(table, operation=np.full(table.n_steps, int(Operation.ADVANCE)))
        )
        assert to_bytes(predicted) == to_bytes(passed)
        assert np.isfinite(info.predicted_mean).all() and (info.predicted_variance > 0.0).all()

    def test_a_reset_activates_components(self) -> None:
        """New components get the prior they are given, and the old ones stay."""
        system, mean, covariance = linear_gaussian.system(1), *linear_gaussian.prior(1, 3)
        chosen = self.make_filter()
        state = chosen.init(mean, covariance, np.array([2]), np.zeros(1))
        table = part_of(linear_gaussian.steps(1, 1, 1), 0, 1)
        resets = np.full((1, linear_gaussian.N, 2), np.nan)
        resets[0, 2:] = [[1.0, 4.0], [-2.0, 0.25]]
        renewed = replace(
            table, time=np.zeros(1), operation=np.array([int(Operation.RESET)]), reset=np.zeros(1, dtype=np.int64),
            resets=resets,
        )
        after, info = chosen.fold(state, system, renewed)
        assert after.n_active[0] == 4 and info.n_active[0] == 4
        m, p = (moment[0] for moment in after.moments())
        np.testing.assert_array_equal(m[:2], state.moments()[0][0, :2])
        sd = np.sqrt(np.diag(p)[2:])
        np.testing.assert_allclose(m[2:], [1.0, -2.0], atol=0.6)
        np.testing.assert_allclose(sd, [2.0, 0.5], rtol=0.35)
