"""Workers that commit at the same time: every event counts once, versions follow each other, positions too."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oncotwin.adapters.sql_store import open_twin_store
from oncotwin.domain.errors import StaleVersionError
from oncotwin.ports.twin_rows import OutboxRow
from oncotwin.testing.twin_store_conformance import LOG, NOW, TWIN, entry, estimate, group, snapshot, twin

N_EACH = 25


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.sqlite"
    return str(request.getfixturevalue("postgres_database"))


def work(url: str, worker: str) -> int:
    """Commit events of a patient of one's own and of one that both share; returns how many commits lost."""
    store = open_twin_store(url)
    own = f"north/own-{worker}"
    store.register_twins([own, TWIN] if worker == "a" else [TWIN, own])
    epochs = store.acquire_leases(LOG, worker, [ord(worker)], 60, NOW, 1)
    lost = 0
    for i in range(N_EACH):
        event_id = f"{worker}{i}"
        while True:
            heads = store.twin_heads([TWIN])
            version = heads[TWIN].version if heads else 0
            try:
                store.commit(
                    group(
                        twin(
                            version, journal=(entry(event_id, i),), snapshots=(snapshot(i, version + 1),),
                            estimates=(estimate(event_id, i),),
                        ),
                        twin(i, own, journal=(entry(event_id, i, own, source="urn:own"),)),
                        epochs=epochs, offsets={ord(worker): i + 1},
                        outbox=(OutboxRow("t", TWIN, event_id, b"x"), OutboxRow("t", TWIN, "same", b"x")),
                    )
                )
                break
            except StaleVersionError:
                lost += 1
    store.close()
    return lost


def test_two_workers_on_one_store(url: str) -> None:
    open_twin_store(url).close()
    with ThreadPoolExecutor(2) as pool:
        for lost in [pool.submit(work, url, worker) for worker in "ab"]:
            assert lost.result(timeout=120) >= 0
    store = open_twin_store(url)
    heads = store.twin_heads()
    assert {key: head.version for key, head in heads.items()} == {
        TWIN: 2 * N_EACH, "north/own-a": N_EACH, "north/own-b": N_EACH,
    }
    assert sorted(head.ordinal for head in heads.values()) == [0, 1, 2]
    entries = store.journal(TWIN)
    assert len(entries) == 2 * N_EACH
    assert sorted(row.position for row in entries) == list(range(1, 2 * N_EACH + 1))
    assert len(list(store.estimates(TWIN))) == 2 * N_EACH
    assert store.offsets(LOG) == {ord("a"): N_EACH, ord("b"): N_EACH}
    assert len(store.pending_outbox(1_000)) == 2 * N_EACH + 1
    store.close()
