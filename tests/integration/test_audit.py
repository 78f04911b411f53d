"""The audit trail on real stores: what commits write, what is signed, kept, exchanged, proved and told of reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from tests.faults.audit_stores import NORTH, Settable, checkpoints, commit, judge, open_sealed
from tests.faults.check_proof import check

from oncotwin.adapters.keys import open_key_store
from oncotwin.adapters.mlflow_checkpoints import WHERE, MlflowCheckpoints
from oncotwin.adapters.signing import SigningKeys
from oncotwin.adapters.sql_store import SqlTwinStore, open_twin_store
from oncotwin.domain.audit import INSTALLATION, AuditError
from oncotwin.domain.audit_verify import StoredCheckpoint
from oncotwin.domain.checkpoint import SignedCheckpoint
from oncotwin.domain.errors import StoreError
from oncotwin.testing.twin_store_conformance import NOW, TWIN, entry, group, letter, twin
from oncotwin_flows.audit import (
    as_stored,
    export_checkpoints,
    find_entry,
    import_checkpoints,
    prove,
    read_checkpoints,
    record_reads,
    verify,
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.sqlite"
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[SqlTwinStore]:
    """A store under patients' keys."""
    with open_sealed(url, tmp_path) as opened:
        yield opened


def kinds(store: SqlTwinStore, institution: str = NORTH) -> list[str]:
    """Kinds of a chain's entries, in their order."""
    return [row[2] for row in store.audit.rows(institution)]


def test_a_commit_tells_of_its_events_its_belief_and_its_refusals(store: SqlTwinStore, tmp_path: Path) -> None:
    commit(store, ["a", "b"], rejected=["x"])
    commit(store, ["c"])
    belief = ["event.accepted", "estimate"]
    assert kinds(store) == ["event.accepted", *belief, "event.rejected", *belief]
    assert kinds(store, INSTALLATION) == ["model.promoted"]
    assert [row[3] for row in store.audit.rows(NORTH)][:2] == ["urn:lab a", "urn:lab b"]
    report = judge(store, tmp_path)
    assert not report.all_flaws
    assert {one.institution: one.n_entries for one in report.verdicts} == {NORTH: 6, INSTALLATION: 1}


def test_kinds_of_their_own(store: SqlTwinStore) -> None:
    store.register_twins([TWIN])
    entries = tuple(entry(kind, 0, kind=kind) for kind in ("record.corrected", "consent.changed"))
    store.commit(group(twin(0, journal=entries)))
    assert kinds(store) == ["record.corrected", "consent.changed", "estimate"]


def test_an_intake_tells_of_what_it_refused(store: SqlTwinStore) -> None:
    store.add_dead_letters([letter("l1"), letter("l2", twin_id=TWIN, source="urn:lab", event_id="e")])
    store.add_dead_letters([])
    assert kinds(store) == kinds(store, INSTALLATION) == ["event.rejected"]
    (row,) = store.audit.rows(NORTH)
    assert row[3] == "urn:lab e"


def test_a_commit_that_fails_after_its_entries_leaves_none(url: str, tmp_path: Path) -> None:
    def stop(step: str) -> None:
        if step == "audit":
            raise RuntimeError("stopped")

    with open_sealed(url, tmp_path) as before:
        commit(before, ["a"])
        failing = open_twin_store(url, on_step=stop)
        with pytest.raises(RuntimeError, match="stopped"):
            commit(failing, ["b"])
        failing.close()
        assert kinds(before) == ["event.accepted", "estimate"]
        commit(before, ["b"])
        assert not judge(before, tmp_path).all_flaws


def test_no_entry_shows_a_patient_a_payload_or_a_plain_hash(store: SqlTwinStore) -> None:
    commit(store, ["a"], rejected=["x"])
    written = b"".join(row[3].encode() + row[5] for row in store.audit.rows(NORTH))
    journal = store.journal(TWIN)[0]
    digest = store.beliefs(TWIN)[0].digest
    for secret in (
        TWIN, "p1", journal.content_hash, journal.payload.decode(), digest, f"{'x':0>32}",
        *(sha256(text).hexdigest() for text in (journal.payload, b"x", journal.content_hash.encode(), digest.encode())),
    ):
        assert secret.encode() not in written


