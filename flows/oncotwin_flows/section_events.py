"""The words in which a section speaks to a twin: evidence events, and their corrections, each with an id of its own.

Source and id follow from the section's event, so that whoever reads a section again says the same thing under the same
name, and the log's readers drop the double.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from oncotwin.domain.amendment import Correction
from oncotwin.domain.canonical import canonical_json
from oncotwin.domain.header import EventHeader
from oncotwin.domain.ids import EventKey
from oncotwin.domain.moments import write_moment
from oncotwin.domain.payloads import event_type
from oncotwin.domain.units import CELL_DENSITY, HYPOXIC_FRACTION, IMMUNE_EFFECT, RESISTANT_FRACTION
from oncotwin.spatial.reference_cohort import Typicality
from oncotwin.spatial.section_evidence import Reading

OBSERVED = (RESISTANT_FRACTION, HYPOXIC_FRACTION, IMMUNE_EFFECT, CELL_DENSITY)
"""What may be read off a section or slide."""

_MOST_REASON = 2_000


def evidence_key(institution: str, section: EventKey, observable: str) -> EventKey:
    """(source, id) of what one section says of one observable."""
    return f"urn:oncotwin:{institution}:signatures", f"{_name(*section)}.{observable}"


def evidence_lines(
    section: EventHeader, readings: Sequence[Reading], cohort: str, typicality: Typicality | None
) -> list[bytes]:
    """Evidence events of a section, one a reading, at the section's clinical time.

    Args:
        section: header of the event with the claim check.
        readings: what was read off it.
        cohort: with which it was compared.
        typicality: None where it could not be compared.
    """
    lines = []
    for one in readings:
        source, event_id = evidence_key(section.institution, section.key, one.observable)
        data = {
            "observable": one.observable, "unit": one.unit, "value": _rounded(one.value), "low": _rounded(one.low),
            "high": _rounded(one.high), "read_off": list(one.read_off),
            "derived_from": {"source": section.source, "id": section.event_id},
        }
        if typicality is not None:
            data["comparison"] = {
                "cohort": cohort, "p": _rounded(typicality.p), "distance": _rounded(typicality.distance),
                "limit": _rounded(typicality.limit), "unlike": [name for name, _ in typicality.unlike],
            }
        content = {
            "specversion": "1.0", "source": source, "id": event_id, "type": event_type("spatial.evidence"),
            "subject": section.twin_id, "time": write_moment(section.time), "timeprecision": section.time_precision,
            "data": data,
        }
        if section.status == "preliminary":
            content["status"] = section.status
        lines.append(canonical_json(content))
    return lines


def correction_lines(correction: Correction, evidence: Iterable[EventKey]) -> list[bytes]:
    """A correction of a section, said of each piece of evidence that was read off it.

    Args:
        correction: that retracts the section's event, or moves it to another patient.
        evidence: keys of the evidence.
    """
    header, lines = correction.header, []
    for source, event_id in evidence:
        data: dict[str, object] = {
            "supersedes": {"source": source, "id": event_id}, "action": correction.action,
            "reason": f"its section was corrected: {correction.reason}"[:_MOST_REASON],
        }
        if correction.right_patient is not None:
            data["right_patient"] = correction.right_patient
        content = {
            "specversion": "1.0", "source": source, "id": _name(*header.key, event_id),
            "type": event_type("record.corrected"), "subject": header.twin_id, "time": write_moment(header.time),
            "timeprecision": header.time_precision, "data": data,
        }
        if header.recorded_at is not None:
            content["recordedtime"] = write_moment(header.recorded_at)
        lines.append(canonical_json(content))
    return lines


def _name(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


def _rounded(value: float) -> float:
    """To nine digits: another processor's last bits must not make another event of it."""
    return float(f"{value:.9g}")
