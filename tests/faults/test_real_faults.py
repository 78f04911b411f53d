"""Every kind of fault once, against real parts; `python -m tests.faults.real_parts` runs many seeds of each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.faults.real_kinds import KINDS, STEPS, Kind
from tests.faults.real_parts import Tally, run_seed
from tests.faults.real_services import Services

pytestmark = [
    pytest.mark.slow, pytest.mark.alone,
    # A busy machine takes its time with a broker that comes back, or with a cluster of two nodes.
    pytest.mark.timeout(900),
    # What was killed leaves pipes and files that nobody closes any more.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TRIES = 4
"""Seeds until one whose stream is not over before its fault comes."""


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    """Broker, PostgreSQL, forked workers, Ray: started once."""
    with Services() as started:
        yield started


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.replace(" ", "-"))
def test_every_kind_of_fault_ends_in_the_same_twins(kind: Kind, services: Services) -> None:
    for seed in range(1, TRIES + 1):
        tally = Tally()
        run_seed(seed, services, tally, kind, turn=STEPS.index("journal"))
        if not tally.unfired:
            return
    pytest.fail(f"the fault came too late for the stream in {TRIES} seeds")


def test_a_worker_killed_between_commit_and_acknowledgement(services: Services) -> None:
    tally = Tally()
    [kind] = [kind for kind in KINDS if kind.name == "worker killed"]
    run_seed(2, services, tally, kind, turn=STEPS.index("in the store"))
    assert tally.coverage["in the store", "committed"] == 1
