"""Events to bytes and back: one JSON line (structured mode), or Kafka's binary mode with `ce_*` headers."""

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from oncotwin.domain import canonical, strict_json
from oncotwin.domain.envelope import Event
from oncotwin.domain.errors import EventError
from oncotwin.domain.ids import PSEUDONYMS
from oncotwin.domain.payloads import read_payload
from oncotwin.domain.upcast import upcast

__all__ = [
    "Event",
    "Headers",
    "as_structured",
    "content_hash",
    "content_hash_of_line",
    "decode_record",
    "encode_line",
    "encode_record",
    "event_from",
    "parse_event",
]

Headers = Iterable[tuple[str, bytes]]
"""Record headers as Kafka has them: names may repeat, values are bytes."""

_PREFIX = "ce_"
_JSON = "application/json"
_STRUCTURED = "application/cloudevents+json"
_TRANSPORT = frozenset({"traceparent", "sequence", "dataschema"})
_INTEGERS = ("sequence", "datasize")

_REMEDIES = {
    "missing": ("missing", "send it"),
    "extra_forbidden": ("unknown_attribute", "leave it out, or put it where the schema has it"),
    "finite_number": ("not_finite", "send a finite number, or no value"),
}


def parse_event(raw: bytes) -> Event:
    """Read one event in structured mode: one JSON object, white space around it allowed.

    Raises:
        EventError: see `strict_json.loads` and `event_from`.
    """
    return event_from(strict_json.loads(raw))


def event_from(content: Any) -> Event:
    """Build an event from parsed JSON; an older schema version is upcast.

    Args:
        content: attributes and `data`; not changed.
    Raises:
        EventError: not an object, an unknown kind or schema version, or an attribute or payload of the wrong
            shape; `where` says which.
    """
    if not isinstance(content, dict):
        raise EventError("not_an_object", "an event is one JSON object", "", "send an object with attributes and data")
    content = _as_json_types(upcast(content))
    data = content.get("data")
    if data is None:
        raise EventError("missing", "data is missing", "data", "send the payload")
    if isinstance(data, dict) and isinstance(data.get("replacement"), dict):
        data = {**data, "replacement": upcast(data["replacement"])}
    try:
        content["data"] = read_payload(content["type"], data)
    except ValidationError as error:
        raise _explained(error, "data") from None
    try:
        return Event.model_validate(content)
    except ValidationError as error:
        raise _explained(error, "") from None


def decode_record(value: bytes | None, headers: Headers = ()) -> Event:
    """Read one log record: binary mode where it has `ce_*` headers, else structured mode.

    Raises:
        EventError: as for `parse_event`; also a repeated header or a content type other than JSON.
    """
    attributes = _attributes(headers) if headers else {}
    if not value:
        raise EventError("empty_value", "the event has an empty value", "", "send the content; to retract, correct")
    if not attributes:
        return parse_event(value)
    size = len(value) + sum(len(name) + len(text) for name, text in attributes.items())
    if size > strict_json.MAX_BYTES:
        raise EventError(
            "too_large",
            f"the event has {size} bytes, the bound is {strict_json.MAX_BYTES}",
            "",
            "put large content in an array store and send a claim check",
        )
    for name, text in attributes.items():
        strict_json.check_string(text, name)
    return event_from({**attributes, "data": strict_json.loads(value)})


def encode_line(event: Event) -> bytes:
    """Write an event as one line of canonical JSON, without the line's end."""
    return canonical.canonical_model(event)


def encode_record(event: Event) -> tuple[bytes, tuple[tuple[str, bytes], ...]]:
    """Write an event in Kafka's binary mode.

    Returns:
        (the data as canonical JSON, headers: content type and one `ce_*` for each attribute).
    """
    content = event.model_dump(exclude_defaults=True, exclude={"data"})
    headers = [("content-type", _JSON.encode())]
    headers += [(_PREFIX + name, str(content[name]).encode()) for name in sorted(content)]
    return canonical.canonical_model(event.data), tuple(headers)


