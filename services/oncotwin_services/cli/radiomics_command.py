"""Radiomic features of a region in a volume: radiomics."""

from __future__ import annotations

import math
from pathlib import Path

import click

from oncotwin.adapters.arrays.radiomics import (
    Aggregation,
    RadiomicsSettings,
    Spacing,
    radiomic_features,
    read_volume,
    write_features,
)
from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import ConfigurationError
from oncotwin_services.cli.options import command_options
from oncotwin_services.cli.output import emit_json, emit_pairs, progress

_INPUT = click.Path(exists=True, path_type=Path)
_AGGREGATION = click.Choice([one.value for one in Aggregation])


@click.command()
@click.argument("image", type=_INPUT)
@click.option("--mask", type=_INPUT, required=True, help="The region, on the image's own grid: 0 is outside.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="TABLE.parquet, made anew.")
@click.option("--spacing", type=(float, float, float), metavar="Z Y X",
              help="Sides of a voxel in mm, where the image does not say them.")
@click.option("--bins", type=int, help="Number of grey levels, for intensities of arbitrary units (MRI).")
@click.option("--bin-width", type=float, help="Width of a grey level, for definite units (CT, SUV); needs --lowest.")
@click.option("--lowest", type=float, help="Intensity at which the first grey level begins, such as -1000.")
@click.option("--hounsfield", is_flag=True, help="The intensities are Hounsfield units.")
@click.option("--aggregation", type=_AGGREGATION, multiple=True, default=[Aggregation.MERGED_3D.value],
              show_default=True, help="How texture matrices become one value; repeatable.")
@command_options
def radiomics(
    image: Path, mask: Path, out: Path, spacing: Spacing | None, bins: int | None, bin_width: float | None,
    lowest: float | None, hounsfield: bool, aggregation: tuple[str, ...], settings: Settings, as_json: bool,
) -> int:
    """Compute the radiomic features of a region of IMAGE, by the names and definitions of the IBSI.

    IMAGE and MASK are .npy files or Zarr folders of z, y and x. Without --bins and --bin-width the intensities must be
    whole numbers from 1 on. Needs the extra: pip install oncotwin[radiomics].
    """
    wanted = RadiomicsSettings(
        n_bins=bins, bin_width=bin_width, lowest=lowest, is_hounsfield=hounsfield,
        aggregations=tuple(map(Aggregation, aggregation)),
    )
    if out.exists():
        raise ConfigurationError(f"{out} is there already; remove it, or name another file with --out")
    voxels, said = read_volume(image)
    sides = spacing or said
    if sides is None:
        raise ConfigurationError(f"{image} does not say how large a voxel is; say it with --spacing Z Y X, in mm")
    with progress("features", None):
        features = radiomic_features(voxels, read_volume(mask)[0], sides, wanted)
    write_features(out, features, sides, wanted)
    n_undefined = sum(map(math.isnan, features.values()))
    result = {"out": str(out), "features": len(features), "undefined": n_undefined, "spacing_mm": list(sides)}
    if as_json:
        emit_json(result)
    else:
        emit_pairs("radiomics", {**result, "spacing_mm": " x ".join(f"{side:g}" for side in sides)})
    return 0
