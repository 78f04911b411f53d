"""A reference cohort: sums that add up to the bit, distances against second implementations, p-values that hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import OAS

from oncotwin.domain.errors import ConfigurationError
from oncotwin.spatial.cohort_sums import CohortSums, Vector, cohort_sums, on_cohort_scale
from oncotwin.spatial.reference_cohort import (
    ALPHA,
    Cohort,
    make_cohort,
    member_distances,
    near,
    reference,
    shrinkage,
)
from oncotwin.spatial.signature import Signature

NAMES = [f"s{i:02d}" for i in range(12)]


def signature(name: str, value: float, unit: str = "1") -> Signature:
    return Signature(name, value, unit, math.nan, math.nan, "")


def drawn(n: int, rng: np.random.Generator, missing: float = 0.0) -> list[Vector]:
    """Sections of correlated signatures on scales far apart, some of which abstain from some."""
    loading = np.random.default_rng(1).normal(size=(len(NAMES), 3))
    scale = 10.0 ** np.linspace(-5, 3, len(NAMES))
    x = (rng.normal(size=(n, 3)) @ loading.T + rng.normal(size=(n, len(NAMES)))) * scale
    kept = rng.random(x.shape) >= missing
    return [
        {name: float(v) for name, v, k in zip(NAMES, row, keep, strict=True) if k}
        for row, keep in zip(x, kept, strict=True)
    ]


def as_table(members: list[Vector]) -> NDArray[np.float64]:
    return np.array([[one[name] for name in NAMES] for one in members])


def test_sums_are_the_same_in_any_order_and_grouping() -> None:
    members = drawn(40, np.random.default_rng(2), missing=0.2)
    whole = cohort_sums(members, NAMES)
    shuffled = [members[i] for i in np.random.default_rng(3).permutation(40)]
    parts = [cohort_sums(shuffled[a:b], NAMES) for a, b in ((0, 1), (1, 17), (17, 17), (17, 40))]
    merged = parts[3].merged(parts[0]).merged(parts[2]).merged(parts[1])
    assert merged.to_json() == whole.to_json()
    assert whole.merged(cohort_sums([members[0]], NAMES)).without(members[0]).to_json() == whole.to_json()
    assert CohortSums.from_json(json.loads(json.dumps(whole.to_json()))).to_json() == whole.to_json()


def test_moments_are_those_of_numpy() -> None:
    members = drawn(30, np.random.default_rng(4))
    mean, covariance = cohort_sums(members, NAMES).moments()
    table = as_table(members)
    scale = table.std(axis=0)
    np.testing.assert_allclose(mean / scale, table.mean(axis=0) / scale, atol=1e-6)
    np.testing.assert_allclose(covariance / np.outer(scale, scale), np.cov(table.T) / np.outer(scale, scale), atol=1e-6)


def test_moments_of_pairs_use_the_sections_that_have_both() -> None:
    members = drawn(50, np.random.default_rng(5), missing=0.3)
    _, covariance = cohort_sums(members, NAMES).moments()
    both = [(one["s03"], one["s07"]) for one in members if "s03" in one and "s07" in one]
    assert covariance[3, 7] == pytest.approx(float(np.cov(np.array(both).T)[0, 1]), rel=1e-6)


@pytest.mark.parametrize(("n", "p"), [(20, 60), (80, 60), (1000, 60)])
def test_shrinkage_is_near_that_of_scikit_learn(n: int, p: int) -> None:
    """Which leaves out the terms 2 / p of the paper's equation: they are small for many signatures."""
    x = np.random.default_rng(n).normal(size=(n, p)) * np.linspace(1, 3, p)
    covariance = np.cov(x.T, bias=True)
    assert shrinkage(covariance, n) == pytest.approx(OAS().fit(x).shrinkage_, rel=0.05)


def test_distance_is_mahalanobis_with_the_shrunk_correlation() -> None:
    members = drawn(200, np.random.default_rng(6))
    found = reference(cohort_sums(members, NAMES))
    one = drawn(1, np.random.default_rng(7))[0]
    z = (np.array([one[name] for name in NAMES]) - found.mean) / found.sd
    expected = z @ np.linalg.inv(found.correlation) @ z / len(NAMES)
    assert found.distance(one) == pytest.approx(math.sqrt(expected))
    _, deviation = found.deviation(one)
    assert (deviation**2).sum() == pytest.approx(expected * len(NAMES))


def test_p_values_hold_for_sections_of_the_same_kind() -> None:
    rng = np.random.default_rng(8)
    p = []
    for _ in range(12):
        cohort = make_cohort("c", drawn(60, rng, missing=0.1), NAMES)
        for one in drawn(50, rng, missing=0.1):
            judged = cohort.judge(one)
            assert judged is not None
            p.append(judged.p)
    rate = np.mean(np.array(p) <= ALPHA)
    assert 0.01 < rate < 0.08
    assert abs(np.mean(p) - 0.5) < 0.06


