"""Generated sections and slides written as an institution would send them, free to be passed on.

The models are `oncotwin.spatial.section_phantom` and `oncotwin.spatial.slide_phantom`.
"""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np

from oncotwin.adapters.arrays.slides import write_pyramid
from oncotwin.spatial.section_phantom import PITCH_UM, SectionPhantom
from oncotwin.spatial.slide_phantom import DIFFICULTIES, Phantom, make_phantom

UM_PER_PIXEL = 0.5
"""Of the full image that the section's places count pixels of."""


def write_section_folder(phantom: SectionPhantom, folder: Path) -> None:
    """Write a section in the layout of a Space Ranger folder, which `import_section` reads.

    Args:
        phantom: as `make_section` returns it.
        folder: made anew.
    """
    matrix, spatial = folder / "filtered_feature_bc_matrix", folder / "spatial"
    matrix.mkdir(parents=True)
    spatial.mkdir()
    spot, gene = np.nonzero(phantom.counts)
    values = phantom.counts[spot, gene]
    head = "%%MatrixMarket matrix coordinate integer general\n"
    head += f"{len(phantom.genes)} {len(phantom.ids)} {len(values)}\n"
    entries = "".join(
        f"{g} {s} {n}\n" for g, s, n in zip((gene + 1).tolist(), (spot + 1).tolist(), values.tolist(), strict=True)
    )
    files = {
        "barcodes.tsv.gz": "".join(f"{name}\n" for name in phantom.ids),
        "features.tsv.gz": "".join(f"{name}\t{name}\tGene Expression\n" for name in phantom.genes),
        "matrix.mtx.gz": head + entries,
    }
    for name, text in files.items():
        # Without a time in it the same section gives the same bytes.
        (matrix / name).write_bytes(gzip.compress(text.encode(), mtime=0))
    pixels = np.rint(phantom.places_um / UM_PER_PIXEL).astype(np.int64)
    with (spatial / "tissue_positions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
        )
        for name, (x, y) in zip(phantom.ids, pixels.tolist(), strict=True):
            column, row = (int(part) for part in name.split("x"))
            rows.writerow([name, 1, row, 2 * column + row % 2, y, x])
    said = {"spot_diameter_fullres": 0.55 * PITCH_UM / UM_PER_PIXEL, "microns_per_pixel": UM_PER_PIXEL}
    (spatial / "scalefactors_json.json").write_text(json.dumps(said))


def write_slide(
    out: Path, pixels: int, um_per_pixel: float, rng: np.random.Generator, kind: str = "mixed"
) -> Phantom:
    """Write a square of generated H&E as an OME-Zarr pyramid.

    Args:
        out: the folder to make.
        pixels: along each side; the image is held in memory.
        um_per_pixel: edge of a pixel.
        rng: the only source of chance.
        kind: of `DIFFICULTIES`.
    Returns:
        The image and the truth of its nuclei.
    """
    phantom = make_phantom((pixels, pixels), um_per_pixel, DIFFICULTIES[kind], rng)
    image = phantom.image
    write_pyramid(lambda rows, columns: image[rows, columns], (pixels, pixels), out, out.stem, (um_per_pixel,) * 2)
    return phantom
