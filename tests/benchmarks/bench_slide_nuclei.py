"""Nuclei found in generated tissue with known nuclei, beside a plain detector: maxima of a Laplacian of Gaussians.

Each difficulty at three pixel sizes, tissue that no test and no choice of a constant has seen (seeds from 100 on). The
plain detector takes the fixed haematoxylin channel and the same nuclear scale, and is given the threshold that is best
for it on each picture, which ours is not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_laplace, maximum_filter
from tests.benchmarks.record import record

from oncotwin.spatial.slide_grid import make_slide_grid, tile_windows
from oncotwin.spatial.slide_nuclei import NucleiRule, find_nuclei, measure
from oncotwin.spatial.slide_phantom import DIFFICULTIES, Phantom, make_phantom, score_detections
from oncotwin.spatial.slide_stains import FIXED_VECTORS, fit_stains, sample_pixels, separate
from oncotwin.spatial.slide_tissue import fit_tissue, level_histogram

COMMAND = "python -m tests.benchmarks.bench_slide_nuclei"
BAR = 0.8
SIDE_UM, REACH_UM = 500.0, 3.0
PIXELS_UM = (0.25, 0.5, 0.69)
SEEDS = range(100, 104)
LEVELS = np.linspace(0.005, 0.2, 40)
FloatArray = NDArray[np.float64]


def ours(phantom: Phantom, mpp: float) -> float:
    """F1 of our nuclei."""
    side = phantom.image.shape[0]
    grid, tissue = make_slide_grid((side, side), mpp), fit_tissue(level_histogram(phantom.image))
    stains = fit_stains(sample_pixels(phantom.image, (0, 0), 10, 1), tissue)
    block = separate(phantom.image, tissue, stains, grid.factor)
    (window,) = tile_windows(grid, 10 * side, 0)
    found = measure(find_nuclei(block, window, grid, NucleiRule()), grid)
    return score_detections((phantom.x_um, phantom.y_um), (found.x_um, found.y_um), REACH_UM).f1


def plain(phantom: Phantom, mpp: float) -> float:
    """F1 of the best of many thresholds of the plain detector."""
    depth = -np.log((phantom.image.astype(np.float64) + 1.0) / 256.0)
    haematoxylin = (depth @ np.linalg.pinv(np.asarray(FIXED_VECTORS, dtype=np.float64)))[..., 0]
    sigma = 3.6 / np.sqrt(2.0) / mpp
    blobs = -gaussian_laplace(haematoxylin, sigma) * sigma**2
    peaks = blobs == maximum_filter(blobs, size=2 * round(2.0 / mpp) + 1)
    best = 0.0
    for level in LEVELS:
        y, x = np.nonzero(peaks & (blobs > level))
        places = (x.astype(np.float64) + 0.5) * mpp, (y.astype(np.float64) + 0.5) * mpp
        best = max(best, score_detections((phantom.x_um, phantom.y_um), places, REACH_UM).f1)
    return best


def main() -> None:
    """Measure, print and record."""
    worst: tuple[float, str] = (1.0, "")
    for kind, difficulty in DIFFICULTIES.items():
        scores: list[tuple[float, float]] = []
        for mpp in PIXELS_UM:
            side = round(SIDE_UM / mpp)
            for seed in SEEDS:
                phantom = make_phantom((side, side), mpp, difficulty, np.random.default_rng(seed))
                scores.append((ours(phantom, mpp), plain(phantom, mpp)))
        own, theirs = np.array(scores).T
        worst = min(worst, (float(own.min()), kind))
        print(f"{kind:8} F1 {own.mean():.3f} (worst {own.min():.3f}); plain detector at its best {theirs.mean():.3f}")
        record(
            f"spatial/nuclei/f1/{kind}", round(float(own.mean()), 4), "1", bar=f"at least {BAR}",
            is_met=bool(own.mean() >= BAR), command=COMMAND,
            reference=f"maxima of a Laplacian of Gaussians, best threshold of each picture: {theirs.mean():.3f}",
            note=f"mean of {len(own)} pictures of {SIDE_UM:.0f} um at {', '.join(map(str, PIXELS_UM))} um a pixel; "
            f"worst {own.min():.3f}",
        )
    print(f"worst picture of all: {worst[0]:.3f} ({worst[1]})")


if __name__ == "__main__":
    main()
