"""The HTML report: one page for the cohort, one for each chosen patient; plain files that need no server."""

from oncotwin_services.report.cohort import Evaluation, evaluate
from oncotwin_services.report.content import (
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
)
from oncotwin_services.report.pages import patient_page, write_report
from oncotwin_services.report.patient import patient_report, predictive_check

__all__ = [
    "AlertLine",
    "CohortReport",
    "CoverageRow",
    "Evaluation",
    "Fan",
    "InstitutionRow",
    "ObservedPoint",
    "ParameterLine",
    "PatientReport",
    "PitRow",
    "PredictiveCheck",
    "SeriesReport",
    "SkillRow",
    "TreatmentSpan",
    "evaluate",
    "patient_page",
    "patient_report",
    "predictive_check",
    "write_report",
]
