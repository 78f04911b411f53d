"""A Ray node is lost with the actors on it: who is up serves their twins, and they go home one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.faults.real_services import RayCluster
from tests.integration.test_ray_host import Site, open_site, visits

from oncotwin.adapters.local_host import LocalHost
from oncotwin.bootstrap.wiring import LITERATURE
from oncotwin.domain.errors import HostLostError

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(600)]

N_PATIENTS = 4


@pytest.fixture
def nodes() -> Iterator[RayCluster]:
    with closing(RayCluster()) as built:
        yield built


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    built = open_site(tmp_path / "site")
    yield built
    for host in built.hosts:
        host.close()
    built.log.close()
    built.store.close()


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 60.0
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_twins_of_a_lost_node(nodes: RayCluster, site: Site, tmp_path: Path) -> None:
    batches = [visits("node", N_PATIENTS, at, at + 1) for at in range(60)]
    host = site.host(1)
    site.work(host, batches[0])
    before = nodes.pids()
    assert len(before) == N_PATIENTS
    assert nodes.kill_node_of(before["H1/node0"])
    wait_for_end(before["H1/node0"])
    # They end as they notice that their node did.
    time.sleep(1.0)
    lost = {name for name, pid in before.items() if not Path(f"/proc/{pid}").exists()}
    n_alive: list[int] = []
    sent = 1
    while (not n_alive or n_alive[-1] != N_PATIENTS or sent < 4) and sent < len(batches):
        try:
            site.work(host, batches[sent])
        except HostLostError:
            # The node's death is known some seconds later.
            continue
        sent += 1
        n_alive.append(len([name for name in nodes.pids() if name in before]))
        time.sleep(0.5)
    # Served at once by those that were up, or by the first that began; in the end each twin has its own actor again.
    assert n_alive[0] < N_PATIENTS
    assert n_alive[-1] == N_PATIENTS
    after = nodes.pids()
    assert not {before[name] for name in lost} & set(after.values())
    site.work(host, batches[sent])
    other = open_site(tmp_path / "other")
    other.work(LocalHost(other.factory()(LITERATURE)), [line for batch in batches[: sent + 1] for line in batch])
    assert site.digests() == other.digests()
    other.log.close()
    other.store.close()
