"""What each kind of payload must satisfy, and what it becomes: one function for each kind."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from oncotwin.domain import units
from oncotwin.domain.amendment import Accepted, Consent, Correction, Erasure
from oncotwin.domain.errors import EventError
from oncotwin.domain.header import EventHeader
from oncotwin.domain.ids import split_twin_id
from oncotwin.domain.observation import Assessment, Evidence, Observation
from oncotwin.domain.payloads import (
    AssessmentMade,
    ConsentChanged,
    LabResult,
    LesionMeasured,
    PatientErased,
    Payload,
    PlannedDose,
    RecordCorrected,
    Replacement,
    SpatialEvidence,
    TreatmentAdministered,
    TreatmentPlanned,
    kind_of,
)
from oncotwin.domain.policy import Policy
from oncotwin.domain.treatment import Plan, PlannedItem, Treatment
from oncotwin.domain.units import Observable

EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
"""No patient's record on an event stream is older."""

ZONES = timedelta(hours=14)
"""A calendar day may begin this much before it begins in UTC."""

SCALES: dict[str, tuple[str, ...]] = {
    "recist": ("CR", "PR", "SD", "non-CR/non-PD", "PD", "NE"),
    "irecist": ("iCR", "iPR", "iSD", "iUPD", "iCPD", "NE"),
    "ecog": ("0", "1", "2", "3", "4", "5"),
    "progression": ("progressed", "not_progressed"),
}
"""Assessment scale -> its grades (RECIST 1.1: Eisenhauer 2009; iRECIST: Seymour 2017; ECOG: Oken 1982)."""


def check_time(moment: datetime, where: str, policy: Policy, *, by_day: bool) -> None:
    """Refuse a time in the future or before 1900.

    Raises:
        EventError: `future_time` or `implausible_time`.
    """
    if moment > policy.latest and not (by_day and moment <= policy.latest + ZONES):
        raise EventError(
            "future_time",
            f"{where} {moment:%Y-%m-%dT%H:%M:%SZ} lies in the future (now {policy.now:%Y-%m-%dT%H:%M:%SZ})",
            where,
            "mend the date or the source's clock; what is planned goes into treatment.planned",
        )
    if moment < EARLIEST:
        raise EventError(
            "implausible_time", f"{where} {moment.year:04}-{moment:%m-%d} lies before 1900", where, "mend it"
        )


def lab_result(data: LabResult, header: EventHeader, policy: Policy) -> Observation:
    """A laboratory value in the canonical unit of its observable, censored where the assay could not see."""
    observable = units.BY_LOINC.get(data.code)
    if observable is None:
        raise EventError(
            "unknown_code",
            f"LOINC code '{data.code}' is not followed here",
            "data.code",
            "send one of docs/events.md, or ask for the code to be added",
        )
    factor = _factor(observable, data.unit)
    sign = data.censoring or ""
    detail = {"reported": f"{sign}{data.value!r} {data.unit}", "code": data.code}
    if data.assay is not None:
        detail["assay"] = data.assay
    value = _in_range(data.value * factor, observable, "data.value", bound=sign == "<")
    limit = None
    if data.limit_of_detection is not None:
        limit = _positive(data.limit_of_detection * factor, observable, "data.limit_of_detection")
    if sign:
        if value == 0.0:
            raise EventError("bad_limit", f"'{sign}0' says nothing", "data.value", "send the limit that was reported")
        return _censored(header, observable, "", "left" if sign == "<" else "right", value, detail)
    if limit is not None and value < limit:
        return _censored(header, observable, "", "left", limit, detail)
    if value == 0.0 and observable.zero_limit is not None:
        return _censored(header, observable, "", "left", limit or observable.zero_limit, detail)
    return Observation(header, observable.name, "", value, observable.unit, "none", None, detail)


def lesion_measured(data: LesionMeasured, header: EventHeader, policy: Policy) -> Observation:
    """The size of a lesion in mm or mm3; absent or too small: somewhere below a limit."""
    observable = units.OBSERVABLES[data.kind]
    if data.kind == units.DIAMETER_SUM:
        _check_sum(data)
    target = data.lesion or ""
    detail = {}
    if data.modality is not None:
        detail["modality"] = data.modality
    if data.tissue is not None:
        detail["tissue"] = data.tissue
    if data.not_evaluable:
        if data.too_small or data.value is not None or data.limit is not None:
            raise EventError(
                "contradiction", "not_evaluable together with a size", "data.not_evaluable", "send one of the two"
            )
        return Observation(header, observable.name, target, None, observable.unit, "not_evaluable", None, detail)
    if data.value is None and not data.too_small:
        raise EventError(
            "missing", "no size and no reason for it", "data.value", "send value, too_small or not_evaluable"
        )
    factor = 1.0
    if data.value is not None or data.limit is not None or data.unit is not None:
        factor = _factor(observable, data.unit)
    value = None
    if data.value is not None:
        detail["reported"] = f"{data.value!r} {data.unit}"
        value = _in_range(data.value * factor, observable, "data.value")
    limit = None
    if data.limit is not None:
        limit = _positive(data.limit * factor, observable, "data.limit")
    if data.too_small:
        default = units.TOO_SMALL_MM if data.kind == units.DIAMETER else units.TOO_SMALL_MM3
        return _censored(header, observable, target, "left", limit or value or default, detail)
    assert value is not None
    if limit is not None and value < limit:
        return _censored(header, observable, target, "left", limit, detail)
    if value == 0.0:
        return _censored(header, observable, target, "left", observable.zero_limit, detail)
    return Observation(header, observable.name, target, value, observable.unit, "none", None, detail)


