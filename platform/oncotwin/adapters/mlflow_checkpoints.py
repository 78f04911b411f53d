"""Signed checkpoints as MLflow artefacts: one run of one experiment for each institution, one file a checkpoint."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from oncotwin.adapters.mlflow_registry import _quiet as quiet
from oncotwin.domain.audit import AuditError
from oncotwin.domain.audit_verify import StoredCheckpoint
from oncotwin.domain.canonical import canonical_json
from oncotwin.domain.checkpoint import SignedCheckpoint

EXPERIMENT = "oncotwin-audit"
WHERE = "the model registry"
_INSTITUTION = "oncotwin.institution"
_FOLDER = "checkpoints"


class MlflowCheckpoints:
    """See `CheckpointRegistry`; the tracking server is SQLite beside its artefacts, or any that MLflow knows."""

    def __init__(self, tracking_uri: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._uri = tracking_uri
        self._file: Path | None = None
        if tracking_uri.startswith("sqlite:///"):
            self._file = Path(urlsplit(tracking_uri).path[1:] or "mlflow.sqlite").absolute()
        self._mlflow: Any = None
        self._client: Any = None
        self._runs: dict[str, str] = {}

    def keep(self, signed: SignedCheckpoint) -> None:
        """Keep one checkpoint; the same one again replaces itself.

        Raises:
            AuditError: the registry does not answer.
        """
        found = signed.checkpoint
        with quiet():
            try:
                if self._file is not None:
                    self._file.parent.mkdir(parents=True, exist_ok=True)
                run = self._run(found.institution)
                text = canonical_json(signed.to_dict()).decode()
                self._connected().log_text(run, text, f"{_FOLDER}/{found.size:012d}.json")
            except Exception as error:  # MLflow's, its server's and its disk's have no common root
                raise _unreachable(error) from error

    def sizes(self, institution: str) -> set[int]:
        """Sizes of the checkpoints that are kept of an institution.

        Raises:
            AuditError: the registry does not answer.
        """
        if self._is_absent():
            return set()
        with quiet():
            try:
                files = self._connected().list_artifacts(self._run(institution), _FOLDER)
            except Exception as error:
                raise _unreachable(error) from error
        return {int(Path(file.path).stem) for file in files if Path(file.path).stem.isdigit()}

    def held(self) -> list[StoredCheckpoint]:
        """All checkpoints that are kept, as they lie there.

        Raises:
            AuditError: the registry does not answer.
        """
        if self._is_absent():
            return []
        with quiet():
            try:
                return list(self._read())
            except Exception as error:
                raise _unreachable(error) from error

    def _is_absent(self) -> bool:
        """Whether nobody has written to it yet; to ask it would make it."""
        return self._file is not None and not self._file.exists()

    def _read(self) -> Iterator[StoredCheckpoint]:
        client = self._connected()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return
        for run in client.search_runs([experiment.experiment_id]):
            with tempfile.TemporaryDirectory() as folder:
                self._mlflow.artifacts.download_artifacts(
                    run_id=run.info.run_id, artifact_path=_FOLDER, dst_path=folder, tracking_uri=self._uri
                )
                for path in sorted(Path(folder).rglob("*.json")):
                    yield _stored(path.read_bytes(), str(run.data.tags.get(_INSTITUTION, "")), path.stem)

    def _run(self, institution: str) -> str:
        """The run that keeps an institution's checkpoints."""
        if institution not in self._runs:
            client = self._connected()
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                artifacts = None if self._file is None else (self._file.parent / "mlflow-artifacts").as_uri()
                number = client.create_experiment(EXPERIMENT, artifact_location=artifacts)
            else:
                number = experiment.experiment_id
            found = client.search_runs([number], f"tags.`{_INSTITUTION}` = '{institution}'")
            if not found:
                found = [client.create_run(number, tags={_INSTITUTION: institution}, run_name=institution)]
            self._runs[institution] = str(found[0].info.run_id)
        return self._runs[institution]

    def _connected(self) -> Any:
        if self._client is None:
            import mlflow
            from mlflow.tracking import MlflowClient

            self._mlflow, self._client = mlflow, MlflowClient(self._uri, self._uri)
        return self._client


def _stored(raw: bytes, institution: str, name: str) -> StoredCheckpoint:
    """A file as a checkpoint, whatever is in it."""
    try:
        content = json.loads(raw)
        body, signature = canonical_json(content["checkpoint"]), bytes.fromhex(content["signature"])
    except (ValueError, KeyError, TypeError, RecursionError):
        body, signature = raw, b""
    return StoredCheckpoint(WHERE, body, signature, institution, int(name) if name.isdigit() else None)


def _unreachable(error: Exception) -> AuditError:
    text = str(error).splitlines()
    return AuditError(
        f"the model registry does not answer ({error.__class__.__name__}: {text[0] if text else ''}); see the setting "
        "`mlflow`"
    )
