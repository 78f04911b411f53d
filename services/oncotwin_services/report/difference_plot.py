"""Two beliefs of one twin over clinical time, drawn over each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from oncotwin.twin.difference import Difference
from oncotwin.twin.recall import Recollection
from oncotwin_services.report.content import Fan, SeriesReport
from oncotwin_services.report.patient import patient_report

_BEFORE, _AFTER = "#8a8a8a", "#1f5fa8"
_STYLE: dict[Any, Any] = {"svg.hashsalt": "difference", "axes.spines.top": False, "axes.spines.right": False}


def draw_difference(path: Path, found: Difference) -> None:
    """Each series in a panel: what each belief expected (median and 90 %), its forecast, and what it had seen.

    Args:
        path: its suffix says the format. The same difference gives the same bytes of SVG.
    """
    sides = [_series(one) for one in (found.before, found.after)]
    keys = sorted({*sides[0], *sides[1]})
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.0, 0.8 + 2.4 * max(1, len(keys))), layout="constrained")
        panels = figure.subplots(max(1, len(keys)), 1, squeeze=False)[:, 0]
        for axes, key in zip(panels, keys, strict=False):
            for one, side, colour in zip((found.before, found.after), sides, (_BEFORE, _AFTER), strict=True):
                if key in side:
                    _draw(axes, side[key], colour, _label(one))
            known = {(point.time, point.value) for point in (sides[0][key].points if key in sides[0] else ())}
            _points(axes, sides[0].get(key), _BEFORE, "o", 5.0)
            _points(axes, sides[1].get(key), _AFTER, ".", 5.0)
            for point in sides[1][key].points if key in sides[1] else ():
                if (point.time, point.value) not in known and point.value is not None:
                    axes.plot(
                        [point.time], [point.value], marker="o", markersize=9, markerfacecolor="none", color=_AFTER
                    )
            axes.set_title(" ".join(key).strip().replace("_", " "), loc="left", fontsize=10)
            axes.set_ylabel(next(side[key].unit for side in sides if key in side))
            if any(side[key].logarithmic for side in sides if key in side):
                axes.set_yscale("log")
        panels[0].legend(fontsize=8, loc="best")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _series(one: Recollection) -> dict[tuple[str, str], SeriesReport]:
    if one.belief.state.last is None:
        return {}
    report = patient_report(one.binding, one.belief, one.known_at or one.belief.state.last[0])
    return {(series.observable, series.target): series for series in report.series}


def _label(one: Recollection) -> str:
    when = "all known" if one.known_at is None else f"known at {one.known_at:%Y-%m-%d %H:%M}"
    return f"{when}, model version {one.binding.version}"


def _draw(axes: Any, series: SeriesReport, colour: str, label: str) -> None:
    for fan, style in ((series.band, "-"), (series.forecast, "--")):
        if fan is not None and fan.times:
            _fan(axes, fan, colour, style, label if style == "-" else "")


def _fan(axes: Any, fan: Fan, colour: str, style: str, label: str) -> None:
    low, high = fan.at_level(fan.levels[0]), fan.at_level(fan.levels[-1])
    axes.fill_between(fan.times, low, high, color=colour, alpha=0.2, linewidth=0)
    middle = fan.at_level(fan.levels[len(fan.levels) // 2])
    axes.plot(fan.times, middle, color=colour, linestyle=style, linewidth=1.4, label=label or None)


def _points(axes: Any, series: SeriesReport | None, colour: str, marker: str, size: float) -> None:
    seen = [(point.time, point.value) for point in (series.points if series else ()) if point.value is not None]
    if seen:
        axes.plot(*zip(*seen, strict=True), linestyle="none", marker=marker, markersize=size, color=colour)