def test_a_chain_verifies_after_a_patient_was_erased(url: str, tmp_path: Path) -> None:
    with open_sealed(url, tmp_path) as store:
        commit(store, ["a"])
        commit(store, ["b"], patient="north/p2")
        before = list(store.audit.rows(NORTH))
        assert store.audit.commitment(TWIN, b"data") != b""
    keys = open_key_store(f"sqlite:///{tmp_path}/keys/keys.sqlite")
    keys.destroy(TWIN, NOW, "asked for")
    keys.close()
    with open_sealed(url, tmp_path) as later:
        assert later.audit.commitment(TWIN, b"data") == b""
        record_reads(later.audit, [TWIN], "dr. Curie", "twin", NOW)
        *same, last = later.audit.rows(NORTH)
        assert same == before
        assert json.loads(last[5])["twin"] == ""
        assert not judge(later, tmp_path).all_flaws


def test_writers_beside_each_other_make_one_chain(url: str, tmp_path: Path) -> None:
    n_each = 20

    def write(worker: int) -> None:
        with open_sealed(url, tmp_path) as own:
            for i in range(n_each):
                if worker:
                    record_reads(own.audit, [TWIN], "dr. Curie", "twin", NOW)
                    checkpoints(own.audit, tmp_path).make()
                else:
                    commit(own, [f"e{i}"])

    with open_sealed(url, tmp_path) as store:
        with ThreadPoolExecutor(3) as pool:
            for done in [pool.submit(write, worker) for worker in range(3)]:
                done.result()
        report = judge(store, tmp_path)
        assert not report.all_flaws
        counted = Counter(kinds(store))
        assert (counted["event.accepted"], counted["estimate"], counted["read"]) == (n_each, n_each, 2 * n_each)
        (north,) = [one for one in report.verdicts if one.institution == NORTH]
        assert counted["checkpoint"] == north.n_checkpoints > 0


def test_reads_are_told_by_whom_and_of_what(store: SqlTwinStore) -> None:
    record_reads(store.audit, [TWIN, "south/p9"], "dr. Curie", "forecast", NOW)
    (row,) = store.audit.rows(NORTH)
    assert json.loads(row[5]) == {"by": "dr. Curie", "twin": json.loads(row[5])["twin"], "what": "forecast"}
    assert kinds(store, "south") == ["read"]


def test_a_checkpoint_goes_on_from_the_one_before(store: SqlTwinStore, tmp_path: Path) -> None:
    signing = checkpoints(store.audit, tmp_path)
    assert signing.make() == []
    commit(store, ["a"])
    (first,) = signing.make([NORTH])
    assert (first.checkpoint.size, kinds(store)[-1]) == (2, "checkpoint")
    assert signing.make([NORTH]) == []
    commit(store, ["b", "c"])
    (second,) = signing.make([NORTH])
    assert second.checkpoint.size == 6
    report = judge(store, tmp_path)
    assert not report.all_flaws
    assert [(one.institution, one.covered) for one in report.verdicts] == [(INSTALLATION, 0), (NORTH, 6)]


def test_a_worker_signs_when_enough_has_come_or_enough_time_has_gone_by(store: SqlTwinStore, tmp_path: Path) -> None:
    clock = Settable()
    signing = checkpoints(store.audit, tmp_path, clock=clock)
    assert not signing.is_due(49)
    assert signing.is_due(1)
    signing.make()
    assert not signing.is_due(0)
    clock.at += timedelta(seconds=60)
    assert signing.is_due(0)


def test_a_chain_that_does_not_go_on_is_not_signed_again(store: SqlTwinStore, tmp_path: Path) -> None:
    commit(store, ["a"])
    signing = checkpoints(store.audit, tmp_path)
    signing.make([NORTH])
    commit(store, ["b"])
    with store._transaction(write=True) as connection:
        connection.exec_driver_sql("UPDATE audit_entries SET hash = previous WHERE institution = 'north' AND seq = 2")
    with pytest.raises(AuditError, match="does not go on from its checkpoint over 2 entries"):
        signing.make([NORTH])
    with store._transaction(write=True) as connection:
        connection.exec_driver_sql("UPDATE audit_checkpoints SET signature = body")
    with pytest.raises(AuditError, match="not signed again before it is seen to"):
        signing.make([NORTH])


class Away:
    """A registry that does not answer until it does."""

    def __init__(self) -> None:
        self.kept: dict[str, set[int]] = {}
        self.away = True

    def keep(self, signed: SignedCheckpoint) -> None:
        """Remembers."""
        if self.away:
            raise AuditError("the registry is away")
        self.kept.setdefault(signed.checkpoint.institution, set()).add(signed.checkpoint.size)

    def sizes(self, institution: str) -> set[int]:
        """What it remembers."""
        return set(self.kept.get(institution, ()))

    def held(self) -> list[StoredCheckpoint]:
        """Never asked here while it answers."""
        raise AuditError("the registry is away")


