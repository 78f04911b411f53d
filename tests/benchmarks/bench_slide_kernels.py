"""What the per-pixel path of a slide costs beside reading and decompressing it, in CPU seconds of one core.

A tile of generated H&E (4,096 raw pixels a side with its halo, 0.25 um) goes through stains and mask, nuclei and maps;
the yardstick reads the same tile from a Zarr array of lz4 chunks of 512 pixels in shards of 4,096.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from oncotwin.spatial.slide_grid import make_slide_grid, tile_windows
from oncotwin.spatial.slide_maps import cell_pixels, sum_cells
from oncotwin.spatial.slide_nuclei import NucleiRule, find_nuclei, halo
from oncotwin.spatial.slide_phantom import DIFFICULTIES, make_phantom
from oncotwin.spatial.slide_stains import fit_stains, sample_pixels, separate
from oncotwin.spatial.slide_tissue import fit_tissue, level_histogram

TILE = 4096
N_ROUNDS = 5


def cpu_seconds(work: Callable[[], object]) -> float:
    """Median CPU seconds of a few rounds."""
    work()
    taken = []
    for _ in range(N_ROUNDS):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return median(taken)


def main() -> None:
    """Print seconds and ratios."""
    quarter = make_phantom((TILE // 2, TILE // 2), 0.25, DIFFICULTIES["mixed"], np.random.default_rng(1)).image
    image = np.tile(quarter, (3, 3, 1))
    grid, rule = make_slide_grid(image.shape[:2], 0.25), NucleiRule()
    tissue = fit_tissue(level_histogram(quarter))
    stains = fit_stains(sample_pixels(quarter, (0, 0), 64, 1), tissue)
    window = next(tile_windows(grid, TILE, halo(grid, rule)))
    raw, cell = image[window.raw], cell_pixels(grid, 50.0)
    block = separate(raw, tissue, stains, grid.factor)
    nuclei = find_nuclei(block, window, grid, rule)
    with tempfile.TemporaryDirectory() as folder:
        lz4 = BloscCodec(cname="lz4", clevel=5, shuffle="noshuffle")
        stored = zarr.create_array(
            folder + "/slide", shape=(TILE, TILE, 3), shards=(TILE, TILE, 3), chunks=(512, 512, 3), dtype="u1",
            compressors=lz4,
        )  # fmt: skip
        stored[:] = image[:TILE, :TILE]
        read = cpu_seconds(lambda: stored[:])
    parts = {
        "stains and mask": cpu_seconds(lambda: separate(raw, tissue, stains, grid.factor)),
        "nuclei": cpu_seconds(lambda: find_nuclei(block, window, grid, rule)),
        "maps": cpu_seconds(lambda: sum_cells(block, window, nuclei, cell)),
    }
    print(f"read and decompress {read * 1e3:7.0f} ms CPU, tile of {TILE}, {len(nuclei.row)} nuclei")
    for name, seconds in parts.items():
        print(f"{name:19} {seconds * 1e3:7.0f} ms CPU, {seconds / read:5.2f} x reading")
    print(f"{'all':19} {sum(parts.values()) * 1e3:7.0f} ms CPU, {sum(parts.values()) / read:5.2f} x reading")


if __name__ == "__main__":
    main()
