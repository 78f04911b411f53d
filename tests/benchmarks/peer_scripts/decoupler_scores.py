"""Reference values of gene-set scores by decoupler (AUCell, ULM) and gseapy (ssGSEA), in an environment of its own.

    pip install decoupler==2.3.1 gseapy==1.3.1        (Python 3.12)
    python tests/benchmarks/peer_scripts/decoupler_scores.py > tests/reference/expression_scores.json
"""
# mypy: ignore-errors

import json
import sys
from importlib.metadata import version

import decoupler
import gseapy
import numpy as np
import pandas as pd

N_CELLS, N_GENES, N_TOP = 12, 60, 15
SETS = {"first": [0, 1, 2, 5, 9, 14], "middle": list(range(20, 45, 3)), "large": list(range(0, 60, 2))}


def main():
    """Draw inputs, ask the peers, print."""
    rng = np.random.default_rng(11)
    genes = [f"G{i:02d}" for i in range(N_GENES)]
    cells = [f"C{i:02d}" for i in range(N_CELLS)]
    level = 1.0 + np.isin(np.arange(N_GENES), SETS["first"]) * np.linspace(0.0, 3.0, N_CELLS)[:, None]
    plain = pd.DataFrame(np.round(rng.gamma(1.5, level), 5), index=cells, columns=genes)
    tied = pd.DataFrame(rng.poisson(0.8 * level).astype(float), index=cells, columns=genes)
    net = pd.DataFrame([(name, genes[i], 1.0) for name, own in SETS.items() for i in own],
                       columns=["source", "target", "weight"])
    found = {
        "made_by": "python tests/benchmarks/peer_scripts/decoupler_scores.py",
        "versions": {name: version(name) for name in ("decoupler", "gseapy")},
        "sets": SETS, "n_top": N_TOP, "plain": plain.to_numpy().tolist(), "tied": tied.to_numpy().tolist(),
        "aucell": {}, "ulm": {}, "ssgsea": {},
    }
    for name, table in (("plain", plain), ("tied", tied)):
        scores = decoupler.mt.aucell(table, net, tmin=1, n_up=N_TOP)
        found["aucell"][name] = _by_set(scores[0] if isinstance(scores, tuple) else scores)
        found["ulm"][name] = _by_set(decoupler.mt.ulm(table, net, tmin=1)[0])
    ranks = gseapy.ssgsea(
        data=plain.T, gene_sets={name: [genes[i] for i in own] for name, own in SETS.items()}, outdir=None,
        sample_norm_method="rank", correl_norm_type="rank", weight=0.25, min_size=1, max_size=N_GENES,
        permutation_num=0, no_plot=True, threads=1,
    ).res2d
    table = ranks.pivot(index="Name", columns="Term", values="ES").astype(float).loc[cells]
    found["ssgsea"]["plain"] = _by_set(table)
    json.dump(found, sys.stdout)
    print()


def _by_set(table):
    return {name: table[name].to_numpy(dtype=float).tolist() for name in SETS}


if __name__ == "__main__":
    main()
