"""Tables of the published layouts, with every oddity that they have or may have."""

from __future__ import annotations

import gzip
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from oncotwin.adapters.tables import RowProblem, convert
from oncotwin.adapters.tables.shipped import lesions
from oncotwin.domain.amendment import Rejection
from oncotwin.domain.envelope import Event
from oncotwin.domain.errors import ConfigurationError, TableError
from oncotwin.domain.events import encode_line, parse_event
from oncotwin.domain.observation import Observation
from oncotwin.domain.policy import Policy
from oncotwin.domain.treatment import Treatment
from oncotwin.domain.validation import validate

POLICY = Policy(datetime(2026, 1, 1, tzinfo=UTC))

LESIONS = """study,patient,arm,day,diam_mm,raw,reader
OAK,-12,Arm_1,40.0,20.0,20,x
OAK,-12,Arm_1,-3.0,33.5,33.5,x
OAK,-12,Arm_1,80.0,,NOT EVALUABLE,x
OAK,-12,Arm_1,120.0,,TOO SMALL TO MEASURE,x
OAK,-12,Arm_1,160.0,0.0,0,x
OAK,-12,Arm_1,160.0,0.0,0,x
OAK,-12,Arm_1,200.0,8.0,8,x
OAK,-12,Arm_1,200.0,7.0,7,x
OAK,-12,Arm_1,240.0,,,x
OAK,-12,Arm_1,280.0,-4.0,-4,x
OAK,-12,Arm_1,320.0,,<5,x
"""

VISITS = """patient,date,cpa_mg,leuprolide,psa,testosterone,cycle,on_treatment,day_abs,day,outcome
7,1999/9/27 0:00:00,,,,,2,1,10861,1569,no_relapse
7,1995/9/6 0:00:00,200,,10.4,17.9,1,1,9379,87,no_relapse
7,1995/10/5 0:00:00,FLU 750,7.5,0,,1,1,9408,116,no_relapse
7,1995/11/5 0:00:00,FLU & 150, ,<0.1,0.3,1,1,9439,147,no_relapse
7,1998/7/7 0:00:00,0,,12.0,5.5,1,0,10414,1122,no_relapse
7,1998/7/7 0:00:00,Novelamide 5,,12.0,5.5,2,1,10414,1122,no_relapse
7,1999/1/7 0:00:00,,,,,2,0,10598,1306,no_relapse
"""

VOLUMES = """model.id,drug,time,volume,body.weight
M.1,LEE011,0,200.5,25
M.1,LEE011,4,0,
M.2,untreated,0,210,26
M.2,untreated,0,180,27
M.2,untreated,3,250,-0.1
"""
MICE = """model.id,tissue,patient.id,drug
M.1,GC,X-1,LEE011
M.2,GC,X-1,untreated
"""


def items(events: list[Event]) -> dict[str, object]:
    """Event id -> what validation makes of it."""
    return {event.id: validate(event, POLICY) for event in events}


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def pdx_folder(folder: Path, volumes: str = VOLUMES, mice: str = MICE) -> Path:
    written(folder / "volumes.csv", volumes)
    written(folder / "models.csv", mice)
    return folder


def test_lesions_are_sorted_deduplicated_and_censored(tmp_path: Path) -> None:
    events = list(convert("atezolizumab", written(tmp_path / "lesions.csv", LESIONS)))
    found = items(events)
    assert [event.id for event in events][:3] == ["-12/lesion/d-3/0", "-12/treatment/d0/on", "-12/lesion/d40/0"]
    assert {event.source for event in events} == {"urn:oncotwin:OAK:lesions"}
    assert len(events) == 11

    def lesion(name: str) -> Observation:
        item = found[f"-12/lesion/{name}"]
        assert isinstance(item, Observation), item
        return item

    assert (lesion("d-3/0").value, lesion("d-3/0").header.time_precision) == (33.5, "day")
    assert lesion("d-3/0").header.time == datetime(1999, 12, 29, tzinfo=UTC)
    assert lesion("d80/0").censoring == "not_evaluable"
    assert (lesion("d120/0").censoring, lesion("d120/0").limit) == ("left", 5.0)
    assert (lesion("d160/0").censoring, lesion("d160/0").limit) == ("left", 2.0)
    assert "-12/lesion/d160/1" not in found
    assert (lesion("d200/0").value, lesion("d200/1").value) == (7.0, 8.0)
    assert lesion("d240/0").censoring == "not_evaluable"
    assert (lesion("d320/0").censoring, lesion("d320/0").limit) == ("left", 5.0)
    negative = found["-12/lesion/d280/0"]
    assert isinstance(negative, Rejection)
    assert negative.reason_code == "negative_value"
    arm = found["-12/treatment/d0/on"]
    assert isinstance(arm, Treatment)
    assert (arm.agent, arm.action, arm.line_of_therapy) == ("Arm_1", "on", 1)


