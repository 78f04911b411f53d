"""Scores of gene sets and the tumour classifier against the pathologist's regions of `her2_spatial`.

    python -m tests.benchmarks.bench_spatial_regions            measure
    python -m tests.benchmarks.bench_spatial_regions --teach    also write the shipped model anew

Scores are the columns that `oncotwin signatures` writes, one configuration for all sections. The classifier is judged
leave-one-patient-out (each section is another patient's); what is shipped is taught on all five.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tests.benchmarks.accuracy import data_folder
from tests.benchmarks.her2_sections import SECTIONS, UNDETERMINED, imported, judged_spots, pathologist
from tests.benchmarks.record import record

from oncotwin.spatial.gene_names import approved_symbols, coverages
from oncotwin.spatial.gene_sets import gene_sets
from oncotwin.spatial.quality import mitochondrial_genes, refusals, section_limits, spot_measures
from oncotwin.spatial.tumour_class import (
    SETS,
    TumourModel,
    feature_names,
    feature_sums,
    spot_features,
    standardised,
    tumour_probability,
)

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

COMMAND = "python -m tests.benchmarks.bench_spatial_regions"
REGIONS = {
    "immune": ("immune", ("immune infiltrate",), 0.93),
    "tumour": ("tumour_epithelium", ("invasive cancer", "cancer in situ"), 0.75),
    "adipose": ("adipose", ("adipose tissue",), 0.86),
}
"""Of each region: the set that speaks for it, the pathologist's labels, and the bar."""
LEAST_POSITIVE = 10
PENALTY = 0.001
"""Inverse of the ridge; taken from the first exploration of these sections, where 0.1 to 0.001 differed little."""
MODEL = Path(__file__).parents[2] / "platform" / "oncotwin" / "spatial" / "data" / "tumour_class.json"


@dataclass(frozen=True)
class Section:
    """Spots that passed quality, in pitches, with counts of each set and the pathologist's labels ("" for none)."""

    points: Array
    totals: IntArray
    genes_seen: IntArray
    counts: Mapping[str, IntArray]
    labels: NDArray[np.str_]

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Spots with a label that says something."""
        return np.asarray((self.labels != "") & (self.labels != UNDETERMINED))

    def features(self) -> Array:
        """Features of the classifier."""
        ids = np.arange(len(self.points))
        return spot_features(
            ids, self.points, ids, {name: self.counts[name] for name in SETS}, self.totals, self.genes_seen
        )


def read_section(folder: Path, name: str) -> Section:
    """A section with its labels."""
    table = pd.read_csv(folder / "ST-cnts" / f"{name}.tsv.gz", sep="\t", index_col=0)
    labels = pathologist(name).reindex(table.index).fillna("").to_numpy(dtype=np.str_)
    places = np.array([[float(part) for part in spot.split("x")] for spot in table.index])
    symbols, counts = approved_symbols(list(table.columns)), table.to_numpy(dtype=np.int64)
    measures = spot_measures(counts, mitochondrial_genes(symbols))
    kept = np.array([not reason for reason in refusals(measures, section_limits(measures))])
    covered = coverages(symbols, gene_sets())
    own = {each: counts[kept][:, one.columns].sum(axis=1) for each, one in covered.items()}
    return Section(places[kept], measures.n_counts[kept], measures.n_genes[kept], own, labels[kept])


def judge_scores() -> None:
    """AUROC of each set's column in `cells.parquet`; a spot that was kept out has the middle score."""
    with tempfile.TemporaryDirectory() as scratch:
        tables = {name: judged_spots(imported(name, Path(scratch))) for name in SECTIONS}
    for region, (column, positive, bar) in REGIONS.items():
        shares, truths, each = [], [], {}
        for name, spots in tables.items():
            truth = spots.pathologist.isin(positive).to_numpy()
            if truth.sum() < LEAST_POSITIVE:
                continue
            share = spots[column].fillna(spots[column].median()).to_numpy()
            each[name] = float(roc_auc_score(truth, share))
            shares.append(share)
            truths.append(truth)
        pooled = float(roc_auc_score(np.concatenate(truths), np.concatenate(shares)))
        said = ", ".join(f"{name} {value:.3f}" for name, value in each.items())
        print(f"{region:8} pooled {pooled:.3f}   bar {bar}   {said}")
        record(
            f"spatial/regions/{region}", pooled, "1", bar=f"at least {bar}", is_met=pooled >= bar,
            command=COMMAND, note=said,
        )


def teach(features: list[Array], truths: list[NDArray[np.bool_]], taught_on: str) -> TumourModel:
    """Ridge logistic regression; each section weighs the same, and so do tumour and the rest within it."""
    weights = [np.where(truth, 0.5 / truth.sum(), 0.5 / (~truth).sum()) for truth in truths]
    n = sum(len(truth) for truth in truths)
    fitted = LogisticRegression(C=PENALTY, max_iter=5000).fit(
        np.vstack(features), np.concatenate(truths), sample_weight=np.concatenate(weights) * n / len(truths)
    )
    return TumourModel(taught_on, float(fitted.intercept_[0]), fitted.coef_[0])


def judge_classifier(sections: Mapping[str, Section]) -> TumourModel:
    """Leave one patient out; returns the model taught on all."""
    raw = {name: one.features() for name, one in sections.items()}
    scaled = {name: standardised(own, feature_sums(own))[sections[name].judged] for name, own in raw.items()}
    truths = {
        name: np.isin(one.labels, REGIONS["tumour"][1])[one.judged] for name, one in sections.items()
    }
    found, gaps = {}, []
    for name, one in sections.items():
        others = [other for other in sections if other != name]
        model = teach([scaled[other] for other in others], [truths[other] for other in others], "")
        chance = tumour_probability(raw[name], feature_sums(raw[name]), model)[one.judged]
        found[name] = float(roc_auc_score(truths[name], chance))
        gaps.append(np.mean((chance - truths[name]) ** 2))
    median = float(np.median(list(found.values())))
    said = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    print(f"tumour classifier, leave one patient out: median {median:.3f}   bar 0.92   {said}")
    print(f"its Brier score: {', '.join(f'{gap:.3f}' for gap in gaps)}")
    record(
        "spatial/regions/classifier", median, "1", bar="at least 0.92", is_met=median >= 0.92, command=COMMAND,
        note=f"leave one patient out, median; {said}; ridge from exploring these sections",
    )
    taught_on = "pathologist's labels of sections A1 to E1 of Andersson et al. 2021, doi:10.1038/s41467-021-26271-2"
    return teach(list(scaled.values()), list(truths.values()), taught_on)


def main() -> None:
    """Print and record; with ``--teach`` write the shipped model."""
    folder = data_folder() / "her2_spatial"
    sections = {name: read_section(folder, name) for name in SECTIONS}
    judge_scores()
    model = judge_classifier(sections)
    if "--teach" in sys.argv[1:]:
        values = (round(float(value), 6) for value in model.coefficients)
        coefficients = dict(zip(feature_names(), values, strict=True))
        content = {
            "taught_on": model.taught_on, "intercept": round(model.intercept, 6), "coefficients": coefficients,
        }
        MODEL.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {MODEL}")


if __name__ == "__main__":
    main()
