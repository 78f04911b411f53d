"""Radiomic features of a region in a volume, named and defined as by the Image Biomarker Standardisation Initiative.

They are computed by MIRP, a library of that initiative's own authors, which is not installed by default: it is the
extra `radiomics`, under the EUPL. Here inputs are checked, and features are given the initiative's tags.

Source: Zwanenburg et al. 2020, doi:10.1148/radiol.2020191145; IBSI reference manual, arXiv:1612.07003.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray

from oncotwin.adapters.arrays.zarr_check import CheckedZarr, check_zarr
from oncotwin.domain.claim import ArrayError
from oncotwin.domain.errors import ConfigurationError

Spacing = tuple[float, float, float]
"""Sides of a voxel along z, y and x, in millimetres."""

MAX_VOXELS = 1 << 30

_MM = {
    "nanometer": 1e-6, "nm": 1e-6, "micrometer": 1e-3, "micrometre": 1e-3, "um": 1e-3, "millimeter": 1.0,
    "millimetre": 1.0, "mm": 1.0, "centimeter": 10.0, "cm": 10.0, "meter": 1e3, "m": 1e3,
}  # fmt: skip


class Aggregation(StrEnum):
    """How texture matrices become one value; written as at the end of a tag.

    In two dimensions neighbours lie in a slice, in three around a voxel. Of the matrices of sizes of zones, distances
    and neighbourhoods, which know no directions, only the dimension counts: `2D`, `2_5D` or `3D`.
    """

    AVERAGED_2D = "2D_avg"
    """A value for each slice and direction, averaged (BTW3)."""
    MERGED_2D = "2D_comb"
    """A matrix for each slice, its values averaged (SUJT)."""
    AVERAGED_2_5D = "2_5D_avg"
    """A matrix for each direction over all slices, its values averaged (JJUI)."""
    MERGED_2_5D = "2_5D_comb"
    """One matrix of all slices and directions (ZW7Z)."""
    AVERAGED_3D = "3D_avg"
    """A value for each direction in space, averaged (ITBB)."""
    MERGED_3D = "3D_comb"
    """One matrix of all directions in space (IAZD)."""

    @property
    def dimension(self) -> str:
        """`2D`, `2_5D` or `3D`."""
        return self.value.rpartition("_")[0]


_METHODS = {
    Aggregation.AVERAGED_2D: ("2d_average", "2d_avg"),
    Aggregation.MERGED_2D: ("2d_slice_merge", "2d_s_mrg"),
    Aggregation.AVERAGED_2_5D: ("2.5d_direction_merge", "2.5d_d_mrg"),
    Aggregation.MERGED_2_5D: ("2.5d_volume_merge", "2.5d_v_mrg"),
    Aggregation.AVERAGED_3D: ("3d_average", "3d_avg"),
    Aggregation.MERGED_3D: ("3d_volume_merge", "3d_v_mrg"),
}
"""What the library calls them, in its settings and in its columns."""

_TAGS = {suffix: aggregation.value for aggregation, (_, suffix) in _METHODS.items()} | {
    "2d": "2D", "2.5d": "2_5D", "3d": "3D",
}  # fmt: skip
_COLUMN = re.compile(r"((?:morph|loc|stat|ih|ivh|cm|rlm|szm|dzm|ngt|ngl)_.+?)(?:_fb[ns]_[nw][\d.e+-]+)?")
_TEXTURE = re.compile(rf"(.+?)(?:_d1(?:\.0)?)?(?:_a0\.0)?_({'|'.join(map(re.escape, _TAGS))})")


@dataclass(frozen=True, slots=True)
class RadiomicsSettings:
    """How intensities become grey levels, and texture matrices features.

    Without a number and a width of bins nothing is discretised: the intensities must be whole numbers from 1 on.

    Raises:
        ConfigurationError: the settings contradict each other.
    """

    n_bins: int | None = None
    """Bins between the smallest and the largest intensity in the mask, for intensities of arbitrary units."""
    bin_width: float | None = None
    """Width of a bin in the image's unit, for intensities of a definite unit; needs `lowest`."""
    lowest: float | None = None
    """Where the first bin begins. What is below it is no part of the region, but of its shape."""
    is_hounsfield: bool = False
    """Intensities are rounded to whole Hounsfield units, each a level of the intensity-volume histogram; otherwise that
    histogram has 1,000 levels."""
    aggregations: tuple[Aggregation, ...] = (Aggregation.MERGED_3D,)

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.n_bins is not None and self.bin_width is not None:
            raise ConfigurationError("radiomics: both a number and a width of bins are given; give one of them")
        if self.n_bins is not None and self.n_bins < 2:
            raise ConfigurationError(f"radiomics: {self.n_bins} bins hold no texture; give 2 or more")
        if self.bin_width is not None and not (math.isfinite(self.bin_width) and self.bin_width > 0.0):
            raise ConfigurationError(f"radiomics: a bin of width {self.bin_width} is none; give a width above 0")
        if (self.bin_width is None) != (self.lowest is None) or not math.isfinite(self.lowest or 0.0):
            raise ConfigurationError(
                "radiomics: bins of a fixed width need the intensity at which the first begins, such as -1000 HU, and "
                "nothing else does; give bin width and lowest together"
            )
        if not self.aggregations or len(set(self.aggregations)) < len(self.aggregations):
            raise ConfigurationError("radiomics: name at least one aggregation, and none twice")


