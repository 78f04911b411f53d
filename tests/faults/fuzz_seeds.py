"""Writes the seeds of the fuzzing: good inputs of every reader, from the program's own writers.

python -m tests.faults.fuzz_seeds
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow as pa
from tests.faults.fuzz_targets import COLUMNS, KEY, NOW, POLICY, OneKey, pack
from tests.unit.domain.example_events import examples

from oncotwin.adapters.sealing import Sealer
from oncotwin.adapters.sql_store.backup import Manifest, TableFile
from oncotwin.adapters.tables.shipped import lesions
from oncotwin.domain.audit import AuditDraft, AuditEntry, Head, extend
from oncotwin.domain.bundle import FilterChoice, ModelBundle, ModelPrior
from oncotwin.domain.canonical import canonical_json
from oncotwin.domain.checkpoint import SignedCheckpoint, make_checkpoint
from oncotwin.domain.events import encode_record, parse_event
from oncotwin.domain.merkle import Frontier, Tree
from oncotwin.domain.validation import admit
from oncotwin.filters.choice import choose_filter, make_filter
from oncotwin.filters.serial import to_bytes as filter_state_to_bytes
from oncotwin.models.tumour_burden import TumourBurden
from oncotwin.testing.patients import accepted, correction, diameter, event_line, treatment
from oncotwin.twin.drift import DriftSettings
from oncotwin.twin.fold import bind
from oncotwin.twin.journal import in_force
from oncotwin.twin.machine import Task, perform
from oncotwin.twin.state import TwinState, to_bytes

CORPUS = Path(__file__).parent / "corpus"


def events() -> list[bytes]:
    """One line of each kind, and a few that are refused."""
    lines = [json.dumps(content).encode() for content in examples().values()]
    lines.append(b'{"specversion":"1.0","id":"1"}')
    return lines


def states() -> Iterator[bytes]:
    """States of a small patient under each filter; of the ensembles the smallest."""
    lines = [
        diameter("a", 0, 30.0), treatment("t", 5, "drugA", "on"), diameter("b", 40, 25.0, lesion="L2", result="R1"),
        event_line("lab.result", "p", 60, {"code": "2857-1", "value": 4.0, "unit": "ng/mL"}),
    ]
    items = tuple(in_force(accepted(lines), "H1/p1"))
    for name, members in (("unscented", None), ("ensemble", 10), ("square-root-ensemble", 10), ("particle", 10)):
        chosen = make_filter(choose_filter(name, members))
        binding = bind("1", ModelBundle({}), [TumourBurden()], chosen, DriftSettings())
        [outcome] = perform(binding, [Task(TwinState("H1/p1", "1"), items)])
        yield to_bytes(outcome.states[-1])
        part = next(iter(outcome.states[-1].parts.values()))
        yield filter_state_to_bytes(chosen.gather([part.posterior], part.posterior.n_active))
    yield to_bytes(TwinState("H1/p1", "1"))


def chain() -> list[AuditEntry]:
    """A small chain."""
    drafts = [AuditDraft("H1", "event.accepted", f"urn:a {n}", canonical_json({"n": n})) for n in range(7)]
    return extend("H1", Head(), drafts, NOW)


def checkpoint_lines() -> bytes:
    """Two checkpoints with a proof between them."""
    entries = chain()
    tree = Tree(lambda begin, end: [entry.hash for entry in entries[begin:end]])
    lines = []
    for size in (3, 7):
        frontier = Frontier()
        for entry in entries[:size]:
            frontier.append(entry.hash)
        made = make_checkpoint("H1", Head(size, entries[size - 1].hash), frontier, NOW, KEY)
        line = SignedCheckpoint(made, KEY * 2).to_dict()
        if size == 7:
            line |= {"after": 3, "consistency": [node.hex() for node in tree.consistency(3, 7)]}
        lines.append(canonical_json(line))
    return b"\n".join(lines) + b"\n"


def proof() -> bytes:
    """Numbers, a path and rows as the target of proofs takes them."""
    entries = chain()
    tree = Tree(lambda begin, end: [entry.hash for entry in entries[begin:end]])
    content = {
        "index": 2, "size": 7, "path": tree.inclusion(2, 7), "leaf": entries[2].hash, "root": tree.root(0, 7),
        "rows": [list(entry) for entry in entries],
    }
    return json.dumps(content, default=lambda value: f"#{value.hex()}").encode()


def backup_rows() -> list[bytes]:
    """Lines of a table."""
    data = base64.b64encode(bytes(range(40))).decode()
    return [orjson.dumps(["é", -5, 0.25, data]), orjson.dumps([None, 1 << 62, "inf", ""])]


def manifest() -> bytes:
    """A manifest of two tables."""
    files = tuple(
        TableFile(name, COLUMNS, 3, 100, hashlib.sha256(name.encode()).hexdigest()) for name in ("journal", "twins")
    )
    return Manifest("1", "0005", NOW, 7, {"log#events": {0: 5, 1: 6}}, ("literature",), files).to_json()


def bundles() -> Iterator[bytes]:
    """Versions with and without a filter of their own."""
    prior = ModelPrior("tumour_burden", {"growth": [0.1, {"sd": 2}], "name": "x"}, {"layers": {}}, "ab" * 32)
    yield ModelBundle({"tumour_burden": prior}).to_json().encode()
    yield ModelBundle({"m": prior}, FilterChoice("particle", {"n_members": 100})).to_json().encode()


def tables() -> Iterator[bytes]:
    """The beginning of the table that is shipped, plain and packed."""
    text = b"\n".join(gzip.decompress(lesions().read_bytes()).splitlines()[:8]) + b"\n"
    yield text
    yield gzip.compress(text, mtime=0)


def seeds() -> dict[str, list[bytes]]:
    """Seeds of each target."""
    lines = events()
    packed = []
    for line in lines[:-1]:
        value, headers = encode_record(parse_event(line))
        packed.append(pack(value, headers))
    sealer = Sealer(OneKey())  # type: ignore[arg-type]
    made = list(states())
    rows = backup_rows()
    file = pa.BufferOutputStream()
    with pa.CompressedOutputStream(file, "zstd") as stream:
        stream.write(b"".join(row + b"\n" for row in rows))
    refused = [line for line in lines if admit(line, (), POLICY)[0] is None]
    moved = {
        "key": ["urn:oncotwin:H1:ris", "a"], "from": "H1/p2", "number": 1, "present": True,
        "by": ["2024-01-01T00:00:00Z", "urn:oncotwin:H1:ris", "c"],
        "event": json.loads(diameter("a", 0, 30.0, patient="H1/p2")),
    }
    return {
        "structured": [*lines, diameter("a", 1.5, 20.0, sequence=4), correction("c", 9, "a", "retract")],
        "binary": packed,
        "strict_json": [*lines[:3], b'[1, 2.5, "\\u00e9", null, {"a": [true]}]'],
        "dead_letters": [b"\x1e".join([*refused, lines[0], b"", b"no\nJSON"]), b"\n".join(lines[:2])],
        "state": [one for one in made if one[:4] == b"OTWN"],
        "filter_state": [one for one in made if one[:4] != b"OTWN"],
        "sealed": [sealer.seal("H1/p1", b"payload"), sealer.seal_text("H1/p1", "text").encode(), b"plain"],
        "manifest": [manifest()],
        "backup_row": rows,
        "backup_file": [file.getvalue().to_pybytes()],
        "checkpoints": [checkpoint_lines()],
        "proof": [proof()],
        "bundle": list(bundles()),
        "journal": [diameter("a", 0, 30.0), json.dumps(moved).encode()],
        "table": list(tables()),
    }


def main() -> None:
    """Write them all anew; inputs that once broke something (`found-...`) stay."""
    for name, contents in seeds().items():
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        for old in (CORPUS / name).glob("[0-9][0-9]"):
            old.unlink()
        for number, content in enumerate(contents):
            (CORPUS / name / f"{number:02}").write_bytes(content)


if __name__ == "__main__":
    main()
