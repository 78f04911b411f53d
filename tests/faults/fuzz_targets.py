"""Everything that reads bytes from outside, as one function a reader: bytes in, a word for what became of them out.

A reader may refuse by the errors that it documents and by nothing else. Where it takes what it is given, a target asks
a little more: that what was read can be written and read again.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from oncotwin.adapters.sealing import Sealer, is_sealed
from oncotwin.adapters.sql_store.restore import decode_row, parse_manifest, row_chunks
from oncotwin.adapters.tables import KINDS, convert
from oncotwin.domain.amendment import Rejection
from oncotwin.domain.audit import AuditError
from oncotwin.domain.audit_verify import StoredCheckpoint, check_checkpoints, verify_chain
from oncotwin.domain.bundle import ModelBundle
from oncotwin.domain.errors import ErasedError, EventError, ModelError, StoreError, TableError
from oncotwin.domain.events import encode_line, encode_record
from oncotwin.domain.ids import EventKey
from oncotwin.domain.merkle import verify_consistency, verify_inclusion
from oncotwin.domain.policy import Policy
from oncotwin.domain.strict_json import loads, skim
from oncotwin.domain.validation import admit
from oncotwin.filters.serial import from_bytes as filter_state_from_bytes
from oncotwin.ports.event_log import NewRecord, check_record
from oncotwin.ports.twin_rows import DeadLetter, JournalEntry
from oncotwin.twin.journal import decode
from oncotwin.twin.state import from_bytes, to_bytes
from oncotwin_flows.audit import read_checkpoints
from oncotwin_flows.intake import Intake, IntakeRules
from oncotwin_flows.resubmit import resubmit_letters

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = bytes(range(32))
COLUMNS = (("a", "text"), ("b", "integer"), ("c", "number"), ("d", "bytes"))
POLICY = Policy(now=NOW, array_stores=("s3://sections/",))
_ANY_TIME = timedelta(days=36_600)


def structured(data: bytes) -> str:
    """An event as a JSON line."""
    return _judged(data, ())


def binary(data: bytes) -> str:
    """An event in Kafka's binary mode: `header_bytes` says how the headers are packed."""
    headers, value = unpack(data)
    return _judged(value, headers)


def _judged(value: bytes, headers: Sequence[tuple[str, bytes]]) -> str:
    event, item = admit(value, headers, POLICY)
    if isinstance(item, Rejection):
        assert item.reason and item.reason_code
        # What is kept of it can be mended and sent again.
        again = admit(item.raw, (), POLICY)[1]
        assert isinstance(again, Rejection) or headers
        return item.reason_code
    assert event is not None
    line = encode_line(event)
    other, found = admit(line, (), POLICY)
    assert other == event and found == item, "written and read again it is another event"
    packed, packed_headers = encode_record(event)
    assert admit(packed, packed_headers, POLICY)[1] == item, "in binary mode it is another event"
    check_record(NewRecord(event.subject, packed, packed_headers))
    return f"accepted {event.kind}"


def pack(value: bytes, headers: Iterable[tuple[str, bytes]]) -> bytes:
    """Headers and a value in one: how many headers, and the length of each name and content, in a byte each."""
    parts = [(name.encode(), content) for name, content in headers]
    head = bytes([len(parts)]) + b"".join(bytes([len(n), len(c)]) + n + c for n, c in parts)
    return head + value


def unpack(data: bytes) -> tuple[tuple[tuple[str, bytes], ...], bytes]:
    """What `pack` was given, or whatever other bytes make of it."""
    headers = []
    at = 1
    for _ in range(data[0] if data else 0):
        n, c = (*data[at : at + 2], 0, 0)[:2]
        headers.append((data[at + 2 : at + 2 + n].decode("utf-8", "replace"), data[at + 2 + n : at + 2 + n + c]))
        at += 2 + n + c
    return tuple(headers), data[at:]


def strict_json(data: bytes) -> str:
    """JSON without mercy, and the skimming of what it refuses."""
    skimmed = skim(data)
    try:
        found = loads(data)
    except EventError as error:
        return error.reason_code
    assert found == skimmed
    return type(found).__name__