def radiomic_features(
    image: NDArray[Any], mask: NDArray[Any], spacing_mm: Spacing, settings: RadiomicsSettings
) -> dict[str, float]:
    """Compute all features of one region that have a reference value.

    Nothing is resampled or filtered. Moran's I and Geary's C of regions of 1,000 voxels and more are estimated from
    samples of 100 voxels, to a standard error of 0.002, the same ones each time.

    Args:
        image: intensities (z, y, x); voxels outside the mask count in the local intensity peaks alone.
        mask: (z, y, x), true or one number other than 0 inside the region.
        spacing_mm: sides of a voxel along z, y and x.
        settings: discretisation and aggregation.
    Returns:
        Value by tag, such as `stat_mean`, `cm_contrast_3D_comb` or `szm_sze_2_5D`; lengths in mm, areas in mm2, volumes
        in mm3, intensities in the image's unit. NaN where the region does not define the feature.
    Raises:
        ConfigurationError: the extra `radiomics` is not installed.
        ArrayError: no volume, a mask of another shape, without voxels or with several labels, intensities that are no
            numbers (or, without bins, no whole numbers from 1 on), or a spacing that is not positive.
    Source:
        Zwanenburg et al. 2020, doi:10.1148/radiol.2020191145; IBSI reference manual, arXiv:1612.07003, chapter 3.
    """
    inside = _checked_mask(image, mask, spacing_mm, settings)
    try:
        from mirp import extract_features
        from mirp.data_import.import_image import import_image
        from mirp.data_import.import_mask import import_mask
    except ImportError as error:
        raise ConfigurationError(
            "radiomics: the library that computes the features is not installed; pip install oncotwin[radiomics]"
        ) from error
    with _undisturbed():
        volume = import_image(np.array(image, np.float64), stack_images="no")[0]
        region = import_mask(inside.astype(np.int64), stack_masks="no")[0]
        # It knows no spacing of plain arrays; and it seeds its samples by the name, which it would draw by chance.
        volume.image_spacing = region.image_spacing = tuple(map(float, spacing_mm))
        volume.sample_name = region.sample_name = "region"
        (table,) = extract_features(
            image=volume, mask=region, stack_images="no", stack_masks="no", write_features=False,
            export_features=True, **_library_settings(settings),
        )  # fmt: skip
    found = {str(column): table[column].iloc[0] for column in table.columns}
    return {tag: float(value) for column, value in found.items() if (tag := _tag(column)) is not None}


def _checked_mask(
    image: NDArray[Any], mask: NDArray[Any], spacing_mm: Spacing, settings: RadiomicsSettings
) -> NDArray[np.bool_]:
    """What is inside, after everything was checked that the library would take or misread."""
    if image.ndim != 3 or image.dtype.kind not in "iuf":
        raise ArrayError("no_volume", f"{image.dtype} of shape {image.shape} is no volume", "image", "send z, y, x")
    if mask.shape != image.shape or mask.dtype.kind not in "iufb":
        raise ArrayError(
            "bad_mask", f"{mask.dtype} of shape {mask.shape} is no mask of an image of shape {image.shape}", "mask",
            "send one value for each voxel, on the image's own grid",
        )  # fmt: skip
    if len(spacing_mm) != 3 or not all(math.isfinite(side) and side > 0.0 for side in spacing_mm):
        raise ArrayError(
            "bad_spacing", f"spacing {tuple(spacing_mm)} is not positive", "spacing",
            "send the sides of a voxel along z, y and x in mm",
        )  # fmt: skip
    for name, values in (("image", image), ("mask", mask)):
        n_bad = values.size - int(np.count_nonzero(np.isfinite(values)))
        if n_bad:
            raise ArrayError("not_finite", f"{n_bad} voxels are no numbers", name, "fill or cut them")
    labels = np.unique(mask)
    labels = labels[labels != 0]
    if len(labels) != 1:
        said = "holds no voxel" if not len(labels) else f"holds {len(labels)} labels"
        raise ArrayError("bad_mask", said, "mask", "send one region: true, or one number, inside and 0 outside")
    inside = np.asarray(mask != 0)
    intensities = image[inside]
    if settings.lowest is not None and not np.any(intensities >= settings.lowest):
        raise ArrayError(
            "bad_mask", f"no voxel reaches {settings.lowest:g}", "mask", "lower where the first bin begins"
        )
    if settings.n_bins is None and settings.bin_width is None and np.any((intensities < 1) | (intensities % 1 != 0)):
        raise ArrayError(
            "not_discrete", "intensities are no whole numbers from 1 on", "image", "say a number or a width of bins"
        )
    return inside


