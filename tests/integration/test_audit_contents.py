"""Journal and beliefs against what the audit trail tells of them: changed, taken away, slipped in, erased, older."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.faults.audit_stores import Settable, open_sealed
from tests.unit.domain.example_events import examples, line

from oncotwin.adapters.keys import open_key_store
from oncotwin.adapters.sql_store import SqlTwinStore
from oncotwin.domain.events import content_hash, content_hash_of_line, encode_line, parse_event
from oncotwin.ports.twin_rows import JournalEntry
from oncotwin.testing.twin_store_conformance import NOW, TWIN, group, twin
from oncotwin_flows.audit_contents import Contents, verify_contents
from oncotwin_flows.erase import Eraser

SECOND = "north/p2"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.sqlite"
    return str(request.getfixturevalue("postgres_database"))


def take_in(store: SqlTwinStore, twin_id: str, *event_ids: str) -> None:
    """Commit real events of a patient."""
    store.register_twins([twin_id])
    heads = store.twin_heads([twin_id])
    version = heads[twin_id].version if heads else 0
    entries = []
    for event_id in event_ids:
        event = parse_event(line("lesion.measured", id=event_id, source="urn:north:rad", subject=twin_id))
        entries.append(
            JournalEntry(
                event.source, event.id, twin_id, event.kind, event.time, event.timeprecision, None, NOW, event.status,
                content_hash(event), encode_line(event),
            )
        )
    at = NOW + timedelta(minutes=version)
    store.commit(group(twin(version, twin_id, journal=tuple(entries)), at=at))


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[SqlTwinStore]:
    """Two patients, three events, three beliefs."""
    with open_sealed(url, tmp_path) as opened:
        take_in(opened, TWIN, "a", "b")
        take_in(opened, TWIN, "c")
        take_in(opened, SECOND, "d")
        yield opened


def alter(store: SqlTwinStore, statement: str) -> None:
    """Somebody with a tool of their own."""
    with store._transaction(write=True) as connection:
        assert connection.execute(text(statement)).rowcount > 0


def named(found: Contents) -> list[tuple[int, str]]:
    """(entry, what is said of it)."""
    return [(flaw.first, flaw.message) for flaw in found.flaws]


def test_a_store_that_holds_what_is_told(store: SqlTwinStore) -> None:
    assert verify_contents(store) == Contents(n_events=4, n_beliefs=3)


@pytest.mark.parametrize("kind", examples())
def test_the_hash_of_a_line_is_that_of_its_event(kind: str) -> None:
    event = parse_event(line(kind, sequence=7))
    assert content_hash_of_line(encode_line(event)) == content_hash(event)


def test_an_event_that_was_taken_away(store: SqlTwinStore) -> None:
    alter(store, "DELETE FROM journal WHERE event_id = 'b'")
    assert named(verify_contents(store)) == [
        (2, "north: entry 2 tells of event 'urn:north:rad b', which the store does not hold any more")
    ]


def test_an_event_whose_content_was_changed(store: SqlTwinStore) -> None:
    """Sealed bytes of the same patient's other event: they open, and are another content."""
    alter(
        store,
        "UPDATE journal SET payload = (SELECT payload FROM journal WHERE event_id = 'a') WHERE event_id = 'b'",
    )
    assert named(verify_contents(store)) == [
        (2, "north: entry 2 tells of event 'urn:north:rad b', which the store holds with another content")
    ]


def test_an_event_that_was_slipped_in(store: SqlTwinStore) -> None:
    alter(store, "UPDATE journal SET event_id = 'z' WHERE event_id = 'd'")
    assert named(verify_contents(store)) == [
        (0, "north: the store holds event 'urn:north:rad z' of north/p2, of which no entry tells"),
        (6, "north: entry 6 tells of event 'urn:north:rad d', which the store does not hold any more"),
    ]


def test_a_belief_that_is_another(store: SqlTwinStore) -> None:
    alter(
        store,
        "UPDATE beliefs SET digest = (SELECT digest FROM beliefs WHERE twin_id = 'north/p1' AND version = 2) "
        "WHERE twin_id = 'north/p1' AND version = 1",
    )
    assert named(verify_contents(store)) == [
        (3, "north: entry 3 tells of belief '1', which the store holds with another content")
    ]


def test_a_patient_who_was_taken_out_of_the_store(store: SqlTwinStore) -> None:
    for table in ("journal", "beliefs", "snapshots", "twins"):
        alter(store, f"DELETE FROM {table} WHERE twin_id = 'north/p1'")
    assert named(verify_contents(store)) == [
        (1, "north: entry 1 tells of a twin that the store does not hold, and nobody erased")
    ]


def test_a_patient_who_was_erased_is_missed_by_nobody(store: SqlTwinStore, tmp_path: Path) -> None:
    keys = open_key_store(f"sqlite:///{tmp_path}/keys/keys.sqlite")
    Eraser(store, keys, Settable(NOW + timedelta(days=1)), lambda twin_id: 0).erase(TWIN, "asked for")
    keys.close()
    assert verify_contents(store) == Contents(n_events=1, n_beliefs=1, n_erased=5)


def test_what_is_older_than_the_trail_is_counted(url: str, tmp_path: Path) -> None:
    with open_sealed(url, tmp_path) as store:
        take_in(store, TWIN, "a", "b")
        alter(store, "DELETE FROM audit_entries")
        assert verify_contents(store) == Contents(n_older=3)
        take_in(store, TWIN, "c")
        assert verify_contents(store) == Contents(n_events=1, n_beliefs=1, n_older=3)