def spatial_evidence(data: SpatialEvidence, header: EventHeader, policy: Policy) -> Observation:
    """A quantity read off a section or slide; at nil or one it is only known to lie beyond the interval's other end."""
    observable = units.OBSERVABLES[data.observable]
    factor = _factor(observable, data.unit)
    value, low, high = (
        _in_range(number * factor, observable, f"data.{name}")
        for name, number in (("value", data.value), ("low", data.low), ("high", data.high))
    )
    if not low <= value <= high or low == high:
        raise EventError(
            "bad_interval",
            f"the interval from {data.low!r} to {data.high!r} does not hold {data.value!r}, or has no width",
            "data.low", "send the ends of the 90 % interval",
        )
    detail = {"reported": f"{data.value!r} {data.unit}"}
    if data.read_off:
        detail["read_off"] = ", ".join(data.read_off)
    evidence = Evidence(low, high, (data.derived_from.source, data.derived_from.id))
    if (found := data.comparison) is not None:
        evidence = replace(
            evidence, cohort=found.cohort, p=found.p, distance=found.distance, limit=found.limit, unlike=found.unlike
        )
    item = Observation(header, observable.name, "", value, observable.unit, "none", None, detail, evidence)
    if value == 0.0:
        return replace(item, value=None, censoring="left", limit=high)
    if observable.unit == "1" and value == 1.0:
        return replace(item, value=None, censoring="right", limit=low)
    return item


def _check_sum(data: LesionMeasured) -> None:
    """A sum is of the patient: nothing that is said of one lesion goes with it."""
    if data.lesion is not None:
        raise EventError(
            "contradiction", f"a sum over all lesions names the lesion {data.lesion!r}", "data.lesion",
            "leave lesion out, or send the lesion's own longest_diameter",
        )
    if data.too_small:
        raise EventError(
            "contradiction", "too_small is said of one lesion, not of a sum", "data.too_small",
            "send the sum with a limit, or the lesions one by one",
        )


def assessment(data: AssessmentMade, header: EventHeader, policy: Policy) -> Assessment:
    """A grade of its scale."""
    grades = SCALES[data.scale]
    if data.value not in grades:
        raise EventError(
            "bad_grade", f"'{data.value}' is no grade of {data.scale}", "data.value", f"send {', '.join(grades)}"
        )
    return Assessment(header, data.scale, data.value)


def treatment_administered(data: TreatmentAdministered, header: EventHeader, policy: Policy) -> Treatment:
    """A dose or a switch; nothing of it lies in the future."""
    dose, unit = _dose(data.dose, data.unit, "data")
    start = data.start or header.time
    _in_order(start, data.stop, "data")
    check_time(start, "data.start", policy, by_day=True)
    if data.stop is not None:
        check_time(data.stop, "data.stop", policy, by_day=True)
    return Treatment(
        header, data.agent, data.action, dose, unit, data.route, start, data.stop, data.line_of_therapy, data.note or ""
    )


def treatment_planned(data: TreatmentPlanned, header: EventHeader, policy: Policy) -> Plan:
    """A schedule whose entries each begin before they end."""
    return Plan(header, tuple(_planned(item, f"data.items[{index}]") for index, item in enumerate(data.items)))


def consent_changed(data: ConsentChanged, header: EventHeader, policy: Policy) -> Consent:
    """Consent granted or withdrawn from a moment on, which may be to come."""
    return Consent(header, data.scope, data.decision == "granted", data.effective)


def patient_erased(data: PatientErased, header: EventHeader, policy: Policy) -> Erasure:
    """The order to erase."""
    return Erasure(header, data.scope, data.reason)


def record_corrected(data: RecordCorrected, header: EventHeader, policy: Policy) -> Correction:
    """A correction within one institution that says exactly what its action needs."""
    key = (data.supersedes.source, data.supersedes.id)
    if key == header.key:
        raise EventError("contradiction", "a correction of itself", "data.supersedes", "name the wrong event")
    for name, given, action in (
        ("replacement", data.replacement, "replace"),
        ("right_patient", data.right_patient, "wrong_patient"),
    ):
        if (given is not None) != (data.action == action):
            raise EventError(
                "contradiction",
                f"action '{data.action}' {'with' if given is not None else 'without'} {name}",
                f"data.{name}",
                f"{name} belongs to action '{action}', and only there",
            )
    if data.right_patient is not None:
        institution, _ = split_twin_id(data.right_patient)
        if institution != header.institution:
            raise EventError(
                "other_institution",
                f"right_patient '{data.right_patient}' is of another institution",
                "data.right_patient",
                "retract the event, and let the other institution send its own",
            )
        if data.right_patient == header.twin_id:
            raise EventError(
                "contradiction", "right_patient is the wrong one", "data.right_patient", "name the right one"
            )
    item = None
    if data.replacement is not None:
        item = _replacement(data.replacement, key, header, policy)
    return Correction(header, key, data.action, item, data.right_patient, data.reason)


