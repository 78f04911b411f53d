"""One good event of each kind, as JSON objects; the same that docs/events.md shows."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from oncotwin.domain.policy import Policy

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DOCUMENT = Path(__file__).parents[3] / "docs" / "events.md"


def examples() -> dict[str, dict[str, Any]]:
    """Kind -> its example in the document."""
    found = {}
    for block in re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL):
        content = json.loads(block)
        found[content["type"].removeprefix("org.oncotwin.").removesuffix(".v1")] = content
    return found


def example(kind: str, **changes: Any) -> dict[str, Any]:
    """One kind's example; `data` is merged with the example's, a value `...` leaves its key out."""
    content = json.loads(json.dumps(examples()[kind]))
    data = changes.pop("data", None)
    merged = {**content, **changes}
    if isinstance(data, dict):
        merged["data"] = {name: value for name, value in {**content["data"], **data}.items() if value is not ...}
    elif data is not None:
        merged["data"] = data
    return {name: value for name, value in merged.items() if value is not ...}


def line(kind: str, **changes: Any) -> bytes:
    """`example` as a JSON line."""
    return json.dumps(example(kind, **changes)).encode()


def policy(**changes: Any) -> Policy:
    """What the tests know of the world."""
    return Policy(**{"now": NOW, "array_stores": ("s3://sections/",), **changes})
