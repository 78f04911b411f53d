"""Erasing a patient: no file holds anything readable, nobody else is touched, and no restore or crash undoes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, select
from tests.integration.erasure_site import (
    GONE,
    NAMELESS,
    NOW,
    TRACES,
    UNREADABLE,
    VALUE,
    WORD,
    Site,
    add_report,
    cohort,
    export_tables,
    fill,
    held,
    nothing_of,
    traces,
)

from oncotwin.adapters.embedded_log import EmbeddedEventLog
from oncotwin.adapters.keys import open_key_store
from oncotwin.adapters.parquet_history import read_table
from oncotwin.adapters.sealing import is_sealed
from oncotwin.adapters.sql_store import open_twin_store, schema
from oncotwin.adapters.sql_store.restore import restore_backup
from oncotwin.adapters.tables import convert
from oncotwin.adapters.tables.shipped import lesions
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import ErasedError, StaleVersionError
from oncotwin.domain.events import encode_line
from oncotwin.ports.event_log import NewRecord
from oncotwin.ports.twin_rows import CommitGroup, TwinCommit
from oncotwin.testing.patients import correction, diameter, erasure
from oncotwin.twin.boosting import Growth
from oncotwin.twin.population import Effort
from oncotwin_flows.assimilate import open_worker
from oncotwin_flows.audit import verify
from oncotwin_flows.backup import back_up, restore
from oncotwin_flows.calibrate import calibrate_and_register
from oncotwin_flows.erase import ERASE_STEPS, make_eraser
from oncotwin_flows.export import export_history
from oncotwin_flows.groups import Bounds
from oncotwin_flows.worker import Worker, WorkerSettings
from oncotwin_services.cli import main
from oncotwin_services.cli.learning_commands import read_items


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    if request.param == "sqlite":
        yield Site(Settings(home=tmp_path / "home", ray="in-process"))
        return
    server = request.getfixturevalue("postgres_server")
    with server.database() as store, server.database() as keys:
        yield Site(Settings(home=tmp_path / "home", ray="in-process", store=store, keys=keys))


@pytest.fixture
def small(tmp_path: Path) -> Site:
    """On SQLite."""
    return Site(Settings(home=tmp_path / "home", ray="in-process"))


def test_nothing_readable_is_left(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(site)
    others = {twin_id: digest for twin_id, digest in site.digests().items() if twin_id != GONE}
    assert len(others) == 3
    site.ingest([NAMELESS])
    # Store, log and outgoing topics lie under seal from the beginning.
    assert traces(held(site.settings)) == []
    report_file = tmp_path / "report.html"
    report_file.write_text(f"{WORD} {VALUE}")
    with site.store() as store:
        assert store.latest_snapshots([GONE])[GONE].state.count(WORD.encode())
        assert sum(GONE.encode() in letter.raw for letter in store.dead_letters()) == 3
    add_report(site.settings, report_file)
    export_history(site.settings, tmp_path / "export")
    before = {name: read_table(tmp_path / "export", name) for name in ("estimates", "innovations", "forecasts")}
    assert all((table["patient"] == "p1").any() for table in before.values())
    back_up(site.settings, tmp_path / "backup")

    monkeypatch.setenv("ONCOTWIN_STORE", site.settings.store_url)
    monkeypatch.setenv("ONCOTWIN_KEYS", site.settings.keys_url)
    monkeypatch.setenv("ONCOTWIN_RAY", "in-process")
    home = ["--home", str(site.settings.home), "--json"]
    done = CliRunner().invoke(main, ["erase", GONE, "--reason", "asked for", *home])
    assert done.exit_code == 0, done.output + done.stderr + repr(done.exception)
    [told] = json.loads(done.stdout)
    assert told["is_new"] and told["n_reports"] == 1 and told["problems"] == []
    n_rows = sum(int((table["patient"] == "p1").sum()) for table in before.values())
    assert told["export_rows"] == {str(tmp_path / "export"): n_rows}

    assert traces(held(site.settings, tmp_path)) == []
    assert not report_file.exists()
    for name, table in before.items():
        left = read_table(tmp_path / "export", name)
        assert sorted(map(repr, left.itertuples(index=False))) == sorted(
            map(repr, table[table["patient"] != "p1"].itertuples(index=False))
        )
    assert site.digests() == others
    with site.store() as store:
        assert nothing_of(store)
        assert verify(store.audit, wiring.open_signer(site.settings)).all_flaws == []
        assert "patient.erased" in {entry.kind for entry in store.audit.latest("H1", 3)}
        assert store.look_for_gaps(NOW) == []
        assert store.erasures.tombstones()[GONE].finished_at is not None
    unknown = CliRunner().invoke(main, ["twin", GONE, *home])
    assert unknown.exit_code == 2 and "nothing is known" in unknown.stderr


def test_rows_of_an_old_backup_do_not_open_and_a_restored_store_learns_of_it(site: Site, tmp_path: Path) -> None:
    fill(site)
    back_up(site.settings, tmp_path / "backup")
    others = {twin_id: digest for twin_id, digest in site.digests().items() if twin_id != GONE}
    site.erase()
    unaware = f"sqlite:///{tmp_path}/unaware.sqlite"
    restore_backup(unaware, tmp_path / "backup")
    again = Site(site.settings.model_copy(update={"store": unaware}))
    with again.store() as store, closing(wiring.open_sealer(site.settings)) as sealer:
        assert store.erasures.tombstones() == {}
        assert nothing_of(store)
        assert store.erased([GONE, "H1/p2"]) == {GONE}
        engine = create_engine(unaware)
        with engine.connect() as connection:
            kept = connection.scalars(select(schema.journal.c.payload).where(schema.journal.c.twin_id == GONE)).all()
        engine.dispose()
        assert len(kept) == 8 and all(map(is_sealed, kept))
        for payload in kept:
            with pytest.raises(ErasedError):
                sealer.unseal(GONE, payload)
    # A worker that begins on it learns who was erased.
    again.work()
    with again.store() as store:
        assert set(store.erasures.tombstones()) == {GONE}
        assert nothing_of(store)
    assert again.digests() == others


def test_restore_erases_again(site: Site, tmp_path: Path) -> None:
    fill(site)
    back_up(site.settings, tmp_path / "backup")
    site.erase()
    again = Site(site.settings.model_copy(update={"store": f"sqlite:///{tmp_path}/again.sqlite"}))
    told = restore(again.settings, tmp_path / "backup")
    assert (told["erased_again"], told["attention"]) == ([GONE], [])
    with again.store() as store:
        assert nothing_of(store)
        assert store.erasures.tombstones()[GONE].finished_at is not None


def test_what_comes_later_is_refused_without_its_bytes(site: Site) -> None:
    fill(site)
    site.erase()
    new = diameter("new", 400, VALUE, lesion=WORD, patient=GONE)
    report = site.ingest([*cohort(), new, UNREADABLE, erasure("e", 1, patient=GONE)])
    refused = [letter for _, letter in report.rejections if letter.reason_code == "patient_erased"]
    assert len(refused) == 11 and report.n_accepted == 0
    assert report.n_duplicates == 21 + 1
    # The same through a log that others write to, past the intake.
    folder = site.settings.home / "open log"
    with closing(EmbeddedEventLog(folder, "events", 3)) as log:
        lines = [line for line in cohort() if json.loads(line)["subject"] == GONE]
        log.append([NewRecord(GONE, line) for line in [*lines, UNREADABLE, erasure("e", 1, patient=GONE)]])
        tally = site.work(4, log, "another log")
    assert (tally.n_read, tally.n_rejected, tally.n_duplicates, tally.n_accepted) == (11, 10, 1, 0)
    (folder / "events.sqlite").unlink()
    with site.store() as store:
        letters = [letter for letter in store.dead_letters() if letter.reason_code == "patient_erased"]
        assert len(letters) == 11
        assert all(letter.raw == b"" and letter.twin_id is None for letter in letters)
        assert nothing_of(store)
    site.work()
    assert traces(held(site.settings)) == []


@pytest.mark.parametrize("commit_events", [1, 4, 1_000])
def test_an_event_orders_it(site: Site, commit_events: int) -> None:
    lines = [line for line in cohort() if b"parsec" not in line]
    orders = [erasure("order", 500, patient=GONE), diameter("after", 501, VALUE, lesion=WORD, patient=GONE)]
    site.append([*lines, *orders, *(diameter(f"{p}-more", 520, 30.0, patient=f"H1/p{p}") for p in range(2, 5))])
    tally = site.work(commit_events)
    assert tally.n_retries == 0
    with site.store() as store:
        tombstone = store.erasures.tombstones()[GONE]
        assert (tombstone.source, tombstone.event_id) == ("urn:oncotwin:H1:ris", "order")
        assert nothing_of(store)
        assert store.erasures.orders() == []
        assert {len(store.journal(f"H1/p{p}")) for p in range(2, 5)} == {8}
        assert verify(store.audit, wiring.open_signer(site.settings)).all_flaws == []
        # The id is known and cannot be used for another.
        assert store.known([("urn:oncotwin:H1:ris", "1-0")]).keys() == {("urn:oncotwin:H1:ris", "1-0")}
    site.append([diameter("2-later", 600, 31.0, patient="H1/p2")])
    site.work()
    assert traces(held(site.settings)) == []
    assert set(site.digests()) == {"H1/p2", "H1/p3", "H1/p4"}


@pytest.mark.parametrize("step", ERASE_STEPS)
def test_whoever_dies_in_between_is_taken_up(site: Site, tmp_path: Path, step: str) -> None:
    fill(site)
    export_tables(site, tmp_path / "export")
    report_file = tmp_path / "report.html"
    report_file.write_text(WORD)
    add_report(site.settings, report_file)
    others = {twin_id: digest for twin_id, digest in site.digests().items() if twin_id != GONE}
    with pytest.raises(KeyboardInterrupt):
        site.erase(stop_at=step)
    with site.store() as store:
        assert nothing_of(store)
    with site.store() as store, closing(wiring.open_keys(site.settings)) as keys:
        reports = make_eraser(site.settings, store, keys, wiring.SystemClock()).resume()
        assert [one.twin_id for one in reports] == ([] if step == ERASE_STEPS[-1] else [GONE])
        assert make_eraser(site.settings, store, keys, wiring.SystemClock()).resume() == []
        assert store.erasures.tombstones()[GONE].finished_at is not None
    assert traces(held(site.settings, tmp_path)) == []
    assert not report_file.exists()
    assert not (read_table(tmp_path / "export", "estimates")["patient"] == "p1").any()
    assert site.digests() == others


def test_an_order_whose_worker_died_is_carried_out_by_the_next(small: Site) -> None:
    small.append([line for line in cohort() if b"parsec" not in line] + [erasure("order", 500, patient=GONE)])
    small.work(erase=False)
    with small.store() as store:
        assert [(order.twin_id, order.event_id) for order in store.erasures.orders()] == [(GONE, "order")]
        assert GONE in store.twin_heads()
    with open_worker(small.settings) as (worker, _, _):
        assert worker.run(Bounds(1_000_000, 1e6, 7, 0.0)).n_read == 0
    with small.store() as store:
        assert nothing_of(store)
        assert store.erasures.orders() == []


def test_a_commit_under_way_loses(small: Site) -> None:
    fill(small)
    with small.store() as store:
        version = store.twin_heads([GONE])[GONE].version
        champion = store.champion()
        assert champion is not None
        # Within the bound this process still has the key in hand; the twin's version has moved on all the same.
        store.latest_snapshots([GONE])
        small.erase()
        late = TwinCommit(GONE, version, version + 1, champion, ())
        with pytest.raises(StaleVersionError):
            store.commit(CommitGroup("log", {}, {}, (late,), NOW))
        new = TwinCommit(GONE, 0, 1, champion, ())
        with pytest.raises(StaleVersionError):
            store.commit(CommitGroup("log", {}, {}, (new,), NOW))


def test_a_patient_who_never_was_can_be_erased_before_anything_comes(small: Site) -> None:
    small.erase()
    report = small.ingest(cohort())
    assert sum(letter.reason_code == "patient_erased" for _, letter in report.rejections) == 9
    small.work()
    with small.store() as store:
        assert nothing_of(store)
    assert set(small.digests()) == {"H1/p2", "H1/p3", "H1/p4"}


def test_what_an_earlier_release_wrote_openly_is_taken_away(small: Site) -> None:
    lines = [line for line in cohort() if b"parsec" not in line]
    url = small.settings.store_url
    log = EmbeddedEventLog(small.settings.home / "log", "events", 8)
    with closing(log), closing(open_twin_store(url)) as store:
        log.append([NewRecord(json.loads(line)["subject"], line) for line in lines])
        host = wiring.open_host(small.settings, "literature")
        settings = WorkerSettings("w", wiring.log_name(small.settings), "literature", 1.0, timedelta(minutes=5))
        worker = Worker(log, store, host, wiring.SystemClock(), settings)
        worker.run(Bounds(1_000_000, 1e6, 7, 0.0))
        worker.release()
        host.close()
    assert set(traces(held(small.settings))) >= set(TRACES[:2])
    others = {twin_id: digest for twin_id, digest in small.digests().items() if twin_id != GONE}
    report = small.erase()
    assert (report.n_blanked, report.problems) == (8, [])
    assert traces(held(small.settings)) == []
    assert small.digests() == others
    with small.store() as store:
        assert nothing_of(store)
    # Read from its beginning, the log gives all that is left.
    afresh = Site(small.settings.model_copy(update={"store": f"sqlite:///{small.settings.home}/afresh.sqlite"}))
    afresh.work()
    assert afresh.digests() == others


def test_an_event_moved_to_an_erased_patient_leaves_the_wrong_one_and_goes_nowhere(small: Site) -> None:
    small.append([diameter("2-0", 10, 21.0, patient="H1/p2"), diameter("2-1", 20, 22.0, patient="H1/p2")])
    small.work()
    small.erase()
    small.append([correction("move", 30, "2-1", "wrong_patient", right_patient=GONE, patient="H1/p2")])
    tally = small.work()
    assert (tally.n_accepted, tally.n_retries) == (1, 0)
    with small.store() as store:
        assert nothing_of(store)
        assert store.twin_heads(["H1/p2"])["H1/p2"].version == 2


def test_a_key_store_set_back_to_an_earlier_day_is_told_by_the_store(small: Site, tmp_path: Path) -> None:
    fill(small)
    keys_file = small.settings.home / "keys" / "keys.sqlite"
    copy = keys_file.read_bytes()
    small.erase()
    keys_file.write_bytes(copy)
    with closing(open_key_store(small.settings.keys_url)) as keys:
        assert keys.destroyed() == {}
    small.work()
    with closing(open_key_store(small.settings.keys_url)) as keys, pytest.raises(ErasedError):
        keys.key(GONE)


def test_an_export_that_cannot_be_written_is_told_and_finished_later(small: Site, tmp_path: Path) -> None:
    fill(small)
    export_tables(small, tmp_path / "export")
    [part, *_] = sorted((tmp_path / "export" / "estimates").glob("institution=H1/*/*.parquet"))
    good = part.read_bytes()
    part.write_bytes(b"not a table")
    report = small.erase()
    assert len(report.problems) == 1 and "estimates" in report.problems[0]
    with small.store() as store:
        assert store.erasures.tombstones()[GONE].finished_at is None
    part.write_bytes(good)
    small.work()
    with small.store() as store:
        assert store.erasures.tombstones()[GONE].finished_at is not None
    assert not (read_table(tmp_path / "export", "estimates")["patient"] == "p1").any()


def test_a_deleted_export_is_forgotten(small: Site, tmp_path: Path) -> None:
    with small.store() as store:
        store.erasures.record_export(str(tmp_path / "gone"), ("estimates",), NOW)
        assert [one.folder for one in store.erasures.exports()] == [str(tmp_path / "gone")]
    assert small.erase().problems == []
    with small.store() as store:
        assert store.erasures.exports() == []


def test_the_command_says_what_it_needs(small: Site) -> None:
    home = ["--home", str(small.settings.home)]
    for words in (["erase"], ["erase", GONE], ["erase", GONE, "--reason", " "], ["erase", GONE, "--resume"]):
        assert CliRunner().invoke(main, [*words, *home]).exit_code == 2
    bad = CliRunner().invoke(main, ["erase", "no pseudonym", "--reason", "x", *home])
    assert bad.exit_code == 2 and "pseudonym" in bad.stderr
    nothing = CliRunner().invoke(main, ["erase", "--resume", "--json", *home])
    assert (nothing.exit_code, json.loads(nothing.stdout)) == (0, [])


def test_model_versions_hold_no_patient(small: Site, tmp_path: Path) -> None:
    """Bundles are priors of a population: erasing a patient has nothing to take out of them."""
    lines = [encode_line(event) for event in convert("atezolizumab", lesions())]
    subjects = sorted({json.loads(line)["subject"] for line in lines})[::30]
    events = tmp_path / "events.jsonl"
    events.write_bytes(b"".join(line + b"\n" for line in lines if json.loads(line)["subject"] in subjects))
    settings = small.settings.model_copy(update={"models": ["oncotwin.models.tumour_burden:TumourBurden"]})
    effort = Effort(rounds=1, sweeps=0, growth=Growth(n_trees=5, min_rows=20))
    found = calibrate_and_register(settings, read_items(settings, events, training=True), lambda *_: None, effort)
    assert found["n_twins"] >= 15
    kept = b"".join(path.read_bytes() for path in settings.home.rglob("*") if path.is_file())
    assert found["data_fingerprint"].encode() in kept
    ids = {json.loads(line)["id"] for line in events.read_bytes().splitlines()}
    assert [name for name in (*subjects, *ids) if f'"{name}"'.encode() in kept] == []
    assert [name for name in subjects if name.encode() in kept] == []
