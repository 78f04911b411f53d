"""Sections and slides: section import, slide import, signatures."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from oncotwin.bootstrap.settings import Settings
from oncotwin.domain.errors import ConfigurationError, OncotwinError
from oncotwin_services.cli.options import command_options
from oncotwin_services.cli.output import emit_json, emit_pairs, progress, stderr

_INPUT = click.Path(exists=True, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_STORED = click.Path(exists=True, file_okay=False, path_type=Path)
TILE_PIXELS = 4_096


@click.group()
def section() -> None:
    """Import sections of spatial omics; `oncotwin signatures` then reads what was imported."""


@click.group()
def slide() -> None:
    """Import stained slides; `oncotwin signatures` then reads what was imported."""


@contextmanager
def _new_folder() -> Iterator[None]:
    """A folder that is there already is never written over."""
    try:
        yield
    except FileExistsError as error:
        raise ConfigurationError(str(error)) from None


@section.command("import")
@click.argument("source", type=_INPUT)
@click.option("--out", type=_FOLDER, required=True, help="SECTION.zarr, made anew.")
@click.option(
    "--um-per-unit", type=float,
    help="Micrometres in one unit of the input's coordinates (pitch of the spots, size of a pixel), where it does not "
    "say so itself.",
)
@click.option("--section", "name", help="Which section, where SOURCE holds several, such as A1.")
@click.option(
    "--only", multiple=True, metavar="COLUMN=VALUE", help="Rows of a table of cells to keep, such as image_number=3."
)
@command_options
def import_section_command(
    source: Path, out: Path, um_per_unit: float | None, name: str | None, only: tuple[str, ...], settings: Settings,
    as_json: bool,
) -> int:
    """Turn SOURCE into AnnData-Zarr, and the picture beside it, where there is one, into OME-Zarr (NAME.image.zarr).

    SOURCE is a folder of 10x Space Ranger, an AnnData file (.h5ad) or folder (.zarr), a folder of SpatialData or one of
    its tables, a count table of spots by genes (ST-cnts/NAME.tsv.gz) or the folder of such tables, or a table of cells
    with coordinates (CSV).

    What is damaged or hostile is refused, and said why; nothing is left behind then.
    """
    from oncotwin.adapters.arrays.sections import import_section

    wanted = dict(_pair(text) for text in only)
    with _new_folder(), progress("rows", None) as advance:
        seen = 0

        def told(n_rows: int) -> None:
            nonlocal seen
            advance(n_rows - seen)
            seen = n_rows

        made = import_section(source, out, um_per_unit, section=name, only=wanted, progress=told)
    result = {"section": str(out), **asdict(made), "image": None if made.image is None else str(made.image)}
    _say("section", result, as_json)
    return 0


@section.command("cohort")
@click.argument("folders", type=_STORED, nargs=-1, required=True, metavar="FOLDER...")
@click.option("--name", required=True, help="Of the cohort; told with each comparison.")
@click.option("--for", "of", required=True, metavar="'KIND PLATFORM'",
              help="Events to compare, such as 'omics.section Visium' or 'pathology.wsi H&E'.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="NAME.json, in the folder that the setting `cohorts` names.")
@command_options
def cohort_command(
    folders: tuple[Path, ...], name: str, of: str, out: Path, settings: Settings, as_json: bool
) -> int:
    """Make a reference cohort of sections or slides from each FOLDER that `oncotwin signatures` wrote.

    `oncotwin work --spatial` compares each new section with it: one that is unlike all of them raises an alert, and its
    evidence counts for less.
    """
    from oncotwin_flows.section_cohort import build_cohort, write_cohort

    made = build_cohort(name, of, folders)
    write_cohort(made, of, out)
    _say(f"cohort {name}", {"for": of, "sections": len(folders), "signatures": len(made.sums.names), "out": str(out)},
         as_json)
    return 0


@section.command("align")
@click.argument("folders", type=_STORED, nargs=-1, required=True, metavar="FOLDER...")
@click.option("--out", type=_FOLDER, required=True, help="Folder to make.")
@click.option("--classes", "column", default="region", show_default=True,
              help="Column of cells.parquet with the classes of tissue that must stay apart.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all random draws.")
@command_options
def align_command(
    folders: tuple[Path, ...], out: Path, column: str, seed: int, settings: Settings, as_json: bool
) -> int:
    """Lay the spots of sections of several institutions, runs or patients over each other (Harmony).

    Each FOLDER is one that `oncotwin signatures` wrote. Writes aligned.parquet (an embedding of each spot before and
    after), summary.json and alignment.html: how well the sections are mixed (iLISI) and whether tissues stayed apart
    (cLISI), before and after. Nothing else is changed: signatures stay those of each section alone.
    """
    from oncotwin_flows.section_alignment import align_folders
    from oncotwin_services.report.alignment_report import write_alignment_report

    spots, made = align_folders(folders, out, column, seed)
    page = write_alignment_report(out, spots, made)
    said = {one.name: f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})" for one in made.signatures}
    if as_json:
        emit_json({"out": str(out), "report": str(page), "spots": len(spots.ids), "converged": made.converged,
                   "signatures": [one.as_json() for one in made.signatures]})
    else:
        _say("alignment", {"sections": len(spots.names), "spots": len(spots.ids), **said, "report": str(page)}, False)
    return 0


@slide.command("import")
@click.argument("image", type=_INPUT)
@click.option("--mpp", type=float, help="Micrometres in one pixel, where the file does not say so itself.")
@click.option("--out", type=_FOLDER, required=True, help="SLIDE.zarr, made anew.")
@command_options
def import_slide_command(
    image: Path, mpp: float | None, out: Path, settings: Settings, as_json: bool
) -> int:
    """Turn IMAGE (JPEG, PNG, TIFF, SVS, or a DICOM file or folder) into an OME-Zarr pyramid.

    The file is decoded in a process of its own, under limits of memory and time.
    """
    from oncotwin.adapters.arrays.slides import import_slide

    with _new_folder(), progress("shards", None) as advance:
        made = import_slide(image, out, mpp, progress=lambda written, n: advance(1))
    if mpp is not None and made.um_per_pixel_of_file is not None and made.um_per_pixel_of_file[0] != mpp:
        said = made.um_per_pixel_of_file[0]
        stderr.print(f"oncotwin: the file itself says {said:g} um a pixel; --mpp {mpp:g} is used", highlight=False)
    result = {
        "slide": str(out), "rows": made.shapes[0][0], "columns": made.shapes[0][1], "levels": len(made.shapes),
        "um_per_pixel": list(made.um_per_pixel),
    }
    _say("slide", result, as_json)
    return 0


@click.command()
@click.argument("stored", type=_STORED, metavar="SECTION.zarr|SLIDE.zarr")
@click.option("--out", type=_FOLDER, help="Folder to write; by default NAME.signatures beside the input.")
@click.option("--tile", type=click.IntRange(min=64), default=TILE_PIXELS, show_default=True,
              help="Pixels along a tile of a slide; no result depends on it.")
@click.option("--workers", type=click.IntRange(min=1), help="Workers; by default one for each processor.")
@click.option("--processes", is_flag=True, help="Workers as processes instead of threads.")
@click.option("--niches", type=click.IntRange(min=1), help="Number of niches; by default it is chosen.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all random draws.")
@click.option("--classes", help="Text column with the cells' classes.")
@click.option("--tumour", multiple=True, metavar="CLASS", help="Class that is tumour; repeatable.")
@click.option("--vessel", multiple=True, metavar="CLASS", help="Class that is vessels; repeatable.")
@click.option("--immune", multiple=True, metavar="CLASS", help="Class that is immune cells; repeatable.")
@command_options
def signatures(
    stored: Path, out: Path | None, tile: int, workers: int | None, processes: bool, niches: int | None, seed: int,
    classes: str | None, tumour: tuple[str, ...], vessel: tuple[str, ...], immune: tuple[str, ...], settings: Settings,
    as_json: bool,
) -> int:
    """Compute all spatial signatures of an imported section or slide.

    Writes summary.json (every number with unit, 90 % interval and source), cells.parquet or nuclei.parquet, maps.zarr
    and report.html. No result depends on tiles, workers or their order. A run that was ended goes on where it was when
    the same command is given again.
    """
    kind = kind_of(stored)
    if kind == "slide" and (niches or classes or tumour or vessel or immune):
        raise ConfigurationError(f"{stored} is a slide; --niches, --classes and what names classes are of sections")
    folder = out if out is not None else stored.with_name(f"{stored.stem}.signatures")
    if folder.exists():
        raise ConfigurationError(f"{folder} is there already; remove it, or name another folder with --out")
    work = folder.with_name(f".{folder.name}.blocks")
    from oncotwin.adapters.arrays.engine import open_engine

    with _new_folder(), open_engine(
        workers or os.cpu_count() or 1, processes=processes, scratch=work, progress=stderr.is_terminal
    ) as engine:
        stderr.print(f"Dask dashboard: {engine.dashboard or 'none (bokeh is not installed)'}", highlight=False)
        try:
            if kind == "slide":
                from oncotwin.adapters.arrays.slide_signatures import slide_signatures

                slide_signatures(stored, folder, tile=tile, seed=seed, engine=engine)
            else:
                from oncotwin.adapters.arrays.section_signatures import section_signatures

                section_signatures(
                    stored, folder, n_niches=niches, seed=seed,
                    engine_run=partial(engine.run, fingerprint=_stamp(stored)),
                    class_column=classes, tumour_classes=tumour, vessel_classes=vessel, immune_classes=immune,
                )
        except OncotwinError:
            # Given again, the same input would be refused again.
            engine.discard()
            raise
        engine.discard()
    from oncotwin_services.report.signatures_report import write_signatures_report

    with progress("report", None):
        page = write_signatures_report(folder, stored if kind == "slide" else None)
    summary = json.loads((folder / "summary.json").read_bytes())
    said = {key: summary[key] for key in ("n_rows", "n_kept", "n_nuclei") if key in summary}
    result = {"kind": kind, **said, "signatures": len(summary["signatures"]), "out": str(folder), "report": str(page)}
    _say(f"signatures of {summary['name']}", result, as_json)
    return 0


@click.command()
@click.argument("stored", type=_STORED, metavar="SECTION.zarr|SLIDE.zarr")
@click.option("--dataref", help="Address under which the flow finds it; by default that of the folder itself.")
@command_options
def claim(stored: Path, dataref: str | None, settings: Settings, as_json: bool) -> int:
    """Print dataref, datahash and datasize of an array, to be put into the event that announces it.

    The hash is over all files, so that an array that changes afterwards is refused.
    """
    from oncotwin.adapters.arrays.manifest import read_manifest
    from oncotwin.domain.claim import manifest_hash

    kind_of(stored)
    entries = read_manifest(stored)
    result = {
        "dataref": dataref or stored.absolute().as_uri(), "datahash": manifest_hash(entries),
        "datasize": sum(one.n_bytes for one in entries),
    }
    _say(f"claim check of {stored.name}", result, as_json)
    return 0


def kind_of(stored: Path) -> str:
    """`section` or `slide`, by what a folder's own header says.

    Raises:
        ConfigurationError: it is neither.
    """
    from oncotwin.adapters.arrays.zarr_headers import LIMITS, read_json

    for name in ("zarr.json", ".zattrs"):
        path = stored / name
        if not path.is_file():
            continue
        with path.open("rb") as file:
            content = read_json(file.read(LIMITS.header_bytes + 1), name)
        attributes = content.get("attributes", {}) if name == "zarr.json" else content
        if isinstance(attributes, dict) and attributes.get("encoding-type") == "anndata":
            return "section"
        if isinstance(attributes, dict) and {"ome", "multiscales"} & attributes.keys():
            return "slide"
    raise ConfigurationError(
        f"{stored} is neither a section (AnnData-Zarr) nor a slide (OME-Zarr); "
        "make one by `oncotwin section import` or `oncotwin slide import`"
    )


def _stamp(folder: Path) -> str:
    """What tells a folder from what it was before: names, sizes and times of its files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        digest.update(repr((str(path.relative_to(folder)), about.st_size, about.st_mtime_ns)).encode())
    return digest.hexdigest()


def _pair(text: str) -> tuple[str, str]:
    """Column and value."""
    column, equals, value = text.partition("=")
    if not column or not equals:
        raise ConfigurationError(f"--only {text}: write COLUMN=VALUE, such as image_number=3")
    return column, value


def _say(title: str, result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit_json(result)
    else:
        emit_pairs(title, {name: _text(value) for name, value in result.items()})


def _text(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
