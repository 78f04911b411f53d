"""Real patients' events in any order of arrival: a few permutations of a part of the patients.

`python -m tests.replay.permutations` plays a thousand, of all patients.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.replay import permutations
from tests.replay.permutations import TABLES, Journals, Outcome

from oncotwin.adapters.ray_cluster import connect, disconnect
from oncotwin.adapters.ray_host import RayHost
from oncotwin.adapters.sql_store import open_twin_store
from oncotwin.bootstrap.settings import Settings
from oncotwin.bootstrap.wiring import LITERATURE, ShardFactory, open_log, open_sealer
from oncotwin.domain.bundle import ModelBundle
from oncotwin.testing.postgres_server import PostgresServer
from oncotwin.twin.replay import believe
from oncotwin.twin.state import digest, to_bytes
from oncotwin_flows.groups import Bounds

pytestmark = [
    pytest.mark.slow, pytest.mark.needs_data("intermittent_androgen"), pytest.mark.needs_data("atezolizumab"),
]
ONE_IN = 5
"""Of so many patients one takes part."""
N_SEEDS = 8


@pytest.fixture(scope="module")
def tables() -> dict[str, Journals]:
    folder = Path(os.environ["ONCOTWIN_DATA"])
    found = {table: permutations.load(table, folder) for table in TABLES}
    return {table: {name: journals[name] for name in sorted(journals)[::ONE_IN]} for table, journals in found.items()}


@pytest.fixture(scope="module")
def expected(tables: dict[str, Journals]) -> dict[str, dict[str, Outcome]]:
    return {table: permutations.in_order(journals) for table, journals in tables.items()}


@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_any_order_ends_alike(
    tables: dict[str, Journals], expected: dict[str, dict[str, Outcome]], postgres_server: PostgresServer, seed: int
) -> None:
    told, n_sent = permutations.permute(seed, tables, expected, postgres_server.url())
    assert told == [] and n_sent >= permutations.N_EVENTS


def test_another_posterior_is_noticed(
    tables: dict[str, Journals], expected: dict[str, dict[str, Outcome]], tmp_path: Path
) -> None:
    """The comparison itself: one event less is another state."""
    journals = tables["atezolizumab"]
    patient = max(journals, key=lambda name: len(journals[name]))
    found = permutations.in_order({patient: journals[patient][:-1]})
    [told] = permutations.different(found, expected["atezolizumab"], [patient])
    assert told.startswith(f"{patient}: state, estimates")
    assert permutations.different({}, expected["atezolizumab"], [patient])[0] == f"{patient}: everything"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect("local", 2, dashboard=False)
    yield
    disconnect()


@pytest.mark.alone
def test_through_actors(
    tables: dict[str, Journals], expected: dict[str, dict[str, Outcome]], tmp_path: Path, cluster: None
) -> None:
    """Ray actors of two twins each, under seal, that are put to sleep on the way."""
    rng = random.Random(11)
    journals, wanted = {}, {}
    for table, n in (("intermittent-androgen", 3), ("atezolizumab", 20)):
        for name in rng.sample(sorted(tables[table]), n):
            journals[name], wanted[name] = tables[table][name], expected[table][name]
    records = [record for name in journals for record in journals[name]]
    sent = [*records, *rng.choices(records, k=40)]
    rng.shuffle(sent)
    settings = Settings(home=tmp_path, partitions=3)
    factory = ShardFactory(settings, ModelBundle({}).to_json(), LITERATURE)
    n_accepted = 0
    with (
        closing(open_twin_store(settings.store_url, sealer=open_sealer(settings))) as store,
        closing(open_log(settings)) as log,
    ):
        for part in (sent[: len(sent) // 2], sent[len(sent) // 2 :]):
            with closing(RayHost(factory, LITERATURE, twins_per_actor=2, idle_actor_s=1e6)) as host:
                log.append(part)
                worker = permutations.make_worker(log, store, host, threaded=True)
                bounds = Bounds(events=10**9, seconds=1e9, commit_events=rng.randrange(20, 60), poll_seconds=0.0)
                n_accepted += worker.run(bounds).n_accepted
                worker.release()
        assert n_accepted == len(records)
        assert permutations.different(permutations.outcomes(store), wanted, list(journals)) == []
        bound = permutations.binding()
        for name in journals:
            folded = believe(bound, name, store.journal(name))
            assert digest(to_bytes(folded.state)) == wanted[name].state
