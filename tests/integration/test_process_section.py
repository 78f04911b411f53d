"""From a claim check in the log to a twin: fetched, read, said as evidence once, whatever dies in between."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.integration.site import Site, SteppingClock, as_record, digests, replayed
from tests.unit.spatial.test_reference_cohort import drawn as drawn_cohort

from oncotwin.adapters.arrays.manifest import read_manifest
from oncotwin.adapters.event_log import open_event_log
from oncotwin.adapters.sql_store import open_twin_store
from oncotwin.bootstrap.settings import load_settings
from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.claim import manifest_hash
from oncotwin.domain.errors import FencedError
from oncotwin.filters.unscented import UnscentedFilter
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.spatial.reference_cohort import Cohort, make_cohort
from oncotwin.spatial.signature import Signature
from oncotwin.testing.patients import correction, diameter, event_line, treatment
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import bind
from oncotwin_flows.groups import Bounds
from oncotwin_flows.intake import Intake, IntakeRules
from oncotwin_flows.process_section import (
    SectionProcessor,
    SectionSettings,
    SectionTally,
    process_sections,
)
from oncotwin_flows.runtime import Sealed, quick_flows
from oncotwin_flows.section_readers import Findings, Reader
from oncotwin_flows.section_worker import load_cohorts, open_processor
from oncotwin_flows.worker import Worker, WorkerSettings

SOURCE = "urn:oncotwin:H1:spatial"
EVIDENCE = "urn:oncotwin:H1:signatures"
BOUNDS = Bounds(commit_events=4, poll_seconds=0.05)


def sig(name: str, value: float, low: float, high: float, unit: str = "1") -> Signature:
    return Signature(name, value, unit, low, high, "test")


def found_in(copy: Path) -> Findings:
    """Signatures of a stored section: a stand-in for the real reader that rests on the array's content."""
    share = float(zarr.open_group(copy, mode="r", use_consolidated=False)["share"][0])  # type: ignore[index,arg-type]
    area = share * 4e6
    return Findings(
        (
            sig("tumour.share", 0.5, 0.4, 0.6), sig("tumour.area", 4e6, 3e6, 5e6, "um2"),
            sig("stemness.hotspot_area", area, 0.7 * area, min(1.3 * area, 4e6), "um2"),
            sig("immune.share_inside", 0.02, 0.01, 0.04),
            # On the scales of the cohort of the tests, in the middle of it for a share of a fifth.
            *(
                sig(f"s{i:02d}", 40.0 * (share - 0.2) * scale, math.nan, math.nan)
                for i, scale in enumerate((10.0 ** np.linspace(-5, 3, 12)).tolist())
            ),
        ),
        30.0,
    )