def test_a_registry_that_is_away_is_told_the_next_time(store: SqlTwinStore, tmp_path: Path) -> None:
    registry = Away()
    signing = checkpoints(store.audit, tmp_path, registry)
    commit(store, ["a"])
    with pytest.raises(AuditError, match="the registry is away"):
        signing.make()
    assert [one.covered for one in judge(store, tmp_path).verdicts] == [1, 2]
    registry.away = False
    signing.make()
    assert registry.kept == {INSTALLATION: {1}, NORTH: {2}}
    assert verify(store.audit, SigningKeys(tmp_path / "keys"), registry).notes == ["the registry is away"]


def test_checkpoints_are_kept_in_mlflow_and_show_a_tail_cut_off(tmp_path: Path) -> None:
    registry = MlflowCheckpoints(f"sqlite:///{tmp_path}/mlflow.sqlite")
    assert registry.held() == []
    assert registry.sizes(NORTH) == set()
    with open_sealed(f"sqlite:///{tmp_path}/store.sqlite", tmp_path) as store:
        signing = checkpoints(store.audit, tmp_path, registry)
        for event_id in ("a", "b"):
            commit(store, [event_id])
            signing.make()
        assert registry.sizes(NORTH) == {2, 5}
        again = MlflowCheckpoints(f"sqlite:///{tmp_path}/mlflow.sqlite")
        assert {(one.institution, one.size, one.held) for one in again.held()} == {
            (NORTH, 2, WHERE), (NORTH, 5, WHERE), (INSTALLATION, 1, WHERE)
        }
        keys = SigningKeys(tmp_path / "keys")
        assert not verify(store.audit, keys, again).all_flaws
        with store._transaction(write=True) as connection:
            connection.exec_driver_sql("DELETE FROM audit_entries WHERE institution = 'north' AND seq > 2")
            connection.exec_driver_sql("DELETE FROM audit_checkpoints WHERE institution = 'north' AND seq > 2")
        assert not verify(store.audit, keys).all_flaws
        (flaw,) = verify(store.audit, keys, again).all_flaws
        assert (flaw.problem, flaw.first, flaw.last) == ("cut off", 3, 5)


def test_a_registry_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    (tmp_path / "mlflow.sqlite").write_bytes(b"no database" * 1000)
    registry = MlflowCheckpoints(f"sqlite:///{tmp_path}/mlflow.sqlite")
    for ask in (registry.held, lambda: registry.sizes(NORTH)):
        with pytest.raises(AuditError, match="the model registry does not answer"):
            ask()


def test_proofs_from_a_store_convince_a_stranger(store: SqlTwinStore, tmp_path: Path) -> None:
    for i in range(5):
        commit(store, [f"e{i}"], rejected=[f"r{i}"])
    keys, signing = SigningKeys(tmp_path / "keys"), checkpoints(store.audit, tmp_path)
    n = store.audit.head(NORTH).size
    for seq in range(1, n + 1):
        entry, _ = find_entry(store.audit, f"{NORTH}:{seq}")
        proof = json.loads(json.dumps(prove(store.audit, keys, signing, entry)))
        assert check(proof, keys.own(NORTH).hex())
    # The first one made a checkpoint over all, since none covered it.
    assert kinds(store).count("checkpoint") == 1


def test_an_entry_is_found_by_what_it_is_called(store: SqlTwinStore) -> None:
    commit(store, ["a", "100"])
    commit(store, ["00"])
    for name in ("a", "urn:lab a"):
        assert find_entry(store.audit, name)[0].seq == 1
    assert find_entry(store.audit, "00")[0].ref == "urn:lab 00"
    found, others = find_entry(store.audit, "1")
    assert [one.kind for one in (found, *others)] == ["estimate", "model.promoted"]
    for name in ("A", "%", "nothing", "north:99", "north:x", ":", "south:1"):
        with pytest.raises(AuditError, match="no entry of the audit trail is of"):
            find_entry(store.audit, name)


def test_an_entry_that_was_changed_has_no_proof(store: SqlTwinStore, tmp_path: Path) -> None:
    commit(store, ["a"])
    keys, signing = SigningKeys(tmp_path / "keys"), checkpoints(store.audit, tmp_path)
    signing.make()
    with store._transaction(write=True) as connection:
        connection.exec_driver_sql("UPDATE audit_entries SET ref = 'another' WHERE institution = 'north' AND seq = 1")
    with pytest.raises(AuditError, match="is not in the tree that was signed"):
        prove(store.audit, keys, signing, find_entry(store.audit, "north:1")[0])
    with store._transaction(write=True) as connection:
        connection.exec_driver_sql("DELETE FROM audit_entries WHERE institution = 'north' AND seq = 2")
    with pytest.raises(AuditError, match="is not whole"):
        prove(store.audit, keys, signing, find_entry(store.audit, "north:1")[0])


