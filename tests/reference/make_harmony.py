"""Write tests/reference/harmony.json: how harmonypy mixes the generated batches, by its own LISI.

Run from the repository's root in an environment of its own (harmonypy is GPL: nothing of it is read, shipped or
imported by the program or its tests; its results are numbers):

    python -m venv /tmp/harmony && /tmp/harmony/bin/pip install harmonypy==0.0.10 pandas
    PYTHONPATH=. /tmp/harmony/bin/python tests/reference/make_harmony.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import harmonypy  # type: ignore[import-not-found]
import pandas as pd
from tests.unit.spatial.batch_set import make_batches


def main() -> None:
    """Three sets, each by harmonypy's defaults."""
    cases = []
    for seed in range(3):
        points, batches, types = make_batches(seed)
        labels = pd.DataFrame({"batches": batches.astype(str), "types": types.astype(str)})
        found = harmonypy.run_harmony(points, labels, "batches", random_state=0)
        aligned = found.Z_corr.T if found.Z_corr.shape[0] == points.shape[1] else found.Z_corr
        case: dict[str, object] = {"seed": seed}
        for name, table in (("before", points), ("after", aligned)):
            lisi = harmonypy.compute_lisi(table, labels, ["batches", "types"])
            case[name] = {"batches": round(float(lisi[:, 0].mean()), 6), "types": round(float(lisi[:, 1].mean()), 6)}
        cases.append(case)
    made = {
        "made_by": "python tests/reference/make_harmony.py", "harmonypy": version("harmonypy"),
        "what": "mean LISI (perplexity 30) of batches and types, before and after", "cases": cases,
    }
    Path("tests/reference/harmony.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
