"""How often a worker looks for reference cycles."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from oncotwin.adapters import ray_cluster
from oncotwin.adapters.garbage import collect_rarely
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings


@pytest.mark.parametrize("where", ["in-process", "local"])
def test_a_worker_looks_rarely_wherever_its_twins_live(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No Ray is started: a host asks for actors when it is given something to fold.
    monkeypatch.setattr(ray_cluster, "connect", lambda address, n_cpus: "")
    before = gc.get_threshold()
    try:
        collect_rarely()
        rarely = gc.get_threshold()
        gc.set_threshold(700, 10, 10)
        wiring.open_host(Settings(home=tmp_path, ray=where), wiring.LITERATURE)
        assert gc.get_threshold() == rarely
    finally:
        gc.set_threshold(*before)