class _Away:
    """The parts of a store and a log that an intake writes to: they remember nothing."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def sources(self) -> dict[str, str]:
        return {}

    def known(self, keys: Sequence[EventKey]) -> dict[EventKey, str]:
        return {}

    intake_known = known

    def erased(self, twin_ids: Sequence[str]) -> set[str]:
        return set()

    def intake_record(self, hashes: Mapping[EventKey, str], twin_ids: Mapping[EventKey, str]) -> None:
        assert hashes.keys() == twin_ids.keys()

    def add_dead_letters(self, letters: Sequence[DeadLetter]) -> int:
        return len(letters)

    def mark_resubmitted(self, rejection_ids: Sequence[str]) -> None:
        self.closed = list(rejection_ids)

    def append(self, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        for record in records:
            check_record(record)
        return [(0, 0)] * len(records)


class _Stopped:
    """A clock."""

    def now(self) -> datetime:
        return NOW


def dead_letters(data: bytes) -> str:
    """Refused events sent again: as they were kept, and mended."""
    raws = data.split(b"\x1e")[:20]
    letters = [
        DeadLetter(f"{n}", "not_json", "", "", "", raw, None, "urn:a", "1", NOW) for n, raw in enumerate(raws)
    ]
    outcomes = []
    for mended in (None, data.splitlines()):
        away = _Away()
        intake = Intake(away, away, _Stopped(), IntakeRules())  # type: ignore[arg-type]
        done = resubmit_letters(away, intake, letters, mended)  # type: ignore[arg-type]
        assert done["closed"] == len(away.closed) <= max(done["accepted"] + done["duplicate"], 0) + len(letters)
        if mended is None:
            assert done["closed"] <= done["accepted"] + done["duplicate"], "closed, and nothing was sent"
        outcomes.append("+".join(name for name, n in done.items() if n))
    return " / ".join(outcomes)


def state(data: bytes) -> str:
    """A snapshot's bytes."""
    try:
        found = from_bytes(data)
    except StoreError as error:
        return str(error)[:19]
    again = to_bytes(found)
    assert to_bytes(from_bytes(again)) == again
    return "read"


def filter_state(data: bytes) -> str:
    """A filter's state alone."""
    try:
        filter_state_from_bytes(data)
    except ModelError as error:
        return str(error)[:40]
    return "read"


class OneKey:
    """A key store with one patient."""

    def key(self, twin_id: str, *, make: bool = True) -> bytes:
        if twin_id == "H1/p1":
            return KEY
        raise StoreError("there is no key of that patient")


def sealed(data: bytes) -> str:
    """Sealed bytes and sealed text."""
    sealer = Sealer(OneKey())  # type: ignore[arg-type]
    outcomes = []
    for whose in ("H1/p1", "H1/p2"):
        for opened in (
            lambda whose=whose: sealer.unseal(whose, data),
            lambda whose=whose: sealer.unseal_text(whose, data.decode("utf-8", "surrogateescape")),
        ):
            try:
                opened()
                outcomes.append("open")
            except (StoreError, ErasedError):
                outcomes.append("shut")
    if is_sealed(data):
        assert outcomes[2] == "shut"
    return " ".join(outcomes)


def manifest(data: bytes) -> str:
    """A backup's manifest."""
    try:
        found = parse_manifest(data, Path("b/manifest.json"))
    except StoreError as error:
        return str(error)[16:60]
    assert parse_manifest(found.to_json(), Path("again")) == found
    return "read"


def backup_row(data: bytes) -> str:
    """A line of a backup's table."""
    try:
        decode_row(data, COLUMNS)
    except ValueError as error:
        return str(error)[:20]
    return "read"


def backup_file(data: bytes) -> str:
    """A compressed table of a backup."""
    from oncotwin.adapters.sql_store.backup import TableFile

    path = _scratch(data)
    try:
        n = sum(len(rows) for rows in row_chunks(path, TableFile("t", COLUMNS, 0, 0, "")))
    except StoreError as error:
        return str(error).replace(path.name, "")[:45]
    return f"read {min(n, 3)}"


