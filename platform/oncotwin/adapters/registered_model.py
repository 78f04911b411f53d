"""What MLflow stores as the code of a registered version: it answers with the bundle, and nothing is pickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class RegisteredBundle(PythonModel):
    """A bundle of priors behind MLflow's generic interface."""

    def load_context(self, context: Any) -> None:
        """Read the bundle from the version's artefacts."""
        self.text = Path(context.artifacts["bundle"]).read_text(encoding="utf-8")

    def predict(self, context: Any, model_input: list[str], params: dict[str, Any] | None = None) -> list[str]:
        """The bundle as JSON, once for each row asked."""
        del context, params
        return [self.text for _ in model_input]


set_model(RegisteredBundle())
