"""Plots as inline SVG: drawn by matplotlib, coloured by the page's style sheet, the same bytes in every run."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from html import escape
from typing import Any

import matplotlib
import matplotlib.dates
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from oncotwin_services.report.content import (
    CoverageRow,
    Fan,
    PitRow,
    PredictiveCheck,
    SeriesReport,
    SkillRow,
    TreatmentSpan,
)

# Stand-ins that matplotlib writes into the SVG; the page's style sheet gives each a colour for light, dark and print.
_INK, _FAINT, _BAND, _FORECAST, _PRIOR, _ALERT, _TREATMENT = (
    "#010101", "#020202", "#030303", "#040404", "#050505", "#060606", "#070707"
)
_VARIABLES = {
    _INK: "--ink", _FAINT: "--faint", _BAND: "--band", _FORECAST: "--forecast", _PRIOR: "--prior",
    _ALERT: "--alert", _TREATMENT: "--treatment",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 10.0, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": _FAINT, "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _FAINT,
    "ytick.color": _FAINT, "xtick.labelcolor": _INK, "ytick.labelcolor": _INK, "axes.linewidth": 0.8,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "axes.axisbelow": True,
    "hatch.linewidth": 0.6, "text.parse_math": False,
}


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an SVG element with a title for screen readers; ids are those that it refers to itself."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    # The page sets the font; matplotlib's own family names would be asked for and not found.
    text = re.sub(r"font(-family)?: ([\d.]+px )?'[^;\"]*", lambda m: f"font-size: {m[2].strip()}" if m[2] else "", text)
    used = set(re.findall(r"#([\w-]+)[\")]", text))
    text = re.sub(r' id="([\w.-]+)"', lambda m: m[0] if m[1] in used else "", text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    head, rest = text.split(">", 1)
    return f'{head} role="img" aria-label="{escape(title)}">{rest}'


def _axes(
    width: float, rows: Sequence[float], *, left: float = 0.6, top: float = 0.1, bottom: float = 0.45
) -> tuple[Figure, list[Any]]:
    """A figure and its axes, top to bottom, sharing their horizontal axis; ``rows`` are their heights.

    All sizes in inches. The margins are given because to measure them would take most of the time of a plot.
    """
    gap = 0.12
    height = top + sum(rows) + gap * (len(rows) - 1) + bottom
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        axes: list[Any] = []
        above = top
        for row in rows:
            box = (left / width, 1 - (above + row) / height, (width - left - 0.1) / width, row / height)
            axes.append(figure.add_axes(box, sharex=axes[0] if axes else None))
            above += row + gap
        for axis in axes[:-1]:
            axis.tick_params(axis="x", labelbottom=False)
    return figure, axes


def _label_width(labels: Iterable[str], size: float = 10.0) -> float:
    """About how many inches the longest label takes."""
    return max((len(label) for label in labels), default=0) * size * 0.0075 + 0.15


def _draw_fan(axis: Any, fan: Fan, colour: str) -> None:
    """Nested bands from the outermost pair of levels inwards, and the median."""
    n = len(fan.levels)
    for i in range(n // 2):
        low, high = [row[i] for row in fan.values], [row[n - 1 - i] for row in fan.values]
        axis.fill_between(fan.times, low, high, color=colour, alpha=0.22, linewidth=0)
    if n % 2:
        axis.plot(fan.times, [row[n // 2] for row in fan.values], color=colour, linewidth=1.8)


def _plain(value: float, _position: int) -> str:
    return f"{value:g}"


def series_plot(
    series: SeriesReport, treatments: Iterable[TreatmentSpan], alert_times: Sequence[datetime], name: str, title: str
) -> str:
    """Observations, posterior band, forecast fan and alerts over time, with the treatment beneath."""
    spans = list(treatments)
    agents = list(dict.fromkeys(span.agent for span in spans))
    left = max(0.6, _label_width(agents, 9.0))
    figure, axes = _axes(8.6, (2.7, 0.2 * len(agents)) if agents else (2.7,), left=left, bottom=0.35)
    with matplotlib.rc_context(_STYLE):
        main = axes[0]
        _draw_series(main, series)
        times = [point.time for point in series.points]
        for fan in (series.band, series.forecast):
            times.extend(fan.times if fan is not None else ())
        first, last = min(times), max(times)
        margin = max(0.02 * (last - first), timedelta(days=1))
        for moment in alert_times:
            main.axvline(moment, color=_ALERT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
        main.set_ylabel(series.unit)
        main.grid(axis="y", color=_FAINT, alpha=0.25, linewidth=0.6)
        if series.forecast is not None and series.points:
            main.axvline(series.forecast.times[0], color=_FAINT, linewidth=0.8)
        main.set_xlim(first - margin, last + margin)
        if agents:
            _draw_treatments(axes[1], spans, agents, last + margin)
        dates: Any = matplotlib.dates
        locator = dates.AutoDateLocator(minticks=4, maxticks=9)
        axes[-1].xaxis.set_major_locator(locator)
        axes[-1].xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
        return _svg(figure, name, title)


def _draw_series(axis: Any, series: SeriesReport) -> None:
    if series.logarithmic:
        axis.set_yscale("log")
    if series.band is not None:
        _draw_fan(axis, series.band, _BAND)
    if series.forecast is not None:
        _draw_fan(axis, series.forecast, _FORECAST)
    seen = [(p.time, p.value) for p in series.points if p.censoring == "none"]
    if seen:
        axis.plot(*zip(*seen, strict=True), "o", color=_INK, markersize=4.5, zorder=4)
    style = {"color": _INK, "markersize": 6, "markerfacecolor": "none", "linestyle": "none", "zorder": 4}
    for kind, marker in (("left", "v"), ("right", "^")):
        points = [(p.time, p.limit) for p in series.points if p.censoring == kind]
        if points:
            axis.plot(*zip(*points, strict=True), marker=marker, **style)
    for point in series.points:
        if point.censoring == "interval":
            axis.vlines(point.time, point.value, point.limit, color=_INK, linewidth=2.5, zorder=4)
    # The population's interval is often far wider than the patient's; it may leave the frame.
    low, high = axis.get_ylim()
    if series.prior is not None:
        for i in (0, len(series.prior.levels) - 1):
            axis.plot(
                series.prior.times, [row[i] for row in series.prior.values], color=_PRIOR, linewidth=1.2,
                linestyle=":", zorder=3,
            )
        axis.set_ylim(low, high)
    if series.logarithmic:
        axis.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=12))
        axis.yaxis.set_major_formatter(FuncFormatter(_plain))
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ylim(bottom=0.0)
        axis.yaxis.set_major_locator(MaxNLocator(6))
    missed = [p.time for p in series.points if p.censoring == "not_evaluable"]
    if missed:
        axis.plot(
            missed, [0.03] * len(missed), "x", color=_INK, markersize=6, transform=axis.get_xaxis_transform(), zorder=4
        )


def _draw_treatments(axis: Any, spans: Sequence[TreatmentSpan], agents: Sequence[str], end: datetime) -> None:
    for span in spans:
        row = agents.index(span.agent)
        axis.barh(
            row, (span.stop or end) - span.start, left=span.start, height=0.62, color=_TREATMENT,
            alpha=0.3 if span.planned else 0.75, hatch="////" if span.planned else None, linewidth=0,
        )
    axis.set_yticks(range(len(agents)), agents, fontsize=9)
    axis.set_ylim(len(agents) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def legend(series: SeriesReport, *, alerts: bool) -> list[tuple[str, str]]:
    """What a series' plot holds: (class of the mark in the style sheet, meaning)."""
    kinds = {point.censoring for point in series.points}
    marks = [
        ("band", "posterior: what the twin believed after each observation", series.band is not None),
        ("forecast", "forecast", series.forecast is not None),
        ("prior", "population alone, 90 %", series.prior is not None),
        ("point", "measured", "none" in kinds),
        ("below", "below the limit shown", "left" in kinds),
        ("above", "above the limit shown", "right" in kinds),
        ("between", "within these limits", "interval" in kinds),
        ("missed", "not evaluable", "not_evaluable" in kinds),
        ("alert", "alert", alerts),
    ]
    return [(mark, meaning) for mark, meaning, present in marks if present]


