"""Both model registries, the one in memory and MLflow on SQLite, keep the laws of the port."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oncotwin.adapters.mlflow_registry import MlflowRegistry
from oncotwin.domain.bundle import ModelBundle, ModelPrior
from oncotwin.domain.errors import ModelError
from oncotwin.ports.model_registry import CalibrationRun, ModelRegistry
from oncotwin.testing.memory_registry import MemoryRegistry

OpenRegistry = Callable[[], ModelRegistry]


def bundle(mean: float) -> ModelBundle:
    """A bundle of one model whose prior has this mean."""
    numbers = {"mean": [mean, 1 / 3, 1e-300], "effects": {"docetaxel 75 mg/m²": {"sd": 0.1}}, "n": 12}
    return ModelBundle({"tumour_burden": ModelPrior("tumour_burden", numbers, {"scale": 1.1}, "f" * 64)})


def run(name: str) -> CalibrationRun:
    """What is kept of a calibration."""
    return CalibrationRun(
        name, {"rounds": "12", "text": "x" * 900}, {"crps": 0.25, "coverage/90": 0.9}, {"data_fingerprint": "f" * 64}
    )


class ModelRegistryConformance:
    """Laws of the port `oncotwin.ports.model_registry.ModelRegistry`."""

    def test_versions_and_aliases(self, open_registry: OpenRegistry) -> None:
        registry = open_registry()
        assert registry.versions() == []
        assert registry.alias("champion") is None
        for missing in ("champion", "1", "no such thing"):
            with pytest.raises(ModelError, match=missing):
                registry.load(missing)
        with pytest.raises(ModelError, match="1"):
            registry.set_alias("champion", "1")

        first = registry.register(bundle(0.1), run("first"))
        second = registry.register(bundle(0.2), run("second"))
        registry.set_alias("challenger", second)
        registry.set_alias("champion", first)

        again = open_registry()
        assert again.versions() == [first, second]
        assert again.load(first) == (first, bundle(0.1))
        assert again.load("challenger") == (second, bundle(0.2))
        assert again.load("champion")[1].to_json() == bundle(0.1).to_json()
        registry.set_alias("champion", second)
        assert again.alias("champion") == second
        with pytest.raises(ModelError, match="is not registered"):
            registry.set_alias("champion", "99")
        assert again.alias("champion") == second
        registry.drop_alias("champion")
        registry.drop_alias("champion")
        assert again.alias("champion") is None and again.alias("challenger") == second

    def test_scores_that_came_later_are_kept(self, open_registry: OpenRegistry) -> None:
        registry = open_registry()
        version = registry.register(bundle(0.1), run("first"))
        registry.log_metrics(version, {"shadow_coverage_90": 0.8, "shadow_n_events": 10.0})
        registry.log_metrics(version, {"shadow_coverage_90": 0.9})
        with pytest.raises(ModelError, match="is not registered"):
            registry.log_metrics("99", {"shadow_coverage_90": 0.9})


class TestMemoryRegistry(ModelRegistryConformance):
    """The fake."""

    @pytest.fixture
    def open_registry(self) -> OpenRegistry:
        """One registry, for as long as the test runs."""
        registry = MemoryRegistry()
        return lambda: registry


class TestMlflowRegistry(ModelRegistryConformance):
    """MLflow on SQLite with its artefacts beside."""

    @pytest.fixture
    def open_registry(self, tmp_path: Path) -> OpenRegistry:
        """A registry in this test's folder, opened anew at each call."""
        return lambda: MlflowRegistry(f"sqlite:///{tmp_path}/new/mlflow.sqlite")


def test_mlflow_keeps_the_run_and_serves_the_bundle_as_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/registry/mlflow.sqlite"
    registry = MlflowRegistry(uri)
    version = registry.register(bundle(0.3), run("kept"))
    registry.log_metrics(version, {"shadow_coverage_90": 0.8})
    registry.log_metrics(version, {"shadow_coverage_90": 0.9})

    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri, uri)
    run_id = client.get_model_version("oncotwin", version).run_id
    assert run_id is not None
    kept = client.get_run(run_id)
    assert kept.info.run_name == "kept"
    assert kept.info.status == "FINISHED"
    assert kept.data.params["rounds"] == "12"
    assert kept.data.metrics == {"crps": 0.25, "coverage/90": 0.9, "shadow_coverage_90": 0.9}
    assert kept.data.tags["data_fingerprint"] == "f" * 64
    # Models from code: nothing below the registry's folder is a pickle, and nothing lies outside of it.
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "registered_model.py" for path in files)
    assert not any(path.suffix in {".pkl", ".pickle", ".joblib"} for path in files)
    assert all(path.is_relative_to(tmp_path / "registry") for path in files)
    texts = {path.read_text() for path in files if path.name == "bundle.json"}
    assert texts == {bundle(0.3).to_json()}
