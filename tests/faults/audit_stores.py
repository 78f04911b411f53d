"""Small real stores with an audit trail, for tests that verify them, attack them and restore them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from oncotwin.adapters.keys import open_key_store
from oncotwin.adapters.sealing import Sealer
from oncotwin.adapters.signing import SigningKeys
from oncotwin.adapters.sql_store import SqlTwinStore, open_twin_store
from oncotwin.ports.audit_trail import AuditTrail, CheckpointRegistry
from oncotwin.testing.twin_store_conformance import NOW, TWIN, entry, group, letter, twin
from oncotwin_flows.audit import Report, verify
from oncotwin_flows.checkpoints import Checkpoints

NORTH = "north"


class Settable:
    """A clock that stands where it is put."""

    def __init__(self, at: datetime = NOW) -> None:
        self.at = at

    def now(self) -> datetime:
        """Where it stands."""
        return self.at

    def monotonic(self) -> float:
        """Seconds since a moment."""
        return (self.at - NOW).total_seconds()

    def sleep(self, seconds: float) -> None:
        """Goes on."""
        self.at += timedelta(seconds=seconds)


@contextmanager
def open_sealed(url: str, folder: Path) -> Iterator[SqlTwinStore]:
    """A store under patients' keys that lie in a folder."""
    store = open_twin_store(url, sealer=Sealer(open_key_store(f"sqlite:///{folder}/keys/keys.sqlite")))
    try:
        yield store
    finally:
        store.close()


def commit(store: SqlTwinStore, ids: Sequence[str], patient: str = TWIN, rejected: Sequence[str] = ()) -> None:
    """One commit of a patient's events, and of refused ones."""
    store.register_twins([patient])
    heads = store.twin_heads([patient])
    version = heads[patient].version if heads else 0
    entries = tuple(entry(event_id, version + n, patient) for n, event_id in enumerate(ids))
    letters = tuple(letter(f"{name:0>32}", twin_id=patient, raw=name.encode()) for name in rejected)
    store.commit(
        group(twin(version, patient, journal=entries), dead_letters=letters, at=NOW + timedelta(seconds=version))
    )


def checkpoints(
    trail: AuditTrail, folder: Path, registry: CheckpointRegistry | None = None, clock: Settable | None = None
) -> Checkpoints:
    """Signs a trail with the keys of a folder."""
    return Checkpoints(
        trail, SigningKeys(folder / "keys"), clock or Settable(), None if registry is None else lambda: registry,
        entries=100, seconds=60.0,
    )


def judge(store: SqlTwinStore, folder: Path) -> Report:
    """What `oncotwin audit verify` does, without a registry."""
    return verify(store.audit, SigningKeys(folder / "keys"))