_SCRATCH = tempfile.TemporaryDirectory(prefix="fuzz")


def _scratch(data: bytes) -> Path:
    path = Path(_SCRATCH.name) / f"{os.getpid()}"
    path.write_bytes(data)
    return path


def checkpoints(data: bytes) -> str:
    """A file of another institution's checkpoints."""
    try:
        found = read_checkpoints(data.splitlines(), "theirs")
    except AuditError as error:
        return str(error).partition(": ")[2][:40]
    bodies = [StoredCheckpoint("theirs", signed.checkpoint.to_json(), signed.signature) for signed, _, _ in found]
    good, flaws = check_checkpoints(bodies, {}, lambda key, message, signature: False)
    assert not good and len(flaws) == len(found)
    return f"read {min(len(found), 3)}"


def proof(data: bytes) -> str:
    """Proofs against a Merkle tree, and rows of a chain with anything in them."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return "no JSON"
    if not isinstance(content, dict):
        return "no object"
    path = [one for one in map(_as_bytes, _list(content, "path")) if isinstance(one, bytes)]
    index, size, leaf, root = (_as_bytes(content.get(name)) for name in ("index", "size", "leaf", "root"))
    outcome = "no numbers"
    if type(index) is int and type(size) is int and isinstance(leaf, bytes) and isinstance(root, bytes):
        inside = verify_inclusion(leaf, index, size, path, root)
        grown = verify_consistency(index, leaf, size, root, path)
        outcome = f"{inside} {grown}"
    rows = [tuple(_as_bytes(one) for one in row) for row in _list(content, "rows") if isinstance(row, list)]
    verdict = verify_chain("H1", [row for row in rows if len(row) == 8], ())
    return f"{outcome} {verdict.n_entries > 0} {verdict.flaws[0].problem if verdict.flaws else 'whole'}"


def _list(content: dict[str, object], name: str) -> list[object]:
    found = content.get(name)
    return found if isinstance(found, list) else []


def _is_hex(text: str) -> bool:
    try:
        bytes.fromhex(text)
    except ValueError:
        return False
    return True


def _as_bytes(value: object) -> object:
    return bytes.fromhex(value[1:]) if isinstance(value, str) and value[:1] == "#" and _is_hex(value[1:]) else value


def bundle(data: bytes) -> str:
    """A registered model version."""
    try:
        found = ModelBundle.from_json(data)
    except ModelError as error:
        return str(error)[:40]
    try:
        assert ModelBundle.from_json(found.to_json()).to_json() == found.to_json()
    except ModelError:
        # JSON knows numbers that are not finite to Python; they are not written again.
        return "read, not finite"
    return "read"


def journal(data: bytes) -> str:
    """A journal row's payload, of an event and of one that was moved."""
    outcomes = []
    for kind in ("lesion.measured", "record.moved"):
        row = JournalEntry("urn:a", "1", "H1/p1", kind, NOW, "instant", None, NOW, "final", "h", data)
        try:
            decode(row)
            outcomes.append("read")
        except StoreError:
            outcomes.append("refused")
    return " ".join(outcomes)


def table(data: bytes) -> str:
    """A trial's table, in each layout."""
    outcomes = []
    for kind in KINDS:
        n_problems = 0

        def count(problem: object) -> None:
            nonlocal n_problems
            n_problems += 1

        try:
            n = len(list(convert(kind, _scratch(data), count)))
            outcomes.append(f"{min(n, 2)} of {min(n_problems, 2)}")
        except TableError:
            outcomes.append("refused")
    return " / ".join(outcomes)


TARGETS: dict[str, Callable[[bytes], str]] = {
    "structured": structured, "binary": binary, "strict_json": strict_json, "dead_letters": dead_letters,
    "state": state, "filter_state": filter_state, "sealed": sealed, "manifest": manifest, "backup_row": backup_row,
    "backup_file": backup_file, "checkpoints": checkpoints, "proof": proof, "bundle": bundle, "journal": journal,
    "table": table,
}
