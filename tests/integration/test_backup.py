"""A backup is one moment of a store that goes on; restored to either database, the log leads to the same state."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from sqlalchemy import func, select, text
from tests.integration.backup_site import NOW, Site, assert_one_moment, cohort, messages, messages_of, rows

from oncotwin.adapters.sql_store import open_twin_store, schema
from oncotwin.adapters.sql_store.backup import MANIFEST, Manifest, TableFile, write_backup
from oncotwin.adapters.sql_store.database import open_engine
from oncotwin.adapters.sql_store.migrate import HEAD
from oncotwin.adapters.sql_store.restore import AHEAD, read_manifest, restore_backup
from oncotwin.bootstrap import wiring
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import FencedError, StoreError
from oncotwin.ports.twin_rows import CommitGroup
from oncotwin_flows.backup import back_up, restore
from oncotwin_services.cli import main


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    store = "" if request.param == "sqlite" else request.getfixturevalue("postgres_database")
    return Site(Settings(home=tmp_path / "home", ray="in-process", store=store))


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database to restore to."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'restored.sqlite'}"
    else:
        with request.getfixturevalue("postgres_server").database() as url:
            yield url


def test_commits_go_on_during_a_backup_and_are_not_in_it(site: Site, tmp_path: Path) -> None:
    site.append(cohort(0, 8))
    site.work(20)
    done: list[int] = []

    def bar(description: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
        def advance(n: int) -> None:
            if not done:
                # The backup's transaction has begun: another connection commits all the rest.
                site.work()
                done.append(n)

        return nullcontext(advance)

    manifest = write_backup(site.settings.store_url, tmp_path / "b", "1", NOW, bar)
    assert done and read_manifest(tmp_path / "b") == manifest
    assert_one_moment(tmp_path / "b", manifest)
    assert len(rows(tmp_path / "b", "journal")) == 20
    assert len(site.journal()) == 45


def test_backups_beside_a_busy_worker_are_each_of_one_moment(site: Site, tmp_path: Path) -> None:
    site.append(cohort(0, 40))
    worker = threading.Thread(target=site.work, kwargs={"commit_events": 3})
    worker.start()
    taken: list[tuple[Path, Manifest]] = []
    while worker.is_alive():
        folder = tmp_path / f"b{len(taken)}"
        taken.append((folder, write_backup(site.settings.store_url, folder, "1", NOW)))
    worker.join()
    for folder, manifest in taken:
        assert_one_moment(folder, manifest)
    assert len({manifest.position for _, manifest in taken}) > 1


def test_a_restored_store_goes_on_to_the_same_state(site: Site, empty: str, tmp_path: Path) -> None:
    site.append(cohort(0, 4))
    site.work()
    with site.store() as store:
        held = store.acquire_leases(wiring.log_name(site.settings), "old", range(8), 1e6, NOW)
    written = back_up(site.settings, tmp_path / "b")
    site.append(cohort(4, 9))
    site.work()
    again = Site(site.settings.model_copy(update={"store": empty}))
    told = restore(again.settings, tmp_path / "b")
    assert (told["rows"], told["position"]) == (written["rows"], written["position"])
    assert (told["events_to_replay"], told["attention"]) == (27, [])
    # In other groups than before, as when it begins with a backlog.
    again.work(commit_events=1_000)
    assert again.digests() == site.digests() != {}
    assert again.journal() == site.journal()
    # Whoever has seen the messages of the first time drops none of these.
    assert not (messages(site.settings.store_url) & messages(empty)) - messages_of(tmp_path / "b")
    with again.store() as store, pytest.raises(FencedError):
        # A worker of the store as it was, whose leases have not run out.
        store.commit(CommitGroup(wiring.log_name(site.settings), {0: 99}, {0: held[0]}, (), NOW))
    with site.store() as old, again.store() as new:
        assert new.offsets(wiring.log_name(site.settings)) == old.offsets(wiring.log_name(site.settings))
        # Running numbers go on after the restored ones, so nothing collides.
        assert new.counts()["commits"] >= written["position"]


def test_every_row_of_every_table_comes_back(site: Site, empty: str, tmp_path: Path) -> None:
    site.append([*cohort(0, 5), b'{"not": "an event"}'.replace(b"not", b"subject")])
    site.work()
    first = write_backup(site.settings.store_url, tmp_path / "b", "1", NOW)
    restore_backup(empty, tmp_path / "b")
    second = write_backup(empty, tmp_path / "again", "1", NOW)
    for table in first.tables:
        before, after = rows(tmp_path / "b", table.name), rows(tmp_path / "again", table.name)
        if table.name in ("workers", "lag_watch"):
            assert after == []
        elif table.name == "leases":
            assert {row["epoch"] for row in after} == {row["epoch"] + AHEAD for row in before}
            assert {row["worker"] for row in after} == {""}
        elif table.name == "twins":
            raised = [{**row, "version": row["version"] + AHEAD} for row in before]
            assert sorted(map(repr, after)) == sorted(map(repr, raised)) != []
        else:
            assert sorted(map(repr, after)) == sorted(map(repr, before))
    assert second.n_rows > 50


def test_numbers_that_json_has_no_word_for(empty: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'odd.sqlite'}"
    open_twin_store(url).close()
    engine = open_engine(url)
    values = [float("inf"), float("-inf"), 5e-324, 0.1, None]
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        connection.execute(
            schema.estimates.insert(),
            [
                {"twin_id": "H1/é\u200d", "time": -(1 << 62) + n, "position": 1, "row": n, "source": "", "event_id": "",
                 "model_version": "1", "body": bytes(range(256)), "nis": value}
                for n, value in enumerate(values)
            ],
        )
    engine.dispose()
    write_backup(url, tmp_path / "b", "1", NOW)
    restore_backup(empty, tmp_path / "b")
    engine = open_engine(empty)
    with engine.connect() as connection, connection.begin():
        table = schema.estimates
        found = connection.execute(select(table).order_by(table.c.row)).all()
    engine.dispose()
    assert [repr(row.nis) for row in found] == [repr(value) for value in values]
    assert {(row.twin_id, row.body) for row in found} == {("H1/é\u200d", bytes(range(256)))}


def _small(tmp_path: Path) -> tuple[Site, Path]:
    site = Site(Settings(home=tmp_path / "home", ray="in-process"))
    site.append(cohort(0, 4))
    site.work()
    write_backup(site.settings.store_url, tmp_path / "b", "1", NOW)
    return site, tmp_path / "b"


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    _, folder = _small(tmp_path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["b", "home"]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda b: (b / MANIFEST).unlink(), "is no backup"),
    "half a manifest": (lambda b: (b / MANIFEST).write_bytes((b / MANIFEST).read_bytes()[:200]), "damaged"),
    "manifest changed": (lambda b: _rewrite(b, lambda m: m.update(position=0)), "digest does not fit"),
    "another program's": (lambda b: (b / MANIFEST).write_text('{"kind": "other"}'), "no manifest of a backup"),
    "later layout": (lambda b: _rewrite(b, lambda m: m.update(format=2)), "format 2"),
    "a file gone": (lambda b: (b / "journal.ndjson.zst").unlink(), "journal.ndjson.zst cannot be read"),
    "a file cut": (lambda b: os.truncate(b / "journal.ndjson.zst", 100), "has other content"),
    "a bit flipped": (lambda b: _flip(b / "snapshots.ndjson.zst"), "has other content"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_torn_or_changed_folder_is_refused(damage: str, tmp_path: Path) -> None:
    _, folder = _small(tmp_path)
    act, words = DAMAGES[damage]
    act(folder)
    target = tmp_path / "target.sqlite"
    with pytest.raises(StoreError, match=words):
        restore_backup(f"sqlite:///{target}", folder)
    assert not target.exists()


def write_by_hand(
    folder: Path, revision: str, tables: dict[str, tuple[list[tuple[str, str]], list[list[Any]]]], n_more: int = 0
) -> None:
    """A backup as another release, or another program, would write it."""
    folder.mkdir()
    files = []
    for name, (columns, values) in tables.items():
        path = folder / f"{name}.ndjson.zst"
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(b"".join(json.dumps(row).encode() + b"\n" for row in values))
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        files.append(TableFile(name, tuple(columns), len(values) + n_more, len(data), sha256))
    manifest = Manifest("9.9", revision, NOW, 0, {}, (), tuple(files))
    (folder / MANIFEST).write_bytes(manifest.to_json())


SOURCES = [("source", "text"), ("institution", "text")]
FOREIGN: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "later schema": ("9999", {"sources": (SOURCES, [])}, 0, "use the release|release 9.9"),
    "unknown table": (HEAD, {"stars": (SOURCES, [])}, 0, "has no table stars"),
    "other columns": (HEAD, {"sources": (SOURCES[:1], [])}, 0, "other columns"),
    "wrong kind": (HEAD, {"sources": (SOURCES, [["urn:a", 1]])}, 0, "sources.ndjson.zst, row 1: a value is no text"),
    "short row": (HEAD, {"sources": (SOURCES, [["a", "b"], ["c"]])}, 0, "row 2: not 2 values"),
    "rows missing": (HEAD, {"sources": (SOURCES, [["a", "b"]])}, 1, "has 1 rows, its manifest says 2"),
    "a null too many": (HEAD, {"sources": (SOURCES, [["a", None]])}, 0, "nothing was written"),
    "a key twice": (HEAD, {"sources": (SOURCES, [["a", "b"], ["a", "c"]])}, 0, "nothing was written"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_folder_with_fitting_hashes_and_foreign_content_is_refused(case: str, empty: str, tmp_path: Path) -> None:
    revision, tables, n_more, words = FOREIGN[case]
    write_by_hand(tmp_path / "b", revision, tables, n_more)
    with pytest.raises(StoreError, match=words):
        restore_backup(empty, tmp_path / "b")
    with closing(open_twin_store(empty)) as store:
        assert set(store.counts().values()) == {0}
        assert store.sources() == {}


def test_a_store_with_rows_is_not_restored_to(tmp_path: Path) -> None:
    site, folder = _small(tmp_path)
    before = site.journal()
    with pytest.raises(StoreError, match=r"is not empty: table .* restore to a new file or database"):
        restore_backup(site.settings.store_url, folder)
    assert site.journal() == before


def test_a_backup_of_an_earlier_schema_is_brought_to_this_one(empty: str, tmp_path: Path) -> None:
    names = [("source", "text"), ("event_id", "text"), ("twin_id", "text"), ("kind", "text"), ("time", "integer"),
             ("time_precision", "text"), ("recorded_at", "integer"), ("received_at", "integer"), ("status", "text"),
             ("content_hash", "text"), ("payload", "bytes"), ("position", "integer"), ("log_partition", "integer"),
             ("log_offset", "integer")]
    row = ["urn:lab", "e1", "north/p", "lab.result", 5, "instant", None, 6, "final", "h",
           "eyJpZCI6ICJlMSIsICJzZXF1ZW5jZSI6IDR9", 1, 3, 7]
    twin = [("ordinal", "integer"), ("twin_id", "text"), ("version", "integer"), ("model_version", "text"),
            ("last_time", "integer")]
    write_by_hand(
        tmp_path / "b", "0001", {"journal": (names, [row]), "twins": (twin, [[4, "north/p", 1, "1", 5]])}
    )
    # An empty store of this release is made anew in the earlier schema, then migrated as any store is.
    open_twin_store(empty).close()
    restore_backup(empty, tmp_path / "b")
    with closing(open_twin_store(empty)) as store:
        assert store.schema_version == HEAD
        [found] = store.journal("north/p")
        assert (found.sequence, found.payload, found.offset) == (4, b'{"id": "e1", "sequence": 4}', 7)
        assert store.register_twins(["north/q"]) == {"north/q": 4}


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    site, _ = _small(tmp_path)

    def bar(description: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
        def advance(n: int) -> None:
            raise OSError(28, "No space left on device")

        return nullcontext(advance)

    with pytest.raises(StoreError, match=r"cannot be written: .*No space left"):
        write_backup(site.settings.store_url, tmp_path / "c", "1", NOW, bar)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "home"]


def test_what_cannot_be_backed_up_says_so(tmp_path: Path) -> None:
    site, folder = _small(tmp_path)
    with pytest.raises(StoreError, match="is there already"):
        write_backup(site.settings.store_url, folder, "1", NOW)
    with pytest.raises(StoreError, match="is not there"):
        write_backup(f"sqlite:///{tmp_path / 'none.sqlite'}", tmp_path / "c", "1", NOW)
    engine = open_engine(site.settings.store_url)
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    engine.dispose()
    with pytest.raises(StoreError, match="has schema 0001"):
        write_backup(site.settings.store_url, tmp_path / "c", "1", NOW)
    assert not (tmp_path / "c").exists()


def test_a_log_or_keys_that_do_not_fit_are_told(tmp_path: Path) -> None:
    site, folder = _small(tmp_path)
    told = restore(Settings(home=tmp_path / "elsewhere", ray="in-process"), folder)
    assert "is read from its beginning" in told["attention"][0]
    assert "was sealed under another key store" in told["attention"][1]
    fresh = site.settings.model_copy(update={"store": f"sqlite:///{tmp_path / 'fresh.sqlite'}"})
    shutil.rmtree(tmp_path / "home" / "log")
    told = restore(fresh, folder)
    assert told["events_to_replay"] is None
    [attention] = told["attention"]
    assert "the log ends before the backup" in attention


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, _ = _small(tmp_path)
    monkeypatch.setenv("ONCOTWIN_RAY", "in-process")
    home = ["--home", str(site.settings.home), "--json"]
    done = CliRunner().invoke(main, ["backup", str(tmp_path / "c"), *home])
    assert done.exit_code == 0, done.output + done.stderr
    assert json.loads(done.stdout)["rows"] == read_manifest(tmp_path / "c").n_rows
    refused = CliRunner().invoke(main, ["restore", str(tmp_path / "c"), *home])
    assert refused.exit_code == 2 and "is not empty" in refused.stderr
    store = f"sqlite:///{tmp_path / 'new.sqlite'}"
    done = CliRunner().invoke(main, ["restore", str(tmp_path / "c"), *home, "--store", store])
    assert done.exit_code == 0, done.output + done.stderr
    assert "oncotwin work" in json.loads(done.stdout)["next"]
    engine = open_engine(store)
    with engine.connect() as connection, connection.begin():
        assert connection.scalar(select(func.count()).select_from(schema.journal)) == len(site.journal())
    engine.dispose()
