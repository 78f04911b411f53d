"""Events read strictly and written canonically."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from tests.unit.domain.example_events import example, line

from oncotwin.domain.errors import EventError
from oncotwin.domain.events import (
    as_structured,
    content_hash,
    decode_record,
    encode_line,
    encode_record,
    parse_event,
)
from oncotwin.domain.payloads import PAYLOADS, LabResult, LesionMeasured

LESION = "lesion.measured"


@pytest.mark.parametrize("kind", PAYLOADS)
def test_every_kind_survives_both_modes(kind: str) -> None:
    event = parse_event(line(kind))
    assert parse_event(encode_line(event)) == event
    assert decode_record(*encode_record(event)) == event
    assert encode_line(parse_event(encode_line(event))) == encode_line(event)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "empty_value"),
        (b" \n", "empty_value"),
        (b"[]", "not_an_object"),
        (b"\xff", "not_utf8"),
        (b"\xef\xbb\xbf{}", "not_json"),
        (b"{} {}", "not_json"),
        (b'{"a": 1, "a": 1}', "duplicate_key"),
        (b'{"a": NaN}', "not_finite"),
        (b'{"a": -Infinity}', "not_finite"),
        (b'{"a": 1e999}', "not_finite"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not_json"),
        (b"[" * 30_000, "too_deep"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "too_deep"),
        (b'{"a": "' + b"x" * 70_000 + b'"}', "too_large"),
        (b'{"a": "\x07"}', "not_json"),
        (b'{"a": "\\u0007"}', "bad_character"),
        (b'{"a": "\\ud800"}', "bad_character"),
        ('{"a": "\u202e"}'.encode(), "bad_character"),
        ('{"a": "e\u0301"}'.encode(), "not_nfc"),
        (b'{"\\u0000": 1}', "bad_character"),
    ],
)
def test_hostile_bytes_are_refused_with_a_reason(raw: bytes, code: str) -> None:
    with pytest.raises(EventError) as caught:
        parse_event(raw)
    assert caught.value.reason_code == code


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b'{"data": {"value": NaN}}', "data.value"),
        (b'{"data": {"items": [1, {"dose": -Infinity}]}}', "data.items[1].dose"),
        (b'{"data": {"spacing_mm": [1, 1e999]}}', "data.spacing_mm[1]"),
        (b"NaN", ""),
    ],
)
def test_a_number_that_is_not_finite_is_found(raw: bytes, where: str) -> None:
    with pytest.raises(EventError) as caught:
        parse_event(raw)
    assert (caught.value.reason_code, caught.value.where) == ("not_finite", where)


def test_a_byte_order_mark_is_named() -> None:
    with pytest.raises(EventError, match="byte order mark"):
        parse_event(b"\xef\xbb\xbf{}")


@pytest.mark.parametrize(
    ("changes", "code", "where"),
    [
        ({"type": "org.oncotwin.lesion.dreamt.v1"}, "unknown_kind", "type"),
        ({"type": "org.oncotwin.lesion.measured.v9"}, "unknown_schema_version", "type"),
        ({"dataschema": "urn:oncotwin:schema:lesion.measured:v2"}, "bad_shape", "dataschema"),
        ({"specversion": "0.3"}, "bad_shape", "specversion"),
        ({"subject": "FIR/../etc"}, "bad_subject", "subject"),
        ({"subject": ...}, "missing", "subject"),
        ({"time": "27.6.1995"}, "bad_shape", "time"),
        ({"time": "1995-06-27T08:00:00"}, "bad_shape", "time"),
        ({"time": "1995-06-31"}, "bad_shape", "time"),
        ({"time": "1995-06-27", "timeprecision": "instant"}, "bad_shape", "time"),
        ({"colour": "red"}, "unknown_attribute", "colour"),
        ({"status": "guessed"}, "bad_shape", "status"),
        ({"sequence": -1}, "bad_shape", "sequence"),
        ({"traceparent": "00-1-2-3"}, "bad_shape", "traceparent"),
        ({"datacontenttype": "text/xml"}, "wrong_content_type", "datacontenttype"),
        ({"data": ...}, "missing", "data"),
        ({"data": {"value": "33"}}, "bad_shape", "data.value"),
        ({"data": {"value": True}}, "bad_shape", "data.value"),
        ({"data": {"colour": "red"}}, "unknown_attribute", "data.colour"),
        ({"data": {"lesion": ...}}, "missing", "data.lesion"),
    ],
)
def test_a_wrong_attribute_is_named(changes: dict[str, Any], code: str, where: str) -> None:
    with pytest.raises(EventError) as caught:
        parse_event(line(LESION, **changes))
    assert (caught.value.reason_code, caught.value.where) == (code, where)


def test_a_date_is_kept_as_a_day_and_the_day_is_the_one_written() -> None:
    by_date = parse_event(line(LESION, time="1995-06-27"))
    late_evening = parse_event(line(LESION, time="1995-06-27T23:30:00-05:00", timeprecision="day"))
    assert by_date.timeprecision == "day"
    assert by_date.time == late_evening.time
    assert content_hash(by_date) == content_hash(late_evening)


def test_the_zone_of_an_instant_does_not_matter() -> None:
    here = parse_event(line(LESION, time="1995-06-27T10:30:00+02:00"))
    there = parse_event(line(LESION, time="1995-06-27T08:30:00.000Z"))
    assert content_hash(here) == content_hash(there)


def test_the_hash_leaves_out_transport_and_defaults_but_not_content() -> None:
    event = parse_event(line(LESION))
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    same = parse_event(
        line(LESION, traceparent=trace, sequence="9", status="final", datacontenttype="application/json")
    )
    other = parse_event(line(LESION, status="preliminary"))
    assert content_hash(same) == content_hash(event)
    assert content_hash(other) != content_hash(event)


def test_the_hash_of_a_stored_event_never_changes() -> None:
    raw = (
        b'{"specversion":"1.0","id":"4711","source":"urn:oncotwin:FIR:lesions","subject":"FIR/-695",'
        b'"type":"org.oncotwin.lesion.measured.v1","time":"2000-01-03",'
        b'"data":{"lesion":"target-1","kind":"longest_diameter","value":33.0,"unit":"mm"}}'
    )
    event = parse_event(raw)
    assert encode_line(event) == (
        b'{"data":{"kind":"longest_diameter","lesion":"target-1","unit":"mm","value":33},"id":"4711",'
        b'"source":"urn:oncotwin:FIR:lesions","specversion":"1.0","subject":"FIR/-695",'
        b'"time":"2000-01-03T00:00:00Z","timeprecision":"day","type":"org.oncotwin.lesion.measured.v1"}'
    )
    assert content_hash(event) == "af10f9dc606e18e04be8ed3cf36f0476b52bc797459721f88a25ff8e90ae79b9"


def test_an_older_schema_version_is_upcast_and_is_then_the_same_event() -> None:
    old = example(LESION, type="org.oncotwin.lesion.measured.v0")
    old["data"] = {"lesion_id": "target-1", "diameter_mm": 33.5, "modality": "CT"}
    new = example(LESION, data={"value": 33.5, "tissue": ..., "result": ...})
    event = parse_event(json.dumps(old).encode())
    assert isinstance(event.data, LesionMeasured)
    assert content_hash(event) == content_hash(parse_event(json.dumps(new).encode()))


def test_an_older_laboratory_result_is_upcast() -> None:
    old = example("lab.result", type="org.oncotwin.lab.result.v0")
    old["data"] = {"loinc": "2857-1", "value": 0.1, "unit": "ng/mL", "below_limit": True}
    event = parse_event(json.dumps(old).encode())
    assert event.data == LabResult(code="2857-1", value=0.1, unit="ng/mL", censoring="<")


def test_an_older_payload_must_still_be_right() -> None:
    old = example(LESION, type="org.oncotwin.lesion.measured.v0", data={"diameter_mm": 3})
    with pytest.raises(EventError) as caught:
        parse_event(json.dumps(old).encode())
    assert caught.value.reason_code == "unknown_attribute"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([("ce_id", b"1"), ("ce_id", b"2")], "duplicate_key"),
        ([("ce_data", b"{}")], "duplicate_key"),
        ([("ce_id", b"\xff")], "not_utf8"),
        ([("ce_id", b"\x00")], "bad_character"),
        ([("ce_id", b"1"), ("content-type", b"text/plain")], "wrong_content_type"),
        ([("ce_id", b"1" * 70_000)], "too_large"),
        ([("ce_id", b"1")], "unknown_kind"),
    ],
)
def test_bad_headers_are_refused(headers: list[tuple[str, bytes]], code: str) -> None:
    with pytest.raises(EventError) as caught:
        decode_record(b"{}", headers)
    assert caught.value.reason_code == code


@pytest.mark.parametrize("value", [None, b""])
def test_an_empty_record_is_refused(value: bytes | None) -> None:
    with pytest.raises(EventError) as caught:
        decode_record(value, [("ce_id", b"1")])
    assert caught.value.reason_code == "empty_value"


def test_a_record_in_binary_mode_is_kept_whole() -> None:
    event = parse_event(line(LESION))
    value, headers = encode_record(event)
    assert parse_event(as_structured(value, headers)) == event
    damaged = json.loads(as_structured(b"{oops", headers))
    assert damaged["id"] == event.id
    assert damaged["data_base64"] == "e29vcHM="
    assert as_structured(b"anything", ()) == b"anything"


def test_a_record_in_binary_mode_is_kept_whatever_numbers_it_holds() -> None:
    value, headers = encode_record(parse_event(line(LESION)))
    broken = value.replace(b'"target-1"', b'-9223372036854775808')
    assert broken != value
    with pytest.raises(EventError):
        decode_record(broken, headers)
    kept = json.loads(as_structured(broken, headers))
    assert "data" not in kept and base64.b64decode(kept["data_base64"]) == broken


def test_there_is_one_zero() -> None:
    given = line("lab.result", data={"value": -0.0})
    assert b"-0.0" in given
    data = parse_event(given).data
    assert isinstance(data, LabResult) and repr(data.value) == "0.0"
