"""Five hundred simulated seeds: no event is lost, none counts twice, and all faults end in the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from tests.faults.databases import Databases
from tests.faults.pool import n_jobs, run_many
from tests.faults.simulation import Tally, report, simulate

from oncotwin.testing.postgres_server import PostgresServer

N_SEEDS = 500
FOUND = (1652,)
"""Later seeds that once found something."""


@pytest.fixture
def databases() -> Iterator[Databases]:
    with closing(Databases()) as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_every_seed_ends_where_an_undisturbed_run_ends(postgres_server: PostgresServer) -> None:
    with ExitStack() as stack:
        urls = [stack.enter_context(postgres_server.database()) for _ in range(n_jobs())]
        tally = run_many([*range(1, N_SEEDS + 1), *FOUND], n_jobs(), urls)
    report(tally, 1.0)
    assert tally.failures == []
    assert tally.n == N_SEEDS + len(FOUND)
    assert tally.missed == []


def test_a_seed_replays_exactly(databases: Databases) -> None:
    traces = [simulate(31, databases, Tally()) for _ in range(2)]
    assert traces[0] == traces[1]
    assert len(traces[0]) > 10