def test_ids_do_not_depend_on_the_order_or_on_the_other_rows(tmp_path: Path) -> None:
    header, *rows = LESIONS.splitlines()
    whole = list(convert("atezolizumab", written(tmp_path / "lesions.csv", LESIONS)))
    random.Random(3).shuffle(rows)
    again = list(convert("atezolizumab", written(tmp_path / "b.csv", "\n".join([header, *rows]))))
    assert again == whole
    part = list(convert("atezolizumab", written(tmp_path / "c.csv", "\n".join([header, rows[0]]))))
    assert {event.id for event in part} <= {event.id for event in whole}


def test_optional_columns_may_be_missing_and_the_file_compressed(tmp_path: Path) -> None:
    (tmp_path / "lesions.csv.gz").write_bytes(gzip.compress(b"study,patient,day,diam_mm\nOAK,1,0,12\n"))
    assert [event.id for event in convert("atezolizumab", tmp_path)] == ["1/lesion/d0/0"]


def test_a_compressed_table_is_known_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "lesions.csv").write_bytes(gzip.compress(b"study,patient,day,diam_mm\nOAK,1,0,12\n"))
    assert [event.id for event in convert("atezolizumab", tmp_path)] == ["1/lesion/d0/0"]
    (tmp_path / "lesions.csv").write_bytes((tmp_path / "lesions.csv").read_bytes()[:-9])
    with pytest.raises(TableError, match="not a CSV table"):
        convert("atezolizumab", tmp_path)


def test_a_study_of_any_name_becomes_an_institution(tmp_path: Path) -> None:
    text = "study,patient,day,raw\nIMvigor 210 (cohort 2),1,0,12\n"
    [event] = convert("atezolizumab", written(tmp_path / "lesions.csv", text))
    assert event.subject == "IMvigor-210-cohort-2/1"
    assert isinstance(validate(event, POLICY), Observation)
    problems: list[RowProblem] = []
    two = written(tmp_path / "lesions.csv", text + "IMvigor-210 cohort-2,1,0,14\n")
    assert len(list(convert("atezolizumab", two, problems.append))) == 1
    assert "would both be institution IMvigor-210-cohort-2" in problems[0].reason


def test_the_shipped_table_is_whole() -> None:
    events = list(convert("atezolizumab", lesions()))
    assert len({event.subject for event in events}) == 628
    assert len({event.key for event in events}) == len(events) == 3595 + 628
    assert all(parse_event(encode_line(event)) == event for event in events[:50])


def test_a_man_is_read_by_date_with_switches_and_doses(tmp_path: Path) -> None:
    events = list(convert("intermittent-androgen", written(tmp_path / "psa.csv", VISITS)))
    found = items(events)
    assert [event.time for event in events] == sorted(event.time for event in events)
    psa = {name: item for name, item in found.items() if "/psa/" in name and isinstance(item, Observation)}
    assert [(item.censoring, item.value, item.limit) for item in psa.values()] == [
        ("none", 10.4, None), ("left", None, 0.02), ("left", None, 0.1), ("none", 12.0, None),
    ]  # fmt: skip
    given = [item for item in found.values() if isinstance(item, Treatment)]
    assert [(item.agent, item.action, item.dose, item.note) for item in given] == [
        ("cyproterone_acetate", "given", 200.0, ""),
        ("androgen_suppression", "on", None, ""),
        ("flutamide", "given", 750.0, "FLU 750"),
        ("leuprolide", "given", 7.5, ""),
        ("flutamide", "given", None, "FLU & 150"),
        ("novelamide", "given", None, "Novelamide 5"),
        ("androgen_suppression", "off", None, ""),
        ("androgen_suppression", "on", None, ""),
    ]
    assert len(found) == len(events)


def test_a_day_that_ends_as_it_began_has_no_switch(tmp_path: Path) -> None:
    text = "patient,date,psa,cycle,on_treatment\n1,2000/1/1,1,1,1\n1,2000/2/1,2,1,0\n1,2000/2/1,2,2,1\n"
    events = list(convert("intermittent-androgen", written(tmp_path / "psa.csv", text)))
    assert [event.id for event in events if "treatment" in event.id] == ["1/treatment/2000-01-01/on"]


@pytest.mark.parametrize(("on", "off"), [("1", "0"), ("True", "False"), ("on", "off")])
def test_treatment_may_be_said_in_words(tmp_path: Path, on: str, off: str) -> None:
    text = f"patient,date,psa,on_treatment\n1,2000/1/1,1,{on}\n1,2000/2/1,2,{off}\n"
    events = list(convert("intermittent-androgen", written(tmp_path / "psa.csv", text)))
    assert [event.id.rpartition("/")[2] for event in events if "treatment" in event.id] == ["on", "off"]


