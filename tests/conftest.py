"""What every test may ask for: real servers, real data, and walls around the unit tests."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import settings

from oncotwin.testing.postgres_server import PostgresServer
from oncotwin.testing.servers import KafkaBroker

DATA_VARIABLE = "ONCOTWIN_DATA"
# What lands is judged on the same examples every time, however slow the machine; `--hypothesis-profile=explore` seeks
# new ones.
settings.register_profile("settled", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None)
settings.load_profile("settled")
LEFT_OUT = pytest.StashKey[dict[str, int]]()


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A real Kafka broker for the whole run; topics are the tests' own."""
    with KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka_broker(kafka_server: KafkaBroker) -> str:
    """HOST:PORT of the broker."""
    return kafka_server.bootstrap


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL server for the whole run."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """Address of the server's first database, as SQLAlchemy takes it."""
    return postgres_server.url()


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """Address of a fresh, empty database, dropped after the test."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def data_folder() -> Path:
    """Folder of the real data sets; a test that asks for it says which by `needs_data`."""
    return Path(os.environ[DATA_VARIABLE])


@pytest.fixture(autouse=True)
def _unit_tests_stay_inside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A unit test that connects or listens fails at that line; one that starts Ray fails at its end."""
    if request.path.relative_to(Path(__file__).parent).parts[0] != "unit":
        yield
        return

    def refuse(*_arguments: object, **_named: object) -> NoReturn:
        pytest.fail("a unit test opened a socket; use a fake, or move it to tests/integration")

    for method in ("connect", "connect_ex", "listen"):
        monkeypatch.setattr(socket.socket, method, refuse)
    yield
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()
        pytest.fail("a unit test started Ray; use a fake, or move it to tests/integration")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ONCOTWIN_DATA, leave out the tests on data that may not be shipped, and count them."""
    left_out: dict[str, int] = {}
    config.stash[LEFT_OUT] = left_out
    if os.environ.get(DATA_VARIABLE):
        return
    kept: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        folders = _folders_needed(item)
        (deselected if folders else kept).append(item)
        for folder in folders[:1]:
            left_out[folder] = left_out.get(folder, 0) + 1
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = kept


def pytest_runtest_setup(item: pytest.Item) -> None:
    """With ONCOTWIN_DATA, a missing data set is a failure."""
    for folder in _folders_needed(item):
        path = Path(os.environ[DATA_VARIABLE]) / folder
        if not path.exists():
            pytest.fail(f"data set {folder!r} is missing from the folder that {DATA_VARIABLE} names")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes tells the one that prints what was left out."""
    output: dict[str, dict[str, int]] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = session.config.stash.get(LEFT_OUT, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each of several processes collects the same tests: what one left out, all did."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many tests were left out, and why."""
    left_out = config.stash.get(LEFT_OUT, {})
    if left_out:
        sets = ", ".join(f"{folder}: {n}" for folder, n in sorted(left_out.items()))
        terminalreporter.write_line(
            f"{sum(left_out.values())} tests left out: they need data sets that may not be shipped ({sets}); "
            f"set {DATA_VARIABLE} to a folder that holds them"
        )


def _folders_needed(item: pytest.Item) -> list[str]:
    """Data sets named by a test's `needs_data` marks."""
    return [str(folder) for mark in item.iter_markers("needs_data") for folder in mark.args]
