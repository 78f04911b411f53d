"""What becomes of an event: the item it turns into, or the reason why not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.unit.domain.example_events import NOW, example, line, policy

from oncotwin.domain.amendment import Accepted, Consent, Correction, Erasure, Rejection
from oncotwin.domain.events import encode_record, parse_event
from oncotwin.domain.header import is_later_status
from oncotwin.domain.observation import ArrayReference, Assessment, Observation
from oncotwin.domain.treatment import Plan, Treatment
from oncotwin.domain.validation import admit, validate

LESION = "lesion.measured"
LAB = "lab.result"


def judged(kind: str, **changes: Any) -> Accepted | Rejection:
    return admit(line(kind, **changes), (), policy())[1]


def rejected(kind: str, **changes: Any) -> Rejection:
    item = judged(kind, **changes)
    assert isinstance(item, Rejection), item
    return item


def observed(kind: str, **changes: Any) -> Observation:
    item = judged(kind, **changes)
    assert isinstance(item, Observation), item
    return item


@pytest.mark.parametrize(
    ("kind", "becomes"),
    [
        ("lab.result", Observation),
        ("lesion.measured", Observation),
        ("assessment", Assessment),
        ("treatment.administered", Treatment),
        ("treatment.planned", Plan),
        ("omics.section", ArrayReference),
        ("pathology.wsi", ArrayReference),
        ("imaging.study", ArrayReference),
        ("record.corrected", Correction),
        ("patient.erased", Erasure),
        ("consent.changed", Consent),
    ],
)
def test_each_example_of_the_document_is_accepted(kind: str, becomes: type) -> None:
    item = judged(kind)
    assert not isinstance(item, Rejection), item
    assert isinstance(item, becomes)
    assert item.header.kind == kind
    assert item.header.twin_id == example(kind)["subject"]


def test_the_wrong_unit_is_refused_with_the_way_out() -> None:
    item = rejected(LESION, id="4711", data={"unit": "cm3"})
    assert f"{item.reason}; {item.remedy}" == (
        "lesion.measured 4711: unit 'cm3' is not a length; send mm or cm, or use kind 'volume'"
    )
    assert (item.reason_code, item.where) == ("wrong_unit", "data.unit")


@pytest.mark.parametrize(
    ("kind", "changes", "code"),
    [
        (LESION, {"time": "2026-03-01T12:06:00Z"}, "future_time"),
        (LESION, {"time": "2026-03-03"}, "future_time"),
        (LESION, {"time": "1899-12-31"}, "implausible_time"),
        (LESION, {"recordedtime": "2026-03-02T12:00:00Z"}, "future_time"),
        (LESION, {"recordedtime": "1990-01-01T00:00:00Z"}, "recorded_before_time"),
        (LESION, {"subject": "POPLAR/1"}, "other_institution"),
        (LESION, {"subject": "FIR/.."}, "bad_subject"),
        (LESION, {"dataref": "s3://sections/x"}, "unexpected_dataref"),
        (LESION, {"data": {"value": -1.0}}, "negative_value"),
        (LESION, {"data": {"value": 501}}, "implausible_value"),
        (LESION, {"data": {"unit": ...}}, "wrong_unit"),
        (LESION, {"data": {"kind": "volume"}}, "wrong_unit"),
        (LESION, {"data": {"value": ...}}, "missing"),
        (LESION, {"data": {"not_evaluable": True}}, "contradiction"),
        (LESION, {"data": {"limit": -5.0}}, "bad_limit"),
        (LAB, {"data": {"code": "1-1"}}, "unknown_code"),
        (LAB, {"data": {"unit": "mg/dL"}}, "wrong_unit"),
        (LAB, {"data": {"unit": "{copies}/mL"}}, "wrong_unit"),
        (LAB, {"data": {"value": -0.1}}, "negative_value"),
        (LAB, {"data": {"value": 1e9}}, "implausible_value"),
        (LAB, {"data": {"value": 0, "censoring": "<"}}, "bad_limit"),
        (LAB, {"data": {"code": "718-7", "value": 9.1, "unit": "g/L"}}, "implausible_value"),
        ("assessment", {"data": {"value": "better"}}, "bad_grade"),
        ("treatment.administered", {"data": {"stop": "1990-01-01"}}, "stop_before_start"),
        ("treatment.administered", {"data": {"stop": "2030-01-01"}}, "future_time"),
        ("treatment.administered", {"data": {"unit": "mm"}}, "wrong_unit"),
        ("treatment.administered", {"data": {"unit": ...}}, "wrong_unit"),
        ("treatment.administered", {"data": {"dose": -1.0}}, "implausible_dose"),
        ("omics.section", {"dataref": "https://elsewhere/x.zarr"}, "dataref_not_allowed"),
        ("omics.section", {"dataref": "s3://sections/../secret"}, "dataref_not_allowed"),
        ("omics.section", {"dataref": "s3://sections/%2e%2e/secret"}, "dataref_not_allowed"),
        ("omics.section", {"dataref": "s3://sections-of-others/x"}, "dataref_not_allowed"),
        ("omics.section", {"dataref": "http://[x/"}, "dataref_not_allowed"),
        ("omics.section", {"dataref": ...}, "missing"),
        ("omics.section", {"datahash": ...}, "missing"),
        ("record.corrected", {"data": {"action": "retract"}}, "contradiction"),
        ("record.corrected", {"data": {"replacement": ...}}, "contradiction"),
    ],
)
def test_what_cannot_be_true_is_refused(kind: str, changes: dict[str, Any], code: str) -> None:
    item = rejected(kind, **changes)
    assert item.reason_code == code, item
    assert item.remedy
    assert item.raw == line(kind, **changes)
    assert item.key == (example(kind)["source"], example(kind)["id"])


def test_a_rejection_in_binary_mode_keeps_attributes_and_data() -> None:
    event = parse_event(line(LESION, data={"unit": "cm3"}))
    value, headers = encode_record(event)
    _, item = admit(value, headers, policy())
    assert isinstance(item, Rejection)
    mended = json.loads(item.raw)
    mended["data"]["unit"] = "mm"
    assert isinstance(admit(json.dumps(mended).encode(), (), policy())[1], Observation)


def test_a_missing_unit_is_called_missing() -> None:
    item = rejected(LESION, id="4711", data={"unit": ...})
    assert f"{item.reason}; {item.remedy}" == "lesion.measured 4711: longest_diameter has no unit; send mm or cm"


def test_bytes_that_are_no_event_keep_what_can_be_read_of_them() -> None:
    event, item = admit(line(LESION, colour="red"), (), policy())
    assert event is None
    assert isinstance(item, Rejection)
    assert item.twin_id == example(LESION)["subject"]
    assert item.key == (example(LESION)["source"], example(LESION)["id"])
    _, nothing = admit(b"\x00", (), policy())
    assert isinstance(nothing, Rejection)
    assert (nothing.key, nothing.twin_id, nothing.raw) == (None, None, b"\x00")


@pytest.mark.parametrize("spoilt", [b"NaN", b"1e999", b'"' + b"x" * 70_000 + b'"', b'1, "value": 2'])
def test_bytes_refused_as_they_stand_still_say_whose_they_are(spoilt: bytes) -> None:
    _, item = admit(line(LESION).replace(b'"value": 33', b'"value": ' + spoilt), (), policy())
    assert isinstance(item, Rejection)
    assert item.key == (example(LESION)["source"], example(LESION)["id"])
    assert item.twin_id == example(LESION)["subject"]
    assert item.reason.startswith(f"event {example(LESION)['id']}: ")


def test_a_name_that_cannot_be_stored_is_not_read_from_bad_bytes() -> None:
    _, item = admit(line(LESION, id="a\u0000b"), (), policy())
    assert isinstance(item, Rejection)
    assert (item.reason_code, item.key) == ("bad_character", None)


def test_a_subject_that_is_none_is_told_what_one_is() -> None:
    item = rejected(LESION, subject="FIR/a b")
    assert item.reason_code == "bad_subject"
    assert "<institution>/<patient>" in item.reason and "A-Z a-z 0-9" in item.remedy


def test_a_registered_source_speaks_for_its_institution_only() -> None:
    event = parse_event(line(LESION, source="urn:pacs-7"))
    assert isinstance(validate(event, policy()), Observation)
    assert isinstance(validate(event, policy(sources={"urn:pacs-7": "FIR"})), Observation)
    item = validate(event, policy(sources={"urn:pacs-7": "POPLAR"}))
    assert isinstance(item, Rejection)
    assert item.reason_code == "other_institution"


def test_a_day_may_begin_before_it_begins_in_utc_and_clocks_may_run_a_little_ahead() -> None:
    assert isinstance(judged(LESION, time="2026-03-02"), Observation)
    assert isinstance(judged(LESION, time="2026-03-01T12:05:00Z"), Observation)
    item = observed(LESION, time="1995-06-27")
    assert (item.header.time, item.header.time_precision) == (datetime(1995, 6, 27, tzinfo=UTC), "day")


@pytest.mark.parametrize(
    ("data", "censoring", "value", "limit"),
    [
        ({"value": 3.3, "unit": "cm"}, "none", 33.0, None),
        ({"value": 0}, "left", None, 2.0),
        ({"value": 0, "limit": 0.4, "unit": "cm"}, "left", None, 4.0),
        ({"value": 3, "limit": 5}, "left", None, 5.0),
        ({"value": ..., "unit": ..., "too_small": True}, "left", None, 5.0),
        ({"value": ..., "too_small": True, "limit": 4}, "left", None, 4.0),
        ({"value": 5, "too_small": True}, "left", None, 5.0),
        ({"value": ..., "unit": ..., "not_evaluable": True}, "not_evaluable", None, None),
        ({"kind": "volume", "value": 2, "unit": "cm3"}, "none", 2000.0, None),
        ({"kind": "volume", "value": 0, "unit": "mm3"}, "left", None, 10.0),
        ({"kind": "volume", "value": ..., "unit": ..., "too_small": True}, "left", None, 65.4498469),
    ],
)
def test_a_lesion_is_measured_or_censored(
    data: dict[str, Any], censoring: str, value: float | None, limit: float | None
) -> None:
    item = observed(LESION, data=data)
    assert (item.censoring, item.value, item.limit) == (censoring, value, limit)
    assert item.target == "target-1"


@pytest.mark.parametrize(
    ("data", "censoring", "value", "limit"),
    [
        ({"value": 9.7, "unit": "cm"}, "none", 97.0, None),
        ({"value": 0}, "left", None, 2.0),
        ({"value": 8, "limit": 10}, "left", None, 10.0),
        ({"value": ..., "unit": ..., "not_evaluable": True}, "not_evaluable", None, None),
    ],
)
def test_a_sum_is_of_the_patient(
    data: dict[str, Any], censoring: str, value: float | None, limit: float | None
) -> None:
    item = observed(LESION, data={"lesion": ..., "kind": "sum_of_longest_diameters", **data})
    assert (item.observable, item.target, item.unit) == ("sum_of_longest_diameters", "", "mm")
    assert (item.censoring, item.value, item.limit) == (censoring, value, limit)


@pytest.mark.parametrize(
    ("data", "code", "where"),
    [
        ({}, "contradiction", "data.lesion"),
        ({"lesion": ..., "too_small": True}, "contradiction", "data.too_small"),
        ({"lesion": ..., "unit": "cm3"}, "wrong_unit", "data.unit"),
        ({"lesion": ..., "value": 2600}, "implausible_value", "data.value"),
    ],
)
def test_what_is_said_of_one_lesion_is_not_said_of_a_sum(data: dict[str, Any], code: str, where: str) -> None:
    item = judged(LESION, data={"kind": "sum_of_longest_diameters", **data})
    assert isinstance(item, Rejection)
    assert (item.reason_code, item.where) == (code, where)
    assert "volume" not in item.remedy


@pytest.mark.parametrize(
    ("data", "observable", "unit", "censoring", "value", "limit"),
    [
        ({"value": 4.2}, "psa", "ng/mL", "none", 4.2, None),
        ({"value": 4.2, "unit": "ug/L"}, "psa", "ng/mL", "none", 4.2, None),
        ({"value": 0.1, "censoring": "<"}, "psa", "ng/mL", "left", None, 0.1),
        ({"value": 1000, "censoring": ">"}, "psa", "ng/mL", "right", None, 1000.0),
        ({"value": 0.05, "limit_of_detection": 0.1}, "psa", "ng/mL", "left", None, 0.1),
        ({"value": 0}, "psa", "ng/mL", "left", None, 0.02),
        ({"code": "2986-8", "value": 300, "unit": "ng/dL"}, "testosterone", "nmol/L", "none", 10.40115, None),
        ({"code": "2986-8", "value": 3, "unit": "ng/mL"}, "testosterone", "nmol/L", "none", 10.40115, None),
        ({"code": "81258-6", "value": 12, "unit": "%"}, "ctdna_allele_fraction", "1", "none", 0.12, None),
        ({"code": "2532-0", "value": 240, "unit": "U/L"}, "ldh", "U/L", "none", 240.0, None),
        ({"code": "751-8", "value": 0, "unit": "10*9/L"}, "neutrophils", "10*9/L", "none", 0.0, None),
        ({"code": "718-7", "value": 9.1, "unit": "g/dL"}, "haemoglobin", "g/L", "none", 91.0, None),
    ],
)
def test_a_laboratory_value_comes_in_its_canonical_unit(
    data: dict[str, Any], observable: str, unit: str, censoring: str, value: float | None, limit: float | None
) -> None:
    item = observed(LAB, data={"limit_of_detection": ..., **data})
    assert (item.observable, item.unit, item.censoring, item.limit) == (observable, unit, censoring, limit)
    assert item.value == (None if value is None else pytest.approx(value))


def test_doses_are_canonical_and_start_with_the_event() -> None:
    item = judged("treatment.administered", data={"dose": 1.2, "unit": "g", "start": ..., "stop": ...})
    assert isinstance(item, Treatment)
    assert (item.dose, item.unit, item.start, item.stop) == (1200.0, "mg", item.header.time, None)


def test_a_correction_brings_its_replacement_in_the_place_of_the_wrong_event() -> None:
    item = judged("record.corrected")
    assert isinstance(item, Correction)
    assert isinstance(item.replacement, Observation)
    assert item.replacement.header.key == item.supersedes
    assert item.replacement.header.time_precision == "day"
    assert item.replacement.header.status == "corrected"


def test_a_replacement_is_judged_like_an_event() -> None:
    data = example("record.corrected")["data"]["replacement"]
    data["data"]["unit"] = "kg"
    item = rejected("record.corrected", data={"replacement": data})
    assert (item.reason_code, item.where) == ("wrong_unit", "data.replacement.data.unit")


@pytest.mark.parametrize(("right", "code"), [("POPLAR/1", "other_institution"), ("FIR/-695", "contradiction")])
def test_a_patient_moves_within_the_institution_only(right: str, code: str) -> None:
    data = {"action": "wrong_patient", "replacement": ..., "right_patient": right}
    assert rejected("record.corrected", data=data).reason_code == code
    moved = judged("record.corrected", data={**data, "right_patient": "FIR/12"})
    assert isinstance(moved, Correction)
    assert moved.right_patient == "FIR/12"


def test_a_later_status_of_the_same_result_replaces_the_earlier_one() -> None:
    def header(**changes: Any) -> Any:
        return observed(LAB, **changes).header

    preliminary = header(id="a", status="preliminary", data={"result": "R1"})
    final = header(id="b", status="final", data={"result": "R1"})
    assert is_later_status(final, preliminary)
    assert not is_later_status(preliminary, final)
    assert not is_later_status(header(id="c", data={"result": "R2"}), preliminary)
    assert not is_later_status(header(id="d", data={"result": ...}), header(id="e", data={"result": ...}))


def test_the_skew_is_the_policys() -> None:
    event = parse_event(line(LESION, time=(NOW + timedelta(hours=1)).isoformat()))
    assert isinstance(validate(event, policy(clock_skew=timedelta(hours=2))), Observation)
