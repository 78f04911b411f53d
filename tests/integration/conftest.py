"""Installations for the tests of the whole path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.integration.site import Site, SteppingClock

from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.sql_store import open_twin_store
from oncotwin.domain.bundle import ModelBundle
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import bind


@pytest.fixture(params=["embedded", "deployed"])
def new_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Site]]:
    """Makes fresh installations."""
    with ExitStack() as stack:
        made: list[Site] = []

        def make() -> Site:
            folder = tmp_path / str(len(made))
            name = f"stream.{tmp_path.name}.{len(made)}"
            if request.param == "embedded":
                log_url, store_url = f"embedded:{folder / 'log'}", f"sqlite:///{folder / 'store.sqlite'}"
            else:
                log_url = f"kafka://{request.getfixturevalue('kafka_broker')}"
                store_url = stack.enter_context(request.getfixturevalue("postgres_server").database())
            log = open_event_log(log_url, name, 3)
            store = open_twin_store(store_url)
            stack.callback(store.close)
            binding = bind("1", ModelBundle({}), [TumourBurden()], UnscentedFilter(), DriftSettings())
            made.append(Site(log, store, binding, SteppingClock(), log_url, name, [log]))
            return made[-1]

        yield make
        for site in made:
            for opened in site.opened:
                opened.close()


@pytest.fixture
def site(new_site: Callable[[], Site]) -> Site:
    return new_site()
