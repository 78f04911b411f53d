"""The report: complete, self-contained, escaped, accessible, and the same bytes for the same content."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from oncotwin_services.report import (
    AlertLine,
    CohortReport,
    CoverageRow,
    Fan,
    InstitutionRow,
    ObservedPoint,
    ParameterLine,
    PatientReport,
    PitRow,
    PredictiveCheck,
    SeriesReport,
    SkillRow,
    TreatmentSpan,
    write_report,
)

START = datetime(2011, 3, 1, tzinfo=UTC)
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def fan(first_day: int, last_day: int, start: float, rate: float, spread: float) -> Fan:
    """Quantiles of a log-normal that widens with the square root of time."""
    days = range(first_day, last_day + 1, 7)
    return Fan(
        times=tuple(START + timedelta(days=d) for d in days),
        levels=LEVELS,
        values=tuple(
            tuple(
                start * math.exp(rate * d + spread * z * math.sqrt(1 + (d - first_day) / 40))
                for z in (-1.645, -0.674, 0.0, 0.674, 1.645)
            )
            for d in days
        ),
    )


def lesion(target: str = "L1", *, logarithmic: bool = False) -> SeriesReport:
    """A lesion that shrinks, with every kind of censoring."""
    days = (0, 42, 84, 126, 168, 210, 252)
    points = [ObservedPoint(START + timedelta(days=d), 48.0 * math.exp(-0.004 * d)) for d in days]
    points[3] = replace(points[3], value=None, censoring="not_evaluable")
    points[5] = replace(points[5], value=None, censoring="left", limit=25.0)
    points[6] = replace(points[6], value=14.0, censoring="interval", limit=22.0)
    return SeriesReport(
        "longest_diameter", target, "mm", tuple(points), fan(0, 252, 48.0, -0.004, 0.08),
        fan(252, 400, 48.0, -0.004, 0.1), fan(0, 252, 50.0, -0.001, 0.3), logarithmic,
    )


def patient(name: str = "p-0042") -> PatientReport:
    """A patient with two lesions, treatment before and after the origin, and alerts."""
    alert = AlertLine(
        START + timedelta(days=168), START + timedelta(days=84), "drift", "high", "longest_diameter", "L1",
        "Longest diameter of lesion L1 has run above its forecasts since 2011-05-24.",
        "Repeat the imaging in 4 to 6 weeks.",
    )
    return PatientReport(
        "POPLAR", name, "oncotwin/3", START + timedelta(days=252), START + timedelta(days=300), "ab" * 32,
        (lesion(), lesion("L2", logarithmic=True)),
        (
            TreatmentSpan("atezolizumab", START, START + timedelta(days=180)),
            TreatmentSpan("docetaxel", START + timedelta(days=200), None),
            TreatmentSpan("docetaxel", START + timedelta(days=260), START + timedelta(days=330), planned=True),
        ),
        (
            alert, replace(alert, superseded=True, message="explained"),
            replace(alert, kind="uncertain", severity="info"),
        ),
        (ParameterLine("log_growth", (-6.0, -5.0, -4.0), (-5.6, -5.2, -4.9)),),
    )


def cohort() -> CohortReport:
    """A cohort with every table filled."""
    return CohortReport(
        "Lesions of 628 patients", "Three trials, replayed in clinical time", "oncotwin/3", START,
        (InstitutionRow("FIR", 124, 1203, 0, 31), InstitutionRow("POPLAR", 190, 2001, 3, 44)),
        tuple(
            SkillRow("longest_diameter", score, ahead, 1900, 0.14 * ahead, "last value carried forward",
                     0.142 * ahead, 0.96, 1.01)
            for score in ("MAE (log mm)", "CRPS (mm)") for ahead in (1, 2, 3)
        ),
        tuple(CoverageRow("longest_diameter", ahead, 1900, 0.9, 0.9 - 0.005 * ahead) for ahead in (1, 2, 3)),
        (PitRow("longest_diameter", (0.09, 0.104, 0.099, 0.101, 0.096, 0.103, 0.11, 0.098, 0.097, 0.102), 1000),),
        (PredictiveCheck("longest_diameter", "mm", tuple(10.0 + i for i in range(60)),
                         tuple(5.0 + 1.5 * i for i in range(60)), tuple(9.0 + i for i in range(60))),),
        (("drift", 40), ("outlier", 25)),
        ("Origins and targets of one patient are in one fold.",),
    )


class Outline(HTMLParser):
    """Collects what a page refers to, its ids, and checks that elements close."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note references and ids."""
        for name, value in attrs:
            if name in ("src", "href", "action", "xlink:href") and value is not None:
                self.references.append(value)
            if name == "id" and value is not None:
                self.ids.append(value)
        if tag in ("h1", "h2", "h3"):
            self.headings.append(tag)
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A closed element opens nothing."""
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "br", "link", "img"):
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Elements close in the order in which they opened."""
        assert self.open.pop() == tag


