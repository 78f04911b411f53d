"""Observables and doses: which units each may come in, and what values can be true.

Units are allowed one by one for each observable, never by dimension: a library of dimensions takes
``{copies}/mL`` and ``[IU]/mL`` for the same thing. A unit outside the list is refused, never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Observable:
    """One measurable quantity, its canonical unit and the limits of what is credible."""

    name: str
    unit: str
    """Canonical UCUM unit."""
    factors: Mapping[str, float]
    """Allowed UCUM unit -> factor to the canonical unit."""
    lowest: float
    """Smallest credible value, canonical unit."""
    highest: float
    """Largest credible value, canonical unit."""
    why: str
    """Where the range comes from."""
    zero_limit: float | None = None
    """A zero is read as "below this" (canonical unit) where the source states no limit; None: zero is a value."""
    loinc: tuple[str, ...] = ()
    """Codes under which laboratories send it."""


# One ng/dL of testosterone (288.43 g/mol) is 10 ng/L, that is 0.0346705 nmol/L.
_TESTOSTERONE_NG_DL = 0.0346705

_CELLS = {"10*9/L": 1.0, "10*3/uL": 1.0, "/uL": 1e-3, "/nL": 1.0}

DIAMETER = "longest_diameter"
VOLUME = "volume"
DIAMETER_SUM = "sum_of_longest_diameters"
RESISTANT_FRACTION = "resistant_fraction"
HYPOXIC_FRACTION = "hypoxic_fraction"
IMMUNE_EFFECT = "immune_effect"
CELL_DENSITY = "cell_density"

OBSERVABLES: Mapping[str, Observable] = {
    item.name: item
    for item in (
        Observable(
            DIAMETER, "mm", {"mm": 1.0, "cm": 10.0}, 0.0, 500.0,
            "wider than the trunk of an adult; larger values are mm sent as cm",
            zero_limit=2.0,
        ),
        Observable(
            VOLUME, "mm3", {"mm3": 1.0, "cm3": 1000.0, "mL": 1000.0}, 0.0, 2e7,
            "twenty litres, the largest tumours ever removed are of about that size",
            zero_limit=10.0,
        ),
        Observable(
            DIAMETER_SUM, "mm", {"mm": 1.0, "cm": 10.0}, 0.0, 2_500.0,
            "five target lesions (RECIST 1.1) of the largest credible diameter",
            zero_limit=2.0,
        ),
        Observable(
            "psa", "ng/mL", {"ng/mL": 1.0, "ug/L": 1.0}, 0.0, 50_000.0,
            "about twice the highest serum values reported",
            zero_limit=0.02, loinc=("2857-1", "35741-8", "83112-3"),
        ),
        Observable(
            "testosterone", "nmol/L",
            {"nmol/L": 1.0, "ng/dL": _TESTOSTERONE_NG_DL, "ng/mL": 100 * _TESTOSTERONE_NG_DL,
             "ug/L": 100 * _TESTOSTERONE_NG_DL},
            0.0, 200.0,
            "five times the upper limit of normal, reached under supplementation only",
            zero_limit=0.1, loinc=("2986-8", "14913-8"),
        ),
        Observable(
            "ldh", "U/L", {"U/L": 1.0, "[IU]/L": 1.0, "ukat/L": 60.0}, 1.0, 100_000.0,
            "tumour lysis reaches tens of thousands; below 1 the assay failed",
            loinc=("2532-0", "14804-9", "14805-6"),
        ),
        Observable(
            "ctdna_allele_fraction", "1", {"1": 1.0, "%": 0.01}, 0.0, 1.0,
            "a fraction; a larger number is a percentage sent as a fraction",
            zero_limit=0.001, loinc=("81258-6",),
        ),
        Observable("leukocytes", "10*9/L", _CELLS, 0.0, 1000.0,
                   "hyperleukocytosis reaches several hundred", loinc=("6690-2", "26464-8")),
        Observable("neutrophils", "10*9/L", _CELLS, 0.0, 500.0,
                   "a part of the leukocytes", loinc=("751-8", "26499-4")),
        Observable("lymphocytes", "10*9/L", _CELLS, 0.0, 1000.0,
                   "lymphatic leukaemia reaches several hundred", loinc=("731-0", "26474-7")),
        Observable("platelets", "10*9/L", _CELLS, 0.0, 5000.0,
                   "essential thrombocythaemia reaches several thousand", loinc=("777-3", "26515-7")),
        Observable("haemoglobin", "g/L", {"g/L": 1.0, "g/dL": 10.0}, 10.0, 300.0,
                   "outside it life is not possible; smaller numbers are g/dL sent as g/L", loinc=("718-7",)),
        Observable("body_weight", "g", {"g": 1.0, "kg": 1000.0}, 5.0, 700_000.0,
                   "from a mouse, hardly under 10 g, to the heaviest people", loinc=("29463-7",)),
        Observable(RESISTANT_FRACTION, "1", {"1": 1.0, "%": 0.01}, 0.0, 1.0, "a share of a tumour"),
        Observable(HYPOXIC_FRACTION, "1", {"1": 1.0, "%": 0.01}, 0.0, 1.0, "a share of the tissue"),
        Observable(IMMUNE_EFFECT, "1", {"1": 1.0, "%": 0.01}, 0.0, 1.0, "a share of what is inside the tumour"),
        Observable(CELL_DENSITY, "/mm2", {"/mm2": 1.0}, 0.0, 50_000.0,
                   "lymphocytes of 5 um, side by side without a gap, are 40,000"),
    )
}  # fmt: skip
"""Name -> observable."""

BY_LOINC: Mapping[str, Observable] = {code: item for item in OBSERVABLES.values() for code in item.loinc}
"""LOINC code -> observable."""

TOO_SMALL_MM = 5.0
"""A lesion seen but too small to measure counts as 5 mm: RECIST 1.1, Eisenhauer 2009,
doi:10.1016/j.ejca.2008.10.026, section 4.3 (lesions that become "too small to measure")."""

TOO_SMALL_MM3 = 65.4498469
"""The volume of a ball of that diameter, pi/6 * 5**3."""

DOSE_UNITS: Mapping[str, tuple[str, float]] = {
    "mg": ("mg", 1.0), "g": ("mg", 1000.0), "ug": ("mg", 0.001),
    "mg/m2": ("mg/m2", 1.0), "g/m2": ("mg/m2", 1000.0), "mg/kg": ("mg/kg", 1.0), "ug/kg": ("mg/kg", 0.001),
    "[IU]": ("[IU]", 1.0), "Gy": ("Gy", 1.0), "cGy": ("Gy", 0.01), "MBq": ("MBq", 1.0), "GBq": ("MBq", 1000.0),
}  # fmt: skip
"""Allowed UCUM unit of a dose -> (canonical unit, factor)."""

HIGHEST_DOSE: Mapping[str, float] = {
    "mg": 50_000.0, "mg/m2": 50_000.0, "mg/kg": 5_000.0, "[IU]": 1e9, "Gy": 100.0, "MBq": 100_000.0,
}  # fmt: skip
"""Largest credible single dose by canonical unit: above high-dose methotrexate (12 g/m2), cell-cycle
ablative radiation (34 Gy in one fraction, 100 Gy summed) and radio-iodine (tens of GBq)."""

_SHAPES = {DIAMETER: "a length", VOLUME: "a volume", DIAMETER_SUM: "a length"}
_OTHER_SHAPE = {DIAMETER: VOLUME, VOLUME: DIAMETER}


def unit_complaint(observable: Observable, unit: str | None) -> tuple[str, str]:
    """Return (what is wrong, what to do) for a unit that is not on the observable's list."""
    allowed = " or ".join(observable.factors)
    if unit is None:
        return f"{observable.name} has no unit", f"send {allowed}"
    if observable.name in _SHAPES:
        remedy = f"send {allowed}"
        other = _OTHER_SHAPE.get(observable.name)
        if other is not None and unit in OBSERVABLES[other].factors:
            remedy += f", or use kind '{other}'"
        return f"unit '{unit}' is not {_SHAPES[observable.name]}", remedy
    return f"unit '{unit}' is not used for {observable.name}", f"send {allowed}"