def test_mice_carry_tumours(tmp_path: Path) -> None:
    events = list(convert("pdx", pdx_folder(tmp_path)))
    found = items(events)
    first = found["M.1/volume/d0/0"]
    assert isinstance(first, Observation)
    assert (first.target, first.observable, first.value, first.detail["tissue"]) == ("X-1", "volume", 200.5, "GC")
    gone = found["M.1/volume/d4/0"]
    assert isinstance(gone, Observation)
    assert (gone.censoring, gone.limit) == ("left", 10.0)
    twice = [found[f"M.2/volume/d0/{n}"] for n in (0, 1)]
    assert [item.value for item in twice if isinstance(item, Observation)] == [180.0, 210.0]
    assert isinstance(found["M.2/body_weight/d3/0"], Rejection)
    agents = {item.header.patient: item.agent for item in found.values() if isinstance(item, Treatment)}
    assert agents == {"M.1": "LEE011", "M.2": "untreated"}


def test_drug_names_are_optional(tmp_path: Path) -> None:
    pdx_folder(tmp_path)
    written(tmp_path / "drugs.csv", "drug.id,standard.name\nLEE011,ribociclib\n")
    agents = {getattr(event.data, "agent", "") for event in convert("pdx", tmp_path)}
    assert agents == {"", "ribociclib", "untreated"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("OAK,,Arm_1,1,2,2,x", "no patient"),
        ("OAK,1,Arm_1,,2,2,x", "no day"),
        ("OAK,1,Arm_1,soon,2,2,x", "day 'soon' is no number"),
        ("OAK,1,Arm_1,1e9,2,2,x", "day 1e+09 is not within 200 years of the start"),
        ("OAK,1,Arm_1,1,,PERHAPS 7,x", "raw 'PERHAPS 7' is no number"),
        ("OAK,1,Arm_1,1,inf,inf,x", "diam_mm 'inf' is not finite"),
        ("OAK,1/2,,1,2,2,x", "patient '1/2' is no pseudonym; rename it"),
        ("§,1,,1,2,2,x", "'§' cannot name an institution"),
    ],
)
def test_a_row_that_cannot_be_read_is_reported_with_its_line(tmp_path: Path, row: str, reason: str) -> None:
    table = written(tmp_path / "lesions.csv", f"{LESIONS}{row}\n")
    problems: list[RowProblem] = []
    assert len(list(convert("atezolizumab", table, problems.append))) == 11
    assert len(problems) == 1
    assert str(problems[0]).startswith(f"lesions.csv, line 13: {reason}")
    with pytest.raises(TableError, match="line 13"):
        convert("atezolizumab", table)


@pytest.mark.parametrize(
    ("kind", "name", "text", "says"),
    [
        ("atezolizumab", "lesions.csv", "patient,day\n1,2\n", "no column study"),
        ("atezolizumab", "lesions.csv", "", "no column"),
        ("atezolizumab", "lesions.csv", "study,patient,day,raw\n,,,x\n", "no row of"),
        ("atezolizumab", "lesions.csv", "study,patient,day,raw\n", "no rows"),
        ("atezolizumab", "lesions.csv", "study,patient,day\n1,2,3\n", "no column raw or diam_mm"),
        ("atezolizumab", "lesions.csv", "study;patient;day;raw\n", "separated by commas"),
        ("intermittent-androgen", "psa.csv", "patient,psa,day\n1,2,3\n", "no column date or day_abs"),
        ("atezolizumab", "other.csv", "", "no such file|holds no"),
        ("intermittent-androgen", "psa.csv", "patient,date\n1,2\n", "no column psa"),
        ("intermittent-androgen", "psa.csv", "patient,psa,date\n1,2,tomorrow\n", "no row of"),
        ("pdx", "volumes.csv", "model.id,time,volume\n", "holds no models.csv"),
    ],
)
def test_an_unusable_table_is_refused(tmp_path: Path, kind: str, name: str, text: str, says: str) -> None:
    written(tmp_path / name, text)
    with pytest.raises(TableError, match=says):
        convert(kind, tmp_path, lambda problem: None)


def test_a_mouse_without_a_tumour_is_reported(tmp_path: Path) -> None:
    problems: list[RowProblem] = []
    pdx_folder(tmp_path, VOLUMES + "M.9,LEE011,0,200,25\n")
    assert list(convert("pdx", tmp_path, problems.append))
    assert [problem.reason for problem in problems] == ["mouse 'M.9' is not in models.csv"]


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="choose one of"):
        convert("spreadsheet", tmp_path)