class Reading:
    """A reader that counts, and breaks where it is told to."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, copy: Path, out: Path) -> Findings:
        self.n += 1
        found = found_in(copy)
        if found.signatures[2].value > 3.9e6:
            raise ZeroDivisionError("a bug in the signatures")
        return found


class Place:
    """A site with an array store and sections in it."""

    def __init__(self, folder: Path) -> None:
        self.arrays = folder / "arrays"
        self.arrays.mkdir(parents=True)
        self.scratch = folder / "scratch"
        url = f"embedded:{folder / 'log'}"
        log, store = open_event_log(url, "events", 3), open_twin_store(f"sqlite:///{folder / 'store.sqlite'}")
        binding = bind("1", ModelBundle({}), [TumourBurden()], UnscentedFilter(), DriftSettings())
        self.site = Site(log, store, binding, SteppingClock(), url, "events", [log])
        self.rules = IntakeRules(array_stores=(self.arrays.as_uri(),))
        self.reader = Reading()

    def close(self) -> None:
        self.site.store.close()
        self.site.log.close()

    def section(self, name: str, share: float) -> Path:
        folder = self.arrays / name
        group = zarr.open_group(folder, mode="w", zarr_format=3)
        group.create_array("share", data=np.array([share]))
        return folder

    def claim(self, folder: Path, event_id: str, day: float, *, patient: str = "H1/p1", kind: str = "omics.section",
              **more: Any) -> bytes:
        entries = read_manifest(folder)
        data: dict[str, Any] = {
            "section": folder.name, "specimen": "S1", "panel": "all", "platform": "Visium", "pixel_size_um": 0.5
        }
        if kind == "pathology.wsi":
            data = {"slide": folder.name, "specimen": "S1", "magnification": 40, "microns_per_pixel": 0.25,
                    "stain": "H&E"}
        said = {"dataref": folder.as_uri(), "datahash": manifest_hash(entries),
                "datasize": sum(one.n_bytes for one in entries)}
        return event_line(kind, event_id, day, data, patient=patient, source=SOURCE, **{**said, **more})

    def ingest(self, lines: list[bytes]) -> None:
        report = Intake(self.site.log, self.site.store, self.site.clock, self.rules).ingest(lines)
        assert not report.rejections, report.rejections

    def processor(self, name: str = "s1", reader: Reader | None = None, cohorts: Mapping[str, Cohort] | None = None,
                  on_step: Callable[[str], None] = lambda step: None) -> SectionProcessor:
        settings = SectionSettings(name, "events/sections", 1e6, self.rules, self.scratch)
        readers = dict.fromkeys(("omics.section", "pathology.wsi"), reader or self.reader)
        return SectionProcessor(
            self.site.log, self.site.store, self.site.clock, settings, readers, cohorts, on_step
        )

    def process(self, **how: Any) -> SectionTally:
        return self.processor(**how).run(BOUNDS)

    def work(self) -> None:
        plain = self.site.worker()
        worker = Worker(
            self.site.log, self.site.store, plain._host, self.site.clock,
            WorkerSettings("w1", "log", "1", 1e6, self.rules.clock_skew, self.rules.array_stores),
        )
        worker.run(BOUNDS)
        worker.release()

    def evidence(self, patient: str = "H1/p1") -> list[dict[str, Any]]:
        rows = self.site.store.journal(patient)
        return [json.loads(row.payload) for row in rows if row.kind == "spatial.evidence"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


COURSE = [diameter("d0", 0, 40.0), treatment("on", 1, "drugA", "on"), diameter("d1", 40, 36.0)]


def test_a_section_becomes_evidence_and_moves_the_twin(place: Place) -> None:
    place.ingest([*COURSE, place.claim(place.section("A", 0.25), "s1", 60)])
    place.work()
    before = digests(place.site)
    tally = place.process()
    assert (tally.n_sections, tally.n_evidence, tally.n_rejected) == (1, 2, 0)
    place.work()
    said = {one["data"]["observable"]: one for one in place.evidence()}
    assert set(said) == {"resistant_fraction", "immune_effect"}
    one = said["resistant_fraction"]
    assert one["data"]["value"] == 0.25 and one["data"]["derived_from"] == {"source": SOURCE, "id": "s1"}
    assert one["source"] == EVIDENCE and one["time"] == "2020-03-01T00:00:00Z" and "comparison" not in one["data"]
    assert digests(place.site) != before and digests(place.site) == replayed(place.site)
    rows = [row for row in place.site.store.estimates("H1/p1") if row.source == EVIDENCE]
    assert len(rows) == 1 and "resistant_fraction" in rows[0].body.decode()
    assert not list(place.scratch.iterdir())


def test_a_second_run_and_a_double_say_nothing_twice(place: Place) -> None:
    line = place.claim(place.section("A", 0.25), "s1", 60)
    place.ingest([*COURSE, line])
    assert place.process().n_evidence == 2
    # The first run has read its own evidence too.
    assert (place.process().n_read, place.reader.n) == (0, 1)
    place.site.log.append([as_record(line)])
    again = place.process()
    assert (again.n_duplicates, again.n_evidence, place.reader.n) == (1, 0, 1)
    place.work()
    assert len(place.evidence()) == 2


@pytest.mark.parametrize("step", ["fetched", "appended", "published"])
def test_a_run_that_dies_is_done_again_without_a_double(place: Place, step: str) -> None:
    class Killed(BaseException):
        pass

    def die(now: str) -> None:
        if now == step:
            raise Killed

    place.ingest([*COURSE, place.claim(place.section("A", 0.25), "s1", 60)])
    with pytest.raises(Killed):
        place.process(on_step=die)
    place.process()
    place.process()
    place.work()
    assert len(place.evidence()) == 2 and not place.site.store.dead_letters()
    assert digests(place.site) == replayed(place.site)


def test_hostile_and_broken_arrays_end_as_letters_and_the_rest_goes_on(place: Place) -> None:
    changed, huge, bug, good = (place.section(name, 0.99 if name == "bug" else 0.2) for name in
                                ("changed", "huge", "bug", "good"))
    lines = [place.claim(changed, "s-changed", 50)]
    (changed / "share" / "c" / "0").write_bytes(b"other bytes")
    header = json.loads((huge / "share" / "zarr.json").read_text())
    header["shape"], header["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 50], [1 << 50]
    (huge / "share" / "zarr.json").write_text(json.dumps(header))
    lines += [place.claim(huge, "s-huge", 51), place.claim(bug, "s-bug", 52)]
    gone = place.section("gone", 0.2)
    lines += [place.claim(gone, "s-gone", 53), place.claim(good, "s-good", 54)]
    shutil.rmtree(gone)
    place.ingest([*COURSE, *lines])
    tally = place.process()
    assert (tally.n_sections, tally.n_rejected) == (1, 4)
    letters = {letter.event_id: letter for letter in place.site.store.dead_letters()}
    assert set(letters) == {"s-changed", "s-huge", "s-bug", "s-gone"}
    assert letters["s-changed"].reason_code in ("hash_mismatch", "size_mismatch", "too_large")
    assert letters["s-bug"].reason_code == "signatures_failed" and "ZeroDivisionError" in letters["s-bug"].reason
    assert all(one.reason and one.raw and one.twin_id == "H1/p1" for one in letters.values())
    assert not list(place.scratch.iterdir())
    place.process()
    assert len(place.site.store.dead_letters()) == 4


def test_a_section_that_says_nothing_is_told(place: Place) -> None:
    place.ingest([place.claim(place.section("A", 0.2), "s1", 60)])
    tally = place.process(reader=lambda copy, out: Findings((), 1.0))
    [letter] = place.site.store.dead_letters()
    assert tally.n_rejected == 1 and letter.reason_code == "no_evidence" and "stemness" in letter.reason


def test_an_array_outside_of_the_stores_is_never_fetched(place: Place, tmp_path: Path) -> None:
    folder = place.section("A", 0.2)
    place.site.log.append([as_record(place.claim(folder, "s1", 60, dataref=f"file://{tmp_path}/else/A"))])
    tally = place.process()
    assert (tally.n_sections, tally.n_rejected, place.reader.n) == (0, 0, 0)
    place.work()
    [letter] = place.site.store.dead_letters()
    assert letter.reason_code == "dataref_not_allowed"


@pytest.mark.parametrize("first", ["section", "correction"])
def test_a_retracted_section_takes_its_evidence_with_it(place: Place, first: str) -> None:
    line = place.claim(place.section("A", 0.25), "s1", 60)
    gone = correction("c1", 200, "s1", "retract", source=SOURCE)
    place.ingest(COURSE)
    place.work()
    before = digests(place.site)
    for one in (line, gone) if first == "section" else (gone, line):
        place.ingest([one])
        place.work()
        place.process()
    place.process()
    place.work()
    assert len(place.evidence()) == 2
    found = replayed(place.site)
    assert digests(place.site) == found
    latest = place.site.store.latest_snapshots(["H1/p1"])["H1/p1"]
    assert latest.n_folded == 3 and set(found) == set(before)


def test_a_section_of_the_wrong_patient_moves_with_its_evidence(place: Place) -> None:
    place.ingest([*COURSE, place.claim(place.section("A", 0.25), "s1", 60)])
    place.process()
    place.work()
    place.ingest([correction("c1", 200, "s1", "wrong_patient", source=SOURCE, right_patient="H1/p2")])
    assert place.process().n_corrected == 1
    place.process()
    place.work()
    assert place.site.store.latest_snapshots(["H1/p1"])["H1/p1"].n_folded == 3
    assert place.site.store.latest_snapshots(["H1/p2"])["H1/p2"].n_folded == 2
    assert digests(place.site) == replayed(place.site)


def test_an_odd_section_is_compared_and_raises_an_alert(place: Place) -> None:
    names = [f"s{i:02d}" for i in range(12)]
    cohort = make_cohort("ours", drawn_cohort(40, np.random.default_rng(1)), names)
    place.ingest([
        *COURSE, place.claim(place.section("usual", 0.2), "s1", 60), place.claim(place.section("odd", 0.9), "s2", 70)
    ])
    tally = place.process(cohorts={"omics.section Visium": cohort})
    assert tally.n_sections == 2
    place.work()
    said = {(one["data"]["derived_from"]["id"], one["data"]["observable"]): one["data"] for one in place.evidence()}
    usual, odd = said["s1", "resistant_fraction"]["comparison"], said["s2", "resistant_fraction"]["comparison"]
    assert odd["distance"] > odd["limit"] and usual["distance"] <= usual["limit"]
    assert odd["cohort"] == "ours" and odd["unlike"] and odd["p"] <= 0.05
    warned = [row for row in place.site.store.alerts("H1/p1") if row.kind == "unlike"]
    assert {row.time.date().isoformat() for row in warned} == {"2020-03-11"}
    assert {row.observable for row in warned} == {"resistant_fraction", "immune_effect"}


def test_an_erased_patient_is_not_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.ingest([place.claim(place.section("A", 0.25), "s1", 60)])
    monkeypatch.setattr(type(place.site.store), "erased", lambda self, twin_ids: frozenset(twin_ids))
    assert (place.process().n_sections, place.reader.n) == (0, 0)


def test_two_workers_share_the_partitions(place: Place) -> None:
    lines = [
        place.claim(place.section(f"S{i}", 0.1 + 0.05 * i), f"s{i}", 60, patient=f"H1/p{i}") for i in range(6)
    ]
    place.ingest(lines)
    total = place.process(name="s1").n_sections + place.process(name="s2").n_sections
    assert total == 6 == place.reader.n


def test_a_partition_taken_over_in_between_is_told(place: Place) -> None:
    place.ingest([place.claim(place.section("A", 0.25), "s1", 60)])

    def steal(step: str) -> None:
        if step == "appended":
            place.site.clock.leap(2e6)
            other = place.site.store.acquire_leases("events/sections", "thief", range(3), 1e6, place.site.clock.now())
            assert other

    with pytest.raises(FencedError, match="taken over"):
        place.process(on_step=steal)


def test_the_flow_runs_under_prefect_with_the_stores_of_the_settings(tmp_path: Path) -> None:
    place = Place(tmp_path / "made")
    folder = place.section("A", 0.25)
    settings = load_settings(home=tmp_path / "home", arrays=[place.arrays.as_uri()])
    reader = Reading()
    with open_processor(settings, readers={"omics.section": reader}) as processor:
        Intake(processor._log, processor._store, place.site.clock, place.rules).ingest([place.claim(folder, "s1", 60)])
        with quick_flows():
            tally = process_sections(Sealed(processor), BOUNDS)
    assert (tally.n_sections, tally.n_evidence, reader.n) == (1, 2, 1)
    place.close()


def test_cohorts_are_read_from_a_folder(tmp_path: Path) -> None:
    names = [f"s{i:02d}" for i in range(12)]
    cohort = make_cohort("ours", drawn_cohort(30, np.random.default_rng(2)), names)
    (tmp_path / "a.json").write_text(json.dumps({"for": "omics.section Visium", **cohort.to_json()}))
    assert load_cohorts(tmp_path)["omics.section Visium"].to_json() == cohort.to_json()
