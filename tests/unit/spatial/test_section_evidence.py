"""What a section says of a tumour's state: the stated quotients, their intervals, and honest abstention."""

from __future__ import annotations

import math

import pytest

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.section_evidence import Reading, read_evidence
from oncotwin.spatial.signature import Signature


def sig(name: str, value: float, low: float = math.nan, high: float = math.nan, unit: str = "1") -> Signature:
    return Signature(name, value, unit, low, high, "source", "told why" if math.isnan(value) else "")


SECTION = (
    sig("tumour.share", 0.5), sig("tumour.area", 4e6, 3e6, 5e6, "um2"),
    sig("stemness.hotspot_area", 1e6, 0.5e6, 1.5e6, "um2"), sig("hypoxia.hotspot_area", 2e6, 1e6, 3e6, "um2"),
    sig("immune.share_inside", 0.02, 0.01, 0.04),
)


def read(*signatures: Signature, n: float = 30.0) -> dict[str, Reading]:
    readings, _ = read_evidence(signatures, n)
    return {one.observable: one for one in readings}


def test_a_section_says_the_stated_quotients() -> None:
    found = read(*SECTION)
    assert (found["resistant_fraction"].value, found["resistant_fraction"].low) == (0.25, 0.125)
    # All of the tissue is the tumour over its share.
    assert (found["hypoxic_fraction"].value, found["hypoxic_fraction"].high) == (0.25, 0.375)
    assert (found["immune_effect"].low, found["immune_effect"].high) == (0.01, 0.04)
    assert found["resistant_fraction"].read_off == ("stemness.hotspot_area", "tumour.area")
    readings, abstained = read_evidence(SECTION, 30.0)
    assert abstained == {"cell_density": "there is no nuclei.density"}
    assert len({one.observable for one in readings}) == len(readings) == 3


def test_a_slide_says_density_and_immune_share() -> None:
    density = sig("nuclei.density", 4_000.0, 3_500.0, 4_500.0, "/mm2")
    found = read(density, sig("class_immune_like.share", 0.1, 0.05, 0.2))
    assert found["cell_density"].value == 4_000.0 and found["cell_density"].unit == "/mm2"
    assert found["immune_effect"].value == 0.1


def test_the_order_of_signatures_does_not_matter() -> None:
    assert read_evidence(SECTION, 30.0) == read_evidence(SECTION[::-1], 30.0)


def test_what_was_never_seen_may_still_be_there() -> None:
    none = [one for one in SECTION if not one.name.startswith("hypoxia")]
    found = read(*none, sig("hypoxia.hotspot_area", 0.0, 0.0, 0.0, "um2"), n=60.0)["hypoxic_fraction"]
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.05)
    few = read_evidence([*none, sig("hypoxia.hotspot_area", 0.0, 0.0, 0.0, "um2")], 2.0)
    assert "anything" in few[1]["hypoxic_fraction"]


def test_a_share_above_one_is_one_and_an_interval_holds_its_value() -> None:
    others = [one for one in SECTION if not one.name.startswith("stemness")]
    above = read(*others, sig("stemness.hotspot_area", 5e6, 3e6, 6e6, "um2"), n=30.0)["resistant_fraction"]
    assert (above.value, above.high) == (1.0, 1.0) and above.low == pytest.approx(0.9)
    skewed = read(*others, sig("stemness.hotspot_area", 1e6, 1.2e6, 2e6, "um2"))["resistant_fraction"]
    assert skewed.low == skewed.value == 0.25 and skewed.high == 0.5


def test_abstains_with_a_reason() -> None:
    _, abstained = read_evidence(
        [sig("immune.share_inside", math.nan), sig("stemness.hotspot_area", 1.0, 0.5, 2.0, "um2"),
         sig("tumour.area", 0.0, 0.0, 0.0, "um2"), sig("nuclei.density", 5.0, unit="/mm2")], 10.0,
    )
    assert "told why" in abstained["immune_effect"]
    assert "no share" in abstained["resistant_fraction"]
    assert "no interval" in abstained["cell_density"]
    assert "hypoxia.hotspot_area" in abstained["hypoxic_fraction"]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        read_evidence([*SECTION, SECTION[0]], 10.0)
    with pytest.raises(ConfigurationError, match="at least one"):
        read_evidence(SECTION, 0.5)
