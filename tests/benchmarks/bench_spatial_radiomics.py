"""Radiomic features of the IBSI digital phantom beside every reference value that was published for it.

All six aggregations of texture matrices at once, nothing discretised. Prints a line for each value; the phantom, the
values and the rule by which one is met are in `tests/reference/ibsi_digital_phantom.json`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from tests.benchmarks.record import record

from oncotwin.adapters.arrays.radiomics import Aggregation, RadiomicsSettings, radiomic_features

REFERENCE = Path(__file__).parents[1] / "reference" / "ibsi_digital_phantom.json"
SETTINGS = RadiomicsSettings(is_hounsfield=True, aggregations=tuple(Aggregation))
"""The phantom's levels are a definite unit: its intensity-volume histogram has a level for each of them."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One published value and what was computed."""

    tag: str
    aggregation: str | None
    computed: float | None
    """None where the library has no such feature."""
    published: Decimal
    tolerance: Decimal

    @property
    def is_met(self) -> bool:
        """Rounded to the three digits of the published value, it is within the tolerance; in decimals, so exactly."""
        if self.computed is None or not np.isfinite(self.computed):
            return False
        return abs(Decimal(f"{self.computed:.2e}") - self.published) <= self.tolerance

    def __str__(self) -> str:
        """Computed, reference, tolerance, met."""
        computed = "none" if self.computed is None else f"{self.computed:.6g}"
        mark = "met" if self.is_met else "MISSED"
        return f"{self.tag:32} {computed:>12} {self.published:>8} +- {self.tolerance:<7} {mark}"


def reference() -> dict[str, Any]:
    """The phantom and its values, in the digits in which they are written."""
    content: dict[str, Any] = json.loads(REFERENCE.read_text(), parse_float=Decimal)
    return content


def computed_features() -> dict[str, float]:
    """All features of the phantom."""
    phantom = reference()
    z, y, x = map(float, phantom["spacing_mm"])
    return radiomic_features(np.array(phantom["image"], float), np.array(phantom["mask"]), (z, y, x), SETTINGS)


def comparisons(features: dict[str, float]) -> list[Comparison]:
    """Every published value beside the computed one."""
    return [
        Comparison(one["tag"], one["aggregation"], features.get(one["tag"]), Decimal(one["value"]),
                   Decimal(one["tolerance"]))
        for one in reference()["values"]
    ]  # fmt: skip


def main() -> None:
    """Compute, compare, print and record."""
    began = time.perf_counter()
    features = computed_features()
    seconds = time.perf_counter() - began
    compared = comparisons(features)
    for one in compared:
        print(one)
    missed = [one.tag for one in compared if not one.is_met]
    share = 1.0 - len(missed) / len(compared)
    print(f"{len(compared) - len(missed)} of {len(compared)} reference values within their tolerance ({seconds:.1f} s)")
    record(
        "spatial/radiomics/ibsi", round(share, 4), "1",
        reference=f"IBSI digital phantom, {len(compared)} published values (doi:10.1148/radiol.2020191145)",
        bar="every value within its tolerance", is_met=not missed,
        command="python -m tests.benchmarks.bench_spatial_radiomics",
        note=f"{len(compared) - len(missed)} of {len(compared)} values, in all six aggregations, by the extra "
        f"`radiomics`; missed: {', '.join(missed) or 'none'}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
