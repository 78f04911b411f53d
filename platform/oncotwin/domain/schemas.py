"""JSON schemas of the envelope and of every payload, generated from the models.

python -m oncotwin.domain.schemas FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

from oncotwin.domain.envelope import Event, schema_name
from oncotwin.domain.payloads import PAYLOADS, VERSION, Payload, event_type

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """Return file name -> JSON schema, for the envelope and for each kind's payload."""
    found: dict[str, dict[str, Any]] = {
        "event.v1.json": {"$schema": _DIALECT, "$id": "urn:oncotwin:schema:event:v1", **_schema(Event)}
    }
    for kind, payload in PAYLOADS.items():
        found[f"{kind}.v{VERSION}.json"] = {
            "$schema": _DIALECT,
            "$id": schema_name(event_type(kind)),
            **_schema(payload),
        }
    return found


def write(folder: Path) -> None:
    """Write all schemas into a folder, which is made where it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (folder / name).write_text(text_of(schema), encoding="utf-8")


def text_of(schema: dict[str, Any]) -> str:
    """Return a schema as it is written to its file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _schema(model: type[Event] | type[Payload]) -> dict[str, Any]:
    return model.model_json_schema(mode="validation")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
