"""Reference values of spatial statistics by esda, in an environment of its own.

    pip install esda==2.10.0 libpysal squidpy==1.8.3 "setuptools<81"
    python tests/benchmarks/peer_scripts/esda_statistics.py > tests/reference/spatial_statistics.json
"""
# mypy: ignore-errors

import json
import sys
import warnings
from importlib.metadata import version

import numpy as np
from esda import G_Local, Geary, Moran
from libpysal.weights import KNN, W, fill_diagonal
from scipy.spatial import cKDTree

warnings.filterwarnings("ignore")


def distance_band(points, radius):
    """Symmetric neighbours within a radius."""
    rows = cKDTree(points).query_ball_point(points, radius)
    return W({i: sorted(set(row) - {i}) for i, row in enumerate(rows)}, silence_warnings=True)


def statistics(values, weights):
    """Global statistics with their moments."""
    moran, geary = Moran(values, weights, transformation=weights.transform, permutations=0), Geary(
        values, weights, transformation=weights.transform, permutations=0
    )
    return {
        "moran": [moran.I, moran.EI, moran.VI_norm, moran.VI_rand, moran.z_norm, moran.z_rand, moran.p_norm,
                  moran.p_rand],
        "geary": [geary.C, geary.EC, geary.VC_norm, geary.VC_rand, geary.z_norm, geary.z_rand],
    }


def main():
    """Draw inputs, ask esda, print."""
    rng = np.random.default_rng(20)
    points = np.round(rng.random((80, 2)) * 500.0, 3)
    smooth = np.exp(-((points[:, 0] - 200.0) ** 2 + (points[:, 1] - 300.0) ** 2) / 2e4)
    # Positive, because esda divides by their sum (Getis & Ord 1992), which turns the sign where it is negative.
    values = np.round(np.column_stack([
        5.0 + rng.normal(size=80), smooth + 0.2 * rng.normal(size=80), rng.gamma(0.3, 2.0, 80), 1e4 + smooth,
    ]), 6)
    found = {
        "made_by": "python tests/benchmarks/peer_scripts/esda_statistics.py",
        "versions": {name: version(name) for name in ("esda", "libpysal")},
        "points_um": points.tolist(), "values": values.tolist(), "k": 5, "radius_um": 90.0, "global": {}, "g_star": {},
    }
    graphs = {"knn": KNN(points, k=5), "radius": distance_band(points, 90.0)}
    for name, weights in graphs.items():
        for transform, weighting in (("b", "binary"), ("r", "row")):
            weights.transform = transform
            found["global"][f"{name} {weighting}"] = [statistics(column, weights) for column in values.T]
        weights.transform = "b"
        starred = fill_diagonal(weights, val=1.0)
        found["g_star"][name] = [
            G_Local(column, starred, transform="B", star=True, permutations=0).Zs.tolist() for column in values.T
        ]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
