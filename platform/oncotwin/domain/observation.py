"""What was seen of a patient: measurements with their censoring, assessments, references to large arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from oncotwin.domain.header import EventHeader
from oncotwin.domain.ids import EventKey

Censoring = Literal["none", "left", "right", "interval", "not_evaluable"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an observation read off a section or slide says of itself.

    Such an observation brings its own uncertainty, and how far the tissue is from what the reading was proved on.
    """

    low: float
    """Lower end of the 90 % interval, in the observation's unit."""
    high: float
    """Upper end."""
    derived_from: EventKey
    """(source, id) of the claim check of the section or slide."""
    cohort: str = ""
    """Reference cohort that the section was compared with; "" where there was none, and nothing is known then."""
    p: float | None = None
    """Share of that cohort's sections that are as unlike the others as this one."""
    distance: float | None = None
    """From the cohort."""
    limit: float | None = None
    """Distance beyond which a section counts as out of distribution."""
    unlike: tuple[str, ...] = ()
    """Signatures that make up most of the distance, the largest first."""

    @property
    def out_of_distribution(self) -> bool:
        """Whether the section lies beyond the limit of its cohort."""
        return self.distance is not None and self.limit is not None and self.distance > self.limit


@dataclass(frozen=True, slots=True)
class Observation:
    """One measured quantity in its canonical unit, or what is known of it when it could not be measured.

    ========== ================================================= =========
    censoring  value                                             limit
    ========== ================================================= =========
    none       the measurement                                   None
    left       None; it lies at or below `limit`                 upper end
    right      None; it lies at or above `limit`                 lower end
    interval   lower end; it lies in ``[value, limit]``          upper end
    not_evaluable  None: looked at, nothing learned              None
    ========== ================================================= =========
    """

    header: EventHeader
    observable: str
    """Name of the quantity, e.g. ``longest_diameter``; see `units.OBSERVABLES`."""
    target: str
    """Lesion id, or "" for a quantity of the whole patient."""
    value: float | None
    """In `unit`."""
    unit: str
    """Canonical UCUM unit of the observable: mm, mm3, ng/mL, nmol/L, 1, U/L ..."""
    censoring: Censoring = "none"
    limit: float | None = None
    """Bound of a censored value, in `unit`."""
    detail: Mapping[str, str] = field(default_factory=dict)
    """What else was said of the measurement: modality, assay, code, and the value as sent."""
    evidence: Evidence | None = None
    """Of what was read off a section or slide; None for every other measurement."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """A clinician's graded judgement; an endpoint for evaluation, not an input of the dynamics."""

    header: EventHeader
    scale: str
    """``recist``, ``irecist``, ``ecog`` or ``progression``."""
    value: str


@dataclass(frozen=True, slots=True)
class ArrayReference:
    """A claim check to a large array that stays in its array store."""

    header: EventHeader
    dataref: str
    """URI below one of the allowed stores."""
    datahash: str
    """SHA-256 (hex) of the bytes, or of the sorted manifest (path, size, SHA-256) of a folder."""
    datasize: int
    """Bytes."""
    detail: Mapping[str, str | float | tuple[float, ...]] = field(default_factory=dict)
    """The kind's own attributes: panel, platform, pixel size, stain, spacing ..."""
