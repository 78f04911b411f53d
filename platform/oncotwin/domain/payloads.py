"""The payload of each kind of event, as it is sent: shape and types only.

Whether a value makes sense (unit, range, time) is for `validation`; a payload that passes here can be written
and read again without loss, so that a nonsensical one can be kept, shown and mended.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    Strict,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from oncotwin.domain.ids import TWIN_ID_PATTERN
from oncotwin.domain.moments import Moment, place
from oncotwin.domain.units import DIAMETER_SUM

Word = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[!-~]+$")]
Subject = Annotated[str, StringConstraints(max_length=129, pattern=TWIN_ID_PATTERN)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Action = Literal["given", "on", "off"]

_SETTINGS = ConfigDict(
    strict=True,
    extra="forbid",
    frozen=True,
    hide_input_in_errors=True,
    allow_inf_nan=False,
    use_attribute_docstrings=True,  # the docstrings under the fields become descriptions in docs/schemas
)


class Payload(BaseModel):
    """Root of all payloads. Unknown keys, and numbers sent as text, are refused."""

    model_config = _SETTINGS


class LabResult(Payload):
    """One laboratory value: a tumour marker, a blood count, a body weight."""

    code: Word
    """LOINC code."""
    value: Number
    """In `unit`; with `censoring`, the bound that was reported."""
    unit: Word
    """UCUM."""
    censoring: Literal["<", ">"] | None = None
    limit_of_detection: Number | None = None
    """Of the assay, in `unit`; a value below it is read as "<" of it."""
    assay: Word | None = None
    result: Word | None = None
    """The laboratory's own number of this result, kept when its status changes."""


class LesionMeasured(Payload):
    """The size of one lesion, or why it has none; or the sum over all lesions of the patient."""

    kind: Literal["longest_diameter", "volume", "sum_of_longest_diameters"]
    lesion: Annotated[Word | None, Field(validate_default=True)] = None
    """Identifier of the lesion, constant over the patient's visits; a sum has none, every other kind needs it."""
    value: Number | None = None
    """In `unit`; 0 where the lesion is no longer seen."""
    unit: Word | None = None
    """UCUM: mm or cm; mm3, cm3 or mL. Needed with `value` or `limit`."""
    too_small: bool = False
    """Seen, but too small to measure."""
    not_evaluable: bool = False
    """Looked at, but could not be judged."""
    limit: Number | None = None
    """The size below which it was too small, in `unit`; 5 mm where none is given (RECIST 1.1)."""
    modality: Word | None = None
    tissue: Word | None = None
    """Tissue of origin."""
    result: Word | None = None
    """The reading's own number, kept when its status changes."""

    @field_validator("lesion", mode="after")
    @classmethod
    def _of_a_lesion(cls, lesion: str | None, info: Any) -> str | None:
        kind = info.data.get("kind")
        if lesion is None and kind is not None and kind != DIAMETER_SUM:
            raise PydanticCustomError("missing", "Field required")
        return lesion


class AssessmentMade(Payload):
    """A graded judgement."""

    scale: Literal["recist", "irecist", "ecog", "progression"]
    value: Word
    result: Word | None = None


class TreatmentAdministered(Payload):
    """A dose given, or a treatment switched on or off."""

    agent: Word
    """Drug, combination or "radiation"; a trial's arm where only that is known."""
    action: Action = "given"
    dose: Number | None = None
    unit: Word | None = None
    """UCUM: mg, g, ug, mg/m2, mg/kg, [IU], Gy, cGy. Needed with `dose`."""
    route: Word | None = None
    start: Moment | None = None
    """The event's `time` where absent."""
    stop: Moment | None = None
    line_of_therapy: Annotated[int, Field(ge=1, le=50)] | None = None
    note: Text | None = None
    """A dose as the source wrote it, where it is free text."""


class PlannedDose(Payload):
    """One entry of a schedule."""

    agent: Word
    action: Action = "given"
    dose: Number | None = None
    unit: Word | None = None
    start: Moment
    stop: Moment | None = None


class TreatmentPlanned(Payload):
    """The schedule as ordered; the latest plan replaces the earlier ones. No items: nothing is planned."""

    items: Annotated[tuple[PlannedDose, ...], Field(strict=False, max_length=400)]


class OmicsSection(Payload):
    """Claim check to a spatial-omics section."""

    section: Word
    specimen: Word
    panel: Word
    platform: Word
    pixel_size_um: Annotated[Number, Field(gt=0, le=1000)]


class PathologySlide(Payload):
    """Claim check to a whole-slide pyramid."""

    slide: Word
    specimen: Word
    magnification: Annotated[Number, Field(gt=0, le=200)]
    microns_per_pixel: Annotated[Number, Field(gt=0, le=100)]
    stain: Word


Spacing = Annotated[Number, Strict(), Field(gt=0, le=100)]


