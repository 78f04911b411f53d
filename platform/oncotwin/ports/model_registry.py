"""The registry of model versions: what was learned, from which data, and which version is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from oncotwin.domain.bundle import ModelBundle


@dataclass(frozen=True, slots=True)
class CalibrationRun:
    """What is kept of a calibration beside its bundle.

    Attributes:
        parameters: settings of the run. metrics: scores, finite numbers.
        tags: the data's fingerprint, institutions, counts.
    """

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class ModelRegistry(Protocol):
    """Versions and their aliases (``champion``, ``challenger``)."""

    def register(self, bundle: ModelBundle, run: CalibrationRun) -> str:
        """Keep a bundle; returns its version."""
        ...

    def load(self, version: str) -> tuple[str, ModelBundle]:
        """A bundle by version or alias, with the version it has.

        Raises:
            ModelError: no such version or alias.
        """
        ...

    def set_alias(self, alias: str, version: str) -> None:
        """Point an alias at a version.

        Raises:
            ModelError: no such version.
        """
        ...

    def alias(self, alias: str) -> str | None:
        """The version that an alias points at."""
        ...

    def drop_alias(self, alias: str) -> None:
        """Have an alias point nowhere; no matter if it did already."""
        ...

    def log_metrics(self, version: str, metrics: Mapping[str, float]) -> None:
        """Keep scores that came after the calibration with the version's run; of one name the last counts.

        Raises:
            ModelError: no such version.
        """
        ...

    def versions(self) -> list[str]:
        """All versions, oldest first."""
        ...