def content_hash(event: Event) -> str:
    """SHA-256 (hex) of the canonical form of what makes two deliveries the same event.

    Left out are the trace and the running number, which a redelivery may change, and the schema's name, which
    repeats the type. Defaults are not written, so that leaving one out and spelling it out are the same.
    """
    return hashlib.sha256(canonical.canonical_model(event, _TRANSPORT)).hexdigest()


def content_hash_of_line(line: bytes) -> str:
    """The `content_hash` of an event that `encode_line` wrote, whichever release did.

    Read as plain JSON: a later release's reading of an old event, with its defaults, would be another content.

    Raises:
        EventError: no JSON object.
    """
    content = strict_json.loads(line)
    if not isinstance(content, dict):
        raise EventError("not_an_object", "an event is one JSON object", "", "restore the journal from a backup")
    kept = {name: value for name, value in content.items() if name not in _TRANSPORT}
    return hashlib.sha256(canonical.canonical_json(kept)).hexdigest()


def as_structured(value: bytes | None, headers: Headers = ()) -> bytes:
    """Return bytes that hold a record whole, so that a rejected one can be kept, mended and sent again.

    A record without `ce_*` headers is returned as it is. In binary mode the attributes are joined with the
    data, or with `data_base64` where the value is no strict JSON.
    """
    raw = bytes(value or b"")
    attributes: dict[str, Any] = {
        name[len(_PREFIX) :]: text.decode("utf-8", "replace") for name, text in headers if name.startswith(_PREFIX)
    }
    if not attributes:
        return raw
    try:
        attributes["data"] = strict_json.loads(raw)
        return canonical.canonical_json(attributes)
    except (EventError, ValueError):
        # Read, it may still hold a number that canonical JSON has no word for.
        attributes.pop("data", None)
        attributes["data_base64"] = base64.b64encode(raw).decode("ascii")
        return canonical.canonical_json(attributes)


def _attributes(headers: Headers) -> dict[str, str]:
    attributes: dict[str, str] = {}
    content_type = ""
    for name, text in headers:
        if name == "content-type":
            content_type = text.decode("latin-1").partition(";")[0].strip().lower()
        if not name.startswith(_PREFIX):
            continue
        attribute = name[len(_PREFIX) :]
        if attribute in attributes or attribute == "data":
            raise EventError("duplicate_key", f"header {name} is not allowed twice", attribute, "send it once")
        try:
            attributes[attribute] = text.decode("utf-8")
        except UnicodeDecodeError:
            raise EventError("not_utf8", f"header {name} is not UTF-8", attribute, "encode it as UTF-8") from None
    expected = _JSON if attributes else _STRUCTURED
    if content_type not in ("", _JSON, expected):
        raise EventError("wrong_content_type", f"content type {content_type!r}", "content-type", f"send {expected}")
    return attributes


def _as_json_types(content: dict[str, Any]) -> dict[str, Any]:
    """Copy, with attributes that CloudEvents transports write as text turned to integers, less the content type."""
    changed = dict(content)
    for name in _INTEGERS:
        text = changed.get(name)
        if type(text) is str and text.isascii() and text.isdigit() and len(text) <= 16:
            changed[name] = int(text)
    if changed.pop("datacontenttype", _JSON) != _JSON:
        raise EventError("wrong_content_type", "data are not declared as JSON", "datacontenttype", f"send {_JSON}")
    return changed


def _explained(error: ValidationError, prefix: str) -> EventError:
    """Turn the first of pydantic's complaints into ours, with the path of the value concerned."""
    first = error.errors(include_url=False, include_input=False)[0]
    # An event as a whole is refused for nothing but its time, which is read together with its precision.
    place = first["loc"] or (("time",) if first["type"] == "value_error" else ())
    path = ".".join(str(part) for part in ((prefix,) if prefix else ()) + place)
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, ValidationError):
        return _explained(inner, path)
    code, remedy = _REMEDIES.get(first["type"], ("bad_shape", "send what the schema asks for, see docs/schemas"))
    if code == "bad_shape" and path == "subject":
        return EventError("bad_subject", "subject is not '<institution>/<patient>'", path, PSEUDONYMS)
    said = str(inner) if inner is not None else first["msg"]
    return EventError(code, f"{path or 'event'}: {said[:1].lower()}{said[1:]}", path, remedy)
