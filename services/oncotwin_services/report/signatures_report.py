"""The page of a section's or slide's signatures: quality, maps, profiles and every number, in one file.

Made from what `oncotwin signatures` writes (summary.json, the table of cells or nuclei, maps.zarr); it computes nothing
but its layout and what is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oncotwin.adapters.arrays.signature_files import StoredMap, coarse_picture, histograms, read_maps
from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.slide_estimates import CLASS_NAMES, QUALITY_NAMES
from oncotwin.spatial.slide_maps import USABLE
from oncotwin_services.report.pages import environment
from oncotwin_services.report.signature_maps import (
    draw_classes,
    draw_histogram,
    draw_numbers,
    draw_picture,
    draw_profile,
)
from oncotwin_services.report.signature_words import (
    GLOSSARY,
    SETS,
    heading,
    interval,
    number,
    scaled,
    title,
)

SCHEMA = "org.oncotwin.signatures.v1"
PAGE = "report.html"
LAYERS = ("core", "inner margin", "interface", "outer margin", "far stroma")
_IMMUNE = ("immune_hot", "immune_excluded", "immune_cold")
_REGIONS = {0: "stroma", 1: "tumour"}
_MAP_PIXELS = 700
_PICTURE_PIXELS = 1_200
_BINS = 60
_NUCLEI = {"area_um2": ("area (µm²)", 0.0, 200.0), "eccentricity": ("eccentricity", 0.0, 1.0)}


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture with its words."""

    address: str
    title: str
    caption: str


def write_signatures_report(folder: Path, slide: Path | None = None) -> Path:
    """Write the page beside what it shows.

    Args:
        folder: with summary.json and what belongs to it.
        slide: an OME-Zarr whose coarse level is shown beside the maps; None for none.
    Returns:
        path of the page.
    Raises:
        ConfigurationError: there is no summary in the folder, or one of another schema.
    """
    summary = _read(folder / "summary.json")
    page = folder / PAGE
    page.write_text(environment().get_template("signatures.html.j2").render(_content(folder, summary, slide)), "utf-8")
    return page


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read ({error}); run `oncotwin signatures` again") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ConfigurationError(f"{path} is no summary of schema {SCHEMA}; run `oncotwin signatures` again")
    return content


def _content(folder: Path, summary: Mapping[str, Any], slide: Path | None) -> dict[str, Any]:
    maps = read_maps(folder / "maps.zarr", _MAP_PIXELS)
    rows: list[dict[str, Any]] = summary["signatures"]
    is_slide = summary["kind"] == "slide"
    return {
        "name": summary["name"],
        "lead": "Nuclei and tissue of a stained slide" if is_slide else f"Spatial section, {summary['platform']}",
        "facts": _facts(summary, is_slide),
        "quality": _quality(summary, is_slide, maps, slide),
        "glance": _glance(rows),
        "maps": _groups(maps, _class_names(rows, is_slide), is_slide),
        "ordered": [
            {"gene": one["gene"], **{key: number(one[key]) for key in ("moran_i", "geary_c", "z", "q")}}
            for one in summary.get("genes", {}).get("most_ordered", [])
        ],
        "profiles": _profiles(rows),
        "histograms": _histograms(folder / "nuclei.parquet"),
        "table": _table(rows),
        "abstained": _abstained(summary, rows),
        "settings": [(key.replace("_", " "), _text(value)) for key, value in summary.get("settings", {}).items()],
        "glossary": GLOSSARY,
    }


def _facts(summary: Mapping[str, Any], is_slide: bool) -> list[tuple[str, str]]:
    found = []
    for key, term in (("n_rows", "Spots or cells"), ("n_kept", "Used"), ("n_nuclei", "Nuclei")):
        if key in summary:
            found.append((term, f"{summary[key]:,}"))
    for key, term in (("um_per_unit", "Unit of the input"), ("um_per_pixel", "Pixel")):
        if summary.get(key) is not None:
            size = summary[key] if isinstance(summary[key], list) else [summary[key]]
            found.append((term, f"{number(float(size[0]))} µm"))
    if not is_slide and "genes" in summary:
        found.append(("Genes", f"{summary['genes'].get('n', 0):,}"))
    return found


