"""Signatures in the words of a pathologist: titles, units and what each kind of number says."""

from __future__ import annotations

import math
import re

SETS = {
    "hypoxia": "Lack of oxygen (hypoxia)", "proliferation": "Proliferation", "emt": "Epithelial-mesenchymal transition",
    "exhaustion": "Exhausted T cells", "stemness": "Stemness", "cytotoxicity": "Cytotoxic cells", "stroma": "Stroma",
    "immune": "Immune cells", "tumour_epithelium": "Tumour epithelium", "adipose": "Fat",
    "endothelium": "Vessels (endothelium)", "endothelial": "Vessels (endothelium)", "quality": "Quality",
    "tumour": "Tumour", "interface": "Border between tumour and stroma", "nuclei": "Nuclei", "tissue": "Tissue",
}  # fmt: skip
"""The first part of a signature's name."""

_KINDS = {
    "moran_i": "likeness of neighbours (Moran's I)", "geary_c": "unlikeness of neighbours (Geary's C)",
    "hotspot_area": "area of hotspots", "hotspot_connectivity": "connectivity of hotspots",
    "hotspot_edge_share": "share of hotspots at the tissue's edge", "hotspot_number": "number of hotspots",
    "hotspot_largest_share": "share of the largest hotspot", "slope_inside": "slope inside the tumour",
    "slope_outside": "slope outside the tumour", "vessel_slope": "slope with the distance to vessels",
    "penetration_depth": "depth of the fall to a half", "share": "share",
}  # fmt: skip

GLOSSARY = (
    ("Score of a gene set", "Share of all counts in a small neighbourhood that belong to the set's genes. Where spots "
     "hold several cells it speaks of the mixture, not of single cells."),
    ("Hotspot", "Spots whose surroundings score higher than chance allows (Getis-Ord G*, 5 % false discoveries)."),
    ("Moran's I", "0: neighbours are as unlike as any two places; 1: they are alike. The note says whether that could "
     "be chance (z, p; q is the rate of false discoveries)."),
    ("Geary's C", "1: neighbours are as unlike as any two places; below 1: more alike; above 1: less."),
    ("Signed distance", "To the border between tumour and stroma; negative inside the tumour."),
    ("Niche", "Places whose own and surrounding expression is alike; numbered by the program, named by nobody."),
    ("Beside", "How often two kinds lie next to each other against chance, as z: above 2 more often, below -2 less."),
    ("Layering, mixing", "Layering: how well the distance to the border tells the niche, 0 to 1. Mixing: neighbours "
     "across the border over neighbours inside the tumour."),
    ("90 % interval", "By drawing squares of the tissue anew. It speaks of this section, not of the whole tumour."),
)  # fmt: skip
"""What a reader must know, term by term."""

_UNITS = {"1": "", "um": "µm", "um2": "µm²", "/mm2": "per mm²", "mm2": "mm²", "/um": "per µm", "%": "%"}
_LARGE_UM2 = 1e5


def heading(first: str) -> str:
    """Title of all signatures whose names begin alike."""
    return SETS.get(first, _plain(first))


def title(name: str) -> str:
    """Title of one signature, without the part that its group says."""
    _, _, rest = name.partition(".")
    if rest.startswith("layer."):
        return f"mean in the layer: {_plain(rest.removeprefix('layer.'))}".lower()
    if rest.startswith("beside."):
        return f"beside {_plain(rest.removeprefix('beside.'))}".lower()
    return _KINDS.get(rest, _plain(rest)[:1].lower() + _plain(rest)[1:])


def scaled(unit: str, largest: float) -> tuple[str, float]:
    """Unit as people write it, and the factor from the signature's own: large areas in mm², slopes per mm."""
    if unit == "um2" and largest >= _LARGE_UM2:
        return "mm²", 1e-6
    if unit == "/um":
        return "per mm", 1e3
    return _UNITS.get(unit, unit), 1.0


def number(value: float | None) -> str:
    """Three digits; a dash where nothing is known."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.2e}" if abs(value) < 1e-3 else f"{value:,.0f}"


def interval(low: float | None, high: float | None) -> str:
    """Both ends; "" without an interval."""
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def _plain(name: str) -> str:
    words = re.sub(r"[._]+", " ", name).strip()
    return words[:1].upper() + words[1:]
