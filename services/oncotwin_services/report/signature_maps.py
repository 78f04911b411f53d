"""Pictures of a section's or slide's maps, each with a scale bar in micrometres and a legend, as inline PNG.

On white in every mode: a map is compared with a stained slide, and that is white.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from oncotwin.adapters.arrays.signature_files import StoredMap

MOST_CLASSES = 24
_DOTS = 110
_WIDTH_IN = 4.6
_BLANK = "#eceef1"
_STYLE: dict[Any, Any] = {"font.size": 9.0, "text.parse_math": False, "axes.linewidth": 0.6}
CLASS_COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#994f00", "#004488", "#ddaa33", "#bb5566",
    "#117733", "#999933", "#882255", "#44aa99", "#332288", "#88ccee", "#cc6677", "#ddcc77", "#aa4499", "#6699cc",
    "#661100", "#888888", "#000000", "#bbbbbb",
)  # fmt: skip
"""Of Tol's qualitative schemes, which colour-blind people can tell apart as well."""


def draw_numbers(
    image: StoredMap, label: str, outline: NDArray[np.bool_] | None = None, *, about_zero: bool = False
) -> str:
    """A map of numbers with its colour bar, from the 1st to the 99th percentile.

    Args:
        image: the map.
        label: of the colour bar.
        outline: (rows, columns) places around which a line is drawn, such as hotspots.
        about_zero: two colours that meet at nil, for what has a sign.
    Returns:
        ``data:`` address of a PNG.
    """
    seen = image.values[np.isfinite(image.values)]
    low, high = (float(v) for v in np.quantile(seen, [0.01, 0.99])) if seen.size else (0.0, 1.0)
    if about_zero:
        high = max(abs(low), abs(high))
        low = -high
    if low == high:
        high = low + 1.0
    colours = matplotlib.colormaps["PuOr_r" if about_zero else "viridis"].with_extremes(bad=_BLANK)
    with matplotlib.rc_context(_STYLE):
        figure, axis = _axis(image)
        shown = axis.imshow(image.values, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        if outline is not None and outline.any():
            _outline(axis, outline, np.ones(outline.shape, np.bool_), "#e6007e")
        elif about_zero and (seen < 0).any() and (seen > 0).any():
            _outline(axis, np.nan_to_num(image.values) < 0, np.isfinite(image.values), "#000000")
        bar = figure.colorbar(shown, ax=axis, fraction=0.045, pad=0.02, extend="both")
        bar.set_label(label)
        _scale_bar(axis, image)
        return _address(figure)


def draw_classes(image: StoredMap, names: Mapping[int, str], colours: Mapping[int, str] | None = None) -> str:
    """A map of classes with their names beside it.

    Args:
        image: the map.
        names: of the classes; one without a name is shown by its number.
        colours: of some classes; the others are given one.
    Returns:
        ``data:`` address of a PNG.
    """
    values = image.values.astype(np.int64)
    classes = [int(one) for one in np.unique(values) if one >= 0][:MOST_CLASSES]
    palette = [(colours or {}).get(one, CLASS_COLOURS[at % len(CLASS_COLOURS)]) for at, one in enumerate(classes)]
    place = np.full(values.shape, np.nan)
    for at, one in enumerate(classes):
        place[values == one] = at
    with matplotlib.rc_context(_STYLE):
        figure, axis = _axis(image)
        if classes:
            shown = ListedColormap(palette).with_extremes(bad=_BLANK)
            axis.imshow(place, cmap=shown, vmin=-0.5, vmax=len(classes) - 0.5, interpolation="nearest")
            marks = [Patch(color=colour) for colour in palette]
            axis.legend(
                marks, [names.get(one, str(one)) for one in classes], loc="upper left", bbox_to_anchor=(1.01, 1.0),
                frameon=False, handlelength=1.0, borderaxespad=0.0,
            )  # fmt: skip
        _scale_bar(axis, image)
        return _address(figure)


def draw_picture(pixels: NDArray[np.uint8], um_per_pixel: float) -> str:
    """The stained tissue itself, (rows, columns, 3), with a scale bar."""
    image = StoredMap("", pixels[..., 0], "", um_per_pixel)
    with matplotlib.rc_context(_STYLE):
        figure, axis = _axis(image)
        axis.imshow(pixels)
        _scale_bar(axis, image)
        return _address(figure)


def draw_profile(layers: Sequence[str], rows: Sequence[tuple[float, float, float]], label: str) -> str:
    """Means over layers of distance with their intervals.

    Args:
        layers: names, from the tumour's core outwards.
        rows: mean, lower and upper end of each; NaN where there is none.
        label: of the vertical axis.
    """
    value, low, high = np.array(rows, dtype=np.float64).T
    with matplotlib.rc_context({**_STYLE, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(3.6, 1.9), layout="constrained")
        axis = figure.add_subplot()
        x = np.arange(len(layers))
        axis.axvspan(-0.5, 1.5, color="#f3e3ea", linewidth=0)
        axis.vlines(x, low, high, color="#2563a8", linewidth=2.5, alpha=0.5)
        axis.plot(x, value, "o-", color="#2563a8", linewidth=1.2, markersize=4)
        axis.set_xticks(x, [name.replace(" ", "\n") for name in layers])
        axis.set_xlim(-0.5, len(layers) - 0.5)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0.0 if not (low < 0).any() else None)
        return _address(figure)


def draw_spots(points: NDArray[np.float64], labels: NDArray[np.int64], names: Sequence[str], least: int) -> str:
    """Spots of an embedding by their first two coordinates, coloured by label.

    Args:
        points: (n, at least 2).
        labels: (n,) from nil on; below that grey.
        names: of the labels.
        least: labels of fewer spots are drawn last, so that they are not covered.
    """
    with matplotlib.rc_context({**_STYLE, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(_WIDTH_IN, 3.4), layout="constrained")
        axis = figure.add_subplot()
        # In an order that no section has a part in, so that none covers another.
        order = np.argsort((np.arange(len(labels)) * 2_654_435_761) % (1 << 32), kind="stable")
        rare = np.bincount(labels[labels >= 0], minlength=len(names)) < least
        order = order[np.argsort(rare[labels[order]] & (labels[order] >= 0), kind="stable")]
        colours = np.array([*(CLASS_COLOURS[k % MOST_CLASSES] for k in range(len(names))), "#c8ccd2"])
        axis.scatter(points[order, 0], points[order, 1], c=colours[labels[order]], s=5, linewidths=0, rasterized=True)
        axis.set_xticks([])
        axis.set_yticks([])
        marks = [Patch(facecolor=CLASS_COLOURS[k % MOST_CLASSES], label=name) for k, name in enumerate(names)]
        figure.legend(handles=marks[:MOST_CLASSES], loc="outside right upper", frameon=False)
        return _address(figure)


def draw_histogram(edges: NDArray[np.float64], counts: NDArray[np.int64], label: str) -> str:
    """How many nuclei have which value."""
    with matplotlib.rc_context({**_STYLE, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(3.6, 1.9), layout="constrained")
        axis = figure.add_subplot()
        axis.stairs(counts, edges, fill=True, color="#2563a8")
        axis.set_xlabel(label)
        axis.set_ylabel("nuclei")
        return _address(figure)


def _axis(image: StoredMap) -> tuple[Figure, Any]:
    rows, columns = image.values.shape
    height = min(max(_WIDTH_IN * 0.8 * rows / columns, 1.6), 6.0)
    figure = Figure(figsize=(_WIDTH_IN, height + 0.2), layout="constrained", facecolor="white")
    axis = figure.add_subplot()
    axis.set_axis_off()
    return figure, axis


def _outline(axis: Any, inside: NDArray[np.bool_], seen: NDArray[np.bool_], colour: str) -> None:
    """A line along the edges of the pixels that are inside, where both sides are seen.

    A line between the pixels' middles would cut their corners off.
    """
    padded, known = np.pad(inside, 1), np.pad(seen, 1, constant_values=bool(seen.all()))
    rows, columns = np.nonzero((padded[1:] != padded[:-1]) & known[1:] & known[:-1])
    axis.hlines(rows - 0.5, columns - 1.5, columns - 0.5, color=colour, linewidth=0.8)
    rows, columns = np.nonzero((padded[:, 1:] != padded[:, :-1]) & known[:, 1:] & known[:, :-1])
    axis.vlines(columns - 0.5, rows - 1.5, rows - 0.5, color=colour, linewidth=0.8)


def bar_um(width_um: float) -> float:
    """Length of a scale bar: 1, 2 or 5 times a power of ten, the largest that takes at most a third of the width."""
    power = 10.0 ** np.floor(np.log10(width_um / 3.0))
    return float(max(step * power for step in (1.0, 2.0, 5.0) if step * power <= width_um / 3.0))


def _scale_bar(axis: Any, image: StoredMap) -> None:
    rows, columns = image.values.shape
    length = bar_um(columns * image.um_per_pixel)
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    thick = max(rows, columns) * 0.012
    # Below the map: on it the bar would hide tissue.
    axis.set_xlim(-0.5, columns - 0.5)
    axis.set_ylim(rows - 0.5 + 7 * thick, -0.5)
    axis.add_patch(Rectangle((0, rows + 1.5 * thick), length / image.um_per_pixel, thick, color="black"))
    axis.text(length / image.um_per_pixel + 2 * thick, rows + 2 * thick, text, va="center", ha="left")


def _address(figure: Figure) -> str:
    buffer = io.BytesIO()
    # Without the program's name in it the same map gives the same bytes.
    figure.savefig(buffer, format="png", dpi=_DOTS, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
