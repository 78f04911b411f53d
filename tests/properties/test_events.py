"""What holds for every event, however odd: reading back, one canonical form, and no crash."""

from __future__ import annotations

import json
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.domain.example_events import examples

from oncotwin.domain.amendment import Rejection
from oncotwin.domain.canonical import canonical_model
from oncotwin.domain.envelope import Event
from oncotwin.domain.errors import EventError
from oncotwin.domain.events import content_hash, decode_record, encode_line, encode_record, parse_event
from oncotwin.domain.policy import Policy
from oncotwin.domain.strict_json import loads
from oncotwin.domain.validation import admit, validate

POLICY = Policy(datetime(2026, 1, 1, tzinfo=UTC))

letters = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp"), exclude_characters="\u0340\u0341"),
    min_size=1,
    max_size=12,
).map(lambda text: unicodedata.normalize("NFC", text))
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53) + 1, 2**53 - 1)
names = st.text("abcXYZ019._-", min_size=3, max_size=12)
moments = st.integers(-(10**15), 10**15).map(lambda n: datetime(1999, 1, 1, tzinfo=UTC) + timedelta(microseconds=n))
payloads = st.fixed_dictionaries(
    {"lesion": letters, "kind": st.sampled_from(["longest_diameter", "volume"])},
    optional={
        "value": numbers,
        "unit": st.sampled_from(["mm", "cm", "mm3", "mL", "kg"]) | letters,
        "too_small": st.booleans(),
        "not_evaluable": st.booleans(),
        "limit": numbers,
        "tissue": letters,
    },
)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """JSON objects of the right shape and any content."""
    content: dict[str, Any] = {
        "specversion": "1.0",
        "id": draw(letters),
        "source": "urn:test",
        "type": "org.oncotwin.lesion.measured.v1",
        "subject": f"{draw(names)}/{draw(names)}",
        "time": draw(moments).isoformat(),
        "data": draw(payloads),
    }
    if draw(st.booleans()):
        content["sequence"] = draw(st.integers(0, 2**53 - 1))
        content["timeprecision"] = "day"
    return content


def read(content: dict[str, Any]) -> Event:
    return parse_event(json.dumps(content, ensure_ascii=False).encode())


@given(events())
def test_an_event_is_read_back_in_both_modes(content: dict[str, Any]) -> None:
    event = read(content)
    assert parse_event(encode_line(event)) == event
    assert decode_record(*encode_record(event)) == event


@given(events())
def test_the_canonical_form_is_that_of_rfc_8785(content: dict[str, Any]) -> None:
    event = read(content)
    assert encode_line(event) == rfc8785.dumps(event.model_dump(exclude_defaults=True))
    assert canonical_model(event.data) == rfc8785.dumps(event.data.model_dump(exclude_defaults=True))


@given(events(), st.integers(-14 * 60, 14 * 60), st.randoms())
def test_order_of_keys_zone_and_spelled_out_defaults_do_not_change_the_hash(
    content: dict[str, Any], minutes: int, shuffler: Any
) -> None:
    keys = list(content)
    shuffler.shuffle(keys)
    other = {key: content[key] for key in keys} | {"status": "final", "recordedtime": None}
    if "timeprecision" not in content:
        zone = timezone(timedelta(minutes=minutes))
        other |= {"time": datetime.fromisoformat(content["time"]).astimezone(zone).isoformat()}
    assert content_hash(read(other)) == content_hash(read(content))


@given(events(), events())
def test_different_content_has_a_different_hash(one: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = read(one), read(other)
    same = a.model_copy(update={"sequence": None}) == b.model_copy(update={"sequence": None})
    assert (content_hash(a) == content_hash(b)) == same


@given(events())
def test_every_event_is_accepted_or_rejected_with_a_way_out(content: dict[str, Any]) -> None:
    item = validate(read(content), POLICY)
    if isinstance(item, Rejection):
        assert item.reason_code
        assert item.remedy
        assert parse_event(item.raw) == read(content)
    else:
        assert item.header.key == (content["source"], content["id"])


@settings(max_examples=300)
@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_arbitrary_bytes_never_crash(raw: bytes) -> None:
    event, item = admit(raw, (), POLICY)
    assert event is None
    assert isinstance(item, Rejection)
    assert item.raw == raw


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


ATTRIBUTES = ["id", "source", "type", "subject", "time", "data", "status", "sequence"]


@given(events(), st.sampled_from(ATTRIBUTES), json_values)
def test_an_attribute_of_any_other_json_never_crashes(content: dict[str, Any], name: str, value: Any) -> None:
    admit(json.dumps(content | {name: value}).encode("utf-8", "surrogatepass"), (), POLICY)


@given(payloads, st.sampled_from(["lesion", "kind", "value", "limit"]), json_values)
def test_a_payload_of_any_other_json_never_crashes(payload: dict[str, Any], name: str, value: Any) -> None:
    content = {
        "specversion": "1.0", "id": "1", "source": "urn:test", "type": "org.oncotwin.lesion.measured.v1",
        "subject": "a/b", "time": "2000-01-01", "data": payload | {name: value},
    }  # fmt: skip
    admit(json.dumps(content).encode("utf-8", "surrogatepass"), (), POLICY)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a JSON value."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [deeper for key, item in inside for deeper in [(*path, key), *places(item, (*path, key))]]


@settings(max_examples=300)
@given(st.sampled_from(sorted(examples())), st.data(), json_values)
def test_an_example_damaged_anywhere_never_crashes(kind: str, data: st.DataObject, value: Any) -> None:
    content = examples()[kind]
    *path, last = data.draw(st.sampled_from(places(content)))
    inner = content
    for key in path:
        inner = inner[key]
    inner[last] = value
    admit(json.dumps(content).encode("utf-8", "surrogatepass"), (), POLICY)


@given(st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=8)), max_size=5), st.binary(max_size=40))
def test_arbitrary_headers_never_crash(headers: list[tuple[str, bytes]], value: bytes) -> None:
    _, item = admit(value, [(f"ce_{name}", text) for name, text in headers], POLICY)
    assert isinstance(item, Rejection)


@given(st.lists(letters, min_size=1, max_size=4, unique=True), st.data())
def test_a_repeated_key_is_always_found(keys: list[str], data: st.DataObject) -> None:
    again = data.draw(st.sampled_from(keys))
    pairs = [f"{json.dumps(key)}: 1" for key in [*keys, again]]
    raw = ("{" + ", ".join(pairs) + "}").encode()
    with pytest.raises(EventError) as caught:
        loads(raw)
    assert caught.value.reason_code == "duplicate_key"