def skill_plot(rows: Sequence[SkillRow], name: str, title: str) -> str:
    """Ratio to the reference with its interval, one line a row of the table."""
    ahead = ["1 visit" if row.visits_ahead == 1 else f"{row.visits_ahead} visits" for row in rows]
    labels = [f"{words(row.observable)}, {row.score}, {n}" for row, n in zip(rows, ahead, strict=True)]
    figure, [axis] = _axes(8.6, (0.28 * len(rows),), left=_label_width(labels), bottom=0.5)
    with matplotlib.rc_context(_STYLE):
        axis.axvline(1.0, color=_FAINT, linewidth=1.0)
        for i, row in enumerate(rows):
            axis.plot([row.ratio_low, row.ratio_high], [i, i], color=_BAND, linewidth=3.0, solid_capstyle="round")
            axis.plot([row.ratio], [i], "o", color=_INK, markersize=6)
        axis.set_yticks(range(len(rows)), labels)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.tick_params(axis="y", length=0)
        axis.set_xlabel("error of the twin / error of the reference (left of 1: the twin is better)")
        axis.grid(axis="x", color=_FAINT, alpha=0.25, linewidth=0.6)
        return _svg(figure, name, title)


def coverage_plot(rows: Sequence[CoverageRow], name: str, title: str) -> str:
    """Share of later observations inside the interval, by visits ahead."""
    figure, [axis] = _axes(4.2, (2.3,), bottom=0.5)
    with matplotlib.rc_context(_STYLE):
        for nominal in sorted({row.nominal for row in rows}):
            axis.axhline(100 * nominal, color=_FAINT, linewidth=1.0)
        observables = list(dict.fromkeys(row.observable for row in rows))
        colours = (_BAND, _FORECAST, _TREATMENT, _ALERT, _PRIOR)
        for i, observable in enumerate(observables):
            mine = [row for row in rows if row.observable == observable]
            x = [row.visits_ahead + 0.06 * (i - (len(observables) - 1) / 2) for row in mine]
            y = [100 * row.covered for row in mine]
            error = [196 * float(np.sqrt(row.covered * (1 - row.covered) / max(row.n, 1))) for row in mine]
            axis.errorbar(
                x, y, yerr=error, fmt="o-", color=colours[i % len(colours)], markersize=5, linewidth=1.2,
                label=words(observable),
            )
        axis.set_xticks(sorted({row.visits_ahead for row in rows}))
        axis.set_xlabel("visits ahead")
        axis.set_ylabel("inside the interval (%)")
        axis.set_ylim(70, 100)
        axis.legend(frameon=False, fontsize=9, loc="lower left")
        return _svg(figure, name, title)


