"""A model registry in memory, for tests that need versions and aliases and no server."""

from __future__ import annotations

from collections.abc import Mapping

from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.errors import ModelError
from oncotwin.ports.model_registry import CalibrationRun


class MemoryRegistry:
    """See `oncotwin.ports.model_registry.ModelRegistry`; versions are "1", "2" ..., as MLflow numbers them."""

    def __init__(self) -> None:
        """An empty registry."""
        self.runs: list[CalibrationRun] = []
        """The run of each version, oldest first."""
        self.metrics: dict[str, dict[str, float]] = {}
        """What was logged after the calibration, by version."""
        self._texts: list[str] = []
        self._aliases: dict[str, str] = {}

    def register(self, bundle: ModelBundle, run: CalibrationRun) -> str:
        """Keep a bundle as its JSON, as a real registry does; returns its version."""
        self._texts.append(bundle.to_json())
        self.runs.append(run)
        return str(len(self._texts))

    def load(self, version: str) -> tuple[str, ModelBundle]:
        """A bundle by version or alias, with the version it has."""
        found = self._aliases.get(version, version)
        if found not in self.versions():
            raise ModelError(f"model version {version!r} is not registered; the registry has {self.versions()}")
        return found, ModelBundle.from_json(self._texts[int(found) - 1])

    def set_alias(self, alias: str, version: str) -> None:
        """Point an alias at a version."""
        if version not in self.versions():
            raise ModelError(f"model version {version!r} is not registered; the registry has {self.versions()}")
        self._aliases[alias] = version

    def alias(self, alias: str) -> str | None:
        """The version that an alias points at."""
        return self._aliases.get(alias)

    def drop_alias(self, alias: str) -> None:
        """Have an alias point nowhere."""
        self._aliases.pop(alias, None)

    def log_metrics(self, version: str, metrics: Mapping[str, float]) -> None:
        """Keep scores with the version."""
        if version not in self.versions():
            raise ModelError(f"model version {version!r} is not registered; the registry has {self.versions()}")
        self.metrics.setdefault(version, {}).update(metrics)

    def versions(self) -> list[str]:
        """All versions, oldest first."""
        return [str(number + 1) for number in range(len(self._texts))]