def test_a_shifted_section_is_told_with_the_signatures_that_are_odd() -> None:
    rng = np.random.default_rng(9)
    cohort = make_cohort("c", drawn(80, rng), NAMES)
    spread = as_table(drawn(500, rng)).std(axis=0)
    usual = drawn(1, rng)[0]
    odd = {**usual, "s04": usual["s04"] + 8 * spread[4], "s09": usual["s09"] - 9 * spread[9]}
    judged = cohort.judge(odd)
    assert judged is not None and judged.out_of_distribution and judged.distance > judged.limit
    assert {name for name, _ in judged.unlike[:2]} == {"s04", "s09"}
    plain = cohort.judge(usual)
    assert plain is not None and plain.distance < judged.distance
    assert (plain.distance > plain.limit) == plain.out_of_distribution


def test_limit_and_p_say_the_same() -> None:
    cohort = Cohort("c", make_cohort("c", drawn(60, np.random.default_rng(10)), NAMES).sums,
                    tuple(float(x) for x in range(1, 40)))
    for one in drawn(300, np.random.default_rng(11)):
        for factor in (1.0, 15.0, 38.0, 60.0):
            judged = cohort.judge({name: factor * value for name, value in one.items()})
            assert judged is not None
            assert (judged.distance > judged.limit) == judged.out_of_distribution


def test_a_few_odd_members_do_not_hide_others_like_them() -> None:
    rng = np.random.default_rng(12)
    members: list[Mapping[str, float]] = [*drawn(60, rng)]
    spread = as_table(members).std(axis=0)
    # All odd in their own way, so that they blow up the spread of every signature.
    odd: list[Mapping[str, float]] = [
        {n: v + 30 * s * rng.normal() for (n, v), s in zip(one.items(), spread, strict=True)} for one in drawn(3, rng)
    ]
    plain = reference(cohort_sums(members + odd, NAMES))
    kept = near(cohort_sums(members + odd, NAMES), members + odd)
    robust = make_cohort("c", members + odd, NAMES)
    assert not any(kept[-3:]) and sum(kept) > 50
    other = {n: v + 6 * s for (n, v), s in zip(drawn(1, rng)[0].items(), spread, strict=True)}
    judged = robust.judge(other)
    assert judged is not None and judged.distance > 1.5 * plain.distance(other)


def test_institutions_make_together_what_one_would_make_alone() -> None:
    members = drawn(60, np.random.default_rng(13), missing=0.1)
    alone = make_cohort("c", members, NAMES)
    parts = [members[:9], members[9:40], members[40:]]

    def merged(lists: list[list[Vector]]) -> CohortSums:
        sums = [cohort_sums(part, NAMES) for part in lists]
        return sums[0].merged(sums[1]).merged(sums[2])

    first = merged(parts)
    kept = [near(first, part) for part in parts]
    second = merged([[m for m, k in zip(p, ks, strict=True) if k] for p, ks in zip(parts, kept, strict=True)])
    distances = [d for p, ks in zip(parts, kept, strict=True) for d in member_distances(second, p, ks)]
    assert Cohort("c", second, tuple(sorted(distances))).to_json() == alone.to_json()


def test_a_cohort_survives_its_json_and_abstains_where_too_little_is_shared() -> None:
    cohort = make_cohort("c", drawn(40, np.random.default_rng(14)), NAMES)
    again = Cohort.from_json(json.loads(json.dumps(cohort.to_json())))
    one = drawn(1, np.random.default_rng(15))[0]
    assert again.judge(one) == cohort.judge(one)
    assert cohort.judge({"s00": 1.0, "s01": 2.0, "other": 3.0}) is None


def test_signatures_are_put_on_a_scale() -> None:
    vector = on_cohort_scale([
        signature("tumour.area", math.e, "um2"), signature("tumour.share", 0.5), signature("niche_0.share", 0.0),
        signature("hypoxia.moran_i", 0.3), signature("immune.hot", math.nan), signature("nuclei.density", 0.0, "/mm2"),
        signature("interface.length", math.inf, "um"),
    ])
    assert vector["tumour.area"] == pytest.approx(1.0) and vector["tumour.share"] == 0.0
    assert vector["niche_0.share"] == pytest.approx(math.log(1e-4 / (1 - 1e-4)))
    assert vector["hypoxia.moran_i"] == 0.3
    assert set(vector) == {"tumour.area", "tumour.share", "niche_0.share", "hypoxia.moran_i"}


def test_bad_input_is_refused() -> None:
    members = drawn(25, np.random.default_rng(16))
    sums = cohort_sums(members, NAMES)
    with pytest.raises(ConfigurationError, match="fewer than"):
        make_cohort("c", members[:15], NAMES)
    with pytest.raises(ConfigurationError, match="other signatures"):
        sums.merged(cohort_sums(members, NAMES[:-1]))
    with pytest.raises(ConfigurationError, match="not a member"):
        cohort_sums([], NAMES).without(members[0])
    with pytest.raises(ConfigurationError, match="finite"):
        cohort_sums([{"s00": math.inf}], NAMES)
    with pytest.raises(ConfigurationError, match="twice"):
        cohort_sums(members, ["a", "a"])
    with pytest.raises(ConfigurationError, match="vary"):
        reference(cohort_sums(members, NAMES[:2]))
    for broken in ({}, {"names": ["a"], "counts": [[1]], "sums": [["x"]], "products": [["1"]]}):
        with pytest.raises(ConfigurationError, match="no sums"):
            CohortSums.from_json(broken)
    with pytest.raises(ConfigurationError, match="no cohort"):
        Cohort.from_json({"name": "c"})