def _library_settings(settings: RadiomicsSettings) -> dict[str, Any]:
    """The library's own words."""
    directional = [_METHODS[aggregation][0] for aggregation in settings.aggregations]
    others = list(dict.fromkeys(aggregation.dimension for aggregation in settings.aggregations))
    others = [dimension.replace("_", ".").lower() for dimension in others]
    words: dict[str, Any] = {
        "glcm_spatial_method": directional, "glrlm_spatial_method": directional,
        "glszm_spatial_method": others, "gldzm_spatial_method": others,
        "ngtdm_spatial_method": others, "ngldm_spatial_method": others,
    }  # fmt: skip
    if settings.is_hounsfield:
        words["image_modality"] = "ct"
    if settings.n_bins is not None:
        return words | {"base_discretisation_method": "fixed_bin_number", "base_discretisation_n_bins": settings.n_bins}
    if settings.bin_width is not None and settings.lowest is not None:
        return words | {
            "base_discretisation_method": "fixed_bin_size",
            "base_discretisation_bin_width": float(settings.bin_width),
            "resegmentation_intensity_range": [float(settings.lowest), math.nan],
        }
    return words | {"base_discretisation_method": "none"}


def _tag(column: str) -> str | None:
    """The initiative's tag of a column; None where it describes the input."""
    known = _COLUMN.fullmatch(column)
    if known is None:
        return None
    texture = _TEXTURE.fullmatch(known[1])
    return known[1] if texture is None else f"{texture[1]}_{_TAGS[texture[2]]}"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the library from setting up the log of the whole process on standard output, and from saying what we know.

    It warns of bins of a fixed width wherever the unit is not Hounsfield: whether a unit is definite is the caller's
    to say, and was said by asking for them.
    """
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The intensities for this image .* do not represent calibrated values")
            yield
    finally:
        root.removeHandler(silent)


def read_volume(path: Path) -> tuple[NDArray[Any], Spacing | None]:
    """Read a volume (z, y, x) and, of an OME-Zarr that says it, its spacing.

    Args:
        path: `.npy`, or a folder with a Zarr array or an OME-Zarr image, whose finest level is read.
    Raises:
        ArrayError: hostile or damaged (see `check_zarr`), no volume, or larger than `MAX_VOXELS`.
    """
    if not path.is_dir():
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ArrayError("cannot_decode", "is no .npy file", path.name, "send .npy or a Zarr folder") from error
        return _small_enough(mapped, path.name), None
    checked = check_zarr(path)
    inner, spacing, length_one = _finest(checked, path.name)
    if inner not in checked.arrays:
        raise ArrayError("no_volume", "holds neither one array nor one image", path.name, "send one volume")
    opened: Any = zarr.open_array(str(path / inner), mode="r")
    return _small_enough(opened, path.name, length_one), spacing


def _small_enough(stored: Any, name: str, length_one: tuple[int, ...] = ()) -> NDArray[Any]:
    if math.prod(stored.shape) > MAX_VOXELS:
        raise ArrayError("too_large", f"has more than {MAX_VOXELS} voxels", name, "cut it around the region")
    return np.squeeze(np.asarray(stored[...]), axis=length_one)


def _finest(checked: CheckedZarr, name: str) -> tuple[str, Spacing | None, tuple[int, ...]]:
    """Path of the array below the folder, its spacing where it is said, and axes that are not of space."""
    attributes = checked.attributes.get("", {})
    images = attributes.get("ome", attributes).get("multiscales")
    if not images:
        return "", None, ()
    try:
        (image,) = images
        axes, level = image["axes"], image["datasets"][0]
        scales = [one["scale"] for one in level["coordinateTransformations"] if one["type"] == "scale"]
        space = [at for at, axis in enumerate(axes) if axis["name"] in "zyx"]
        others = tuple(at for at in range(len(axes)) if at not in space)
        header = checked.arrays[level["path"]]
        if [axes[at]["name"] for at in space] != ["z", "y", "x"] or any(header.shape[at] != 1 for at in others):
            raise ArrayError("no_volume", "is no volume of z, y and x", name, "send one channel and one time")
        if not all(axes[at].get("unit") in _MM for at in space):
            return str(level["path"]), None, others
        z, y, x = (float(scales[0][at]) * _MM[axes[at]["unit"]] for at in space)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ArrayError("bad_header", "does not describe its image as OME-Zarr does", name) from error
    return str(level["path"]), (z, y, x), others


def write_features(path: Path, features: Mapping[str, float], spacing_mm: Spacing, settings: RadiomicsSettings) -> None:
    """Write a table of `tag` and `value` as Parquet, with spacing and settings in its metadata; whole or not at all.

    Raises:
        ConfigurationError: the file is there already.
    """
    if path.exists():
        raise ConfigurationError(f"{path} is there already; remove it, or name another file with --out")
    table = pa.table({"tag": list(features), "value": pa.array(list(features.values()), pa.float64())})
    made_by = {"spacing_mm": list(spacing_mm), **asdict(settings)}
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table.replace_schema_metadata({"radiomics": json.dumps(made_by)}), partial)
    os.replace(partial, path)