def read(page: Path) -> tuple[str, Outline]:
    """A page's text and outline."""
    text = page.read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    return text, outline


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two patients."""
    folder = tmp_path_factory.mktemp("report")
    assert write_report(folder, cohort(), [patient(), patient("p-0043")]) == folder / "index.html"
    return folder


def test_pages_are_well_formed_and_fetch_nothing(written: Path) -> None:
    pages = sorted(written.rglob("*.html"))
    assert [str(p.relative_to(written)) for p in pages] == [
        "index.html", "patients/POPLAR/p-0042.html", "patients/POPLAR/p-0043.html"
    ]
    for page in pages:
        text, outline = read(page)
        assert "default-src 'none'" in text
        for reference in outline.references:
            assert reference.startswith("#") or (page.parent / reference).resolve() in pages, reference
        assert not re.search(r"url\((?!#|&quot;#|\"#)", text) and "@import" not in text
        assert len(outline.ids) == len(set(outline.ids))
        assert outline.headings[0] == "h1" and outline.headings.count("h1") == 1


def test_patient_page_says_what_a_tumour_board_asks(written: Path) -> None:
    text, _ = read(written / "patients/POPLAR/p-0042.html")
    for said in (
        "Patient p-0042", "POPLAR", "oncotwin/3", "2011-11-08", "ab" * 32, "14 to 22 mm</b> on",
        "has run above its forecasts since 2011-05-24", "<b>Next:</b> Repeat the imaging",
        "1 explained by a later correction",
        "not evaluable", "&lt; 25 mm", "docetaxel", "no end known", "planned", "log_growth",
    ):
        assert said in text, said
    assert text.count("<svg") == 2 and text.count('role="img" aria-label=') == 2
    assert "#010101" not in text and "var(--forecast)" in text


def test_cohort_page_holds_its_tables_and_plots(written: Path) -> None:
    text, _ = read(written / "index.html")
    for said in ("628 patients", "MAE (log mm)", "last value carried", "0.986", "89.5 %", "314", "3,204", "one fold"):
        assert said in text, said
    assert text.count("<svg") == 4
    assert 'href="patients/POPLAR/p-0043.html"' in text


def test_same_content_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write_report(tmp_path, cohort(), [patient(), patient("p-0043")])
    for page in written.rglob("*.html"):
        assert page.read_bytes() == (tmp_path / page.relative_to(written)).read_bytes()


def test_what_comes_from_events_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>&\"'"
    report = patient()
    report = replace(
        report, treatments=(TreatmentSpan(bad, START, None),),
        series=(replace(lesion(), target=bad),), alerts=(replace(report.alerts[0], message=bad),),
    )
    write_report(tmp_path, replace(cohort(), title=bad), [report])
    for page in tmp_path.rglob("*.html"):
        text, outline = read(page)
        assert "<script" not in text and "script" not in outline.open


def test_a_patient_without_forecast_or_treatment_has_a_page_too(tmp_path: Path) -> None:
    series = SeriesReport("ldh", "", "U/L", (ObservedPoint(START, 230.0),))
    report = replace(patient(), series=(series,), treatments=(), alerts=(), parameters=())
    write_report(tmp_path, replace(cohort(), skill=(), coverage=(), pit=(), checks=(), alerts_by_kind=()), [report])
    text, _ = read(tmp_path / "patients/POPLAR/p-0042.html")
    assert "LDH" in text and "None: what was observed agrees" in text
