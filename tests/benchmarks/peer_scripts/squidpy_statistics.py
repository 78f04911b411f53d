"""Runs in squidpy's own environment: Moran's I and neighbourhood enrichment, timed by the processor's clock.

Reads on standard input a JSON object that names a folder with the inputs; writes one on standard output.
"""
# mypy: ignore-errors

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np

warnings.filterwarnings("ignore")


def section(folder, n_cells, matrix):
    """Cells with their graph, as squidpy takes them."""
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

    offsets, neighbours = np.load(folder / "offsets.npy"), np.load(folder / "neighbours.npy")
    found = anndata.AnnData(X=matrix)
    found.obsp["spatial_connectivities"] = csr_matrix(
        (np.ones(len(neighbours)), neighbours, offsets), shape=(n_cells, n_cells)
    )
    found.obs["type"] = pd.Categorical(np.load(folder / "labels.npy"))
    found.uns["spatial_neighbors"] = {"connectivities_key": "spatial_connectivities"}
    return found


def main():
    """Answer one question."""
    import squidpy as sq

    asked = json.load(sys.stdin)
    folder = Path(asked["folder"])
    if asked["what"] == "moran":
        matrix = np.load(folder / "matrix.npy")
        cells = section(folder, len(matrix), matrix)
        ask = {"mode": "moran", "n_perms": None, "n_jobs": 1, "show_progress_bar": False}
        sq.gr.spatial_autocorr(cells, genes=list(cells.var_names[:2]), **ask)  # compiles
        began = time.process_time()
        sq.gr.spatial_autocorr(cells, genes=list(cells.var_names), **ask)
        seconds = time.process_time() - began
        values = cells.uns["moranI"].loc[list(cells.var_names), "I"].tolist()
    else:
        n_cells = len(np.load(folder / "labels.npy"))
        cells = section(folder, n_cells, np.zeros((n_cells, 1), dtype=np.float32))
        ask = {"cluster_key": "type", "n_jobs": 1, "show_progress_bar": False}
        sq.gr.nhood_enrichment(cells, n_perms=2, seed=0, **ask)
        values, seconds = [], 0.0
        for seed in range(asked["n_seeds"]):
            began = time.process_time()
            sq.gr.nhood_enrichment(cells, n_perms=asked["n_permutations"], seed=seed, **ask)
            seconds += time.process_time() - began
            values.append(cells.uns["type_nhood_enrichment"]["zscore"].tolist())
    json.dump({"values": values, "seconds": seconds}, sys.stdout)


if __name__ == "__main__":
    main()