def _replacement(sent: Replacement, key: tuple[str, str], header: EventHeader, policy: Policy) -> Any:
    judge = AMENDABLE.get(type(sent.data))
    if judge is None:
        raise EventError(
            "contradiction",
            f"{kind_of(sent.type)} cannot be replaced",
            "data.replacement.type",
            "retract it and send a new event",
        )
    check_time(sent.time, "data.replacement.time", policy, by_day=sent.timeprecision == "day")
    there = replace(
        header,
        source=key[0],
        event_id=key[1],
        kind=kind_of(sent.type),
        time=sent.time,
        time_precision=sent.timeprecision,
        status="corrected",
        result_id=getattr(sent.data, "result", None),
    )
    try:
        return judge(sent.data, there, policy)
    except EventError as error:
        where = error.where.replace("data", "data.replacement.data", 1)
        raise EventError(error.reason_code, error.reason, where, error.remedy) from None


def _planned(item: PlannedDose, where: str) -> PlannedItem:
    dose, unit = _dose(item.dose, item.unit, where)
    _in_order(item.start, item.stop, where)
    return PlannedItem(item.agent, item.action, dose, unit, item.start, item.stop)


def _in_order(start: datetime, stop: datetime | None, where: str) -> None:
    if stop is not None and stop < start:
        raise EventError(
            "stop_before_start",
            f"stop {stop:%Y-%m-%d} lies before start {start:%Y-%m-%d}",
            f"{where}.stop",
            "mend either",
        )


def _dose(dose: float | None, unit: str | None, where: str) -> tuple[float | None, str | None]:
    if dose is None:
        return None, None
    found = units.DOSE_UNITS.get(unit or "")
    if found is None:
        raise EventError(
            "wrong_unit",
            f"{'no unit' if unit is None else f'unit {unit!r}'} is not a dose",
            f"{where}.unit",
            f"send one of {', '.join(units.DOSE_UNITS)}",
        )
    canonical, factor = found
    amount = dose * factor
    if not 0.0 < amount <= units.HIGHEST_DOSE[canonical]:
        raise EventError(
            "implausible_dose",
            f"dose {dose!r} {unit} is outside 0 to {units.HIGHEST_DOSE[canonical]:g} {canonical}",
            f"{where}.dose",
            "mend dose or unit; where nothing was given, send no dose or action 'off'",
        )
    return amount, canonical


def _factor(observable: Observable, unit: str | None) -> float:
    found = observable.factors.get(unit or "")
    if found is None:
        what, remedy = units.unit_complaint(observable, unit)
        raise EventError("wrong_unit", what, "data.unit", remedy)
    return found


def _in_range(value: float, observable: Observable, where: str, *, bound: bool = False) -> float:
    """Return a credible value; the bound of a "<" may lie below the lowest credible one."""
    if value < 0.0:
        raise EventError(
            "negative_value", f"{observable.name} {value:g} {observable.unit} is negative", where, "mend the sign"
        )
    if value > observable.highest or (value < observable.lowest and not bound):
        raise EventError(
            "implausible_value",
            f"{observable.name} {value:g} {observable.unit} is outside {observable.lowest:g} to "
            f"{observable.highest:g} {observable.unit}",
            where,
            f"mend value or unit ({observable.why})",
        )
    return value


def _positive(limit: float, observable: Observable, where: str) -> float:
    if not 0.0 < limit <= observable.highest:
        raise EventError(
            "bad_limit", f"limit {limit:g} {observable.unit} is not above 0 and credible", where, "mend or leave it out"
        )
    return limit


def _censored(
    header: EventHeader, observable: Observable, target: str, side: Any, limit: float | None, detail: dict[str, str]
) -> Observation:
    return Observation(header, observable.name, target, None, observable.unit, side, limit, detail)


Judge = Callable[[Any, EventHeader, Policy], Accepted]

AMENDABLE: dict[type[Payload], Judge] = {
    LabResult: lab_result,
    LesionMeasured: lesion_measured,
    AssessmentMade: assessment,
    TreatmentAdministered: treatment_administered,
    TreatmentPlanned: treatment_planned,
    SpatialEvidence: spatial_evidence,
}
"""Kinds that a correction may replace."""

JUDGES: dict[type[Payload], Judge] = {
    **AMENDABLE,
    ConsentChanged: consent_changed,
    PatientErased: patient_erased,
    RecordCorrected: record_corrected,
}
"""All kinds but the claim checks, which need the envelope too."""
