"""Every kind of fault once, against real parts; `python -m tests.faults.real_parts` runs many seeds of each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.faults.real_kinds import KINDS, STEPS, Kind
from tests.faults.real_parts import Tally, run_seed
from tests.faults.real_services import Services

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    """Broker, PostgreSQL, forked workers, Ray: started once."""
    with Services() as started:
        yield started


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.replace(" ", "-"))
def test_every_kind_of_fault_ends_in_the_same_twins(kind: Kind, services: Services) -> None:
    tally = Tally()
    run_seed(1, services, tally, kind, turn=STEPS.index("journal"))
    assert not tally.unfired


def test_a_worker_killed_between_commit_and_acknowledgement(services: Services) -> None:
    tally = Tally()
    [kind] = [kind for kind in KINDS if kind.name == "worker killed"]
    run_seed(2, services, tally, kind, turn=STEPS.index("in the store"))
    assert tally.coverage["in the store", "committed"] == 1
