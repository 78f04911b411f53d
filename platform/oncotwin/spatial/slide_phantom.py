"""Generated H&E with known nuclei: a stated model of crowded, faint and blurred tissue, to measure a detector on.

Model: nuclei are ellipses (mean radius drawn log-normally, axes by a ratio, any angle) thrown one after another and
refused where they cover another's centre region by more than `overlap` allows. Haematoxylin inside a nucleus is its own
amount times a speckle (chromatin), rubbed off at its edge; outside is a faint cytoplasm. Eosin is a smooth random
texture of fibres with holes of bare glass (fat). Light follows Lambert-Beer through the fixed stain vectors, is blurred
by the optics, and gets photon noise and rounding to bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from scipy.special import ndtri

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.slide_grid import ByteImage
from oncotwin.spatial.slide_stains import FIXED_VECTORS

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Difficulty:
    """One kind of tissue.

    Args:
        density_mm2: nuclei thrown per mm2 (some are refused).
        radius_um: median mean radius; radius_spread: standard deviation of its logarithm.
        stain_od: lowest and highest amount of haematoxylin.
        overlap: share of the two radii's sum by which centres may be nearer than touching.
        blur_um: standard deviation of the optics.
        cytoplasm_od: haematoxylin outside nuclei.
        photons: of the glass in each channel of a pixel; noise falls with their root.
        holes: share of the area that is bare glass.
    """

    density_mm2: float
    radius_um: float = 3.6
    radius_spread: float = 0.2
    stain_od: tuple[float, float] = (0.45, 0.9)
    overlap: float = 0.0
    blur_um: float = 0.3
    cytoplasm_od: float = 0.08
    photons: float = 2000.0
    holes: float = 0.05


DIFFICULTIES = {
    "plain": Difficulty(2500),
    "crowded": Difficulty(14000, radius_um=3.2, overlap=0.15, holes=0.0),
    "faint": Difficulty(4000, stain_od=(0.15, 0.35), cytoplasm_od=0.06),
    "blurred": Difficulty(4000, blur_um=1.3),
    "mixed": Difficulty(7000, radius_spread=0.35, stain_od=(0.2, 0.9), overlap=0.1, blur_um=0.7),
}
"""The tissue that the detector is measured on."""


@dataclass(frozen=True)
class Phantom:
    """An image and its truth.

    Args:
        image: RGB bytes (rows, columns, 3).
        x_um, y_um: (n,) centres of the nuclei; area_um2: (n,) their areas.
    """

    image: ByteImage
    x_um: FloatArray
    y_um: FloatArray
    area_um2: FloatArray


@dataclass(frozen=True)
class Score:
    """How a detection agrees with the truth: counts of matched, missed and invented nuclei."""

    n_matched: int
    n_missed: int
    n_invented: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where there was nothing to find and nothing was found."""
        total = 2 * self.n_matched + self.n_missed + self.n_invented
        return 2 * self.n_matched / total if total else 1.0


def make_phantom(shape: tuple[int, int], mpp: float, kind: Difficulty, rng: np.random.Generator) -> Phantom:
    """Generate tissue.

    Args:
        shape: rows and columns of pixels.
        mpp: side of a pixel in um.
        rng: the only source of chance.
    Raises:
        ConfigurationError: no pixels, or a pixel size that is not positive.
    """
    if min(shape) < 1 or not mpp > 0.0:
        raise ConfigurationError(f"phantom of {shape} pixels of {mpp} um: both must be positive")
    height, width = shape[0] * mpp, shape[1] * mpp
    holes = _texture(shape, 40.0 / mpp, rng) < _quantile_of_normal(kind.holes)
    y, x, radius = _throw(height, width, kind, rng)
    bare = holes[(y / mpp).astype(np.int64), (x / mpp).astype(np.int64)]
    y, x, radius = y[~bare], x[~bare], radius[~bare]
    ratio = rng.uniform(1.0, 1.8, len(x))
    angle = rng.uniform(0.0, np.pi, len(x))
    amount = rng.uniform(*kind.stain_od, len(x))
    haematoxylin = np.full(shape, kind.cytoplasm_od, np.float32)
    for k in range(len(x)):
        _stamp(haematoxylin, y[k] / mpp, x[k] / mpp, radius[k] / mpp, ratio[k], angle[k], amount[k])
    haematoxylin *= 1.0 + 0.15 * _texture(shape, 0.5 / mpp, rng)
    haematoxylin[holes] = 0.0
    eosin = np.clip(0.25 + 0.08 * _texture(shape, 3.0 / mpp, rng), 0.02, None)
    eosin[holes] = 0.0
    image = np.empty((*shape, 3), np.uint8)
    vectors = np.array(FIXED_VECTORS) / np.linalg.norm(FIXED_VECTORS, axis=1, keepdims=True)
    for c in range(3):
        light = np.power(np.float32(10.0), -(vectors[0, c] * haematoxylin + vectors[1, c] * eosin)).astype(np.float32)
        light = gaussian_filter(light, kind.blur_um / mpp, mode="nearest")
        light += np.sqrt(light / np.float32(kind.photons)) * rng.standard_normal(shape, dtype=np.float32)
        image[..., c] = np.clip(np.rint(light * 240.0), 0, 255).astype(np.uint8)
    return Phantom(image, x, y, np.pi * radius**2)


