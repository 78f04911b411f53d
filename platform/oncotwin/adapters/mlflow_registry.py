"""`ModelRegistry` on MLflow: one run a calibration, one registered version a bundle, aliases for trust."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.errors import ModelError
from oncotwin.ports.model_registry import CalibrationRun

REGISTERED_NAME = "oncotwin"
EXPERIMENT = "oncotwin-calibration"
_BUNDLE = "bundle.json"


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow talks much of itself; its errors still come through."""
    before = logging.root.manager.disable
    # MLflow sets its loggers' levels anew at import, so they are hushed above them.
    logging.disable(logging.WARNING)
    try:
        # What it prints of its successes goes nowhere; failures come as exceptions.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class MlflowRegistry:
    """See `ModelRegistry`; the tracking server is SQLite beside its artefacts, or any that MLflow knows."""

    def __init__(self, tracking_uri: str) -> None:
        # Read when it is imported: a hospital's registry reports to nobody.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        with _quiet():
            import mlflow
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient

            self._mlflow: Any = mlflow
            self._failure: Any = MlflowException
            self._uri = tracking_uri
            self._artifacts: str | None = None
            if tracking_uri.startswith("sqlite:///"):
                path = Path(urlsplit(tracking_uri).path[1:] or "mlflow.sqlite")
                path.parent.mkdir(parents=True, exist_ok=True)
                self._artifacts = (path.parent.absolute() / "mlflow-artifacts").as_uri()
            self._client: Any = MlflowClient(tracking_uri, tracking_uri)

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(EXPERIMENT, artifact_location=self._artifacts))

    def register(self, bundle: ModelBundle, run: CalibrationRun) -> str:
        """Keep a bundle with its run; returns its version."""
        mlflow = self._mlflow
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            mlflow.set_tracking_uri(self._uri)
            mlflow.set_registry_uri(self._uri)
            path = Path(folder) / _BUNDLE
            path.write_text(bundle.to_json(), encoding="utf-8")
            with mlflow.start_run(experiment_id=self._experiment(), run_name=run.name):
                mlflow.log_params(dict(run.parameters))
                mlflow.log_metrics(dict(run.metrics))
                mlflow.set_tags(dict(run.tags))
                mlflow.log_artifact(str(path))
                logged = mlflow.pyfunc.log_model(
                    name="model", python_model=str(Path(__file__).with_name("registered_model.py")),
                    artifacts={"bundle": str(path)}, registered_model_name=REGISTERED_NAME, pip_requirements=[],
                )
            return str(logged.registered_model_version)

    def load(self, version: str) -> tuple[str, ModelBundle]:
        """A bundle by version or alias, with the version it has."""
        with _quiet():
            number = version if version.isdigit() else self.alias(version)
            if number is None:
                raise ModelError(
                    f"no model version is {version!r}; run `oncotwin calibrate EVENTS.jsonl`, then "
                    "`oncotwin promote VERSION`"
                )
            try:
                found = self._client.get_model_version(REGISTERED_NAME, number)
            except self._failure as error:
                raise ModelError(
                    f"model version {version!r} is not registered; the registry has {self.versions()}"
                ) from error
            self._mlflow.set_tracking_uri(self._uri)
            path = self._mlflow.artifacts.download_artifacts(run_id=found.run_id, artifact_path=_BUNDLE)
            return number, ModelBundle.from_json(Path(path).read_text(encoding="utf-8"))

    def set_alias(self, alias: str, version: str) -> None:
        """Point an alias at a version."""
        with _quiet():
            if version not in self.versions():
                raise ModelError(f"model version {version!r} is not registered; the registry has {self.versions()}")
            self._client.set_registered_model_alias(REGISTERED_NAME, alias, version)

    def alias(self, alias: str) -> str | None:
        """The version that an alias points at."""
        with _quiet():
            try:
                return str(self._client.get_model_version_by_alias(REGISTERED_NAME, alias).version)
            except self._failure:
                return None

    def drop_alias(self, alias: str) -> None:
        """Have an alias point nowhere."""
        if self.alias(alias) is not None:
            with _quiet():
                self._client.delete_registered_model_alias(REGISTERED_NAME, alias)

    def log_metrics(self, version: str, metrics: Mapping[str, float]) -> None:
        """Keep scores with the version's run."""
        with _quiet():
            if version not in self.versions():
                raise ModelError(f"model version {version!r} is not registered; the registry has {self.versions()}")
            run_id = str(self._client.get_model_version(REGISTERED_NAME, version).run_id)
            for name, value in metrics.items():
                self._client.log_metric(run_id, name, value)

    def versions(self) -> list[str]:
        """All versions, oldest first."""
        with _quiet():
            found = self._client.search_model_versions(f"name = '{REGISTERED_NAME}'")
            return sorted((str(one.version) for one in found), key=int)