def _quality(
    summary: Mapping[str, Any], is_slide: bool, maps: Mapping[str, StoredMap], slide: Path | None
) -> dict[str, Any]:
    refused = sorted(summary.get("refused", {}).items(), key=lambda one: (-_size(one[1]), one[0]))
    genes = summary.get("genes", {})
    kept = summary.get("n_kept")
    if kept is None:
        sentence = "Everything that was read is used." if not refused else "Part of the slide is kept out, see below."
    elif kept == summary["n_rows"]:
        sentence = f"All {kept:,} rows passed."
    else:
        left = summary["n_rows"] - kept
        sentence = f"{kept:,} of {summary['n_rows']:,} rows passed; {left:,} are kept out and used in no number below."
    pictures = []
    coarse = None if slide is None else coarse_picture(slide, float(summary["um_per_pixel"][0]), _PICTURE_PIXELS)
    if coarse is not None:
        pictures.append(Picture(draw_picture(*coarse), "The slide", "As it was imported."))
    if "quality" in maps:
        names = {USABLE: "usable"} | {code: name.replace("_", " ") for code, name in QUALITY_NAMES.items()}
        address = draw_classes(maps["quality"], names, {USABLE: "#9db7d5"})
        pictures.append(Picture(address, "What can be used", "What is marked otherwise counts in no signature."))
    for name, words in (("focus", "Focus"), ("pen", "Pen marks")):
        if name in maps:
            pictures.append(_number_picture(maps[name], words, ""))
    return {
        "sentence": sentence, "refused": [(reason, _text(n)) for reason, n in refused], "pictures": pictures,
        "of_what": "nuclei" if is_slide else "spots or cells",
        "coverage": [
            (SETS.get(name, name), share, genes.get("abstained", {}).get(name, ""))
            for name, share in sorted(genes.get("coverage", {}).items())
        ],
    }  # fmt: skip


