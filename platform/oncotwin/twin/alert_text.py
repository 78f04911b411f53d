"""The words of an alert: what was seen, since when, and what to measure next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from scipy.special import ndtr

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_NAMES = {
    "longest_diameter": "longest diameter",
    "volume": "volume",
    "psa": "PSA",
    "testosterone": "testosterone",
    "ctdna_allele_fraction": "ctDNA allele fraction",
    "ldh": "LDH",
}

_REPEATS = {
    "longest_diameter": "repeat the imaging in 4 to 6 weeks with the same modality and slice thickness",
    "sum_of_longest_diameters": "repeat the imaging in 4 to 6 weeks and send the lesions one by one",
    "volume": "repeat the volumetry at the next visit with the same modality",
    "psa": "repeat PSA within 2 weeks in the same laboratory, with testosterone from the same sample",
    "testosterone": "repeat testosterone from a morning sample",
    "ctdna_allele_fraction": "repeat the ctDNA sample within 2 weeks with the same assay",
    "ldh": "repeat LDH from a fresh, non-haemolysed sample",
}

_SECOND_OPINIONS = {
    "longest_diameter": "a blood marker (ctDNA, LDH) of the same week tells growth from a measuring error",
    "volume": "a second reader's segmentation tells growth from a measuring error",
    "psa": "imaging tells resistance from a rise after a pause of treatment",
    "testosterone": "check that the suppression was given as recorded",
}


def subject(observable: str, target: str) -> str:
    """The series in words: ``longest diameter of lesion L1``, ``PSA``."""
    name = _NAMES.get(observable, observable.replace("_", " "))
    return f"{name} of lesion {target}" if target else name


def _day(time_days: float) -> str:
    return (_EPOCH + timedelta(days=time_days)).date().isoformat()


def statement(
    kind: str, observable: str, target: str, since: float, statistic: float, threshold: float, n: int
) -> str:
    """What was seen and since when, in one sentence."""
    what = subject(observable, target)
    what = what[0].upper() + what[1:]
    side = "above" if statistic > 0 else "below"
    when = _day(since)
    if kind == "outlier":
        p = max(2.0 * float(ndtr(-abs(statistic))), 1e-12)
        return (
            f"{what} on {when} lies far {side} the forecast: {abs(statistic):.1f} standard deviations "
            f"(limit {threshold:.1f}); so large a miss has a probability of {p:.1g}."
        )
    if kind == "drift":
        visits = "1 observation" if n == 1 else f"{n} observations"
        return (
            f"{what} has run {side} its forecasts since {when}, over {visits}: cumulative sum "
            f"{abs(statistic):.1f} (limit {abs(threshold):.1f} standard deviations)."
        )
    if kind == "inconsistent":
        width = "wider" if statistic > threshold else "closer"
        verdict = "too sure of itself here" if statistic > threshold else "less sure of itself than it could be"
        return (
            f"{what} has scattered {width} about its forecasts since {when} than the twin expects: {statistic:.1f} "
            f"in squared standard deviations over {n} observations, where about {n} is usual "
            f"(limit {threshold:.1f}). The twin is {verdict}."
        )
    return (
        f"The twin has become less certain since {when}, seen at the latest {subject(observable, target)}: its "
        f"posterior is {statistic:.1f} times as wide as it was (limit {threshold:.1f})."
    )


def recommendation(kind: str, observable: str, target: str, statistic: float, threshold: float) -> str:
    """What to do and measure next."""
    repeat = _REPEATS.get(observable, f"repeat {subject(observable, target)} soon")
    second = _SECOND_OPINIONS.get(observable, "")
    if kind == "outlier":
        steps = ["Check the value, its unit and its date at the source", repeat]
    elif kind == "drift":
        steps = [repeat, second, "check that the treatment was given as recorded"]
    elif kind == "inconsistent" and statistic > threshold:
        steps = ["Read the forecasts with caution until the next visits agree", repeat]
    elif kind == "inconsistent":
        steps = ["Nothing to measure; tell the maintainers of the model"]
    else:
        steps = [f"Measure sooner than planned: {repeat}"]
    text = "; ".join(dict.fromkeys(step for step in steps if step))
    return text[0].upper() + text[1:] + "."