def pit_plot(row: PitRow, name: str, title: str) -> str:
    """Histogram of the probability integral transform, beside the flat line and its 95 % band."""
    figure, [axis] = _axes(4.2, (2.3,), bottom=0.5)
    with matplotlib.rc_context(_STYLE):
        n_bins = len(row.shares)
        share = np.array(row.shares) * n_bins
        spread = 1.96 * float(np.sqrt((n_bins - 1) / max(row.n, 1)))
        axis.axhspan(max(1 - spread, 0), 1 + spread, color=_PRIOR, alpha=0.25, linewidth=0)
        axis.axhline(1.0, color=_FAINT, linewidth=1.0)
        axis.bar((np.arange(n_bins) + 0.5) / n_bins, share, width=0.9 / n_bins, color=_BAND, alpha=0.75)
        axis.set_xlabel("forecast probability of values up to the one seen")
        axis.set_ylabel("share / expected share")
        axis.set_xlim(0, 1)
        return _svg(figure, name, title)


def check_plot(check: PredictiveCheck, name: str, title: str) -> str:
    """Cumulative distributions of data, prior predictive and posterior predictive, on a logarithmic axis."""
    figure, [axis] = _axes(4.2, (2.3,), bottom=0.5)
    with matplotlib.rc_context(_STYLE):
        for values, colour, label, width in (
            (check.prior, _PRIOR, "prior predictive", 1.4),
            (check.posterior, _BAND, "posterior predictive", 2.0),
            (check.observed, _INK, "observed", 1.2),
        ):
            positive = [value for value in values if value > 0]
            if positive:
                share = np.linspace(0.0, 1.0, 201)
                axis.plot(np.quantile(positive, share), share, color=colour, label=label, linewidth=width)
        seen = [value for value in check.observed if value > 0]
        if seen:
            low, high = np.quantile(seen, [0.0, 1.0])
            axis.set_xlim(low / 3, high * 3)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(10, subs=(1.0,), numticks=8))
        axis.xaxis.set_major_formatter(FuncFormatter(_plain))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(f"{words(check.observable)} ({check.unit})")
        axis.set_ylabel("share at or below")
        axis.legend(frameon=False, fontsize=9, loc="lower right")
        return _svg(figure, name, title)


def words(observable: str) -> str:
    """An observable's name for people."""
    special = {"psa": "PSA", "ldh": "LDH", "ctdna_allele_fraction": "ctDNA allele fraction"}
    return special.get(observable, observable.replace("_", " "))