def _glance(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The few numbers that are asked for first, each in a sentence."""
    by_name = {row["name"]: row for row in rows if row["value"] is not None}
    sentences = {
        "tumour.share": "Tumour takes {value} of the section",
        "tumour.area": "The tumour's area is {value}",
        "immune.hot": "Probability that the tumour is immune hot (inflamed): {value}",
        "immune.excluded": "Probability that it is immune excluded (immune cells at its border only): {value}",
        "immune.cold": "Probability that it is immune cold (few immune cells anywhere): {value}",
        "hypoxia.hotspot_area": "Hotspots of lack of oxygen cover {value}",
        "immune.penetration_depth": "Immune cells fall to half of what they are at the border within {value}",
        "interface.length": "The border between tumour and stroma is {value} long",
        "tissue.area": "The tissue's area is {value}",
        "nuclei.number": "Nuclei in it: {value}",
        "nuclei.density": "Density of nuclei: {value}",
    }
    return [
        template.format(value=_with_interval(by_name[name])) + "."
        for name, template in sentences.items() if name in by_name
    ]


def _with_interval(row: Mapping[str, Any]) -> str:
    unit, factor = scaled(row["unit"], abs(row["value"]))
    value = f"{number(row['value'] * factor)} {unit}".strip()
    if row["low"] is None or row["high"] is None:
        return value
    return f"{value} ({interval(row['low'] * factor, row['high'] * factor)})"


def _class_names(rows: Iterable[Mapping[str, Any]], is_slide: bool) -> dict[int, str]:
    """Names of the classes, in the order of their numbers in the map."""
    if is_slide:
        return {at: name.replace("_", "-") for at, name in enumerate(CLASS_NAMES.values())}
    own = [name for row in rows if (name := str(row["name"])).startswith("class_") and name.endswith(".share")]
    return {at: name[len("class_") : -len(".share")] for at, name in enumerate(own)}


def _groups(maps: Mapping[str, StoredMap], class_names: Mapping[int, str], is_slide: bool) -> list[dict[str, Any]]:
    """Maps in the order in which a slide is read: where is tumour, who is there, in which state."""
    regions = []
    if "tumour" in maps:
        caption = "Tumour and stroma by the score of tumour epithelium, or by the classes that were named."
        colours = {0: "#9db7d5", 1: "#b03a5b"}
        regions.append(Picture(draw_classes(maps["tumour"], _REGIONS, colours), "Tumour and stroma", caption))
    if "signed_distance_um" in maps:
        address = draw_numbers(maps["signed_distance_um"], "µm, negative in the tumour", about_zero=True)
        regions.append(Picture(address, "Distance to the border", "The black line is the border."))
    kinds = []
    if "niche" in maps:
        caption = "Numbered by the program; the table says how large each is."
        kinds.append(Picture(draw_classes(maps["niche"], {}), "Niches", caption))
    if "class" in maps:
        caption = "By number and size of nuclei alone." if is_slide else "As the input names them."
        kinds.append(Picture(draw_classes(maps["class"], class_names), "Classes", caption))
    immune = [maps[name] for name in _IMMUNE if name in maps]
    if len(immune) == len(_IMMUNE):
        kinds.append(_immune(immune))
    shown = {"tumour", "signed_distance_um", "niche", "class", "quality", "focus", "pen", *_IMMUNE}
    states = [_state(name, image, maps) for name, image in maps.items() if name not in shown and _is_state(name)]
    last = ("Nuclei and stains", "") if is_slide else ("States", "Shares of counts; a pink line goes around hotspots.")
    found = [("Tumour and border", "", regions), ("Who is where", "", kinds), (*last, states)]
    return [{"title": t, "explanation": e, "pictures": p} for t, e, p in found if p]


def _is_state(name: str) -> bool:
    return not name.startswith(("hotspot_", "aucell_"))


def _state(name: str, image: StoredMap, maps: Mapping[str, StoredMap]) -> Picture:
    words = SETS.get(name, heading(name))
    if image.is_classes:
        return Picture(draw_classes(image, {}), words, "")
    hot = maps.get(f"hotspot_{name}")
    if hot is None:
        return _number_picture(image, words, "")
    share = float((hot.values == 1).sum()) / max(int((hot.values >= 0).sum()), 1)
    caption = f"Hotspots cover {100 * share:.0f} % of the tissue." if share else "No hotspot."
    address = draw_numbers(image, "share of counts", hot.values == 1)
    return Picture(address, words, caption)


def _number_picture(image: StoredMap, words: str, caption: str) -> Picture:
    unit, _ = scaled(image.unit, 0.0)
    return Picture(draw_numbers(image, unit or words.lower()), words, caption)


def _immune(images: Sequence[StoredMap]) -> Picture:
    """The likeliest class of each place, where it is likelier than the others together."""
    chances = np.stack([image.values for image in images])
    seen = np.isfinite(chances).all(axis=0)
    best = np.where(seen, np.argmax(np.nan_to_num(chances), axis=0), -1)
    unsure = seen & (np.nan_to_num(chances).max(axis=0) <= 0.5)
    image = StoredMap("immune", np.where(unsure, 3, best).astype(np.int16), "1", images[0].um_per_pixel)
    names = {0: "hot", 1: "excluded", 2: "cold", 3: "not sure"}
    colours = {0: "#d1495b", 1: "#edae49", 2: "#00798c", 3: "#bbbbbb"}
    return Picture(draw_classes(image, names, colours), "Immune class", "Named where its probability is above a half.")


def _profiles(rows: Iterable[Mapping[str, Any]]) -> list[Picture]:
    layers: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        first, _, layer = str(row["name"]).partition(".layer.")
        if layer:
            layers.setdefault(first, {})[layer.replace("_", " ")] = row
    found = []
    for first, of_layer in layers.items():
        blank = {"value": None, "low": None, "high": None}
        values = [
            tuple(np.nan if (v := of_layer.get(layer, blank)[end]) is None else float(v) for end in blank)
            for layer in LAYERS
        ]
        seen = [layer for layer, value in zip(LAYERS, values, strict=True) if np.isfinite(value[0])]
        if seen:
            highest = max(seen, key=lambda layer: of_layer[layer]["value"])
            address = draw_profile(LAYERS, [(v[0], v[1], v[2]) for v in values], "share")
            found.append(Picture(address, heading(first), f"Highest in the {highest}."))
    return found


def _histograms(path: Path) -> list[Picture]:
    """Sizes and shapes of all nuclei."""
    edges = {name: np.linspace(low, high, _BINS + 1) for name, (_, low, high) in _NUCLEI.items()}
    counts = histograms(path, edges)
    return [
        Picture(draw_histogram(edges[name], counts[name], label), label.partition(" (")[0].capitalize(), "All nuclei.")
        for name, (label, _, _) in _NUCLEI.items() if counts
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Signatures by what they speak of; those without a value stand among what is not said."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["value"] is None:
            continue
        unit, factor = scaled(row["unit"], abs(row["value"]))
        ends = [None if row[end] is None else row[end] * factor for end in ("low", "high")]
        groups.setdefault(str(row["name"]).partition(".")[0], []).append(
            {
                "title": title(row["name"]), "value": number(row["value"] * factor), "interval": interval(*ends),
                "unit": unit, "note": row["note"], "source": row["source"],
            }
        )  # fmt: skip
    return [{"title": heading(first), "rows": own} for first, own in groups.items()]


def _abstained(summary: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    said = {**summary.get("genes", {}).get("abstained", {}), **summary.get("abstained", {})}
    found = [(SETS.get(name, name.replace("_", " ")), str(reason)) for name, reason in said.items()]
    without = [row for row in rows if row["value"] is None]
    return found + [
        (f"{heading(str(row['name']).partition('.')[0])}: {title(row['name'])}", row["note"]) for row in without
    ]


def _size(count: Any) -> float:
    return float(count) if isinstance(count, int | float) else 0.0


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value)
    if isinstance(value, float):
        return number(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
