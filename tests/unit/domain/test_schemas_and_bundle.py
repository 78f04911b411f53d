"""The schemas in the documents are the models'; a bundle of priors survives its JSON."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.domain.example_events import DOCUMENT, examples

from oncotwin.domain.bundle import FilterChoice, ModelBundle, ModelPrior
from oncotwin.domain.errors import EventError, ModelError
from oncotwin.domain.ids import split_twin_id, twin_id
from oncotwin.domain.payloads import PAYLOADS
from oncotwin.domain.schemas import schemas, text_of, write
from oncotwin.domain.units import BY_LOINC, OBSERVABLES

DOCS = Path(__file__).parents[3] / "docs" / "schemas"


def test_the_written_schemas_are_current(tmp_path: Path) -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in DOCS.glob("*.json")}
    assert written == {name: text_of(schema) for name, schema in schemas().items()}, (
        "run `python -m oncotwin.domain.schemas docs/schemas`"
    )
    write(tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(written)


def test_the_document_has_every_kind_observable_and_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert set(examples()) == set(PAYLOADS)
    assert all(f"`{name}`" in text for name in OBSERVABLES)
    assert all(code in text for code in BY_LOINC)


@pytest.mark.parametrize("chosen", [FilterChoice(), FilterChoice("particle", {"n_particles": 500, "jitter": 0.5})])
def test_a_bundle_survives_its_json(chosen: FilterChoice) -> None:
    bundle = ModelBundle({"m": ModelPrior("m", {"mean": [1.0, 2.0]}, {"scale": 1.1}, "ab")}, chosen)
    assert ModelBundle.from_json(bundle.to_json()) == bundle


def test_a_bundle_of_the_first_release_follows_the_default_filter() -> None:
    """It says nothing of a filter, and a bundle that keeps the default still reads so to that release."""
    text = (
        '{"format": 1, "models": {"m": {"fingerprint": "ab", "forecast_calibration": {"scale": 1.1}, '
        '"hyperparameters": {"mean": [1.0, 2.0]}, "model": "m"}}}'
    )
    bundle = ModelBundle.from_json(text)
    assert bundle.filter == FilterChoice("unscented")
    assert bundle.to_json() == text
    assert '"format": 2' in ModelBundle(bundle.models, FilterChoice("ensemble", {"n_members": 64})).to_json()


@pytest.mark.parametrize("text", [
    "", "[]", "{}", '{"format": 3, "models": {}}', '{"format": 2, "models": {}}',
    '{"format": 2, "models": {}, "filter": 1}', '{"format": 1, "models": [1]}',
])
def test_what_is_no_bundle_is_refused(text: str) -> None:
    with pytest.raises(ModelError):
        ModelBundle.from_json(text)


def test_a_prior_must_be_json() -> None:
    with pytest.raises(ModelError):
        ModelBundle({"m": ModelPrior("m", {"mean": float("nan")})}).to_json()


@pytest.mark.parametrize("patient", ["-6958489842191471616", "X.010.BG98", "a_b-c.d"])
def test_pseudonyms_of_the_published_tables_are_names(patient: str) -> None:
    assert split_twin_id(twin_id("FIR", patient)) == ("FIR", patient)


@pytest.mark.parametrize("patient", ["", ".", "..", "a/b", "a b", "ä", "x" * 65, "a\n"])
def test_other_pseudonyms_are_refused(patient: str) -> None:
    with pytest.raises(EventError):
        twin_id("FIR", patient)
    with pytest.raises(EventError):
        split_twin_id(f"FIR/{patient}")
