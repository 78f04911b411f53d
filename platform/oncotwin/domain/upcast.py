"""Older schema versions, turned into the current one while an event is read.

An upcaster is a pure function of the data; one for each step, so that version n is reached from any older one.
It runs before validation and before hashing: an event redelivered in a newer version is the same event.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from oncotwin.domain.errors import EventError
from oncotwin.domain.payloads import PAYLOADS, TYPE_PREFIX, VERSION

Upcaster = Callable[[Mapping[str, Any]], dict[str, Any]]

_TYPE = re.compile(rf"{re.escape(TYPE_PREFIX)}([a-z]+(?:\.[a-z]+)?)\.v(\d{{1,4}})", re.ASCII)
_CURRENT = frozenset(f"{TYPE_PREFIX}{kind}.v{VERSION}" for kind in PAYLOADS)


def _lesion_measured_0(data: Mapping[str, Any]) -> dict[str, Any]:
    """Version 0 knew only diameters in millimetres (`diameter_mm`) and called the lesion `lesion_id`."""
    newer = _renamed(data, {"lesion_id": "lesion", "diameter_mm": "value"}, new=("kind", "unit"))
    newer["kind"] = "longest_diameter"
    if newer.get("value") is not None:
        newer["unit"] = "mm"
    return newer


def _lab_result_0(data: Mapping[str, Any]) -> dict[str, Any]:
    """Version 0 called the LOINC code `loinc` and marked a censored value by `below_limit`."""
    newer = _renamed(data, {"loinc": "code"}, new=("censoring",))
    below = newer.pop("below_limit", False)
    if not isinstance(below, bool):
        raise EventError("bad_shape", "below_limit is true or false", "data.below_limit", "send one of them")
    if below:
        newer["censoring"] = "<"
    return newer


def _renamed(data: Mapping[str, Any], names: Mapping[str, str], new: Iterable[str]) -> dict[str, Any]:
    """Return `data` with keys renamed; a key of the newer version has no place in the older one.

    Raises:
        EventError: `unknown_attribute`.
    """
    for name in (*names.values(), *new):
        if name in data:
            raise EventError(
                "unknown_attribute",
                f"data.{name} is not of this schema version",
                f"data.{name}",
                "send all of the payload in one version",
            )
    return {names.get(key, key): value for key, value in data.items()}


UPCASTERS: dict[tuple[str, int], Upcaster] = {
    ("lesion.measured", 0): _lesion_measured_0,
    ("lab.result", 0): _lab_result_0,
}
"""(kind, version) -> function to version + 1."""


def upcast(content: dict[str, Any]) -> dict[str, Any]:
    """Bring an event (or the replacement inside a correction) to the current schema version.

    Args:
        content: with `type` and `data`; other keys pass through.
    Returns:
        The content itself where it is current, else a new one.
    Raises:
        EventError: `unknown_kind` or `unknown_schema_version`.
    """
    type_ = content.get("type")
    if isinstance(type_, str) and type_ in _CURRENT:
        return content
    matched = _TYPE.fullmatch(type_) if isinstance(type_, str) else None
    if matched is None or matched[1] not in PAYLOADS:
        raise EventError(
            "unknown_kind", f"type {type_!r} is not in the catalogue", "type", f"send one of {', '.join(PAYLOADS)}"
        )
    kind, version, data = matched[1], int(matched[2]), content.get("data")
    while version < VERSION and isinstance(data, dict) and (kind, version) in UPCASTERS:
        data = UPCASTERS[kind, version](data)
        version += 1
    if version != VERSION:
        older = sorted(v for k, v in UPCASTERS if k == kind)
        readable = ", ".join(f"v{v}" for v in [*older, VERSION])
        raise EventError(
            "unknown_schema_version",
            f"{kind} has no readable schema version {matched[2]}",
            "type",
            f"this release reads {readable} of it",
        )
    newer = {**content, "type": f"{TYPE_PREFIX}{kind}.v{VERSION}", "data": data}
    newer.pop("dataschema", None)
    return newer
