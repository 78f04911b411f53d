"""A generated section with known truth: tumour, stroma, immune cells, fat and lack of oxygen by a stated model.

Model: spots lie on a honeycomb in a round piece of tissue. A tumour of wavy outline lies in its middle; the signed
distance of a spot to that outline (negative inside, in um) decides of what its mixture is made:

- tumour cells fill the inside, stroma the outside, with a transition of `EDGE_UM`;
- lymphocytes lie in a band around the outline and, by the immune pattern, inside it as well;
- fat fills one side of the stroma;
- tumour cells lack oxygen by the depth: half of them `HYPOXIC_DEPTH_UM` below the outline, since oxygen reaches
  some 100 to 200 um from vessels, which here lie outside.

Each kind of cell expresses the background genes alike, the genes of its own gene sets `LOUD` times as much and
those of other sets `SILENT` times; lymphocytes and plasma cells make little else than what the immune set holds
(`IMMUNE_LOUD`), so that the set's share of counts is near their share of cells, as in real sections. A spot's counts
are Poisson about its mixture times a log-normal depth. A few spots failed and hold nearly nothing.

Source:
    Krogh 1919, doi:10.1113/jphysiol.1919.sp001844 (oxygen falls with the distance to vessels); Chen & Mellman 2017,
    doi:10.1038/nature21349 (inflamed, excluded and desert tumours). Gene sets: see `gene_sets`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.gene_sets import gene_sets

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

PITCH_UM = 100.0
EDGE_UM = 60.0
HYPOXIC_DEPTH_UM = 350.0
HYPOXIC_WIDTH_UM = 90.0
MEDIAN_COUNTS = 4_000.0
LOUD, SILENT = 3.0, 0.03
IMMUNE_LOUD = 12.0
N_BACKGROUND = 1_500
FAILED_SHARE = 0.01

_SETS_OF_CELL = {
    "tumour": ("tumour_epithelium", "proliferation", "stemness"),
    "hypoxic tumour": ("tumour_epithelium", "hypoxia", "emt"),
    "stroma": ("stroma",),
    "immune": ("immune", "cytotoxicity", "exhaustion"),
    "fat": ("adipose",),
}
PATTERNS: Mapping[str, tuple[float, float]] = {
    "hot": (0.30, 0.25), "excluded": (0.45, 0.01), "cold": (0.02, 0.005),
}  # fmt: skip
"""Share of lymphocytes at the outline and inside the tumour, by the immune pattern."""


@dataclass(frozen=True, slots=True)
class SectionPhantom:
    """A section and its truth.

    Attributes:
        ids: (n_spots,) as `17x23`: column and row on the array.
        places_um: (n_spots, 2) x and y.
        genes: (n_genes,) symbols.
        counts: (n_spots, n_genes).
        region: (n_spots,) `tumour`, `stroma`, `immune` or `fat`: the kind of cell that prevails.
        distance_um: (n_spots,) signed distance to the tumour's outline, negative inside.
        hypoxic_share: (n_spots,) share of the spot's cells that are tumour cells without oxygen.
        failed: (n_spots,) spots that hold nearly nothing.
    """

    ids: tuple[str, ...]
    places_um: FloatArray
    genes: tuple[str, ...]
    counts: IntArray
    region: tuple[str, ...]
    distance_um: FloatArray
    hypoxic_share: FloatArray
    failed: NDArray[np.bool_]


def make_section(pattern: str, rng: np.random.Generator, n_across: int = 40) -> SectionPhantom:
    """Generate a section.

    Args:
        pattern: of the immune cells: `hot`, `excluded` or `cold`.
        rng: the only source of chance.
        n_across: spots across the tissue, at least 10; the tumour is half as wide.
    Raises:
        ConfigurationError: another pattern, or too few spots.
    """
    if pattern not in PATTERNS:
        raise ConfigurationError(f"immune pattern '{pattern}' is none of {', '.join(PATTERNS)}")
    if n_across < 10:
        raise ConfigurationError(f"a section of {n_across} spots across has no room for its regions; take at least 10")
    ids, places = _honeycomb(n_across)
    middle = np.full(2, n_across * PITCH_UM / 2)
    distance = _distance(places - middle, n_across * PITCH_UM / 4, rng)
    mixture = _mixture(places - middle, distance, PATTERNS[pattern], rng)
    genes, profiles = _profiles(rng)
    depth = MEDIAN_COUNTS * np.exp(rng.normal(0.0, 0.35, len(ids)))
    # Fat holds little cytoplasm: its spots have fewer counts.
    depth *= 1.0 - 0.7 * mixture[:, 4]
    failed = rng.uniform(size=len(ids)) < FAILED_SHARE
    depth[failed] *= 0.005
    counts = rng.poisson(depth[:, None] * (mixture @ profiles)).astype(np.int64)
    together = np.column_stack([mixture[:, 0] + mixture[:, 1], mixture[:, 2:]])
    names = ("tumour", "stroma", "immune", "fat")
    region = tuple(names[k] for k in np.argmax(together, axis=1))
    return SectionPhantom(ids, places, genes, counts, region, distance, mixture[:, 1], failed)


def _honeycomb(n_across: int) -> tuple[tuple[str, ...], FloatArray]:
    """Names and places of the spots in a round piece of tissue."""
    step = PITCH_UM * math.sqrt(3) / 2
    radius = n_across * PITCH_UM / 2
    rows, columns = np.mgrid[: round(2 * radius / step) + 1, : n_across + 1]
    x = (columns + 0.5 * (rows % 2)) * PITCH_UM
    y = rows * step
    inside = np.hypot(x - radius, y - radius) <= radius
    names = tuple(f"{c}x{r}" for c, r in zip(columns[inside].tolist(), rows[inside].tolist(), strict=True))
    return names, np.column_stack([x[inside], y[inside]])


def _distance(places: FloatArray, radius_um: float, rng: np.random.Generator) -> FloatArray:
    """Signed distance to a wavy outline: the nearest of many points on it, negative inside."""
    phase, height = rng.uniform(0.0, 2 * np.pi, 4), np.array([0.10, 0.06, 0.05, 0.04])

    def outline(angle: FloatArray) -> FloatArray:
        waves = np.cos(np.arange(2, 6) * angle[..., None] + phase)
        return np.asarray(radius_um * (1.0 + waves @ height))

    around = np.linspace(0.0, 2 * np.pi, 2_000, endpoint=False)
    points = np.column_stack([np.cos(around), np.sin(around)]) * outline(around)[:, None]
    nearest = np.empty(len(places))
    for start in range(0, len(places), 1_000):
        part = places[start : start + 1_000]
        nearest[start : start + 1_000] = np.hypot(*(part[:, None] - points).transpose(2, 0, 1)).min(axis=1)
    inside = np.hypot(*places.T) < outline(np.arctan2(places[:, 1], places[:, 0]))
    return np.where(inside, -nearest, nearest)


def _mixture(
    places: FloatArray, distance: FloatArray, immune: tuple[float, float], rng: np.random.Generator
) -> FloatArray:
    """Shares of the kinds of cells in each spot, in the order of `_SETS_OF_CELL`."""
    within = _rise(-distance / EDGE_UM)
    band = np.exp(-0.5 * ((distance - 100.0) / 120.0) ** 2)
    # Lymphocytes come in crowds.
    crowd = rng.gamma(4.0, 0.25, len(places))
    lymphocytes = np.clip(crowd * (immune[0] * band + immune[1] * within), 0.0, 0.9)
    fat = (1.0 - within) * _rise((places[:, 0] - np.quantile(places[:, 0], 0.85)) / EDGE_UM) * 0.9
    hypoxic = _rise((-distance - HYPOXIC_DEPTH_UM) / HYPOXIC_WIDTH_UM)
    tumour = within * (1.0 - hypoxic)
    rest = np.clip(1.0 - within - fat, 0.0, None)
    cells = np.column_stack([tumour, within * hypoxic, rest, np.zeros_like(fat), fat])
    cells *= ((1.0 - lymphocytes) / cells.sum(axis=1))[:, None]
    cells[:, 3] = lymphocytes
    return cells


def _profiles(rng: np.random.Generator) -> tuple[tuple[str, ...], FloatArray]:
    """Genes, and the share of each gene in the counts of each kind of cell: (n_kinds, n_genes), rows sum to one."""
    sets = gene_sets()
    marked = sorted({gene for one in sets.values() for gene in one.genes})
    genes = (*marked, *(f"BACKGROUND{k + 1}" for k in range(N_BACKGROUND)))
    base = rng.lognormal(0.0, 1.0, len(genes))
    profiles = np.tile(base, (len(_SETS_OF_CELL), 1))
    profiles[:, : len(marked)] *= SILENT
    place = {gene: k for k, gene in enumerate(marked)}
    for row, (kind, names) in enumerate(_SETS_OF_CELL.items()):
        own = sorted({place[gene] for name in names for gene in sets[name].genes})
        profiles[row, own] = (IMMUNE_LOUD if kind == "immune" else LOUD) * base[own]
    return genes, profiles / profiles.sum(axis=1, keepdims=True)


def _rise(x: FloatArray) -> FloatArray:
    """Logistic function."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))
