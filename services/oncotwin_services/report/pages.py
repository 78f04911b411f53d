"""Write the report's pages: one HTML file each, style and plots inside, so that a file can be mailed or printed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from oncotwin_services.report import plots
from oncotwin_services.report.content import AlertLine, CohortReport, PatientReport, SeriesReport

_SEVERITIES = ("high", "warning", "info")
"""The gravest first."""


def write_report(folder: Path, cohort: CohortReport, patients: Sequence[PatientReport]) -> Path:
    """Write ``index.html`` and ``patients/<institution>/<patient>.html`` below a folder.

    The same content gives the same bytes.

    Returns:
        The path of the first page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = environment()
    index = folder / "index.html"
    index.write_text(made.get_template("cohort.html.j2").render(_cohort(cohort, patients)), encoding="utf-8")
    template = made.get_template("patient.html.j2")
    for patient in patients:
        page = folder / page_path(patient)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(template.render(_patient(patient)), encoding="utf-8")
    return index


def patient_page(patient: PatientReport) -> bytes:
    """One patient's page on its own; the same content gives the same bytes."""
    content = {**_patient(patient), "home": None}
    return environment().get_template("patient.html.j2").render(content).encode()


def page_path(patient: PatientReport) -> str:
    """Where a patient's page lies, relative to the first page; pseudonyms are safe as file names."""
    return f"patients/{patient.institution}/{patient.patient}.html"


@cache
def environment() -> Environment:
    """The templates, with escaping on and the style sheet inside."""
    here = files(__package__)
    templates = {
        name: here.joinpath("templates", name).read_text(encoding="utf-8")
        for name in ("page.html.j2", "cohort.html.j2", "patient.html.j2", "signatures.html.j2", "alignment.html.j2")
    }
    made = Environment(
        loader=DictLoader(templates), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.globals["style"] = Markup(here.joinpath("templates", "style.css").read_text(encoding="utf-8"))
    made.filters.update(
        day=_day, instant=_instant, number=_number, words=plots.words, percent=lambda share: f"{100 * share:.0f} %"
    )
    return made


def _day(moment: datetime) -> str:
    return moment.date().isoformat()


def _instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _number(value: float) -> str:
    """Three significant digits, without an exponent where a person would write none."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _cohort(cohort: CohortReport, patients: Sequence[PatientReport]) -> dict[str, Any]:
    """What the cohort's template shows."""
    pictures = {
        "skill": plots.skill_plot(
            cohort.skill, "skill", "Forecast error of the twin divided by the reference's, with 95 % intervals"
        )
        if cohort.skill
        else "",
        "coverage": plots.coverage_plot(cohort.coverage, "coverage", "Coverage of predictive intervals by visits ahead")
        if cohort.coverage
        else "",
    }
    return {
        "cohort": cohort,
        "patients": [
            {"report": p, "href": page_path(p), "alerts": _standing(p), "next": _next(p)} for p in patients
        ],
        "pictures": {name: Markup(svg) for name, svg in pictures.items()},
        "pits": [
            (row.observable, Markup(plots.pit_plot(row, f"pit-{row.observable}", f"Calibration of {row.observable}")))
            for row in cohort.pit
        ],
        "checks": [
            (
                check.observable,
                Markup(
                    plots.check_plot(
                        check, f"check-{check.observable}",
                        f"Prior and posterior predictive distribution of {check.observable} beside the data",
                    )
                ),
            )
            for check in cohort.checks
        ],
        "totals": {
            "twins": sum(row.twins for row in cohort.institutions),
            "events": sum(row.events for row in cohort.institutions),
            "rejected": sum(row.rejected for row in cohort.institutions),
            "alerts": sum(row.alerts for row in cohort.institutions),
        },
    }


def _patient(report: PatientReport) -> dict[str, Any]:
    """What a patient's template shows."""
    return {
        "report": report,
        "visits": _by_visit(_standing(report)),
        "superseded": [alert for alert in report.alerts if alert.superseded],
        "next": _next(report),
        "home": "../../index.html",
        "series": [_series(report, series) for series in report.series],
    }


def _series(report: PatientReport, series: SeriesReport) -> dict[str, Any]:
    """What one section of a patient's template shows."""
    moments = sorted(
        {a.time for a in _standing(report) if (a.observable, a.target) == (series.observable, series.target)}
    )
    name = f"{series.observable}-{series.target}"
    plot = ""
    if series.points or series.forecast:
        plot = plots.series_plot(
            series, report.treatments, moments, name, f"{title(series)} over time; the values are tabled below"
        )
    return {
        "content": series,
        "title": title(series),
        "plot": Markup(plot),
        "legend": plots.legend(series, alerts=bool(moments)),
        "forecast": _forecast_rows(series),
    }


def title(series: SeriesReport) -> str:
    """Heading of a series."""
    name = plots.words(series.observable)
    name = name[0].upper() + name[1:]
    return f"{name}, lesion {series.target}" if series.target else name


def _standing(report: PatientReport) -> list[AlertLine]:
    """Alerts that hold, the latest first."""
    return sorted((a for a in report.alerts if not a.superseded), key=lambda a: a.time, reverse=True)


def _by_visit(alerts: Sequence[AlertLine]) -> list[dict[str, Any]]:
    """Alerts of one day together: their kinds, what was seen, and each recommendation once."""
    days: dict[str, list[AlertLine]] = {}
    for alert in alerts:
        days.setdefault(_day(alert.time), []).append(alert)
    return [
        {
            "day": day,
            "severity": min((a.severity for a in those), key=_SEVERITIES.index),
            "kinds": sorted({(a.kind, a.severity) for a in those}),
            "messages": [a.message for a in those],
            "recommended": list(dict.fromkeys(a.recommended for a in those)),
        }
        for day, those in days.items()
    ]


def _forecast_rows(series: SeriesReport) -> list[tuple[datetime, float, float, float]]:
    """(time, outermost low, median, outermost high): at most six rows of the forecast."""
    fan = series.forecast
    if fan is None:
        return []
    n = len(fan.times)
    chosen = sorted({round(i * (n - 1) / 5) for i in range(6)} - {0}) if n > 1 else [0]
    return [(fan.times[i], fan.values[i][0], fan.values[i][len(fan.levels) // 2], fan.values[i][-1]) for i in chosen]


def _next(report: PatientReport) -> list[dict[str, Any]]:
    """What is to be expected of each series half-way along its forecast, beside the last value seen."""
    found = []
    for series in report.series:
        rows = _forecast_rows(series)
        if rows and series.forecast is not None:
            when, low, median, high = rows[(len(rows) - 1) // 2]
            share = series.forecast.levels[-1] - series.forecast.levels[0]
            last = series.points[-1].in_words(series.unit) if series.points else "nothing"
            found.append(
                {
                    "title": title(series), "unit": series.unit, "time": when, "low": low, "median": median,
                    "high": high, "share": share, "last": last,
                    "last_time": series.points[-1].time if series.points else None,
                }
            )
    return found