class ImagingStudy(Payload):
    """Claim check to a volume and its segmentation."""

    study: Word
    modality: Word
    spacing_mm: Annotated[tuple[Spacing, Spacing, Spacing], Field(strict=False)]
    """Voxel spacing along z, y, x."""
    kernel: Word | None = None
    """Reconstruction kernel."""
    segmentation: Word | None = None
    """Name of the segmentation inside the referenced store."""


class SourceEvent(Payload):
    """The claim check that something was derived from."""

    source: Uri
    id: Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Comparison(Payload):
    """How far a section lies from a reference cohort of sections."""

    cohort: Word
    p: Annotated[Number, Field(gt=0, le=1)]
    """Share of the cohort's sections that are as unlike the others as this one."""
    distance: Annotated[Number, Field(ge=0)]
    limit: Annotated[Number, Field(ge=0)]
    """Distance beyond which a section counts as out of distribution."""
    unlike: Annotated[tuple[Word, ...], Field(strict=False, max_length=20)] = ()
    """Signatures that make up most of the distance, the largest first."""


class SpatialEvidence(Payload):
    """One quantity read off a section or slide, with its uncertainty."""

    observable: Literal["resistant_fraction", "hypoxic_fraction", "immune_effect", "cell_density"]
    value: Number
    unit: Word
    """UCUM: 1 or % for fractions and the immune effect, /mm2 for density."""
    low: Number
    """Lower end of the 90 % interval, in `unit`."""
    high: Number
    """Upper end."""
    derived_from: SourceEvent
    """The event of the section or slide."""
    comparison: Comparison | None = None
    """Absent where there was no cohort to compare with."""
    read_off: Annotated[tuple[Word, ...], Field(strict=False, max_length=20)] = ()
    """Names of the signatures that the value rests on."""


class SupersededEvent(Payload):
    """The event that was wrong."""

    source: Uri
    id: Word


class Replacement(Payload):
    """What should have been sent, without the envelope's attributes that stay as they were."""

    type: Word
    time: Moment
    timeprecision: Literal["instant", "day"] = "instant"
    data: SerializeAsAny[Payload]

    @model_validator(mode="before")
    @classmethod
    def _place_in_time(cls, content: Any) -> Any:
        return placed(content)

    @field_validator("data", mode="plain", json_schema_input_type=dict[str, Any])
    @classmethod
    def _read_data(cls, data: Any, info: Any) -> Payload:
        return read_payload(info.data.get("type"), data)


class RecordCorrected(Payload):
    """An earlier event was wrong."""

    supersedes: SupersededEvent
    action: Literal["replace", "retract", "wrong_patient"]
    replacement: Replacement | None = None
    """Needed with action "replace"."""
    right_patient: Subject | None = None
    """Needed with action "wrong_patient"; of the same institution."""
    reason: Text


class PatientErased(Payload):
    """The patient's data are to be made unreadable."""

    scope: Literal["patient"]
    reason: Text


class ConsentChanged(Payload):
    """Consent was granted or withdrawn."""

    scope: Literal["care", "research"]
    decision: Literal["granted", "withdrawn"]
    effective: Moment


TYPE_PREFIX = "org.oncotwin."

PAYLOADS: dict[str, type[Payload]] = {
    "lab.result": LabResult,
    "lesion.measured": LesionMeasured,
    "assessment": AssessmentMade,
    "treatment.administered": TreatmentAdministered,
    "treatment.planned": TreatmentPlanned,
    "omics.section": OmicsSection,
    "pathology.wsi": PathologySlide,
    "imaging.study": ImagingStudy,
    "spatial.evidence": SpatialEvidence,
    "record.corrected": RecordCorrected,
    "patient.erased": PatientErased,
    "consent.changed": ConsentChanged,
}
"""Kind -> payload of its current version."""

VERSION = 1
"""Current schema version, the same for all kinds so far."""

_BY_TYPE = {f"{TYPE_PREFIX}{kind}.v{VERSION}": payload for kind, payload in PAYLOADS.items()}


def event_type(kind: str) -> str:
    """Return the CloudEvents type of a kind's current version."""
    return f"{TYPE_PREFIX}{kind}.v{VERSION}"


def kind_of(type_: str) -> str:
    """Return the kind of a current type, e.g. ``lesion.measured``."""
    return type_[len(TYPE_PREFIX) : type_.rindex(".v")]


def read_payload(type_: Any, data: Any) -> Payload:
    """Validate `data` as the payload of a type; an instance of the right class passes as it is.

    Raises:
        ValueError: the type is unknown, or (a pydantic ValidationError) the data do not fit it.
    """
    payload = _BY_TYPE.get(type_)
    if payload is None:
        raise ValueError("the type is unknown, so the data cannot be read")
    if type(data) is payload:
        return data
    return payload.model_validate(data)


def placed(content: Any) -> Any:
    """Return `content` with `time` in UTC and its `timeprecision` filled in.

    Raises:
        ValueError: `time` is not a time, see `moments.place`.
    """
    if not isinstance(content, dict) or "time" not in content:
        return content
    time, precision = place(content["time"], content.get("timeprecision"))
    return {"timeprecision": precision, **content, "time": time}
