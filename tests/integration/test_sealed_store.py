"""A store under seal is read by every process of its installation, and by nobody without its keys."""

from __future__ import annotations

import pickle
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from oncotwin.adapters.sql_store import open_twin_store
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings, load_settings
from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.errors import ConfigurationError, StoreError
from oncotwin.ports.event_log import NewRecord
from oncotwin.testing.patients import diameter
from oncotwin_flows.groups import Bounds
from oncotwin_flows.worker import Worker, WorkerSettings

_ACTOR = """
import pickle, sys
from oncotwin.ports.twin_host import Delivery
from oncotwin.testing.patients import accepted, diameter
factory = pickle.loads(sys.stdin.buffer.read())
shard = factory("literature")
late = accepted([diameter("late", 15, 33.0, patient="H1/p0")])
[folded] = shard.fold([Delivery("H1/p0", 0, 1, 1, tuple(late))])
print(folded.snapshots[-1].n_folded, folded.rewound_to is not None)
shard.close()
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """An installation with some visits of two patients."""
    store = "" if request.param == "sqlite" else request.getfixturevalue("postgres_database")
    master = tmp_path / "master"
    master.write_bytes(bytes(range(32)))
    built = Settings(home=tmp_path / "home", ray="in-process", store=store, keys_master=master)
    with (
        closing(wiring.open_log(built)) as log, closing(wiring.open_store(built)) as opened,
        closing(wiring.open_host(built, "literature")) as host,
    ):
        log.append(
            [
                NewRecord(f"H1/p{p}", diameter(f"{p}-{v}", 20 * v, 30.0 + v, patient=f"H1/p{p}"))
                for v in range(4)
                for p in (0, 1)
            ]
        )
        rules = WorkerSettings("w", wiring.log_name(built), "literature", 1e6, timedelta(minutes=5))
        worker = Worker(log, opened, host, wiring.SystemClock(), rules)
        worker.run(Bounds(1_000_000, 1e6, 100, 0.0))
        worker.release()
    return built


def test_an_actors_process_opens_the_keys_by_the_settings_alone(settings: Settings) -> None:
    factory = wiring.ShardFactory(settings, ModelBundle({}).to_json(), "literature")
    done = subprocess.run(
        [sys.executable, "-c", _ACTOR], input=pickle.dumps(factory), capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.split() == [b"5", b"True"]


def test_without_its_keys_a_store_tells_nothing(settings: Settings, tmp_path: Path) -> None:
    with closing(open_twin_store(settings.store_url)) as plain, pytest.raises(StoreError, match="without keys"):
        plain.journal("H1/p0")
    bare = settings.model_copy(update={"keys_master": None})
    with pytest.raises(ConfigurationError, match="keys_master"), closing(wiring.open_store(bare)) as store:
        store.journal("H1/p0")
    other = settings.model_copy(update={"keys": f"sqlite:///{tmp_path}/other.sqlite"})
    with pytest.raises((StoreError, ConfigurationError)), closing(wiring.open_store(other)) as store:
        store.journal("H1/p0")


def test_keys_and_store_in_one_database_are_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/one.sqlite"
    with pytest.raises(ConfigurationError, match="database of their own"):
        load_settings(home=tmp_path, store=url, keys=url)
    with pytest.raises(ConfigurationError, match="keys"):
        load_settings(home=tmp_path, keys="a file")