def test_institutions_hold_each_others_checkpoints(url: str, tmp_path: Path) -> None:
    at_north, at_south = tmp_path / "n", tmp_path / "s"
    theirs = SigningKeys(at_south / "keys")
    with open_sealed(url, at_north) as north, open_sealed(f"sqlite:///{at_south}/store.sqlite", at_south) as south:
        ours, signing = SigningKeys(at_north / "keys"), checkpoints(north.audit, at_north)
        for event_id in ("a", "b", "c"):
            commit(north, [event_id])
            signing.make([NORTH])
        exported = list(export_checkpoints(north.audit, ours))
        with pytest.raises(AuditError, match="none that is trusted for north"):
            import_checkpoints(south.audit, theirs, exported, "north.jsonl")
        theirs.trust(NORTH, ours.export(NORTH))
        assert import_checkpoints(south.audit, theirs, exported, "north.jsonl") == (3, 3)
        assert import_checkpoints(south.audit, theirs, exported, "north.jsonl") == (3, 0)
        assert verify(south.audit, theirs).elsewhere == {NORTH: 3}
        assert not verify(south.audit, theirs).all_flaws
        # North loses its tail, with the checkpoints in its store; south gives it back what it holds.
        back = list(export_checkpoints(south.audit, theirs, NORTH))
        with north._transaction(write=True) as connection:
            connection.exec_driver_sql("DELETE FROM audit_entries WHERE institution = 'north' AND seq > 3")
            connection.exec_driver_sql("DELETE FROM audit_checkpoints WHERE institution = 'north' AND seq > 2")
        assert not judge(north, at_north).all_flaws
        (flaw,) = verify(north.audit, ours, more=as_stored(read_checkpoints(back, "back"), "back")).all_flaws
        assert (flaw.problem, flaw.first, flaw.last) == ("cut off", 4, 8)
        # And grows anew from there: what it signs now contradicts what it signed before.
        for event_id in ("d", "e", "f"):
            commit(north, [event_id])
            signing.make([NORTH])
        with pytest.raises(AuditError, match="signed two different chains of 5 entries"):
            import_checkpoints(south.audit, theirs, export_checkpoints(north.audit, ours), "north.jsonl")
        commit(north, ["g", "h"])
        signing.make([NORTH])
        last = list(export_checkpoints(north.audit, ours))[-1]
        forged = json.loads(last) | {"after": 8}
        with pytest.raises(AuditError, match="does not begin with what it signed at 8"):
            import_checkpoints(south.audit, theirs, [json.dumps(forged).encode()], "north.jsonl")
        assert verify(south.audit, theirs).elsewhere == {NORTH: 3}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "line 1: not JSON"),
        (b"[]", "must hold 'checkpoint' and 'signature'"),
        (b'{"checkpoint": {}, "signature": ""}', "exactly the fields"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_file_that_holds_no_checkpoints_is_refused(line: bytes, reason: str) -> None:
    with pytest.raises(AuditError, match=reason):
        read_checkpoints([line], "file")


def test_a_chain_that_is_ours_and_gone_altogether_is_missed(store: SqlTwinStore, tmp_path: Path) -> None:
    commit(store, ["a"])
    checkpoints(store.audit, tmp_path).make()
    held = list(export_checkpoints(store.audit, SigningKeys(tmp_path / "keys"), NORTH))
    with store._transaction(write=True) as connection:
        for table in ("audit_entries", "audit_checkpoints"):
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE institution = 'north'")
    more = as_stored(read_checkpoints(held, "held"), "held")
    (flaw,) = verify(store.audit, SigningKeys(tmp_path / "keys"), more=more).all_flaws
    assert (flaw.problem, flaw.first, flaw.last) == ("cut off", 1, 2)
    assert flaw in verify(store.audit, SigningKeys(tmp_path / "keys"), more=more, institution=NORTH).all_flaws


def test_a_store_that_is_away_refuses_a_read(store: SqlTwinStore) -> None:
    with store._transaction(write=True) as connection:
        connection.exec_driver_sql("ALTER TABLE audit_entries RENAME TO gone")
    with pytest.raises(StoreError):
        record_reads(store.audit, [TWIN], "dr. Curie", "twin", NOW)