def score_detections(
    truth: tuple[FloatArray, FloatArray], found: tuple[FloatArray, FloatArray], radius_um: float
) -> Score:
    """Match found to true centres one to one, the nearest pairs first, within a radius.

    Args:
        truth, found: x and y in um.
    """
    true_tree, found_points = cKDTree(np.column_stack(truth)), np.column_stack(found)
    pairs = true_tree.sparse_distance_matrix(cKDTree(found_points), radius_um, output_type="ndarray")
    order = np.lexsort((pairs["j"], pairs["i"], pairs["v"]))
    taken_true, taken_found = np.zeros(true_tree.n, np.bool_), np.zeros(len(found_points), np.bool_)
    for k in order:
        i, j = pairs["i"][k], pairs["j"][k]
        if not taken_true[i] and not taken_found[j]:
            taken_true[i] = taken_found[j] = True
    n_matched = int(taken_true.sum())
    return Score(n_matched, true_tree.n - n_matched, len(found_points) - n_matched)


def _texture(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise of mean 0 and standard deviation 1; coarse noise is drawn coarsely and spread."""
    step = max(1, int(sigma / 3))
    small = rng.standard_normal((shape[0] // step + 2, shape[1] // step + 2), dtype=np.float32)
    small = gaussian_filter(small, sigma / step, mode="nearest")
    small /= max(float(small.std()), 1e-6)
    return np.repeat(np.repeat(small, step, axis=0), step, axis=1)[: shape[0], : shape[1]].copy()


def _quantile_of_normal(share: float) -> float:
    return float(ndtri(share))


def _throw(
    height: float, width: float, kind: Difficulty, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Centres and radii in um, first come first kept."""
    n = int(rng.poisson(kind.density_mm2 * height * width * 1e-6))
    y, x = rng.uniform(0.0, height, n), rng.uniform(0.0, width, n)
    radius = np.exp(rng.normal(np.log(kind.radius_um), kind.radius_spread, n))
    kept = np.ones(n, np.bool_)
    tree = cKDTree(np.column_stack([y, x]))
    reach = 2.0 * float(radius.max(initial=1.0))
    for i, j in sorted((min(p), max(p)) for p in tree.query_pairs(reach)):
        if kept[i] and kept[j]:
            near = np.hypot(y[i] - y[j], x[i] - x[j]) < (1.0 - kind.overlap) * (radius[i] + radius[j])
            kept[j] = not near
    return y[kept], x[kept], radius[kept]


def _stamp(
    image: NDArray[np.float32], y: float, x: float, radius: float, ratio: float, angle: float, amount: float
) -> None:
    """Lay an ellipse of the circle's area on the image; where nuclei overlap, the darker shows."""
    long, short = radius * np.sqrt(ratio), radius / np.sqrt(ratio)
    top, bottom = max(0, int(y - long - 2)), min(image.shape[0], int(y + long + 3))
    left, right = max(0, int(x - long - 2)), min(image.shape[1], int(x + long + 3))
    v, u = np.mgrid[top:bottom, left:right] + 0.5
    along = (u - x) * np.cos(angle) + (v - y) * np.sin(angle)
    across = (v - y) * np.cos(angle) - (u - x) * np.sin(angle)
    inside = 1.0 - np.hypot(along / long, across / short)
    # A straight edge one pixel wide, so that the truth does not depend on how the grid lies.
    cover = np.clip(0.5 + inside * short, 0.0, 1.0)
    part = image[top:bottom, left:right]
    np.maximum(part, (amount * cover).astype(np.float32), out=part)
